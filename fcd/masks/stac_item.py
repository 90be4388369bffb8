"""A STAC item beside a mask (https://stacspec.org), by the library pystac."""

from collections.abc import Callable, Mapping
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from rasterio.transform import array_bounds
from rasterio.warp import transform_bounds, transform_geom

from fcd.errors import SceneError, UserError
from fcd.files import write_json
from fcd.landsat.rasters import Grid
from fcd.landsat.scenes import Scene


def library() -> Any:
    """The module pystac, or `UserError`."""
    try:
        return import_module("pystac")
    except ImportError as error:
        raise UserError(
            f"--stac needs a library that is not installed ({error}): pip install pystac"
        ) from error


def path_of(mask: Path) -> Path:
    """Where the item of a mask lies."""
    return mask.with_suffix(".json")


def describing(
    scene: Scene, grid: Grid
) -> Callable[[Path, Mapping[str, str], Mapping[str, str]], None]:
    """What writes the item of a mask of `scene`: its path, tags and fractions.

    Raises `SceneError` if nothing says where or when the scene was taken, or none can read it.
    """
    fields = scene.metadata()
    day, clock = fields.get("DATE_ACQUIRED"), fields.get("SCENE_CENTER_TIME", "00:00:00")
    if grid.ground is None or day is None:
        lacks = "position" if grid.ground is None else "DATE_ACQUIRED in an MTL file"
        raise SceneError(
            f"{scene.where}: --stac needs its {lacks}, and there is none; leave it out"
        )
    # Seven digits of a second are one more than Python takes.
    told = f"{day}T{clock[:8]}+00:00"
    try:
        taken = datetime.fromisoformat(told)
    except ValueError as error:
        raise SceneError(
            f"{scene.where}: --stac needs its time, and its MTL file says {told}, not "
            "2015-08-04T16:21:31+00:00 or the like; mend DATE_ACQUIRED and SCENE_CENTER_TIME there"
        ) from error
    # Across the antimeridian it is cut there, and the box ends west of where it begins (RFC 7946).
    footprint = transform_geom(
        grid.crs, "EPSG:4326", {"type": "Polygon", "coordinates": [_ring(grid)]}
    )
    bounds = array_bounds(grid.height, grid.width, grid.transform)
    bbox = list(transform_bounds(grid.crs, "EPSG:4326", *bounds))

    def describe(mask: Path, tags: Mapping[str, str], fractions: Mapping[str, str]) -> None:
        pystac = library()
        properties: dict[str, Any] = {
            f"fcd:{name.removeprefix('FCD_').lower()}": text for name, text in tags.items()
        }
        # Without a valid pixel there are none of these.
        properties |= {f"fcd:{name}": float(text) for name, text in fractions.items() if text}
        item = pystac.Item(mask.stem, footprint, bbox, taken, properties)
        kind = pystac.MediaType.COG
        item.add_asset("mask", pystac.Asset(f"./{mask.name}", media_type=kind, roles=["data"]))
        write_json(path_of(mask), item.to_dict(include_self_link=False))

    return describe


def _ring(grid: Grid) -> list[tuple[float, float]]:
    """The corners of `grid` in its CRS, the first one again at the end."""
    a, b, left, d, e, top = grid.transform[:6]
    places = ((0, 0), (grid.height, 0), (grid.height, grid.width), (0, grid.width), (0, 0))
    return [(left + a * col + b * row, top + d * col + e * row) for row, col in places]
