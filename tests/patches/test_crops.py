"""Crops of drawn scenes, read back with rasterio and compared with the scenes' own files."""

import csv

import numpy as np
import pytest
import rasterio

from fcd.cli import commands
from fcd.errors import UserError
from fcd.patches.crops import Crop, read_list
from fcd.synthetic.layout import write_data_set
from tests.conftest import draw, write_scene

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp("crops") / "scenes"
    write_data_set(root, 1, 80, seed=3)
    return root


def crop(scenes, output_dir, *flags):
    commands.crop(["--data_path", str(scenes), "--output_dir", str(output_dir), *flags])
    with open(output_dir / "patches.csv", newline="") as stream:
        return list(csv.DictReader(stream))


def test_crops_hold_the_pixels_of_their_place(scenes, tmp_path):
    rows = crop(scenes, tmp_path, "--crops", "2", "--size", "24", "--bands", "B2,B9-B10")
    assert len(rows) == 16
    assert len({row["scene"] for row in rows}) == len({row["biome"] for row in rows}) == 8
    for row in rows:
        scene, biome = row["scene"], row["biome"]
        assert row["patch"].startswith(f"{scene}_")
        top, left = map(int, row["patch"].split("_")[-2:])
        window = np.s_[top : top + 24, left : left + 24]
        folder = scenes / biome / scene
        with rasterio.open(tmp_path / "images" / f"{row['patch']}.tif") as dataset:
            assert dataset.descriptions == ("B2", "B9", "B10")
            assert (dataset.dtypes[0], dataset.nodata) == ("uint16", None)
            pixels, corner = dataset.read(), dataset.xy(0, 0)
        for band, found in zip(("B2", "B9", "B10"), pixels, strict=True):
            with rasterio.open(folder / f"{scene}_{band}.TIF") as dataset:
                assert (found == dataset.read(1)[window]).all()
                assert corner == dataset.xy(top, left)
        truth = np.fromfile(folder / f"{scene}_fixedmask.img", np.uint8).reshape(80, 80)[window]
        with rasterio.open(tmp_path / "masks" / f"{row['patch']}.tif") as dataset:
            assert (dataset.read(1) == truth).all()
        assert truth.all()  # no fill
        shares = {"thick_255": 255, "thin_192": 192, "clear_128": 128, "shadow_64": 64}
        assert all(row[n] == f"{(truth == code).mean():.4f}" for n, code in shares.items())
        metadata = (folder / f"{scene}_MTL.txt").read_text()
        assert f"SUN_ELEVATION = {row['sun_elevation'][:-1]}" in metadata
    assert read_list(tmp_path / "patches.csv")[0] == Crop(*(rows[0][k] for k in list(rows[0])[:4]))


def test_places_are_seeded_and_apart(scenes, tmp_path):
    first, again, other = (
        [row["patch"] for row in crop(scenes, tmp_path / name, "--crops", "3", "--size", "20", *f)]
        for name, f in (("a", ()), ("b", ()), ("c", ("--seed", "1")))
    )
    assert first == again != other
    for one in range(0, len(first), 3):
        places = [tuple(map(int, name.split("_")[-2:])) for name in first[one : one + 3]]
        for i, (row, column) in enumerate(places):
            assert all(abs(row - r) >= 20 or abs(column - c) >= 20 for r, c in places[:i])


def test_a_scene_without_room_is_named(tmp_path):
    write_scene(tmp_path / "s/Water/S1", "S1", *draw(50, 50, 0))
    with pytest.raises(UserError, match=r"scene S1 in .*: no room for 1 crops of 48 pixels"):
        crop(tmp_path / "s", tmp_path / "out", "--size", "48")
    with pytest.raises(UserError, match="no room for 1 crops of 64 pixels"):
        crop(tmp_path / "s", tmp_path / "out", "--size", "64")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("patch,biome\n", "the first line must name the columns patch,biome,scene"),
        ("patch,biome,scene\n", "lists no crop"),
        ("patch,biome,scene\na,Water,\n", "line 2: patch, biome and scene are needed"),
        ("patch,biome,scene\na,Water,S\na,Water,T\n", "line 3: patch a is there before"),
    ],
)
def test_lists_that_cannot_be_used(tmp_path, text, message):
    (tmp_path / "patches.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_list(tmp_path / "patches.csv")
