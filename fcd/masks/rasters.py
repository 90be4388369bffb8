"""The files that hold a mask or a score: codes, colours, nodata, tags."""

from contextlib import AbstractContextManager
from math import nan
from pathlib import Path

import numpy as np
import rasterio
from rasterio.errors import RasterioIOError
from rasterio.io import DatasetWriter

from fcd.landsat import labels
from fcd.landsat.rasters import Grid, raster_writer
from fcd.pictures import MASK_COLOURS

COLOURS = {
    labels.TIF_NODATA: (0, 0, 0, 0),  # transparent
    labels.TIF_CLEAR: (*MASK_COLOURS["clear"], 255),
    labels.TIF_CLOUD: (*MASK_COLOURS["cloud"], 255),
}
# A score in [0, 1] as 1 to 255, 0 is nodata; scale and offset in the file undo it.
SCORE_SCALE, SCORE_OFFSET = 1 / 254, -1 / 254


def mask_writer(
    path: Path, grid: Grid, tags: dict[str, str], *, cloud_optimised: bool = False
) -> AbstractContextManager[DatasetWriter]:
    """What writes a mask in tif codes, uint8; see `raster_writer`."""
    return raster_writer(
        path,
        grid,
        dtype="uint8",
        nodata=labels.TIF_NODATA,
        colormap=COLOURS,
        tags=tags,
        cloud_optimised=cloud_optimised,
    )


def score_writer(
    path: Path, grid: Grid, tags: dict[str, str], dtype: str, *, cloud_optimised: bool = False
) -> AbstractContextManager[DatasetWriter]:
    """What writes an `encoded` score: `dtype` uint8 or float32."""
    small = dtype == "uint8"
    return raster_writer(
        path,
        grid,
        dtype=dtype,
        nodata=0 if small else nan,
        tags=tags,
        scale=SCORE_SCALE if small else 1,
        offset=SCORE_OFFSET if small else 0,
        cloud_optimised=cloud_optimised,
    )


def encoded(score: np.ndarray, valid: np.ndarray, dtype: str) -> np.ndarray:
    """Score in [0, 1] as files hold it: float32, NaN nodata, or uint8, see `SCORE_SCALE`."""
    if dtype == "uint8":
        return np.where(valid, np.rint(score * 254) + 1, 0).astype(np.uint8)
    return np.where(valid, score, np.float32(nan))


def has_tags(path: Path, tags: dict[str, str], dtype: str | None = None) -> bool:
    """Whether the raster `path` is there, whole, and carries `tags` (and holds `dtype`)."""
    if not path.exists():
        return False
    try:
        with rasterio.open(path) as dataset:
            return tags.items() <= dataset.tags().items() and dtype in (None, *dataset.dtypes)
    except RasterioIOError:
        return False  # damaged: to be made again
