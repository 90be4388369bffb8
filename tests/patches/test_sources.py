"""Patches of own imagery: what is read, by value, and what is refused, in one line."""

import numpy as np
import pytest
import rasterio
import torch
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.transform import Affine

from data_loader import (
    PatchDataset,
    get_loader,
    threshold_choice,
    training_normalization,
    validation_set,
)
from fcd.cli.settings import nodata_from
from fcd.errors import SceneError, UserError
from fcd.landsat import labels
from fcd.landsat.bands import BANDS
from fcd.landsat.rasters import Grid, write_raster
from fcd.patches.normalisation import FILL, VALID_MIN, Kind, Normalization, value_ranges
from fcd.patches.sources import PreparedPatches, RasterPatches
from tests.conftest import moved, write_tif

SIDE = 8


def draw(dtype, seed, bands=3):
    rng = np.random.default_rng(seed)
    if dtype == "float32":
        return rng.normal(0.3, 0.1, (bands, SIDE, SIDE)).astype(np.float32)
    return rng.integers(0, np.iinfo(dtype).max + 1, (bands, SIDE, SIDE)).astype(dtype)


def write_set(root, dtype="uint8", splits=("train", "val"), count=3, nodata=None, masks=False):
    """`count` patches a label and split; return their images by (split, label, number)."""
    images = {}
    for split in splits:
        for label in ("clear", "cloudy"):
            for number in range(count):
                image = draw(dtype, len(images))
                folder = root / split / label
                write_tif(folder / f"p{number}.tif", image, nodata)
                images[split, label, number] = image
                if masks:
                    mask = np.full((1, SIDE, SIDE), 128, np.uint8)
                    mask[:, :2] = 255 if label == "cloudy" else 0
                    write_tif(folder / f"p{number}_mask.tif", mask)
    return images


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_batches_hold_what_the_files_hold(tmp_path, dtype):
    images = write_set(tmp_path, dtype, masks=True)
    dataset = PatchDataset(RasterPatches(tmp_path), "train", "mask.tif")
    batch = next(iter(get_loader(dataset, 6, 0)))
    assert batch["image"].dtype == getattr(torch, dtype)
    assert (batch["image"][4].numpy() == images["train", "cloudy", 1]).all()
    assert batch["label"].flatten().tolist() == [0, 0, 0, 1, 1, 1]
    assert batch["mask"][4].unique(return_counts=True)[1].tolist() == [48, 16]
    assert batch["name"][0] == "p0.tif"
    assert dataset.labelled_pixels() == 3 * 48 + 3 * 64
    kind = dataset.kind
    assert (kind.num_channels, kind.image_size, kind.dtype, kind.nodata) == (3, SIDE, dtype, None)


def test_uint8_is_divided_by_255(tmp_path):
    write_set(tmp_path)
    normalization = training_normalization("paper", PatchDataset(RasterPatches(tmp_path), "train"))
    assert (normalization.low, normalization.high) == ((0.0,) * 3, (255.0,) * 3)
    dn = torch.tensor([0, 51, 255, 128], dtype=torch.uint8).view(1, 1, 2, 2).expand(1, 3, 2, 2)
    x = normalization.normalize(dn)[0, 0].flatten().tolist()
    # Without a nodata value black is a valid pixel, which -1 exactly is not.
    assert x == pytest.approx([VALID_MIN, -0.6, 1, 128 / 255 * 2 - 1], abs=1e-6)
    assert x[0] > -1


def test_uint16_is_divided_by_65535_and_its_nodata_comes_from_the_file(tmp_path):
    write_set(tmp_path, "uint16", nodata=7)
    normalization = training_normalization("paper", PatchDataset(RasterPatches(tmp_path), "train"))
    assert normalization.high == (65535.0,) * 3
    x = normalization.normalize(torch.tensor([[[[7.0, 13107.0]]]]).expand(1, 3, 1, 2))
    assert x[0, 0, 0].tolist() == pytest.approx([-1, -0.6])
    assert x[0, 0, 0, 0] == -1


def test_float_range_is_measured_without_nodata_and_nan(tmp_path):
    images = write_set(tmp_path, "float32", nodata=-9999)
    path = tmp_path / "train/clear/p0.tif"
    spoilt = images["train", "clear", 0].copy()
    spoilt[0, 0, 0], spoilt[1, 0, 1], spoilt[2, 0, 2] = -9999, np.nan, np.inf
    write_tif(path, spoilt, -9999)
    images["train", "clear", 0] = spoilt
    dataset = PatchDataset(RasterPatches(tmp_path), "train")
    train = np.stack([image for (split, *_), image in images.items() if split == "train"])
    known = np.where(np.isfinite(train) & (train != -9999), train, np.nan)
    paper = training_normalization("paper", dataset)
    assert paper.low == pytest.approx(np.nanmin(known, axis=(0, 2, 3)), abs=1e-6)
    assert paper.high == pytest.approx(np.nanmax(known, axis=(0, 2, 3)), abs=1e-6)
    stretch = training_normalization("stretch", dataset)
    for low, high, band in zip(stretch.low, stretch.high, known.swapaxes(0, 1), strict=True):
        values = np.sort(band[np.isfinite(band)])  # 0.1 % of 384 values: the first, the last
        assert low == pytest.approx(values[0], abs=1e-4)
        assert high == pytest.approx(values[-1], abs=1e-4)
    x = paper.normalize(torch.from_numpy(spoilt)[None])[0]
    assert (x == -1).sum() == 3  # -9999, NaN and infinity
    assert x[0, 0, 0] == x[1, 0, 1] == x[2, 0, 2] == -1
    assert torch.isfinite(x).all()
    again = Normalization.from_state(paper.state())
    assert (again, again.dtype) == (paper, "float32")


def test_uint8_stretch_by_numpy(tmp_path):
    images = write_set(tmp_path, "uint8", nodata=0, count=8)
    stretch = training_normalization("stretch", PatchDataset(RasterPatches(tmp_path), "train"))
    train = np.stack([image for (split, *_), image in images.items() if split == "train"])
    for band, (low, high) in enumerate(zip(stretch.low, stretch.high, strict=True)):
        values = train[:, band][train[:, band] > 0]
        assert low == np.quantile(values, 0.001, method="inverted_cdf")
        assert high == np.quantile(values, 0.999, method="inverted_cdf")


def test_the_least_float32_is_nodata_as_gdal_writes_it(tmp_path):
    least = np.finfo(np.float32).min
    for label in ("clear", "cloudy"):
        image = draw("float32", 2)
        image[:, 1, 2] = least
        write_tif(tmp_path / f"train/{label}/p.tif", image, float(least))
    dataset = PatchDataset(RasterPatches(tmp_path), "train")
    assert dataset.kind.nodata == nodata_from("-3.4028235e38") == least
    normalization = training_normalization("paper", dataset)
    assert Normalization.from_state(normalization.state()) == normalization
    fill = normalization.normalize(dataset[0]["image"][None]) == FILL
    assert fill.nonzero().tolist() == [[0, band, 1, 2] for band in range(3)]


def test_infinity_as_nodata_is_none_of_a_file(tmp_path):
    write_set(tmp_path, "float32", nodata=float("inf"))
    assert PatchDataset(RasterPatches(tmp_path), "train").kind.nodata is None


def test_nodata_of_the_image_is_invalid_in_the_mask(tmp_path):
    write_set(tmp_path, "float32", masks=True, nodata=-1)
    image = draw("float32", 0)
    image[0, 5, 5], image[2, 6, 6] = -1, np.nan
    write_tif(tmp_path / "train/cloudy/p0.tif", image, -1)
    mask = PatchDataset(RasterPatches(tmp_path), "train", "mask.tif")[3]["mask"]
    assert (mask[5, 5], mask[6, 6], mask[5, 6]) == (labels.INVALID, labels.INVALID, labels.CLEAR)
    assert (mask == labels.INVALID).sum() == 2
    ignoring = PatchDataset(RasterPatches(tmp_path, ()), "train", "mask.tif")[3]["mask"]
    assert (ignoring == labels.INVALID).sum() == 1  # NaN stays nodata
    other = RasterPatches(tmp_path, (3,))
    assert PatchDataset(other, "train").kind.nodata == 3
    both = PatchDataset(RasterPatches(tmp_path, (3, -1)), "train", "mask.tif")
    assert both.kind.nodata == (3, -1)
    assert (both[3]["mask"] == labels.INVALID).sum() == 2


def use(root, **other):
    dataset = PatchDataset(RasterPatches(root), "train", **other)
    return dataset.kind, list(dataset)


def refuse(message, root, **other):
    with pytest.raises(UserError, match=message) as error:
        use(root, **other)
    assert "\n" not in str(error.value)


def test_patches_that_differ_are_named(tmp_path):
    cases = [
        (np.zeros((2, SIDE, SIDE), np.uint8), None, r"p9\.tif has 2 bands of uint8"),
        (np.zeros((3, SIDE, SIDE), np.uint16), None, r"p9\.tif has 3 bands of uint16"),
        (np.zeros((3, 9, 9), np.uint8), None, r"p9\.tif has .* 9x9 pixels"),
        (np.zeros((3, SIDE, SIDE), np.uint8), 0, r"p9\.tif has .* nodata 0, p0\.tif .* no nodata"),
        (np.zeros((3, SIDE, 9), np.uint8), None, r"p9\.tif is 9x8 pixels; patches are square"),
        (np.zeros((3, SIDE, SIDE), np.int16), None, r"p9\.tif holds int16; patches hold uint8"),
    ]
    write_set(tmp_path)
    path = tmp_path / "train/cloudy/p9.tif"
    for pixels, nodata, message in cases:
        write_tif(path, pixels, nodata)
        refuse(message, tmp_path)
    path.write_bytes(b"II*\0 no tif")
    refuse(r"p9\.tif cannot be read", tmp_path)


def test_damaged_patches_can_be_left_out(tmp_path):
    write_set(tmp_path)
    path = tmp_path / "train/cloudy/p1.tif"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=r"p1\.tif cannot be read .* --skip_bad True"):
        use(tmp_path)
    dataset = PatchDataset(RasterPatches(tmp_path), "train", skip_bad=True)
    assert (len(dataset), dataset.left_out) == (5, ["p1.tif"])
    assert dataset.kind.image_size == SIDE


def test_masks_that_do_not_fit_are_named(tmp_path):
    write_set(tmp_path, masks=True)
    path = tmp_path / "train/clear/p1_mask.tif"
    for pixels, message in [
        (np.full((1, SIDE, SIDE), 3, np.uint8), r"p1_mask\.tif: code 3 is none of \[0, 64, 128"),
        (np.full((1, SIDE, SIDE), 128, np.uint16), r"p1_mask\.tif holds uint16, masks hold uint8"),
        (np.full((1, 4, 4), 128, np.uint8), r"p1_mask\.tif is 4x4 pixels from .*, its image 8x8"),
        (np.full((2, SIDE, SIDE), 128, np.uint8), r"p1_mask\.tif has 2 bands; a mask has one"),
    ]:
        write_tif(path, pixels)
        refuse(message, tmp_path, mask_file="mask.tif")
    write_tif(path, np.full((1, SIDE, SIDE), 128, np.uint8))
    moved(path, right=SIDE)
    refuse(
        r"p1_mask\.tif is 8x8 pixels from \(452555, .*, its image 8x8",
        tmp_path,
        mask_file="mask.tif",
    )
    with pytest.raises(SceneError, match=r"p1_mask\.tif lies on another grid than band 1 of p1"):
        RasterPatches(tmp_path).scenes("train", "", masked=False)[1].check(need_truth=True)
    path.unlink()
    refuse(r"p1\.tif has no mask\.tif \(1 of 6 patches", tmp_path, mask_file="mask.tif")
    refuse(r"the name must end in mask\.tif", tmp_path, mask_file="labels.tif")
    mask = np.zeros((1, SIDE, SIDE), np.uint8)
    write_tif(tmp_path / "train/clear/p1_of_mine_mask.tif", mask)
    use(tmp_path)  # any name that begins with a patch's
    for name, message in [
        ("other_mask.tif", r"other_mask\.tif is a mask by its name, but there is no patch"),
        ("p10_mask.tif", r"p10_mask\.tif is a mask by its name, but there is no patch"),
        ("p1_mask.tiff", r"p1_mask\.tiff is a mask by its name; masks end in _mask\.tif: rename"),
        ("p1_mask.TIF", r"p1_mask\.TIF is a mask by its name; masks end in _mask\.tif: rename"),
    ]:
        path = tmp_path / "train/clear" / name
        write_tif(path, mask)
        refuse(message, tmp_path)
        path.unlink()


def test_folders_without_patches_and_names_there_twice(tmp_path):
    refuse(r"clear holds no patches; folders with \.tif or \.tiff files", tmp_path)
    write_set(tmp_path)
    write_tif(tmp_path / "train/clear/p0.tiff", draw("uint8", 0))
    refuse(r"p0\.tiff and p0\.tif have one name", tmp_path)


def test_the_line_says_what_is_there_instead(tmp_path):
    (tmp_path / "training").mkdir()
    (tmp_path / "training.csv").touch()
    refuse(rf"{tmp_path} holds training/, \.csv", tmp_path)
    (tmp_path / "train" / "Clear").mkdir(parents=True)
    refuse(r"train holds Clear/", tmp_path)
    (tmp_path / "train" / "clear").mkdir()
    refuse(r"clear holds nothing", tmp_path)
    for number in range(3):
        (tmp_path / "train" / "clear" / f"{number}.PNG").touch()
    refuse(r"train,val./.clear,cloudy.; .*clear holds 3 \.png", tmp_path)


def test_hidden_files_are_no_patches(tmp_path):
    for folder in ("train/clear/a", "train/cloudy/b"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / ".." / ".DS_Store").touch()
    source = PreparedPatches(tmp_path)
    assert [path.name for path in source.find("train", "clear")] == ["a"]
    assert PatchDataset(source, "train").labels.tolist() == [0, 1]


def test_the_size_of_pixels_is_that_of_the_patches_if_they_agree(tmp_path):
    write_set(tmp_path)
    dataset = PatchDataset(RasterPatches(tmp_path), "train")
    assert dataset.kind.pixel_size == 10
    normalization = training_normalization("paper", dataset)
    assert normalization.pixel_size == 10
    assert Normalization.from_state(normalization.state()).pixel_size == 10
    tuned = Normalization.paper(3, "uint8", None).for_training(normalization, "x.pt", None)
    assert tuned.pixel_size == 10
    place = Grid(SIDE, SIDE, CRS.from_epsg(32616), Affine(30, 0, 452_475, 0, -30, 3_408_645))
    write_raster(tmp_path / "train/clear/p0.tif", draw("uint8", 0), place, None)
    assert PatchDataset(RasterPatches(tmp_path), "train").kind.pixel_size is None


def test_without_masks_choices_are_made_without_and_this_is_said(tmp_path, capsys):
    write_set(tmp_path, masks=True)
    source = RasterPatches(tmp_path)
    train_set = PatchDataset(source, "train")
    assert validation_set(train_set, "pixel")[1] == "pixel"
    assert threshold_choice(source) == "f1"
    assert capsys.readouterr().out == ""
    (tmp_path / "val/clear/p0_mask.tif").unlink()
    (tmp_path / "train/cloudy/p0_mask.tif").unlink()
    dataset, select = validation_set(train_set, "pixel")
    assert (dataset.mask_file, select) == (None, "image")
    assert "1 of the 6 val patches" in capsys.readouterr().out
    assert threshold_choice(source) == "clear"
    assert "1 of the 3 cloudy training patches" in capsys.readouterr().out
    write_set(tmp_path, "uint16", splits=["val"])
    with pytest.raises(UserError, match=r"the val patches have 3 bands of uint16, .* of uint8"):
        validation_set(train_set, "pixel")


def test_folders_are_listed_once_to_see_whether_there_are_masks(tmp_path, monkeypatch):
    write_set(tmp_path, masks=True)
    listed, find = [], RasterPatches.find
    monkeypatch.setattr(RasterPatches, "find", lambda *args: listed.append(args[1:]) or find(*args))
    train_set = PatchDataset(RasterPatches(tmp_path), "train")
    assert validation_set(train_set, "pixel")[0].mask_file == "mask.tif"
    assert listed == [(split, label) for split in ("train", "val") for label in ("clear", "cloudy")]


def test_a_band_of_one_value_or_all_nodata_has_no_range(tmp_path):
    for path, image in [("train/clear/p0.tif", 0.5), ("train/cloudy/p0.tif", np.nan)]:
        pixels = draw("float32", 1)
        pixels[1] = image
        write_tif(tmp_path / path, pixels)
    dataset = PatchDataset(RasterPatches(tmp_path), "train")
    for kind in ("paper", "stretch"):
        with pytest.raises(UserError, match="band 2 of the training patches holds one value only"):
            training_normalization(kind, dataset)


class TestNodataOfARaster:
    """Training patches say what nodata is; a file that says otherwise is not read silently."""

    def test_the_type_must_be_that_of_training(self):
        with pytest.raises(SceneError, match=r"x\.tif holds uint16, the network was .* on uint8"):
            Normalization.paper(3, "uint8", None).of("uint16", [None] * 3, "x.tif")

    def test_what_a_file_marks_counts_where_training_had_none(self):
        plain = Normalization.paper(3, "uint8", None)
        assert plain.of("uint8", [255] * 3, "x.tif").nodata == 255
        assert plain.of("uint8", [None] * 3, "x.tif") == plain

    def test_another_value_is_refused_and_the_advice_works(self):
        black = Normalization.paper(3, "uint8", 0)
        assert black.of("uint8", [None] * 3, "x") == black.of("uint8", [0] * 3, "x") == black
        with pytest.raises(
            SceneError, match=r"x marks 255 as nodata, .* have 0; .*such as --nodata 0 255$"
        ):
            black.of("uint8", [255] * 3, "x")
        both = black.of("uint8", [255] * 3, "x", (0, 255))
        dn = np.array([0, 7, 255, 9], np.uint8).reshape(1, 1, 4).repeat(3, 0)
        assert both.is_valid(dn).tolist() == [[False, True, False, True]]
        assert (both.normalize(torch.from_numpy(dn)[None])[0, 0, 0] == FILL).tolist() == [
            True, False, True, False,
        ]  # fmt: skip
        assert Normalization.from_state(both.state()) == both

    def test_dn_0_of_landsat_always_counts(self):
        for trained in (Normalization.paper(10), Normalization.paper(10, nodata=None)):
            assert trained.of("uint16", [None] * 10, "x").nodata == 0
            assert trained.of("uint16", [65535] * 10, "x", ()).nodata == 0
            assert trained.of("uint16", [0] * 10, "x", (65535,)).nodata == (0, 65535)

    def test_what_single_bands_mark_is_not_that_of_all(self):
        black = Normalization.paper(3, "uint8", 0)
        assert black.of("uint8", (0, None, 255), "x") == black
        with pytest.raises(SceneError, match=r"x marks 7 as nodata, .* have 0; say by --nodata"):
            black.of("uint8", (7, None, None), "x")


def test_is_nodata_of_arrays_and_tensors():
    floats = np.array([np.nan, -9999, 0], np.float32)
    measured = Normalization("paper", (0.0,), (1.0,), -9999, "float32")
    assert measured.is_nodata(floats).tolist() == [True, True, False]
    assert measured.is_nodata(torch.from_numpy(floats)).tolist() == [True, True, False]
    plain = Normalization.paper(1, "uint8", None)
    assert plain.is_nodata(np.zeros(2, np.uint8), integers=True).tolist() == [False, False]
    assert plain.is_valid(np.zeros((3, 2, 1), np.uint8)).tolist() == [[True], [True]]


def test_generated_masks_are_clear_where_the_label_is(tmp_path):
    images = write_set(tmp_path, count=1)
    nodata = int(images["train", "clear", 0][0, 0, 0])
    source = RasterPatches(tmp_path, (nodata,))
    scenes = source.scenes("train", "", masked=False)
    assert [scene.key for scene in scenes] == ["clear_p0", "cloudy_p0"]
    masks = tmp_path / "tifs"
    mask = np.array([[0, 128], [255, 255]], np.uint8).repeat(4, 0).repeat(4, 1)
    for scene in scenes:
        grid = Grid(SIDE, SIDE, None, Affine.identity())
        write_raster(masks / f"{scene.key}_mask.tif", mask[None], grid, 0)
    (masks / "supervision.json").write_text('{"image_labels": 2}')
    source.add_generated_masks(masks, scenes, "generated_mask.tif")
    dataset = PatchDataset(source, "train", "generated_mask.tif")
    valid = [(images["train", name, 0] != nodata).all(axis=0) for name in ("clear", "cloudy")]
    assert not valid[0].all()
    # What was left open is clear there, too.
    assert (dataset[0]["mask"].numpy() == valid[0]).all()
    cloudy = np.select([mask == 128, mask == 255], [1, 2])
    assert (dataset[1]["mask"].numpy() == np.where(valid[1], cloudy, 0)).all()
    assert '"image_labels": 2' in (tmp_path / "generated_mask.json").read_text()


@pytest.mark.parametrize(
    ("dtype", "normalize"), [("uint8", "stretch"), ("uint16", "paper"), ("float32", "paper")]
)
def test_what_a_file_hides_is_nodata_and_an_alpha_band_is_not_learned(tmp_path, dtype, normalize):
    images = write_set(tmp_path, dtype, masks=True)
    hidden = np.zeros((SIDE, SIDE), bool)
    hidden[4:, 3:] = True
    opaque = {"uint8": 255, "uint16": 65535, "float32": 1}[dtype]
    image = images["train", "cloudy", 1]
    path = tmp_path / "train/cloudy/p1.tif"
    write_raster(path, image, Grid(SIDE, SIDE, None, Affine.identity()), None, hidden=hidden)
    path = tmp_path / "train/cloudy/p2.tif"
    alpha = np.where(hidden, 0, opaque).astype(dtype)
    write_tif(path, np.concatenate([images["train", "cloudy", 2], alpha[None]]))
    with rasterio.open(path, "r+") as dataset:
        dataset.colorinterp = [*dataset.colorinterp[:3], ColorInterp.alpha]
    dataset = PatchDataset(RasterPatches(tmp_path), "train", "mask.tif")
    assert (dataset.num_channels, dataset.kind.dtype, dataset.kind.nodata) == (3, dtype, None)
    normalization = training_normalization(normalize, dataset)
    batch = next(iter(get_loader(dataset, 6, 0)))
    fill = (normalization.normalize(batch["image"]) == FILL).numpy()
    expected = np.zeros_like(fill)
    expected[4:] = hidden
    assert (fill == expected).all()
    assert ((batch["mask"] == labels.INVALID).numpy()[4:] == hidden).all()
    there = np.where(expected[4], np.nan, image)
    assert np.array_equal(batch["image"][4].numpy(), there, equal_nan=True)
    plain = [images["train", label, n] for label in ("clear", "cloudy") for n in range(3)]
    known = np.where(expected, np.nan, np.stack(plain).astype(np.float64))
    if normalize == "paper" and dtype == "float32":
        assert normalization.low == pytest.approx(np.nanmin(known, axis=(0, 2, 3)), abs=1e-6)
    if normalize == "stretch":
        for band, low in enumerate(normalization.low):
            assert low == np.nanquantile(known[:, band], 0.001, method="inverted_cdf")


def test_an_alpha_band_is_said(tmp_path, capsys):
    for label in ("clear", "cloudy"):
        write_tif(tmp_path / f"train/{label}/p.tif", draw("uint8", 1, 4))
    assert PatchDataset(RasterPatches(tmp_path), "train").num_channels == 3
    out = capsys.readouterr().out
    assert "band 4 of patches such as" in out
    assert "gdal_edit.py -colorinterp_4 undefined" in out


def test_ten_bands_without_names_are_said_to_be_taken_for_those_of_landsat(tmp_path, capsys):
    for count, dtype, said in ((10, "uint16", True), (9, "uint16", False), (10, "uint8", False)):
        for label in ("clear", "cloudy"):
            write_tif(tmp_path / f"train/{label}/p.tif", draw(dtype, 1, count))
        kind = PatchDataset(RasterPatches(tmp_path), "train").kind
        assert (kind.bands == BANDS and kind.nodata == 0) == said
        told = "have no names: they are taken for B1, B2, B3, B4, B5, B6, B7, B9, B10, B11, in this"
        assert (told in capsys.readouterr().out) == said


def test_dn_0_of_landsat_and_what_files_mark_are_both_nodata(tmp_path):
    for number, label in enumerate(("clear", "cloudy")):
        dn = np.full((2, SIDE, SIDE), 9000, np.uint16)
        dn[0, 0], dn[1, 1] = 0, 65535
        path = tmp_path / f"train/{label}/p.tif"
        write_raster(path, dn, Grid(SIDE, SIDE, None, Affine.identity()), [None, 65535][number],
                     ("B2", "B10"))  # fmt: skip
    found = [(RasterPatches(tmp_path), [1, 2]), (RasterPatches(tmp_path, (65535,)), [2, 2])]
    for source, rows in found:
        dataset = PatchDataset(source, "train")
        assert dataset.kind.nodata == 0
        normalization = training_normalization("paper", dataset)
        valid = [normalization.is_valid(sample["image"].numpy()) for sample in dataset]
        assert [(~one).sum() // SIDE for one in valid] == rows


@pytest.mark.parametrize("value", [-9999, 1e37, -3.4028235e38])
@pytest.mark.parametrize("normalize", ["paper", "stretch"])
def test_a_value_that_rules_the_range_is_named(tmp_path, value, normalize):
    images = write_set(tmp_path, "float32")
    image = images["train", "cloudy", 1]
    image[1, :2] = value
    write_tif(tmp_path / "train/cloudy/p1.tif", image)
    share = 2 * SIDE / (6 * SIDE * SIDE)
    with pytest.raises(UserError, match="band 2 of the training patches is ") as told:
        training_normalization(normalize, PatchDataset(RasterPatches(tmp_path), "train"))
    message = str(told.value)
    assert f" in {100 * share:.2g} % of its pixels" in message
    asked = message.rpartition("--nodata ")[2].split()
    source = RasterPatches(tmp_path, tuple(map(nodata_from, asked)))
    normalization = training_normalization(normalize, PatchDataset(source, "train"))
    train = np.stack([image for (split, *_), image in images.items() if split == "train"])
    known = np.where(train == np.float32(value), np.nan, train)
    assert normalization.low == pytest.approx(np.nanmin(known, axis=(0, 2, 3)), abs=1e-4)
    assert normalization.high == pytest.approx(np.nanmax(known, axis=(0, 2, 3)), abs=1e-4)


def test_two_values_rule_a_range_and_what_is_spread_does_not():
    data = Kind(("a",), 4, "float32", -1)
    rng = np.random.default_rng(0)
    images = [rng.normal(0, 1, (1, 4, 4)).astype(np.float32) for _ in range(4)]
    assert value_ranges(images, data)[:, 0].tolist() == [np.min(images), np.max(images)]
    images[1][0, 0, 0], images[3][0, 1] = 1e37, -9999
    with pytest.raises(UserError, match=r"in 7\.8 % .* give --nodata -1 -9999 1e\+37$"):
        value_ranges(images, data)
    two = np.array([[[0, 1], [1, 0]]], np.float32)  # a band of two values
    assert value_ranges([two], data)[:, 0].tolist() == [0, 1]


@pytest.mark.parametrize("label", ["clear", "cloudy"])
def test_masks_of_0_and_255_are_told_or_read_as_the_user_says(tmp_path, label):
    write_set(tmp_path)
    for path in [*tmp_path.rglob("p*.tif")]:
        mask = np.zeros((1, SIDE, SIDE), np.uint8)
        mask[:, :2] = 255 * (path.parent.name == "cloudy")
        write_tif(path.with_name(f"{path.stem}_mask.tif"), mask)
    message = r"the train patches of .*: no pixel of their masks is clear; .* 0=clear,255=cloud"
    source = RasterPatches(tmp_path)
    for how in ({}, {"keep_ratio": 0.2}, {"only": label}):
        with pytest.raises(UserError, match=message):
            PatchDataset(source, "train", "mask.tif", **how)
    PatchDataset(source, "train")  # without masks
    with pytest.raises(UserError, match=r"the val patches of .* 0=clear,255=cloud"):
        validation_set(PatchDataset(source, "train"), "pixel")
    with pytest.raises(UserError, match=r"the val patches of .* 0=clear,255=cloud"):
        source.scenes("val", "", masked=True)
    source = RasterPatches(tmp_path, mask_codes="0=clear,255=cloud")
    mask = PatchDataset(source, "train", "mask.tif", only="cloudy")[0]["mask"]
    assert [(mask == code).sum() for code in (0, 1, 2)] == [0, 48, 16]
    scene = source.scenes("val", "", masked=True)[-1]
    with scene.open() as reader:
        assert (reader.truth() == mask.numpy()).all()
