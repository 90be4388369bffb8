"""The band SUN from files to masks: what a network knows of the height of the sun, and what not."""

import csv
import io
import math
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

import main
import supervised_main
from data_loader import PatchDataset
from fcd.cli import modes
from fcd.errors import SceneError, UserError
from fcd.landsat.bands import SUN
from fcd.landsat.radiometry import UNKNOWN_SUN, with_sun
from fcd.landsat.sun import by_orbit
from fcd.masks.prediction import predict_array, predict_scenes
from fcd.masks.scoring import Tiles
from fcd.patches import generated
from fcd.patches.normalisation import VALID_MIN, Normalization
from fcd.patches.sources import RasterPatches
from fcd.training import checkpoints
from solver import SupervisedSolver, load_solver
from tests import tiny
from tests.conftest import write_scene, write_tif
from tests.landsat.test_qa import write_mtl
from tests.whole.test_toa import NAMES, cut, ground, rescaling, seen, write_stack

BANDS = (*NAMES, SUN)
DATA = ["--dataset", "Patches", "--image_dir", "p", "--num_workers", "0", "--device", "cpu"]
TRAIN = ["--mode", "train", *DATA, "--batch_size", "4", "--train_bands", "B2,B5,B10,SUN"]


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    """Images under two suns, cut and trained on by a U-Net that knows them."""
    root = tmp_path_factory.mktemp("sun")
    patch = pytest.MonkeyPatch()
    patch.chdir(root)
    rows = []
    for number in range(8):
        sun = (15.0, 62.5)[number // 2 % 2]
        write_stack(root / f"i{number}.tif", seen(ground(64, number // 4), sun))
        mask = np.full((1, 64, 64), (128, 255)[number % 2], np.uint8)
        write_tif(root / f"i{number}_m.tif", mask, nodata=0)
        rows.append((f"i{number}.tif", f"i{number}_m.tif", ["clear", "cloudy"][number % 2], sun))
    cut(("path", "mask", "label", "sun_elevation"), rows)
    train = ["supervised_main.py", *TRAIN, *tiny.UNET, "--normalize", "root", "--augment",
             "randomise"]  # fmt: skip
    patch.setattr("sys.argv", train)
    assert supervised_main.main() == 0
    yield root
    patch.undo()


@pytest.fixture(scope="module")
def checkpoint(walk):
    return walk / "outputs/FCDPlus/models/best.pt"


@pytest.mark.parametrize(("sun", "value"), [(30.0, 30_000), (90.0, 60_000), (None, 1), (5e-4, 1)])
def test_the_band_is_the_sine_in_steps_of_60000(sun, value):
    dn = np.arange(24, dtype=np.uint16).reshape(2, 3, 2, 2)
    found = with_sun(dn, sun)
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found[:, :3], dn)
    assert (found[:, 3] == value).all()


def test_patches_have_it_behind_their_bands_and_unscaled(walk):
    dataset = PatchDataset(RasterPatches(Path("p")), "train", bands=("B10", "B2", SUN))
    plain = PatchDataset(dataset.source, "train", bands=("B10", "B2"))
    assert dataset.kind.bands == ("B10", "B2", SUN)
    for sample, other in zip(dataset, plain, strict=True):
        sun = (15.0, 62.5)[int(sample["name"][1]) // 2 % 2]
        assert torch.equal(sample["image"][:2], other["image"])
        expected = round(60_000 * math.sin(math.radians(sun)))
        assert (sample["image"][2].int() == expected).all()


def test_the_checkpoint_maps_it_from_the_horizon_to_the_zenith(checkpoint):
    normalization = Normalization.from_state(checkpoints.load(checkpoint)["normalization"])
    assert normalization.bands == BANDS
    assert (normalization.low[3], normalization.high[3]) == (0, 60_000)
    dn = torch.from_numpy(with_sun(np.full((1, 3, 1, 1), 9000, np.uint16), 30.0))
    assert normalization.normalize(dn)[0, 3].item() == pytest.approx(0)  # no root of it
    dn[0, 3] = UNKNOWN_SUN
    assert normalization.normalize(dn)[0, 3].item() == pytest.approx(VALID_MIN, abs=1e-4)


def test_scenes_take_it_from_their_file_before_the_flag_and_do_without(walk, checkpoint, call):
    dn = seen(ground(70, 3), 25.0)
    write_stack(walk / "tagged.tif", dn, SUN_ELEVATION="25.0")
    write_stack(walk / "untold.tif", dn)
    place, ten = walk / "scene" / "S", np.zeros((10, 70, 70), np.uint16)
    ten[[1, 4, 8]] = dn
    write_scene(place, "S", ten, np.full((70, 70), 128))
    write_mtl(place / "S_MTL.txt", *rescaling(25.0))
    predict = ["--mode", "predict", *DATA[4:], "--model_weights", checkpoint, "--threshold", "0.5",
               "--precision", "float32", "--write_score", "float32"]  # fmt: skip
    paths = ["tagged.tif", "untold.tif", place]
    code, err, _ = call(supervised_main, *predict, "--output_dir", "without", "--scenes", *paths)
    assert code == 0
    assert err.count("says how high the sun stood") == 1
    told = "neither an MTL file nor the tag SUN_ELEVATION nor its name says how high the sun stood"
    assert f"warning: scene untold in .: {told}: masked as under any, which is worse" in err
    assert "give --sun_elevation DEGREES" in err
    rows = {row["scene"]: row for row in csv.DictReader(io.StringIO(
        (walk / "without/summary.csv").read_text()))}  # fmt: skip
    assert rows["untold"]["reason"] == "masked as under any sun: its height is not known"
    assert (rows["tagged"]["reason"], rows["S"]["reason"]) == ("", "")
    flags = ["--output_dir", "with", "--sun_elevation", "25", "--scenes", *paths]
    assert call(supervised_main, *predict, *flags)[0] == 0
    # What is nodata in the bands means nothing in that of the sun.
    nodata = [
        "--output_dir",
        "nodata",
        "--nodata",
        "1",
        str(round(60_000 * math.sin(25 * math.pi / 180))),
    ]
    assert call(supervised_main, *predict, *nodata, "--scenes", *paths)[0] == 0
    for path in walk.glob("nodata/*_mask.tif"):
        with rasterio.open(path) as dataset:
            assert (dataset.read(1) != 0).mean() > 0.99
    scores, told = {}, {}
    for path in walk.glob("with*/*_score.tif"):
        with rasterio.open(path) as dataset:
            name = path.parent.name, path.name.removesuffix("_score.tif")
            scores[name], told[name] = dataset.read(1), dataset.tags()["FCD_SUN"]
    assert told.pop(("without", "untold")) == "unknown"
    assert {*told.values()} == {"25"}
    predictor = load_solver(checkpoint, "cpu").predictor(0.5)
    assert predictor.bands == NAMES
    known, unknown = (predict_array(dn, predictor, sun_elevation=s)[1] for s in (25.0, None))
    for name, score in scores.items():
        expected = unknown if name == ("without", "untold") else known
        np.testing.assert_array_equal(score, expected)
    assert np.nanmax(np.abs(known - unknown)) > 1e-4
    # What was masked as under any sun is masked again, and nothing else, once its file tells.
    write_stack(walk / "untold.tif", dn, SUN_ELEVATION="25.0")
    code, _, out = call(supervised_main, *predict, "--output_dir", "without", "--scenes", *paths)
    assert code == 0
    assert "2 were there already" in out
    with rasterio.open(walk / "without/untold_score.tif") as dataset:
        np.testing.assert_array_equal(dataset.read(1), known)


def test_from_python_the_sun_that_is_told_is_the_one_that_is_scored_with(walk, checkpoint):
    dn, solver = seen(ground(70, 3), 25.0), load_solver(checkpoint, "cpu")
    write_stack(walk / "untold.tif", dn)
    tiles = Tiles.of(solver.scorer(), sun_elevation=25.0)
    predictor = solver.predictor(0.5, tiles)
    assert predict_scenes(["untold.tif"], predictor, "out", write_score="float32") == 0
    _, expected = predict_array(dn, predictor, sun_elevation=25.0)
    with rasterio.open("out/untold_score.tif") as dataset:
        np.testing.assert_array_equal(dataset.read(1), expected)
        assert dataset.tags()["FCD_SUN"] == "25"
    with pytest.raises(TypeError, match="sun_elevation"):
        predict_scenes(["untold.tif"], solver.predictor(0.5), "out", sun_elevation=25.0)


def test_a_list_of_crops_says_it_and_the_id_in_a_name(walk, checkpoint, call):
    """The list before the flag, which comes before what is only calculated."""
    dn, name = seen(ground(70, 3), 25.0), "LC08_016037_20170813_crop"
    (walk / "images").mkdir()
    for path in ("images/a.tif", "images/b.tif", f"{name}.tif"):
        write_stack(walk / path, dn)
    (walk / "patches.csv").write_text("patch,biome,scene,sun_elevation\na,Forest,S,25.0\n")
    predict = ["--mode", "predict", *DATA[4:], "--model_weights", checkpoint, "--threshold", "0.5",
               "--precision", "float32", "--scenes", "images", f"{name}.tif"]  # fmt: skip
    assert call(supervised_main, *predict, "--output_dir", "listed")[0] == 0
    flag = ["--output_dir", "listed-asked", "--sun_elevation", "40"]
    assert call(supervised_main, *predict, *flag)[0] == 0

    def told(folder):
        for scene in ("a", "b", name):
            with rasterio.open(walk / folder / f"{scene}_mask.tif") as dataset:
                yield dataset.tags()["FCD_SUN"]

    assert [*told("listed")] == ["25", "unknown", f"{by_orbit(name)[0]:g}"]
    assert [*told("listed-asked")] == ["25", "40", "40"]


def test_patches_are_scored_as_whole_scenes_are(walk, checkpoint, call):
    """Each under its own sun, though many are of one size."""
    masks = ["--mode", "generate_masks", *DATA, "--model_weights", checkpoint, "--threshold", "0.5"]
    assert call(supervised_main, *masks, "--experiment_name", "G")[0] == 0
    # Clear patches are clear by their labels, which count though the network has learned none.
    cost = generated.mask_provenance("p", "generated_mask.tif")
    assert cost.image_labels == len(PatchDataset(RasterPatches(Path("p")), "train"))
    predictor, source = load_solver(checkpoint, "cpu").predictor(0.5), RasterPatches(Path("p"))
    suns = set()
    for folder in ("clear", "cloudy"):
        for path in source.find("train", folder):
            with rasterio.open(path) as dataset:
                dn, sun = dataset.read(), float(dataset.tags()["SUN_ELEVATION"])
            suns.add(sun)
            _, expected = predict_array(dn, predictor, sun_elevation=sun)
            written = walk / f"outputs/G/results/tifs/{folder}_{path.stem}_difference.tif"
            with rasterio.open(written) as dataset:
                np.testing.assert_allclose(dataset.read(1), expected, atol=1e-6)
    assert suns == {15.0, 62.5}


def test_scenes_that_do_not_say_their_sun_are_told(walk, checkpoint, capsys):
    write_stack(walk / "r/test/clear/a.tif", seen(ground(32, 3), 25.0))
    write_stack(walk / "r/test/cloudy/b.tif", seen(ground(32, 4), 25.0), SUN_ELEVATION="25.0")
    scorer = load_solver(checkpoint, "cpu").scorer()
    scenes = RasterPatches(Path("r")).scenes("test", "", masked=False)
    assert [scene.bands for scene in modes._taken_by(scorer, scenes, None)] == [NAMES] * 2
    told = "1 of 2 do not say how high the sun stood, such as scene a in r/test/clear: masked as"
    assert capsys.readouterr().out.startswith(told)
    modes._taken_by(scorer, scenes, 25.0)
    assert not capsys.readouterr().out


def test_the_mean_with_a_network_that_does_not_know_it(checkpoint):
    knows, other = load_solver(checkpoint, "cpu"), tiny.unet("B52")
    map_of = Normalization.paper(2, bands=("B5", "B2"))
    other = SupervisedSolver(other.run, other.task, 32, map_of)
    dn = seen(ground(40, 7), 33.0)
    alone = [
        predict_array(dn, solver.predictor(0.5), NAMES, sun_elevation=33.0)[1]
        for solver in (knows, other)
    ]
    knows.companions = [other]
    score = predict_array(dn, knows.predictor(0.5), NAMES, sun_elevation=33.0)[1]
    # What the first one clips is clipped for the other, too: nearly nothing.
    difference = np.abs(score - np.mean(alone, axis=0))
    assert np.nanpercentile(difference, 90) < 1e-4
    knows.companions, other.companions = [], [knows]
    with pytest.raises(UserError, match="--model_weights is the network with the most bands"):
        other.scorer()


def test_where_it_does_not_belong_it_is_refused(walk, checkpoint, call):
    code, err, _ = call(main, *TRAIN, *tiny.GAN)
    assert code == 2
    assert "--train_bands B2,B5,B10,SUN: a generator would translate SUN, too; leave it out" in err
    code, err, _ = call(supervised_main, "--mode", "export", *DATA, "--threshold", "0.5")
    assert code == 2
    assert "takes the sun's elevation, and an ONNX file of DN knows none" in err
    write_stack(walk / "q/train/clear/a.tif", np.ones((3, 32, 32), np.uint16))
    write_stack(walk / "q/train/cloudy/b.tif", np.ones((3, 32, 32), np.uint16))
    with pytest.raises(SceneError, match=r"a\.tif: nothing says .* give --sun_elevation DEGREES"):
        PatchDataset(RasterPatches(walk / "q"), "train", bands=BANDS)
    other = Path("u/train")
    for folder in ("clear", "cloudy"):
        write_tif(other / folder / "a.tif", np.ones((1, 32, 32), np.uint8))
    with pytest.raises(UserError, match="the band SUN needs DN of Landsat-8"):
        PatchDataset(RasterPatches(Path("u")), "train", bands=("1", SUN))
