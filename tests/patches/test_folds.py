"""Folds: every crop is tested once, scenes stay together, biomes and cloudiness are spread."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest

from fcd.cli import commands
from fcd.errors import UserError
from fcd.patches.crops import Crop
from fcd.patches.folds import choose_folds
from fcd.patches.labelled import read_labels
from tests.conftest import write_tif

BIOMES = ("Barren", "Forest", "Water")


@pytest.fixture
def crops():
    """Two crops of each of 8 scenes in three biomes; half of the scenes of a biome are cloudy."""
    return [Crop(f"{b}{s}_{n}", b, f"{b}{s}") for b in BIOMES for s in range(8) for n in range(2)]


def shares_of(crops):
    return [0.9 * (int(crop.scene[-1]) % 2) for crop in crops]


@pytest.mark.parametrize("seed", range(5))
def test_biomes_and_cloudiness_are_spread_evenly(crops, seed):
    chosen = choose_folds(crops, shares_of(crops), 4, seed)
    assert set(chosen) == {crop.scene for crop in crops}
    for fold in range(4):
        scenes = [scene for scene in chosen if chosen[scene] == fold]
        assert len(scenes) == 6
        assert set(Counter(scene[:-1] for scene in scenes).values()) == {2}
        assert sum(int(scene[-1]) % 2 for scene in scenes) == 3


def test_the_seed_decides_and_not_the_order(crops):
    shares = shares_of(crops)
    chosen = choose_folds(crops, shares, 3, 0)
    assert choose_folds(crops[::-1], shares[::-1], 3, 0) == chosen
    assert choose_folds(crops, shares, 3, 1) != chosen
    with pytest.raises(UserError, match="--folds 25: there are 24 scenes; give at most as many"):
        choose_folds(crops, shares, 25, 0)


def test_each_crop_is_tested_once_and_paths_hold_from_the_csvs_folder(tmp_path, crops):
    for crop, share in zip(crops, shares_of(crops), strict=True):
        write_tif(tmp_path / f"d/images/{crop.name}.tif", np.ones((2, 10, 10), np.uint16))
        mask = np.where(np.arange(100).reshape(1, 10, 10) < 100 * share, 255, 128)
        write_tif(tmp_path / f"d/masks/{crop.name}.tif", mask.astype(np.uint8))
    table = pd.DataFrame(map(vars, crops)).rename(columns={"name": "patch"})
    table.to_csv(tmp_path / "d/patches.csv", index=False)
    arguments = [str(tmp_path / "d"), "--output_dir", str(tmp_path / "out"), "--folds", "4"]
    commands.fold(arguments)
    tested = Counter()
    for fold in range(4):
        path = tmp_path / f"out/fold-{fold}.csv"
        rows = pd.read_csv(path)
        assert len(rows) == len(crops)
        by_split = {split: set(part.scene) for split, part in rows.groupby("split")}
        assert not by_split["train"] & by_split["test"]
        tested.update(rows.path[rows.split == "test"])
        assert {image.split for image in read_labels(path)} == {"train", "test"}
        assert all(image.mask.parent.name == "masks" for image in read_labels(path))
    assert set(tested.values()) == {1}
    assert len(tested) == len(crops)
    assert set(pd.read_csv(tmp_path / "out/all.csv").split) == {"train"}
    for n in range(4):
        fold, held = (pd.read_csv(tmp_path / f"out/{name}-{n}.csv") for name in ("fold", "held"))
        assert set(held.split) == {"val"}
        assert set(held.scene) == set(fold.scene[fold.split == "test"])
    (tmp_path / "d/images/Water7_1.tif").unlink()
    with pytest.raises(UserError, match=r"Water7_1\.tif is missing, which patches\.csv lists"):
        commands.fold(arguments)
    write_tif(tmp_path / "d/images/Water7_1.tif", np.ones((2, 10, 10), np.uint16))
    (tmp_path / "d/masks/Barren0_0.tif").write_bytes(b"II*\0")
    with pytest.raises(UserError, match=r"Barren0_0\.tif cannot be read"):
        commands.fold(arguments)
