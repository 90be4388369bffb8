"""Faults in the middle of the work: found by name, told in one line, what was there stays whole."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import zlib
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile
import torch

import main
import prepare_landsat8_biome
import supervised_main
from data_loader import PatchDataset
from fcd.errors import OutputError, SceneError, UserError
from fcd.files import write_json
from fcd.landsat.rasters import raster_writer
from fcd.landsat.scenes import find_scenes
from fcd.masks.tiling import score_strips
from fcd.patches import cutting, store
from fcd.patches.cutting import parallel
from fcd.patches.normalisation import Normalization
from fcd.training import checkpoints
from tests.conftest import ROOT, draw, write_scene, write_tif

pytestmark = pytest.mark.usefixtures("in_tmp")
CPU = torch.device("cpu")
GAN = ["--image_size", "32", "--d_repeat_num", "3", "--g_conv_dim", "4", "--d_conv_dim", "4",
       "--g_repeat_num", "1", "--device", "cpu", "--num_iters", "6", "--num_iters_decay", "2",
       "--batch_size", "4", "--model_save_step", "3"]  # fmt: skip
UNET = ["--encoder", "slim18", "--n_epochs", "1", "--batch_size", "4", "--device", "cpu"]


@pytest.fixture
def call(call):
    """As everywhere, of stderr the last line: progress bars are there too."""

    def run(module, *arguments):
        code, err, out = call(module, *arguments)
        return code, err.rstrip("\n").rpartition("\n")[2], out

    return run


@pytest.fixture
def patches(tmp_path):
    """Five clear and five cloudy patches of 32×32 pixels in each of two splits."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for number in range(10):
            cloudy = number % 2
            folder = tmp_path / "p" / split / ["clear", "cloudy"][cloudy] / f"S_{number:05d}_00000"
            folder.mkdir(parents=True)
            image = rng.integers(1, 60_000, (32, 32, 10)).astype(np.uint16)
            store.write(folder / "image.tif", image)
            store.write(folder / "mask.tif", np.full((32, 32), 1 + cloudy, np.uint8))
    return tmp_path / "p"


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    """One bit in the middle, where the pixels are: the file is still a good TIFF."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


def remove(path):
    path.unlink()


def another_size(path):
    store.write(path, np.ones((16, 32, 10), np.uint16))


# --- patches -------------------------------------------------------------------------------------


def test_a_patch_reads_as_written_and_carries_its_checksum(tmp_path):
    image = np.random.default_rng(1).integers(0, 65536, (8, 6, 10)).astype(np.uint16)
    store.write(tmp_path / "image.tif", image.transpose(1, 0, 2))
    assert (store.read(tmp_path / "image.tif", 3) == image.transpose(1, 0, 2)).all()
    assert (tifffile.imread(tmp_path / "image.tif") == image.transpose(1, 0, 2)).all()
    with tifffile.TiffFile(tmp_path / "image.tif") as tif:
        expected = zlib.crc32(image.transpose(1, 0, 2).tobytes())
        assert int(tif.shaped_metadata[0]["crc32"], 16) == expected


def test_a_patch_without_a_pixel_is_named(tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "x.tif", np.ones((4, 4), np.uint8), photometric="minisblack")
    # As tifffile reads a file whose changed head says so.
    monkeypatch.setattr(tifffile.TiffFile, "asarray", lambda _: np.ones((0, 4), np.uint8))
    with pytest.raises(store.DamagedPatch, match=r"x\.tif is damaged \(its shape is \(0, 4\)"):
        store.PatchReader()(tmp_path / "x.tif", 2)


def test_a_patch_of_earlier_versions_has_no_checksum_and_is_read(tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", np.ones((4, 4), np.uint8), photometric="minisblack")
    assert store.read(tmp_path / "x.tif", 2).sum() == 16


@pytest.mark.parametrize("damage", [cut, flip, empty, remove, another_size])
@pytest.mark.parametrize("workers", [0, 1])
def test_training_stops_at_a_damaged_patch_and_names_it(call, patches, damage, workers):
    damage(patches / "train" / "cloudy" / "S_00003_00000" / "image.tif")
    code, line, _ = call(main, *GAN, "--image_dir", "p", "--num_workers", workers)
    assert code == 2
    assert re.fullmatch(r"error: p/train/cloudy/S_00003_00000/image\.tif is damaged \(.*", line)
    assert "--skip_bad True" in line


@pytest.mark.parametrize("damage", [cut, flip])
def test_a_damaged_mask_is_named(call, patches, damage):
    damage(patches / "train" / "clear" / "S_00002_00000" / "mask.tif")
    code, line, _ = call(supervised_main, *UNET, "--image_dir", "p", "--num_workers", 0)
    assert code == 2
    assert re.fullmatch(r"error: p/train/clear/S_00002_00000/mask\.tif is damaged \(.*", line)


def test_a_damaged_mask_below_generated_ones_is_named_with_what_prepare_can_do(call, tmp_path):
    write_scene(tmp_path / "scenes" / "Water" / "S1", "S1", *draw(40, 40, 0))
    prepare = ["--data_path", "scenes", "--output_dir", "q", "--patch_size", "32"]
    assert call(prepare_landsat8_biome, *prepare)[0] == 0
    mask = np.full((1, 40, 40), 128, np.uint8)
    write_tif(tmp_path / "tifs" / "Water_S1_mask.tif", mask, placed=False)
    (tmp_path / "tifs" / "supervision.json").write_text("{}")
    flip(next((tmp_path / "q").glob("train/*/*/mask.tif")))
    code, line, _ = call(prepare_landsat8_biome, *prepare, "--generated_masks", "tifs")
    assert code == 2
    assert re.fullmatch(
        r"error: q/train/.*/mask\.tif is damaged \(.*\); cut its scene again \(remove the scene's "
        r"record in scenes/ and run prepare_landsat8_biome\.py\)",
        line,
    )


def test_skip_bad_leaves_damaged_patches_out_counts_and_names_them(call, patches):
    bad = {"train": ["S_00001_00000", "S_00004_00000"], "val": ["S_00002_00000"]}
    cut(patches / "train" / "cloudy" / bad["train"][0] / "image.tif")
    flip(patches / "train" / "clear" / bad["train"][1] / "mask.tif")
    remove(patches / "val" / "clear" / bad["val"][0] / "mask.tif")
    (patches / "val" / "clear" / bad["val"][0] / "mask.tif").write_bytes(b"II*\0")
    code, line, out = call(
        supervised_main, *UNET, "--image_dir", "p", "--num_workers", 0, "--skip_bad", "True"
    )
    assert code == 0, line
    assert out.count("left out: p/") == 3
    assert "--skip_bad" not in out  # it is given
    assert "3 damaged patches were left out: see data in outputs/FCDPlus/config.json" in out
    data = json.loads(Path("outputs/FCDPlus/config.json").read_text())["data"]
    assert {split: sorted(part["left_out"]) for split, part in data.items()} == bad
    assert {split: part["patches"] for split, part in data.items()} == {"train": 8, "val": 9}


@pytest.mark.parametrize("odd", [(16, 32, 10), (32, 32, 3), np.int16])
def test_skip_bad_leaves_the_first_patch_out_if_that_is_the_odd_one(patches, capsys, odd):
    path = patches / "train" / "clear" / "S_00000_00000" / "image.tif"
    shape, dtype = ((32, 32, 10), odd) if odd is np.int16 else (odd, np.uint16)
    store.write(path, np.ones(shape, dtype))
    for mask_file in (None, "mask.tif"):
        dataset = PatchDataset("p", "train", mask_file, skip_bad=True)
        assert (len(dataset), dataset.left_out) == (9, ["S_00000_00000"])
        assert {sample["image"].shape for sample in dataset} == {(10, 32, 32)}
        assert (dataset.kind.num_channels, dataset.kind.dtype) == (10, "uint16")
        (line,) = capsys.readouterr().out.splitlines()
        assert "S_00000_00000/image.tif is damaged (it holds" in line
        assert "the others uint16 (10, 32, 32)" in line


def test_a_mask_of_another_shape_is_left_out_and_named(patches, capsys):
    path = patches / "train" / "cloudy" / "S_00001_00000" / "mask.tif"
    store.write(path, np.ones((16, 32), np.uint8))
    dataset = PatchDataset("p", "train", "mask.tif", skip_bad=True)
    assert dataset.left_out == ["S_00001_00000"]
    assert "S_00001_00000/mask.tif is damaged (its shape is (16, 32)" in capsys.readouterr().out


def test_without_the_bad_patches_the_run_is_the_one_that_never_had_them(call, patches):
    cut(patches / "train" / "cloudy" / "S_00005_00000" / "image.tif")
    train = [*GAN, "--image_dir", "p", "--num_workers", 0]
    code, line, _ = call(main, *train, "--skip_bad", "True", "--experiment_name", "skipped")
    assert code == 0, line
    folder = patches / "train" / "cloudy" / "S_00005_00000"
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    assert call(main, *train, "--experiment_name", "never")[0] == 0
    skipped, never = (
        checkpoints.load(f"outputs/{n}/models/latest.pt") for n in ("skipped", "never")
    )
    assert all(torch.equal(value, never["G"][name]) for name, value in skipped["G"].items())


def test_every_cloudy_patch_damaged_is_no_data_set(patches):
    for path in (patches / "train" / "cloudy").glob("*/image.tif"):
        empty(path)
    with pytest.raises(UserError, match="every clear or every cloudy patch is damaged"):
        PatchDataset("p", "train", skip_bad=True)


def test_a_run_does_not_go_on_with_other_patches(call, patches):
    train = [*GAN, "--image_dir", "p", "--num_workers", 0]
    assert call(main, *train)[0] == 0
    before = Path("outputs/FCD/config.json").read_text()
    (patches / "train" / "cloudy" / "S_00005_00000").rename(patches / "elsewhere")
    code, line, _ = call(main, *train)
    assert code == 2
    assert (
        "outputs/FCD was trained on other patches (train 10, val 10 then, train 9, val 10 now)"
        in line
    )
    (patches / "elsewhere").rename(patches / "train" / "cloudy" / "S_00005_00000")
    assert call(main, *train)[0] == 0
    assert Path("outputs/FCD/config.json").read_text() == before


# --- processes that read -------------------------------------------------------------------------


# Training in whose fourth step a process that reads patches is killed.
KILLING = """
import multiprocessing, os, signal
from fcd.cli import entry
import main

asked = main.FCDSolver.stop_if_asked

def killing(solver, interruption):
    asked(solver, interruption)
    if solver.step == 4:
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)

main.FCDSolver.stop_if_asked = killing
entry.run(main.main)
"""


def test_a_killed_loader_process_is_told_and_the_run_goes_on_from_its_checkpoint(call, patches):
    train = [*GAN, "--image_dir", "p", "--num_workers", "1"]
    command = [sys.executable, "-c", KILLING, *train]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert re.fullmatch(
        r"error: a process that reads patches has ended \(DataLoader worker .*\), mostly for lack "
        r"of memory: lower --num_workers; what was written before is kept",
        done.stderr.splitlines()[-1],
    ), done.stderr
    assert checkpoints.load("outputs/FCD/models/latest.pt")["step"] == 3
    code, line, _ = call(main, *train)
    assert code == 0, line
    assert call(main, *train, "--experiment_name", "whole")[0] == 0
    a, b = (checkpoints.load(f"outputs/{name}/models/latest.pt") for name in ("FCD", "whole"))
    assert all(torch.equal(value, b["G"][name]) for name, value in a["G"].items())


def _killed():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.processes
def test_a_killed_cutting_process_is_told():
    jobs = {"S1": _killed}
    with pytest.raises(UserError, match="cutting scenes: a process was killed, mostly for lack"):
        list(parallel(jobs, 1, "cutting scenes"))


# --- scenes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_a_number_is_nodata_and_spoils_no_other_pixel(value):
    """The mean of a tile would be NaN, and with it every pixel of that tile."""
    dn = np.random.default_rng(0).integers(1, 60_000, (3, 40, 50)).astype(np.float32)
    hurt = dn.copy()
    hurt[1, 5, 7] = value
    zero = dn.copy()
    zero[1, 5, 7] = 0  # nodata as it is in DN

    def score(x):
        return (x - x.mean(dim=(2, 3), keepdim=True)).abs().mean(dim=1).clamp(0, 1)

    def strips(values):
        parts = score_strips(
            lambda a, b: values[:, a:b], 40, 50, score, Normalization.paper(3), CPU, tile=16,
            overlap=4, batch_size=4,
        )  # fmt: skip
        parts = list(parts)
        return [np.concatenate([getattr(p, name) for p in parts]) for name in ("score", "valid")]

    (a, valid), (b, valid_b) = strips(hurt), strips(zero)
    assert np.argwhere(~valid).tolist() == [[5, 7]] == np.argwhere(~valid_b).tolist()
    assert np.isfinite(a).all()
    # The other bands of that pixel are what they were, so the tile's mean is the same.
    assert np.array_equal(a, b)


def test_a_scene_that_disappears_after_it_was_listed_is_named(tmp_path, call):
    for name in ("S1", "S2"):
        write_scene(tmp_path / "scenes" / "Water" / name, name, *draw(40, 40, 0))
    first, second = find_scenes("scenes")
    for path in second.folder.iterdir():
        path.unlink()
    assert first.check().width == 40
    with pytest.raises(SceneError, match=r"scene S2 in .*S2: S2_B1\.TIF cannot be read"):
        second.check()
    with pytest.raises(SceneError, match=r"S2_B1\.TIF cannot be read"), second.open():
        pass


def test_a_scene_that_disappears_spoils_itself_alone(tmp_path, call, monkeypatch):
    for name in ("S1", "S2", "S3"):
        write_scene(tmp_path / "scenes" / "Water" / name, name, *draw(40, 40, 0))
    original = cutting.choose_split

    def vanish(*arguments):
        (tmp_path / "scenes/Water/S2/S2_B4.TIF").unlink()
        return original(*arguments)

    monkeypatch.setattr(cutting, "choose_split", vanish)
    arguments = ["--data_path", "scenes", "--output_dir", "p", "--patch_size", "16"]
    code, line, _ = call(prepare_landsat8_biome, *arguments)
    assert code == 1
    assert re.match(r"left out: scene S2 in .*: S2_B4\.TIF cannot be read", line)
    assert {path.stem for path in (tmp_path / "p/scenes").glob("*.json")} == {
        "Water_S1",
        "Water_S3",
    }


@pytest.mark.parametrize("part", ["B1.TIF", "B11.TIF", "fixedmask.img"])
def test_a_truncated_band_spoils_its_scene_alone(tmp_path, call, part):
    for name in ("S1", "S2"):
        write_scene(tmp_path / "scenes" / "Water" / name, name, *draw(40, 40, 0))
    cut(tmp_path / "scenes/Water/S2" / f"S2_{part}")
    arguments = ["--data_path", "scenes", "--output_dir", "p", "--patch_size", "16"]
    code, line, _ = call(prepare_landsat8_biome, *arguments)
    assert code == 1
    assert f"S2_{part}" in line
    assert [path.stem for path in (tmp_path / "p/scenes").glob("*.json")] == ["Water_S1"]


# --- nothing more can be written -----------------------------------------------------------------


@contextmanager
def full_disk(size):
    """No file of this process may grow beyond `size` bytes; nor may that of pytest's own output."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [0, 100, 1000, 20_000, 150_000])
@pytest.mark.parametrize("kind", ["scene tif", "COG", "checkpoint", "JSON", "patch"])
def test_a_full_disk_is_told_and_the_earlier_file_stays(tmp_path, size, kind):
    noise = np.random.default_rng(0).integers(0, 256, (500, 500)).astype(np.uint8)
    write_scene(tmp_path / "s" / "S1", "S1", *draw(500, 500, 0))
    grid = find_scenes("s")[0].grid()
    path = tmp_path / "o" / "file.tif"
    path.parent.mkdir()
    path.write_bytes(b"earlier")

    def raster(cloud_optimised):
        with raster_writer(
            path, grid, dtype="uint8", nodata=0, cloud_optimised=cloud_optimised
        ) as d:
            for row in range(0, 500, 100):
                d.write(noise[row : row + 100], 1, window=((row, row + 100), (0, 500)))

    write = {
        "scene tif": lambda: raster(False),
        "COG": lambda: raster(True),
        "checkpoint": lambda: checkpoints.save(path, {"x": torch.zeros(50_000)}),
        "JSON": lambda: write_json(path, [0.5] * 50_000),
        "patch": lambda: store.write(tmp_path / "o" / "new.tif", noise),
    }[kind]
    with full_disk(size), pytest.raises(OutputError, match="cannot be written"):
        write()
    assert path.read_bytes() == b"earlier"
    if kind != "patch":  # of which a folder appears as a whole
        assert [p.name for p in path.parent.iterdir()] == ["file.tif"]


def test_a_tif_that_fits_is_no_full_disk(tmp_path):
    """What is checked after writing must hold for every way of writing; read back by GDAL."""
    write_scene(tmp_path / "s" / "S1", "S1", *draw(50, 70, 0))
    grid = find_scenes("s")[0].grid()
    for dtype in ("uint8", "float32"):
        for cloud_optimised in (False, True):
            for values in (np.zeros((50, 70), dtype), np.ones((50, 70), dtype)):
                with raster_writer("x.tif", grid, dtype=dtype, nodata=0,
                                   cloud_optimised=cloud_optimised) as dataset:  # fmt: skip
                    dataset.write(values, 1)
                with rasterio.open("x.tif") as dataset:
                    assert (dataset.read(1) == values).all()


def test_a_full_disk_ends_training_in_one_line(call, patches):
    train = [*GAN, "--image_dir", "p", "--num_workers", 0]
    with full_disk(30_000):
        code, line, _ = call(main, *train)
    assert code == 2
    assert line.startswith("error: outputs/FCD/models/best.pt cannot be written (")


@pytest.mark.parametrize(
    ("in_the_way", "module", "arguments"),
    [
        ("outputs", main, [*GAN, "--image_dir", "p", "--num_workers", 0]),
        ("outputs/FCD", main, [*GAN, "--image_dir", "p", "--num_workers", 0]),
        ("outputs/FCD/models", main, [*GAN, "--image_dir", "p", "--num_workers", 0]),
        ("runs", main, [*GAN, "--image_dir", "p", "--num_workers", 0]),
        ("runs", supervised_main, [*UNET, "--image_dir", "p", "--num_workers", 0]),
        ("q", prepare_landsat8_biome, ["--data_path", "scenes", "--output_dir", "q"]),
        ("q/scenes", prepare_landsat8_biome, ["--data_path", "scenes", "--output_dir", "q"]),
        ("q/split.csv/x", prepare_landsat8_biome, ["--data_path", "scenes", "--output_dir", "q"]),
    ],
)
def test_a_file_in_the_way_of_a_folder(call, patches, tmp_path, in_the_way, module, arguments):
    """As for a user without permission: also where the tests run as root."""
    write_scene(tmp_path / "scenes" / "Water" / "S1", "S1", *draw(40, 40, 0))
    (tmp_path / in_the_way).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / in_the_way).write_text("mine")
    code, line, _ = call(module, *arguments)
    assert code == 2
    assert line.startswith("error: ")
    assert in_the_way.removesuffix("/x") in line
    assert (tmp_path / in_the_way).read_text() == "mine"
