"""A three-band uint8 set from labels to masks, tiny: cut → FCD → masks → FCD+ → predict."""

import csv
import json
import os
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from sklearn.metrics import confusion_matrix

import main
import supervised_main
from fcd.cli import commands
from fcd.errors import UserError
from fcd.landsat.bands import band_names
from fcd.landsat.products import scene_from
from fcd.masks import thresholds
from fcd.masks.generated import generate_masks
from fcd.masks.scoring import Tiles, strips
from fcd.patches.sources import PreparedPatches, RasterPatches
from fcd.synthetic import layout
from fcd.training import checkpoints
from fcd.training.run import RunFolder
from solver import FCDSolver, Run, load_solver
from tests import tiny
from tests.conftest import write_tif

DATA = ["--dataset", "Patches", "--image_dir", "p", "--num_workers", "0", "--device", "cpu"]
GAN = [*tiny.GAN, "--num_iters", "6", "--num_iters_decay", "3", "--n_critic", "2",
       "--sample_step", "6", "--model_save_step", "6", "--batch_size", "4"]  # fmt: skip
UNET = [*tiny.UNET, "--batch_size", "8"]


def call(patch, module, *arguments):
    patch.setattr(sys, "argv", [f"{module.__name__}.py", *arguments])
    return module.main()


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    """Run the commands once, without any mask; the masks are added for the tests."""
    root = tmp_path_factory.mktemp("own")
    patch = pytest.MonkeyPatch()
    patch.chdir(root)
    layout.write_images("own", 12, 32, seed=1)
    masks = {path.name: path.read_bytes() for path in (root / "own/images").glob("*_mask.tif")}
    for name in masks:
        (root / "own/images" / name).unlink()
    commands.cut(["--csv", "own/labels.csv", "--output_dir", "p", "--patch_size", "32"])
    said = root / "said.txt"
    with said.open("w") as stream:
        patch.setattr(sys, "stdout", stream)
        assert call(patch, main, "--mode", "train", *DATA, *GAN, "--rgb", "3,2,1") == 0
        assert call(patch, main, "--mode", "generate_masks", *DATA) == 0
        assert call(patch, supervised_main, "--mode", "train", *DATA, *UNET, "--train_mask_file",
                    "generated_mask.tif", "--classifier_head", "True") == 0  # fmt: skip
        patch.setattr(sys, "stdout", sys.__stdout__)
    assert call(patch, supervised_main, "--mode", "predict", *DATA[4:], "--scenes",
                "own/scenes/*.tif", "--write_score", "float32") == 0  # fmt: skip
    yield root
    patch.undo()


def test_what_is_done_without_masks_is_said(walk):
    said = (walk / "said.txt").read_text()
    assert "val patches of p have no mask: the best checkpoint will be chosen by image" in said
    assert "cloudy training patches of p have no mask: the threshold will be chosen on" in said
    record = json.loads((walk / "outputs/FCD/results/threshold.json").read_text())
    assert (record["choice"], record["pixel_labels"]) == ("clear", 0)


def test_generated_masks_are_those_of_the_difference_map(walk):
    threshold = json.loads((walk / "outputs/FCD/results/threshold.json").read_text())["threshold"]
    tifs = walk / "outputs/FCD/results/tifs"
    patches = [path for label in ("clear", "cloudy")
               for path in RasterPatches(walk / "p").find("train", label)]  # fmt: skip
    assert len(patches) == 10
    for path in patches:
        with rasterio.open(tifs / f"{path.parent.name}_{path.stem}_difference.tif") as dataset:
            cloud = dataset.read(1) > threshold
        expected = np.where(cloud & (path.parent.name == "cloudy"), 255, 128)
        with rasterio.open(path.with_name(f"{path.stem}_generated_mask.tif")) as dataset:
            assert (dataset.read(1) == expected).all()
            with rasterio.open(path) as patch:
                assert (dataset.crs, dataset.transform) == (patch.crs, patch.transform)


def test_a_second_round_learns_what_the_first_networks_say(walk, monkeypatch):
    monkeypatch.chdir(walk)
    weights = walk / "outputs/FCDPlus/models/best.pt"
    patches = RasterPatches(walk / "p").find("train", "cloudy")
    first = [path.with_name(f"{path.stem}_generated_mask.tif").read_bytes() for path in patches]
    assert call(monkeypatch, supervised_main, "--mode", "generate_masks", *DATA, "--threshold",
                "image", "--overlap", "0",
                "--generated_mask_file", "second_mask.tif") == 0  # fmt: skip
    solver = load_solver(weights, "cpu")
    record = json.loads((walk / "outputs/FCDPlus/results/threshold.json").read_text())
    assert (record["choice"], record["pixel_labels"]) == ("image", 0)
    for path, before in zip(patches, first, strict=True):
        with rasterio.open(path) as dataset:
            image = torch.from_numpy(dataset.read())[None]
        with torch.no_grad():
            logits = solver.network(solver.normalization.normalize(image))[0]
        cloud = logits.softmax(dim=1)[0, 1].numpy()
        with rasterio.open(path.with_name(f"{path.stem}_second_mask.tif")) as dataset:
            mask = dataset.read(1)
        decided = abs(cloud - record["threshold"]) > 1e-4
        assert (mask == np.where(cloud > record["threshold"], 255, 128))[decided].all()
        assert path.with_name(f"{path.stem}_generated_mask.tif").read_bytes() == before
    for path in RasterPatches(walk / "p").find("train", "clear"):
        with rasterio.open(path.with_name(f"{path.stem}_second_mask.tif")) as dataset:
            assert (dataset.read(1) == 128).all()
    assert call(monkeypatch, supervised_main, "--mode", "train", *DATA, *UNET, "--train_mask_file",
                "second_mask.tif", "--experiment_name", "Second") == 0  # fmt: skip
    seen = checkpoints.load(walk / "outputs/Second/models/best.pt", ("supervision",))["supervision"]
    assert (seen["image_labels"], seen["pixel_labels"]) == (10, 0)
    chosen = seen["threshold_chosen_by"].split("; ")
    assert [by.split(":")[0] for by in chosen] == ["training masks", "training masks"]
    assert "image-level labels" in chosen[0]
    assert "99.9 percentile of the scores of 5 clear" in chosen[1]


def test_patches_of_labelled_images_are_none_of_scenes(walk):
    told = rf"{walk / 'p'} holds patches of labelled images .* read with --dataset Patches"
    with pytest.raises(UserError, match=told):
        _ = PreparedPatches(walk / "p").reference


def test_what_drawn_scenes_teach_costs_no_label(walk, monkeypatch):
    monkeypatch.chdir(walk)
    masks = ["--mode", "train", *DATA, *UNET, "--train_mask_file", "generated_mask.tif"]
    drawn = ["--drawn", "True", "--experiment_name", "Drawn"]
    after = ["--model_weights", "outputs/Drawn/models/best.pt", "--experiment_name", "After"]
    shutil.copytree("p/train", "drawn/train")
    for mask in Path("drawn").rglob("*_generated_mask.tif"):
        mask.rename(mask.with_name(mask.name.replace("generated_", "")))
    along = ["--rehearse", "drawn", "--experiment_name", "Along"]
    for flags in (drawn, after, along):
        assert call(monkeypatch, supervised_main, *masks, *flags) == 0
    seen, later, rehearsed, plus = (
        checkpoints.load(walk / f"outputs/{name}/models/best.pt", ("supervision",))["supervision"]
        for name in ("Drawn", "After", "Along", "FCDPlus")
    )
    assert rehearsed == plus | {"labels_from": f"{plus['labels_from']} and drawn scenes"}
    config = json.loads((walk / "outputs/Along/config.json").read_text())
    assert config["data"]["train"]["patches"] == config["data"]["train"]["drawn"]["patches"] == 10
    assert seen.pop("labels_from") == "drawn scenes"
    assert not any(seen.values())
    assert later.pop("labels_from") == "drawn scenes and folder names"
    assert later["image_labels"] == plus["image_labels"] == 10
    assert later["pixel_labels"] == 0


@pytest.mark.parametrize(("name", "told"), [
    ("mask.tif", "would replace the patches' own masks; give another name"),
    ("second.tif", r"the name must end in mask\.tif"),
])  # fmt: skip
def test_generated_masks_replace_no_truth_and_are_no_patches(walk, monkeypatch, name, told):
    monkeypatch.chdir(walk)
    with pytest.raises(UserError, match=told):
        call(monkeypatch, main, "--mode", "generate_masks", *DATA, "--generated_mask_file", name)


def test_patches_that_are_masked_share_batches(walk, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    solver, sizes = load_solver(walk / "outputs/FCD/models/best.pt", "cpu"), []
    score, tiles = solver.score, Tiles.of(solver.scorer(), batch_size=16)
    monkeypatch.setattr(solver, "score", lambda x: sizes.append(len(x)) or score(x))
    scenes = RasterPatches(walk / "p").scenes("train", "", masked=False)
    tifs, scorer = tmp_path / "tifs", solver.scorer()
    generate_masks(scorer, scenes, tiles, 0.02, tifs)
    assert sizes == [16, 14] * 3  # 3 x 3 tiles of each of ten patches
    black = np.full((3, 32, 32), 90, np.uint8)
    black[:, :5] = 0
    write_tif(tmp_path / "black.tif", black, 0)
    others = [_scene(walk, path.stem) for path in sorted((walk / "own/scenes").glob("*.tif"))]
    others.append(scene_from("black.tif", band_names(3)))
    mixed = [scenes[0], *others, *scenes[1:3]]
    monkeypatch.setattr("fcd.masks.generated.TOGETHER", 2)
    generate_masks(scorer, mixed, replace(tiles, overlap=8), 0.02, tifs)
    for scene in [*scenes, *others]:
        used = replace(tiles, overlap=8) if scene in mixed else tiles
        alone = np.concatenate([strip.score for strip in strips(solver.scorer(), scene, used)])
        with rasterio.open(tifs / f"{scene.key}_difference.tif") as dataset:
            difference = dataset.read(1)
        with rasterio.open(tifs / f"{scene.key}_mask.tif") as dataset:
            mask = dataset.read(1)
        nodata = np.zeros(alone.shape, bool)
        nodata[:5] = scene.key == "black"
        assert (np.isnan(difference) == nodata).all()
        np.testing.assert_allclose(difference[~nodata], alone[~nodata], atol=1e-5)
        expected = np.where(nodata, 0, np.where(difference > 0.02, 255, 128))
        assert (mask == expected).all()


def test_other_pixels_of_a_patch_make_another_mask(walk, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(walk / "p", "p")
    scorer = load_solver(walk / "outputs/FCD/models/best.pt", "cpu").scorer()
    scenes, tiles = RasterPatches(Path("p")).scenes("train", "", masked=False)[:2], Tiles.of(scorer)
    paths = [tmp_path / "tifs" / f"{scene.key}_difference.tif" for scene in scenes]

    def masked(**how):
        generate_masks(scorer, scenes, tiles, 0.02, tmp_path / "tifs", **how)
        found = []
        for path in paths:
            with rasterio.open(path) as dataset:
                found.append((dataset.read(1), path.stat().st_ino))
        return found

    (first, kept), (other, of_other) = masked()
    (image,) = {os.fspath(file) for file in scenes[0].files.values()}
    write_tif(Path(image), np.random.default_rng(5).integers(1, 255, (3, 32, 32), np.uint8))
    (changed, now), (same, still) = masked()
    assert (kept != now, of_other) == (True, still)
    assert np.abs(changed - first).max() > 1e-4
    np.testing.assert_array_equal(same, other)
    assert [inode for _, inode in masked()] == [now, still]
    assert not {now, still} & {inode for _, inode in masked(overwrite=True)}


def test_what_is_near_the_threshold_is_left_open(walk, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scorer = load_solver(walk / "outputs/FCD/models/best.pt", "cpu").scorer()
    scenes = RasterPatches(walk / "p").scenes("train", "", masked=False)[:2]
    tifs, tiles = tmp_path / "tifs", Tiles.of(scorer)
    threshold = float(np.median(next(strips(scorer, scenes[0], tiles)).score))
    for unsure in ((1.0, 1.0), (0.8, 1.15)):  # the second does not take the first one's masks
        generate_masks(scorer, scenes, tiles, threshold, tifs, unsure)
    left = 0
    for scene in scenes:
        with rasterio.open(tifs / f"{scene.key}_difference.tif") as dataset:
            times = dataset.read(1) / threshold
        with rasterio.open(tifs / f"{scene.key}_mask.tif") as dataset:
            mask = dataset.read(1)
        expected = np.select([times <= 0.8, times < 1.15], [128, 0], 255)
        assert (mask == expected).mean() > 0.999  # but for what rounding puts on a bound
        left += (mask == 0).sum()
    assert left


def test_no_pixel_label_was_used(walk):
    seen = load_solver(walk / "outputs/FCDPlus/models/best.pt", "cpu").supervision(
        {"chosen_by": "0.5, fixed", "pixel_labels": 0}
    )
    assert (seen.image_labels, seen.pixel_labels) == (10, 0)
    assert (seen.threshold_pixel_labels, seen.checkpoint_pixel_labels) == (0, 0)
    assert seen.labels_from == "folder names"


def test_the_checkpoint_knows_how_to_read_the_data(walk):
    solver = load_solver(walk / "outputs/FCD/models/best.pt", "cpu")
    normalization = solver.normalization
    assert (normalization.dtype, normalization.nodata) == ("uint8", None)
    assert normalization.high == (255.0,) * 3
    assert solver.rgb == (2, 1, 0)
    assert load_solver(walk / "outputs/FCDPlus/models/best.pt", "cpu").rgb == (0, 1, 2)


def test_a_checkpoint_without_rgb_is_gone_on_with(walk, monkeypatch):
    monkeypatch.chdir(walk)
    solver = load_solver("outputs/FCD/models/best.pt", "cpu")
    state = solver.state()
    del state["rgb"], state["normalization"]["dtype"]
    Path("outputs/Before/models").mkdir(parents=True)
    checkpoints.save(Path("outputs/Before/models/latest.pt"), state)
    again = FCDSolver(
        Run(RunFolder("Before"), solver.device), solver.size, 32, solver.normalization
    )
    assert again.resume()
    assert (again.step, again.rgb, again.normalization.dtype) == (6, (0, 1, 2), "uint16")


def test_a_run_goes_on_with_other_bands_in_its_pictures(walk, monkeypatch):
    monkeypatch.chdir(walk)
    run = ["--mode", "train", *DATA, *GAN]
    assert call(monkeypatch, main, *run, "--rgb", "1,2,3") == 0  # 3,2,1 before
    assert call(monkeypatch, main, *run) == 0
    begun = load_solver("outputs/FCD/models/latest.pt", "cpu")
    again = FCDSolver(begun.run, begun.size, 32, begun.normalization)
    again.use_rgb((0, 1, 1))
    assert again.resume()
    assert (again.step, again.rgb) == (6, (0, 1, 1))
    again.use_rgb(None)
    assert again.resume()
    assert again.rgb == begun.rgb == (2, 1, 0)


def test_predicted_scores_are_those_of_the_network(walk):
    solver = load_solver(walk / "outputs/FCDPlus/models/best.pt", "cpu")
    scores = sorted((walk / "masks").glob("*_score.tif"))
    assert len(scores) == 2
    for path in scores:
        name = path.name.removesuffix("_score.tif")
        with rasterio.open(walk / f"own/scenes/{name}.tif") as dataset:
            image = dataset.read()
        with rasterio.open(path) as dataset:
            score = dataset.read(1)
        with rasterio.open(walk / f"masks/{name}_mask.tif") as dataset:
            mask = dataset.read(1)
        assert np.isfinite(score).all()  # black is no nodata
        assert (mask == np.where(score > 0.5, 255, 128)).all()
        # In the middle of a tile, far from its neighbours, the score is that of the tile alone.
        x = torch.from_numpy(image[None, :, :32, :32].astype(np.float32)) / 255 * 2 - 1
        assert image[:, :32, :32].min() > 0
        tiles = Tiles.of(solver.scorer(), overlap=0)
        strip = next(strips(solver.scorer(), _scene(walk, name), tiles))
        with torch.inference_mode():
            assert np.allclose(strip.score[:, :32], solver.score(x)[0].numpy(), atol=1e-5)


def _scene(walk, name):
    return scene_from(str(walk / f"own/scenes/{name}.tif"), band_names(3))


def test_of_another_type_or_number_of_bands_one_line(walk, monkeypatch, capsys):
    monkeypatch.chdir(walk)
    write_tif(walk / "wide.tif", np.ones((3, 40, 40), np.uint16))
    write_tif(walk / "five.tif", np.ones((5, 40, 40), np.uint8))
    assert call(monkeypatch, supervised_main, "--mode", "predict", "--device", "cpu", "--scenes",
                "wide.tif", "five.tif", "--output_dir", "bad") == 1  # fmt: skip
    err = capsys.readouterr().err
    assert re.search("scene wide holds uint16, the network was trained on uint8", err)
    assert re.search(r"five\.tif has 5 bands, the network takes 3", err)
    left = {path.name for path in (walk / "bad").iterdir()}
    assert left == {".lock", "precision.json", "summary.csv"}


def test_nodata_by_file_and_by_flag(walk, monkeypatch):
    monkeypatch.chdir(walk)
    image = np.full((3, 40, 40), 90, np.uint8)
    image[:, :5] = 0
    image[0, 5:9] = 255
    write_tif(walk / "tagged.tif", image, 0)
    for flags, rows in (
        ([], 5),
        (["--nodata", "255"], 4),
        (["--nodata", "none"], 0),
        (["--nodata", "0", "255"], 9),
    ):
        assert call(monkeypatch, supervised_main, "--mode", "predict", "--device", "cpu",
                    "--scenes", "tagged.tif", "--output_dir", "tagged", *flags) == 0  # fmt: skip
        with rasterio.open(walk / "tagged/tagged_mask.tif") as dataset:
            assert (dataset.read(1) == 0).sum() == rows * 40


def test_a_pixel_is_nodata_where_any_of_the_bands_files_says_so(walk, monkeypatch):
    monkeypatch.chdir(walk)
    image = np.full((3, 40, 40), 90, np.uint8)
    image[0, :5], image[2, 5:9], image[1, 9:12] = 0, 255, 255
    for band, nodata in enumerate([0, None, 255]):
        write_tif(walk / f"files/s_{'rgb'[band]}.tif", image[band : band + 1], nodata)
    assert call(monkeypatch, supervised_main, "--mode", "predict", "--device", "cpu", "--scenes",
                "files", "--bands", "_r,_g,_b", "--output_dir", "by_band") == 0  # fmt: skip
    with rasterio.open(walk / "by_band/s_mask.tif") as dataset:
        assert np.unique(np.argwhere(dataset.read(1) == 0)[:, 0]).tolist() == [*range(9)]


def test_nodata_by_flag_counts_for_more_than_that_of_the_weights_begun_with(walk, monkeypatch):
    monkeypatch.chdir(walk)
    begun = load_solver("outputs/FCDPlus/models/best.pt", "cpu")
    begun.normalization = replace(begun.normalization, nodata=0)
    checkpoints.save(Path("zero.pt"), begun.state())
    more = ["--train_mask_file", "generated_mask.tif", "--model_weights", "zero.pt"]
    for name, flags, nodata in (
        ("none", ["--nodata", "none"], None),
        ("seven", ["--nodata", "7"], 7),
        ("begun", [], 0),  # the files of p mark nothing
    ):
        assert call(monkeypatch, supervised_main, "--mode", "train", *DATA, *UNET, *more, *flags,
                    "--experiment_name", name) == 0  # fmt: skip
        solver = load_solver(f"outputs/{name}/models/best.pt", "cpu")
        assert solver.normalization.nodata == nodata


def test_a_threshold_belongs_to_what_counts_as_nodata(walk, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    solver, counted = load_solver(walk / "outputs/FCD/models/best.pt", "cpu"), []
    count = thresholds.histogram
    monkeypatch.setattr(
        thresholds, "histogram", lambda *args: counted.append(count(*args)) or counted[-1]
    )
    for nodata in (None, (7,), (7,), None):
        solver.choose_threshold("otsu", RasterPatches(walk / "p", nodata), 100, 8)
    assert len(counted) == 3  # once more for another value, not for the same


def test_a_threshold_belongs_to_the_precision_of_the_scores(walk, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(walk / "outputs/FCD/models", tmp_path / "copy/models")
    solver, precise = load_solver(tmp_path / "copy/models/best.pt", "cpu"), []
    score = solver.score
    monkeypatch.setattr(
        solver, "score", lambda x: precise.append(not torch.is_autocast_enabled("cpu")) or score(x)
    )
    source = RasterPatches(walk / "p")
    for amp in (False, True, True):
        record = solver.choose_threshold("otsu", source, 100, 8, amp=amp)
        assert thresholds.known(solver.scorer(), amp) == record
        with pytest.raises(UserError, match=rf"chosen with --amp {amp}, .* with --amp {not amp} "):
            thresholds.known(solver.scorer(), not amp)
    assert precise == [True, False]  # five patches, one batch
    given = solver.choose_threshold(0.3, source, 100, 8)
    assert thresholds.known(solver.scorer(), True) == thresholds.known(solver.scorer()) == given
    # A record of earlier versions.
    path = solver.run.folder.results / "threshold.json"
    path.write_text(json.dumps({k: v for k, v in record.items() if k != "amp"}))
    assert thresholds.known(solver.scorer())["threshold"] == record["threshold"]


def test_scenes_are_masked_by_a_threshold_of_their_own_precision(walk, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(walk / "outputs/FCD", tmp_path / "outputs/FCD")
    predict = ["--mode", "predict", *DATA[:2], "--image_dir", str(walk / "p"), *DATA[4:],
               "--scenes", str(walk / "own/scenes/*.tif")]  # fmt: skip
    assert call(monkeypatch, main, *predict) == 0
    with pytest.raises(UserError, match=r"threshold\.json holds a threshold chosen with --amp Fal"):
        call(monkeypatch, main, *predict, "--amp", "True")
    assert call(monkeypatch, main, *predict, "--amp", "True", "--threshold", "otsu") == 0
    record = json.loads((tmp_path / "outputs/FCD/results/threshold.json").read_text())
    assert record["amp"] is True
    assert call(monkeypatch, main, *predict, "--amp", "True") == 0
    for path in Path("masks").glob("*_mask.tif"):
        with rasterio.open(path) as dataset:
            assert dataset.tags()["FCD_THRESHOLD"] == repr(record["threshold"])


def test_masks_are_compared_with_those_that_are_there(walk, monkeypatch, capsys):
    monkeypatch.chdir(walk)
    with pytest.raises(UserError, match="has no patch with a mask; choose another --test_split"):
        call(monkeypatch, main, "--mode", "test", *DATA, "--test_split", "val")
    with pytest.raises(UserError, match=r"p.test has no patch"):
        call(monkeypatch, main, "--mode", "test", *DATA)
    solver = load_solver("outputs/FCD/models/best.pt", "cpu")
    threshold = json.loads((walk / "outputs/FCD/results/threshold.json").read_text())["threshold"]
    patch = RasterPatches(walk / "p").find("val", "cloudy")[0]
    truth = np.random.default_rng(0).choice([0, 64, 128, 192, 255], (1, 32, 32)).astype(np.uint8)
    write_tif(patch.with_name(f"{patch.stem}_mask.tif"), truth, placed=False)
    assert call(monkeypatch, main, "--mode", "test", *DATA, "--test_split", "val") == 0
    assert "1 of the 2 val patches have a mask" in capsys.readouterr().out
    results = json.loads((walk / "outputs/FCD/results/metrics.json").read_text())
    (scene,) = RasterPatches(walk / "p").scenes("val", "", masked=True)
    score = np.concatenate(
        [strip.score for strip in strips(solver.scorer(), scene, Tiles.of(solver.scorer()))]
    )
    known = truth[0] > 0
    assert (
        results["confusion"]
        == confusion_matrix(
            truth[0][known] > 128, score[known] > threshold, labels=[False, True]
        ).tolist()
    )
    assert set(results["biomes"]) == {"cloudy"}


def test_the_drawn_set(tmp_path):
    path = layout.write_images(tmp_path, 6, 16, seed=0)
    with open(path, newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["label"] for row in rows].count("cloudy") == 3
    for row in rows:
        with rasterio.open(tmp_path / row["path"]) as dataset:
            assert (dataset.count, dataset.dtypes[0], dataset.nodata) == (3, "uint8", None)
            assert dataset.shape == (16, 16)
        mask = tmp_path / row["path"].replace(".tif", "_mask.tif")
        with rasterio.open(mask) as dataset:
            share = (dataset.read(1) == 255).mean()
        assert share == 0 if row["label"] == "clear" else share >= 0.5


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--rgb", "1,2"], r"--rgb 1,2: three band numbers from 1 to 3"),
        (["--rgb", "1,2,4"], r"--rgb 1,2,4: three band numbers from 1 to 3"),
        (["--rgb", "r,g,b"], "--rgb r,g,b: 'r' is neither a band number"),
        (["--dataset", "L8Biome", "--nodata", "0"], "--nodata 0 is for --dataset Patches"),
        (["--image_size", "64"], "--image_size 64: the patches in p are 32 pixels wide"),
    ],
)
def test_flags_that_do_not_fit(walk, monkeypatch, flags, message):
    monkeypatch.chdir(walk)
    with pytest.raises(UserError, match=message):
        call(monkeypatch, main, "--mode", "train", *DATA, *GAN, *flags, "--experiment_name", "Bad")
    assert not (walk / "outputs/Bad").exists()
