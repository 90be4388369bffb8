"""Predicted masks, read back by GDAL, where the score and with it every pixel is known."""

import csv
import io
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from rasterio.transform import Affine
from rio_cogeo import cog_validate
from scipy.ndimage import binary_erosion

import fcd
import main
import supervised_main
from benchmarks.seam import random_generator, scores, seam
from fcd import pictures
from fcd.cli import entry
from fcd.errors import SceneError, UserError
from fcd.files import replacing, write_text
from fcd.landsat import labels
from fcd.landsat.bands import BANDS, RGB_BANDS
from fcd.landsat.products import expand, scene_from
from fcd.landsat.scenes import find_scenes
from fcd.masks.precision import Asked, Job, in_precision
from fcd.masks.prediction import predict_array, predict_scenes
from fcd.masks.predictor import Predictor
from fcd.masks.scoring import Prediction, Tiles, strips
from fcd.masks.summary import Names
from fcd.patches.normalisation import Normalization
from fcd.processes import Processes
from fcd.training.run import RunFolder
from solver import (
    FCDSolver,
    GANSize,
    Run,
    SupervisedSolver,
    Task,
    load_solver,
)
from tests import tiny
from tests.conftest import REAL, ROOT, write_scene, write_tif
from tests.landsat.test_products import ONE, TWO, pack, write

CPU = torch.device("cpu")
SIZE = (40, 30)


def first_band(scene):
    """Score: B1 / 65535, in strips of 16 rows; cloud above one half."""
    with scene.open() as reader:
        for row in range(0, reader.grid.height, 16):
            dn = reader.bands(row, min(row + 16, reader.grid.height))
            score = (dn[0] / 65535).astype(np.float32)
            mask = labels.patch_from_score(score, (dn != 0).all(axis=0), 0.5)
            yield Prediction(row, dn[list(RGB_BANDS)], mask, score)


TAGS = {"FCD_VERSION": "1", "FCD_WEIGHTS": "abc", "FCD_THRESHOLD": "0.5"}
PREDICTOR = Predictor(BANDS, 0.5, TAGS, first_band)


def expected_mask(dn):
    return np.where((dn == 0).any(axis=0), 0, np.where(dn[0] > 65535 / 2, 255, 128))


def summary(folder):
    with open(folder / "summary.csv", newline="", encoding="utf-8") as stream:
        return {row["scene"] or row["path"]: row for row in csv.DictReader(stream)}


@pytest.fixture(scope="module")
def predicted(tmp_path_factory):
    root = tmp_path_factory.mktemp("predicted")
    dn = write(root / "s", ONE)
    assert predict_scenes([str(root / "s")], PREDICTOR, root / "out", write_score="float32") == 0
    return root, dn


def test_the_mask_is_a_cog_on_the_scenes_grid(predicted):
    root, dn = predicted
    path = root / "out" / f"{ONE}_mask.tif"
    valid, errors, warnings = cog_validate(path, quiet=True)
    assert (valid, errors, warnings) == (True, [], [])
    with rasterio.open(path) as mask, rasterio.open(root / "s" / f"{ONE}_B1.TIF") as band:
        assert (mask.read(1) == expected_mask(dn)).all()
        assert (mask.crs, mask.transform, mask.shape) == (band.crs, band.transform, SIZE)
        assert (mask.nodata, mask.dtypes) == (0, ("uint8",))
        assert PREDICTOR.tags.items() <= mask.tags().items()
        colours = mask.colormap(1)
        assert colours[0][3] == 0
        assert colours[255][:3] == (246, 246, 246)


def test_the_score_beside_it(predicted):
    root, dn = predicted
    path = root / "out" / f"{ONE}_score.tif"
    assert cog_validate(path, quiet=True)[0]
    with rasterio.open(path) as dataset:
        score = dataset.read(1)
    valid = (dn != 0).all(axis=0)
    assert (np.isfinite(score) == valid).all()
    np.testing.assert_array_equal(score[valid], (dn[0] / 65535).astype(np.float32)[valid])


def test_the_score_in_bytes_can_be_undone_by_scale_and_offset(tmp_path):
    dn = write(tmp_path / "s")
    predict_scenes([str(tmp_path / "s")], PREDICTOR, tmp_path / "out", write_score="uint8")
    with rasterio.open(tmp_path / "out" / f"{ONE}_score.tif") as dataset:
        values, (scale,), (offset,) = dataset.read(1), dataset.scales, dataset.offsets
        assert dataset.nodata == 0
    valid = (dn != 0).all(axis=0)
    assert ((values == 0) == ~valid).all()
    np.testing.assert_allclose(
        values[valid] * scale + offset, dn[0][valid] / 65535, atol=0.5 / 254 + 1e-6
    )


def test_the_summary_counts_what_the_mask_shows(predicted):
    root, dn = predicted
    (row,) = summary(root / "out").values()
    mask = expected_mask(dn)
    assert float(row["valid_fraction"]) == pytest.approx((mask > 0).mean(), abs=1e-4)
    assert float(row["cloud_fraction"]) == pytest.approx(
        (mask == 255).sum() / (mask > 0).sum(), abs=1e-4
    )
    assert (row["status"], row["threshold"]) == ("done", "0.5000")


def test_the_quicklook_shows_image_and_mask(predicted):
    root, dn = predicted
    picture = np.asarray(Image.open(root / "out" / f"{ONE}_quicklook.png"))
    assert picture.shape == (40, 60, 3)
    cloud = (picture[:, 30:] == (246, 246, 246)).all(axis=2)
    assert (cloud == (expected_mask(dn) == 255)).all()
    outline = (picture[:, :30] == pictures.OUTLINE_COLOUR).all(axis=2)
    assert (outline == (cloud & ~binary_erosion(cloud, border_value=1))).all()
    assert outline.any()


def test_overviews_hold_codes_alone(tmp_path):
    rng = np.random.default_rng(0)

    def noise(scene):
        mask = rng.integers(0, 3, (1200, 1100)).astype(np.uint8)
        yield Prediction(0, np.ones((3, 1200, 1100), np.uint16), mask, None)

    write_scene(
        tmp_path / "s", ONE, np.ones((10, 1200, 1100), np.uint16), np.full((1200, 1100), 128)
    )
    predict_scenes([str(tmp_path / "s")], replace(PREDICTOR, predict=noise), tmp_path / "out")
    with rasterio.open(tmp_path / "out" / f"{ONE}_mask.tif") as dataset:
        assert dataset.overviews(1) == [2, 4]
    with rasterio.open(tmp_path / "out" / f"{ONE}_mask.tif", overview_level=0) as dataset:
        assert set(np.unique(dataset.read(1))) == {0, 128, 255}


def test_one_bad_scene_is_told_and_the_others_go_on(tmp_path, capsys):
    write(tmp_path / "a", ONE)
    write(tmp_path / "b", TWO)
    (tmp_path / "a" / f"{ONE}_B5.TIF").unlink()
    paths = [str(tmp_path / name) for name in "ab"]
    assert predict_scenes(paths, PREDICTOR, tmp_path / "out") == 1
    assert f"error: scene {ONE}" in capsys.readouterr().err
    rows = summary(tmp_path / "out")
    assert rows[ONE]["status"] == "failed"
    assert rows[ONE]["reason"].startswith(f"scene {ONE}")
    assert rows[TWO]["status"] == "done"
    assert not list((tmp_path / "out").glob(f"*{ONE}*"))
    # Mended and run again: the line is replaced, the other scene is not masked again.
    before = (tmp_path / "out" / f"{TWO}_mask.tif").stat().st_mtime_ns
    write(tmp_path / "a", ONE)
    assert predict_scenes(paths, PREDICTOR, tmp_path / "out") == 0
    assert "1 scenes masked, 1 were there already" in capsys.readouterr().out
    assert {row["status"] for row in summary(tmp_path / "out").values()} == {"done"}
    assert (tmp_path / "out" / f"{TWO}_mask.tif").stat().st_mtime_ns == before


def test_a_band_cut_off_leaves_nothing_half_written(tmp_path):
    write(tmp_path / "a")
    path = tmp_path / "a" / f"{ONE}_B7.TIF"
    path.write_bytes(path.read_bytes()[:-1500])
    assert predict_scenes([str(tmp_path / "a")], PREDICTOR, tmp_path / "out") == 1
    assert {p.name for p in (tmp_path / "out").iterdir()} == {".lock", "summary.csv"}
    assert "B7.TIF is damaged" in summary(tmp_path / "out")[ONE]["reason"]


@pytest.mark.parametrize(
    "change", ["weights", "score", "damage", "cut", "fewer", "overwrite", "summary"]
)
def test_what_is_not_the_same_is_made_again(tmp_path, change):
    write(tmp_path / "a")
    predict_scenes([str(tmp_path / "a")], PREDICTOR, tmp_path / "out")
    mask = tmp_path / "out" / f"{ONE}_mask.tif"
    before, predictor, flags = mask.stat().st_mtime_ns, PREDICTOR, {}
    if change == "weights":
        predictor = replace(PREDICTOR, tags=TAGS | {"FCD_WEIGHTS": "other"})
    elif change == "fewer":  # settings, as without --nodata
        predictor = replace(PREDICTOR, tags={"FCD_VERSION": "1", "FCD_WEIGHTS": "abc"})
    elif change == "cut":  # its tags can be read
        mask.write_bytes(mask.read_bytes()[:-100])
    elif change == "score":
        flags["write_score"] = "uint8"
    elif change == "overwrite":
        flags["overwrite"] = True
    elif change == "summary":
        (tmp_path / "out" / "summary.csv").unlink()
    else:
        mask.write_bytes(mask.read_bytes()[:100])
    predict_scenes([str(tmp_path / "a")], predictor, tmp_path / "out", **flags)
    assert mask.stat().st_mtime_ns > before
    assert len(summary(tmp_path / "out")) == 1


def stack(path, dn):
    write_tif(path, dn)
    with rasterio.open(path, "r+") as dataset:
        dataset.descriptions = BANDS
    return str(path)


def test_two_days_of_one_name_on_one_grid_both_get_a_mask(tmp_path, monkeypatch):
    """As tile1.tif of many folders; by relative paths too, which may be the same of other files."""
    dn = np.random.default_rng(0).integers(4500, 65535, (2, 10, *SIZE), dtype=np.uint16)
    paths = [stack(tmp_path / f"2020-0{n}" / "tile.tif", day) for n, day in enumerate(dn)]

    def masked(*given, out="out", **how):
        assert predict_scenes(given, PREDICTOR, tmp_path / out, **how) == 0
        found = {}
        for path in (tmp_path / out).glob("*_mask.tif"):
            with rasterio.open(path) as dataset:
                found[path.name.removesuffix("_mask.tif")] = dataset.read(1)
        return found

    for given in (paths[:1], paths[1:], paths, paths[1:]):
        for overwrite in (False, True):
            found = masked(*given, overwrite=overwrite)
            np.testing.assert_array_equal(found["tile"], expected_mask(dn[0]))
    assert {*found} == {"tile", "tile_2020-01"}
    np.testing.assert_array_equal(found["tile_2020-01"], expected_mask(dn[1]))
    stack(Path(paths[0]), dn[1])  # other pixels at the same path
    np.testing.assert_array_equal(masked(paths[0])["tile"], expected_mask(dn[1]))
    wide = np.concatenate([dn[0], dn[0]], axis=2)
    stack(tmp_path / "elsewhere" / "tile.tif", wide)
    for place, expected in (("2020-01", dn[1]), ("elsewhere", wide)):
        monkeypatch.chdir(tmp_path / place)
        found = masked("tile.tif", out="relative")
        np.testing.assert_array_equal([*found.values()][-1], expected_mask(expected))
    assert {*found} == {"tile", "tile_elsewhere"}


def test_two_folders_whose_files_have_one_plain_name_both_get_a_mask(tmp_path):
    dn = np.random.default_rng(0).integers(4500, 65535, (2, 10, *SIZE), dtype=np.uint16)
    for place, day in zip("ab", dn, strict=True):
        write_scene(tmp_path / place, "clip", day, np.full(SIZE, 128, np.uint8))
    for place in "aba":
        assert predict_scenes([str(tmp_path / place)], PREDICTOR, tmp_path / "out") == 0
    for name, day in zip(("clip", "clip_b"), dn, strict=True):
        with rasterio.open(tmp_path / "out" / f"{name}_mask.tif") as dataset:
            np.testing.assert_array_equal(dataset.read(1), expected_mask(day))


def test_bands_read_otherwise_make_another_mask(tmp_path):
    dn = np.arange(1, 11, dtype=np.uint16)[:, None, None] * np.full(SIZE, 6000, np.uint16)
    path = stack(tmp_path / "x.tif", dn)
    for bands, code in (("1-10", 128), ("10,2-9,1", 255)):
        assert predict_scenes([path], PREDICTOR, tmp_path / "out", bands=bands) == 0
        with rasterio.open(tmp_path / "out" / "x_mask.tif") as dataset:
            assert (dataset.read(1) == code).all()


@pytest.mark.parametrize("kind", ["mask", "score"])
def test_what_others_have_written_is_not_replaced(tmp_path, kind):
    """As the masks of patches, which lie beside their images and have the same codes."""
    dn = np.full((10, *SIZE), 9000, np.uint16)
    paths = [stack(tmp_path / f"{name}.tif", dn) for name in ("x", "y")]
    theirs = tmp_path / f"x_{kind}.tif"
    write_tif(theirs, np.ones((1, *SIZE), np.uint8))
    before = theirs.read_bytes()
    for overwrite in (False, True):
        assert predict_scenes(paths, PREDICTOR, tmp_path, overwrite=overwrite) == 1
        assert theirs.read_bytes() == before
    rows = summary(tmp_path)
    assert f"{theirs} is there and was not written by this program" in rows["x"]["reason"]
    assert rows["y"]["status"] == "done"


def test_the_sun_of_a_file_does_not_change_with_what_is_masked_beside_it(tmp_path):
    """Its output gets a longer name there, with the ID of the folder."""
    dn = np.full((10, *SIZE), 9000, np.uint16)
    named = "LC08_016037_20170813"
    paths = [stack(tmp_path / place / "x.tif", dn + n) for n, place in enumerate(("a", named))]
    knowing = replace(PREDICTOR, knows_sun=True)
    assert predict_scenes(paths, knowing, tmp_path / "both") == 0
    assert predict_scenes(paths[1:], knowing, tmp_path / "alone") == 0
    for mask in (f"both/x_{named}_mask.tif", "alone/x_mask.tif"):
        with rasterio.open(tmp_path / mask) as dataset:
            assert dataset.tags()["FCD_SUN"] == "unknown"


def test_two_areas_of_one_product_both_get_a_mask(tmp_path, capsys):
    places = {"north": 0, "south": 3}
    dn = {place: write(tmp_path / place, ONE, seed) for place, seed in places.items()}
    for file in (tmp_path / "south").glob("*.TIF"):
        with rasterio.open(file, "r+") as dataset:
            dataset.transform = Affine(30, 0, 500_000, 0, -30, 3_000_000)
    paths = [str(tmp_path / place) for place in places]
    names = {"north": ONE, "south": f"{ONE}_south"}
    for given in (paths, paths, paths[1:], paths[::-1]):  # the names stay, whatever is given
        assert predict_scenes(given, PREDICTOR, tmp_path / "out") == 0
        rows = summary(tmp_path / "out")
        assert {name: rows[name]["path"] for name in rows} == dict(
            zip(names.values(), paths, strict=True)
        )
        for place, name in names.items():
            with rasterio.open(tmp_path / "out" / f"{name}_mask.tif") as dataset:
                assert (dataset.read(1) == expected_mask(dn[place])).all()
    assert "0 scenes masked, 2 were there already, 0 failed" in capsys.readouterr().out
    # A third one of the second's name.
    shutil.copytree(tmp_path / "south", tmp_path / "x" / "south")
    with rasterio.open(tmp_path / "x" / "south" / f"{ONE}_B1.TIF", "r+") as dataset:
        dataset.write(np.ones(SIZE, np.uint16), 1)
    assert predict_scenes([*paths, str(tmp_path / "x" / "south")], PREDICTOR, tmp_path / "o") == 1
    reason = summary(tmp_path / "o")[str(tmp_path / "x" / "south")]["reason"]
    assert f"has the name {ONE}_south, as {paths[1]}; rename one" in reason


def test_an_archive_beside_its_unpacked_folder_is_masked_once(tmp_path, capsys):
    write(tmp_path / "scenes" / ONE, ONE)
    pack(tmp_path / "scenes" / ONE, tmp_path / "scenes" / f"{ONE}.tar.gz", "w:gz")
    paths = expand([str(tmp_path / "scenes")])
    assert len(paths) == 2
    assert predict_scenes(paths, PREDICTOR, tmp_path / "out") == 0
    assert f"{paths[1]} is the scene of {paths[0]}: masked once" in capsys.readouterr().out
    assert [row["path"] for row in summary(tmp_path / "out").values()] == paths[:1]


def test_a_copy_with_gaps_is_the_same_scene(tmp_path):
    pixels = np.full((2, 8, 8), 0.5, np.float32)
    pixels[0, 0] = np.nan
    first, copy, other = (str(tmp_path / place / "x.tif") for place in ("a", "b", "c"))
    for path, values in ((first, pixels), (copy, pixels), (other, pixels + 1)):
        write_tif(Path(path), values)
    read = partial(scene_from, needed=("1", "2"))
    names = Names(tmp_path, lambda *_: first, {})
    assert names.named(read(copy), copy, read) is None
    with pytest.raises(SceneError, match="has the name x_c"):
        names.named(read(other), other, read)


def test_a_summary_that_a_spreadsheet_has_saved(tmp_path, capsys):
    write(tmp_path / "a", ONE)
    write(tmp_path / "b", TWO)
    path = tmp_path / "out" / "summary.csv"
    predict_scenes([str(tmp_path / "a")], PREDICTOR, tmp_path / "out")
    before = summary(tmp_path / "out")[ONE]
    saved = path.read_text().replace(",", ";").replace("\n", ";mine\r\n").replace("mine", "note", 1)
    for encoding in ("utf-8-sig", "utf-16"):
        path.write_bytes(saved.encode(encoding))
        predict_scenes([str(tmp_path / "b")], PREDICTOR, tmp_path / "out", overwrite=True)
        rows = summary(tmp_path / "out")
        assert rows[ONE] == before | {"note": "mine"}
        assert rows[TWO]["status"] == "done"
    assert capsys.readouterr().err.count("warning") == 0
    workbook = io.BytesIO()
    with zipfile.ZipFile(workbook, "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
    others = {
        b"my notes\n": "its first line is 'my notes'",
        b"\xff\xfe\x00": "'utf-16-le' codec can't decode",
        b"scene,path\n\x00,\n": "it is no text in UTF-8 or UTF-16",
        workbook.getvalue(): "it is a workbook (xlsx or ods), which has to be saved as CSV",
        b"\xd0\xcf\x11\xe0\xa1\xb1": "it is a workbook (xls), which has to be saved as CSV",
    }
    for number, (other, why) in enumerate(others.items(), 1):
        path.write_bytes(other)
        predict_scenes([str(tmp_path / "b")], PREDICTOR, tmp_path / "out", overwrite=True)
        assert (tmp_path / "out" / f"summary.kept-{number}.csv").read_bytes() == other
        told = capsys.readouterr().err
        assert f"{path} is no summary ({why}" in told
        assert f"kept as summary.kept-{number}.csv, begun anew" in told
        assert TWO in summary(tmp_path / "out")


def test_a_path_that_is_no_utf_8_stops_no_other_scene(tmp_path):
    write(tmp_path / "x", ONE)
    (tmp_path / "x").rename(tmp_path / "\udcfc")
    write(tmp_path / "ü", TWO)
    paths = [str(tmp_path / "\udcfc"), str(tmp_path / "ü")]
    for _ in range(2):
        assert predict_scenes(paths, PREDICTOR, tmp_path / "out") == 1
        with open(
            tmp_path / "out" / "summary.csv", encoding="utf-8", errors="surrogateescape"
        ) as f:
            rows = {row["path"]: row for row in csv.DictReader(f)}
        assert rows[paths[1]]["status"] == "done"
        assert "its name is no UTF-8; rename it" in rows[paths[0]]["reason"]


def test_a_path_that_the_locale_cannot_say(tmp_path):
    dn = write(tmp_path / "größe", TWO)
    (tmp_path / "list.txt").write_bytes("größe\n".encode())
    code = (
        "from fcd.cli import entry\nfrom fcd.landsat.products import expand, scene_from\n"
        "def main():\n    for path in expand(['list.txt', 'gr*']):\n"
        "        scene = scene_from(path)\n        scene.check()\n"
        "        with scene.open() as reader:\n            print(path, reader.bands().sum())\n"
        "entry.run(main)"
    )
    more = {
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONPATH": str(ROOT),
    }
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | more, capture_output=True
    )
    assert (told.returncode, told.stderr) == (0, b"")
    assert [int(line.split()[1]) for line in told.stdout.splitlines()] == [dn.sum()]


def test_pixels_of_another_size_are_told(tmp_path, capsys):
    write(tmp_path / "s", ONE)
    pixels = {
        None: "30",
        30.0: "30",
        33.0: "30",
        15.0: "30 (trained on 15)",
        60.0: "30 (trained on 60)",
    }
    for learned, told in pixels.items():
        for allowed in (False, True):
            predict_scenes(
                [str(tmp_path / "s")], replace(PREDICTOR, pixel_size=learned), tmp_path / "out",
                overwrite=True, allow_pixel_size=allowed,
            )  # fmt: skip
            err = capsys.readouterr().err
            warned = (
                f"has pixels of 30 m, those of training are of {learned:g} m" in err
                if learned
                else False
            )
            assert warned == ("trained" in told and not allowed)
            assert ("warning" in err) == warned
            assert summary(tmp_path / "out")[ONE]["pixel_size"] == told
            with rasterio.open(tmp_path / "out" / f"{ONE}_mask.tif") as dataset:
                assert dataset.tags()["FCD_PIXEL_SIZE"] == told


def test_a_scene_of_fill_is_no_error(tmp_path):
    write_scene(tmp_path / "s", ONE, np.zeros((10, *SIZE), np.uint16), np.full(SIZE, 128))
    assert predict_scenes([str(tmp_path / "s")], PREDICTOR, tmp_path / "out") == 0
    row = summary(tmp_path / "out")[ONE]
    assert (row["status"], row["cloud_fraction"]) == ("no valid pixel", "")
    with rasterio.open(tmp_path / "out" / f"{ONE}_mask.tif") as dataset:
        assert not dataset.read(1).any()


def test_what_a_killed_process_has_left_is_removed(tmp_path):
    host = re.sub(r"\W", "", platform.node())
    kept = [
        f".x.partial-{host}-1.tif",  # of a process that is there
        f".x.partial-other{host}-999999999.tif",  # of another machine, whose processes none knows
    ]
    left = [
        f".x.partial-{host}-999999999.tif",
        f".x.partial-{host}-999999999.tif.ovr.tmp",
        f".xy.partial-{host}-999999999.tif",
    ]
    for name in kept + left:
        (tmp_path / name).touch()
    with replacing(tmp_path / "x.tif") as temporary:
        temporary.touch()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*kept, "x.tif"])


def test_a_folder_is_listed_once_however_many_files_are_written(tmp_path, monkeypatch):
    listed, glob = [], Path.glob
    monkeypatch.setattr(Path, "glob", lambda *given: listed.append(given[0]) or glob(*given))
    for folder in (tmp_path / "a", tmp_path / "b"):
        for name in ("1.txt", "2.txt", "3.txt"):
            write_text(folder / name, name)
    assert listed == [tmp_path / "a", tmp_path / "b"]


# --- the command, with networks that are small and not trained --------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    patch = pytest.MonkeyPatch()
    patch.chdir(root)
    gan = FCDSolver(Run(RunFolder("FCD"), CPU), GANSize(4, 1, 4, 3), 32, Normalization.paper(10))
    unet = SupervisedSolver(
        Run(RunFolder("FCD+"), CPU), Task(encoder="slim18"), 32, Normalization.paper(10)
    )
    for solver in (gan, unet):
        solver.save("latest", "best")
    dn = write(root / "scene", ONE)
    pack(root / "scene", root / "scene.tar", "w")
    patch.undo()
    return root, dn


def test_the_command_equals_the_python_call(runs, monkeypatch, call):
    root, dn = runs
    monkeypatch.chdir(root)
    flags = ["--mode", "predict", "--scenes", "scene.tar", "--device", "cpu"]
    flags += ["--output_dir", "command", "--write_score", "float32", "--precision", "float32"]
    assert call(supervised_main, *flags)[0] == 0
    predict_scenes(
        ["scene"], load_solver("outputs/FCDPlus/models/best.pt", "cpu").predictor(), "python"
    )
    with (
        rasterio.open(f"command/{ONE}_mask.tif") as a,
        rasterio.open(f"python/{ONE}_mask.tif") as b,
        rasterio.open(f"command/{ONE}_score.tif") as c,
    ):
        mask, score = a.read(1), c.read(1)
        assert (mask == b.read(1)).all()
        assert a.tags() == b.tags()
    assert ((mask == 0) == (dn == 0).any(axis=0)).all()
    assert ((mask == 255) == (score > 0.5)).all()


def test_an_array_has_the_mask_and_score_of_the_files(runs, tmp_path):
    root, dn = runs
    checkpoint = shutil.copy(root / "outputs/FCDPlus/models/best.pt", tmp_path / "my model.pt")
    predictor = load_solver(checkpoint, "cpu").predictor()
    assert predictor.tags["FCD_EXPERIMENT"] == "my model"
    assert predictor.tags["FCD_VERSION"] == fcd.__version__
    mask, score = predict_array(dn, predictor)
    predict_scenes([str(root / "scene")], predictor, tmp_path / "out", write_score="float32")
    with (
        rasterio.open(tmp_path / "out" / f"{ONE}_mask.tif") as mask_tif,
        rasterio.open(tmp_path / "out" / f"{ONE}_score.tif") as score_tif,
    ):
        np.testing.assert_array_equal(mask, mask_tif.read(1))
        np.testing.assert_array_equal(score, score_tif.read(1))  # NaN and all
    with pytest.raises(UserError, match=r"shape \(9, 40, 30\), the network takes \(10, H, W\)"):
        predict_array(dn[:9], predictor)


def test_fcd_needs_a_threshold_that_somebody_chose(runs, monkeypatch, call):
    root, _ = runs
    monkeypatch.chdir(root)
    flags = ["--mode", "predict", "--scenes", "scene", "--device", "cpu", "--output_dir", "fcd"]
    code, err, _ = call(main, *flags)
    assert code == 2
    assert "no threshold is known for these weights of FCD" in err
    assert not (root / "fcd").exists()
    assert call(main, *flags, "--threshold", "0.01", "--write_score", "float32")[0] == 0
    with rasterio.open(f"fcd/{ONE}_mask.tif") as a, rasterio.open(f"fcd/{ONE}_score.tif") as b:
        assert ((a.read(1) == 255) == (b.read(1) > 0.01)).all()
    assert summary(root / "fcd")[ONE]["threshold"] == "0.0100"


def test_bad_scenes_end_with_code_1_and_no_scenes_with_2(runs, monkeypatch, call):
    root, _ = runs
    monkeypatch.chdir(root)
    (root / "junk.tar").write_bytes(b"junk")
    flags = ["--mode", "predict", "--device", "cpu", "--output_dir", "bad"]
    assert call(supervised_main, *flags, "--scenes", "junk.tar", "scene")[0] == 1
    for more, message in (
        ([], "needs --scenes"),
        (["--scenes", "gone"], "--scenes gone: there is no such file"),
    ):
        code, err, _ = call(supervised_main, *flags, *more)
        assert code == 2
        assert message in err


def test_two_processes_share_the_scenes_and_the_summary(tmp_path, monkeypatch):
    names = [ONE, TWO, TWO.replace("LC08", "LC09")]
    for name in names:
        write(tmp_path / name, name, craft=f"LANDSAT_{name[3]}")
    paths = [str(tmp_path / name) for name in names]
    # There is no other process.
    monkeypatch.setattr(Processes, "sum", lambda _, counts: counts)
    monkeypatch.setattr(Processes, "claims", lambda _: {}.setdefault)
    for rank, expected in ((0, {names[0], names[2]}), (1, set(names))):
        predict_scenes(paths, PREDICTOR, tmp_path / "out", processes=Processes(rank, 2))
        assert set(summary(tmp_path / "out")) == expected


def test_bfloat16_is_close(runs, monkeypatch):
    root, _ = runs
    monkeypatch.chdir(root)
    solver = load_solver("outputs/FCDPlus/models/best.pt", "cpu")
    scene = scene_from("scene")
    scorer, tiles = solver.scorer(), Tiles.of(solver.scorer())
    job = Job(root, lambda: iter([scene]), 1)
    exact, near = (
        np.concatenate(
            [s.score for s in strips(in_precision(scorer, asked, tiles, 0.5, job), scene, tiles)]
        )
        for asked in (Asked("float32"), Asked("bfloat16"))
    )
    assert near.dtype == np.float32
    assert 0 < np.abs(exact - near).max() < 0.02


def test_sigterm_leaves_no_half_written_file(tmp_path, monkeypatch):
    def stopped(scene):
        yield from list(first_band(scene))[:1]
        signal.raise_signal(signal.SIGTERM)

    write(tmp_path / "a")

    def work():
        predict_scenes([str(tmp_path / "a")], replace(PREDICTOR, predict=stopped), tmp_path / "out")

    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as end:
            entry.run(work)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert end.value.code == 143
    assert list((tmp_path / "out").iterdir()) == []


# --- the seam ---------------------------------------------------------------------------------


@pytest.mark.skipif(not REAL.is_dir(), reason="the real pixels are not there")
def test_blending_removes_the_seam_on_a_real_scene():
    (scene,) = find_scenes(REAL / "biome_layout")
    before, after = (
        seam(scores(random_generator(64), scene, 64, overlap), 64, overlap) for overlap in (0, 32)
    )
    assert before > 2
    assert after < 1.2


@pytest.mark.parametrize(
    ("network", "overlaps"), [(tiny.gan, (16, 32, 32)), (tiny.unet, (16, 16, 16))]
)
def test_tiles_overlap_by_what_their_network_needs(network, overlaps, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scorer = network("one").scorer()
    assert tuple(Tiles.of(scorer, size).overlap for size in (32, 64, 128)) == overlaps


def test_no_scene_is_lost_to_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UserError, match=r"--output_dir .*out cannot be written to: File exists"):
        predict_scenes(["x"], PREDICTOR, tmp_path / "out")
    if os.path.isdir("/proc"):  # a folder that nobody writes to, root neither
        with pytest.raises(UserError, match="--output_dir /proc cannot be written to"):
            predict_scenes(["x"], PREDICTOR, "/proc")


class TestArraysWithGaps:
    """`predict_array`: what is masked, or NaN, is nodata, and no other pixel changes."""

    def predicted(self, dn, dtype="uint16", nodata=0):
        normalization = Normalization.paper(10, "uint16", nodata)
        if dtype != "uint16":
            unit = ((0.0,) * 3, (1.0,) * 3)
            normalization = Normalization("paper", *unit, None, dtype)
        solver = FCDSolver(Run(RunFolder("FCD"), CPU), GANSize(4, 1, 4, 3), 32, normalization)
        return predict_array(dn, solver.predictor(0.1))

    def test_of_integers(self):
        dn = np.random.default_rng(0).integers(1, 60_000, (10, 40, 50)).astype(np.uint16)
        hidden = np.zeros(dn.shape, bool)
        hidden[3, 5:9, 7:11] = hidden[8, 20] = True
        mask, score = self.predicted(np.where(hidden, 0, dn).astype(np.uint16))
        assert ((mask == 0) == hidden.any(axis=0)).all()
        masked = np.ma.array(dn, mask=hidden)
        for given in (
            masked,
            masked.astype(np.float64).filled(np.nan),
            np.where(hidden, np.inf, dn).astype(np.float32),
            np.ma.masked_equal(np.where(hidden, 60_001, dn), 60_001).astype(np.float32),
        ):
            found = self.predicted(given)
            np.testing.assert_array_equal(found[0], mask)
            np.testing.assert_array_equal(found[1], score)
        np.testing.assert_array_equal(self.predicted(masked, nodata=None)[0] == 0, mask == 0)

    def test_of_floats(self):
        values = np.random.default_rng(0).random((3, 40, 50), np.float32)
        gaps = values.copy()
        gaps[1, 5:9] = np.nan
        mask, score = self.predicted(gaps, "float32")
        assert (mask[5:9] == 0).all()
        assert np.isnan(score).sum() == 4 * 50
        for given in (np.ma.masked_invalid(gaps), gaps.astype(np.float64)):
            np.testing.assert_array_equal(self.predicted(given, "float32")[1], score)

    @pytest.mark.parametrize("value", [0.5, -1, 65536])
    def test_of_floats_that_are_no_dn(self, value):
        dn = np.full((10, 8, 8), 7, np.float64)
        dn[0, 0, 0] = value
        with pytest.raises(UserError, match="holds float64, the network was trained on uint16"):
            self.predicted(dn)
