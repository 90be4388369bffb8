"""Shadows by geometry: hand-made scenes whose shadows are known, and drawn ones under any sun."""

import heapq

import numpy as np
import pytest
import torch
from rasterio.crs import CRS
from rasterio.transform import Affine
from scipy.ndimage import binary_dilation

from benchmarks.shadow import counted, found_in, rates, thrown_by
from fcd.errors import SceneError
from fcd.landsat.rasters import Grid
from fcd.masks import shadows
from fcd.masks.postprocessing import geometry_of
from fcd.metrics import CLEAR, CLOUD, INVALID
from fcd.synthetic.scene import draw_scene

UTM = Grid(200, 200, CRS.from_epsg(32631), Affine(30, 0, 497_000, 0, -30, 5e6))


def flooded(level):
    """Basins filled from the border on, lowest pixel first (Barnes et al. 2014)."""
    filled = np.full(level.shape, -1)
    rows, columns = level.shape
    queue = [
        (int(level[r, c]), r, c) for r, c in np.ndindex(level.shape)
        if r in (0, rows - 1) or c in (0, columns - 1)
    ]  # fmt: skip
    for value, row, column in queue:
        filled[row, column] = value
    heapq.heapify(queue)
    while queue:
        value, row, column = heapq.heappop(queue)
        for r in range(max(row - 1, 0), min(row + 2, rows)):
            for c in range(max(column - 1, 0), min(column + 2, columns)):
                if filled[r, c] < 0:
                    filled[r, c] = max(value, level[r, c])
                    heapq.heappush(queue, (int(filled[r, c]), r, c))
    return filled


@pytest.mark.parametrize("shape", [(3, 5), (16, 40), (61, 83)])
def test_basins_are_filled_to_where_they_overflow(shape):
    level = np.random.default_rng(0).integers(0, 9, shape).astype(np.uint8) * 20
    exact = flooded(level)
    np.testing.assert_array_equal(shadows._filled(level, None), exact)
    assert (shadows._filled(level) >= exact).all()


@pytest.mark.parametrize("azimuth", [40, 135, 220, 310])
@pytest.mark.parametrize("elevation", [15, 45, 70])
@pytest.mark.parametrize("zenith", [None, 7])
def test_a_shadow_lies_away_from_the_sun_and_below_where_the_cloud_is(azimuth, elevation, zenith):
    # A cloud 900 m above flat ground; a sensor to the west sees it too far in the east.
    height, away = 900, 900 / np.tan(np.radians(elevation)) / 30
    right = -away * np.sin(np.radians(azimuth))
    down = away * np.cos(np.radians(azimuth))
    seen = height * np.tan(np.radians(zenith or 0)) / 30
    mask = np.full((400, 400), CLEAR, np.uint8)
    mask[190:206, 190:202] = CLOUD
    mask[200:206, 190:196] = CLEAR  # it has no symmetry
    truth = np.roll(mask == CLOUD, (round(down), round(right - seen)), axis=(0, 1))
    truth &= mask != CLOUD
    dn = np.full((1, 400, 400), 20_000, np.uint16)  # reflectance 0.3
    dn[0, truth] = 10_000
    dn[0, mask == CLOUD] = 40_000
    dn[0, 20:40, 90:110] = dn[0, 360:380, 330:340] = 7_000  # lakes
    view = None if zenith is None else (np.full((7, 7), float(zenith)), np.full((7, 7), 270.0))
    geometry = geometry_of(UTM, (elevation, azimuth), view, "it")
    found = shadows.find(mask, lambda a, b: dn[:, a:b], ("B5",), geometry)
    # Heights are tried in steps of two pixels: one pixel off is as near as it gets.
    assert (found & truth).sum() >= 0.9 * truth.sum()
    assert not (found & ~binary_dilation(truth, np.ones((3, 3)))).any()


def test_no_cloud_no_shadow_and_nothing_but_cloud_none_either():
    dn = np.full((1, 64, 64), 20_000, np.uint16)
    dn[0, 20:30, 20:30] = 9_000
    geometry = shadows.Geometry((0.01, 0.02))
    for mask in (
        np.full((64, 64), CLEAR, np.uint8),
        np.full((64, 64), CLOUD, np.uint8),
        np.full((64, 64), INVALID, np.uint8),
    ):
        assert not shadows.find(mask, lambda a, b: dn[:, a:b], ("B5",), geometry).any()


def test_drawn_shadows_are_found_in_every_quadrant_under_any_sun():
    counts = np.zeros(3)
    suns = [(15, 125), (25, 35), (40, 215), (55, 305), (70, 130), (35, 160)]
    biomes = ("GrassCrops", "Forest", "Shrubland", "Barren", "Wetlands", "Urban")
    for number, (biome, sun) in enumerate(zip(biomes, suns, strict=True)):
        scene = draw_scene(biome, 384, 7, index=number, cover=0.2, sun=sun)
        counts += counted(found_in(scene), scene.truth, thrown_by(scene) > 0)
    recall, precision = rates(counts)
    assert recall >= 0.8
    assert precision >= 0.8


def test_the_number_of_threads_changes_no_shadow():
    scene = draw_scene("Forest", 600, 7, index=1, cover=0.3, sun=(45, 200))  # of several tiles
    torch.set_num_threads(1)
    found = found_in(scene)
    torch.set_num_threads(3)
    np.testing.assert_array_equal(found_in(scene), found)
    assert found.any()


@pytest.mark.parametrize("size", [1, 2, 37, 600])
def test_low_ground_and_median_are_those_of_the_sorted_values(size):
    rng = np.random.default_rng(size)
    level, there = rng.integers(0, 256, (size, size), np.uint8), rng.random((size, size)) < 0.3
    there[0, 0] = True
    expected = np.percentile(level[there], (17.5, 50), method="lower")
    np.testing.assert_array_equal(shadows._percentiles(level, there), expected)


def test_north_is_that_of_the_meridian():
    # On a central meridian up; over the south pole, at 90 degrees east, to the right.
    pixels = -np.array(geometry_of(UTM, (45, 0), None, "it").shadow) * 30
    np.testing.assert_allclose(pixels, (-1, 0), atol=2e-3)
    polar = Grid(100, 100, CRS.from_epsg(3031), Affine(30, 0, 2e6, 0, -30, 1500))
    pixels = -np.array(geometry_of(polar, (45, 0), None, "it").shadow) * 30
    np.testing.assert_allclose(pixels, (0, 1), atol=0.03)
    degrees = Grid(100, 100, CRS.from_epsg(4326), Affine(0.00027, 0, 10, 0, -0.00027, 60.0135))
    east = -np.array(geometry_of(degrees, (45, 90), None, "it").shadow)
    np.testing.assert_allclose(east * 0.00027 * 111_195, (0, 1 / np.cos(np.radians(60))), rtol=2e-3,
                               atol=1e-6)  # fmt: skip


def test_without_a_position_no_shadow_is_sought():
    with pytest.raises(SceneError, match="it has no position"):
        geometry_of(Grid(9, 9, None, Affine.identity()), (45, 90), None, "it")
