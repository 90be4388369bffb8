"""The real Landsat-8 crop, from scene to masks, as a user would run it."""

import json
import sys

import numpy as np
import pytest
import rasterio
import tifffile

import main
import prepare_landsat8_biome
import supervised_main
from tests.conftest import REAL

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ci,
    pytest.mark.skipif(
        not REAL.is_dir(), reason="the real Landsat crop is not beside this checkout"
    ),
]
GAN = ["--image_size", "32", "--g_conv_dim", "8", "--g_repeat_num", "2", "--d_conv_dim", "8",
       "--d_repeat_num", "4", "--n_critic", "2", "--num_iters", "40", "--num_iters_decay", "20",
       "--sample_step", "20", "--model_save_step", "20"]  # fmt: skip


def test_the_real_crop_goes_all_the_way(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    scenes = str(REAL / "biome_layout")
    data = ["--image_dir", "p", "--orig_image_dir", scenes, "--num_workers", "0", "--device", "cpu"]

    def call(module, *arguments):
        monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *arguments])
        assert module.main() == 0

    call(prepare_landsat8_biome, "--data_path", scenes, "--output_dir", "p", "--patch_size", "32",
         "--clear_below", "0.005", "--cloudy_above", "0.1")  # fmt: skip
    record = json.loads((tmp_path / "p/scenes/Forest_LC80200392015216LGN00.json").read_text())
    assert record["split"] == "train"
    assert 0.3 < record["cloud_share"] < 0.4
    for kind, low, high in (("clear", 0, 0.005), ("cloudy", 0.1, 1)):
        for name in record[kind]:
            share = (tifffile.imread(tmp_path / "p/train" / kind / name / "mask.tif") == 2).mean()
            assert low <= share <= high
    call(main, "--mode", "train", *data, *GAN, "--normalize", "stretch", "--balance", "True")
    assert "no val split" in capsys.readouterr().out
    call(main, "--mode", "generate_masks", *data, "--tile_size", "128", "--threshold", "otsu")
    with rasterio.open("outputs/FCD/results/tifs/Forest_LC80200392015216LGN00_mask.tif") as dataset:
        assert dataset.crs.to_epsg() == 32616
        assert dataset.shape == (603, 627)
        assert set(np.unique(dataset.read(1))) == {128, 255}
    call(prepare_landsat8_biome, "--data_path", scenes, "--output_dir", "p",
         "--generated_masks", "outputs/FCD/results/tifs")  # fmt: skip
    call(supervised_main, "--mode", "train", *data, "--encoder", "slim18", "--n_epochs", "1",
         "--train_mask_file", "generated_mask.tif", "--normalize", "stretch")  # fmt: skip
