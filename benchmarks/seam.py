"""The seam between tiles: scores of one scene without and with overlap, measured and drawn.

    python -m benchmarks.seam SCENE --picture seam.png

Instance norm gives every tile statistics of its own, so that the score jumps where two tiles
meet. SCENE is what `--scenes` of the mains takes; without `--checkpoint` the generator is small
and has random weights, which is where instance norm alone shows.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge

from fcd.cli import entry
from fcd.cli.parser import Flag, parse
from fcd.landsat.bands import BANDS
from fcd.landsat.products import scene_from
from fcd.landsat.scenes import Scene
from fcd.masks.scoring import Tiles, Views, strips
from fcd.patches.normalisation import Normalization
from fcd.pictures import write_png
from fcd.training.run import Run, RunFolder
from model import GANSize
from solver import FCDSolver, Solver, load_solver


@dataclass(frozen=True)
class Settings:
    """The seam between tiles: scores of one scene without and with overlap, measured and drawn."""

    scene: Annotated[str, Flag(positional=True), "as --scenes of the mains"]
    checkpoint: Annotated[Path | None, "of FCD; None: random weights"] = None
    tile_size: Annotated[int, Ge(1), "side in pixels"] = 64
    overlaps: Annotated[list[int], Ge(0), "pixels"] = field(default_factory=lambda: [0, 8, 32])
    context: Annotated[int, Ge(0), "as --context of the mains, pixels"] = 0
    picture: Annotated[Path | None, "PNG to write"] = None


def random_generator(tile: int) -> FCDSolver:
    """A small generator with the weights of seed 0."""
    run = Run(RunFolder("seam"), torch.device("cpu"))
    return FCDSolver(run, GANSize(4, 1, 4, 3), tile, Normalization.paper(len(BANDS)))


def scores(solver: Solver, scene: Scene, tile: int, overlap: int) -> np.ndarray:
    """The scene's scores (H, W)."""
    scorer = solver.scorer()
    scored = strips(scorer, scene, Tiles.of(scorer, tile, overlap))
    return np.concatenate([strip.score for strip in scored])


def seam(score: np.ndarray, tile: int, overlap: int) -> float:
    """Mean jump of `score` (H, W) across tile borders, over the mean jump elsewhere.

    A jump is averaged along the side of a tile: what differs from tile to tile stays, the
    texture of the image goes.
    """
    stride = tile - overlap
    whole = len(score) // stride * stride
    steps = np.diff(score[:whole], axis=1).reshape(-1, stride, score.shape[1] - 1)
    jump = np.abs(steps.mean(axis=1)).mean(axis=0)
    # Tiles begin `overlap` pixels outside of the scene.
    borders = np.arange(stride, len(jump), stride) - 1
    return float(jump[borders].mean() / np.delete(jump, borders).mean())


def grid(score: np.ndarray, stride: int) -> float:
    """Energy of `score` (H, W) at the tiles' frequency, over that of its neighbours.

    Of rows and columns, each over as many tiles as there are whole ones. 1: no grid; NaN: fewer
    than four tiles in a row or column.
    """
    ratios = []
    if min(score.shape) < 4 * stride:
        return math.nan
    for lines in (score, score.T):
        tiles = lines.shape[1] // stride
        lines = lines[:, : tiles * stride]
        energy = (np.abs(np.fft.rfft(lines - lines.mean(), axis=1)) ** 2).mean(axis=0)
        beside = [tiles + step for step in (-3, -2, 2, 3)]
        ratios.append(energy[tiles] / energy[beside].mean())
    return float(np.mean(ratios))


def drawn(before: np.ndarray, after: np.ndarray, side: int = 320) -> np.ndarray:
    """Corners of two score maps side by side as RGB uint8: one scale, 16 greys (a small file)."""
    low, high = np.percentile(before, (1, 99))
    shown = [scores[:side, :side] for scores in (before, after)]
    corners = np.hstack([shown[0], np.full((len(shown[0]), 8), high), shown[1]])
    grey = np.rint(15 * np.clip((corners - low) / (high - low), 0, 1)).astype(np.uint8) * 17
    return np.repeat(grey[..., None], 3, axis=2)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print seam and grid at each overlap; draw scores of the first and the last side by side."""
    flags = parse(Settings, arguments, "-m benchmarks.seam")
    tile = flags.tile_size
    solver = load_solver(flags.checkpoint, "cpu") if flags.checkpoint else random_generator(tile)
    scene = scene_from(flags.scene, solver.normalization.bands)
    solver.views = Views(context=flags.context)
    maps = [scores(solver, scene, tile, overlap) for overlap in flags.overlaps]
    for overlap, score in zip(flags.overlaps, maps, strict=True):
        print(
            f"overlap {overlap}: seam {seam(score, tile, overlap):.2f}, "
            f"grid {grid(score, tile - overlap):.2f}"
        )
    if flags.picture:
        write_png(flags.picture, drawn(maps[0], maps[-1]))


if __name__ == "__main__":
    entry.run(main)
