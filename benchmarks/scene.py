"""Masks of whole scenes, file to file: all in memory and float32, against strips and tiles.

The networks have random weights, whose time is that of trained ones. Memory is that of the whole
process. `--plot` draws both against the size of the scene.
"""

import copy
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import rasterio
import torch
from torch import Tensor

from benchmarks import measure, plain
from benchmarks.measure import Comparison
from benchmarks.scenes import write_scene
from benchmarks.train_step import SIZES, Size
from fcd.cli import entry
from fcd.cli.entry import compiles, use_device
from fcd.cli.parser import boolean, natural, non_negative, positive
from fcd.files import write_text
from fcd.landsat.labels import LABEL_CLOUDY, TIF_CLOUD
from fcd.landsat.scenes import Scene, find_scenes
from fcd.masks.prediction import predict_scene
from fcd.masks.runtime import PYTORCH, RUNTIMES
from fcd.masks.scoring import ArrayScene, Tiles, strips
from fcd.patches.normalisation import Normalization
from fcd.report import plots
from fcd.training.losses import difference_map
from fcd.training.run import RunFolder
from solver import FCDSolver, Run, SupervisedSolver, Task

NAMES = {"unet": "U-Net", "gan": "generator"}
Solver = FCDSolver | SupervisedSolver


def main(arguments: Sequence[str] | None = None) -> list[Comparison]:
    """Run the command line; return what was measured."""
    parser = measure.parser(__doc__, rounds=3)
    parser.add_argument("--network", choices=list(NAMES), default="unet", help="what scores")
    parser.add_argument("--size", choices=list(SIZES), default="paper", help="of the network")
    parser.add_argument(
        "--mpixel", type=non_negative, nargs="+", default=[1, 4], help="sizes of square scenes"
    )
    parser.add_argument(
        "--plain_up_to", type=non_negative, default=4, help="Mpixel; larger ones ours alone"
    )
    parser.add_argument("--tile_size", type=positive, default=None, help="None: the default")
    parser.add_argument("--overlap", type=natural, default=None, help="None: the default")
    parser.add_argument("--batch_size", type=positive, default=16, help="tiles at a time")
    parser.add_argument(
        "--amp", type=boolean, default=False, metavar="BOOL", help="ours in bfloat16"
    )
    parser.add_argument(
        "--runtime", choices=RUNTIMES, default=PYTORCH, help="what computes the scores of ours"
    )
    parser.add_argument(
        "--compile", type=boolean, default=False, metavar="BOOL", help="ours with --compile True"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    parser.add_argument(
        "--plot", type=Path, default=None, metavar="STEM", help="write STEM-{memory,time}.svg"
    )
    flags = parser.parse_args(arguments)
    measure.use_threads(flags.threads)
    device = use_device(flags.device)
    run = Run(RunFolder("benchmark"), device, compile=compiles(flags.compile, device))
    solver = build(flags.network, SIZES[flags.size], run)
    tiles = Tiles.of(
        solver.scorer(),
        flags.tile_size,
        flags.overlap,
        flags.batch_size,
        flags.amp,
        runtime=flags.runtime,
    )
    dtype = torch.bfloat16 if flags.amp else torch.float32
    side = tiles.size
    work = measure.flops(lambda: solver.score(torch.zeros(1, 10, side, side, device=device)))
    limit = measure.matrix_product(dtype, device) * side**2 / work / 1e6
    made, kind = [], ("bf16" if flags.amp else "float32") + ", compiled" * flags.compile
    kind += f", {flags.runtime}" * (flags.runtime != PYTORCH)
    with tempfile.TemporaryDirectory() as folder:
        for mpixel in flags.mpixel:
            root = Path(folder, "scene")
            length = round((mpixel * 1e6) ** 0.5)
            write_scene(root, length, length)
            (scene,) = find_scenes(root)
            threshold = median_score(solver, scene, tiles)
            ways = ways_of(solver, scene, threshold, tiles, Path(folder))
            with_plain = mpixel <= flags.plain_up_to
            made.append(
                measure.compare(
                    f"{NAMES[flags.network]}, {mpixel:g} Mpixel, {kind}",
                    "Mpixel/s",
                    length**2 / 1e6,
                    ways[0] if with_plain else None,
                    ways[1],
                    flags.rounds,
                    limit,
                )
            )
            if with_plain:
                differ, cloud = differing(Path(folder), scene)
                print(f"{made[-1].name}: {differ:.4%} of pixels differ; {cloud:.0%} are cloud")
            shutil.rmtree(root)
    measure.show(made, flags.json)
    if flags.plot:
        write_plots(made, flags.mpixel, flags.plot)
    return made


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
    return float(
        np.median(np.concatenate([strip.score for strip in strips(solver.scorer(), first, tiles)]))
    )


def ways_of(
    solver: Solver, scene: Scene, threshold: float, tiles: Tiles, folder: Path
) -> tuple[Callable[[], None], Callable[[], None]]:
    """Plain and our way of masking `scene`: plain.tif and ours/<scene>_mask.tif in `folder`."""
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

    predictor = solver.predictor(threshold, tiles)
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
