"""Cutting labelled images: where each pixel goes, what is refused, and going on."""

import csv
import json
import re

import numpy as np
import pytest
import rasterio
import torch

from data_loader import PatchDataset
from fcd.cli import commands
from fcd.errors import UserError
from fcd.patches import labelled
from fcd.patches.labelled import Image, split_images
from fcd.patches.sources import RasterPatches
from tests.conftest import moved, write_tif


@pytest.fixture
def images(tmp_path):
    """Eight images of 20×28 pixels whose values say which pixel it is; two have masks."""
    pixels = {}
    for number in range(8):
        image = np.stack([np.arange(20 * 28).reshape(20, 28) + 1, np.full((20, 28), number)])
        image = image.astype(np.uint16)
        image[:, :16, :8] = 60_000 * (number == 0) + image[:, :16, :8] * (number > 0)
        pixels[f"i{number}"] = image
        write_tif(tmp_path / f"images/i{number}.tif", image, 60_000)
        if number in (1, 5):
            mask = np.full((1, 20, 28), 128, np.uint8)
            mask[:, :8, 8:16] = 255
            write_tif(tmp_path / f"images/i{number}_mask.tif", mask)
    write_labels(tmp_path, [(f"images/i{n}.tif", ["clear", "cloudy"][n % 2]) for n in range(8)])
    return pixels


def write_labels(root, rows, header=("path", "label")):
    with open(root / "labels.csv", "w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])


def run(root, *flags):
    commands.cut(["--csv", str(root / "labels.csv"), "--output_dir", str(root / "p"), *flags])


def test_every_patch_is_where_its_name_says(tmp_path, images, capsys):
    run(tmp_path, "--patch_size", "8", "--val_share", "0.25")
    paths = sorted((tmp_path / "p").glob("*/*/*.tif"))
    found = [path for path in paths if not path.name.endswith("_mask.tif")]
    assert len(found) == 8 * 6 - 2  # two patches of i0 are all nodata
    for path in found:
        stem, row, column = path.stem.rsplit("_", 2)
        row, column = int(row), int(column)
        assert path.parent.name == ["clear", "cloudy"][int(stem[1]) % 2]
        with rasterio.open(path) as dataset:
            expected = images[stem][:, row : row + 8, column : column + 8]
            assert (dataset.read() == expected).all()
            assert dataset.nodata == 60_000
            assert dataset.xy(0, 0) == (452_475 + 10 * column + 5, 3e6 - 10 * row - 5)
    masks = [path.name for path in paths if path.name.endswith("_mask.tif")]
    assert len(masks) == 12
    with rasterio.open(next((tmp_path / "p").rglob("i5_00000_00008_mask.tif"))) as dataset:
        assert (dataset.read(1) == 255).all()
    by_split = {
        kind: {p.stem[:2] for p in found if p.parts[-3] == kind} for kind in ("train", "val")
    }
    assert not by_split["train"] & by_split["val"]
    assert len(by_split["val"]) == 2
    out = capsys.readouterr().out
    assert re.search(r"train: \d+ clear, 18 cloudy patches\nval: \d clear, 6 cloudy patches", out)
    assert RasterPatches(tmp_path / "p").find("train", "cloudy")


def test_overlapping_patches(tmp_path, images):
    run(tmp_path, "--patch_size", "16", "--stride", "4")
    names = {path.stem for path in (tmp_path / "p").rglob("i2_*.tif")}
    places = [(row, column) for row in (0, 4) for column in (0, 4, 8, 12)]
    assert names == {f"i2_{row:05d}_{column:05d}" for row, column in places}


def test_it_goes_on_where_it_was_stopped(tmp_path, images, monkeypatch, capsys):
    whole, done = labelled.cut_image, []

    def stopped(image, *rest):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(image)
        return whole(image, *rest)

    monkeypatch.setattr(labelled, "cut_image", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "--patch_size", "8")
    monkeypatch.setattr(labelled, "cut_image", whole)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "p").rglob("*.tif")}
    run(tmp_path, "--patch_size", "8")
    assert "3 images are cut already" in capsys.readouterr().out
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "p").rglob("*.tif")}
    assert before.items() <= after.items()
    assert len(after) == 46 + 12
    assert list((tmp_path / "p").rglob(".*")) == []
    for flags in (["--patch_size", "4"], ["--patch_size", "8", "--val_share", "0"]):
        with pytest.raises(UserError, match=r"cut otherwise \(.* then, .* now\); remove it"):
            run(tmp_path, *flags)


def test_images_that_have_changed_or_are_listed_no_more_are_noticed(tmp_path):
    images = np.random.default_rng(0).integers(1, 255, (4, 3, 16, 16), np.uint8)
    rows = [[f"{n}.tif", ("clear", "cloudy")[n % 2]] for n in range(4)]
    for (name, _), pixels in zip(rows, images, strict=True):
        write_tif(tmp_path / name, pixels)
    write_labels(tmp_path, rows)
    run(tmp_path, "--patch_size", "8")
    write_labels(tmp_path, rows[:3])
    told = r"p holds patches of 1 images that \S+ does not list, such as 3; remove it or choose"
    with pytest.raises(UserError, match=told):
        run(tmp_path, "--patch_size", "8")
    write_labels(tmp_path, rows)
    write_tif(tmp_path / "1.tif", images[0])
    told = r"1\.tif that were cut otherwise \(image '\w{12}' then, '\w{12}' now\)"
    with pytest.raises(UserError, match=told):
        run(tmp_path, "--patch_size", "8")
    path = tmp_path / "p/scenes/1.json"  # of before, which did not say
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image": ""}))
    run(tmp_path, "--patch_size", "8")


def test_the_split_is_seeded_and_does_not_depend_on_the_order(tmp_path):
    images = [Image(tmp_path / f"i{n}.tif", ["clear", "cloudy"][n % 2]) for n in range(40)]
    split = split_images(images, 0.2, 0)
    assert split_images(images[::-1], 0.2, 0) == split
    assert split_images(images, 0.2, 1) != split
    for label in ("clear", "cloudy"):
        kinds = [split[image.path] for image in images if image.label == label]
        assert (kinds.count("val"), kinds.count("train")) == (4, 16)
    assert set(split_images(images, 0, 0).values()) == {"train"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("images/i0.tif", "clear"), ("images/i1.tif", "foggy")], "csv line 3: label 'foggy'"),
        ([("images/absent.tif", "clear")], r"line 2: 'images/absent\.tif' is no GeoTIFF file"),
        ([("labels.csv", "clear")], r"line 2: 'labels\.csv' is no GeoTIFF file"),
        ([("images/i1_mask.tif", "clear")], "line 2: .* is a mask by its name"),
        ([("images/i0.tif", "clear")] * 2, "line 3: an image of the name i0 is there before"),
        ([("images/i0.tif",)], "line 2: label None"),
        ([("images/i0.tif", "clear"), ("rgb.tif", "clear")],
         r"line 3: rgb\.tif has 3 bands of uint8, nodata None; that of line 2 has 2 bands"),
        ([("int.tif", "clear")], r"line 2: .*int\.tif holds int32; images hold uint8"),
        ([("bad.tif", "clear")], r"line 2: .*bad\.tif cannot be read"),
        ([], "lists no image"),
        ([("images/i0.tif", "clear")], "1 images are clear: with --val_share 0.2 none is left"),
    ],
)  # fmt: skip
def test_rows_that_cannot_be_used(tmp_path, images, rows, message):
    write_tif(tmp_path / "rgb.tif", np.zeros((3, 8, 8), np.uint8))
    write_tif(tmp_path / "int.tif", np.zeros((2, 8, 8), np.int32))
    (tmp_path / "bad.tif").write_bytes(b"II*\0")
    write_labels(tmp_path, rows)
    with pytest.raises(UserError, match=message) as error:
        run(tmp_path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "p").exists()


def test_other_columns_masks_of_another_size_and_images_too_small(tmp_path, images):
    with pytest.raises(UserError, match=r"has a patch of 128 pixels; give a smaller --patch_size"):
        run(tmp_path)
    write_tif(tmp_path / "images/i1_mask.tif", np.zeros((1, 4, 4), np.uint8))
    with pytest.raises(UserError, match=r"i1_mask\.tif is 4x4 pixels .*, its image 28x20"):
        labelled.cut_image(
            Image(tmp_path / "images/i1.tif", "clear", tmp_path / "images/i1_mask.tif"),
            labelled.Record(8, 8, 0.0, 0.0, "clear", "train"),
            tmp_path,
        )
    write_labels(tmp_path, [], ("file", "class"))
    with pytest.raises(UserError, match="the first line must name the columns path,label"):
        run(tmp_path)


@pytest.mark.parametrize("how", [{"south_up": True}, {"right": 28}, {"down": 1}])
def test_a_mask_that_lies_elsewhere_is_refused(tmp_path, images, how):
    moved(tmp_path / "images/i1_mask.tif", **how)
    told = (
        r"i1_mask\.tif is 28x20 pixels from .*, its image 28x20 pixels from \(452475, 3000000\) to "
        r"\(452755, 2999800\) in EPSG:32616; a mask has the grid of its image: warp it"
    )
    with pytest.raises(UserError, match=told) as error:
        run(tmp_path, "--patch_size", "8", "--val_share", "0")
    assert "\n" not in str(error.value)
    # Half a pixel is another convention, and nowhere is no other place.
    moved(tmp_path / "images/i5_mask.tif", 0.5, 0.5)
    clear = np.full((1, 20, 28), 128, np.uint8)
    write_tif(tmp_path / "images/i1_mask.tif", clear, placed=False)
    run(tmp_path, "--patch_size", "8", "--val_share", "0")


class TestColumns:
    """The columns mask and split, and a label that is left to the mask."""

    @pytest.fixture
    def cloudy_corner(self, tmp_path):
        """An image of 16×16 with named bands; of its four quarters 0, 1, 16 and 64 are cloud."""
        pixels = np.arange(2 * 256, dtype=np.uint16).reshape(2, 16, 16) + 1
        mask = np.full((1, 16, 16), 128, np.uint8)
        mask[0, 0, 8] = 192
        mask[0, 8:10, :8] = 255
        mask[0, 8:, 8:] = 255
        for name in ("a", "b"):
            write_tif(tmp_path / f"images/{name}.tif", pixels)
            write_tif(tmp_path / f"masks/{name}.tif", mask)
            with rasterio.open(tmp_path / f"images/{name}.tif", "r+") as dataset:
                dataset.descriptions = ("B2", "B10")
        rows = [
            ("images/a.tif", "masks/a.tif", "", "train"),
            ("images/b.tif", "masks/b.tif", "", "test"),
        ]
        write_labels(tmp_path, rows, ("path", "mask", "label", "split"))
        return pixels, mask

    def test_patches_are_labelled_by_their_share_of_cloud(self, tmp_path, cloudy_corner, capsys):
        pixels, mask = cloudy_corner
        run(tmp_path, "--patch_size", "8", "--clear_below", "0.0156", "--cloudy_above", "0.25")
        found = {p.relative_to(tmp_path / "p").as_posix() for p in (tmp_path / "p").rglob("*.tif")}
        assert found == {  # 1/64 is above 0.0156 and 16/64 not above 0.25
            f"{place}{end}"
            for place in (
                "train/clear/a_00000_00000",
                "train/cloudy/a_00008_00008",
                "test/cloudy/b",
            )
            for end in (".tif", "_mask.tif")
        }
        with rasterio.open(tmp_path / "p/train/cloudy/a_00008_00008.tif") as dataset:
            assert dataset.descriptions == ("B2", "B10")
            assert (dataset.read() == pixels[:, 8:, 8:]).all()
        with rasterio.open(tmp_path / "p/test/cloudy/b.tif") as dataset:
            assert dataset.descriptions == ("B2", "B10")
            assert (dataset.read() == pixels).all()
        with rasterio.open(tmp_path / "p/test/cloudy/b_mask.tif") as dataset:
            assert (dataset.read() == mask).all()
        said = "train: 1 clear, 1 cloudy patches\ntest: 0 clear, 1 cloudy images\n"
        assert capsys.readouterr().out == said
        run(tmp_path, "--patch_size", "8", "--clear_below", "0.0156", "--cloudy_above", "0.25")
        assert capsys.readouterr().out == f"2 images are cut already\n{said}"
        with pytest.raises(UserError, match="cut otherwise"):
            run(tmp_path, "--patch_size", "8")

    @pytest.mark.parametrize("change", ["mask", "content", "sun", "record"])
    def test_patches_of_another_mask_or_sun_are_noticed(self, tmp_path, cloudy_corner, change):
        _, mask = cloudy_corner
        header, row = ("path", "label", "mask", "sun_elevation"), ["images/a.tif", ""]
        flags = ["--patch_size", "8", "--val_share", "0"]
        write_labels(tmp_path, [[*row, "masks/a.tif", "45"]], header)
        run(tmp_path, *flags)
        # The same mask elsewhere is no other.
        write_tif(tmp_path / "masks/same.tif", mask)
        write_labels(tmp_path, [[*row, "masks/same.tif", "45"]], header)
        run(tmp_path, *flags)
        write_tif(tmp_path / "masks/b.tif", np.where(mask == 128, 255, 128).astype(np.uint8))
        now = {"mask": ("masks/b.tif", "45"), "sun": ("masks/a.tif", "30")}
        if change == "content":
            (tmp_path / "masks/b.tif").replace(tmp_path / "masks/a.tif")
        elif change == "record":  # of before, which did not say
            path = tmp_path / "p/scenes/a.json"
            old = json.loads(path.read_text())
            path.write_text(json.dumps({key: old[key] for key in old if key != "mask"}))
        write_labels(tmp_path, [[*row, *now.get(change, ("masks/a.tif", "45"))]], header)
        told = r"mask '\w{12}' then, '\w{12}' now"
        told = {"sun": "sun_elevation '45' then, '30' now", "record": "mask '' then"}.get(
            change, told
        )
        with pytest.raises(UserError, match=rf"a\.tif that were cut otherwise \({told}"):
            run(tmp_path, *flags)

    def test_without_a_split_unlabelled_images_are_drawn_too(self, tmp_path):
        images = [Image(tmp_path / f"i{n}.tif", "") for n in range(10)]
        assert sorted(split_images(images, 0.2, 0).values()) == 8 * ["train"] + 2 * ["val"]
        with pytest.raises(UserError, match=r"1 images are without a label: with --val_share 0\.2"):
            split_images(images[:1], 0.2, 0)

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            (("images/a.tif", "no.tif", "", "train"), r"line 2: mask 'no\.tif' is no file"),
            (("images/a.tif", "", "", "train"), "line 2: neither a label nor a mask"),
            (("images/a.tif", "masks/a.tif", "", "tset"), "line 2: split 'tset' is none of train"),
        ],
    )
    def test_rows_that_cannot_be_used(self, tmp_path, cloudy_corner, row, message):
        write_labels(tmp_path, [row], ("path", "mask", "label", "split"))
        with pytest.raises(UserError, match=message):
            run(tmp_path)
        assert not (tmp_path / "p").exists()


def test_patches_keep_the_names_of_the_bands(tmp_path, images):
    for number in range(8):
        with rasterio.open(tmp_path / f"images/i{number}.tif", "r+") as dataset:
            dataset.descriptions = (f"SCENE{number}_b5", "elevation")
    run(tmp_path, "--patch_size", "8")
    with rasterio.open(next((tmp_path / "p").rglob("i2_*.tif"))) as dataset:
        assert dataset.descriptions == ("SCENE2_b5", "elevation")
    dataset = PatchDataset(RasterPatches(tmp_path / "p"), "train")
    assert dataset.kind.bands == ("B5", "elevation")
    (scene, *_) = RasterPatches(tmp_path / "p").scenes("train", "", masked=False)
    turned = scene.taking(("elevation", "B5"))
    with scene.open() as a, turned.open() as b:
        assert (a.bands() == b.bands()[::-1]).all()
    with rasterio.open(tmp_path / "images/i7.tif", "r+") as dataset:
        dataset.descriptions = ("B5", "slope")
    told = r"i7\.tif has 2 bands .B5, slope. of uint16.* that of line 2 has 2 bands .B5, elevation."
    with pytest.raises(UserError, match=told):
        labelled.read_labels(tmp_path / "labels.csv")


def test_masks_of_other_codes_and_hidden_pixels(tmp_path, capsys):
    rng = np.random.default_rng(0)
    hidden = np.zeros((16, 16), bool)
    hidden[:, :5] = True
    for number in range(4):
        image = rng.integers(0, 255, (4, 16, 16)).astype(np.uint8)
        image[3] = np.where(hidden, 0, 255)  # alpha, by the default of GDAL
        write_tif(tmp_path / f"images/i{number}.tif", image)
        mask = np.zeros((1, 16, 16), np.uint8)
        mask[:, :4] = 255 * (number % 2)
        write_tif(tmp_path / f"images/i{number}_mask.tif", mask)
    write_labels(tmp_path, [(f"images/i{n}.tif", "") for n in range(4)])
    with pytest.raises(UserError, match=r"the images of .*labels\.csv: no pixel of their masks"):
        run(tmp_path, "--patch_size", "8")
    run(tmp_path, "--patch_size", "8", "--mask_codes", "0=clear,255=cloud", "--val_share", "0")
    assert "train: 12 clear, 4 cloudy patches" in capsys.readouterr().out
    # What is written has the usual codes, three bands and a mask of its own.
    dataset = PatchDataset(RasterPatches(tmp_path / "p"), "train", "mask.tif")
    assert dataset.kind.bands == ("1", "2", "3")
    for sample in dataset:
        row, column = map(int, sample["name"].removesuffix(".tif").split("_")[1:])
        gone = hidden[row : row + 8, column : column + 8]
        assert (torch.isnan(sample["image"].float()).numpy() == gone).all()
        assert ((sample["mask"] == 0).numpy() == gone).all()
        assert ((sample["mask"] == 2).any() == (sample["label"] == 1)).all()
