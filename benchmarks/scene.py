"""Masks of whole scenes, file to file."""

import copy
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import rasterio
import torch
from annotated_types import Ge
from torch import Tensor

from benchmarks import measure, plain
from benchmarks.measure import Comparison
from benchmarks.scenes import write_scene
from benchmarks.train_step import SIZES, Size, SizeName
from fcd.cli import entry
from fcd.cli.entry import compiles, use_device
from fcd.cli.parser import Flag
from fcd.files import write_text
from fcd.landsat.labels import LABEL_CLOUDY, TIF_CLOUD
from fcd.landsat.scenes import Scene, find_scenes
from fcd.masks.precision import BFLOAT16, INT8, Asked, Job, in_precision
from fcd.masks.prediction import predict_scene
from fcd.masks.predictor import predictor_of
from fcd.masks.quantisation import quantise
from fcd.masks.runtime import ONNX, Runtime, load_score
from fcd.masks.scoring import ArrayScene, Precision, Scorer, Tiles, Way, sampled, strips
from fcd.patches.normalisation import Normalization
from fcd.report import plots
from fcd.training.losses import difference_map
from fcd.training.run import Run, RunFolder
from model import Task
from solver import FCDSolver, SupervisedSolver

Network = Literal["unet", "gan"]
NAMES: dict[Network, str] = {"unet": "U-Net", "gan": "generator"}
Solver = FCDSolver | SupervisedSolver


@dataclass(frozen=True)
class Settings(measure.Settings):
    """Masks of whole scenes, file to file: all in memory and float32, against strips and tiles.

    The networks have random weights, whose time is that of trained ones. Memory is that of the
    whole process. `--plot` draws both against the size of the scene.
    """

    network: Annotated[Network, "what scores"] = "unet"
    size: Annotated[SizeName, "of the network"] = "paper"
    mpixel: Annotated[list[float], Ge(0), "sizes of square scenes"] = field(
        default_factory=lambda: [1, 4]
    )
    plain_up_to: Annotated[float, Ge(0), "Mpixel; larger ones ours alone"] = 4
    tile_size: Annotated[int | None, Ge(1), "None: the default"] = None
    overlap: Annotated[int | None, Ge(0), "None: the default"] = None
    batch_size: Annotated[int, Ge(1), "tiles at a time"] = 16
    precision: Annotated[Precision, "of the scores of ours"] = "float32"
    runtime: Annotated[Runtime | None, "what computes the scores of ours"] = None
    compile: Annotated[bool, "ours with --compile True"] = False
    device: measure.Device = "auto"
    plot: Annotated[Path | None, Flag(metavar="STEM"), "write STEM-{memory,time}.svg"] = None


def main(arguments: Sequence[str] | None = None) -> list[Comparison]:
    """Run the command line; return what was measured."""
    flags = measure.asked(Settings, arguments, "scene")
    device = use_device(flags.device)
    run = Run(RunFolder("benchmark"), device, compile=compiles(flags.compile, device))
    solver = build(flags.network, SIZES[flags.size], run)
    tiles = Tiles.of(solver.scorer(), flags.tile_size, flags.overlap, flags.batch_size)
    side = tiles.size
    work = measure.flops(lambda: solver.score(torch.zeros(1, 10, side, side, device=device)))
    dtype = torch.bfloat16 if flags.precision == BFLOAT16 else torch.float32
    limit = measure.matrix_product(dtype, device) * side**2 / work / 1e6
    made = [measured(solver, tiles, mpixel, flags, limit) for mpixel in flags.mpixel]
    measure.show(made, flags.json)
    if flags.plot:
        write_plots(made, flags.mpixel, flags.plot)
    return made


def measured(
    solver: Solver, tiles: Tiles, mpixel: float, flags: Settings, limit: float | None = None
) -> Comparison:
    """Both ways of masking a square scene of `mpixel`; limit: Mpixel/s the hardware could do."""
    kind = flags.precision + ", compiled" * flags.compile
    kind += f", {flags.runtime}" if flags.runtime else ""
    name = f"{NAMES[flags.network]}, {mpixel:g} Mpixel, {kind}"
    length, with_plain = round((mpixel * 1e6) ** 0.5), mpixel <= flags.plain_up_to
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_scene(root / "scene", length, length)
        (scene,) = find_scenes(root / "scene")
        asked = Asked.of(flags.precision, flags.runtime, amp=False, default=flags.precision)
        asked.check(solver.scorer())
        scorer = in_asked_precision(solver.scorer(), asked, scene, tiles, root)
        threshold = median_score(solver, scene, tiles)
        spent: list[float] = []  # by the last run
        scorer = clocked(scorer, spent)
        plainly, ours = ways_of(solver, scorer, scene, threshold, tiles, root)
        done = measure.compare(
            name,
            "Mpixel/s",
            length**2 / 1e6,
            plainly if with_plain else None,
            lambda: spent.clear() or ours(),
            flags.rounds,
            limit,
        )
        if solver.device.type == "cpu":  # others work while their scores are waited for
            print(f"{name}: the network takes {sum(spent) / done.ours.seconds:.0%} of the time")
        if with_plain:
            differ, cloud = differing(root, scene)
            print(f"{name}: {differ:.4%} of pixels differ; {cloud:.0%} are cloud")
    return done


def in_asked_precision(
    scorer: Scorer, asked: Asked, scene: Scene, tiles: Tiles, folder: Path
) -> Scorer:
    """`scorer` as asked for; in int8 it is not compared, as random weights would not agree."""
    if asked.precision != INT8:
        return in_precision(scorer, asked, tiles, 0.5, Job(folder, lambda: iter([scene]), 1))
    network, inputs = folder / "int8.onnx", sampled(scorer, scene, tiles, 64 * tiles.size**2)
    quantise(network, scorer.module, scorer.multiple, (x for x, _ in inputs))
    return replace(scorer, score=load_score(network), way=Way(INT8, ONNX))


def clocked(scorer: Scorer, spent: list[float]) -> Scorer:
    """`scorer`, of which each score adds the seconds it takes to `spent`."""

    def score(x: Tensor) -> Tensor:
        began = time.perf_counter()
        scores = scorer.score(x)
        spent.append(time.perf_counter() - began)
        return scores

    return replace(scorer, score=score)


def build(network: str, size: Size, run: Run) -> Solver:
    """A solver with random weights, as it would come from a checkpoint."""
    normalization = Normalization.paper(10)
    if network == "gan":
        return FCDSolver(run, size.gan, size.image_size, normalization)
    solver = SupervisedSolver(run, Task(encoder=size.encoder), size.image_size, normalization)
    # Without statistics of its batch norm a random U-Net's probabilities are all 0 or 1.
    solver.network.train()
    with torch.no_grad():
        for _ in range(20):
            solver.network(2 * torch.rand(2, 10, 64, 64, device=run.device) - 1)
    solver.ready_to_score()
    return solver


def median_score(solver: Solver, scene: Scene, tiles: Tiles, rows: int = 512) -> float:
    """A threshold that cuts the scores of the first rows of `scene` in half."""
    with scene.open() as reader:
        first = ArrayScene(reader.bands(0, min(rows, reader.grid.height)))
    scored = strips(solver.scorer(), first, tiles)
    return float(np.median(np.concatenate([strip.score for strip in scored])))


def ways_of(
    solver: Solver, scorer: Scorer, scene: Scene, threshold: float, tiles: Tiles, folder: Path
) -> tuple[Callable[[], None], Callable[[], None]]:
    """Plain and our way of masking `scene`: plain.tif and ours/<scene>_mask.tif in `folder`.

    scorer: what ours scores by.
    """
    contiguous = copy.deepcopy(solver.network).to(memory_format=torch.contiguous_format)
    contiguous = plain.with_pytorch_layers(contiguous)

    def score(x: Tensor) -> Tensor:
        if isinstance(solver, FCDSolver):
            return difference_map(contiguous, x)
        return contiguous(x).softmax(dim=1)[:, LABEL_CLOUDY]

    def plainly() -> None:
        plain.mask_scene(
            scene,
            score,
            solver.normalization,
            threshold,
            folder / "plain.tif",
            tiles.size,
            tiles.overlap,
            tiles.batch_size,
            solver.device,
        )

    predictor = predictor_of(scorer, tiles, threshold)
    return plainly, lambda: predict_scene(scene, predictor, folder / "ours") and None


def differing(folder: Path, scene: Scene) -> tuple[float, float]:
    """Share of the pixels in which the two masks in `folder` differ, and that of cloud in ours."""
    masks = []
    for path in (folder / "plain.tif", folder / "ours" / f"{scene.name}_mask.tif"):
        with rasterio.open(path) as dataset:
            masks.append(dataset.read(1))
    return float(np.mean(masks[0] != masks[1])), float(np.mean(masks[1] == TIF_CLOUD))


def write_plots(made: Sequence[Comparison], mpixel: Sequence[float], stem: Path) -> None:
    """Draw memory and time of our way against the size of the scene."""
    for what, unit, values in (
        ("memory", "peak memory, GiB", [c.ours.peak_mib / 1024 for c in made]),
        ("time", "minutes", [c.ours.seconds / 60 for c in made]),
    ):
        picture = plots.curve(
            np.column_stack([mpixel, values]),
            [plots.Mark(c.name, x, y) for c, x, y in zip(made, mpixel, values, strict=True)][-1:],
            x_label="size of the scene, Mpixel",
            y_label=unit,
            alt=f"{unit} by the size of the scene",
            x_max=max(mpixel),
            y_max=max(1.2 * max(values), 0.1),
        )
        write_text(stem.with_name(f"{stem.name}-{what}.svg"), picture)


if __name__ == "__main__":
    entry.run(lambda: main() and 0)
