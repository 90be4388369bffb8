"""Shadows of clouds, without a label: dark ground where the sun throws them.

After Zhu and Woodcock 2012 (Fmask, Remote Sensing of Environment 118, 83-94): dark basins of the
near infrared are filled, and each cloud is moved away from the sun until what it covers is dark.
The height at which it fits best is taken. Two things differ. Clouds are cut at cells of `CELL`
pixels, so that one field of clouds has many heights. And fits are likelihoods: thick cloud is
expected to darken the ground, thin cloud hardly is, and dark ground says the less the more of it
there is.

Whole scenes are held as a byte a pixel; bands are read strip by strip, once.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.spatial import cKDTree

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
_NEIGHBOURS = 9  # nearest clouds whose median height is tried where a cloud has no clear fit
CLEAR_FIT = 8.0  # log likelihood ratio of shadow to none
# Reflectance in steps of 0.005, a byte a pixel; a basin of 0.02 may be shadow (equation 19).
_STEP, _DEPTH = 0.005, 4
_SHARE = np.float32(0.2)  # ... and of the light that the ground around it sends
_LOW_GROUND = 17.5  # percentile of the clear ground that borders are set to
_BORDER = 64  # pixels around a tile, on which its basins may go on
_TILE = 512
_STEPS = 96  # of the filling of full resolution, a multiple of 8
# What a pixel is: ground that is lit or dark, nodata, or cloud of one of four thicknesses.
_LIT, _DARK, _UNSEEN, _CLOUD = range(4)
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
    ground, warmth = _ground(mask, read, bands)
    fitting = _Fitting(ground, geometry, warmth)
    # Found anew each time they are gone through: all of them together would be too large.
    found = [(clouds.centres(), *fitting.best(clouds)) for clouds in fitting.clouds()]
    centres, heights, fits = (
        np.concatenate(values, axis=-1) for values in zip(*found, strict=True)
    )
    clear = fits > CLEAR_FIT
    expected = _nearby(centres, heights, clear)
    thrown, first = np.zeros(ground.shape, np.uint8), 0
    for clouds in fitting.clouds():
        own = slice(first, first + len(clouds.sizes))
        first = own.stop
        height, casts = heights[own], clear[own]
        if expected is not None:
            far = np.abs(height - expected[own]) > expected[own] / 2
            second, fit = fitting.best(clouds, np.where(casts & ~far, np.nan, expected[own]))
            agrees = (fit > 0) & (fit > fits[own] - CLEAR_FIT)
            height, casts = np.where(agrees, second, height), casts | agrees
        moved = geometry.of(clouds.centres(), ground.shape)
        rows, columns, inside = clouds.below(moved, height, ground.shape)
        inside &= casts[clouds.owner]
        thrown[rows[inside], columns[inside]] = 1
    return _on_dark_ground(thrown, ground)


def _nearby(centres: np.ndarray, heights: np.ndarray, clear: np.ndarray) -> np.ndarray | None:
    """The median height of the nearest clouds that fit clearly, of each cloud; None if none do."""
    if not clear.any():
        return None
    count = min(_NEIGHBOURS, int(np.count_nonzero(clear)))
    _, nearest = cKDTree(centres[:, clear].T).query(centres.T, k=range(1, count + 1))
    return np.median(heights[clear][nearest], axis=1)


def _on_dark_ground(thrown: np.ndarray, ground: np.ndarray) -> np.ndarray:
    """What is thrown and dark: each may be a pixel off."""
    dark, square = (ground == _DARK).view(np.uint8), np.ones((3, 3), np.uint8)
    near = (cv2.dilate(thrown, square) & dark) | (thrown & cv2.dilate(dark, square))
    return (near > 0) & (ground < _UNSEEN)


# --- the ground --------------------------------------------------------------------------------


def _ground(
    mask: np.ndarray, read: Read, bands: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray | None]:
    """What each pixel is, (H, W) uint8, and the temperature (h, w) float32 in K on a coarse grid.

    The temperature is NaN where there is none, and None without the band `THERMAL`.
    """
    height, width = mask.shape
    ground, warmth = np.empty_like(mask), []
    for row in range(0, height, _TILE):
        first, last = max(row - _BORDER, 0), min(row + _TILE + _BORDER, height)
        dn = read(first, last)
        rows = slice(row - first, min(row + _TILE, height) - first)
        for column in range(0, width, _TILE):
            left, right = max(column - _BORDER, 0), min(column + _TILE + _BORDER, width)
            columns = slice(column - left, min(column + _TILE, width) - left)
            tile = _kinds(dn[: 1 + (SWIR in bands), :, left:right], mask[first:last, left:right])
            ground[row : row + _TILE, column : column + _TILE] = tile[rows, columns]
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
    scaled = dn * np.float32(REFLECTANCE_MULT / _STEP) + np.float32(REFLECTANCE_ADD / _STEP)
    levels = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    for level in levels:
        low = np.uint8(np.percentile(level[clear], _LOW_GROUND))
        # Nodata is low ground, into which basins drain, as they do over the border.
        basin = np.pad(np.where(valid, level, low), 1, constant_values=low)
        brim = _filled(basin)[1:-1, 1:-1]
        dark = dark & (cv2.subtract(brim, level) > np.maximum(_DEPTH, _SHARE * brim))
    bright = levels[0].astype(np.float32) - np.median(levels[0][clear])
    thickness = np.clip(np.rint(bright * (3 * _STEP / _OPAQUE)), 0, 3).astype(np.uint8)
    seen = np.where(cloud, _CLOUD + thickness, np.where(dark, _DARK, _LIT))
    return np.where(valid, seen, _UNSEEN).astype(np.uint8)


def _filled(level: np.ndarray, steps: int | None = _STEPS) -> np.ndarray:
    """`level` (h, w) uint8 with its basins filled until they overflow at the border.

    Reconstruction by erosion. That of the greatest values of 4 x 4 pixels is nowhere lower, and
    cheap: erosion begins there. After so many steps of a pixel it ends, unless `steps` is None:
    what drains only through passages narrower than four pixels and longer counts as a basin.
    """
    filled, (height, width) = np.full_like(level, 255), level.shape
    if min(level.shape) > 16:
        padded = np.pad(level, ((0, -height % 4), (0, -width % 4)), "edge")
        greatest = padded.reshape(len(padded) // 4, 4, -1, 4).max(axis=(1, 3))
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

    def clouds(self) -> Iterator[_Clouds]:
        """Those of the scene, `CELL` rows at a time."""
        for top in range(0, len(self._ground), CELL):
            yield _Clouds.of(self._ground, top)

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

    def best(
        self, clouds: _Clouds, expected: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The height at which each of the clouds fits best, in metres, and how well; (n,) each.

        expected: (n,) heights about which alone they are sought, NaN where not at all.
        """
        some, shape, step = clouds.sampled(), self._ground.shape, self._geometry.step
        moved = self._geometry.of(clouds.centres(), shape)
        low, high = (np.full(len(clouds.sizes), height) for height in HEIGHTS)
        if self._warmth is not None:
            low, high = _base_range(some, self._warmth, self._usual)
        if expected is not None:
            around = np.maximum(0.15 * expected, 1.5 * step)
            low, high = expected - around, expected + around
        weights = self._evidence(clouds)
        thickness = self._ground[some.rows, some.columns] - _CLOUD
        scale = clouds.sizes / np.maximum(some.sums(np.ones(len(some.owner))), 1)
        flat = self._ground.reshape(-1)
        best, fit = np.zeros(len(scale)), np.full(len(scale), -np.inf)
        for height in np.arange(HEIGHTS[0], HEIGHTS[1] + step, step):
            asked = (low - step / 2 <= height) & (height <= high + step / 2)
            if not asked.any():
                continue
            # Of few clouds the pixels are picked; of most of them that would take longer.
            few = np.count_nonzero(asked) < len(asked) / 2
            chosen = asked[some.owner] if few else slice(None)
            part = _Clouds(some.rows[chosen], some.columns[chosen], some.owner[chosen], some.sizes)
            rows, columns, inside = part.below(moved, height, shape)
            kinds = flat.take(rows * shape[1] + columns, mode="clip")
            fits = part.sums(weights[thickness[chosen], kinds] * inside) * scale
            better = asked & (fits > fit)
            best[better], fit[better] = height, fits[better]
        return best, fit
