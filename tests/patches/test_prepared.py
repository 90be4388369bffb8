import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile

from fcd.errors import UserError
from fcd.landsat import labels
from fcd.landsat.scenes import Scene, find_scenes
from fcd.patches import prepared
from fcd.patches.prepared import Cutting
from tests.conftest import draw, write_scene


def twelve_per_biome():
    return [
        Scene(f"{biome}{number:02d}", biome, Path(), {})
        for biome in ("Barren", "Forest", "Water")
        for number in range(12)
    ]


def test_split_is_3_1_2_within_each_biome_and_ignores_the_order():
    scenes = twelve_per_biome()
    split = prepared.split_scenes(scenes, seed=1337)
    for biome in ("Barren", "Forest", "Water"):
        counts = Counter(split[s.name] for s in scenes if s.biome == biome)
        assert counts == {"train": 6, "val": 2, "test": 4}
    random.Random(0).shuffle(scenes)
    assert prepared.split_scenes(scenes, seed=1337) == split
    assert prepared.split_scenes(scenes, seed=1) != split


def test_a_single_scene_lands_in_train():
    assert prepared.split_scenes(twelve_per_biome()[:1], 1337) == {"Barren00": "train"}


def test_split_by_cloud_share_spreads_clear_and_cloudy_scenes():
    scenes = twelve_per_biome()
    share = {s.name: i % 12 / 11 for i, s in enumerate(scenes)}
    split = prepared.split_scenes(scenes, 1337, share)
    for half in ([s for s in scenes if share[s.name] < 0.5], [s for s in scenes if share[s.name] > 0.5]):  # fmt: skip  # noqa: E501
        assert Counter(split[s.name] for s in half) == {"train": 9, "val": 3, "test": 6}


def test_split_file_there_and_back_and_its_errors(tmp_path):
    scenes = twelve_per_biome()
    split = prepared.split_scenes(scenes, 1337)
    path = tmp_path / "split.csv"
    prepared.write_split(path, scenes, split)
    assert prepared.read_split(path) == split
    path.write_text("scene,split\nA,train\nB,trian\n")
    with pytest.raises(UserError, match=r"split\.csv line 3: split 'trian'"):
        prepared.read_split(path)
    path.write_text("scene,split\nA,train\nA,val\n")
    with pytest.raises(UserError, match="line 3: scene 'A'"):
        prepared.read_split(path)
    path.write_text("a,b\n")
    with pytest.raises(UserError, match="must name the columns"):
        prepared.read_split(path)


@pytest.fixture
def scene(tmp_path):
    dn, truth = draw(50, 70, 5)
    write_scene(tmp_path / "scenes" / "Water" / "S1", "S1", dn, truth)
    return find_scenes(tmp_path / "scenes")[0], dn, truth


def test_patches_are_the_pixels_of_the_scene(scene, tmp_path):
    scene, dn, truth = scene
    out = tmp_path / "patches"
    record = prepared.cut_scene(scene, out, "train", Cutting(16, 16))
    mask = labels.patch_from_truth(truth)
    seen = set()
    for folder in labels.CLASS_FOLDERS:
        names = sorted(p.name for p in (out / "train" / folder).iterdir())
        assert names == sorted(record[folder])
        for name in names:
            row, column = prepared.patch_position(name)
            seen.add((row, column))
            window = np.s_[row : row + 16, column : column + 16]
            image = tifffile.imread(out / "train" / folder / name / "image.tif")
            assert image.dtype == np.uint16
            assert (image == dn.transpose(1, 2, 0)[window]).all()
            assert (
                tifffile.imread(out / "train" / folder / name / "mask.tif") == mask[window]
            ).all()
            assert (folder == "cloudy") == (mask[window] == 2).any()
    # 3 × 4 whole cells; the remainder at right and bottom is dropped.
    assert seen == {(r, c) for r in (0, 16, 32) for c in (0, 16, 32, 48)}
    assert json.loads(prepared.record_path(out, scene).read_text())["split"] == "train"
    assert prepared.record_path(out, scene).with_suffix(".png").exists()
    assert not list(out.glob(".partial*"))


def test_all_invalid_patches_are_skipped_and_test_scenes_stay_whole(tmp_path):
    dn, truth = draw(32, 32, 1)
    dn[:, :16, :16], truth[:16, :16] = 0, 0
    write_scene(tmp_path / "s" / "S1", "S1", dn, truth)
    (scene,) = find_scenes(tmp_path / "s")
    record = prepared.cut_scene(scene, tmp_path / "p", "train", Cutting(16, 16))
    assert len(record["clear"]) + len(record["cloudy"]) == 3
    record = prepared.cut_scene(scene, tmp_path / "q", "test", Cutting(16, 16))
    assert record["clear"] == record["cloudy"] == []
    assert not (tmp_path / "q" / "test").exists() or not any(
        (tmp_path / "q" / "test").rglob("*.tif")
    )


def test_a_pixel_that_is_fill_in_one_band_is_invalid(tmp_path):
    dn, truth = draw(16, 16, 1)
    dn[4, 15, 0] = 0
    truth[:] = 128
    dn[:, -10:, -10:] = 7
    write_scene(tmp_path / "s" / "S1", "S1", dn, truth)
    prepared.cut_scene(find_scenes(tmp_path / "s")[0], tmp_path / "p", "train", Cutting(16, 16))
    (mask,) = (tmp_path / "p").rglob("mask.tif")
    assert np.argwhere(tifffile.imread(mask) == 0).tolist() == [[15, 0]]


def test_the_doubtful_middle_is_left_out():
    cutting = Cutting(10, 10, clear_below=0.05, cloudy_above=0.2)

    def label(cloudy_pixels):
        return cutting.label(np.repeat([2, 1], [cloudy_pixels, 100 - cloudy_pixels]))

    assert [label(n) for n in (0, 5, 6, 20, 21)] == [0, 0, None, None, 1]
    assert cutting.label(np.zeros(100)) is None


def test_generated_masks_land_on_their_patches(scene, tmp_path):
    scene, _, truth = scene
    out, masks = tmp_path / "patches", tmp_path / "tifs"
    record = prepared.cut_scene(scene, out, "train", Cutting(16, 16))
    masks.mkdir()
    generated = np.random.default_rng(0).choice([128, 255], (50, 70)).astype(np.uint8)
    with rasterio.open(prepared.mask_tif(masks, scene), "w", driver="GTiff", height=50, width=70,
                       count=1, dtype="uint8", crs="EPSG:32616",
                       transform=scene.grid().transform) as tif:  # fmt: skip
        tif.write(generated, 1)
    counts = prepared.add_generated_masks(scene, record, masks, out, "generated_mask.tif")
    valid = truth != 0
    total = 0
    for folder in labels.CLASS_FOLDERS:
        for name in record[folder]:
            row, column = prepared.patch_position(name)
            window = np.s_[row : row + 16, column : column + 16]
            mask = tifffile.imread(out / "train" / folder / name / "generated_mask.tif")
            expected = {
                "clear": np.ones((16, 16)),
                "cloudy": np.where(generated[window] == 255, 2, 1),
            }
            assert (mask == np.where(valid[window], expected[folder], 0)).all()
            total += valid[window].sum()
    assert counts.sum() == total


def test_a_mask_of_another_size_is_refused(scene, tmp_path):
    scene, _, _ = scene
    record = prepared.cut_scene(scene, tmp_path / "p", "train", Cutting(16, 16))
    with rasterio.open(prepared.mask_tif(tmp_path, scene), "w", driver="GTiff", height=50, width=60,
                       count=1, dtype="uint8", crs="EPSG:32616",
                       transform=scene.grid().transform) as tif:  # fmt: skip
        tif.write(np.full((50, 60), 128, np.uint8), 1)
    with pytest.raises(UserError, match="is 60x50 pixels, scene S1 is 70x50"):
        prepared.add_generated_masks(scene, record, tmp_path, tmp_path / "p")
