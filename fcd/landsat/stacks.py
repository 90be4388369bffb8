"""GeoTIFFs with several bands as scenes: which of their bands a network reads."""

import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import rasterio
from rasterio.errors import RasterioIOError
from tqdm import tqdm

from fcd.errors import MissingBand, SceneError
from fcd.landsat.bands import (
    BANDS,
    FILL_DN,
    SENTINEL_2,
    are_named,
    band_numbers,
    described,
    named,
    positions,
)  # fmt: skip
from fcd.landsat.rasters import WRITTEN_BY, alpha_of, names_of, opened, pixel_bands
from fcd.landsat.scenes import Band, Scene

_LOOKED_AT = 512  # rows and columns of a band by which it is known what it holds
# Of the first there is of these bands of Level-1, half of the pixels are brighter than DARKEST.
_DARK, DARKEST = ("B9", "B7", "B6"), 4000


def is_stack(path: Path) -> bool:
    """Whether a raster has several bands and we have not written it, or it cannot be read."""
    try:
        with opened(path) as dataset:
            return dataset.count > 1 and WRITTEN_BY not in dataset.tags()
    except RasterioIOError:
        return True  # which is told where it is read


def stack_from(path: Path, needed: Sequence[str], bands: str | None, name: str) -> Scene:
    """The GeoTIFF at `path` as a scene of that `name`: see `fcd.landsat.products.scene_from`."""
    try:
        with opened(path) as dataset:
            names, pixels, alpha = names_of(dataset), pixel_bands(dataset), alpha_of(dataset)
            count, untold = dataset.count, not any(dataset.descriptions)
            if len(needed) == count:  # the network takes the alpha band for one like the others
                if alpha and not bands:
                    _warn_once(
                        f"warning: {path}: band {alpha} is alpha, and is read as one of the "
                        f"{count} that the network takes; --bands says which to read"
                    )
                names, pixels, alpha = named(dataset.descriptions), dataset.indexes, None
    except RasterioIOError as error:
        raise SceneError(f"{path} cannot be read: {error}") from error
    if bands:
        numbers = band_numbers(bands, "--bands")
        if len(numbers) != len(needed):
            raise MissingBand(
                f"{path} has {len(numbers)} bands by --bands, the network takes {len(needed)}"
            )
        if max(numbers) > count:
            raise SceneError(f"--bands {bands}: {path} has {count} bands")
        if like := _alpha_like(path, sorted({*pixels} - {*numbers})):
            _warn_once(
                f"warning: {path}: band {like} looks like an alpha band and is not marked as one: "
                "what it hides is masked all the same; mark it by gdal_edit.py -colorinterp_"
                f"{like} alpha"
            )
    else:
        if {*needed} <= {*BANDS} and (other := {*SENTINEL_2} & {*names}):
            raise SceneError(
                f"{path} is of Sentinel-2 by its band {min(other)}, the network takes bands of "
                "Landsat, which have the same names; --bands says which to read all the same"
            )
        told = f"{path}" + f" (band {alpha} is alpha)" * (alpha is not None)
        if not are_named(names) and len(pixels) != len(needed):
            like = _alpha_like(path, pixels)
            told += f" (band {like} looks like alpha, but is not marked so)" * (like is not None)
        if are_named(needed) and not are_named(names):
            raise MissingBand(
                f"{told} has {described(names)} without names, the network takes "
                f"{described(needed)}; give the numbers of these, in this order, by --bands, such "
                "as 1-7,9-11; without one of them this network cannot mask it"
            )
        numbers = [pixels[place] for place in positions(needed, names, told)]
        if untold and names == BANDS:
            _warn_once(
                f"warning: {path}: its bands without names are taken for {', '.join(BANDS)}, in "
                "this order; --bands says which they are"
            )
    if dark := _unlike_dn(path, needed, numbers):
        if not bands:
            raise SceneError(dark)
        _warn_once(f"warning: {dark}")
    files = {band: Band(path, number) for band, number in zip(needed, numbers, strict=True)}
    return Scene(name, "", path.parent, files, tuple(needed), level_1=False)


def _unlike_dn(path: Path, needed: Sequence[str], numbers: Sequence[int]) -> str | None:
    """What is wrong if bands of Landsat hold no DN of Level-1, but reflectance × 10,000.

    Of Level-1 reflectance 0 is DN 5,000 (Landsat 8 Data Users Handbook, LSDS-1574).
    """
    if not (shown := [band for band in _DARK if band in needed]):
        return None
    number = numbers[needed.index(shown[0])]
    with opened(path) as dataset:
        if dataset.dtypes[number - 1] != "uint16":
            return None
        dn = dataset.read(number, out_shape=_looked_at(dataset), masked=True).compressed()
    dn = dn[dn != FILL_DN]
    if not dn.size or np.median(dn) >= DARKEST:
        return None
    return (
        f"{path}: half of {shown[0]} is below {np.median(dn):.0f}, digital numbers of Level-1 are "
        f"above {DARKEST}; if it is reflectance, get the Level-1 product, or convert it: DN = "
        "(reflectance from 0 to 1 x sine of the sun's elevation + 0.1) / 0.00002"
    )


def _looked_at(dataset: rasterio.DatasetReader) -> tuple[int, ...]:
    return tuple(min(side, _LOOKED_AT) for side in dataset.shape)


@cache  # scenes are looked at before they are masked
def _warn_once(text: str) -> None:
    tqdm.write(text, file=sys.stderr)


def _alpha_like(path: Path, numbers: Sequence[int]) -> int | None:
    """The first of the bands with these `numbers` that holds 0 and the greatest value alone."""
    with opened(path) as dataset:
        for number in numbers:
            values = np.unique(dataset.read(number, out_shape=_looked_at(dataset)))
            if values.dtype.kind == "u" and values.tolist() == [0, np.iinfo(values.dtype).max]:
                return number
    return None
