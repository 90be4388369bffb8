"""Drawn scenes as files: data sets in the layout of L8 Biome, and images as an own data set has."""

import csv
import os
import shutil
from pathlib import Path
from typing import TypedDict

import numpy as np
import rasterio
from tqdm import tqdm

from fcd.errors import UserError
from fcd.files import replacing
from fcd.landsat import labels
from fcd.landsat.bands import BANDS, PIXEL_SIZE, RGB_BANDS, THERMAL
from fcd.landsat.labels import TRUTH_THIN_CLOUD
from fcd.landsat.mtl import parse_mtl
from fcd.landsat.radiometry import (
    RADIANCE_ADD,
    RADIANCE_MULT,
    REFLECTANCE_ADD,
    REFLECTANCE_MULT,
    THERMAL_K1,
    THERMAL_K2,
)
from fcd.landsat.rasters import raster_writer, write_raster
from fcd.patches.sources import MASK_ENDING
from fcd.synthetic.scene import (
    MIN_SIZE,
    SyntheticScene,
    Variety,
    check_side,
    draw_scene,
    scene_name,
)
from fcd.synthetic.sensor import REFLECTIVE
from fcd.synthetic.surface import RECIPES

# Of the images of three visible bands: biomes in which clouds can be told by them, and the DN that
# become 0 and 255, by a square root as in most pictures. A cloudy image is cloud by half at least.
IMAGE_BIOMES = ("Forest", "GrassCrops", "Shrubland", "Urban", "Water", "Wetlands")
IMAGE_DN = (5000, 35_000)
CLOUDY_IMAGE = 0.5
ORIGIN: dict[Variety, str] = {  # in the MTL files
    "plain": "Synthetic scene drawn by fcd.synthetic",
    "wide": "Synthetic scene of any weather drawn by fcd.synthetic",
}
# The cloud cover of the scenes of a biome, in turn: clear, scattered, mid, cloudy.
COVERS = (0.0, 0.15, 0.55, 0.07, 0.35, 0.22)


def _write_truth(truth: np.ndarray, path: Path) -> None:
    """ENVI image and header without map info, as in L8 Biome: one byte a pixel, row by row."""
    path.write_bytes(truth.tobytes())
    lines, samples = truth.shape
    header = (
        f"ENVI\nsamples = {samples}\nlines = {lines}\nbands = 1\nheader offset = 0\n"
        "file type = ENVI Standard\ndata type = 1\ninterleave = bsq\nbyte order = 0\n"
    )
    path.with_suffix(".hdr").write_text(header, encoding="ascii")


def _metadata(scene: SyntheticScene) -> dict[str, dict[str, str | float]]:
    """The groups of ``_MTL.txt`` that a reader of reflectance, temperature and place needs."""
    grid, reflective, thermal = scene.grid, (*REFLECTIVE, "B9"), THERMAL
    left, top = grid.transform.c + PIXEL_SIZE / 2, grid.transform.f - PIXEL_SIZE / 2
    right, bottom = left + (grid.width - 1) * PIXEL_SIZE, top - (grid.height - 1) * PIXEL_SIZE
    assert grid.crs is not None  # a drawn scene has one
    cloudy = np.count_nonzero(scene.truth >= TRUTH_THIN_CLOUD)
    number = {band: band[1:] for band in BANDS}
    return {
        "METADATA_FILE_INFO": {
            "ORIGIN": f'"{ORIGIN[scene.variety]}"',
            "LANDSAT_SCENE_ID": f'"{scene.name}"',
            "STATION_ID": '"LGN"',
        },
        "PRODUCT_METADATA": {
            "DATA_TYPE": '"L1T"',
            "OUTPUT_FORMAT": '"GEOTIFF"',
            "SPACECRAFT_ID": '"LANDSAT_8"',
            "SENSOR_ID": '"OLI_TIRS"',
            "WRS_PATH": int(scene.name[3:6]),
            "WRS_ROW": int(scene.name[6:9]),
            "DATE_ACQUIRED": scene.date.isoformat(),
            "CORNER_UL_PROJECTION_X_PRODUCT": f"{left:.3f}",
            "CORNER_UL_PROJECTION_Y_PRODUCT": f"{top:.3f}",
            "CORNER_LR_PROJECTION_X_PRODUCT": f"{right:.3f}",
            "CORNER_LR_PROJECTION_Y_PRODUCT": f"{bottom:.3f}",
            "REFLECTIVE_LINES": grid.height,
            "REFLECTIVE_SAMPLES": grid.width,
            "THERMAL_LINES": grid.height,
            "THERMAL_SAMPLES": grid.width,
            **{f"FILE_NAME_BAND_{number[b]}": f'"{scene.name}_{b}.TIF"' for b in BANDS},
            "FILE_NAME_BAND_QUALITY": f'"{scene.name}_BQA.TIF"',
            "METADATA_FILE_NAME": f'"{scene.name}_MTL.txt"',
        },
        "IMAGE_ATTRIBUTES": {
            "CLOUD_COVER": f"{100 * cloudy / np.count_nonzero(scene.truth):.2f}",
            "SUN_AZIMUTH": f"{scene.sun_azimuth:.8f}",
            "SUN_ELEVATION": f"{scene.sun_elevation:.8f}",
        },
        "RADIOMETRIC_RESCALING": {
            **{f"RADIANCE_MULT_BAND_{number[b]}": f"{RADIANCE_MULT:.4E}" for b in thermal},
            **{f"RADIANCE_ADD_BAND_{number[b]}": f"{RADIANCE_ADD:.5f}" for b in thermal},
            **{f"REFLECTANCE_MULT_BAND_{number[b]}": f"{REFLECTANCE_MULT:.4E}" for b in reflective},
            **{f"REFLECTANCE_ADD_BAND_{number[b]}": f"{REFLECTANCE_ADD:.6f}" for b in reflective},
        },
        "TIRS_THERMAL_CONSTANTS": {
            **{f"K1_CONSTANT_BAND_{number[b]}": f"{THERMAL_K1[b]:.4f}" for b in thermal},
            **{f"K2_CONSTANT_BAND_{number[b]}": f"{THERMAL_K2[b]:.4f}" for b in thermal},
        },
        "PROJECTION_PARAMETERS": {
            "MAP_PROJECTION": '"UTM"',
            "DATUM": '"WGS84"',
            "UTM_ZONE": grid.crs.to_epsg() % 100,
            "GRID_CELL_SIZE_REFLECTIVE": f"{PIXEL_SIZE:.2f}",
            "GRID_CELL_SIZE_THERMAL": f"{PIXEL_SIZE:.2f}",
            "ORIENTATION": '"NORTH_UP"',
        },
    }


def _write_metadata(scene: SyntheticScene, path: Path) -> None:
    lines = ["GROUP = L1_METADATA_FILE"]
    for group, fields in _metadata(scene).items():
        lines.append(f"  GROUP = {group}")
        lines += [f"    {name} = {value}" for name, value in fields.items()]
        lines.append(f"  END_GROUP = {group}")
    lines += ["END_GROUP = L1_METADATA_FILE", "END", ""]
    path.write_text("\n".join(lines), encoding="ascii")


def write_scene(scene: SyntheticScene, folder: Path | str) -> Path:
    """Write the files of `scene` as ``<folder>/<scene>_B1.TIF`` …; `folder` must not exist.

    The folder appears when it is complete: a scene is whole or absent.
    """
    folder = Path(folder)
    temporary = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        for part, values in (*zip(BANDS, scene.dn, strict=True), ("BQA", scene.qa)):
            path = temporary / f"{scene.name}_{part}.TIF"
            # No nodata tag: real Level-1 bands carry none, fill is known by its DN alone.
            with raster_writer(path, scene.grid, dtype="uint16", nodata=None) as dataset:
                dataset.write(values, 1)
        _write_truth(scene.truth, temporary / f"{scene.name}_fixedmask.img")
        _write_metadata(scene, temporary / f"{scene.name}_MTL.txt")
        os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


class Plan(TypedDict):
    """What differs between the scenes of a data set: arguments of `draw_scene`."""

    cover: float
    footprint: bool


def plan(biome: str, index: int) -> Plan:
    """Cloud cover and footprint of scene `index` of `biome` in a data set."""
    # Each biome begins elsewhere, so that a small set holds clear and cloudy scenes too.
    turn = index + list(RECIPES).index(biome)
    return {"cover": COVERS[turn % len(COVERS)], "footprint": index % 3 == 1}


def _check_drawn(folder: Path, size: int, variety: Variety) -> None:
    """Refuse a scene drawn otherwise earlier: the data set would be a mixture."""
    with rasterio.open(folder / f"{folder.name}_B1.TIF") as dataset:
        if dataset.shape != (size, size):
            raise UserError(
                f"{folder} is {dataset.width}x{dataset.height} pixels, not {size}x{size}: "
                "give another --output_dir, or the same --size"
            )
    if parse_mtl(folder / f"{folder.name}_MTL.txt").get("ORIGIN") != ORIGIN[variety]:
        raise UserError(
            f"{folder} was not drawn with --variety {variety}: give another --output_dir, or the "
            "same --variety"
        )


def write_data_set(
    root: Path | str, scenes_per_biome: int, size: int, seed: int, variety: Variety = "plain"
) -> list[Path]:
    """Draw `scenes_per_biome` scenes of each biome into ``<root>/<biome>/<scene>``.

    Scenes already there are kept. variety: see `draw_scene`. Returns the folders of all scenes,
    sorted by biome and name.
    """
    check_side(size)
    jobs = [(biome, index) for biome in RECIPES for index in range(scenes_per_biome)]
    folders = []
    for biome, index in tqdm(jobs, desc="scenes", unit="scene"):
        folder = Path(root, biome, scene_name(biome, seed, index))
        if folder.is_dir():
            _check_drawn(folder, size, variety)
        else:
            drawn = draw_scene(
                biome, size, seed, index=index, variety=variety, **plan(biome, index)
            )
            write_scene(drawn, folder)
        folders.append(folder)
    return folders


def _as_image(scene: SyntheticScene) -> tuple[np.ndarray, np.ndarray]:
    """Red, green, blue (3, h, w) uint8 of a scene, and its mask (1, h, w) in tif codes."""
    low, high = IMAGE_DN
    shade = (scene.dn[list(RGB_BANDS)].astype(np.float32) - low) / (high - low)
    mask = labels.tif_from_patch(labels.patch_from_truth(scene.truth))
    return np.rint(255 * np.sqrt(np.clip(shade, 0, 1))).astype(np.uint8), mask[None]


def write_images(root: Path | str, count: int, size: int, seed: int) -> Path:
    """Draw `count` images of three bands of uint8, half of them cloudy, and two whole scenes.

    ``<root>/images/<name>.tif`` with ``<name>_mask.tif`` (0 invalid, 128 clear, 255 cloud), listed
    with their labels in ``<root>/labels.csv``, whose path is returned; ``<root>/scenes/``, the
    same kind of data 8 times as wide. They have no nodata.
    """
    root, rows = Path(root), []
    wanted = {"clear": count - count // 2, "cloudy": count // 2}
    with tqdm(total=count, desc="images", unit="image", dynamic_ncols=True) as bar:
        for number in range(-2, 100 * count):
            biome = IMAGE_BIOMES[number % len(IMAGE_BIOMES)]
            side = max(8 * size, MIN_SIZE)
            scene = draw_scene(biome, side, seed, index=number + 2, cover=0.6 * (number % 2))
            pixels, mask = _as_image(scene)
            if number < 0:  # the two whole ones, of which one is cloudy
                write_raster(root / "scenes" / f"{scene.name}.tif", pixels, scene.grid, None)
                continue
            for row, column in np.ndindex(8, 8):
                place = np.s_[:, row * size : (row + 1) * size, column * size : (column + 1) * size]
                share = np.mean(mask[place] == labels.TIF_CLOUD)
                label = "clear" if share == 0 else "cloudy" if share >= CLOUDY_IMAGE else None
                if label is None or not wanted[label]:
                    continue
                wanted[label] -= 1
                name = f"{scene.name}_{row}_{column}"
                grid = scene.grid.square(row * size, column * size, size)
                write_raster(root / "images" / f"{name}.tif", pixels[place], grid, None)
                write_raster(root / "images" / f"{name}{MASK_ENDING}", mask[place], grid, 0)
                rows.append((f"images/{name}.tif", label))
                bar.update()
            if not any(wanted.values()):
                break
    path = root / "labels.csv"
    with replacing(path) as temporary, temporary.open("w", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows([("path", "label"), *rows])
    return path
