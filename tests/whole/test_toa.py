"""--normalize toa from files to masks: the same ground under another sun is the same input."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

import main
from data_loader import PatchDataset, training_normalization
from fcd.cli import commands
from fcd.errors import SceneError, UserError
from fcd.landsat.bands import BANDS
from fcd.landsat.radiometry import kept
from fcd.landsat.scenes import find_scenes
from fcd.masks.prediction import predict_array
from fcd.patches.cutting import Cutting, cut_scene
from fcd.patches.normalisation import TOA, Normalization
from fcd.patches.sources import RasterPatches
from fcd.training import checkpoints
from solver import load_solver
from tests import tiny
from tests.conftest import write_scene, write_tif
from tests.landsat.test_qa import write_mtl

NAMES = ("B2", "B5", "B10")
DATA = ["--dataset", "Patches", "--image_dir", "p", "--num_workers", "0", "--device", "cpu"]
GAN = [*tiny.GAN, "--num_iters", "4", "--num_iters_decay", "2", "--n_critic", "2",
       "--sample_step", "4", "--model_save_step", "4", "--batch_size", "4",
       "--augment", "none"]  # fmt: skip


def ground(side, seed, bands=3):
    """Reflectance of all bands but the last, which is DN of B10 or B11: (bands, side, side)."""
    rng = np.random.default_rng(seed)
    reflectance = rng.uniform(0.02, 0.8, (bands - 1, side, side))
    return np.concatenate([reflectance, rng.uniform(20_000, 30_000, (1, side, side))])


def seen(ground, sun, thermal=1):
    """The DN of Landsat 8 for `ground` under a sun of so many degrees, uint16; a corner is fill."""
    dn = np.rint((ground * math.sin(math.radians(sun)) + 0.1) / 2e-5)
    dn[-thermal:] = np.rint(ground[-thermal:])
    dn[:, :3, :3] = 0
    return dn.astype(np.uint16)


def write_stack(path, dn, **tags):
    write_tif(path, dn, nodata=0)
    with rasterio.open(path, "r+") as dataset:
        dataset.descriptions = NAMES
        dataset.update_tags(**tags)


def rescaling(sun):
    fields = [f"SUN_ELEVATION = {sun}"]
    for band in BANDS:
        thermal = band in ("B10", "B11")
        name, mult, add = ("RADIANCE", 3.342e-4, 0.1) if thermal else ("REFLECTANCE", 2e-5, -0.1)
        fields += [f"{name}_MULT_BAND_{band[1:]} = {mult}", f"{name}_ADD_BAND_{band[1:]} = {add}"]
    return fields


def cut(columns, rows):
    """Training patches of 32 pixels in `p` of the images that the rows of a csv label."""
    with open("labels.csv", "w", newline="") as stream:
        csv.writer(stream).writerows([columns, *rows])
    commands.cut(["--csv", "labels.csv", "--output_dir", "p", "--patch_size", "32",
                  "--val_share", "0"])  # fmt: skip


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    """Images under two suns, by the csv and by their tags, cut and trained on for four steps."""
    root = tmp_path_factory.mktemp("toa")
    patch = pytest.MonkeyPatch()
    patch.chdir(root)
    rows = []
    for number in range(8):
        sun = (15.0, 62.5)[number // 2 % 2]
        tags = {"SUN_ELEVATION": sun} if number < 2 else {}
        write_stack(root / f"i{number}.tif", seen(ground(32, number // 4), sun), **tags)
        rows.append((f"i{number}.tif", ["clear", "cloudy"][number % 2], "" if tags else sun))
    cut(("path", "label", "sun_elevation"), rows)
    train = ["main.py", "--mode", "train", *DATA, *GAN, "--normalize", "toa"]
    patch.setattr("sys.argv", train)
    assert main.main() == 0
    yield root
    patch.undo()


def test_patches_carry_the_sun_of_their_image(walk):
    tags = {}
    for path in (walk / "p").rglob("*.tif"):
        with rasterio.open(path) as dataset:
            tags[path.name[:2]] = float(dataset.tags()["SUN_ELEVATION"])
    assert tags == {f"i{n}": (15.0, 62.5)[n // 2 % 2] for n in range(8)}


def test_the_same_ground_under_two_suns_is_the_same_input(walk):
    dataset = PatchDataset(RasterPatches(Path("p")), "train", toa=True)
    images = {dataset[n]["name"][:2]: dataset[n]["image"] for n in range(8)}
    low, high = images["i0"].int(), images["i2"].int()
    assert images["i0"].dtype == torch.uint16
    assert (low - high).abs().max() <= 3  # of 65536: DN under a sun of 15 degrees are rounded
    expected = (ground(32, 0)[:2] + 0.1) / 2e-5
    assert np.abs(high[:2].numpy() - expected)[:, 3:].max() <= 1.1
    assert (high[:, :3, :3] == 0).all()
    assert (high[2].numpy() == seen(ground(32, 0), 62.5)[2]).all()  # thermal bands have no sun
    normalization = training_normalization("toa", dataset)
    assert normalization.kind == TOA
    x = normalization.normalize(torch.stack([images["i0"], images["i2"]]))
    assert (x[0] - x[1]).abs().max() < 2e-4
    assert ((x == -1) == torch.stack([low, high]).eq(0)).all()
    valid = np.concatenate([image.numpy()[1].ravel() for image in images.values()])
    percentiles = np.percentile(valid[valid > 0], (0.1, 99.9))
    assert (normalization.low[1], normalization.high[1]) == pytest.approx(percentiles, abs=30)
    assert (
        training_normalization("stretch", PatchDataset(dataset.source, "train")).kind == "stretch"
    )


def test_the_checkpoint_says_so_and_masks_are_the_same_under_two_suns(walk):
    state = checkpoints.load(walk / "outputs/FCD/models/best.pt")
    normalization = Normalization.from_state(state["normalization"])
    assert (normalization.kind, normalization.bands) == ("toa", NAMES)
    predictor = load_solver(walk / "outputs/FCD/models/best.pt", "cpu").predictor(0.1)
    scores = [
        predict_array(seen(ground(40, 7), sun), predictor, sun_elevation=sun)[1]
        for sun in (20.0, 70.0)
    ]
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-3)
    assert np.isnan(scores[0][:3, :3]).all()
    with pytest.raises(SceneError, match="the array: nothing says how high the sun stood"):
        predict_array(seen(ground(40, 7), 20.0), predictor)


def test_scenes_take_the_sun_of_their_file_before_that_of_the_flag(walk, call):
    dn = seen(ground(40, 3), 25.0)
    write_stack(walk / "tagged.tif", dn, SUN_ELEVATION="25.0")
    write_stack(walk / "untold.tif", dn)
    place, ten = walk / "scene" / "S", np.zeros((10, 40, 40), np.uint16)
    ten[[1, 4, 8]] = dn
    write_scene(place, "S", ten, np.full((40, 40), 128))
    write_mtl(place / "S_MTL.txt", *rescaling(25.0))
    predict = ["--mode", "predict", *DATA[4:], "--threshold", "0.1", "--write_score", "float32"]
    paths = ["tagged.tif", "untold.tif", place]
    code, err, _ = call(main, *predict, "--output_dir", "without", "--scenes", *paths)
    assert code == 1
    assert err.count("error:") == 1
    assert "scene untold in" in err
    assert "give --sun_elevation DEGREES" in err
    flags = ["--output_dir", "with", "--sun_elevation"]
    assert call(main, *predict, *flags, "25", "--scenes", *paths)[0] == 0
    assert call(main, *predict, "--output_dir", "other", "--sun_elevation", "50",
                "--scenes", *paths)[0] == 0  # fmt: skip
    scores = {}
    for path in walk.glob("*/*_score.tif"):
        with rasterio.open(path) as dataset:
            name = path.name.removesuffix("_score.tif")
            scores[path.parent.name, name] = dataset.read(1)
            if name == "untold":
                assert float(dataset.tags()["FCD_SUN_ELEVATION"]) in (25, 50)
    expected = scores["without", "tagged"]
    for of, score in scores.items():
        same = np.array_equal(score, expected, equal_nan=True)
        assert same == (of != ("other", "untold")), of


def test_what_does_not_go_with_reflectance_is_refused(walk, call):
    code, err, _ = call(main, "--mode", "export", *DATA, "--threshold", "0.1")
    assert code == 2
    assert "takes the sun's elevation, and an ONNX file of DN knows none" in err
    write_stack(walk / "n.tif", seen(ground(32, 3), 25.0), SUN_ELEVATION="25.0")
    predict = ["--mode", "predict", *DATA[4:], "--threshold", "0.1", "--output_dir", "n"]
    with rasterio.open(walk / "n.tif") as dataset:
        first = dataset.read(1)
    given = str(first[4, 4])
    assert call(main, *predict, "--scenes", "n.tif", "--nodata", given)[0] == 0
    with rasterio.open(walk / "n/n_mask.tif") as dataset:
        assert (dataset.read(1) == 0)[first == first[4, 4]].all()
    write_stack(walk / "q/train/clear/a.tif", np.ones((3, 32, 32), np.uint16))
    write_stack(walk / "q/train/cloudy/b.tif", np.ones((3, 32, 32), np.uint16))
    with pytest.raises(SceneError, match=r"a\.tif: nothing says .* give --sun_elevation DEGREES"):
        PatchDataset(RasterPatches(walk / "q"), "train", toa=True)
    given = RasterPatches(walk / "q", sun_elevation=30.0)
    image = PatchDataset(given, "train", bands=("B10", "B2"), toa=True)[0]["image"]
    assert image[:, 0, 0].tolist() == [1, 1]  # reflectance below -0.1 is the darkest there is
    one = PatchDataset(RasterPatches(walk / "q", (1,), 30.0), "train", toa=True)
    assert not one[0]["image"].any()  # what is nodata becomes fill


def test_weights_of_reflectance_are_not_gone_on_with_on_dn():
    dn = Normalization.paper(3, bands=NAMES)
    toa = Normalization(TOA, dn.low, dn.high, bands=NAMES)
    assert toa.for_training(toa, "w.pt", None) == toa
    with pytest.raises(UserError, match=r"w.pt was trained on reflectance, .* --normalize toa$"):
        toa.for_training(dn, "w.pt", None)
    with pytest.raises(UserError, match=r"w.pt was trained on DN, .* leave --normalize toa out$"):
        dn.for_training(toa, "w.pt", None)


def test_prepared_patches_keep_gains_and_sun_of_their_scene(tmp_path):
    truth, out = np.full((16, 32), 128), tmp_path / "p"
    truth[:, 16:] = 255
    scene_ground = np.concatenate([ground(32, 5, 9), ground(32, 6, 2)[-1:]])[:, :16]
    for name, sun in (("S1", 22.0), ("S2", 58.0)):
        folder = tmp_path / "scenes/Water" / name
        write_scene(folder, name, seen(scene_ground, sun, thermal=2), truth)
        write_mtl(folder / f"{name}_MTL.txt", *rescaling(sun))
    for scene in find_scenes(tmp_path / "scenes"):
        record = cut_scene(scene, out, "train", Cutting(16, 16, bands="B10,B5,B2"))
        assert record["radiometry"] == kept(scene.metadata(), ("B10", "B5", "B2"))
    dataset = PatchDataset(out, "train", bands=("B5", "B10"), toa=True)
    images = {
        sample["name"]: sample["image"].int().numpy()
        for sample in map(dataset.__getitem__, range(4))
    }
    for column in (0, 16):
        first, second = (images[f"S{n}_00000_{column:05d}"] for n in (1, 2))
        assert np.abs(first - second).max() <= 3
        expected = (scene_ground[4, :, column : column + 16] + 0.1) / 2e-5
        assert np.abs(second[0] - expected)[3:].max() <= 1.1
    path = out / "scenes/Water_S2.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"radiometry": {}}))
    with pytest.raises(
        UserError, match="has no gains and sun of scene S2, which --normalize toa and"
    ):
        PatchDataset(out, "train", toa=True)
    path.write_text(json.dumps(record | {"radiometry": {"SUN_ELEVATION": 3}}))
    with pytest.raises(UserError, match=r"is damaged \(radiometry\)"):
        PatchDataset(out, "train", toa=True)
    path.unlink()
    with pytest.raises(UserError, match=r"S2_00000_00000: its scene has no record in"):
        PatchDataset(out, "train", toa=True)
