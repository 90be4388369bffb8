"""A trained method as the rest of the program sees it, and whole scenes scored by it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from rasterio.transform import Affine
from torch import Tensor, nn
from tqdm import tqdm

from fcd.errors import UserError
from fcd.landsat import labels
from fcd.landsat.rasters import Grid
from fcd.landsat.scenes import Scene
from fcd.masks.runtime import ONNX, PYTORCH, Runtime, Scored, libraries, onnx_score
from fcd.masks.tiling import Score, Strip, score_strips
from fcd.patches.normalisation import Normalization, to_device
from fcd.processes import ALONE, Processes

# The networks' zero padding writes a frame of about this many pixels into the scores of a tile.
FRAME = 32


@dataclass(frozen=True)
class Scorer:
    """A score and all that has to be known of it; a solver hands it out (`Solver.scorer`)."""

    experiment: str
    name: str
    """What the score is, such as "difference map"."""
    score: Score
    network: nn.Module
    """What `score` uses."""
    normalization: Normalization
    rgb: tuple[int, ...]
    """Red, green and blue among the bands, from 0."""
    image_size: int
    """Side of the patches it was trained on, pixels."""
    multiple: int
    """Tile sides are multiples of this, pixels."""
    device: torch.device
    identify: Callable[[], str]
    """What `fingerprint` is read from."""
    results: tuple[Path, ...]
    """Where its threshold may be written down; it is written to the first."""
    natural_threshold: float | None = None
    """Of a score that is a probability."""
    not_exportable: str = ""
    """Why it cannot be written as ONNX, in words."""
    compiled: bool = False
    processes: Processes = ALONE

    @cached_property
    def fingerprint(self) -> str:
        """Twelve hex digits that tell these weights and this normalisation from others."""
        return self.identify()

    def inputs(self, batch: dict) -> Tensor:
        """Images of a batch as network input, normalised on the device."""
        return self.normalization.normalize(to_device(batch["image"], self.device).contiguous())

    def autocast(self, amp: bool) -> torch.autocast:
        """With `amp` the network computes in bfloat16 where that is safe."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=amp)

    def check_exportable(self) -> None:
        """Raise `UserError` if `score` cannot be written as ONNX."""
        if self.not_exportable:
            raise UserError(self.not_exportable)

    @cached_property
    def onnx_score(self) -> Score:
        """`score` by ONNX Runtime, with the weights as they are when it is first asked for."""
        with torch.inference_mode(False):
            module = Scored(self.network, self.score, self.normalization.num_channels)
            return onnx_score(module, self.multiple)


@dataclass(frozen=True)
class Tiles:
    """How whole scenes are scored: tile side, overlap (pixels) and tiles per batch."""

    size: int
    overlap: int
    batch_size: int
    amp: bool = False
    """Whether the networks compute in bfloat16 where that is safe."""
    nodata: float | str | None = None
    """Of all scenes, whatever their files say; None: what they say, "none": no value."""
    runtime: Runtime = PYTORCH
    """What computes the scores."""

    @classmethod
    def of(
        cls,
        scorer: Scorer,
        size: int | None = None,
        overlap: int | None = None,
        batch_size: int = 16,
        amp: bool = False,
        nodata: float | str | None = None,
        runtime: Runtime = PYTORCH,
    ) -> "Tiles":
        """By default tiles of the training patches' size.

        Raises `UserError` if the network cannot take the tiles, or not in this `runtime`.
        """
        size = size or scorer.image_size
        overlap = min(FRAME, size // 2) if overlap is None else overlap
        if size % scorer.multiple:
            raise UserError(f"--tile_size {size} is no multiple of {scorer.multiple}")
        if overlap > size // 2:
            raise UserError(f"--overlap {overlap} exceeds half the tile ({size // 2} pixels)")
        if runtime == ONNX:
            _check_onnx(scorer, amp)
        return cls(size, overlap, batch_size, amp, nodata, runtime)


def _check_onnx(scorer: Scorer, amp: bool) -> None:
    """Raise `UserError` if ONNX Runtime cannot score."""
    if scorer.device.type != "cpu":
        raise UserError(f"--runtime {ONNX} scores on the CPU: add --device cpu")
    if amp:
        raise UserError(f"--runtime {ONNX} computes in float32: leave --amp out")
    if scorer.compiled:
        raise UserError(f"--runtime {ONNX} compiles the network itself: leave --compile out")
    scorer.check_exportable()
    libraries()


@dataclass(frozen=True)
class ArrayScene:
    """DN in memory, (C, H, W), as much of a `Scene` as is asked for here.

    Or (N, C, H, W), those of N scenes of one size (`fcd.masks.tiling.score_strips`).
    """

    dn: np.ndarray
    nodata: float | tuple[float | None, ...] | None = None
    key: str = "array"

    @property
    def dtype(self) -> str:
        """The type of the DN."""
        return self.dn.dtype.name

    @contextmanager
    def open(self) -> Iterator["ArrayScene"]:
        """Nothing is opened."""
        yield self

    @property
    def grid(self) -> Grid:
        """Size alone, no place."""
        height, width = self.dn.shape[-2:]
        return Grid(height, width, None, Affine.identity())

    def bands(self, start: int, stop: int) -> np.ndarray:
        """The rows `start` to `stop`."""
        return self.dn[..., start:stop, :]


@dataclass(frozen=True)
class Prediction:
    """Some full-width rows of a predicted mask."""

    row: int
    """First row in the scene."""
    rgb: np.ndarray
    """(3, h, W) DN."""
    mask: np.ndarray
    """(h, W) uint8 patch codes."""
    score: np.ndarray | None
    """(h, W) in [0, 1], or None for a method without a score."""


@torch.inference_mode()
def strips(scorer: Scorer, scene: Scene | ArrayScene, tiles: Tiles) -> Iterator[Strip]:
    """Score a whole scene; see `fcd.masks.tiling.score_strips`."""

    def by_pytorch(x: Tensor) -> Tensor:
        with scorer.autocast(tiles.amp):
            return scorer.score(x)

    with scene.open() as reader:
        height, width = reader.grid.height, reader.grid.width
        silent = not scorer.processes.first
        with tqdm(total=height, desc=scene.key, unit="row", leave=False, disable=silent) as bar:
            for strip in score_strips(
                reader.bands,
                height,
                width,
                scorer.onnx_score if tiles.runtime == ONNX else by_pytorch,
                scorer.normalization.of(
                    reader.dtype, reader.nodata, f"scene {scene.key}", tiles.nodata
                ),
                scorer.device,
                tile=tiles.size,
                overlap=tiles.overlap,
                batch_size=tiles.batch_size,
            ):
                yield strip
                bar.update(strip.score.shape[-2])


def predictions(
    scorer: Scorer, scene: Scene | ArrayScene, tiles: Tiles, threshold: float
) -> Iterator[Prediction]:
    """Score a scene and threshold the score."""
    for strip in strips(scorer, scene, tiles):
        mask = labels.patch_from_score(strip.score, strip.valid, threshold)
        yield Prediction(strip.row, strip.dn[list(scorer.rgb)], mask, strip.score)
