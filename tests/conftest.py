import os
import signal
import sys
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from pathlib import Path

# Before anything computes. Sums depend on the number of threads, and tests compare this process
# bit for bit with others, which go by the variable.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import rasterio
import tifffile
import torch
from rasterio.transform import Affine

from fcd.cli import entry
from fcd.landsat.bands import BANDS
from fcd.landsat.rasters import opened
from fcd.patches import cutting

ROOT = Path(__file__).resolve().parent.parent
REAL = Path(os.environ.get("FCD_REAL_DATA", ROOT.parent / "shared" / "data"))
"""Crops of real scenes, which are no part of the repository (docs/contributing.md); tests that need
them are skipped where they are not."""
if "FCD_REAL_DATA" in os.environ and not REAL.is_dir():
    raise pytest.UsageError(f"FCD_REAL_DATA is {REAL}, which is no folder; unset it, or correct it")


def write_scene(folder, name, dn, truth, qa=None):
    """A scene as USGS ships it: DN (10, h, w), truth codes (h, w); the truth has no position."""
    folder.mkdir(parents=True, exist_ok=True)
    height, width = truth.shape
    profile = {"driver": "GTiff", "height": height, "width": width, "count": 1, "dtype": "uint16"}
    place = {"crs": "EPSG:32616", "transform": Affine(30, 0, 452_475, 0, -30, 3_408_645)}
    for band, values in zip(BANDS, dn, strict=True):
        with rasterio.open(folder / f"{name}_{band}.TIF", "w", **profile, **place) as dataset:
            dataset.write(values, 1)
    if qa is not None:
        with rasterio.open(folder / f"{name}_BQA.TIF", "w", **profile, **place) as dataset:
            dataset.write(qa, 1)
    truth.astype(np.uint8).tofile(folder / f"{name}_fixedmask.img")
    (folder / f"{name}_fixedmask.hdr").write_text(
        f"ENVI\nsamples = {width}\nlines = {height}\nbands = 1\nheader offset = 0\n"
        "file type = ENVI Standard\ndata type = 1\ninterleave = bsq\nbyte order = 0\n"
    )


def draw(height, width, seed):
    """Random DN, and a truth with a cloudy square, a shadow and a fill corner."""
    dn = np.random.default_rng(seed).integers(1, 65536, (10, height, width)).astype(np.uint16)
    truth = np.full((height, width), 128, np.uint8)
    truth[:12, :12] = 255
    truth[12:16, 12:16] = 64
    truth[0, 20:24] = 192
    truth[-10:, -10:] = 0
    dn[:, -10:, -10:] = 0
    return dn, truth


@pytest.fixture(autouse=True)
def signals_as_before():
    """Entry scripts answer signals in their own way; called in a test, they must not go on to."""
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)}
    readers = signal.getsignal(signal.SIGCHLD)
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)
    if callable(readers):  # PyTorch's, which it sets once
        signal.signal(signal.SIGCHLD, readers)


@pytest.fixture(autouse=True)
def threads_as_before():
    """Benchmarks and harnesses compute with as many threads as they like; other tests do not."""
    with threads_restored():
        yield


@contextmanager
def threads_restored():
    threads, variable = torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]
    yield
    os.environ["OMP_NUM_THREADS"] = variable
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


class ThisProcess(Executor):
    """In place of a pool of processes, each of which imports PyTorch first: a job is done at once.

    A job that takes the test along, as one that kills its process would, needs the real thing:
    `@pytest.mark.processes`.
    """

    def __init__(self, workers, context, initializer):
        pass

    def submit(self, job):
        done = Future()
        try:
            done.set_result(job())
        except Exception as error:
            done.set_exception(error)
        return done


@pytest.fixture(autouse=True)
def scenes_are_cut_here(request, monkeypatch):
    """Most tests of the cutting are about what is cut."""
    if not request.node.get_closest_marker("processes"):
        monkeypatch.setattr(cutting, "ProcessPoolExecutor", ThisProcess)


@pytest.fixture
def in_tmp(tmp_path, monkeypatch):
    """The test's own folder is the working folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def image_dir(tmp_path):
    """10 training and 4 validation patches, half of them cloudy."""
    return write_patches(tmp_path / "p", 10, 4)


@pytest.fixture
def call(monkeypatch, capsys):
    """Run an entry script; return its exit code, and what it has said on stderr and stdout."""

    def run(module, *arguments):
        monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            entry.run(module.main)
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return stopped.value.code, err, out

    return run


def write_tif(path, pixels, nodata=None, *, placed=True):
    """A GeoTIFF of `pixels` (bands, h, w); placed: with a position."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bands, height, width = pixels.shape
    place = (
        {"crs": "EPSG:32616", "transform": Affine(10, 0, 452_475, 0, -10, 3e6)} if placed else {}
    )
    with opened(
        path, "w", driver="GTiff", count=bands, height=height, width=width, nodata=nodata,
        dtype=pixels.dtype.name, **place,
    ) as dataset:  # fmt: skip
        dataset.write(pixels)


def moved(path, right=0.0, down=0.0, *, south_up=False):
    """Let the GeoTIFF `path` lie elsewhere by so many pixels, or say that its last row is first."""
    with rasterio.open(path, "r+") as dataset:
        a, _, left, _, e, top = dataset.transform[:6]
        left, top = left + a * right, top + e * down
        if south_up:
            top, e = top + e * dataset.height, -e
        dataset.transform = Affine(a, 0, left, 0, e, top)


def write_patches(folder: Path, train: int, val: int, *, ragged: bool = False) -> Path:
    """Patches of 32×32 pixels, cloudy ones with cloud in the upper half, masks beside them.

    ragged: they differ in how many of their pixels are valid.
    """
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for number in range(count):
            cloudy = number % 2
            patch = folder / split / ["clear", "cloudy"][cloudy] / f"S_{number:05d}_00000"
            patch.mkdir(parents=True)
            image = rng.integers(8000, 12000, (32, 32, 10)).astype(np.uint16)
            mask = np.ones((32, 32), np.uint8)
            if cloudy:
                image[:16] += 20_000
                mask[:16] = 2
            if ragged:
                mask[:, : 2 * number] = 0
            tifffile.imwrite(patch / "image.tif", image, photometric="minisblack")
            tifffile.imwrite(patch / "mask.tif", mask, photometric="minisblack")
    return folder


@pytest.fixture
def scene_root(tmp_path):
    """Six scenes of 50×70 pixels in each of two biomes, some one folder deeper."""
    root = tmp_path / "scenes"
    for b, biome in enumerate(("Water", "Forest")):
        for index in range(6):
            name = f"LC8{b}{index}0120142{index}0LGN00"
            deeper = [name, "BC"][index % 2]
            write_scene(root / biome / deeper / name, name, *draw(50, 70, 10 * b + index))
    return root
