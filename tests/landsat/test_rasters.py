import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine

from fcd.landsat.bands import BANDS
from fcd.landsat.products import scene_from
from fcd.landsat.rasters import (
    Grid,
    alpha_of,
    blanked,
    names_of,
    nodata_of,
    pixel_bands,
    plain,
    raster_writer,
    write_raster,
)  # fmt: skip
from fcd.landsat.scenes import find_scenes
from tests.conftest import draw, write_scene, write_tif


def test_a_raster_appears_whole_or_not_at_all(tmp_path):
    write_scene(tmp_path / "s" / "Water" / "S1", "S1", *draw(50, 70, 0))
    grid = find_scenes(tmp_path / "s")[0].grid()
    values = np.random.default_rng(0).random((50, 70), np.float32)
    out = tmp_path / "out" / "x.tif"

    def write(fail):
        with raster_writer(out, grid, dtype="float32", nodata=np.nan, tags={"A": "b"}) as tif:
            tif.write(values, 1)
            if fail:
                raise KeyError

    with pytest.raises(KeyError):
        write(fail=True)
    assert list((tmp_path / "out").iterdir()) == []
    write(fail=False)
    with rasterio.open(out) as dataset:
        assert (dataset.read(1) == values).all()
        assert dataset.crs.to_epsg() == 32616
        assert dataset.transform == Affine(30, 0, 452_475, 0, -30, 3_408_645)
        assert dataset.tags()["A"] == "b"


RGB = ("1", "2", "3")


def test_what_single_bands_mark_is_nothing_in_these():
    dn = np.array([[0, 1, 9, 255], [0, 1, 255, 9], [0, 255, 9, 9]], np.uint8).reshape(3, 1, 4)
    found = plain(blanked(dn, RGB, None, (0, None, 255)))
    assert found.dtype == np.float32
    assert np.argwhere(np.isnan(found)).tolist() == [[0, 0, 0], [2, 0, 1]]
    assert (np.nan_to_num(found) == np.where(np.isnan(found), 0, dn)).all()
    # What all mark stays what it is, and so does everything if the user names the values.
    for same in (blanked(dn, RGB, None, (255,) * 3), blanked(dn, RGB, None, (0, None, 9), (7,))):
        assert same.dtype == np.uint8
        assert (same == dn).all()
    floats = np.array([[-9999.9, 0.1, 0.1], [0.5, 0.5, 0.1]], np.float32).reshape(2, 3, 1)
    found = plain(blanked(floats, RGB[:2], None, (-9999.9, 0.1)))
    assert np.isnan(found)[..., 0].tolist() == [[True, False, False], [False, False, True]]


def test_what_is_nodata_in_dn_of_landsat_is_fill():
    dn = np.array([[5, 65535, 7], [0, 8, 65535]], np.uint16).reshape(2, 1, 3)
    hidden = np.array([[True, False, False]])
    for marked, asked in (((65535, 65535), None), ((None, None), (65535, 9))):
        found = blanked(dn, ("B2", "B10"), hidden, marked, asked)
        assert found.dtype == np.uint16
        assert found[:, 0].tolist() == [[0, 0, 7], [0, 8, 0]]


@pytest.mark.parametrize("kind", ["mask", "alpha", "sidecar"])
def test_masks_and_alpha_bands_hide_pixels_of_a_scene(tmp_path, kind):
    dn = np.random.default_rng(0).integers(1, 60_000, (10, 24, 20)).astype(np.uint16)
    hidden = np.zeros((24, 20), bool)
    hidden[3:9, 5:] = True
    path = tmp_path / "x.tif"
    if kind == "alpha":
        alpha = np.where(hidden, 0, 65535).astype(np.uint16)
        write_tif(path, np.concatenate([dn, alpha[None]]))
        with rasterio.open(path, "r+") as dataset:
            dataset.colorinterp = [*dataset.colorinterp[:10], rasterio.enums.ColorInterp.alpha]
    else:
        write_tif(path, dn)
        with (
            rasterio.Env(GDAL_TIFF_INTERNAL_MASK=kind == "mask"),
            rasterio.open(path, "r+") as dataset,
        ):
            dataset.write_mask(~hidden)
    assert (tmp_path / "x.tif.msk").exists() == (kind == "sidecar")
    with scene_from(str(path)).open() as reader:
        assert (reader.bands(2, 12) == np.where(hidden, 0, dn)[:, 2:12]).all()
        assert reader.marked == (0,) * 10
    if kind == "alpha":  # a band like others, if it is asked for
        with scene_from(str(path), BANDS, "2-11").open() as reader:
            assert (reader.bands()[:9] == dn[1:]).all()


def test_four_bands_of_bytes_are_not_alpha_because_gdal_says_so(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (4, 8, 8)).astype(np.uint8)
    write_tif(tmp_path / "rgba.tif", pixels)
    with rasterio.open(tmp_path / "rgba.tif", "r+") as dataset:
        assert alpha_of(dataset) == 4
        assert (pixel_bands(dataset), names_of(dataset)) == ((1, 2, 3), ("1", "2", "3"))
        dataset.descriptions = ("red", "green", "blue", "nir")
    with rasterio.open(tmp_path / "rgba.tif") as dataset:
        assert alpha_of(dataset) is None
        assert names_of(dataset) == ("red", "green", "blue", "nir")
    # Nor does what is written here become so.
    write_raster(tmp_path / "ours.tif", pixels, Grid(8, 8, None, Affine.identity()), 7)
    with rasterio.open(tmp_path / "ours.tif") as dataset:
        assert alpha_of(dataset) is None
        assert (nodata_of(dataset), dataset.read().tolist()) == (7, pixels.tolist())
