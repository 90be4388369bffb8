"""What is done to finished masks, against scipy, and as files against GDAL and pystac."""

import csv
import json
import re
import shutil
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine
from scipy import ndimage

from fcd import pictures
from fcd.errors import MissingBand, SceneError
from fcd.landsat import labels
from fcd.landsat.bands import BANDS, RGB_BANDS
from fcd.landsat.products import scene_from
from fcd.masks import postprocessing, stac_item
from fcd.masks.postprocessing import PostProcessing
from fcd.masks.prediction import predict_scenes
from fcd.masks.predictor import Predictor
from fcd.masks.scoring import Prediction
from fcd.metrics import BUFFER, CLEAR, CLOUD, INVALID, SHADOW
from fcd.synthetic.layout import write_scene
from fcd.synthetic.scene import draw_scene

DRAWN = draw_scene("Forest", 192, 7, cover=0.2, sun=(50, 140))
TRUTH = labels.patch_from_truth(DRAWN.truth)


@pytest.fixture(autouse=True)
def _small_windows(monkeypatch):
    monkeypatch.setattr(postprocessing, "_ROWS", 16)


@pytest.fixture
def mask():
    rng = np.random.default_rng(1)
    smooth = ndimage.gaussian_filter(rng.normal(size=(90, 70)), 1.5)
    mask = np.where(smooth > 0.12, CLOUD, CLEAR).astype(np.uint8)
    mask[:, :5] = INVALID
    return mask


def test_all_is_off_unless_it_is_asked_for(mask):
    before = mask.copy()
    assert PostProcessing().told == "none"
    PostProcessing().finishing(None)(mask)
    np.testing.assert_array_equal(mask, before)


@pytest.mark.parametrize("least", [2, 12, 40])
def test_smaller_clouds_become_clear(mask, least):
    number, count = ndimage.label(mask == CLOUD, np.ones((3, 3)))
    sizes = ndimage.sum_labels(mask == CLOUD, number, range(count + 1))
    small = (mask == CLOUD) & (sizes[number] < least)
    assert least == 2 or (small.any() and (sizes[1:] >= least).any())
    expected = np.where(small, CLEAR, mask)
    PostProcessing(min_cloud=least).finishing(None)(mask)
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("pixels", [1, 3, 20])
def test_the_buffer_is_a_disc_over_clear_pixels(mask, pixels):
    away = ndimage.distance_transform_edt(mask != CLOUD)
    expected = np.where((away <= pixels) & (mask == CLEAR), BUFFER, mask)
    PostProcessing(cloud_buffer=pixels).finishing(None)(mask)
    np.testing.assert_array_equal(mask, expected)


def test_shadow_counts_for_more_than_the_buffer(mask, monkeypatch):
    shadow = np.zeros(mask.shape, bool)
    shadow[40:44, 20:60] = True
    shadow &= mask == CLEAR
    monkeypatch.setattr(postprocessing, "shadow_finder", lambda *_: lambda _: shadow)
    near_cloud = ndimage.distance_transform_edt(mask != CLOUD) <= 4
    near_shadow = ndimage.distance_transform_edt(~shadow) <= 2
    expected = np.where(near_cloud & (mask == CLEAR), BUFFER, mask)
    expected = np.where(near_shadow & (mask == CLEAR), SHADOW, expected)
    PostProcessing(cloud_buffer=4, shadow=True, shadow_buffer=2).finishing(None)(mask)
    np.testing.assert_array_equal(mask, expected)


# --- files ---------------------------------------------------------------------------------------


def true_clouds(scene):
    with scene.open() as reader:
        dn = reader.bands()
    score = np.where(TRUTH == CLOUD, np.float32(0.75), np.float32(0.25))
    yield Prediction(0, dn[list(RGB_BANDS)], TRUTH, score)


PREDICTOR = Predictor(BANDS, 0.5, {"FCD_VERSION": "1", "FCD_WEIGHTS": "abc"}, true_clouds)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = write_scene(DRAWN, tmp_path_factory.mktemp("drawn") / DRAWN.name)
    next(folder.glob("*_fixedmask.img")).unlink()
    return folder


def predicted(folder, out, predictor=PREDICTOR, **outputs):
    assert predict_scenes([str(folder)], predictor, out, progress=False, **outputs) == 0
    with rasterio.open(out / f"{DRAWN.name}_mask.tif") as dataset:
        return dataset.read(), dataset.tags(), dataset.profile


def test_shadow_and_buffer_have_codes_colours_and_fractions_of_their_own(folder, tmp_path):
    asked = PostProcessing(cloud_buffer=2, shadow=True, shadow_buffer=0)
    (mask,), tags, _ = predicted(folder, tmp_path, postprocessing=asked)
    assert set(np.unique(mask)) == {64, 128, 254, 255}
    np.testing.assert_array_equal(mask == 255, TRUTH == CLOUD)
    true = DRAWN.truth == labels.TRUTH_SHADOW
    assert true[mask == 64].mean() > 0.8
    assert tags["FCD_POSTPROCESSING"] == "cloud_buffer 2, shadow_buffer 0"
    assert "64 shadow" in tags["FCD_CODES"]
    with rasterio.open(tmp_path / f"{DRAWN.name}_mask.tif") as dataset:
        assert dataset.colormap(1)[64][:3] == pictures.FINISHED_COLOURS["shadow"]
        assert dataset.colormap(1)[254][:3] == pictures.FINISHED_COLOURS["buffer"]
    with open(tmp_path / "summary.csv", newline="") as stream:
        (row,) = csv.DictReader(stream)
    for name, code in {"cloud": 255, "shadow": 64, "buffer": 254, "nodata": 0}.items():
        assert float(row[f"{name}_fraction"]) == pytest.approx(np.mean(mask == code), abs=1e-4)
    # Other settings make another mask; the same ones are done.
    (plain,), tags, _ = predicted(folder, tmp_path)
    assert set(np.unique(plain)) == {128, 255}
    assert tags["FCD_POSTPROCESSING"] == "none"


def test_mask_and_score_in_one_file(folder, tmp_path):
    both, _, profile = predicted(folder, tmp_path, write_bands="mask,score")
    assert profile["count"] == 2
    with rasterio.open(tmp_path / f"{DRAWN.name}_mask.tif") as dataset:
        assert dataset.descriptions == ("mask", "score")
        score = dataset.read(2) * dataset.scales[1] + dataset.offsets[1]
        assert (dataset.scales[0], dataset.offsets[0]) == (1, 0)
    np.testing.assert_array_equal(both[0], labels.tif_from_patch(TRUTH))
    np.testing.assert_allclose(score, np.where(TRUTH == CLOUD, 0.75, 0.25), atol=0.5 / 254 + 1e-6)
    assert not (tmp_path / f"{DRAWN.name}_score.tif").exists()


def test_a_stac_item_is_valid_and_says_where_and_when(folder, tmp_path):
    pystac = pytest.importorskip("pystac")
    predicted(folder, tmp_path, stac=True)
    item = json.loads((tmp_path / f"{DRAWN.name}_mask.json").read_text())
    pystac.Item.from_dict(item).validate()  # by schemas that come with the library
    assert item["properties"]["datetime"][:10] == DRAWN.date.isoformat()
    assert item["properties"]["fcd:cloud_fraction"] == pytest.approx(
        np.mean(TRUTH == CLOUD), abs=1e-4
    )
    west, south, east, north = item["bbox"]
    grid = DRAWN.grid
    bounds = rasterio.transform.array_bounds(grid.height, grid.width, grid.transform)
    expected = rasterio.warp.transform_bounds(grid.crs, "EPSG:4326", *bounds)
    np.testing.assert_allclose((west, south, east, north), expected, atol=1e-3)
    (ring,) = item["geometry"]["coordinates"]
    area = sum(a[0] * b[1] - b[0] * a[1] for a, b in pairwise(ring))
    assert area > 0  # counter-clockwise, as RFC 7946 wants it
    assert (tmp_path / item["assets"]["mask"]["href"]).is_file()


def test_a_stac_item_across_the_antimeridian(folder, tmp_path):
    pystac = pytest.importorskip("pystac")
    moved = tmp_path / DRAWN.name
    shutil.copytree(folder, moved)
    place = Affine(1000, 0, 200_000, 0, -1000, 5_900_000)  # of 192 x 192 km about 180 degrees
    for file in moved.glob("*.TIF"):
        with rasterio.open(file, "r+") as dataset:
            dataset.crs, dataset.transform = "EPSG:32601", place
    predicted(moved, tmp_path / "out", stac=True)
    item = json.loads((tmp_path / "out" / f"{DRAWN.name}_mask.json").read_text())
    pystac.Item.from_dict(item).validate()
    west, south, east, north = item["bbox"]
    assert 178 < west < 180
    assert -180 < east < -178
    assert 51 < south < north < 54
    assert item["geometry"]["type"] == "MultiPolygon"
    for file in moved.glob("*.TIF"):
        with rasterio.open(file, "r+") as dataset:
            dataset.crs = 'LOCAL_CS["a mine",UNIT["metre",1]]'
    with pytest.raises(SceneError, match="--stac needs its position, and there is none"):
        stac_item.describing(scene_from(str(moved)), scene_from(str(moved)).grid())


def test_a_day_that_is_none_is_told(folder, tmp_path):
    pytest.importorskip("pystac")
    edited = tmp_path / DRAWN.name
    shutil.copytree(folder, edited)
    mtl = next(edited.glob("*_MTL.txt"))
    text = mtl.read_text()
    mtl.write_text(re.sub(r"DATE_ACQUIRED = \S+", "DATE_ACQUIRED = 2015-8-4", text))
    assert mtl.read_text() != text
    assert predict_scenes([str(edited)], PREDICTOR, tmp_path / "out", stac=True) == 1
    with open(tmp_path / "out" / "summary.csv", newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert "--stac needs its time, and its MTL file says 2015-8-4T" in row["reason"]


def test_another_sun_makes_another_mask(folder, tmp_path):
    bare = tmp_path / DRAWN.name
    shutil.copytree(folder, bare, ignore=shutil.ignore_patterns("*_MTL.txt"))
    for azimuth, elevation in ((140, 50), (320, 50), (320, 20)):
        asked = PostProcessing(shadow=True, sun_azimuth=azimuth)
        predictor = replace(PREDICTOR, sun_elevation=elevation)
        _, tags, _ = predicted(bare, tmp_path / "out", predictor, postprocessing=asked)
        assert f"sun_azimuth {azimuth} where" in tags["FCD_POSTPROCESSING"]
        assert tags["FCD_SUN_ELEVATION"] == str(elevation)


def test_where_nothing_says_where_the_sun_stood_flags_do(folder, tmp_path):
    for path in folder.glob("*.TIF"):  # the names of files tell it, too
        shutil.copy(path, tmp_path / path.name.replace(DRAWN.name, "unnamed"))
    scene = scene_from(str(tmp_path))
    asked = PostProcessing(shadow=True)
    with pytest.raises(SceneError, match="nothing says where the sun stood"):
        asked.finishing(scene)
    with pytest.raises(SceneError, match="SUN_AZIMUTH; give --sun_elevation and --sun_azimuth"):
        asked.finishing(scene, 50)
    by_flags, by_metadata = TRUTH.copy(), TRUTH.copy()
    PostProcessing(shadow=True, sun_azimuth=140).finishing(scene, 50)(by_flags)
    asked.finishing(scene_from(str(folder)))(by_metadata)
    np.testing.assert_array_equal(by_flags, by_metadata)
    assert (by_flags == SHADOW).any()


def test_a_scene_without_the_near_infrared_has_no_shadow(folder):
    scene = scene_from(str(folder), ("B2", "B3", "B4"))
    files = {part: file for part, file in scene.files.items() if part != "B5"}
    with pytest.raises(MissingBand, match="--shadow needs the near infrared, B5"):
        PostProcessing(shadow=True).finishing(type(scene)(scene.name, "", scene.folder, files))
