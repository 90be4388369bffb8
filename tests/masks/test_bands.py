"""Networks take their bands by name, from scenes, stacks and arrays, and tell what is missing."""

import csv
import re

import numpy as np
import pytest
import rasterio
import torch

import main
import supervised_main
from fcd.cli import modes
from fcd.errors import SceneError, UserError
from fcd.landsat.bands import BANDS
from fcd.landsat.products import scene_from
from fcd.masks import thresholds
from fcd.masks.prediction import predict_array, predict_scenes
from fcd.patches.normalisation import Normalization
from fcd.training import checkpoints
from fcd.training.run import RunFolder
from solver import FCDSolver, GANSize, Run, SupervisedSolver, Task, load_solver
from tests.conftest import write_tif
from tests.landsat.test_products import TWO, write
from tests.tiny import CPU

SUBSET = ("B10", "B2", "B5")  # in an order of its own
OLI = BANDS[:8]


def gan(bands, name="FCD"):
    normalization = Normalization.paper(len(bands), bands=bands)
    return FCDSolver(Run(RunFolder(name), CPU), GANSize(4, 1, 4, 3), 32, normalization)


def stack(path, dn, descriptions):
    write_tif(path, dn)
    with rasterio.open(path, "r+") as dataset:
        dataset.descriptions = descriptions
    return str(path)


def masked(folder):
    """Name of the scene -> pixels of its mask, its tags, its line in the summary."""
    with open(folder / "summary.csv", newline="") as stream:
        rows = {row["scene"]: row for row in csv.DictReader(stream)}
    found = {}
    for path in folder.glob("*_mask.tif"):
        with rasterio.open(path) as dataset:
            name = path.name.removesuffix("_mask.tif")
            found[name] = (dataset.read(1), dataset.tags(), rows[name])
    return found, rows


def test_the_mask_is_the_same_whatever_else_there_is_and_in_which_order(tmp_path, capsys):
    dn = write(tmp_path / "s", TWO)
    predictor = gan(SUBSET).predictor(0.15)
    expected, score = predict_array(dn[[8, 1, 4]], predictor)
    assert set(np.unique(expected)) == {0, 128, 255}
    mine = [dn[[BANDS.index(band) for band in names]] for names in (SUBSET, BANDS, BANDS[::-1])]
    for array, bands in zip(mine, (SUBSET, BANDS, BANDS[::-1]), strict=True):
        mask, again = predict_array(array, predictor, bands)
        np.testing.assert_array_equal(mask, expected)
        np.testing.assert_array_equal(again, score)
    paths = [
        str(tmp_path / "s"),
        stack(tmp_path / "upside_down.tif", dn[::-1], BANDS[::-1]),
        stack(tmp_path / "prefix.tif", dn[[4, 8, 0, 1]], ["x_b5", "x_B10", "x_B1", f"{TWO}_B2"]),
    ]
    assert predict_scenes(paths, predictor, tmp_path / "out") == 0
    found, _ = masked(tmp_path / "out")
    assert set(found) == {TWO, "upside_down", "prefix"}
    for mask, tags, _ in found.values():
        np.testing.assert_array_equal(mask, expected)
        assert tags["FCD_BANDS"] == "B10,B2,B5"
    numbers = stack(tmp_path / "numbers.tif", dn, [None] * 10)
    assert scene_from(numbers, SUBSET).files["B5"].number == 5
    warned = f"warning: {numbers}: its bands without names are taken for B1, B2, B3"
    assert warned in capsys.readouterr().err
    assert scene_from(numbers, SUBSET, "9,2,5").files["B5"].number == 5
    assert not capsys.readouterr().err
    assert predict_scenes([numbers], predictor, tmp_path / "n", bands="9,2,5") == 0
    np.testing.assert_array_equal(masked(tmp_path / "n")[0]["numbers"][0], expected)


@pytest.mark.parametrize(
    ("descriptions", "message"),
    [
        (("B2", "B5", "B11"), r"x\.tif has no band B10, it has B2, B5, B11; --bands says"),
        (("SR_B10", "SR_B2", "SR_B5"), "has no band B10, B2, B5, it has SR_B10, SR_B2, SR_B5"),
        (("B10", "B2", "B5", "B8A"), r"x\.tif is of Sentinel-2 by its band B8A"),
        ((None,) * 4, "has 4 bands without names, the network takes 3 bands .B10, B2, B5.; give"),
        (
            (None,) * 3,
            "has 3 bands without names, .* numbers of these, in this order, by --bands",
        ),
    ],
)
def test_a_stack_without_a_band(tmp_path, descriptions, message):
    path = stack(tmp_path / "x.tif", np.ones((len(descriptions), 8, 8), np.uint16), descriptions)
    with pytest.raises(SceneError, match=message):
        scene_from(path, SUBSET)
    assert scene_from(path, SUBSET, "3,1-2").files["B10"].number == 3  # --bands overrules names


@pytest.mark.parametrize(("level", "fill"), [(2000, 0), (3999, 0), (2000, 9999)])
def test_a_stack_of_reflectance_is_told_from_dn(tmp_path, capsys, level, fill):
    """By B9, which is dark in most scenes: 5,000 DN of Level-1, next to nothing as reflectance."""
    pixels = np.full((3, 8, 8), 9000, np.uint16)
    pixels[1] = level
    pixels[1, 0] = fill
    path = stack(tmp_path / "x.tif", pixels, ("B2", "B9", "B7"))
    with pytest.raises(SceneError, match=rf"half of B9 is below {level}, .* are above 4000; if it"):
        scene_from(path, ("B2", "B7", "B9"))
    assert scene_from(path, ("B2", "B7")).bands == ("B2", "B7")
    assert scene_from(path, ("B2", "B7", "B9"), "1,3,2").bands == ("B2", "B7", "B9")
    warned = capsys.readouterr().err
    assert warned.startswith(f"warning: {path}: half of B9 is below {level}, digital numbers")
    assert "convert it: DN = (reflectance from 0 to 1 x sine" in warned
    pixels[1, 1:] = 5010  # fill is not half of what is there
    pixels[1, :5] = 0
    named = stack(tmp_path / "y.tif", pixels, ("B2", "B9", "B7"))
    assert scene_from(named, ("B2", "B7", "B9")).bands == ("B2", "B7", "B9")


def test_other_ways_to_miss_a_band(tmp_path):
    write(tmp_path / "s", TWO)
    (tmp_path / "s" / f"{TWO}_B5.TIF").unlink()
    with pytest.raises(SceneError, match="missing band B5"):
        scene_from(str(tmp_path / "s"), SUBSET).check()
    assert scene_from(str(tmp_path / "s"), ("B10", "B2")).check().height == 40
    predictor = gan(SUBSET).predictor(0.5)
    with pytest.raises(UserError, match=r"the array has no band B5, it has B10, B2, B3"):
        predict_array(np.ones((3, 8, 8), np.uint16), predictor, ("B10", "B2", "B3"))
    with pytest.raises(UserError, match=r"shape \(3, 8, 8\), there are names for \(2, H, W\)"):
        predict_array(np.ones((3, 8, 8), np.uint16), predictor, ("B10", "B2"))


def test_files_are_found_by_the_names_of_other_bands(tmp_path):
    pixels = np.arange(128, dtype=np.uint8).reshape(2, 1, 8, 8)
    for name, band in zip(("red", "nir"), pixels, strict=True):
        write_tif(tmp_path / "s" / f"view_{name}.tif", band)
    scene = scene_from(str(tmp_path / "s"), ("nir", "red"))
    assert scene.name == "view"
    with scene.open() as reader:
        assert (reader.bands() == pixels[[1, 0], 0]).all()
    with pytest.raises(SceneError, match=r"0 files of .*s end in _swir .none., one should"):
        scene_from(str(tmp_path / "s"), ("nir", "swir"))


@pytest.mark.parametrize("told_by", ["metadata", "name"])
def test_a_scene_of_oli_alone_is_masked_by_a_network_without_thermal_bands(tmp_path, told_by):
    name = TWO.replace("LC08", "LO09")
    dn = write(tmp_path / "s", name, craft="LANDSAT_9", sensor="OLI")
    for part in ("B10.TIF", "B11.TIF") + ("MTL.txt",) * (told_by == "name"):
        (tmp_path / "s" / f"{name}_{part}").unlink()
    with pytest.raises(SceneError, match=r"taken by OLI alone and has no band B10, B11, which"):
        scene_from(str(tmp_path / "s"))
    predictor = gan(OLI).predictor(0.15)
    assert predict_scenes([str(tmp_path / "s")], predictor, tmp_path / "out") == 0
    mask, _, _ = masked(tmp_path / "out")[0][name]
    np.testing.assert_array_equal(mask, predict_array(dn[:8], predictor)[0])


def fill(folder, name, columns):
    """Make the thermal bands of a scene fill in the first so many columns."""
    for band in ("B10", "B11"):
        with rasterio.open(folder / f"{name}_{band}.TIF", "r+") as dataset:
            dn = dataset.read()
            dn[..., :columns] = 0
            dataset.write(dn)


def test_each_scene_takes_the_weights_it_can(tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    names = [TWO.replace("_02_T1", f"_02_{end}") for end in ("T1", "T2", "RT")]
    dn = {name: write(tmp_path / name, name, seed=n) for n, name in enumerate(names)}
    whole, zero, half = names
    fill(tmp_path / zero, zero, None)
    fill(tmp_path / half, half, 15)
    saved = {}
    for name, bands in (("thermal", BANDS), ("oli", OLI)):
        solver = saved[name] = gan(bands)
        checkpoints.save(tmp_path / f"w/{name}.pt", solver.state())
    flags = ["--mode", "predict", "--device", "cpu", "--threshold", "0.15", "--scenes", *names]
    assert call(main, *flags, "--model_weights", "w", "--output_dir", "out")[0] == 0
    found, _ = masked(tmp_path / "out")
    taken = {name: row["weights"] for name, (*_, row) in found.items()}
    assert taken == {whole: "thermal.pt", zero: "oli.pt", half: "thermal.pt"}
    for name, kind in ((whole, "thermal"), (zero, "oli")):
        solver = saved[kind]
        expected, _ = predict_array(dn[name], solver.predictor(0.15), BANDS)
        mask, tags, _ = found[name]
        np.testing.assert_array_equal(mask, expected)
        assert tags["FCD_WEIGHTS"] == solver.fingerprint()
        assert tags["FCD_BANDS"] == ",".join(solver.normalization.bands)
    assert (found[half][0][:, :15] == 0).all()
    assert (
        "0 scenes masked, 3 were there already"
        in call(main, *flags, "--model_weights", "w", "--output_dir", "out")[2]
    )
    # The thermal weights alone: the scene is told, and no mask is written.
    code, err, _ = call(main, *flags, "--model_weights", "w/thermal.pt", "--output_dir", "one")
    assert code == 1
    assert re.search(f"scene {zero} in .*: band B10, B11 is fill in every pixel", err)
    found, rows = masked(tmp_path / "one")
    assert set(found) == {whole, half}
    assert rows[zero]["status"] == "failed"
    assert "band B10, B11 is fill" in rows[zero]["reason"]
    assert "--model_weights takes a folder of several" in rows[zero]["reason"]


def test_folders_of_weights(tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / TWO, TWO)
    (tmp_path / "weights").mkdir()
    monkeypatch.setattr(modes, "STARTER", tmp_path / "weights")
    flags = ["--mode", "predict", "--device", "cpu", "--scenes", TWO, "--threshold", "0.5"]
    for asked in ("starter", "weights"):
        code, err, _ = call(main, *flags, "--model_weights", asked)
        assert code == 2
        assert f"--model_weights {asked}: " in err
        assert "weights holds no checkpoint (*.pt)" in err
    for name, bands in (("a", BANDS), ("b", OLI)):
        checkpoints.save(tmp_path / f"weights/{name}.pt", gan(bands).state())
    assert call(main, *flags, "--model_weights", "starter", "--output_dir", "out")[0] == 0
    assert masked(tmp_path / "out")[0][TWO][2]["weights"] == "a.pt"
    code, err, _ = call(main, "--mode", "export", "--model_weights", "starter", "--device", "cpu")
    assert code == 2
    assert "--model_weights starter holds 2 checkpoints; --mode export takes one of them" in err


def unet(bands, name="FCD+"):
    normalization = Normalization.paper(len(bands), bands=bands)
    return SupervisedSolver(Run(RunFolder(name), CPU), Task(encoder="slim18"), 32, normalization)


def test_fine_tuning_begins_with_the_weights_of_the_bands_of_the_patches(
    tmp_path, monkeypatch, image_dir, call
):
    monkeypatch.chdir(tmp_path)
    for name, bands in (("a", BANDS), ("b", OLI)):
        checkpoints.save(tmp_path / f"w/{name}.pt", unet(bands).state())

    def begin(self, path, **how):
        raise UserError(f"begun with {path.name}")

    start = SupervisedSolver.start_from
    monkeypatch.setattr(SupervisedSolver, "start_from", begin)
    flags = ["--mode", "train", "--image_dir", image_dir, "--num_workers", "0", "--device", "cpu"]
    flags += ["--encoder", "slim18", "--n_epochs", "1", "--overwrite"]
    assert "begun with a.pt" in call(supervised_main, *flags, "--model_weights", "w")[1]
    (tmp_path / "w/a.pt").unlink()
    checkpoints.save(tmp_path / "w/c.pt", unet(SUBSET).state())
    code, err, _ = call(supervised_main, *flags, "--model_weights", "w")
    assert code == 2
    assert "w holds weights of the bands B1,B2,B3,B4,B5,B6,B7,B9 and B10,B2,B5, the" in err
    # As many bands, but others.
    others = unet(BANDS[::-1])
    checkpoints.save(tmp_path / "others.pt", others.state())
    with pytest.raises(UserError, match=r"others\.pt was trained on 10 bands .B11, .*the training"):
        start(unet(BANDS), tmp_path / "others.pt", encoder_only=False)


def test_checkpoints_of_before_and_in_half_precision(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    solver = unet(BANDS)
    state = solver.state()
    before = state | {
        "normalization": {k: v for k, v in state["normalization"].items() if k != "bands"}
    }
    checkpoints.save(tmp_path / "before.pt", before)
    loaded = load_solver(tmp_path / "before.pt", "cpu")
    assert loaded.normalization.bands == BANDS
    assert loaded.fingerprint() == solver.fingerprint()
    assert loaded.predictor().threshold == 0.5

    def half(tensor):
        return tensor.half() if tensor.is_floating_point() else tensor

    weights = {name: half(tensor) for name, tensor in state["network"].items()}
    told = {"threshold": 0.3, "chosen_by": "validation scenes", "pixel_labels": 0}
    checkpoints.save(tmp_path / "half.pt", state | {"network": weights, "threshold": told})
    loaded = load_solver(tmp_path / "half.pt", "cpu")
    assert {p.dtype for p in loaded.network.parameters()} == {torch.float32}
    assert all(
        torch.equal(value, weights[name].to(value.dtype))
        for name, value in loaded.network.state_dict().items()
    )
    assert loaded.predictor().threshold == 0.3
    assert loaded.predictor(0.7).threshold == 0.7
    # A threshold that a run has chosen for these weights comes first; one that is none is told.
    chosen = thresholds.choose(loaded.scorer(), 0.4, {"amp": False}, lambda: None)
    assert thresholds.known(loaded.scorer()) == chosen
    (tmp_path / "outputs/half/results/threshold.json").unlink()
    checkpoints.save(tmp_path / "half.pt", state | {"threshold": told | {"threshold": 3}})
    with pytest.raises(UserError, match=r"half\.pt holds no threshold"):
        load_solver(tmp_path / "half.pt", "cpu").predictor()
