"""Accuracy and rate of a trained network over tile size and overlap.

    python -m benchmarks.tiles
    python -m benchmarks.tiles --checkpoint outputs/FCDPlus/models/best.pt --scenes data/test

The rate is of large scenes: what the tiles of these, which end outside of them, take is counted in
pixels that were computed, and shared out by how often one is.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge
from torch import Tensor

from benchmarks import measure
from benchmarks.measure import Rounds
from fcd import metrics
from fcd.cli import entry
from fcd.cli.modes import STARTER
from fcd.errors import UserError
from fcd.files import write_json
from fcd.landsat.scenes import Scene, find_scenes
from fcd.masks import thresholds
from fcd.masks.quantisation import differing
from fcd.masks.scoring import Scorer, Tiles, predictions
from fcd.synthetic.layout import write_data_set
from solver import load_solver


@dataclass(frozen=True)
class Settings(measure.Settings):
    """Accuracy and rate of a trained network over tile size and overlap.

    Of --scenes, or of drawn ones of any weather. Reading them is in the rate, writing is not.
    """

    checkpoint: Annotated[Path, "of a trained network"] = STARTER / "starter.pt"
    scenes: Annotated[Path | None, "folder of scenes with truth; None: drawn"] = None
    drawn: Annotated[int, Ge(1), "drawn scenes of each biome"] = 1
    side: Annotated[int, Ge(1), "of a drawn scene, pixels"] = 512
    seed: Annotated[int, Ge(0), "of drawn scenes"] = 0
    tile_sizes: Annotated[
        list[int] | None, Ge(1), "pixels; None: the side of the training patches, twice, four times"
    ] = None
    overlaps: Annotated[list[int], Ge(0), "pixels"] = field(default_factory=lambda: [8, 16, 32])
    batch_pixels: Annotated[int, Ge(1), "pixels of the tiles scored at a time"] = 1 << 16
    rounds: Rounds = 1


@dataclass(frozen=True)
class Row:
    """What one way to tile makes: times a pixel is computed, macro F1, pixels that differ, rates.

    differ: share of the pixels that another way masks otherwise, which computes one most often.
    """

    tile: int
    overlap: int
    computed: float
    macro_f1: float
    differ: float
    mpixel_per_second: float
    mpixel_per_cpu_second: float

    def line(self) -> str:
        """A line of the table."""
        return (
            f"{self.tile:6} {self.overlap:8} {self.computed:9.2f} {self.macro_f1:9.2%} "
            f"{self.differ:8.3%} {self.mpixel_per_second:9.3f} "
            f"{self.mpixel_per_cpu_second:8.3f}"
        )


HEAD = (
    f"{'tile':>6} {'overlap':>8} {'computed':>9} {'macro F1':>9} {'differ':>8} {'Mpixel/s':>9} "
    f"{'of CPU':>8}"
)


class Tiled:
    """Scenes masked in `tiles`: the counts against the truth, the masks, the pixels computed."""

    def __init__(self, scorer: Scorer, tiles: Tiles, threshold: float, scenes: list[Scene]) -> None:
        self.tiles, self._threshold, self._scenes = tiles, threshold, scenes
        self._scorer = replace(scorer, score=self._counted(scorer.score))
        self.masks: list[np.ndarray] = []
        self.pixels = 0

    def _counted(self, score: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def counted(x: Tensor) -> Tensor:
            self.pixels += x[:, 0].numel()
            return score(x)

        return counted

    def run(self) -> None:
        """Mask all scenes."""
        self.pixels = 0
        masked = partial(predictions, self._scorer, tiles=self.tiles, threshold=self._threshold)
        self.masks = [
            np.concatenate([part.mask for part in masked(scene)]) for scene in self._scenes
        ]

    @property
    def computed(self) -> float:
        """How often a pixel of a large scene is."""
        return (self.tiles.size / (self.tiles.size - self.tiles.overlap)) ** 2


def main(arguments: Sequence[str] | None = None) -> list[Row]:
    """Run the command line; return what was measured."""
    flags = measure.asked(Settings, arguments, "tiles")
    scorer = load_solver(flags.checkpoint, "cpu").scorer()
    threshold = thresholds.known(scorer)["threshold"]
    with TemporaryDirectory() as folder:
        if flags.scenes is None:
            write_data_set(folder, flags.drawn, flags.side, flags.seed, "wide")
        found = find_scenes(flags.scenes or folder)
        scenes = [scene.taking(scorer.normalization.bands) for scene in found if scene.truth]
        if not scenes:
            raise UserError(f"--scenes {flags.scenes}: no scene has a manual mask")
        rows = measured(scorer, threshold, scenes, flags)
    print("\n".join([f"{flags.checkpoint}, {len(scenes)} scenes", HEAD, *map(Row.line, rows)]))
    if flags.json:
        write_json(flags.json, [asdict(row) for row in rows])
    return rows


def measured(scorer: Scorer, threshold: float, scenes: list[Scene], flags: Settings) -> list[Row]:
    """A row for each tile size and each overlap of at most half of it."""
    sizes = flags.tile_sizes or [scorer.image_size * times for times in (1, 2, 4)]
    ways: dict[str, Tiled] = {}
    for size in sizes:
        for overlap in (overlap for overlap in flags.overlaps if overlap <= size // 2):
            tiles = Tiles.of(scorer, size, overlap, max(1, flags.batch_pixels // size**2))
            ways[f"{size}, {overlap}"] = Tiled(scorer, tiles, threshold, scenes)
    taken = measure.in_turn({name: way.run for name, way in ways.items()}, flags.rounds)
    careful = max(ways.values(), key=lambda way: way.computed)
    truths = [_truth(scene) for scene in scenes]
    return [
        Row(
            way.tiles.size,
            way.tiles.overlap,
            way.computed,
            float(metrics.macro_f1(_counts(truths, way.masks))),
            differing(_counts(careful.masks, way.masks)),
            way.pixels / way.computed / taken[name].seconds / 1e6,
            way.pixels / way.computed / taken[name].cpu_seconds / 1e6,
        )
        for name, way in ways.items()
    ]


def _truth(scene: Scene) -> np.ndarray:
    with scene.open() as reader:
        return reader.truth()


def _counts(truths: list[np.ndarray], masks: list[np.ndarray]) -> Any:
    return sum(metrics.confusion(*pair) for pair in zip(truths, masks, strict=True))


if __name__ == "__main__":
    entry.run(lambda: main() and 0)
