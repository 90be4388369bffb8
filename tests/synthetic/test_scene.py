"""Drawn scenes: files as in L8 Biome, clouds as in nature, and no band that gives them away."""

import numpy as np
import pytest

import fcd.synthetic.scene as drawing
from fcd.errors import UserError
from fcd.landsat import biome
from fcd.landsat.bands import BANDS
from fcd.synthetic.layout import plan
from fcd.synthetic.surface import RECIPES

B2, B5, B9, B10 = (BANDS.index(band) for band in ("B2", "B5", "B9", "B10"))


def draw(biome="Forest", size=128, seed=3, **options):
    return drawing.draw_scene(biome, size, seed, **options)


@pytest.fixture(scope="module")
def demo_scenes():
    """The plan of the demo set at a reduced size, one list of scenes per biome."""
    return [[draw(biome, 256, 0, index=i, **plan(biome, i)) for i in range(6)] for biome in RECIPES]


def flat(groups):
    return [scene for scenes in groups for scene in scenes]


def pixels(scenes):
    """Valid pixels: DN (n, 10) and whether they are cloud (n,)."""
    valid = [scene.truth > 0 for scene in scenes]
    dn = np.concatenate([scene.dn[:, v].T for scene, v in zip(scenes, valid, strict=True)])
    return dn, np.concatenate([s.truth[v] >= 192 for s, v in zip(scenes, valid, strict=True)])


def macro_f1(hits, false_alarms, clouds, clears):
    """From counts of pixels called cloud, rightly and wrongly, and the counts of both classes."""
    cloud = 2 * hits / (hits + false_alarms + clouds)
    right, missed = clears - false_alarms, clouds - hits
    return (cloud + 2 * right / (right + missed + clears)) / 2


def best_single_threshold(values, cloud):
    """The best macro F1 over all thresholds of uint16 `values`, cloud above or below it."""
    counts = [np.bincount(values[cloud == c], minlength=65536).astype(float) for c in (True, False)]
    clouds, clears = counts[0].sum(), counts[1].sum()
    below = [np.cumsum(c) for c in counts]
    return max(
        macro_f1(*below, clouds, clears).max(),
        macro_f1(clouds - below[0], clears - below[1], clouds, clears).max(),
    )


def test_recipes_are_the_biomes_of_the_real_data_set():
    assert tuple(RECIPES) == biome.BIOMES


@pytest.mark.parametrize("biome", RECIPES)
def test_types_codes_and_ranges(biome):
    scene = draw(biome, (96, 130), cover=0.4, footprint=True)
    assert scene.dn.shape == (10, 96, 130)
    assert scene.truth.shape == scene.qa.shape == (96, 130)
    assert (scene.dn.dtype, scene.truth.dtype, scene.qa.dtype) == (np.uint16, np.uint8, np.uint16)
    assert set(np.unique(scene.truth)) <= {0, 64, 128, 192, 255}
    assert {0, 128} < set(np.unique(scene.truth))
    fill = scene.truth == 0
    assert (scene.dn[:, fill] == 0).all()
    assert (scene.dn[:, ~fill] > 0).all()
    assert ((scene.qa == 1) == fill).all()
    assert 0.05 < fill.mean() < 0.45
    # B10 of ground and clouds on Earth: 200 K to 330 K.
    assert scene.dn[B10][~fill].min() > 3000
    assert scene.dn[B10][~fill].max() < 45000


def test_same_seed_same_bytes_and_another_seed_or_index_another_scene():
    first, again = draw(), draw()
    assert first.name == again.name
    for part in ("dn", "truth", "qa"):
        assert getattr(first, part).tobytes() == getattr(again, part).tobytes()
    for other in (draw(seed=4), draw(index=1), draw("Water")):
        assert (other.dn != first.dn).mean() > 0.9
        assert other.name != first.name


def test_a_scene_without_cover_is_clear_and_clouds_change_nothing_elsewhere():
    cloudy, bare = draw("Urban", cover=0.4), draw("Urban", cover=0.0)
    assert set(np.unique(bare.truth)) == {128}
    same = (cloudy.dn == bare.dn).all(axis=0)
    assert same[cloudy.truth == 128].mean() > 0.9  # but for haze next to clouds
    assert not same[cloudy.truth >= 192].any()


def test_cover_is_the_share_of_cloud():
    shares = [(draw(cover=cover, size=256).truth >= 192).mean() for cover in (0.1, 0.3, 0.6)]
    assert shares == pytest.approx([0.1, 0.3, 0.6], abs=0.12)
    assert sorted(shares) == shares


def cloud_shift(scenes, kind):
    """Median change of DN (10,) that clouds make where `kind` (scene -> bool mask) is true."""
    shifts = []
    for scene, bare in scenes:
        difference = scene.dn.astype(int) - bare.dn
        shifts.append(difference[:, kind(scene)])
    return np.median(np.concatenate(shifts, axis=1), axis=1)


def layers(monkeypatch, high_share):
    """Pairs of a scene with one kind of cloud and the same scene without any."""
    hidden = "low_clouds" if high_share else "cirrus"
    original = getattr(drawing, hidden)
    monkeypatch.setattr(drawing, hidden, lambda s, r, cover, air: original(s, r, 0.0, air))
    biomes = ("Forest", "Wetlands", "Water")
    scenes = [draw(b, cover=0.5, index=i) for b in biomes for i in range(4)]
    bare = [draw(b, cover=0.0, index=i) for b in biomes for i in range(4)]
    pairs = zip(scenes, bare, strict=True)
    return [(s, b) for s, b in pairs if (s.truth >= 192).any()]


def test_cirrus_is_plain_in_b9_and_cold(monkeypatch):
    shift = cloud_shift(layers(monkeypatch, high_share=True), lambda s: s.truth >= 192)
    assert shift[B9] > 2500
    assert shift[B2] > 2500
    assert shift[B10] < -2000


def test_low_clouds_are_bright_hidden_from_b9_and_only_a_little_colder(monkeypatch):
    shift = cloud_shift(layers(monkeypatch, high_share=False), lambda s: s.truth == 255)
    assert shift[B2] > 10000
    assert abs(shift[B9]) < 2000
    assert -8000 < shift[B10] < -1000


def test_shadows_are_dark_and_lie_away_from_the_sun():
    scene, bare = (draw("Wetlands", 256, 6, cover=c) for c in (0.2, 0.0))
    shadow, cloud = scene.truth == 64, scene.truth >= 192
    assert shadow.any()
    assert np.median(scene.dn[B5][shadow]) < 0.9 * np.median(bare.dn[B5][shadow])
    # The mask of clouds and that of shadows match best when moved along the sun's azimuth.
    spectrum = np.fft.fft2(shadow) * np.conj(np.fft.fft2(cloud))
    match = np.fft.ifft2(spectrum).real
    down, right = np.unravel_index(match.argmax(), match.shape)
    down, right = (step - 256 * (step > 128) for step in (down, right))
    towards_sun = np.degrees(np.arctan2(-right, down)) % 360
    assert towards_sun == pytest.approx(scene.sun_azimuth, abs=15)


def test_qa_is_imperfect_yet_better_than_chance(demo_scenes):
    scenes = flat(demo_scenes)
    valid = [scene.truth > 0 for scene in scenes]
    qa = np.concatenate([scene.qa[v] for scene, v in zip(scenes, valid, strict=True)])
    _, cloud = pixels(scenes)
    called = (qa >> 14 >= 2) | (qa >> 12 & 3 >= 2)
    f1 = macro_f1((called & cloud).sum(), (called & ~cloud).sum(), cloud.sum(), (~cloud).sum())
    assert 0.7 < f1 < 0.95
    assert 20480 in qa  # clear, and high-confidence cloud, as in real scenes
    assert 53248 in qa


def test_no_single_band_separates_cloud_from_clear(demo_scenes):
    dn, cloud = pixels(flat(demo_scenes))
    f1 = {band: best_single_threshold(dn[:, i], cloud) for i, band in enumerate(BANDS)}
    assert max(f1.values()) < 0.85, f1


def test_ten_bands_together_separate_cloud_from_clear_on_unseen_scenes(demo_scenes):
    from sklearn.ensemble import HistGradientBoostingClassifier

    train, cloud = pixels([scene for scenes in demo_scenes for scene in scenes[:4]])
    test, truth = pixels([scene for scenes in demo_scenes for scene in scenes[4:]])
    model = HistGradientBoostingClassifier(max_iter=100, random_state=0)
    called = model.fit(train[::10], cloud[::10]).predict(test[::8])
    truth = truth[::8]
    f1 = macro_f1((called & truth).sum(), (called & ~truth).sum(), truth.sum(), (~truth).sum())
    assert f1 >= 0.93


def test_patches_of_both_labels(demo_scenes):
    cloudy = [
        (scene.truth[row : row + 64, column : column + 64] >= 192).any()
        for scene in flat(demo_scenes)
        for row in range(0, 256, 64)
        for column in range(0, 256, 64)
    ]
    assert 0.35 < 1 - np.mean(cloudy) < 0.65


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"biome": "Tundra"}, "unknown biome 'Tundra'"),
        ({"size": 20}, "size 20 is too small"),
        ({"cover": 1.2}, "cover 1.2 is not in"),
    ],
)
def test_bad_values_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        draw(**arguments)
