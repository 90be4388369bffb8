"""GeoTIFFs: where they lie, what they mark as nodata, and writing them whole or not at all."""

import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import rasterio
import tifffile
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning
from rasterio.transform import Affine

from fcd.files import replacing
from fcd.landsat.bands import named

FLOAT32_MAX = float(np.finfo(np.float32).max)


def opened(path: os.PathLike | str, mode: str = "r", **profile: Any) -> rasterio.DatasetReader:
    """`rasterio.open`, silent where a raster has no position, as a manual mask."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return rasterio.open(path, mode, **profile)


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

    def square(self, row: int, column: int, size: int) -> "Grid":
        """The `size` x `size` pixels from (row, column) on."""
        # By hand: affine 2 knows no @, affine 3 warns of *.
        a, b, c, d, e, f = self.transform[:6]
        left, top = c + a * column + b * row, f + d * column + e * row
        return Grid(size, size, self.crs, Affine(a, b, left, d, e, top))


def names_of(dataset: rasterio.DatasetReader) -> tuple[str, ...]:
    """The names of a raster's bands, by their descriptions; see `fcd.landsat.bands.named`."""
    return named(dataset.descriptions)


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
) -> None:
    """Write a small GeoTIFF of `pixels` (C, h, w) on `grid`, whole or not at all.

    descriptions: what the file says of each band; nothing unless they are given. tags: what it says
    of itself.
    """
    profile = {"driver": "GTiff", "count": len(pixels), "dtype": pixels.dtype.name}
    profile |= {"nodata": nodata, "compress": "deflate", **vars(grid)}
    with replacing(path) as temporary, opened(temporary, "w", **profile) as dataset:
        dataset.write(pixels)
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
            with rasterio.open(temporary, "w", **profile) as dataset:
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
        _check_all_there(temporary)


def _check_all_there(path: Path) -> None:
    """Raise OSError if a tile is missing: GDAL closes a GeoTIFF on a full disk without a word."""
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
