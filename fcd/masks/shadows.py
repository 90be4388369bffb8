"""Shadows of clouds, without a label: dark ground where the sun throws them.

After Zhu and Woodcock 2012 (Fmask, Remote Sensing of Environment 118, 83-94): dark basins of the
near infrared are filled, and each cloud is moved away from the sun until what it covers is dark.
Three things differ. Clouds are cut at cells of `CELL` pixels, so that one field of clouds has many
heights. Fits are likelihoods: thick cloud is expected to darken the ground, thin cloud hardly is,
dark ground says the less the more of it there is, and ground too dull to tell says nothing. And
neighbours vote: one cloud fits on dark ground at many heights by chance, those of some cells
together at that of their shadows alone.

Whole scenes are held as a byte a pixel; bands are read strip by strip, once. Tiles, and then rows
of cells, are worked on by as many threads as PyTorch has.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
import torch
from scipy import ndimage

from fcd.landsat.bands import FILL_DN
from fcd.landsat.radiometry import (
    REFLECTANCE_ADD,
    REFLECTANCE_MULT,
    brightness_temperature,
)
from fcd.metrics import CLOUD, INVALID

NIR, SWIR, THERMAL = "B5", "B6", "B10"
Read = Callable[[int, int], np.ndarray]
"""First row, row after the last one -> (C, h, W) uint16 standard DN, see fcd.landsat.radiometry."""

HEIGHTS = (200.0, 12_000.0)  # metres above ground
CELL = 256  # pixels
_SMALLEST = 3  # pixels of a cloud; smaller ones fit anywhere
_SAMPLED = 200  # pixels of a cloud that are moved, at most
# Log likelihood ratio of shadow to none: of the clouds around, per pixel, at least, if they throw
# shadows (drawn cirrus that throws none stays below 0.05); and how much better, per root of its
# pixels, a cloud alone must fit elsewhere to lie there (by chance, under false suns, often 10).
_AGREED, _ALONE = 0.1, 40.0
_ALIKE = 0.05  # share of the height that they agree on within which each cloud is fitted
# Reflectance in steps of 0.005, a byte a pixel; a basin of 0.02 may be shadow (equation 19).
_STEP, _DEPTH = 0.005, 4
_SHARE = np.float32(0.2)  # ... and of the light that the ground around it sends
_LOW_GROUND = 17.5  # percentile of the clear ground that borders are set to
_BORDER = 64  # pixels around a tile, on which its basins may go on
_TILE = 512
_STEPS = 96  # of the filling of full resolution, a multiple of 8
# What a pixel is: ground that is lit or dark, so dull that a shadow on it need not show, nodata, or
# cloud of one of four thicknesses.
_LIT, _DARK, _DULL, _UNSEEN, _CLOUD = range(5)
_DULLEST = 0.6  # share of the near infrared of the ground
_OPAQUE = 0.3  # reflectance of the near infrared above that of the ground, of thick cloud
_DARKENS = np.array([0.25, 0.5, 0.8, 1.0])  # how far cloud of each thickness darkens the ground
_SURE = 0.85  # share of the ground below thick cloud that is dark
_COARSE = 4  # pixels; temperature has 100 m
# Of the temperature of a cloud's base: margin in K, and the steepest and the least lapse in K / m
# (equation 21).
_MARGIN, _STEEPEST, _LEAST = 4.0, 9.8e-3, 1e-3


@dataclass(frozen=True)
class Geometry:
    """Where the sun and the sensor stand, as pixels per metre of height.

    shadow: (rows, columns) by which the shadow lies away from what throws it. view: (2, h, w), the
    same from where a cloud is seen to where it is, on a coarse grid over the scene; None: from
    straight above.
    """

    shadow: tuple[float, float]
    view: np.ndarray | None = None

    @property
    def step(self) -> float:
        """Metres of height by which a shadow moves two pixels."""
        return 2 / math.hypot(*self.shadow)

    def of(self, places: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """(2, n): rows and columns per metre from what is seen at `places` to its shadow.

        places: (2, n) rows and columns in a scene of `shape`.
        """
        moved = np.repeat(np.array(self.shadow)[:, None], places.shape[1], axis=1)
        if self.view is None:
            return moved
        coarse = np.array(self.view.shape[1:])[:, None]
        row, column = (places * coarse // np.array(shape)[:, None]).astype(int)
        return moved + self.view[:, row, column]


def toward(elevation: np.ndarray | float, azimuth: np.ndarray | float) -> np.ndarray:
    """(2, …): metres east and north, per metre of height, of a light at these angles in degrees."""
    away = 1 / np.tan(np.radians(elevation))
    return np.stack([away * np.sin(np.radians(azimuth)), away * np.cos(np.radians(azimuth))])


def find(mask: np.ndarray, read: Read, bands: tuple[str, ...], geometry: Geometry) -> np.ndarray:
    """Where the shadows of the clouds of `mask` lie, (H, W) bool, never on cloud or nodata.

    mask: (H, W) uint8 patch codes, without a buffer. bands: those that `read` returns, `NIR`
    first, then `SWIR` and `THERMAL` if there are such.
    """
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        ground, warmth = _ground(mask, read, bands, pool)
        fitting = _Fitting(ground, geometry, warmth)
        tops = range(0, len(ground), CELL)
        single, votes = zip(*pool.map(fitting.single, tops), strict=True)
        thrown = np.zeros(ground.shape, np.uint8)
        # Waited for, so that what fails is raised.
        list(pool.map(partial(fitting.throw, thrown), tops, single, _agreed(votes)))
    return _on_dark_ground(thrown, ground)


def _agreed(votes: Sequence[np.ndarray]) -> np.ndarray:
    """How well the clouds of a cell and those around it fit at each height, per pixel.

    votes: as of `_Fitting.single`, of each row of cells. (rows, cells, heights) float32: log
    likelihood ratio of shadow to none; few clouds whose shadows are to be seen count for less.
    """
    around = np.stack(votes)
    for axis, weights in ((0, (1, 1, 1)), (2, (1, 1, 1)), (3, (0.25, 0.5, 0.25))):
        around = ndimage.convolve1d(around, weights, axis, mode="constant")
    fits, seen, there = around.swapaxes(0, 1)
    return fits / np.sqrt(np.maximum(seen * there, 1))


def _on_dark_ground(thrown: np.ndarray, ground: np.ndarray) -> np.ndarray:
    """What is thrown and dark, each may be a pixel off, and what is thrown on dull ground."""
    dark, square = (ground == _DARK).view(np.uint8), np.ones((3, 3), np.uint8)
    near = (cv2.dilate(thrown, square) & dark) | (thrown & cv2.dilate(dark, square))
    return ((near > 0) | ((thrown > 0) & (ground == _DULL))) & (ground < _UNSEEN)


# --- the ground --------------------------------------------------------------------------------


def _ground(
    mask: np.ndarray, read: Read, bands: tuple[str, ...], pool: Executor
) -> tuple[np.ndarray, np.ndarray | None]:
    """What each pixel is, (H, W) uint8, and the temperature (h, w) float32 in K on a coarse grid.

    The temperature is NaN where there is none, and None without the band `THERMAL`.
    """
    height, width = mask.shape
    ground, warmth = np.empty_like(mask), []
    for row in range(0, height, _TILE):
        first, last = max(row - _BORDER, 0), min(row + _TILE + _BORDER, height)
        dn, codes = read(first, last), mask[first:last]
        light = dn[: 1 + (SWIR in bands)]
        rows = slice(row - first, min(row + _TILE, height) - first)
        columns = range(0, width, _TILE)
        spans = [slice(max(c - _BORDER, 0), min(c + _TILE + _BORDER, width)) for c in columns]
        tiles = pool.map(_kinds, *zip(*((light[:, :, s], codes[:, s]) for s in spans), strict=True))
        for column, span, tile in zip(columns, spans, tiles, strict=True):
            own = tile[rows, column - span.start :][:, :_TILE]
            ground[row : row + _TILE, column : column + _TILE] = own
        if THERMAL in bands:
            coarse = dn[-1, rows][::_COARSE, ::_COARSE]
            kelvin = brightness_temperature(coarse, THERMAL).astype(np.float32)
            warmth.append(np.where(coarse == FILL_DN, np.nan, kelvin))
    return ground, np.concatenate(warmth) if warmth else None


def _kinds(dn: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(C, h, w) standard DN of `NIR` and perhaps `SWIR`, and patch codes -> what each pixel is."""
    valid, cloud = mask != INVALID, mask == CLOUD
    clear = valid & ~cloud
    if not clear.any():
        return np.where(valid, _CLOUD + len(_DARKENS) - 1, _UNSEEN).astype(np.uint8)
    dark = clear
    levels = [_level(band) for band in dn]
    usual = [_percentiles(level, clear) for level in levels]
    # Of what can be looked up by one of 256 levels no image of floats is made.
    values = np.arange(256, dtype=np.float32)
    deep = np.maximum(_DEPTH, _SHARE * values).astype(np.uint8)
    for level, (low, _) in zip(levels, usual, strict=True):
        # Nodata is low ground, into which basins drain, as they do over the border.
        basin = np.pad(np.where(valid, level, low), 1, constant_values=low)
        brim = _filled(basin)[1:-1, 1:-1]
        dark = dark & (cv2.subtract(brim, level) > cv2.LUT(brim, deep))
    middle = usual[0][1]
    thickness = np.clip(np.rint((values - middle) * (3 * _STEP / _OPAQUE)), 0, 3)
    seen = np.where(values < _DULLEST * middle, _DULL, _LIT)
    of_cloud, of_clear = (
        cv2.LUT(levels[0], table.astype(np.uint8)) for table in (_CLOUD + thickness, seen)
    )
    kinds = np.where(cloud, of_cloud, of_clear)
    kinds[dark] = _DARK
    kinds[~valid] = _UNSEEN
    return kinds


def _level(dn: np.ndarray) -> np.ndarray:
    """Standard DN -> reflectance in steps of `_STEP`, uint8."""
    black = np.uint16(round(-REFLECTANCE_ADD / REFLECTANCE_MULT))
    return cv2.convertScaleAbs(np.maximum(dn, black) - black, alpha=REFLECTANCE_MULT / _STEP)


def _percentiles(level: np.ndarray, there: np.ndarray) -> np.ndarray:
    """That of low ground and the median of the uint8 values of `level` that are `there`."""
    counts = cv2.calcHist([level], [0], there.view(np.uint8), [256], [0, 256]).ravel().cumsum()
    ranks = np.multiply(counts[-1] - 1, (_LOW_GROUND / 100, 0.5))
    return np.searchsorted(counts, ranks, side="right").astype(np.uint8)


def _filled(level: np.ndarray, steps: int | None = _STEPS) -> np.ndarray:
    """`level` (h, w) uint8 with its basins filled until they overflow at the border.

    Reconstruction by erosion. That of the greatest values of 4 x 4 pixels is nowhere lower, and
    cheap: erosion begins there. After so many steps of a pixel it ends, unless `steps` is None:
    what drains only through passages narrower than four pixels and longer counts as a basin.
    """
    filled, (height, width) = np.full_like(level, 255), level.shape
    if min(level.shape) > 16:
        padded = np.pad(level, ((0, -height % 4), (0, -width % 4)), "edge")
        greatest = cv2.dilate(padded, np.ones((4, 4), np.uint8), anchor=(0, 0))[::4, ::4]
        filled = _filled(greatest, None).repeat(4, axis=0).repeat(4, axis=1)[:height, :width]
    filled[[0, -1]], filled[:, [0, -1]] = level[[0, -1]], level[:, [0, -1]]
    square, before, done = np.ones((3, 3), np.uint8), np.empty(0, np.uint8), 0
    while done != steps and not np.array_equal(before, filled):
        before = filled
        for _ in range(8):
            filled = cv2.max(cv2.erode(filled, square), level)
        done += 8
    return filled


# --- clouds ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Clouds:
    """The clouds of `CELL` rows of a scene, cut at cells."""

    rows: np.ndarray  # in the scene, of each pixel
    columns: np.ndarray
    owner: np.ndarray  # which cloud it is of, from 0
    sizes: np.ndarray  # pixels of each cloud

    @classmethod
    def of(cls, ground: np.ndarray, top: int) -> "_Clouds":
        """Those of the rows from `top` on; the smallest are left out."""
        cloud = (ground[top : top + CELL] >= _CLOUD).view(np.uint8)
        _, labels = cv2.connectedComponents(cloud, connectivity=8)
        rows, columns = np.nonzero(labels)
        cells = -(-ground.shape[1] // CELL)
        pieces = labels[rows, columns] * cells + columns // CELL
        sizes = np.bincount(pieces)
        kept = sizes >= _SMALLEST
        number, taken = np.cumsum(kept) - 1, kept[pieces]
        return cls(rows[taken] + top, columns[taken], number[pieces[taken]], sizes[kept])

    def sampled(self) -> "_Clouds":
        """Some pixels of each, evenly, and as many as it had among `sizes`."""
        every = -(-self.sizes // _SAMPLED)
        taken = (7919 * self.rows + 104_729 * self.columns) % every[self.owner] == 0
        return _Clouds(self.rows[taken], self.columns[taken], self.owner[taken], self.sizes)

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Of `values` of its pixels, of each cloud."""
        return np.bincount(self.owner, values, len(self.sizes))

    def centres(self) -> np.ndarray:
        """(2, n): mean row and column of each."""
        count = np.maximum(self.sums(np.ones(len(self.owner))), 1)
        return np.stack([self.sums(self.rows), self.sums(self.columns)]) / count

    def cells(self) -> np.ndarray:
        """(n,): the number of the column of cells that each is in."""
        return (self.centres()[1] // CELL).astype(int)

    def below(
        self, moved: np.ndarray, height: np.ndarray | float, shape: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Row and column of the shadow of each pixel, and whether these are in the scene.

        moved: (2, n) as of `Geometry.of`. height: of each cloud or of all, in metres.
        """
        away = np.rint(height * moved).astype(np.int64)
        rows, columns = self.rows + away[0][self.owner], self.columns + away[1][self.owner]
        inside = (rows >= 0) & (rows < shape[0]) & (columns >= 0) & (columns < shape[1])
        return rows, columns, inside


def _base_range(
    clouds: _Clouds, warmth: np.ndarray, usual: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """The least and the greatest height of each of the `sampled` clouds in metres, (n,) each.

    By the temperature of its base: the coldest of a small cloud, less cold in large ones, whose
    tops are (equations 21 and 22). usual: percentiles of the clear ground's temperature in K.
    """
    kelvin = warmth[clouds.rows // _COARSE, clouds.columns // _COARSE]
    kelvin = np.where(np.isfinite(kelvin), kelvin, usual[1])
    order = np.lexsort((kelvin, clouds.owner))
    count = np.bincount(clouds.owner, minlength=len(clouds.sizes))
    radius = np.sqrt(clouds.sizes / (2 * math.pi))
    share = np.where(radius > 8, (1 - 8 / radius) ** 2, 0)
    first = np.cumsum(count) - count
    base = kelvin[order][(first + share * (count - 1)).astype(np.int64)]
    low = np.clip((usual[0] - _MARGIN - base) / _STEEPEST, *HEIGHTS)
    return low, np.clip((usual[1] + _MARGIN - base) / _LEAST, low, HEIGHTS[1])


class _Fitting:
    """How well the clouds of a scene fit on dark ground at any height."""

    def __init__(self, ground: np.ndarray, geometry: Geometry, warmth: np.ndarray | None) -> None:
        self._ground, self._geometry, self._warmth = ground, geometry, warmth
        if warmth is not None:
            clear = (ground[::_COARSE, ::_COARSE] < _UNSEEN) & np.isfinite(warmth)
            # Without clear ground a cloud's temperature says nothing of its height.
            self._warmth = warmth if clear.any() else None
            usual = np.percentile(warmth[clear], (17.5, 82.5)) if clear.any() else (0, 0)
            self._usual = float(usual[0]), float(usual[1])
        self._heights = np.arange(HEIGHTS[0], HEIGHTS[1] + geometry.step, geometry.step)

    def _evidence(self, clouds: _Clouds) -> np.ndarray:
        """(thickness, what the ground is) -> log likelihood ratio of shadow to none."""
        top = int(clouds.rows.min(initial=0))
        around = self._ground[max(top - CELL, 0) : top + 2 * CELL]
        dark, lit = np.count_nonzero(around == _DARK), np.count_nonzero(around == _LIT)
        usual = min(max(dark / max(dark + lit, 1), 0.02), 0.7)
        shaded = usual + (_SURE - usual) * _DARKENS
        weights = np.zeros((len(_DARKENS), _CLOUD + len(_DARKENS)))
        weights[:, _LIT] = np.log((1 - shaded) / (1 - usual))
        weights[:, _DARK] = np.log(shaded / usual)
        return weights

    def _range(self, some: _Clouds) -> tuple[np.ndarray, np.ndarray]:
        if self._warmth is not None:
            return _base_range(some, self._warmth, self._usual)
        low, high = (np.full(len(some.sizes), height) for height in HEIGHTS)
        return low, high

    def _fits(
        self, clouds: _Clouds, heights: np.ndarray, low: np.ndarray, high: np.ndarray
    ) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
        """Number of a height, which clouds are tried there, their fits, and ground below in pixels.

        low, high: between which each is tried; all in metres. The fit is a log likelihood ratio
        of shadow to none. (n,) each.
        """
        some, shape, step = clouds.sampled(), self._ground.shape, self._geometry.step
        moved = self._geometry.of(clouds.centres(), shape)
        weights = self._evidence(clouds)
        thickness = self._ground[some.rows, some.columns] - _CLOUD
        scale = clouds.sizes / np.maximum(some.sums(np.ones(len(some.owner))), 1)
        flat = self._ground.reshape(-1)
        for number, height in enumerate(heights):
            asked = (low - step / 2 <= height) & (height <= high + step / 2)
            if not asked.any():
                continue
            # Of few clouds the pixels are picked; of most of them that would take longer.
            few = np.count_nonzero(asked) < len(asked) / 2
            chosen = asked[some.owner] if few else slice(None)
            part = _Clouds(some.rows[chosen], some.columns[chosen], some.owner[chosen], some.sizes)
            rows, columns, inside = part.below(moved, height, shape)
            kinds = flat.take(rows * shape[1] + columns, mode="clip")
            fits = part.sums(weights[thickness[chosen], kinds] * inside)
            yield number, asked, fits * scale, part.sums((kinds < _DULL) & inside) * scale

    def single(self, top: int) -> tuple[np.ndarray, np.ndarray]:
        """What each cloud of the cells from row `top` says of its height, and those of each cell.

        (2, n): the height in metres at which each fits best, and how well. (3, cells, heights)
        float32: fits, pixels of ground below and pixels, each of a cloud by the root of its size.
        """
        clouds = _Clouds.of(self._ground, top)
        cells, root = -(-self._ground.shape[1] // CELL), np.sqrt(clouds.sizes)
        height, best = np.zeros(len(root)), np.full(len(root), -np.inf)
        votes = np.zeros((3, cells, len(self._heights)), np.float32)
        cell = clouds.cells()
        votes[2] = np.bincount(cell, root, cells)[:, None]
        limits = self._range(clouds.sampled())
        for number, asked, fits, seen in self._fits(clouds, self._heights, *limits):
            for vote, values in zip(votes, (np.maximum(fits, 0), seen), strict=False):
                vote[:, number] = np.bincount(cell, asked * values / root, cells)
            better = asked & (fits > best)
            height[better], best[better] = self._heights[number], fits[better]
        return np.stack([height, best]), votes

    def throw(self, thrown: np.ndarray, top: int, single: np.ndarray, agreed: np.ndarray) -> None:
        """Set `thrown`, (H, W), to 1 where the shadows of the clouds from row `top` would lie.

        single: as of `single`. agreed: (cells, heights) as of `_agreed`.
        """
        # Found anew: the clouds of all cells together would be too large.
        clouds = _Clouds.of(self._ground, top)
        step, cell, root = self._geometry.step, clouds.cells(), np.sqrt(clouds.sizes)
        low, high = self._range(clouds.sampled())
        shared, most = np.full(len(cell), np.nan), np.full(len(cell), _AGREED)
        for number, height in enumerate(self._heights):
            fitting = (low - step / 2 <= height) & (height <= high + step / 2)
            better = fitting & (agreed[cell, number] > most)
            shared[better], most[better] = height, agreed[cell[better], number]
        around = np.maximum(_ALIKE * shared, 1.5 * step)
        heights = np.arange(HEIGHTS[0], HEIGHTS[1] + step, step / 2)
        best, fit = np.zeros(len(cell)), np.zeros(len(cell))
        limits = shared - around, shared + around
        for number, asked, fits, _ in self._fits(clouds, heights, *limits):
            better = asked & (fits > fit)
            best[better], fit[better] = heights[number], fits[better]
        alone = single[1] - fit > _ALONE * root
        moved = self._geometry.of(clouds.centres(), self._ground.shape)
        height = np.where(alone, single[0], best)
        rows, columns, inside = clouds.below(moved, height, self._ground.shape)
        inside &= (alone | (fit > 0))[clouds.owner]
        thrown[rows[inside], columns[inside]] = 1
