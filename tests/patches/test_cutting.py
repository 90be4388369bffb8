import json

import numpy as np
import pytest
import rasterio
import tifffile

import prepare_landsat8_biome
from data_loader import PatchDataset, training_normalization
from fcd.errors import MissingBand, UserError
from fcd.files import read_json
from fcd.landsat import labels
from fcd.landsat.scenes import find_scenes
from fcd.patches import cutting
from fcd.patches.cutting import Cutting, cut_scene, cuttings
from fcd.patches.sources import PreparedPatches
from tests.conftest import draw, write_scene


def test_patches_are_the_pixels_of_the_scene(scene, tmp_path):
    scene, dn, truth = scene
    out = tmp_path / "patches"
    record = cut_scene(scene, out, "train", Cutting(16, 16))
    mask = labels.patch_from_truth(truth)
    seen = set()
    for folder in labels.CLASS_FOLDERS:
        names = sorted(p.name for p in (out / "train" / folder).iterdir())
        assert names == sorted(record[folder])
        for name in names:
            row, column = cutting.patch_position(name)
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
    assert json.loads(cutting.record_path(out, scene).read_text())["split"] == "train"
    assert cutting.record_path(out, scene).with_suffix(".png").exists()
    assert not list(out.glob(".partial*"))


def test_all_invalid_patches_are_skipped_and_test_scenes_stay_whole(tmp_path):
    dn, truth = draw(32, 32, 1)
    dn[:, :16, :16], truth[:16, :16] = 0, 0
    write_scene(tmp_path / "s" / "S1", "S1", dn, truth)
    (scene,) = find_scenes(tmp_path / "s")
    record = cut_scene(scene, tmp_path / "p", "train", Cutting(16, 16))
    assert len(record["clear"]) + len(record["cloudy"]) == 3
    assert [record["pixel_size"]] == [*cuttings(tmp_path / "p").values()] == [30]
    record = cut_scene(scene, tmp_path / "q", "test", Cutting(16, 16))
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
    cut_scene(find_scenes(tmp_path / "s")[0], tmp_path / "p", "train", Cutting(16, 16))
    (mask,) = (tmp_path / "p").rglob("mask.tif")
    assert np.argwhere(tifffile.imread(mask) == 0).tolist() == [[15, 0]]


def test_the_doubtful_middle_is_left_out():
    cutting = Cutting(10, 10, clear_below=0.05, cloudy_above=0.2)

    def label(cloudy_pixels):
        return cutting.label(np.repeat([2, 1], [cloudy_pixels, 100 - cloudy_pixels]))

    assert [label(n) for n in (0, 5, 6, 20, 21)] == [0, 0, None, None, 1]
    assert cutting.label(np.zeros(100)) is None


def test_patches_of_some_bands(scene, tmp_path):
    scene, dn, _ = scene
    out = tmp_path / "p"
    names = ("B10", "B4", "B3", "B2")
    record = cut_scene(scene, out, "train", Cutting(16, 16, bands=",".join(names)))
    assert record["cutting"]["bands"] == "B10,B4,B3,B2"
    for path in (out / "train").rglob("image.tif"):
        row, column = cutting.patch_position(path.parent.name)
        window = dn[[8, 3, 2, 1], row : row + 16, column : column + 16]
        assert (tifffile.imread(path) == window.transpose(1, 2, 0)).all()
    dataset = PatchDataset(out, "train")
    assert dataset.kind.bands == names
    assert training_normalization("paper", dataset).bands == names
    # A network of other bands takes its own of them.
    some = PatchDataset(out, "train", bands=("B2", "B10"))
    assert (some[0]["image"] == dataset[0]["image"][[3, 0]]).all()
    with pytest.raises(UserError, match="has no band B5, it has B10, B4, B3, B2"):
        PatchDataset(out, "train", bands=("B5",))[0]
    (tested,) = PreparedPatches(out).scenes("train", scene.folder, masked=False)
    assert tested.bands == names


def test_a_folder_keeps_to_its_bands(scene_root, tmp_path, call):
    out = tmp_path / "p"
    flags = ["--data_path", scene_root, "--output_dir", out, "--patch_size", "16"]
    assert call(prepare_landsat8_biome, *flags, "--bands", "B2-B4,B9")[0] == 0
    assert call(prepare_landsat8_biome, *flags, "--bands", "B2,B3,B4,B9")[0] == 0
    code, err, _ = call(prepare_landsat8_biome, *flags)
    assert code == 2
    assert "cut otherwise" in err
    assert "'bands': 'B2,B3,B4,B9'" in err
    # Records of before had all ten.
    paths = sorted((out / "scenes").glob("*.json"))
    record = json.loads(paths[0].read_text())
    del record["cutting"]["bands"]
    paths[0].write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"bands B1,B2,.*,B11 and scenes cut in bands B2,B3,B4,B9"):
        cutting.bands_of(out)
    for path in paths:
        path.write_text(json.dumps(json.loads(path.read_text()) | {"cutting": record["cutting"]}))
    with pytest.raises(UserError, match=r"image\.tif has 4 bands, the records in scenes name B1, "):
        _ = PatchDataset(out, "train").kind
    assert call(prepare_landsat8_biome, *flags, "--bands", "B2-B12")[0] == 2


def test_a_mask_that_has_changed_is_noticed_and_leaves_no_patch_of_before(tmp_path, call):
    dn, truth = draw(32, 32, 1)
    truth[:] = 128
    for name in ("S1", "S1_a"):
        write_scene(tmp_path / "s" / name, name, dn, truth)
    out, record = tmp_path / "p", tmp_path / "p" / "scenes" / "Unknown_S1.json"
    (tmp_path / "split.csv").write_text("scene,split\nS1,train\nS1_a,train\n")
    flags = ["--data_path", tmp_path / "s", "--output_dir", out, "--patch_size", "16"]
    flags += ["--split_file", tmp_path / "split.csv"]
    assert call(prepare_landsat8_biome, *flags)[0] == 0

    truth[:16, :16] = 255
    write_scene(tmp_path / "s" / "S1", "S1", dn, truth)
    code, err, _ = call(prepare_landsat8_biome, *flags)
    assert (code, err.count("\n")) == (2, 1)
    assert f"S1_fixedmask.img has changed since {out} was cut by it; remove {record}" in err

    record.unlink()  # as the line says
    assert call(prepare_landsat8_biome, *flags)[0] == 0
    found = sorted(str(path.parent.relative_to(out)) for path in out.rglob("image.tif"))
    corners = ("00000_00000", "00000_00016", "00016_00000", "00016_00016")
    first, *rest = [f"S1_{corner}" for corner in corners]
    clear = sorted([*rest, *(f"S1_a_{corner}" for corner in corners)])
    assert found == [*(f"train/clear/{name}" for name in clear), f"train/cloudy/{first}"]

    # Records of before do not say by which mask.
    record.write_text(json.dumps({k: v for k, v in read_json(record).items() if k != "reference"}))
    write_scene(tmp_path / "s" / "S1", "S1", dn, np.full_like(truth, 128))
    assert "2 scenes are cut already" in call(prepare_landsat8_biome, *flags)[2]


def test_a_folder_keeps_to_what_codes_of_masks_mean(scene_root, tmp_path, call):
    flags = ["--data_path", scene_root, "--output_dir", tmp_path / "p", "--patch_size", "16"]
    thin_is_clear = ["--mask_codes", "0=nodata,64=clear,128=clear,192=clear,255=cloud"]
    assert call(prepare_landsat8_biome, *flags, *thin_is_clear)[0] == 0
    assert "scenes are cut already" in call(prepare_landsat8_biome, *flags, *thin_is_clear)[2]
    code, err, _ = call(prepare_landsat8_biome, *flags)
    assert code == 2
    assert "cut otherwise" in err
    assert "'mask_codes': '0=nodata,64=clear,128=clear,192=clear,255=cloud'" in err
    # Records of before do not say: they are taken for those of the usual codes.
    for path in (tmp_path / "p" / "scenes").glob("*.json"):
        record = json.loads(path.read_text())
        del record["cutting"]["mask_codes"]
        path.write_text(json.dumps(record))
    assert call(prepare_landsat8_biome, *flags)[0] == 0
    assert call(prepare_landsat8_biome, *flags, *thin_is_clear)[0] == 2


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_scene_whose_thermal_bands_are_fill_is_named(tmp_path, split):
    dn, truth = draw(16, 16, 1)
    dn[8:] = 0
    write_scene(tmp_path / "s" / "S1", "S1", dn, truth)
    (scene,) = find_scenes(tmp_path / "s")
    with pytest.raises(
        MissingBand, match=r"scene S1 in .*: band B10, B11 is fill .* --bands B1-B9$"
    ):
        cut_scene(scene, tmp_path / "p", split, Cutting(16, 16))
    assert not cutting.record_path(tmp_path / "p", scene).exists()
    without = Cutting(16, 16, bands="B1,B2,B3,B4,B5,B6,B7,B9")
    assert cut_scene(scene, tmp_path / "p", split, without)["scene"] == "S1"


def test_what_files_of_a_scene_mark_is_invalid(tmp_path):
    dn, truth = np.full((10, 16, 16), 9000, np.uint16), np.full((16, 16), 128, np.uint8)
    dn[2, 3, 4] = 65535
    write_scene(tmp_path / "s" / "S1", "S1", dn, truth)
    for band in range(1, 12):
        if (path := tmp_path / f"s/S1/S1_B{band}.TIF").exists():
            with rasterio.open(path, "r+") as dataset:
                dataset.nodata = 65535
    cut_scene(find_scenes(tmp_path / "s")[0], tmp_path / "p", "train", Cutting(16, 16))
    (mask,) = (tmp_path / "p").rglob("mask.tif")
    assert np.argwhere(tifffile.imread(mask) == 0).tolist() == [[3, 4]]


def test_manual_masks_of_other_codes(tmp_path):
    dn, truth = draw(32, 32, 1)
    other = np.where(truth > 128, 255, 0).astype(np.uint8)
    write_scene(tmp_path / "s" / "S1", "S1", dn, other)
    found = find_scenes(tmp_path / "s")
    with pytest.raises(UserError, match="no pixel of their masks is clear"):
        cutting.prepare(found, tmp_path / "p", Cutting(16, 16), None, 0, False, 1)
    scenes = find_scenes(tmp_path / "s", labels.truth_decoder("0=clear,255=cloud"))
    cut_scene(scenes[0], tmp_path / "q", "train", Cutting(32, 32))
    (mask,) = (tmp_path / "q").rglob("mask.tif")
    expected = np.where(dn.any(axis=0), np.where(other, 2, 1), 0)
    assert (tifffile.imread(mask) == expected).all()
