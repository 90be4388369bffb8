import pytest

from fcd.errors import UserError
from fcd.landsat.bands import BANDS, SUN, band_names, default_rgb, listed_bands, named


def test_a_list_of_bands():
    assert listed_bands("B2-B7,B9,B10", "--bands") == (
        "B2", "B3", "B4", "B5", "B6", "B7", "B9", "B10",
    )  # fmt: skip
    assert listed_bands("B1-B11", "--bands") == BANDS
    assert listed_bands(" b10, b2 - b3", "--bands") == ("B10", "B2", "B3")
    assert listed_bands("B9,B2-B3, sun", "--train_bands", sun=True) == ("B9", "B2", "B3", SUN)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("B2,B8", "--bands B2,B8: 'B8' is neither a band nor a range of B1, B2, "),
        ("2-7", "'2-7' is neither"),
        ("", "'' is neither"),
        ("B1-B3-B4", "'B1-B3-B4' is neither"),
        ("B7-B2", "'B7-B2' runs backwards"),
        ("B2-B4,B3", "names a band twice"),
    ],
)
def test_lists_that_are_none(text, message):
    with pytest.raises(UserError, match=message):
        listed_bands(text, "--bands")


@pytest.mark.parametrize("text", ["SUN", "SUN,B2", "B2,SUN,B3", "B2-SUN", "B2,SUN,SUN"])
def test_the_sun_stands_behind_bands(text):
    with pytest.raises(UserError, match=r"SUN'? is neither a band nor a range"):
        listed_bands(text, "--train_bands", sun=True)
    with pytest.raises(UserError, match="'SUN' is neither a band nor a range"):
        listed_bands("B2,SUN", "--bands")


def test_red_green_and_blue_are_found_by_name():
    assert default_rgb(BANDS) == (3, 2, 1)
    assert default_rgb(("B10", "B2", "B5", "B4", "B3")) == (3, 4, 1)
    assert [default_rgb(band_names(n)) for n in (1, 3, 4)] == [(0, 0, 0), (0, 1, 2), (2, 1, 0)]


@pytest.mark.parametrize(
    ("descriptions", "names"),
    [
        (("b2", "LC08_L1TP_016037_B10"), ("B2", "B10")),
        (("SR_B2", "LC08_SR_B3"), ("SR_B2", "LC08_SR_B3")),  # of Level-2
        (("red", " nir"), ("red", "nir")),
        (("B02", "B03"), ("B02", "B03")),
        (("Band 1", "Band 2"), ("1", "2")),
        (("red", None), ("1", "2")),
        (("B2", "x_B2"), ("1", "2")),
        ((None,) * 10, BANDS),
        (("B1", "B10", *[None] * 8), ("B1", "B10", *map(str, range(3, 11)))),  # not by place
        (("scene", *[None] * 9), BANDS),
        (("B4", "B4", "x_B2"), ("1", "2", "B2")),
    ],
)
def test_names_by_descriptions(descriptions, names):
    assert named(descriptions) == names
