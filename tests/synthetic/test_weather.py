"""The skies of `wide` scenes, and what their masks call cloud."""

from dataclasses import replace

import numpy as np
import pytest

from fcd.landsat.bands import BANDS
from fcd.synthetic import scene, surface, weather
from fcd.synthetic.clouds import DETAIL, Clouds, Sky, cells, truth_of
from fcd.synthetic.scene import draw_scene
from fcd.synthetic.sensor import NOISE_DN, TIRS_BLUR, reflective_dn, seen_by_tirs
from fcd.synthetic.surface import GUESTS, MATERIALS, PLATEAU, RECIPES, fractal, widened

B2, B6 = BANDS.index("B2"), BANDS.index("B6")
SHAPE = (96, 96)
SKY = Sky(
    sun_elevation=30.0, sun_azimuth=140, temperature=290, air=288, altitude=0, vapour=2, haze=1,
    veil=0.002,
)  # fmt: skip


def layers(kind, count=12, cover=0.4):
    """So many of the layers that `kind` draws."""
    for seed in range(count):
        rng = np.random.default_rng(seed)
        yield kind(SKY, fractal(SHAPE, rng, 60, slope=3.5), cover, rng)


def flat(opacity):
    """A layer of that opacity, of reflectance 0.5 in all bands."""
    return Clouds(np.asarray(opacity, np.float32), 1.0, np.full(8, 0.5), 280.0, (1.5, 1.5))


def test_the_kinds_are_what_they_are_called():
    for overcast in layers(weather._overcast):
        assert (overcast.opacity > weather.THINNEST).all()
    holes = [np.mean(deck.opacity < weather.THINNEST) for deck in layers(weather._deck)]
    assert 0.02 < np.mean(holes) < 0.5
    for fog in layers(weather._fog):
        assert fog.temperature.mean() > SKY.air - 4  # of the ICAO lapse rate, at most 3.3 K
    for towers in layers(weather._towers):
        assert towers.temperature.mean() < SKY.air - 25
        assert towers.reflectance[B6] < 0.85 * towers.reflectance[B2]
    for anvil in layers(weather._anvil):
        assert anvil.opacity.min() > 0.5
        assert np.median(anvil.opacity) > 0.9
        assert anvil.temperature.mean() < SKY.air - 25
    for thin in (*layers(weather._veil), *layers(weather._trails)):
        assert thin.opacity.max() < 0.96
        assert thin.opacity.max() > 0.02
    shares = [np.mean(trails.opacity > weather.THINNEST) for trails in layers(weather._trails)]
    assert 0.01 < np.mean(shares) < 0.4
    broken = [np.mean(clouds.opacity > 0.1) for clouds in layers(weather._broken, 48)]
    assert np.mean(broken) == pytest.approx(0.4, abs=0.15)  # what was asked for, and blurred


def test_cells_with_much_detail_are_scattered_over_the_view():
    def uneven(detail):
        rng = np.random.default_rng(0)
        system = fractal((256, 256), rng, 150, slope=2.6)
        clouds = cells(system, rng, 0.3, scale=8, gain=2, detail=detail) > 0
        assert clouds.mean() == pytest.approx(0.3, abs=0.01)
        return clouds.reshape(4, 64, 4, 64).mean(axis=(1, 3)).std()

    assert uneven(5) < uneven(DETAIL) / 3


def test_masks_drawn_by_hand_take_the_rims():
    opacity, valid, sun = np.zeros((9, 9)), np.ones((9, 9), bool), np.zeros((9, 9))
    opacity[4, 4], opacity[0, 8] = 0.7, 0.08
    valid[8] = False
    expected = np.full((9, 9), 128)
    expected[4, 4], expected[8] = 255, 0
    np.testing.assert_array_equal(truth_of((flat(opacity),), sun, valid), expected)
    expected[3:6, 3:6] = expected[:2, 7:] = 192
    expected[4, 4] = 255
    by_hand = truth_of((flat(opacity),), sun, valid, thinnest=0.06, rim=1)
    np.testing.assert_array_equal(by_hand, expected)
    # Two layers of 0.3 hide 0.51 together, which is thick.
    twice = (flat(np.full((9, 9), 0.3)),) * 2
    assert truth_of(twice, sun, valid)[0, 0] == 255
    assert truth_of((), sun, valid)[0, 0] == 128


@pytest.mark.parametrize(("opacity", "code"), [(0.1, 128), (0.14, 192), (0.9, 192)])
def test_a_veil_is_cloud_where_more_than_006_of_it_is_noticed(opacity, code):
    veil = replace(flat(np.full((3, 3), opacity)), noticed=0.45)
    nowhere = np.zeros((3, 3))
    truth = truth_of((veil,), nowhere, np.ones((3, 3), bool), thinnest=0.06)
    np.testing.assert_array_equal(truth, code)


def test_ozone_dims_green_and_the_path_of_light_grows_at_low_sun():
    ground, none = np.full((2, 2), 0.3, np.float32), np.zeros((2, 2), np.float32)
    low, high = (
        weather.wide_sky(Sky(**{**vars(SKY), "sun_elevation": sun}), np.random.default_rng(0))
        for sun in (10.0, 70.0)
    )
    assert low.haze > 4 * high.haze > 0
    sky = Sky(**{**vars(SKY), "ozone": 1.0})
    for band, depth in (("B3", 0.1), ("B5", 0.002), ("B7", 0.0)):
        before, after = (
            reflective_dn(ground.copy(), band, s, (), none)[0, 0] - 5000 for s in (SKY, sky)
        )
        assert after == pytest.approx(before * np.exp(-depth), rel=1e-4)


def test_tirs_sees_a_small_cloud_wider_and_warmer_than_it_is():
    """The window is known: it keeps sums, and its variance adds to that of what it sees."""
    dn, none = np.zeros((63, 63), np.float32), np.zeros((63, 63), np.float32)
    dn[30:33, 30:33] = 900  # variance of three pixels in a row: 2 / 3
    wide, place = seen_by_tirs(dn, none), np.arange(63)
    assert wide.sum() == pytest.approx(9 * 900, rel=1e-5)
    weights = wide.sum(axis=0) / wide.sum()
    variance = weights @ (place - weights @ place) ** 2
    assert variance == pytest.approx(2 / 3 + TIRS_BLUR**2, rel=0.02)
    assert wide.max() < 450
    noise = NOISE_DN * np.random.default_rng(0).standard_normal((400, 400), np.float32)
    assert seen_by_tirs(np.zeros_like(noise), noise).std() == pytest.approx(NOISE_DN, rel=0.03)


def test_clouds_freeze_by_how_cold_they_are_not_by_how_high():
    def shares(air, height):
        """What clouds there reflect in B6 of what they do in B2, without air."""
        sky = Sky(**{**vars(SKY), "air": air, "haze": 0.0})
        drawn = (
            weather._layer(sky, np.ones(SHAPE, np.float32), height, np.random.default_rng(seed))
            for seed in range(20)
        )
        return [one.reflectance[B6] / one.reflectance[B2] for one in drawn]

    assert max(shares(210.0, 0.3)) <= 0.72  # half a standard deviation short of frozen
    assert min(shares(300.0, 1.0)) >= 0.45
    assert np.mean(shares(210.0, 0.3)) < 0.4 < 0.6 < np.mean(shares(300.0, 1.0))


def test_thin_clouds_of_droplets_are_brightest_in_the_short_wave_infrared():
    ground, clear = np.full(SHAPE, 0.1), np.zeros(SHAPE, np.float32)

    def added(opacity, band, warm):
        """Light that a layer adds to the ground, over that of B4."""
        rng = np.random.default_rng(0)
        layer = weather._layer(SKY, np.full(SHAPE, opacity, np.float32), 0.5 if warm else 11, rng)
        dn = {b: reflective_dn(ground, b, SKY, (layer,), clear) for b in ("B4", band)}
        bare = {b: reflective_dn(ground, b, SKY, (), clear) for b in dn}
        return np.mean(dn[band] - bare[band]) / np.mean(dn["B4"] - bare["B4"])

    for band in ("B6", "B7"):
        assert added(0.15, band, warm=True) > 1
        assert added(0.95, band, warm=True) < 1
        assert added(0.15, band, warm=False) == pytest.approx(added(0.95, band, warm=False), 0.02)


def test_tops_of_ice_differ_in_temperature():
    def spread(air):
        """Standard deviations of the tops 0.3 km up, K, of each of their textures' own."""
        sky = Sky(**{**vars(SKY), "air": air})
        for seed in range(20):
            one = weather._layer(
                sky, np.ones(SHAPE, np.float32), 0.3, np.random.default_rng(seed), rough=(0.1, 0.1)
            )
            yield one.temperature.std() / (one.relief.std() / 0.1)

    assert min(spread(215.0)) >= 0.69  # evener are ice sheets alone
    assert min(spread(300.0)) < 0.5


def test_ice_sheets_are_even_and_mostly_without_clouds(monkeypatch):
    drawn = [widened("SnowIce", np.random.default_rng(seed)) for seed in range(400)]
    plateaus = [recipe for recipe in drawn if recipe.altitude == PLATEAU.altitude]
    assert len(plateaus) / 400 == pytest.approx(surface.PLATEAU_SHARE, abs=0.06)
    low, high = surface.PLATEAU_RELIEF
    assert low <= min(p.relief for p in plateaus) < max(p.relief for p in plateaus) <= high
    # Under a sun of 10 degrees 210 to 238 K, of 40 degrees 240 to 268 K.
    for plateau in plateaus:
        (sun, same), (coldest, warmest) = plateau.sun_elevation, plateau.temperature
        assert 8 <= sun == same <= 42
        assert coldest == pytest.approx(200 + sun)
        assert warmest - coldest == pytest.approx(28)

    monkeypatch.setattr(scene, "widened", lambda *_: PLATEAU)
    scenes = [draw_scene("SnowIce", 64, 1, index=n, cover=0.5, variety="wide") for n in range(60)]
    without = [one for one in scenes if not (one.truth >= 192).any()]
    assert len(without) / 60 == pytest.approx(PLATEAU.cloudless, abs=0.15)


def test_snow_lies_on_woods_too():
    drawn = [widened("Forest", np.random.default_rng(seed)).materials for seed in range(300)]
    snowed = [materials for materials in drawn if "coarse snow" in materials]
    # Of the seven guests of Forest 0.85 are there.
    assert len(snowed) / 300 == pytest.approx(1 - 0.8 * (1 - 0.85 / 7), abs=0.06)
    assert not any({*materials} & surface.WOODS for materials in snowed)
    assert any("snowy wood" in materials for materials in snowed)


def seen(height=0.0, **more):
    """The share of the light in B9 that comes back from there, under a `wide` sky."""
    sky = weather.wide_sky(Sky(**{**vars(SKY), **more}), np.random.default_rng(0))
    return sky.cirrus_transmission(height)


def test_cold_air_is_dry_and_b9_sees_the_snow_of_plateaus():
    # Saturated air of 273.15 K holds 4.85 g of water in a cubic metre, in 2 km of that 0.97 cm.
    assert weather.most_vapour(273.15) == pytest.approx(0.97, rel=0.01)
    assert weather.most_vapour(220) < 0.01

    assert seen(temperature=220, altitude=3) > 0.35
    assert seen(temperature=220, altitude=0) == pytest.approx(
        seen(temperature=220, altitude=3), rel=1e-6
    )  # what the air there can hold lies above the ground


def test_b9_sees_no_warm_ground_however_dry_the_air_and_high_clouds_more_than_middle_ones():
    assert seen(0, vapour=0.0, temperature=315) < 1e-3
    # 1 cm of water above the sea, three times on the way; e-fold every 2 km; square-root law.
    expected = [np.exp(-5 * np.sqrt(3 * np.exp(-height / 2))) for height in (0, 5, 9)]
    one = 2.2 * 1.0 * 3
    assert [seen(h, vapour=one) for h in (0, 5, 9)] == pytest.approx(expected, rel=1e-3)
    assert expected[1] < 0.15 < 0.35 < expected[2]


def test_wide_scenes_are_the_same_again_and_the_default_stays_plain():
    options = {"index": 2, "cover": 0.4}
    one, again = (draw_scene("Urban", 96, 5, variety="wide", **options) for _ in range(2))
    np.testing.assert_array_equal(one.dn, again.dn)
    np.testing.assert_array_equal(one.truth, again.truth)
    plain = draw_scene("Urban", 96, 5, **options)
    assert one.name == plain.name
    assert (one.dn != plain.dn).mean() > 0.5
    np.testing.assert_array_equal(
        plain.dn, draw_scene("Urban", 96, 5, variety="plain", **options).dn
    )


def test_wide_scenes_reach_what_plain_ones_do_not():
    scenes = [
        draw_scene(biome, 64, 0, index=index, cover=cover, variety="wide")
        for biome in RECIPES
        for index, cover in enumerate((0.0, 0.2, 0.3, 0.4, 0.5, 0.6))
    ]
    for one in scenes[::6]:
        assert not (one.truth >= 192).any()
    suns = np.array([one.sun_elevation for one in scenes])
    assert suns.min() < 20
    assert suns.max() > 60
    shares = np.array([np.mean(one.truth >= 192) for one in scenes])
    assert (shares == 1).sum() >= 3  # overcast
    assert max(one.dn.max() for one in scenes) == 65535
    assert min(one.dn.min() for one in scenes) > 0
    assert {guest for guests in GUESTS.values() for guest in guests} <= set(MATERIALS)
