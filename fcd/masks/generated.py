"""Masks and difference maps of the training scenes: their files, and small scenes together."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from rasterio.io import DatasetWriter

from fcd.landsat import labels
from fcd.landsat.rasters import Grid, raster_writer
from fcd.landsat.scenes import Scene
from fcd.masks.prediction import TIF_COLOURS, ArrayScene
from fcd.patches import generated

# What is masked at a time, at most: small scenes, two files of each of which are open, and values.
TOGETHER = 32
VALUES = 1 << 26


def alike(scenes: Iterable[Scene], side: int) -> Iterator[list[tuple[Scene, Grid]]]:
    """`scenes` and their grids in groups that are scored together: small and alike, or one alone.

    side: up to what a scene is small, pixels. Raises `SceneError` if one is incomplete.
    """
    group: list[tuple[Scene, Grid]] = []
    kind = None
    for scene in scenes:
        grid = scene.check()
        with scene.open() as reader:
            now = (grid.height, grid.width, len(scene.bands), reader.dtype, reader.nodata)
        full = len(group) == TOGETHER or (len(group) + 1) * math.prod(now[:3]) > VALUES
        if group and (full or now != kind or max(now[:2]) > side):
            yield group
            group = []
        group.append((scene, grid))
        kind = now
    if group:
        yield group


def together(scenes: list[Scene]) -> Scene | ArrayScene:
    """A group of `alike` as one scene: a single one as it is, others (N, C, H, W) in memory."""
    if len(scenes) == 1:
        return scenes[0]
    dn = []
    for scene in scenes:
        with scene.open() as reader:
            dn.append(reader.bands())
            nodata = reader.nodata
    return ArrayScene(np.stack(dn), nodata, scenes[0].key)


@contextmanager
def mask_tifs(
    folder: Path, scene: Scene, grid: Grid, tags: dict[str, str]
) -> Iterator[tuple[DatasetWriter, DatasetWriter]]:
    """What writes the mask and the difference map of a scene, renamed into place when whole."""
    # The mask is renamed into place last: where it is, the difference map is too.
    with (
        raster_writer(
            generated.mask_tif(folder, scene),
            grid,
            dtype="uint8",
            nodata=labels.TIF_NODATA,
            colormap=TIF_COLOURS,
            tags=tags,
        ) as mask_tif,
        raster_writer(
            folder / f"{scene.key}_difference.tif",
            grid,
            dtype="float32",
            nodata=math.nan,
            tags=tags,
        ) as difference_tif,
    ):
        yield mask_tif, difference_tif
