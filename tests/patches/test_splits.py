import random
from collections import Counter
from pathlib import Path

import pytest

from fcd.errors import UserError
from fcd.landsat.scenes import Scene
from fcd.patches import splits


def twelve_per_biome():
    return [
        Scene(f"{biome}{number:02d}", biome, Path(), {})
        for biome in ("Barren", "Forest", "Water")
        for number in range(12)
    ]


def test_split_is_3_1_2_within_each_biome_and_ignores_the_order():
    scenes = twelve_per_biome()
    split = splits.split_scenes(scenes, seed=1337)
    for biome in ("Barren", "Forest", "Water"):
        counts = Counter(split[s.name] for s in scenes if s.biome == biome)
        assert counts == {"train": 6, "val": 2, "test": 4}
    random.Random(0).shuffle(scenes)
    assert splits.split_scenes(scenes, seed=1337) == split
    assert splits.split_scenes(scenes, seed=1) != split


def test_a_single_scene_lands_in_train():
    assert splits.split_scenes(twelve_per_biome()[:1], 1337) == {"Barren00": "train"}


def test_split_by_cloud_share_spreads_clear_and_cloudy_scenes():
    scenes = twelve_per_biome()
    share = {s.name: i % 12 / 11 for i, s in enumerate(scenes)}
    split = splits.split_scenes(scenes, 1337, share)
    for half in ([s for s in scenes if share[s.name] < 0.5], [s for s in scenes if share[s.name] > 0.5]):  # fmt: skip  # noqa: E501
        assert Counter(split[s.name] for s in half) == {"train": 9, "val": 3, "test": 6}


def test_split_file_there_and_back_and_its_errors(tmp_path):
    scenes = twelve_per_biome()
    split = splits.split_scenes(scenes, 1337)
    path = tmp_path / "split.csv"
    splits.write_split(path, scenes, split)
    assert splits.read_split(path) == split
    path.write_text("scene,split\nA,train\nB,trian\n")
    with pytest.raises(UserError, match=r"split\.csv line 3: split 'trian'"):
        splits.read_split(path)
    path.write_text("scene,split\nA,train\nA,val\n")
    with pytest.raises(UserError, match="line 3: scene 'A'"):
        splits.read_split(path)
    path.write_text("a,b\n")
    with pytest.raises(UserError, match="must name the columns"):
        splits.read_split(path)
    for saved in ("scene;split\r\nA;train\r\n".encode("utf-8-sig"), "scene;split".encode("utf-16")):
        path.write_bytes(saved)
        with pytest.raises(UserError, match="columns scene,split; it is 'scene;split'"):
            splits.read_split(path)
    path.write_bytes(b"PK\x03\x04\x14\x00")
    with pytest.raises(
        UserError, match=r"split\.csv cannot be read: it is a workbook \(xlsx or ods"
    ):
        splits.read_split(path)
    for encoding in ("utf-8-sig", "utf-16"):
        path.write_bytes("scene,split\r\nA,train\r\n".encode(encoding))
        assert splits.read_split(path) == {"A": "train"}
