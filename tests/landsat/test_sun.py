"""How high the sun stood, against what USGS wrote into the metadata of real scenes."""

import pytest

from fcd.errors import UserError
from fcd.landsat.radiometry import SUN_AZIMUTH, SUN_ELEVATION
from fcd.landsat.sun import by_orbit, position, told


@pytest.mark.parametrize(
    ("name", "elevation"),
    [
        ("LC80200392015216LGN00", 64.74),
        ("Water_LC80210072014236LGN00_B2-B7", 26.31),  # 75 degrees north
        ("lc81720192013331LGN01_stack", 9.89),  # November
        ("LC81750622013304LGN00", 64.82),  # at the equator
        ("LC80010732013109LGN00", 48.61),  # 19 degrees south
        ("LC82320832016040LGN00", 52.70),
        ("LC08_L1TP_016037_20170813_20170814_01_RT", 62.17),
        ("LC08_016037_20170813", 62.17),
        ("LC08_L1TP_016037_20170813_20170814_01_RT_LC08_016037_20170813", 62.17),
        ("1_LO08_L1TP_016037_20170813_20170814_01_T1", 62.17),
    ],
)
def test_a_scene_tells_it_by_its_place_and_day(name, elevation):
    assert by_orbit(name)[0] == pytest.approx(elevation, abs=0.75)


@pytest.mark.parametrize(
    ("name", "azimuth"),
    [("LC80160372017225LGN00", 126.81), ("LC80200392015216LGN00", 115.87),
     ("LC82320832016040LGN00", 69.08)],
)  # fmt: skip
def test_and_from_where_it_shone(name, azimuth):
    assert by_orbit(name)[1] == pytest.approx(azimuth, abs=0.75)


def test_what_is_said_comes_first_then_what_is_asked_then_what_is_calculated():
    name = "LC80160372017225LGN00"
    elevation, azimuth = by_orbit(name)
    said = {SUN_ELEVATION: "30", SUN_AZIMUTH: "140"}
    assert position(said, (10.0, 20.0), name) == ("30", "140")
    assert position({}, (10.0, 0.0), name) == (10.0, 0.0)
    assert position({}, (None, 20.0), name) == (elevation, 20.0)
    assert position({}, (None, None), name) == (elevation, azimuth)
    assert position({}, (None, 20.0), "a") == (None, 20.0)


@pytest.mark.parametrize(
    "name",
    [
        "Forest_05_0213",
        "LC08_L1TP_016037_20171313_20170814_01_RT",  # no such month
        "LC80010732013399LGN00",  # no such day
        "LC08_L1TP_016237_20170813_20170814_01_RT",  # at night
        "LC09_L1GT_005005_20231221_20231222_02_T2",  # the polar night
        "LE07_L1TP_016037_20170813_20170814_01_RT",  # another orbit
        "S2A_MSIL1C_20170813T105031",
        "LC08_L1TP_016037_201708131_01",
        "LC08_016037_20170101_to_20171231",  # a composite
        "LC08_016037_20170101_20171231",
        "LC80160372017225LGN00_LC80160372017241LGN00",  # of two days
    ],
)
def test_no_other_name_does(name):
    assert by_orbit(name) is None


def test_what_is_said_is_of_the_mtl_file_the_tags_or_the_list(tmp_path):
    image = tmp_path / "images/a.tif"
    assert told({}, {}, image) == {}
    (tmp_path / "patches.csv").write_text("patch,sun_elevation\na,12.5\nb,\n")
    assert told({}, {}, image) == {SUN_ELEVATION: "12.5"}
    assert told({}, {"AREA": "x", SUN_ELEVATION: "20"}, image)[SUN_ELEVATION] == "20"
    found = told({SUN_ELEVATION: "30", "ROLL": ""}, {SUN_ELEVATION: "20", "ROLL": "1"}, image)
    assert found == {SUN_ELEVATION: "30", "ROLL": "1"}
    for other in ("images/b.tif", "images/c.tif", "others/a.tif"):
        assert told({}, {}, tmp_path / other) == {}
    (tmp_path / "patches.csv").write_text("patch,sun_elevation\na,\n")  # read again
    assert told({}, {}, image) == {}
    (tmp_path / "patches.csv").write_text("name,class\na,12.5\n")  # of something else
    assert told({}, {}, image) == {}
    (tmp_path / "patches.csv").write_bytes(b"PK\x03\x04")
    with pytest.raises(
        UserError, match=r"list of crops .*patches\.csv cannot be read: it is a work"
    ):
        told({}, {}, image)
