"""GeoTIFFs: where they lie, what in them is nodata, and writing them whole or not at all."""

import math
import operator
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import rasterio
import tifffile
from rasterio import warp
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError, RasterioIOError
from rasterio.transform import Affine
from rasterio.windows import Window

from fcd.errors import UserError
from fcd.files import replacing
from fcd.landsat.bands import FILL_DN, is_landsat, named

SAME_PIXELS = 1.25  # up to which quotient two sizes of pixels are the same
FLOAT32_MAX = float(np.finfo(np.float32).max)
WRITTEN_BY = "FCD_VERSION"  # the tag of what this project has written
_LONGITUDE_LATITUDE = {"proj": "longlat", "datum": "WGS84"}  # needs no data base of CRS
_EARTH_RADIUS = 6_371_008.8  # mean, metres


def opened(path: os.PathLike | str, mode: str = "r", **profile: Any) -> rasterio.DatasetReader:
    """`rasterio.open`, silent where a raster has no position, as a manual mask.

    Whatever the locale: GDAL takes names in UTF-8, in which a name must be.
    """
    try:
        name = os.fsencode(path).decode("utf-8")
    except UnicodeError as error:
        raise RasterioIOError("its name is no UTF-8; rename it") from error
    # What lies beside it is asked for by name: listing a folder of many patches takes longer than
    # reading one.
    with warnings.catch_warnings(), rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN=True):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return rasterio.open(name, mode, **profile)


def is_written_by_us(path: os.PathLike | str) -> bool:
    """Whether a file is a raster that this project has written, such as a mask, by its tags."""
    try:
        with opened(path) as dataset:
            return WRITTEN_BY in dataset.tags()
    except RasterioIOError:
        return False


@dataclass(frozen=True)
class Grid:
    """Size and position of a raster: `height` x `width` pixels, CRS and affine transform."""

    height: int
    width: int
    crs: CRS | None
    transform: Affine

    @classmethod
    def of(cls, dataset: rasterio.DatasetReader) -> "Grid":
        """The grid of an open raster."""
        return cls(dataset.height, dataset.width, dataset.crs, dataset.transform)

    @property
    def ground(self) -> np.ndarray | None:
        """(2, 2): a column and a row on, at the centre -> metres east and north; None if unknown.

        North is that of the meridian, whatever the unit of the CRS, and wherever it stretches.
        """
        if self.crs is None:
            return None
        a, b, c, d, e, f = self.transform[:6]
        x = c + (a * self.width + b * self.height) / 2
        y = f + (d * self.width + e * self.height) / 2
        try:
            xs, ys = [x, x + a, x + b], [y, y + d, y + e]
            lon, lat = np.radians(warp.transform(self.crs, _LONGITUDE_LATITUDE, xs, ys))
            lon = np.unwrap(lon)  # a pixel may lie on the antimeridian
        except (CRSError, RasterioError, CPLE_BaseError):
            return None
        return _EARTH_RADIUS * np.stack([(lon[1:] - lon[0]) * np.cos(lat[0]), lat[1:] - lat[0]])

    @property
    def pixel_size(self) -> float | None:
        """Side of a pixel on the ground at the centre, metres, to two digits; None if unknown."""
        if (ground := self.ground) is None:
            return None
        side = math.sqrt(abs(np.linalg.det(ground)))
        return float(f"{side:.2g}") if 0 < side < math.inf else None

    def is_at(self, other: "Grid") -> bool:
        """Whether both have one CRS and, to a ten thousandth of a pixel, one transform."""
        nearly = 1e-4 * math.hypot(self.transform.a, self.transform.d)
        away = np.abs(np.subtract(other.transform, self.transform)).max() > nearly
        return self.crs == other.crs and not away

    def is_same(self, other: "Grid") -> bool:
        """Whether both have one size besides."""
        return self.is_at(other) and (self.height, self.width) == (other.height, other.width)

    def is_elsewhere(self, other: "Grid") -> bool:
        """Whether both say where they lie, and it is not one place to half a pixel.

        By so much differ those who take a position for that of a pixel's corner or of its centre.
        Formats word one CRS differently: only two EPSG codes are two.
        """
        if Affine.identity() in (self.transform, other.transform):
            return False
        codes = {crs.to_epsg() for crs in (self.crs, other.crs) if crs}
        if len(codes - {None}) > 1:
            return True
        corners = ((0, 0), (0, self.width), (self.height, 0))
        away = [np.subtract(self._place(*corner), other._place(*corner)) for corner in corners]
        return np.abs(away).max() > 0.51 * math.hypot(self.transform.a, self.transform.d)

    @property
    def told(self) -> str:
        """Size and place, in words."""
        size = f"{self.width}x{self.height} pixels"
        if self.transform == Affine.identity():
            return size
        ends = (self._place(0, 0), self._place(self.height, self.width))
        first, last = (f"({x:.10g}, {y:.10g})" for x, y in ends)
        crs = f" in {self.crs.to_string()[:50]}" if self.crs else ""
        return f"{size} from {first} to {last}{crs}"

    def square(self, row: int, column: int, size: int) -> "Grid":
        """The `size` x `size` pixels from (row, column) on."""
        a, b, _, d, e, _ = self.transform[:6]
        left, top = self._place(row, column)
        return Grid(size, size, self.crs, Affine(a, b, left, d, e, top))

    def _place(self, row: int, column: int) -> tuple[float, float]:
        """Where the upper left corner of a pixel is."""
        # By hand: affine 2 knows no @, affine 3 warns of *.
        a, b, c, d, e, f = self.transform[:6]
        return c + a * column + b * row, f + d * column + e * row


def require_fit(mask: Grid, image: Grid, path: Path) -> None:
    """Raise `UserError` if the mask `path` is larger or smaller than its image, or elsewhere."""
    sizes = {(grid.height, grid.width) for grid in (mask, image)}
    if len(sizes) > 1 or mask.is_elsewhere(image):
        raise UserError(
            f"{path} is {mask.told}, its image {image.told}; a mask has the grid of its image: "
            "warp it (gdalwarp), or if its pixels do lie right, remove its position (gdal_edit.py "
            "-unsetgt)"
        )


def alpha_of(dataset: rasterio.DatasetReader) -> int | None:
    """Which band, from 1, is the alpha band of a raster, if it has one.

    One that has a name of its own, such as ``nir``, is none: of four bands of uint8 GDAL writes the
    last as alpha unless it is told otherwise.
    """
    for number, (kind, text) in enumerate(
        zip(dataset.colorinterp, dataset.descriptions, strict=True), 1
    ):
        if "alpha" in text.lower() if text else kind == ColorInterp.alpha:
            return number
    return None


def pixel_bands(dataset: rasterio.DatasetReader) -> tuple[int, ...]:
    """The numbers, from 1, of a raster's bands without its alpha band."""
    alpha = alpha_of(dataset)
    return tuple(number for number in dataset.indexes if number != alpha)


def names_of(dataset: rasterio.DatasetReader) -> tuple[str, ...]:
    """The names of `pixel_bands`, by their descriptions; see `fcd.landsat.bands.named`."""
    return named([dataset.descriptions[number - 1] for number in pixel_bands(dataset)])


def hidden_in(
    dataset: rasterio.DatasetReader,
    numbers: Sequence[int],
    window: Window | None = None,
    shape: tuple[int, int] | None = None,
) -> np.ndarray | None:
    """Where a raster's mask or alpha band hides its pixels, (h, w) bool; None if it has neither.

    numbers: the bands that are read; an alpha band among them is a band like the others. shape: see
    `rasterio.DatasetReader.read`.
    """
    how: dict[str, Any] = {"window": window, "out_shape": shape}
    if alpha := alpha_of(dataset):
        return None if alpha in numbers else dataset.read(alpha, **how) == 0
    flags = dataset.mask_flag_enums[numbers[0] - 1]
    if MaskFlags.per_dataset not in flags or MaskFlags.alpha in flags:
        return None
    return dataset.read_masks(numbers[0], **how) == 0


def blanked(
    pixels: np.ndarray,
    bands: Sequence[str],
    hidden: np.ndarray | None,
    marked: Sequence[float | None],
    asked: Sequence[float] | None = None,
) -> np.ndarray:
    """`pixels` (…, C, h, w) of `bands` in which what is nodata is not there.

    hidden: bool of a shape that fits; None: nothing. marked: the value of each band that its file
    marks as nodata; asked: values that the user names in place of these. DN of Landsat become fill.
    Of other imagery the array is a masked one, and a value that counts in all bands stays what it
    is: `fcd.patches.normalisation` knows it.
    """
    landsat, where = is_landsat(bands, pixels.dtype.name), [] if hidden is None else [hidden]
    if asked is not None:
        where += [pixels == value for value in asked if landsat]
    elif len({*marked}) > 1 or (landsat and not {*marked} <= {None, FILL_DN}):
        # NaN equals nothing. In float32, which holds all DN, values are what pixels hold.
        own = np.array([math.nan if v is None else v for v in marked], np.float32)
        where.append(pixels == own[:, None, None])
    nothing = np.broadcast_to(reduce(operator.or_, where, np.False_), pixels.shape)
    if not (where and nothing.any()):
        return pixels
    if landsat:
        return np.where(nothing, pixels.dtype.type(FILL_DN), pixels)
    return np.ma.array(pixels, mask=nothing)


def plain(pixels: np.ndarray) -> np.ndarray:
    """`pixels` as they are, of a masked array as float32 with NaN where it is masked."""
    masked = np.ma.isMaskedArray(pixels)
    return np.ma.filled(pixels.astype(np.float32), np.nan) if masked else pixels


def nodata_of(dataset: rasterio.DatasetReader, number: int = 1) -> float | None:
    """What a raster's file marks as nodata in band `number`; None also if NaN or infinity."""
    value = dataset.nodatavals[number - 1]
    return None if value is None or not math.isfinite(value) else nodata_value(value)


def nodata_value(value: float) -> float:
    """A finite `value` as pixels can be compared with it: an int if it is one, else in float32."""
    # That of many float32 files, -3.4028235e38, is whole but no int that PyTorch takes.
    if value.is_integer() and abs(value) < 2**53:
        return int(value)
    return min(max(value, -FLOAT32_MAX), FLOAT32_MAX)


def write_raster(
    path: Path,
    pixels: np.ndarray,
    grid: Grid,
    nodata: float | None,
    descriptions: Sequence[str | None] = (),
    tags: Mapping[str, str] = MappingProxyType({}),
    hidden: np.ndarray | None = None,
) -> None:
    """Write a small GeoTIFF of `pixels` (C, h, w) on `grid`, whole or not at all.

    descriptions: what the file says of each band; nothing unless they are given. tags: what it says
    of itself. hidden: (h, w) bool, what a mask in the file hides; it gets none if nothing is.
    """
    profile = {"driver": "GTiff", "count": len(pixels), "dtype": pixels.dtype.name}
    profile |= {"nodata": nodata, "compress": "deflate", **vars(grid)}
    profile["photometric"] = "minisblack"  # or GDAL would call a fourth band alpha
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        replacing(path) as temporary,
        opened(temporary, "w", **profile) as dataset,
    ):
        dataset.write(pixels)
        if hidden is not None and hidden.any():
            dataset.write_mask(~hidden)
        if any(descriptions):
            dataset.descriptions = tuple(descriptions)
        dataset.update_tags(**tags)


@contextmanager
def raster_writer(
    path: Path | str,
    grid: Grid,
    *,
    dtype: str,
    nodata: float | None,
    colormap: dict[int, tuple[int, int, int, int]] | None = None,
    tags: dict[str, Any] | None = None,
    scale: float | Sequence[float] = 1,
    offset: float | Sequence[float] = 0,
    names: Sequence[str] = (),
    cloud_optimised: bool = False,
) -> Iterator[rasterio.io.DatasetWriter]:
    """Open a tiled GeoTIFF on `grid` for windowed writing; it appears when complete.

    names: what the file says of its bands; of one band unless they are given. scale and offset: of
    all bands or of each. colormap: of one band alone, as GeoTIFFs have none of several.
    cloud_optimised: with overviews (always the nearest pixel), put together in memory, one byte or
    four a pixel. Raises `OutputError` if it cannot be written.
    """
    floating = np.issubdtype(np.dtype(dtype), np.floating)
    profile: dict[str, Any] = {
        "count": len(names) or 1,
        "dtype": dtype,
        "nodata": nodata,
        **vars(grid),
    }
    profile |= {"compress": "deflate", "bigtiff": "if_safer"}
    if cloud_optimised:
        profile |= {"driver": "COG", "level": 6, "predictor": "YES" if floating else "NO"}
        profile |= {"overview_resampling": "nearest", "num_threads": "ALL_CPUS"}
    else:
        profile |= {"driver": "GTiff", "zlevel": 1, "predictor": 3 if floating else 2}
        profile |= {"tiled": True, "blockxsize": 256, "blockysize": 256}
    with replacing(path) as temporary:
        try:
            with opened(temporary, "w", **profile) as dataset:
                if colormap:
                    dataset.write_colormap(1, colormap)
                if tags:
                    dataset.update_tags(**tags)
                if names:
                    dataset.descriptions = tuple(names)
                if (scale, offset) != (1, 0):
                    count = (dataset.count,)
                    dataset.scales = np.broadcast_to(scale, count).tolist()
                    dataset.offsets = np.broadcast_to(offset, count).tolist()
                yield dataset
        except CPLE_BaseError as error:  # what closing a COG raises on a full disk
            raise OSError(str(error)) from error
        check_all_there(temporary)


def check_all_there(path: Path) -> None:
    """Raise OSError if a tile of a GeoTIFF is missing, which GDAL tells only when it is read."""
    try:
        with tifffile.TiffFile(path) as tif:
            tiles = [
                tile
                for page in tif.pages
                for tile in zip(page.dataoffsets, page.databytecounts, strict=True)
            ]
    except (tifffile.TiffFileError, ValueError, IndexError) as error:
        raise OSError(f"it is cut off ({error})") from error
    size = path.stat().st_size
    if not tiles or not all(count and start + count <= size for start, count in tiles):
        raise OSError("it is cut off")
