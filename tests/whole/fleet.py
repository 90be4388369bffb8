"""Workers killed at random while they mask scenes, one of which kills whatever masks it.

    python -m tests.whole.fleet [--runs 10] [--scenes 200] [--workers 4] [--kills 2] [--seed 0]

All other scenes have to be masked, to the byte as without a cluster and without a kill.
"""

import argparse
import csv
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.transform import Affine

from fcd.landsat import labels
from fcd.landsat.bands import BANDS, RGB_BANDS
from fcd.masks.fleet import Fleet, fleet
from fcd.masks.prediction import predict_scenes
from fcd.masks.predictor import Predictor
from fcd.masks.scoring import Prediction

SIDE = 32  # pixels, one tile of the network
ATTEMPTS = 3


def draw(root: Path, count: int) -> list[str]:
    """Write `count` small scenes of random DN; return their folders."""
    place = {"crs": "EPSG:32616", "transform": Affine(30, 0, 452_475, 0, -30, 3_408_645)}
    size = {"height": SIDE, "width": SIDE, "count": 1, "dtype": "uint16"}
    paths = []
    for number in range(count):
        name = f"LC08_L1TP_{number:06d}_20150804_20200908_02_T1"
        dn = np.random.default_rng(number).integers(1, 65536, (len(BANDS), SIDE, SIDE))
        (root / name).mkdir(parents=True)
        for band, values in zip(BANDS, dn.astype(np.uint16), strict=True):
            path = root / name / f"{name}_{band}.TIF"
            with rasterio.open(path, "w", driver="GTiff", **size, **place) as dataset:
                dataset.write(values, 1)
        paths.append(str(root / name))
    return paths


def make_weights() -> Path:
    """A small U-Net with random weights, as a checkpoint of the working folder."""
    from benchmarks import scene
    from benchmarks.train_step import SIZES
    from fcd.training.run import Run, RunFolder
    from tests.tiny import CPU

    solver = scene.build("unet", SIZES["tiny"], Run(RunFolder("fleet"), CPU))
    solver.save("latest", "best")
    return solver.run.folder.checkpoint("best").resolve()


def predictors(weights: Path, poison: str, log: Path, _: object = None) -> list[Predictor]:
    """What workers mask by; each scene that is begun is a line of `log`."""
    import torch

    from solver import load_solver

    torch.set_num_threads(1)
    predictor = load_solver(weights, "cpu").predictor()

    def predict(scene: Any) -> Any:
        with log.open("a") as stream:  # a short line, appended, is written at once
            stream.write(f"{scene.name}\n")
        if scene.name == poison:
            os.kill(os.getpid(), signal.SIGKILL)
        yield from predictor.predict(scene)

    return [replace(predictor, predict=predict)]


def first_band(scene: Any) -> Any:
    """Score: B1 / 65535."""
    with scene.open() as reader:
        dn = reader.bands(0, reader.grid.height)
    score = (dn[0] / 65535).astype(np.float32)
    mask = labels.patch_from_score(score, (dn != 0).all(axis=0), 0.5)
    yield Prediction(0, dn[list(RGB_BANDS)], mask, score)


BAND = Predictor(BANDS, 0.5, {"FCD_VERSION": "1", "FCD_WEIGHTS": "band"}, first_band)


def killing(poison: str, _: object) -> list[Predictor]:
    """`BAND`, but the scene `poison` kills whatever masks it."""

    def predict(scene: Any) -> Any:
        if scene.name == poison:
            os.kill(os.getpid(), signal.SIGKILL)
        yield from first_band(scene)

    return [replace(BAND, predict=predict)]


def kill(where: Fleet, output: Path, moments: list[int], generator: random.Random) -> None:
    """Kill a worker as soon as so many scenes are masked as each of `moments` says."""
    for moment in sorted(moments):
        while len(list(output.glob("*_mask.tif"))) < moment:
            time.sleep(0.02)
        pids = where.client.run(os.getpid, on_error="ignore").values()
        os.kill(generator.choice(sorted(pids)), signal.SIGKILL)


def attempt(
    paths: list[str], expected: Path, weights: Path, root: Path, flags: Any, seed: int
) -> dict[str, Any]:
    """One run of the fleet and what came of it."""
    generator, output, log = random.Random(seed), root / f"out{seed}", root / f"log{seed}"
    poisonous = generator.choice(paths)
    poison = Path(poisonous).name
    moments = [generator.randrange(len(paths)) for _ in range(flags.kills)]
    build, began = partial(predictors, weights, poison, log), time.monotonic()
    (told,) = predictors(weights, "", log)
    with fleet(f"local:{flags.workers}", build, ATTEMPTS) as where:
        killing = threading.Thread(target=kill, args=(where, output, moments, generator))
        output.mkdir()
        killing.start()
        failed = predict_scenes(paths, told, output, where=where, progress=False)
        killing.join()
    begun = log.read_text().split()
    return {
        "scenes": len(paths),
        "killed": flags.kills,
        "killed by the scene": begun.count(poison),
        "begun again": len(begun) - len(set(begun)) - begun.count(poison) + 1,
        "equal": sum(_equal(Path(path).name, expected, output) for path in paths),
        "wrong": _wrong(paths, poison, expected, output, failed),
        "seconds": round(time.monotonic() - began, 1),
    }


def _equal(name: str, expected: Path, output: Path) -> bool:
    files = [f"{name}_mask.tif", f"{name}_quicklook.png"]
    return all(
        (output / file).exists() and (output / file).read_bytes() == (expected / file).read_bytes()
        for file in files
    )


def _wrong(paths: list[str], poison: str, expected: Path, output: Path, failed: int) -> list[str]:
    """What is not as it should be, in words."""
    told = [] if failed == 1 else [f"{failed} failed"]
    for path in paths:
        name = Path(path).name
        if _equal(name, expected, output) != (name != poison):
            told.append(f"{name} is {'masked' if name == poison else 'missing or other'}")
    rows, plain = (_summary(folder) for folder in (output, expected))
    if {n: r for n, r in rows.items() if n != poison} != {
        n: r for n, r in plain.items() if n != poison
    }:
        told.append("summary.csv differs")
    if f"--attempts {ATTEMPTS}: one on" not in rows[poison]["reason"]:
        told.append(f"{poison}: {rows[poison]['status']}, {rows[poison]['reason']}")
    if left := sorted(path.name for path in output.glob(".*.partial-*")):
        told.append(f"left: {', '.join(left)}")
    return told


def _summary(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "summary.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len({row["scene"] for row in rows}) == len(rows)
    return {row["scene"]: {k: v for k, v in row.items() if k != "seconds"} for row in rows}


def run(arguments: list[str] | None = None) -> int:
    """The command line; exit code 1 if anything was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.whole.fleet", description=__doc__)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    flags = parser.parse_args(arguments)
    flags.json = flags.json and flags.json.resolve()
    os.environ["OMP_NUM_THREADS"] = "1"
    rows, before = [], Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        os.chdir(root)
        try:
            paths, weights = draw(root / "scenes", flags.scenes), make_weights()
            (plain,) = predictors(weights, "", root / "plain.log")
            predict_scenes(paths, plain, root / "plain", progress=False)
            for seed in range(flags.seed, flags.seed + flags.runs):
                rows.append(attempt(paths, root / "plain", weights, root, flags, seed))
                print(rows[-1], flush=True)
                if flags.json:
                    flags.json.write_text(json.dumps(rows, indent=2) + "\n")
        finally:
            os.chdir(before)
    return int(any(row["wrong"] for row in rows))


if __name__ == "__main__":
    sys.exit(run())
