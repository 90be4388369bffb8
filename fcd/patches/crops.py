"""Crops of many scenes with their manual masks: what the benchmark of real pixels takes.

What a folder of them holds:

    images/<crop>.tif   DN, uint16; the descriptions name the bands, B2, …
    masks/<crop>.tif    uint8: 0 fill, 64 shadow, 128 clear, 192 thin cloud, 255 cloud
    patches.csv         columns patch (the name), biome, scene, and what else is known
"""

import csv
import random
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rasterio.errors import RasterioIOError
from tqdm import tqdm

from fcd.errors import SceneError, UserError
from fcd.files import csv_rows, replacing
from fcd.landsat import labels
from fcd.landsat.bands import BANDS, FILL_DN
from fcd.landsat.rasters import opened, write_raster
from fcd.landsat.scenes import Scene
from fcd.landsat.sun import IMAGES, LIST
from fcd.patches.cutting import patch_name

MASKS = "masks"
COLUMNS = ("patch", "biome", "scene")
SHARES = {
    "thick_255": labels.TRUTH_CLOUD,
    "thin_192": labels.TRUTH_THIN_CLOUD,
    "clear_128": labels.TRUTH_CLEAR,
    "shadow_64": labels.TRUTH_SHADOW,
}
TRIES = 1000  # places that are drawn for the crops of a scene, at most


@dataclass(frozen=True)
class Crop:
    """A row of the list."""

    name: str
    biome: str
    scene: str
    sun_elevation: str = ""  # degrees; "": not known


def read_list(path: Path) -> list[Crop]:
    """The crops that a list names, in its order.

    Raises `UserError` with the line number for a row that lacks a value or a name that is there
    twice, and if there is none.
    """
    crops: dict[str, Crop] = {}
    for line, row in csv_rows(path, COLUMNS, "list of crops"):
        name, biome, scene = (row[column] or "" for column in COLUMNS)
        if not (name and biome and scene):
            raise UserError(f"{path} line {line}: patch, biome and scene are needed")
        if name in crops:
            raise UserError(f"{path} line {line}: patch {name} is there before")
        crops[name] = Crop(name, biome, scene, row.get("sun_elevation") or "")
    if not crops:
        raise UserError(f"{path} lists no crop")
    return list(crops.values())


def image_path(folder: Path, crop: Crop) -> Path:
    """Where the pixels of a crop are."""
    return folder / IMAGES / f"{crop.name}.tif"


def mask_path(folder: Path, crop: Crop) -> Path:
    """Where the mask of a crop is."""
    return folder / MASKS / f"{crop.name}.tif"


def cloud_share(folder: Path, crop: Crop) -> float:
    """Share of cloud in the mask of a crop, in [0, 1]; `UserError` if it cannot be read."""
    path = mask_path(folder, crop)
    try:
        with opened(path) as dataset:
            return labels.cloud_share(labels.patch_from_truth(dataset.read(1), str(path)))
    except RasterioIOError as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def crop_scenes(
    scenes: Sequence[Scene],
    output_dir: Path,
    count: int,
    size: int,
    bands: tuple[str, ...] = BANDS,
    seed: int = 0,
) -> Path:
    """Write `count` crops of each scene, `size` pixels a side, and their list; return its path.

    Places are drawn by `seed` and the scene's name: within the footprint, of one scene apart from
    each other. Raises `SceneError` if a scene is incomplete, or has no room for so many.
    """
    rows: list[dict[str, str]] = []
    for scene in tqdm(scenes, "cropping scenes", unit="scene", dynamic_ncols=True):
        rows += _crop(replace(scene, bands=bands), output_dir, count, size, seed)
    path = output_dir / LIST
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as stream:
        names = [*COLUMNS, "sun_elevation", *SHARES]
        writer = csv.DictWriter(stream, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def _crop(
    scene: Scene, output_dir: Path, count: int, size: int, seed: int
) -> Iterator[dict[str, str]]:
    """Write the crops of a scene; yield their rows of the list."""
    grid = scene.check(need_truth=True)
    sun = ""
    with suppress(KeyError, ValueError):
        sun = f"{float(scene.metadata()['SUN_ELEVATION']):.3f}"
    drawn = random.Random(f"{seed} {scene.name}")
    places: list[tuple[int, int]] = []
    with scene.open() as reader:
        for _ in range(TRIES if min(grid.height, grid.width) >= size else 0):
            if len(places) == count:
                break
            row, column = (drawn.randint(0, side - size) for side in (grid.height, grid.width))
            if any(abs(row - r) < size and abs(column - c) < size for r, c in places):
                continue
            columns = slice(column, column + size)
            codes = reader.codes(row, row + size)[:, columns]
            patch = scene.decode_truth(codes, str(scene.truth))
            if not patch.all():
                continue
            if scene.decode_truth is not labels.patch_from_truth:
                codes = labels.tif_from_patch(patch)
            pixels = reader.bands(row, row + size)[:, :, columns]
            if (pixels == FILL_DN).any():
                continue
            places.append((row, column))
            crop = Crop(patch_name(scene.name, row, column), scene.biome, scene.name)
            place = grid.square(row, column, size)
            write_raster(image_path(output_dir, crop), pixels, place, None, scene.bands)
            write_raster(mask_path(output_dir, crop), codes[None], place, None)
            shares = {name: f"{np.mean(codes == code):.4f}" for name, code in SHARES.items()}
            values = (crop.name, crop.biome, crop.scene)
            yield dict(zip(COLUMNS, values, strict=True)) | {"sun_elevation": sun, **shares}
    if len(places) < count:
        raise SceneError(
            f"{scene.where}: no room for {count} crops of {size} pixels without fill; ask for "
            "fewer or smaller ones"
        )
