"""Patches labelled by the scenes' own QA bands: no manual mask anywhere, and that is said."""

import html
import json
import sys

import numpy as np
import pytest
import rasterio
import tifffile
import torch
from sklearn.metrics import confusion_matrix

import main
import prepare_landsat8_biome
import supervised_main
from fcd.errors import SceneError, UserError
from fcd.landsat.reference import Reference
from fcd.landsat.scenes import find_scenes
from fcd.patches import cutting
from fcd.patches.cutting import cut_scene
from fcd.patches.generated import add_generated_masks, mask_tif
from tests import tiny
from tests.conftest import REAL, write_scene
from tests.landsat.test_qa import write_mtl

PRODUCT = "LC08_L1TP_016037_20170813_20170814_{}_T1"
# Name, and the values of clear, cloud, cirrus and fill (test_cfmask checks them one by one).
CUT = ["--data_path", "scenes", "--output_dir", "p"]
GENERATIONS = {
    "pre-collection": ("LC80160372015216LGN00", 20480, 53248, 28672, 1),
    "Collection 1": (PRODUCT.format("01"), 2720, 2800, 6816, 1),
    "Collection 2": (PRODUCT.format("02"), 21824, 22280, 54596, 1),
}
RIM = 21762  # Collection 2: dilated cloud that is no cloud itself


def write_qa_scene(folder, name, qa, fill=None, seed=0):
    """A scene without manual mask; DN are 0 where `fill` says."""
    dn = np.random.default_rng(seed).integers(1, 65536, (10, *qa.shape)).astype(np.uint16)
    if fill is not None:
        dn[:, fill] = 0
    write_scene(folder, name, dn, np.zeros(qa.shape), qa.astype(np.uint16))
    for path in folder.glob("*_fixedmask.*"):
        path.unlink()
    if "_02_" in name:
        (folder / f"{name}_BQA.TIF").rename(folder / f"{name}_QA_PIXEL.TIF")


@pytest.fixture
def call(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(module, *arguments):
        monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *map(str, arguments)])
        return module.main()

    return run


def folders(record):
    return {kind: {cutting.patch_position(n) for n in record[kind]} for kind in ("clear", "cloudy")}


@pytest.mark.parametrize("generation", GENERATIONS)
def test_labels_of_patches_are_those_of_the_band(tmp_path, call, generation):
    """Eight patches of 10×10 pixels, labels by hand; one reads 0.01 and 0.2 as the help says."""
    name, clear, cloud, cirrus, fill = GENERATIONS[generation]
    qa = np.full((20, 40), clear)
    qa[0, 10] = cloud  # 1 of 100 pixels: still clear
    qa[0, 20:22] = cloud  # 2: doubtful
    qa[:2, 30:40] = cloud  # 20: doubtful
    qa[10:12, :10] = qa[12, 0] = cloud  # 21: cloudy
    qa[10:12, 10:20] = qa[12, 10] = cirrus  # 21: cloudy
    qa[10:20, 20:30] = fill  # nothing to learn from
    qa[10:15, 30:40] = fill
    qa[19, 30:40] = qa[18, 30] = cloud  # 11 of the 50 pixels that are valid: cloudy
    write_qa_scene(tmp_path / "scenes" / "Water" / name, name, qa, qa == fill)

    common = [*CUT, "--labels", "qa", "--patch_size", 10]
    assert call(prepare_landsat8_biome, *common) == 0
    record = json.loads((tmp_path / "p" / "scenes" / f"Water_{name}.json").read_text())
    assert folders(record) == {
        "clear": {(0, 0), (0, 10)},
        "cloudy": {(10, 0), (10, 10), (10, 30)},
    }
    assert record["cutting"]["reference"] == cutting.reference_of("p") == "qa"
    assert record["split"] == "train"
    valid, flagged = np.count_nonzero(qa != fill), np.count_nonzero(np.isin(qa, (cloud, cirrus)))
    assert record["cloud_share"] == round(flagged / valid, 4)
    mask = tifffile.imread(tmp_path / "p/train/cloudy" / f"{name}_00010_00030" / "mask.tif")
    expected = np.ones((10, 10))
    expected[:5] = 0
    expected[9] = expected[8, 0] = 2
    assert mask.tolist() == expected.tolist()


def test_the_rims_of_collection_2_are_not_said_to_be_clear_but_may_be_learned(tmp_path):
    name, clear, cloud, _, _ = GENERATIONS["Collection 2"]
    qa = np.full((10, 20), clear)
    qa[:, :4], qa[:, 4], qa[:, 10] = cloud, RIM, RIM
    write_qa_scene(tmp_path / "s" / name, name, qa)
    (scene,) = find_scenes(tmp_path / "s")
    assert scene.biome == "Unknown"
    record = cut_scene(scene, tmp_path / "p", "train", cutting.Cutting(10, 10, 0.01, 0.2, "qa"))
    assert folders(record) == {"clear": {(0, 10)}, "cloudy": {(0, 0)}}
    cut = {kind: tmp_path / "p" / "train" / kind / record[kind][0] for kind in ("clear", "cloudy")}
    assert tifffile.imread(cut["cloudy"] / "mask.tif")[0].tolist() == [2, 2, 2, 2, 0] + [1] * 5
    assert tifffile.imread(cut["clear"] / "mask.tif")[0].tolist() == [0] + [1] * 9

    tif = np.full((10, 20), 128, np.uint8)
    tif[:, :6], tif[:, 10:12] = 255, 255
    tif[0, :] = 0  # left open
    grid = scene.grid()
    with rasterio.open(mask_tif(tmp_path, scene), "w", driver="GTiff", height=10, width=20,
                       count=1, dtype="uint8", crs=grid.crs, transform=grid.transform) as dataset:  # fmt: skip  # noqa: E501
        dataset.write(tif, 1)
    counts = add_generated_masks(scene, record, tmp_path, tmp_path / "p")
    cloudy, clear = (tifffile.imread(cut[k] / "generated_mask.tif") for k in ("cloudy", "clear"))
    assert cloudy.tolist() == [[0] * 10] + [[2] * 6 + [1] * 4] * 9
    assert clear.tolist() == [[1] * 10] * 10  # the label says so
    # Against mask.tif: 9 rows of 4 hits, 1 false alarm (column 5) and 4 clear pixels; 10 rows of 9
    # clear pixels; rims apart.
    assert counts.tolist() == [[9 * 4 + 10 * 9, 9], [0, 9 * 4]]


def test_a_scene_without_or_with_a_contradicting_band_is_left_out(tmp_path, call, capsys):
    name, clear, cloud, *_ = GENERATIONS["pre-collection"]
    qa = np.where(np.arange(40) < 20, clear, cloud) * np.ones((20, 1), int)
    for scene in (name, "S2", "S3", "S4"):
        write_qa_scene(tmp_path / "scenes" / "Water" / scene, scene, qa)
    (tmp_path / "scenes/Water/S2/S2_BQA.TIF").unlink()
    write_mtl(tmp_path / "scenes/Water/S3/S3_MTL.txt", "COLLECTION_NUMBER = 02")
    (tmp_path / "scenes/Water/S4/S4_MTL.txt").write_text("cut")
    common = [*CUT, "--labels", "qa", "--patch_size", 20]
    assert call(prepare_landsat8_biome, *common, "--stratify", "cloud") == 1
    err = capsys.readouterr().err
    assert "missing quality band S2_BQA.TIF or S2_QA_PIXEL.TIF" in err
    assert "S3_BQA.TIF is not the QA_PIXEL band of Collection 2" in err
    assert "S4_MTL.txt is no Landsat metadata" in err
    assert [path.stem for path in (tmp_path / "p" / "scenes").glob("*.json")] == [f"Water_{name}"]
    # The same scenes without the flag: their manual masks are missing.
    assert (
        call(
            prepare_landsat8_biome, "--data_path", "scenes", "--output_dir", "q", "--patch_size", 20
        )
        == 1
    )
    assert f"missing {name}_fixedmask.img" in capsys.readouterr().err


def test_a_band_of_another_size_is_named(tmp_path):
    write_qa_scene(tmp_path / "S1", "S1", np.full((20, 40), 20480))
    write_qa_scene(tmp_path / "S2", "S2", np.full((10, 40), 20480))
    (tmp_path / "S2" / "S2_BQA.TIF").replace(tmp_path / "S1" / "S1_BQA.TIF")
    scene = find_scenes(tmp_path / "S1")[0]
    with pytest.raises(SceneError, match=r"S1_BQA\.TIF is 40x10 pixels, the others are 40x20"):
        Reference(scene, "qa").check()


def test_labels_of_two_kinds_do_not_mix(tmp_path, call):
    write_qa_scene(tmp_path / "scenes" / "S1", "S1", np.full((20, 40), 20480))
    common = [*CUT, "--patch_size", 20]
    assert call(prepare_landsat8_biome, *common, "--labels", "qa") == 0
    with pytest.raises(UserError, match="cut otherwise"):
        call(prepare_landsat8_biome, *common, "--clear_below", 0.01, "--cloudy_above", 0.2)
    record = json.loads((tmp_path / "p/scenes/Unknown_S1.json").read_text())
    del record["cutting"]["reference"]  # as patches were recorded before there was a choice
    (tmp_path / "p/scenes/Unknown_S2.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="p holds scenes labelled by manual masks and"):
        cutting.reference_of("p")


GAN = [*tiny.GAN, "--num_iters", "4", "--num_iters_decay", "2", "--n_critic", "2",
       "--sample_step", "10", "--model_save_step", "4", "--normalize", "stretch"]  # fmt: skip
DATA = ["--image_dir", "p", "--orig_image_dir", "scenes", "--num_workers", "0", "--device", "cpu"]


def read(path):
    return json.loads((path / "results" / "metrics.json").read_text())


def test_every_mode_goes_by_the_band_and_says_so(tmp_path, call, capsys):
    """Six scenes of 64×64 pixels: the left half clear, the right half cirrus."""
    rng = np.random.default_rng(1)
    for index in range(6):
        qa = np.where(np.arange(64) < 32, 20480, 28672) * np.ones((64, 1), int)
        qa[rng.random((64, 64)) < 0.005] = 53248
        name = f"LC80{index}60372015216LGN00"
        write_qa_scene(tmp_path / "scenes" / "Water" / name, name, qa, seed=index)
    outputs = tmp_path / "outputs"
    call(prepare_landsat8_biome, "--data_path", "scenes", "--output_dir", "p", "--patch_size", 32,
         "--labels", "qa", "--clear_below", 0.05)  # fmt: skip
    call(main, "--mode", "train", *DATA, *GAN)
    call(main, "--mode", "generate_masks", *DATA)
    call(prepare_landsat8_biome, "--data_path", "scenes", "--output_dir", "p",
         "--generated_masks", outputs / "FCD/results/tifs")  # fmt: skip
    unet = [*DATA, "--encoder", "slim18", "--n_epochs", "1"]
    call(supervised_main, "--mode", "train", *unet, "--train_mask_file", "generated_mask.tif")
    call(supervised_main, "--mode", "train", *unet, "--experiment_name", "full")
    call(main, "--mode", "test", *DATA)
    for name in ("FCD+", "full"):
        call(supervised_main, "--mode", "test", *DATA, "--experiment_name", name)
    assert "2 scenes against their QA bands: accuracy" in capsys.readouterr().out

    for name in ("FCD", "FCDPlus", "full"):
        results = read(outputs / name)
        page = (outputs / name / "results/report.html").read_text()
        page = " ".join(html.unescape(page).split())
        assert results["reference"] == "QA bands"
        seen = results["supervision"]
        assert seen["labels_from"] == "QA bands"
        counts = [seen[k] for k in seen if k.endswith("pixel_labels")]
        assert counts == [0, 0, 0]
        assert "best macro F1 on the validation patches' QA bands" in page
        assert "not a manual truth" in page
        assert "2 whole scenes against their QA bands" in page
        assert "<figcaption>QA band</figcaption>" in page
        assert "<figcaption>Truth</figcaption>" not in page
    assert read(outputs / "FCD")["supervision"]["image_labels"] == 12
    by = read(outputs / "FCD")["supervision"]["threshold_chosen_by"]
    assert by == "99.9 percentile of the scores of 6 clear training patches"
    assert by in read(outputs / "FCDPlus")["supervision"]["threshold_chosen_by"]
    call(main, "--mode", "test", *DATA, "--threshold", "f1")
    by = read(outputs / "FCD")["supervision"]["threshold_chosen_by"]
    where = "the scores of 6 cloudy training patches"
    assert by == f"best macro F1 on {where}, against their scenes' QA bands"

    # The figures of FCD again, from the bits and the masks of the training scenes.
    call(main, "--mode", "test", *DATA, "--test_split", "train")
    confusion = np.zeros((2, 2), int)
    for path in (outputs / "FCD/results/tifs").glob("*_mask.tif"):
        name = path.name.removeprefix("Water_").removesuffix("_mask.tif")
        with rasterio.open(tmp_path / f"scenes/Water/{name}/{name}_BQA.TIF") as dataset:
            qa = dataset.read(1)
        with rasterio.open(path) as dataset:
            mask = dataset.read(1)
        confusion += confusion_matrix(qa.ravel() != 20480, mask.ravel() == 255)
    assert confusion.sum() == 3 * 64 * 64
    assert read(outputs / "FCD")["confusion"] == confusion.tolist()

    with pytest.raises(UserError, match="would be compared with themselves"):
        call(main, "--mode", "cfmask", *DATA)
    best = torch.load(outputs / "FCD/models/best.pt", weights_only=True)
    assert best["labels_from"] == "QA bands"


def bits(qa, shift, width):
    return (qa.astype(int) >> shift) & (2**width - 1)


@pytest.mark.skipif(
    not REAL.is_dir(), reason="the real Landsat scenes are not beside this checkout"
)
@pytest.mark.parametrize("folder", ["biome_layout", "collection1"])
def test_real_scenes_are_labelled_by_their_bands(tmp_path, call, folder):
    """Both generations: every patch's label again from the bits, with rasterio alone."""
    size, out = 16, tmp_path / "p"
    call(prepare_landsat8_biome, "--data_path", REAL / folder, "--output_dir", out,
         "--labels", "qa", "--patch_size", size)  # fmt: skip
    (path,) = (REAL / folder).rglob("*_BQA.TIF")
    with rasterio.open(path) as dataset:
        qa = dataset.read(1)
    bands = [p for p in path.parent.glob("*_B*.TIF") if p != path]
    fill = np.zeros(qa.shape, bool)
    for band in bands:
        with rasterio.open(band) as dataset:
            fill |= dataset.read(1) == 0
    if folder == "biome_layout":
        cloud = (bits(qa, 14, 2) >= 2) | (bits(qa, 12, 2) >= 2)
    else:
        cloud = (bits(qa, 4, 1) == 1) | (bits(qa, 11, 2) == 3)
    valid = (bits(qa, 0, 1) == 0) & ~fill
    expected = {"clear": set(), "cloudy": set()}
    for row in range(0, qa.shape[0] - size + 1, size):
        for column in range(0, qa.shape[1] - size + 1, size):
            window = np.s_[row : row + size, column : column + size]
            known = valid[window].sum()
            share = (cloud & valid)[window].sum() / max(known, 1)
            if known and (share <= 0.01 or share > 0.2):
                expected["cloudy" if share > 0.2 else "clear"].add((row, column))
    (record,) = (json.loads(p.read_text()) for p in (out / "scenes").glob("*.json"))
    assert folders(record) == expected
    assert min(map(len, expected.values())) > 20
