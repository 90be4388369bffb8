"""DN to standard DN: numbers by hand, and what MTL files may lack."""

import math

import numpy as np
import pytest

from fcd.errors import SceneError
from fcd.landsat.mtl import parse_mtl
from fcd.landsat.radiometry import SUN_ELEVATION, Radiometry, kept, sun_elevation
from tests.conftest import REAL

BANDS = ("B2", "B10")
MTL = {
    "SUN_ELEVATION": "30.0",
    "REFLECTANCE_MULT_BAND_2": "4.0000E-05",
    "REFLECTANCE_ADD_BAND_2": "-0.200000",
    "RADIANCE_MULT_BAND_10": "3.8000E-04",
    "RADIANCE_ADD_BAND_10": "0.10000",
}


def standard(radiometry, *dn):
    """Each of `dn` as a pixel, the same in both bands -> [[B2…], [B10…]]."""
    pixels = np.array([[dn], [dn]], np.uint16)
    found = radiometry.standard(pixels)
    assert found.dtype == np.uint16
    return found[:, 0].tolist()


def test_reflectance_and_radiance_by_hand():
    found = standard(Radiometry.of(MTL, BANDS, "x"), 10_000, 20_000)
    # (4e-5 · 10000 - 0.2) / sin 30° = 0.4 and 1.2, in steps of 2e-5 from -0.1.
    assert found[0] == [25_000, 65_000]
    # 3.8e-4 · 20000 + 0.1 = 7.7 W / (m2 sr um), in steps of 3.342e-4 from 0.1.
    assert found[1] == [round(3.8 / 3.342e-4), round(7.6 / 3.342e-4)]


def test_landsat_8_under_a_sun_by_hand():
    # Reflectance 0 is DN 5000 under any sun; what is above it doubles at 30 degrees.
    found = standard(Radiometry.under(30.0, BANDS, "x"), 5000, 6000, 30_000)
    assert found == [[5000, 7000, 55_000], [5000, 6000, 30_000]]
    assert Radiometry.under("90", BANDS, "x").gain == pytest.approx((1, 1))


def test_fill_stays_fill_and_nothing_else_becomes_it():
    dark, bright = standard(Radiometry.under(10.0, BANDS, "x"), 0, 1, 65_535)
    assert dark == [0, 1, 65_535]  # reflectance below -0.1 and above 1.21 is clipped
    assert bright == [0, 1, 65_535]


def test_the_same_ground_under_two_suns_is_the_same():
    reflectance = np.linspace(0.02, 0.9, 50)
    found = []
    for sun in (23.0, 61.0):
        dn = (reflectance * math.sin(math.radians(sun)) + 0.1) / 2e-5
        pixels = np.rint(dn).astype(np.uint16).reshape(1, 1, -1)
        found.append(Radiometry.under(sun, ("B5",), "x").standard(pixels).astype(int))
    assert np.abs(found[0] - found[1]).max() <= 2  # the DN were rounded
    assert np.abs(found[0].ravel() - (reflectance + 0.1) / 2e-5).max() <= 2


def test_several_scenes_at_a_time():
    dn = np.random.default_rng(0).integers(0, 65536, (3, 2, 4, 5)).astype(np.uint16)
    radiometry = Radiometry.of(MTL, BANDS, "x")
    each = np.stack([radiometry.standard(scene) for scene in dn])
    assert (radiometry.standard(dn) == each).all()


def test_what_is_kept_is_enough():
    fields = kept(MTL | {"CLOUD_COVER": "3"}, BANDS)
    assert fields == MTL
    assert Radiometry.of(fields, BANDS, "x") == Radiometry.of(MTL, BANDS, "x")
    assert kept({}, BANDS) == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({SUN_ELEVATION: None}, "x has no SUN_ELEVATION, by which"),
        ({"RADIANCE_ADD_BAND_10": None}, "x has no RADIANCE_ADD_BAND_10"),
        ({SUN_ELEVATION: "-12.5"}, "x: the sun's elevation is -12.5, not 2 to 90"),
        ({SUN_ELEVATION: "0.56"}, "x: the sun's elevation is 0.56, not 2 to 90 degrees"),
        ({SUN_ELEVATION: "high"}, "x: the sun's elevation is high"),
        ({"REFLECTANCE_MULT_BAND_2": "0"}, "x: the gain of B2 is 0;"),
        ({"REFLECTANCE_ADD_BAND_2": "inf"}, "x: REFLECTANCE_ADD_BAND_2 is inf, no number"),
    ],
)
def test_fields_that_cannot_be_used_are_named(change, message):
    fields = {name: text for name, text in (MTL | change).items() if text is not None}
    with pytest.raises(SceneError, match=message):
        Radiometry.of(fields, BANDS, "x")


@pytest.mark.parametrize("sun", [0.0, 1.57, -3, 90.01, "nan"])
def test_a_sun_that_does_not_shine_is_refused(sun):
    with pytest.raises(SceneError, match="not 2 to 90 degrees; the networks need daylight"):
        sun_elevation(str(sun), "x")


def test_without_a_sun_it_says_what_to_give():
    with pytest.raises(SceneError, match=r"^x: nothing says .* give --sun_elevation DEGREES$"):
        Radiometry.under(None, BANDS, "x")


@pytest.mark.skipif(not REAL.is_dir(), reason="no real crops (docs/contributing.md)")
def test_a_real_mtl_file():
    (path,) = (REAL / "clear" / "mendoza").glob("*_MTL.txt")
    found = standard(Radiometry.of(parse_mtl(path), BANDS, "x"), 12_000)
    # 2e-5 · 12000 - 0.1 = 0.14, at 52.70271194° over sin = 0.79551.
    assert found == [[round((0.14 / 0.79551 + 0.1) / 2e-5)], [12_000]]
