import shutil

import numpy as np
import pytest

from fcd.errors import SceneError, UserError
from fcd.landsat.bands import BANDS
from fcd.landsat.rasters import write_raster
from fcd.landsat.scenes import find_scenes
from tests.conftest import REAL, draw, moved, write_scene


def test_scenes_are_found_at_any_depth_and_sorted(scene_root):
    scenes = find_scenes(scene_root)
    assert [s.biome for s in scenes] == ["Forest"] * 6 + ["Water"] * 6
    assert [s.name for s in scenes[:6]] == sorted(s.name for s in scenes[:6])
    assert scenes[0].key == f"Forest_{scenes[0].name}"


def test_one_of_the_96_scenes_has_its_biome_wherever_it_lies(tmp_path):
    write_scene(tmp_path / "LC80420082013220LGN00", "LC80420082013220LGN00", *draw(20, 20, 0))
    assert find_scenes(tmp_path)[0].biome == "Barren"


def test_reading_returns_what_was_written(tmp_path):
    dn, truth = draw(50, 70, 3)
    write_scene(tmp_path / "Water" / "S1", "S1", dn, truth)
    (scene,) = find_scenes(tmp_path)
    assert scene.check(need_truth=True).crs.to_epsg() == 32616
    with scene.open() as reader:
        assert (reader.grid.height, reader.grid.width) == (50, 70)
        assert (reader.bands() == dn).all()
        assert (reader.bands(10, 30) == dn[:, 10:30]).all()
        mask = reader.truth(0, 20)
    lookup = {0: 0, 64: 1, 128: 1, 192: 2, 255: 2}
    assert mask.tolist() == [[lookup[code] for code in row] for row in truth[:20].tolist()]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "S1_B5.TIF").unlink(), "missing band B5"),
        (lambda f: (f / "S1_fixedmask.img").unlink(), "missing S1_fixedmask.img"),
        (lambda f: (f / "S1_B3.TIF").write_bytes(b"no tif"), r"S1_B3\.TIF cannot be read"),
        (
            lambda f: write_scene(f, "S1", *draw(50, 70, 0))
            or [shutil.copy(f / "S1_B1.TIF", f / "x.tif"), write_scene(f, "S1", *draw(40, 70, 0)),
                shutil.move(f / "x.tif", f / "S1_B1.TIF")],
            r"S1_B1\.TIF is 70x50 pixels, the others are 70x40",
        ),
    ],
)  # fmt: skip
def test_an_incomplete_scene_says_what_is_wrong(tmp_path, damage, message):
    folder = tmp_path / "Water" / "S1"
    write_scene(folder, "S1", *draw(50, 70, 0))
    damage(folder)
    with pytest.raises(SceneError, match=message):
        find_scenes(tmp_path)[0].check(need_truth=True)


def test_a_manual_mask_that_lies_elsewhere_is_named(tmp_path):
    dn, truth = draw(50, 70, 0)
    folder = tmp_path / "Water" / "S1"
    write_scene(folder, "S1", dn, truth)
    grid = find_scenes(tmp_path)[0].grid()
    for path in folder.glob("*fixedmask*"):
        path.unlink()
    mask = folder / "S1_fixedmask.TIF"
    for how, fits in (({}, True), ({"right": 0.5}, True), ({"right": 70}, False),
                      ({"south_up": True}, False)):  # fmt: skip
        write_raster(mask, truth[None], grid, 0)
        moved(mask, **how)
        (scene,) = find_scenes(tmp_path)
        scene.check()
        if fits:
            scene.check(need_truth=True)
            continue
        told = r"S1_fixedmask\.TIF lies on another grid than S1_B1\.TIF$"
        with pytest.raises(SceneError, match=told):
            scene.check(need_truth=True)


def test_nothing_found_and_found_twice(tmp_path):
    with pytest.raises(UserError, match="is no folder"):
        find_scenes(tmp_path / "absent")
    with pytest.raises(UserError, match="no scene below"):
        find_scenes(tmp_path)
    for place in "ab":
        write_scene(tmp_path / place / "S1", "S1", *draw(20, 20, 0))
    with pytest.raises(UserError, match="S1 is there twice"):
        find_scenes(tmp_path)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real Landsat crop is not beside this checkout")
def test_the_real_crop_reads_as_described():
    (scene,) = find_scenes(REAL / "biome_layout")
    assert (scene.biome, scene.name) == ("Forest", "LC80200392015216LGN00")
    grid = scene.check(need_truth=True)
    assert (grid.width, grid.height, grid.crs.to_epsg()) == (627, 603, 32616)
    with scene.open() as reader:
        dn, mask = reader.bands(), reader.truth()
    clear = {band: np.median(dn[BANDS.index(band)][mask == 1]) for band in ("B2", "B9", "B10")}
    cloud = {band: np.median(dn[BANDS.index(band)][mask == 2]) for band in ("B2", "B9", "B10")}
    assert clear == {"B2": pytest.approx(8611, rel=0.02), "B9": pytest.approx(5248, rel=0.02),
                     "B10": pytest.approx(24308, rel=0.02)}  # fmt: skip
    assert cloud["B2"] > clear["B2"]
    assert cloud["B9"] > clear["B9"]
    assert cloud["B10"] < clear["B10"]
