"""Cloud masks by other programs and by ours: Mpixel/s and peak memory, in turn on one machine.

    python -m benchmarks.peers --threads 1

Each peer runs in an environment of its own, which is made here by pip. A peer that takes no files
is given an array; ours, and the plain way, go from a scene's files to a mask's file. Loading a
network counts, importing libraries does not.
"""

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge

from benchmarks import measure, scene
from benchmarks.measure import Rounds
from benchmarks.scenes import write_scene
from benchmarks.train_step import SIZES, SizeName
from fcd.cli import entry
from fcd.cli.modes import STARTER_NAME
from fcd.errors import UserError
from fcd.files import write_json
from fcd.landsat.radiometry import REFLECTANCE_ADD, REFLECTANCE_MULT
from fcd.landsat.scenes import find_scenes
from fcd.masks.summary import SUMMARY
from fcd.training import checkpoints
from fcd.training.run import Run, RunFolder

ROOT = Path(__file__).parents[1]
SIX = ["B2", "B3", "B4", "B5", "B6", "B7"]  # blue to the second short-wave infrared
OUTPUT = "--output_dir"
CSMASK = "ukis-csmask[cpu]==1.0.0"


@dataclass(frozen=True)
class Settings(measure.Settings):
    """Cloud masks by other programs and by ours: Mpixel/s and peak memory."""

    size: Annotated[SizeName, "of our U-Net with random weights, whose time is that of any"] = (
        "paper"
    )
    checkpoint: Annotated[
        Path | None, "of a trained U-Net in place of random weights, which int8 does not take"
    ] = None
    mpixel: Annotated[list[float], Ge(0), "sizes of square scenes"] = field(
        default_factory=lambda: [1, 4, 16]
    )
    environments: Annotated[Path, "folder of the peers' environments, which are kept"] = Path(
        "outputs/peers"
    )
    rounds: Rounds = 1


@dataclass(frozen=True)
class Input:
    """What all mask, as files in `folder`: a scene, six bands of it as reflectance, and weights."""

    folder: Path
    flags: Settings

    @property
    def scene(self) -> Path:
        """Folder of the scene's folder."""
        return self.folder / "scene"

    @property
    def array(self) -> Path:
        """Reflectance (H, W, 6) float32."""
        return self.folder / "scene.npy"

    @property
    def weights(self) -> Path:
        """Of our U-Net."""
        return self.flags.checkpoint or self.folder / "random.pt"

    @property
    def masks(self) -> Path:
        """Folder of the folders of the masks of ours."""
        return self.folder / "masks"

    def write(self, mpixel: float) -> None:
        """Write a scene of so many Mpixel."""
        side = round((mpixel * 1e6) ** 0.5)
        write_scene(self.scene, side, side)
        (only,) = find_scenes(self.scene)
        with only.taking(SIX).open() as reader:
            dn = reader.bands().astype(np.float32)
        reflectance = dn * np.float32(REFLECTANCE_MULT) + np.float32(REFLECTANCE_ADD)
        np.save(self.array, np.moveaxis(reflectance, 0, -1))
        if self.flags.checkpoint is None:
            run = Run(RunFolder("benchmark"), torch.device("cpu"))
            solver = scene.build("unet", SIZES[self.flags.size], run)
            checkpoints.save(self.weights, solver.state())


@dataclass(frozen=True)
class Row:
    """What a peer made of a scene; `note` says why nothing, or how."""

    peer: str
    mpixel: float
    mpixel_per_second: float | None
    mpixel_per_cpu_second: float | None
    peak_mib: float | None
    note: str = ""

    def line(self) -> str:
        """A line of the table."""
        figures = (self.mpixel_per_second, self.mpixel_per_cpu_second, self.peak_mib)
        told = " ".join("-".rjust(9) if value is None else f"{value:9.4g}" for value in figures)
        return f"{self.peer:32} {self.mpixel:7g} {told}  {self.note}"


HEAD = f"{'':32} {'Mpixel':>7} {'Mpixel/s':>9} {'of CPU':>9} {'peak MiB':>9}"
Peer = Callable[[Input], list[str | Path]]  # its command


# --- peers --------------------------------------------------------------------------------------


def csmask(given: Input) -> list[str | Path]:
    """ukis-csmask, which takes an array."""
    python = environment(given.flags.environments, CSMASK)
    return [python, "-m", "benchmarks.peer", "csmask", given.array, str(torch.get_num_threads())]


def plainly(given: Input) -> list[str | Path]:
    """`benchmarks.plain`."""
    paths = (given.weights, given.scene, given.folder / "plain.tif")
    return [sys.executable, "-m", "benchmarks.peer", "plain", *paths]


def ours(precision: str, weights: str | None = None) -> Peer:
    """`supervised_main.py --mode predict`; weights: None takes those of the input.

    What it makes once, such as a network in int8, the same one finds in its folder.
    """

    def command(given: Input) -> list[str | Path]:
        flags = ["--mode", "predict", "--device", "cpu", "--precision", precision]
        folder = given.masks / "-".join(filter(None, (precision, weights)))
        paths = ["--scenes", given.scene, OUTPUT, folder, "--overwrite", "True"]
        chosen = ["--model_weights", weights or given.weights]
        return [sys.executable, "-m", "benchmarks.peer", "ours", *flags, *paths, *chosen]

    return command


PEERS: dict[str, Peer] = {
    "ukis-csmask 1.0.0, array": csmask,
    "plain, file to file": plainly,
    "ours, float32": ours("float32"),
    "ours, auto": ours("auto"),
    "ours, int8, which is made": ours("int8"),
    "ours, int8, which is there": ours("int8"),
    "ours, starter, float32": ours("float32", STARTER_NAME),
    "ours, starter, auto": ours("auto", STARTER_NAME),
    "ours, starter, int8, made": ours("int8", STARTER_NAME),
    "ours, starter, int8, there": ours("int8", STARTER_NAME),
}


def environment(folder: Path, requirement: str) -> Path:
    """The Python of an environment with `requirement`, made unless it is there.

    Raises `UserError` that says why it cannot be made.
    """
    place = folder.resolve() / requirement.replace("[", "-").replace("]", "")
    python, complete = place / "bin" / "python", place / "complete"
    if not complete.exists():
        _output([sys.executable, "-m", "venv", place])
        _output([python, "-m", "pip", "install", "--quiet", requirement])
        complete.touch()
    return python


# --- measured -----------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> list[Row]:
    """Run the command line; return what was measured."""
    flags, rows = measure.asked(Settings, arguments, "peers"), []
    print(f"{torch.get_num_threads()} threads\n{HEAD}")
    for mpixel in flags.mpixel:
        for row in measured(mpixel, flags):
            print(row.line(), flush=True)
            rows.append(row)
    if flags.json:
        write_json(flags.json, [asdict(row) for row in rows])
    return rows


def measured(mpixel: float, flags: Settings) -> Iterator[Row]:
    """A row for each peer, of a scene of `mpixel`."""
    with TemporaryDirectory() as folder:
        given = Input(Path(folder), flags)
        given.write(mpixel)
        took: dict[str, list[dict[str, float]]] = {name: [] for name in PEERS}
        notes = dict.fromkeys(PEERS, "")
        for _ in range(flags.rounds):
            shutil.rmtree(given.masks, ignore_errors=True)
            for name, peer in PEERS.items():
                try:
                    command = peer(given)
                    took[name].append(json.loads(_output(command).splitlines()[-1]))
                    notes[name] = _precision(command)
                except UserError as error:
                    notes[name] = str(error)
        for name, runs in took.items():
            rates: list[float | None] = [
                mpixel / median(run[clock] for run in runs) if runs else None
                for clock in ("seconds", "cpu_seconds")
            ]
            peak = max((run["peak_mib"] for run in runs), default=None)
            yield Row(name, mpixel, *rates, peak, notes[name])


def _precision(command: list[str | Path]) -> str:
    """What the summary of ours, if that is what `command` is, says that was taken."""
    if OUTPUT not in command:
        return ""
    with Path(command[command.index(OUTPUT) + 1], SUMMARY).open(newline="") as file:
        *_, last = csv.DictReader(file)
    return last["precision"]


def _output(command: Sequence[str | Path]) -> str:
    """What `command` prints; `UserError` with the last line of its complaint if it fails."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        *_, last = ["no word", *done.stderr.strip().splitlines()]
        raise UserError(f"{Path(command[0]).name} has failed: {last}")
    return done.stdout


if __name__ == "__main__":
    entry.run(lambda: main() and 0)
