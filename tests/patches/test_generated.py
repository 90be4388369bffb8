import json
from dataclasses import asdict

import numpy as np
import pytest
import rasterio
import tifffile

from data_loader import PatchDataset
from fcd.cli import run_folder
from fcd.errors import UserError
from fcd.landsat import labels
from fcd.landsat.rasters import write_raster
from fcd.landsat.scenes import find_scenes
from fcd.patches import cutting, generated
from fcd.patches.cutting import Cutting, cut_scene
from fcd.patches.generated import PROVENANCE, add_generated_masks, mask_tif
from fcd.patches.supervision import Supervision
from tests.conftest import draw, moved, write_scene


@pytest.mark.parametrize("reference", ["truth", "qa"])
def test_generated_masks_land_on_their_patches(scene, tmp_path, reference):
    """Those of a QA band keep what it says nothing about, but no fill."""
    scene, dn, truth = scene
    out, masks = tmp_path / "patches", tmp_path / "tifs"
    record = cut_scene(scene, out, "train", Cutting(16, 16))
    record["cutting"]["reference"] = reference
    masks.mkdir()
    generated = np.random.default_rng(0).choice([0, 128, 255], (50, 70)).astype(np.uint8)
    with rasterio.open(mask_tif(masks, scene), "w", driver="GTiff", height=50, width=70,
                       count=1, dtype="uint8", crs="EPSG:32616",
                       transform=scene.grid().transform) as tif:  # fmt: skip
        tif.write(generated, 1)
    counts = add_generated_masks(scene, record, masks, out, "generated_mask.tif")
    valid = (dn != 0).all(axis=0) if reference == "qa" else truth != 0
    total = 0
    for folder in labels.CLASS_FOLDERS:
        for name in record[folder]:
            row, column = cutting.patch_position(name)
            window = np.s_[row : row + 16, column : column + 16]
            mask = tifffile.imread(out / "train" / folder / name / "generated_mask.tif")
            expected = {
                "clear": np.ones((16, 16)),
                "cloudy": np.select([generated[window] == 128, generated[window] == 255], [1, 2]),
            }  # what was left open is clear where the label is, too
            wanted = np.where(valid[window], expected[folder], 0)
            assert (mask == wanted).all()
            total += np.count_nonzero(wanted * truth[window])
    assert counts.sum() == total


def test_a_mask_of_another_size_or_place_is_refused(scene, tmp_path):
    scene, _, _ = scene
    record = cut_scene(scene, tmp_path / "p", "train", Cutting(16, 16))
    with rasterio.open(mask_tif(tmp_path, scene), "w", driver="GTiff", height=50, width=60,
                       count=1, dtype="uint8", crs="EPSG:32616",
                       transform=scene.grid().transform) as tif:  # fmt: skip
        tif.write(np.full((50, 60), 128, np.uint8), 1)
    with pytest.raises(UserError, match=r"is 60x50 pixels .*, scene S1 70x50"):
        add_generated_masks(scene, record, tmp_path, tmp_path / "p")
    grid, clear = scene.grid(), np.full((1, 50, 70), 128, np.uint8)
    write_raster(mask_tif(tmp_path, scene), clear, grid, 0)
    add_generated_masks(scene, record, tmp_path, tmp_path / "p")
    for how in ({"south_up": True}, {"right": 70}):
        write_raster(mask_tif(tmp_path, scene), clear, grid, 0)
        moved(mask_tif(tmp_path, scene), **how)
        with pytest.raises(UserError, match=r"is 70x50 .*, scene S1 70x50 .*; generate the masks"):
            add_generated_masks(scene, record, tmp_path, tmp_path / "p")


def test_a_run_is_told_that_its_masks_are_others(scene, tmp_path):
    """By the whole masks they were cut from: the same ones cut again are the same."""
    scene, _, _ = scene
    image_dir, masks = tmp_path / "p", tmp_path / "tifs"
    record = cut_scene(scene, image_dir, "train", Cutting(16, 16))
    masks.mkdir()
    costs = Supervision(2, 0, "-", 0, "-", 0)
    (masks / PROVENANCE).write_text(json.dumps(asdict(costs)))

    def told(value):
        write_raster(mask_tif(masks, scene), np.full((1, 50, 70), value, np.uint8), scene.grid(), 0)
        with generated.recorded(image_dir, "g.tif", masks):
            add_generated_masks(scene, record, masks, image_dir, "g.tif")
        assert generated.mask_provenance(image_dir, "g.tif") == costs
        return {"train": PatchDataset(image_dir, "train", "g.tif").summary()}

    before, again, other = told(128), told(128), told(255)
    assert before == again
    first, second = before["train"].pop("masks"), other["train"].pop("masks")
    assert first != second
    assert before == other
    data = {"train": {"patches": 3, "masks": first}, "val": {"patches": 2}}
    assert run_folder._in_words(data) == f"train 3 with masks {first}, val 2"
    assert "masks" not in PatchDataset(image_dir, "train", "mask.tif").summary()


def test_masks_without_a_pixel_to_compare_are_told(tmp_path, monkeypatch, capsys):
    """Scenes smaller than a patch have none, and so no accuracy."""
    write_scene(tmp_path / "s" / "Water" / "S1", "S1", *draw(20, 20, 0))
    (scene,) = find_scenes(tmp_path / "s")
    cut_scene(scene, tmp_path / "p", "train", Cutting(32, 32))
    write_raster(mask_tif(tmp_path, scene), np.ones((1, 20, 20), np.uint8), scene.grid(), 0)
    (tmp_path / PROVENANCE).write_text('{"image_labels": 5}')
    serial = lambda jobs, *_: [(name, job()) for name, job in jobs.items()]  # noqa: E731
    monkeypatch.setattr(generated, "parallel", serial)
    generated.add_masks([scene], tmp_path, tmp_path / "p", "generated_mask.tif", 1)
    told = "into 0 patches; against their mask.tif (for information only): accuracy -, macro F1 -"
    assert told in capsys.readouterr().out
    costs = json.loads((tmp_path / "p" / "generated_mask.json").read_text())
    assert costs | {"which": ""} == {"image_labels": 5, "which": ""}
