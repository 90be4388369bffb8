"""A trained method as the rest of the program sees it, and whole scenes scored by it."""

import itertools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rasterio.transform import Affine
from torch import nn
from tqdm import tqdm

import fcd
from fcd.errors import UserError
from fcd.files import digest
from fcd.landsat import labels, reference
from fcd.landsat.bands import FILL_DN, default_rgb, in_files, positions
from fcd.landsat.radiometry import Radiometry, with_sun
from fcd.landsat.rasters import Grid, blanked, plain
from fcd.landsat.scenes import Scene, SceneReader
from fcd.masks.runtime import PYTORCH, DNScore, Runtime, Scored, write_onnx
from fcd.masks.tiling import Score, Strip, score_strips
from fcd.patches.normalisation import FILL, Normalization
from fcd.processes import ALONE, Processes

# The networks' zero padding writes a frame of about this many pixels into the scores of a tile.
FRAME = 32
# From this side of its training patches on a U-Net scores the inside of tiles of any size alike;
# those of the larger side waste little.
ENOUGH, LARGE = 128, 256


Tta = Literal["none", "flip", "d4"]
Precision = Literal["float32", "bfloat16", "int8"]


@dataclass(frozen=True)
class Way:
    """How a score is computed.

    why: in words, if it was chosen. network: digest of the file of a network in int8, which another
    calibration makes another.
    """

    precision: Precision = "float32"
    runtime: Runtime = PYTORCH
    why: str = ""
    network: str = ""

    @property
    def told(self) -> str:
        """The precision, and why it is that."""
        return self.precision + (f" ({self.why})" if self.why else "")

    @property
    def tag(self) -> str:
        """What tells its masks from others: ONNX Runtime's float32 gives those of PyTorch's."""
        return self.precision + (f" {self.network}" if self.network else "")


PLAIN = Way()


@dataclass(frozen=True)
class Views:
    """How a tile is looked at.

    tta: its score is averaged over it alone, its four mirror images, or all eight symmetries of a
    square. context: pixels by which it is continued on all sides, by reflection, and which are cut
    off the score.
    """

    tta: Tta = "none"
    context: int = 0

    @property
    def told(self) -> str:
        """What follows upon the name of a score that is looked at so."""
        views = "" if self.tta == "none" else f", mean of {self.tta}s"
        return views + (f", context {self.context}" if self.context else "")

    def of(self, score: Score) -> Score:
        """The mean of `score` over the views of what it is given, each turned back."""
        if self.context:
            score = _continued(score, self.context)
        return score if self.tta == "none" else _averaged(score, self.tta == "d4")


def _averaged(score: Score, turned: bool) -> Score:
    def mean(x: torch.Tensor) -> torch.Tensor:
        # Of turned views, in x (N, C, h, w) and score (N, h, w), the last two dimensions change.
        turns, mirrors = ((False, True) if turned else (False,)), ((), (-1,), (-2,), (-2, -1))
        views = []
        for turn, mirrored in itertools.product(turns, mirrors):
            view = score((x.mT if turn else x).flip(mirrored)).flip(mirrored)
            views.append(view.mT if turn else view)
        return torch.stack(views).mean(dim=0)

    return mean


def _continued(score: Score, pixels: int) -> Score:
    # Convolutions pad with zeros, which the generator has seen at the borders of patches alone and
    # marks: where tiles overlap, that would be a grid over the scene.
    inside = slice(pixels, -pixels)

    def scored(x: torch.Tensor) -> torch.Tensor:
        continued = torch.nn.functional.pad(x, (pixels,) * 4, mode="reflect")
        return score(continued)[:, inside, inside]

    return scored


@dataclass(frozen=True)
class Scorer:
    """A score and all that has to be known of it; a solver hands it out (`Solver.scorer`)."""

    experiment: str
    name: str  # what the score is, such as "difference map"
    score: Score
    network: nn.Module  # what `score` uses
    normalization: Normalization
    rgb: tuple[int, ...]  # red, green and blue among the bands, from 0
    image_size: int  # side of the patches it was trained on, pixels
    multiple: int  # tile sides are multiples of this, pixels
    device: torch.device
    identify: Callable[[], str]  # what `fingerprint` is read from
    checkpoint: Path  # which the weights are from
    results: tuple[Path, ...]  # where its threshold may be written down; it is written to the first
    views: Views = field(default_factory=Views)  # that `score` is made of
    natural_threshold: float | None = None  # of a score that is a probability
    stored_threshold: dict[str, Any] | None = None  # `thresholds.Record` that its checkpoint holds
    not_exportable: str = ""  # why it cannot be written as ONNX, in words
    compiled: bool = False
    processes: Processes = ALONE
    way: Way = PLAIN  # how `score` computes

    @cached_property
    def fingerprint(self) -> str:
        """Twelve hex digits that tell these weights and this normalisation from others."""
        return self.identify()

    def check_exportable(self) -> None:
        """Raise `UserError` if `score` cannot be written as ONNX."""
        if self.not_exportable:
            raise UserError(self.not_exportable)

    def viewed(self, views: Views) -> "Scorer":
        """The same, of tiles that are looked at as `views` say."""
        return replace(self, name=self.name + views.told, score=views.of(self.score), views=views)

    @property
    def module(self) -> Scored:
        """`score` and its network as what is written as ONNX, with the weights as they are."""
        return Scored(self.network, self.score, self.normalization.num_channels)


def mean_of(first: Scorer, others: Sequence[Scorer]) -> Scorer:
    """What scores by the mean of the scores of `first` and `others`; `first` if there are none.

    Each takes what `first` makes of the DN, in its own normalisation: what that clips is clipped
    for all. No threshold that is known of one counts for the mean. Raises `UserError` if one is
    another score, takes other DN, or a band that `first` does not.
    """
    if not others:
        return first
    members = (first, *others)

    for one in others:
        bands, of_first = ({*member.normalization.bands} for member in (one, first))
        if _kind(one) != _kind(first) or not bands <= of_first:
            raise UserError(
                f"--mean_with {one.checkpoint} is the {_described(one)}, {first.checkpoint} the "
                f"{_described(first)}: only scores of one kind, of the same pixels, are averaged; "
                "--model_weights is the network with the most bands"
            )
    maps = [one.normalization for one in others]
    places = [positions(m.bands, first.normalization.bands, "the first") for m in maps]

    def score(x: torch.Tensor) -> torch.Tensor:
        # Not as one value: others need not know it as nodata.
        dn = first.normalization.denormalize(x).masked_fill_(x == FILL, math.nan)
        taken = [m.normalize(dn[:, place]) for m, place in zip(maps, places, strict=True)]
        scores = [one.score(own) for one, own in zip(others, taken, strict=True)]
        return torch.stack([first.score(x), *scores]).mean(dim=0)

    def identify() -> str:
        each = "".join(one.fingerprint for one in members)
        return digest(each)

    return replace(
        first,
        name=f"mean of {len(members)} scores ({first.name})",
        score=score,
        multiple=math.lcm(*(one.multiple for one in members)),
        identify=identify,
        stored_threshold=None,
        not_exportable="--mean_with: the mean of several networks' scores is computed by PyTorch "
        "alone; leave it out, or score in float32 or bfloat16 without ONNX",
    )


def _kind(scorer: Scorer) -> tuple[str, str, bool]:
    return scorer.name, scorer.normalization.dtype, scorer.normalization.is_toa


def _described(scorer: Scorer) -> str:
    taken = scorer.normalization
    reflectance = " as reflectance" if taken.is_toa else ""
    return f"{scorer.name} of {','.join(taken.bands)} in {taken.dtype}{reflectance}"


def export(scorer: Scorer, path: Path, threshold: float, commit: str | None) -> None:
    """Write the score, on the CPU, as an ONNX file that takes DN; say how well it agrees.

    The first process does. What a user of the file has to know, `threshold` and the `commit` of
    this code among it, goes into its metadata. Raises the errors of `write_onnx`.
    """
    if not scorer.processes.first:
        return
    normalization = scorer.normalization
    properties = {
        "model": f"{scorer.experiment}: {scorer.name}",
        "threshold": repr(threshold),
        "bands": ",".join(normalization.bands),
        "dtype": normalization.dtype,
        "normalization": json.dumps(normalization.state()),
        "image_size": str(scorer.image_size),
        "multiple": str(scorer.multiple),
        "weights": scorer.fingerprint,
        "fcd_version": fcd.__version__,
        "fcd_commit": commit or "unknown",
    }
    module = DNScore(scorer.network, scorer.score, normalization)
    difference = write_onnx(path, module, scorer.multiple, properties)
    print(
        f"exported: {path}, cloud above a score of {threshold:.4g}; "
        f"largest difference to PyTorch {difference:.1e}"
    )


@dataclass(frozen=True)
class Tiles:
    """How whole scenes are scored: tile side, overlap (pixels) and tiles per batch."""

    size: int
    overlap: int
    batch_size: int
    nodata: tuple[float, ...] | None = None  # of all scenes; None: what their files say
    sun_elevation: float | None = None  # of scenes whose files do not say, degrees

    @classmethod
    def of(
        cls,
        scorer: Scorer,
        size: int | None = None,
        overlap: int | None = None,
        batch_size: int = 16,
        nodata: tuple[float, ...] | None = None,
        sun_elevation: float | None = None,
    ) -> "Tiles":
        """By default tiles of the training patches' size that overlap by 32 pixels, at most half a
        tile; for probabilities by 16, and tiles of 256 pixels, a batch of as many pixels, for
        networks that know patches of 128: 1.5 times as fast (`benchmarks.tiles`).

        Raises `UserError` if the network cannot take the tiles.
        """
        # A generator also normalises by the statistics of a tile: other sizes give other ones, and
        # its tiles agree less.
        by_pixel = scorer.natural_threshold is not None
        if size is None:
            size = scorer.image_size
            if by_pixel and ENOUGH <= size < LARGE:
                size, batch_size = LARGE, max(1, batch_size * size**2 // LARGE**2)
        if overlap is None:
            overlap = min(FRAME // 2 if by_pixel else FRAME, size // 2)
        if size % scorer.multiple:
            raise UserError(f"--tile_size {size} is no multiple of {scorer.multiple}")
        context = scorer.views.context
        if 2 * context % scorer.multiple or context >= size:
            raise UserError(
                f"--context {context}: for tiles of {size} pixels it is less than these, and twice "
                f"as many are a multiple of {scorer.multiple}"
            )
        if overlap > size // 2:
            raise UserError(f"--overlap {overlap} exceeds half the tile ({size // 2} pixels)")
        return cls(size, overlap, batch_size, nodata, sun_elevation)


@dataclass(frozen=True)
class ArrayScene:
    """DN (C, H, W) in memory, as much of a `Scene` as is asked for here.

    Or (N, C, H, W), those of N scenes of one size (`fcd.masks.tiling.score_strips`). What is masked
    or NaN is nodata.
    """

    dn: np.ndarray
    names: tuple[str, ...] = ()  # of its bands
    marked: tuple[float | None, ...] = ()  # of `SceneReader`
    key: str = "array"
    sun_elevation: float | None = None  # degrees
    values: str = ""  # the type of DN that lie in float32 for the sake of NaN; "": as they are

    @property
    def dtype(self) -> str:
        """The type of the DN."""
        return self.values or self.dn.dtype.name

    @contextmanager
    def open(self) -> Iterator["ArrayScene"]:
        """Nothing is opened."""
        yield self

    @property
    def grid(self) -> Grid:
        """Size alone, no place."""
        height, width = self.dn.shape[-2:]
        return Grid(height, width, None, Affine.identity())

    def bands(self, start: int, stop: int, *, asked: Sequence[float] | None = None) -> np.ndarray:
        """The rows `start` to `stop`; see `fcd.landsat.scenes.SceneReader`."""
        rows = self.dn[..., start:stop, :]
        hidden = np.ma.getmaskarray(rows) if np.ma.isMaskedArray(rows) else None
        return plain(blanked(np.ma.getdata(rows), self.names, hidden, self.marked, asked))

    def elevation(self, asked: float | None) -> float | None:
        """Of its sun in degrees; see `fcd.landsat.scenes.SceneReader`."""
        return asked if self.sun_elevation is None else self.sun_elevation

    def radiometry(self, bands: Sequence[str], sun_elevation: float | None) -> Radiometry:
        """Under its own sun, or that of `sun_elevation`; see `fcd.landsat.scenes.SceneReader`."""
        return Radiometry.under(self.elevation(sun_elevation), bands, f"the {self.key}")


@dataclass(frozen=True)
class Prediction:
    """Some full-width rows of a predicted mask."""

    row: int  # the first one in the scene
    rgb: np.ndarray  # (3, h, W) DN, or standard DN where the network takes these
    mask: np.ndarray  # (h, W) uint8 patch codes
    score: np.ndarray | None  # (h, W) in [0, 1], or None for a method without a score


@torch.inference_mode()
def strips(scorer: Scorer, scene: Scene | ArrayScene, tiles: Tiles) -> Iterator[Strip]:
    """Score a whole scene; see `fcd.masks.tiling.score_strips`."""
    with scene.open() as reader:
        height, width = reader.grid.height, reader.grid.width
        read, normalization = _as_trained(scorer, reader, f"scene {scene.key}", tiles)
        silent = not scorer.processes.first
        with tqdm(total=height, desc=scene.key, unit="row", leave=False, disable=silent) as bar:
            for strip in score_strips(
                read,
                height,
                width,
                scorer.score,
                normalization,
                scorer.device,
                tile=tiles.size,
                overlap=tiles.overlap,
                batch_size=tiles.batch_size,
            ):
                yield strip
                bar.update(strip.score.shape[-2])


def _as_trained(
    scorer: Scorer, reader: SceneReader | ArrayScene, told: str, tiles: Tiles
) -> tuple[Callable[[int, int], np.ndarray], Normalization]:
    """What reads rows of a scene as the network of `scorer` has learned them, and their map."""
    learned, radiometry = scorer.normalization, None
    read = partial(reader.bands, asked=tiles.nodata)
    # All that is nodata becomes fill before other values are made of DN.
    asked = None if learned.needs_sun else tiles.nodata
    if learned.is_toa:
        radiometry = reader.radiometry(in_files(learned.bands), tiles.sun_elevation)
    sun = reader.elevation(tiles.sun_elevation) if learned.knows_sun else None

    def changed(start: int, stop: int) -> np.ndarray:
        dn = read(start, stop)
        dn = radiometry.standard(dn) if radiometry else dn
        return with_sun(dn, sun) if learned.knows_sun else dn

    return changed, learned.of(reader.dtype, reader.marked, told, asked)


def sampled(
    scorer: Scorer, scene: Scene | ArrayScene, tiles: Tiles, pixels: int
) -> Iterator[tuple[torch.Tensor, np.ndarray]]:
    """Tiles spread over a scene, of at most so many `pixels` in all, always the same ones.

    Each as network input (C, s, s) on the CPU, and where it is valid (s, s) bool; s is the tiles'
    side, or less where the scene is smaller. Those without a valid pixel are left out, and all of a
    scene smaller than the network takes.
    """
    with scene.open() as reader:
        height, width = reader.grid.height, reader.grid.width
        side = min(tiles.size, height, width) // scorer.multiple * scorer.multiple
        if not side:
            return
        read, normalization = _as_trained(scorer, reader, f"scene {scene.key}", tiles)
        # As many rows as columns of them, spread evenly; few of each row are wanted.
        most = max(1, math.isqrt(pixels // side**2))
        for row in _spread(height - side, most):
            dn = read(row, row + side)
            for column in _spread(width - side, most):
                tile = dn[..., column : column + side]
                if (valid := normalization.is_valid(tile)).any():
                    yield normalization.normalize(torch.from_numpy(tile.copy())[None])[0], valid


def _spread(last: int, most: int) -> list[int]:
    """At most `most` places from 0 to `last`, evenly."""
    return np.unique(np.linspace(0, last, most + 2).round().astype(int)[1:-1]).tolist()


def predictions(
    scorer: Scorer, scene: Scene | ArrayScene, tiles: Tiles, threshold: float
) -> Iterator[Prediction]:
    """Score a scene and threshold the score."""
    for strip in strips(scorer, scene, tiles):
        mask = labels.patch_from_score(strip.score, strip.valid, threshold)
        yield Prediction(strip.row, strip.dn[list(scorer.rgb)], mask, strip.score)


def qa_predictions(scene: Scene, rows: int = 512) -> Iterator[Prediction]:
    """The scene's own quality band as a mask, the rule-based baseline: `rows` rows at a time."""
    collection = reference.collection_of(scene)
    with scene.open() as reader:
        for row in range(0, reader.grid.height, rows):
            stop = min(row + rows, reader.grid.height)
            dn = reader.bands(row, stop)
            mask = reference.mask_from_qa(reader.qa(row, stop), collection)
            mask[(dn == FILL_DN).any(axis=0)] = labels.INVALID
            yield Prediction(row, dn[list(default_rgb(scene.bands))], mask, None)
