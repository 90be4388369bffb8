"""Other suns, air and sensors: by numbers worked out by hand."""

from functools import partial

import numpy as np
import pytest

from fcd.errors import UserError
from fcd.landsat.bands import BANDS, SUN, band_names
from fcd.patches.normalisation import Kind
from fcd.training.augmentation import Augmentation, check
from fcd.training.randomisation import Change, draw_change

SUBSET = ("B2", "B5", "B9", "B10", "B11")
change_of = partial(Change.of, bands=SUBSET, rng=np.random.default_rng(0))


def image(*pixels):
    """Pixels in a row: (1, w, C) uint16."""
    return np.array([pixels], np.uint16)


def test_light_is_what_lies_above_dn_5000_and_warmth_is_added_to_both_thermal_bands():
    before = image((5000, 15000, 5200, 24000, 22000), (8000, 45000, 0, 64000, 1500))
    brighter = change_of(Change(illumination=1.5), before)
    np.testing.assert_array_equal(
        brighter, image((5000, 20000, 5300, 24000, 22000), (9500, 65000, 0, 64000, 1500))
    )
    warmer, colder = (change_of(Change(thermal=dn), before) for dn in (2000, -2000))
    np.testing.assert_array_equal(
        warmer, image((5000, 15000, 5200, 26000, 24000), (8000, 45000, 0, 65535, 3500))
    )
    # A valid pixel never becomes fill, which is 0.
    assert colder[0, 1].tolist() == [8000, 45000, 0, 62000, 1]


def test_bands_have_their_own_gain_offset_and_haze_but_the_thermal_ones():
    before = image((7000, 15000, 5200, 24000, 22000))
    spectral = Change(gain=np.array([1.1, 0.9, 1, 2, 2]), offset=np.array([100, -250, 5, 9, 9]))
    assert change_of(spectral, before)[0, 0].tolist() == [7300, 13750, 5205, 24000, 22000]
    # Haze is lit by the same sun: (7000 - 5000 + 1000) x 0.5 + 5000.
    hazy = Change(haze=np.array([1000, 200, 0, 0, 0]), illumination=0.5)
    assert change_of(hazy, before)[0, 0].tolist() == [6500, 10100, 5100, 24000, 22000]


def test_contrast_shrinks_about_the_mean_of_what_is_valid():
    before = image((6000, 10000, 0, 20000, 1), (8000, 20000, 0, 24000, 1), (0,) * 5)
    half = change_of(Change(contrast=0.5), before)
    np.testing.assert_array_equal(
        half, image((6500, 12500, 0, 21000, 1), (7500, 17500, 0, 23000, 1), (0,) * 5)
    )


def test_fill_neither_blurs_into_its_neighbours_nor_gets_noise():
    before = np.full((9, 9, 5), 9000, np.uint16)
    before[:, :4] = 0
    blurred = change_of(Change(blur=1.5), before)
    np.testing.assert_array_equal(blurred, before)
    noisy = change_of(Change(noise=50), np.tile(before, (20, 20, 1)))
    assert (noisy[:, :4] == 0).all()
    assert noisy[noisy > 0].std() == pytest.approx(50, rel=0.03)
    spread = np.zeros((9, 9, 5), np.uint16) + 9000
    spread[4, 4] = 19000
    peak = change_of(Change(blur=1), spread)[4, 4, 0]
    assert peak == pytest.approx(9000 + 10000 / (2 * np.pi), rel=0.01)  # of a Gaussian window


def test_every_change_is_drawn_in_its_range_and_often_enough():
    rng = np.random.default_rng(0)
    drawn = [draw_change(BANDS, rng) for _ in range(3000)]
    light = np.array([change.illumination for change in drawn])
    assert light.min() == pytest.approx(0.35, abs=0.01)
    assert light.max() == pytest.approx(1.6, abs=0.01)
    for name, neutral, share in (
        ("contrast", 1, 0.3), ("illumination", 1, 0.8), ("thermal", 0, 0.7), ("blur", 0, 0.25),
        ("noise", 0, 0.5),
    ):  # fmt: skip
        values = np.array([getattr(change, name) for change in drawn])
        assert np.mean(values != neutral) == pytest.approx(share, abs=0.03)
    hazes = np.array([change.haze for change in drawn if np.ndim(change.haze)])
    assert (np.diff(np.abs(hazes[:, :7])) < 0).all()  # bluer light scatters more
    assert (hazes[:, 7:] == 0).all()
    # In B2 and B6, at 0.482 and 1.609 um: between the powers -1 and -4 of the wavelength.
    ratio = hazes[:, 5] / hazes[:, 1]
    assert ratio.min() >= (0.482 / 1.609) ** 4
    assert ratio.max() <= 0.482 / 1.609


def test_the_sun_is_unknown_in_half_of_the_changes_and_otherwise_as_it_was():
    rng, bands = np.random.default_rng(0), (*SUBSET, SUN)
    drawn = [draw_change(bands, rng) for _ in range(2000)]
    assert np.mean([change.sun for change in drawn]) == pytest.approx(0.5, abs=0.03)
    light = [change.illumination for change in drawn]
    assert (min(light), max(light)) == pytest.approx((0.75, 1.3), abs=0.01)
    assert max(abs(change.thermal) for change in drawn) == pytest.approx(400, abs=5)
    assert min(change.contrast for change in drawn) == pytest.approx(0.75, abs=0.01)
    dn = rng.integers(1, 65536, (9, 9, len(bands))).astype(np.uint16)
    for change in drawn[:50]:
        sun = change.of(dn, bands, rng)[:, :, -1]
        np.testing.assert_array_equal(sun, dn[:, :, -1] if change.sun else 1)
    assert all(draw_change(SUBSET, rng).sun for _ in range(50))


def test_a_run_is_reproducible_and_leaves_some_patches_as_they_were():
    dn = np.random.default_rng(1).integers(1, 65536, (len(SUBSET), 8, 8)).astype(np.uint16)
    dn[:, :2] = 0
    mask = np.arange(64, dtype=np.uint8).reshape(8, 8)

    def run(seed, order):
        change = Augmentation("randomise", seed, SUBSET)
        done = {place: change(7, place, dn, mask=mask) for place in order}
        return [done[place] for place in range(60)]

    first, again, other = run(3, range(60)), run(3, range(59, -1, -1)), run(4, range(60))
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one["image"], two["image"])
        np.testing.assert_array_equal(one["mask"], two["mask"])
        # Image and mask are turned alike: the first 16 pixels are fill, no other is.
        np.testing.assert_array_equal(one["image"] == 0, np.tile(one["mask"] < 16, (5, 1, 1)))
        assert one["image"].dtype == np.uint16
    assert any((a["image"] != b["image"]).any() for a, b in zip(first, other, strict=True))
    values = np.sort(dn.ravel())
    as_they_were = sum(np.array_equal(np.sort(one["image"].ravel()), values) for one in first)
    assert 18 <= as_they_were <= 42  # of 60, half


@pytest.mark.parametrize(
    ("bands", "dtype", "nodata", "found"),
    [
        (3, "uint16", 0, "there are 3 bands of uint16, 64x64 pixels, nodata 0"),
        (10, "uint8", 0, "10 bands (B1, B2, B3, B4, B5, B6, B7, B9, B10, B11) of uint8"),
        (10, "uint16", 7, "nodata 7"),
    ],
)
def test_other_imagery_is_refused_in_one_line(bands, dtype, nodata, found):
    check("d4", Kind(band_names(bands), 64, dtype, nodata))
    check("randomise", Kind(band_names(10), 64, "uint16", 0))
    check("randomise", Kind(band_names(10), 64, "uint16", None))
    with pytest.raises(UserError, match="--augment randomise needs DN of Landsat-8") as refusal:
        check("randomise", Kind(band_names(bands), 64, dtype, nodata))
    assert found in str(refusal.value)
    assert "\n" not in str(refusal.value)
