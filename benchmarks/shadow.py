"""Shadows found by geometry against known ones: drawn scenes under any sun, real patches.

    python -m benchmarks.shadow [--checkpoint best.pt] [--patches DIR --pictures DIR]

Recall and precision are those of pixels of all scenes of a row together. Clouds
are the true ones, or those that the weights of `--checkpoint` find. `--patches` holds images/,
masks/ and patches.csv, as `python -m fcd.crops` writes them; where they name no azimuth of the sun,
it is sought: that under which most shadow is found.
"""

import csv
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge
from scipy import ndimage

from fcd import pictures
from fcd.cli import entry
from fcd.cli.parser import Flag, parse
from fcd.landsat import labels
from fcd.landsat.bands import BANDS, PIXEL_SIZE
from fcd.landsat.radiometry import Radiometry
from fcd.landsat.rasters import names_of, opened
from fcd.masks import shadows
from fcd.masks.postprocessing import geometry_of
from fcd.masks.prediction import predict_array
from fcd.metrics import CLEAR
from fcd.synthetic.scene import SyntheticScene, Variety, draw_scene
from solver import load_solver

AZIMUTHS, ELEVATIONS = (35, 125, 215, 305), (15, 30, 50, 70)  # degrees
BIOMES = ("Forest", "GrassCrops", "Shrubland", "Barren", "Urban", "Wetlands")
NEEDED = (shadows.NIR, shadows.SWIR, shadows.THERMAL)
Cloud = Callable[[np.ndarray, float], np.ndarray]
"""DN (10, h, w) and the sun's elevation -> mask (h, w) in tif codes."""


@dataclass(frozen=True)
class Settings:
    """Shadows found by geometry against known ones: drawn scenes under any sun, real patches."""

    size: Annotated[int, Ge(64), "side of a drawn scene, pixels"] = 1024
    draws: Annotated[int, Ge(1), "drawn scenes of each place of the sun"] = 3
    variety: Annotated[Variety, "of drawn scenes"] = "plain"
    seed: Annotated[int, Ge(0), "of drawn scenes"] = 0
    buffer: Annotated[int, Ge(0), "pixels by which found shadow is grown over clear ground"] = 0
    checkpoint: Annotated[Path | None, "weights that find the clouds; None: the truth does"] = None
    patches: Annotated[Path | None, Flag(metavar="DIR"), "real patches, in place of drawn"] = None
    pictures: Annotated[Path | None, Flag(metavar="DIR"), "PNG of each real patch"] = None


def drawn(settings: Settings) -> Iterator[SyntheticScene]:
    """Some scenes for each pair of azimuth and elevation, of other ground each."""
    suns = [(azimuth, elevation) for elevation in ELEVATIONS for azimuth in AZIMUTHS]
    for number, (azimuth, elevation) in enumerate(suns * settings.draws):
        yield draw_scene(
            BIOMES[(number + number // len(AZIMUTHS)) % len(BIOMES)],
            settings.size,
            settings.seed,
            index=number,
            cover=0.2,
            variety=settings.variety,
            sun=(elevation, azimuth),
        )


def thrown_by(scene: SyntheticScene) -> np.ndarray:
    """(h, w) uint8: the thickest cloud between each pixel and the sun, truth codes.

    `labels.TRUTH_FILL` where that way leaves the scene, so that no program can know.
    """
    shape = scene.truth.shape
    rows, columns = np.indices(shape)
    toward = shadows.toward(scene.sun_elevation, scene.sun_azimuth) / PIXEL_SIZE
    between, inside = np.zeros(shape, np.uint8), np.ones(shape, bool)
    for height in scene.casting:
        row = np.rint(rows - 1000 * height * toward[1]).astype(int)
        column = np.rint(columns + 1000 * height * toward[0]).astype(int)
        inside &= (row >= 0) & (row < shape[0]) & (column >= 0) & (column < shape[1])
        np.maximum(between, scene.truth.take(row * shape[1] + column, mode="clip"), out=between)
    return np.where(inside, between, np.uint8(labels.TRUTH_FILL))


def found_in(scene: SyntheticScene, mask: np.ndarray | None = None) -> np.ndarray:
    """Where shadow is found in a drawn scene, by its clouds or those of `mask`, patch codes."""
    mask = labels.patch_from_truth(scene.truth) if mask is None else mask
    sun = (scene.sun_elevation, scene.sun_azimuth)
    radiometry = Radiometry.under(sun[0], NEEDED, scene.name)
    standard = radiometry.standard(scene.dn[[BANDS.index(band) for band in NEEDED]])
    geometry = geometry_of(scene.grid, sun, None, scene.name)
    return shadows.find(mask, lambda start, stop: standard[:, start:stop], NEEDED, geometry)


def grown(found: np.ndarray, mask: np.ndarray, pixels: int) -> np.ndarray:
    """`found` and what of the clear ground of `mask`, patch codes, is within a disc about it."""
    if not (pixels and found.any()):
        return found
    return (ndimage.distance_transform_edt(~found) <= pixels) & (mask == CLEAR)


def counted(found: np.ndarray, truth: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Pixels of shadow that are found, that there are, and that are said to be, where `known`."""
    shadow = (truth == labels.TRUTH_SHADOW) & known
    return np.array([np.sum(shadow & found), shadow.sum(), np.sum(found & known)])


def rates(counts: np.ndarray) -> tuple[float, float]:
    """Recall and precision of counts as of `counted`, NaN where there is nothing to divide."""
    hit, true, said = counts.tolist()
    return hit / true if true else math.nan, hit / said if said else math.nan


def on_drawn(settings: Settings, clouds: Cloud | None) -> dict[str, np.ndarray]:
    """Counts by quadrant of the sun, its elevation, thickness of the casting cloud, and of all."""
    rows: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(3))
    for scene in drawn(settings):
        mask = None
        if clouds:
            mask = labels.patch_from_tif(clouds(scene.dn, scene.sun_elevation))
        clear = labels.patch_from_truth(scene.truth) if mask is None else mask
        found = grown(found_in(scene, mask), clear, settings.buffer)
        by = thrown_by(scene)
        kinds = {
            "all": by != labels.TRUTH_FILL,
            "thick clouds": by == labels.TRUTH_CLOUD,
            "thin clouds": by == labels.TRUTH_THIN_CLOUD,
        }
        kinds[f"azimuth {scene.sun_azimuth:.0f}"] = kinds["all"]
        kinds[f"elevation {scene.sun_elevation:.0f}"] = kinds["all"]
        for kind, known in kinds.items():
            rows[kind] += counted(found, scene.truth, known)
    return dict(sorted(rows.items()))


# --- real patches ------------------------------------------------------------------------------


def found_under(
    mask: np.ndarray, needed: np.ndarray, elevation: float, azimuth: float
) -> np.ndarray:
    """Where shadow is found in a patch that has no position, north up."""
    east, north = shadows.toward(elevation, azimuth) / PIXEL_SIZE
    geometry = shadows.Geometry((north, -east))
    return shadows.find(mask, lambda start, stop: needed[:, start:stop], NEEDED, geometry)


def on_patches(folder: Path, drawings: Path | None, buffer: int) -> dict[str, np.ndarray]:
    """Counts of each patch with manual shadow, and of all; the azimuth is in the name."""
    rows: dict[str, np.ndarray] = {}
    with (folder / "patches.csv").open(newline="", encoding="utf-8") as stream:
        listed = list(csv.DictReader(stream))
    for row in listed:
        with opened(folder / "masks" / f"{row['patch']}.tif") as dataset:
            truth = dataset.read(1)
        if np.mean(truth == labels.TRUTH_SHADOW) < 0.01:
            continue
        with opened(folder / "images" / f"{row['patch']}.tif") as dataset:
            dn, names = dataset.read(), names_of(dataset)
        elevation = float(row["sun_elevation"])
        standard = Radiometry.under(elevation, names, row["patch"]).standard(dn)
        needed = standard[[names.index(band) for band in NEEDED]]
        mask = labels.patch_from_truth(truth)

        found = partial(found_under, mask, needed, elevation)
        azimuth = max(range(0, 360, 5), key=lambda angle: np.sum(found(angle)))
        azimuth = float(row.get("sun_azimuth") or azimuth)
        shadow = grown(found(azimuth), mask, buffer)
        rows[f"{row['patch']}, azimuth {azimuth:.0f}"] = counted(shadow, truth, mask > 0)
        if drawings:
            shown = np.where(shadow, labels.TRUTH_SHADOW, truth)
            shown[(truth == labels.TRUTH_SHADOW) & ~shadow] = labels.TRUTH_CLEAR
            picture = _picture(standard[[names.index(b) for b in ("B6", "B5", "B4")]], truth, shown)
            pictures.write_png(drawings / f"{row['patch']}.png", picture)
    return rows | {"all": np.sum(list(rows.values()), axis=0)}


def _picture(rgb: np.ndarray, *masks: np.ndarray) -> np.ndarray:
    """Image (B6, B5, B4) beside masks in truth codes, three times as large."""
    colours = pictures.FINISHED_COLOURS
    kinds = {
        labels.TRUTH_FILL: "no data", labels.TRUTH_SHADOW: "shadow", labels.TRUTH_CLEAR: "clear",
        labels.TRUTH_THIN_CLOUD: "buffer", labels.TRUTH_CLOUD: "cloud",
    }  # fmt: skip
    table = np.zeros((256, 3), np.uint8)
    for code, name in kinds.items():
        table[code] = colours[name]
    row = np.hstack([pictures.stretch_rgb(rgb), *(table[mask] for mask in masks)])
    return row.repeat(3, axis=0).repeat(3, axis=1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    flags = parse(Settings, arguments, "-m benchmarks.shadow")
    clouds: Cloud | None = None
    if flags.checkpoint:
        predictor = load_solver(flags.checkpoint, "cpu").predictor()

        def clouds(dn: np.ndarray, elevation: float) -> np.ndarray:
            return predict_array(dn, predictor, BANDS, elevation)[0]

    real = flags.patches
    rows = on_patches(real, flags.pictures, flags.buffer) if real else on_drawn(flags, clouds)
    print(f"{'':36} {'recall':>7} {'precision':>9} {'pixels':>9}")
    for name, counts in rows.items():
        recall, precision = rates(counts)
        print(f"{name:36} {recall:7.2f} {precision:9.2f} {counts[1]:9.0f}")


if __name__ == "__main__":
    entry.run(main)
