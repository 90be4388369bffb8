"""Every command from scenes to FCD+1Pct, tiny, on synthetic scenes; the files are read back."""

import csv
import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile
import torch
from sklearn.metrics import confusion_matrix, f1_score

import main
import prepare_landsat8_biome
import supervised_main
from fcd.cli import commands, run_folder
from fcd.errors import UserError
from fcd.landsat import labels
from fcd.landsat.scenes import find_scenes
from fcd.masks.scoring import Tiles, strips
from fcd.synthetic.layout import write_data_set
from fcd.synthetic.surface import RECIPES
from tests import tiny

GAN = [*tiny.GAN, "--num_iters", "20", "--num_iters_decay", "10", "--n_critic", "2",
       "--sample_step", "10", "--model_save_step", "10"]  # fmt: skip
UNET = [*tiny.UNET, "--log_step", "1"]
BIOMES = set(sorted(RECIPES)[::2])
DATA = ["--image_dir", "p", "--orig_image_dir", "scenes", "--num_workers", "0", "--device", "cpu"]


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    """Run the commands once; the tests look at what they wrote."""
    root = tmp_path_factory.mktemp("walk")
    patch = pytest.MonkeyPatch()
    patch.chdir(root)
    write_data_set("scenes", 6, 70, seed=5)
    for biome in set(RECIPES) - BIOMES:
        shutil.rmtree(root / "scenes" / biome)

    def call(module, *arguments):
        patch.setattr(sys, "argv", [f"{module.__name__}.py", *arguments])
        assert module.main() == 0

    call(prepare_landsat8_biome, "--data_path", "scenes", "--output_dir", "p",
         "--patch_size", "32")  # fmt: skip
    call(main, "--mode", "train", *DATA, *GAN, "--experiment_name", "FCD")
    call(main, "--mode", "generate_masks", *DATA, "--batch_size", "8", "--experiment_name", "FCD")
    call(prepare_landsat8_biome, "--data_path", "scenes", "--output_dir", "p",
         "--generated_masks", "outputs/FCD/results/tifs")  # fmt: skip
    call(supervised_main, "--mode", "train", *DATA, *UNET, "--train_mask_file",
         "generated_mask.tif",
         "--classifier_head", "True", "--experiment_name", "FCD+")  # fmt: skip
    call(supervised_main, "--mode", "train", *DATA, *UNET, "--keep_ratio", "0.01",
         "--lr", "1e-5",
         "--freeze_encoder", "True", "--model_weights", "outputs/FCDPlus/models/best.pt",
         "--experiment_name", "FCD+1Pct")  # fmt: skip
    call(main, "--mode", "test", *DATA, "--experiment_name", "FCD")
    call(main, "--mode", "visualize", *DATA, "--experiment_name", "FCD")
    for name in ("FCD+", "FCD+1Pct"):
        call(supervised_main, "--mode", "test", *DATA, "--experiment_name", name)
    commands.compare(["outputs/FCD", "outputs/FCDPlus", "outputs/FCDPlus1Pct"])
    yield root
    patch.undo()


def split(walk, kind):
    with open(walk / "p" / "split.csv", newline="") as file:
        return {row["scene"] for row in csv.DictReader(file) if row["split"] == kind}


def test_masks_are_where_the_training_scenes_are(walk):
    folder = walk / "outputs" / "FCD" / "results" / "tifs"
    scenes = [s for s in find_scenes(walk / "scenes") if s.name in split(walk, "train")]
    assert len(scenes) == 12
    threshold = json.loads((folder.parent / "threshold.json").read_text())
    assert threshold["pixel_labels"] > 0
    for scene in scenes:
        grid = scene.grid()
        with rasterio.open(folder / f"{scene.key}_difference.tif") as dataset:
            difference = dataset.read(1)
            assert dataset.dtypes == ("float32",)
            assert np.isnan(dataset.nodata)
        with rasterio.open(folder / f"{scene.key}_mask.tif") as dataset:
            mask = dataset.read(1)
            assert (dataset.crs, dataset.transform) == (grid.crs, grid.transform)
            assert dataset.nodata == 0
        with scene.open() as reader:
            valid = (reader.bands() != 0).all(axis=0)
        assert (np.isfinite(difference) == valid).all()
        assert 0 <= np.nanmin(difference) <= np.nanmax(difference) <= 1
        cloud = np.where(valid, difference, 0) > threshold["threshold"]
        assert (mask == np.where(valid, np.where(cloud, 255, 128), 0)).all()


def test_generated_masks_of_patches_are_cut_from_those(walk):
    with open(walk / "p" / "generated_mask.json") as file:
        cost = json.load(file)
    assert cost["image_labels"] == 48
    assert cost["pixel_labels"] == 0
    assert cost["threshold_pixel_labels"] > 0
    patches = list((walk / "p" / "train" / "cloudy").iterdir())
    for patch in patches[::7]:
        name, row, column = patch.name.rsplit("_", 2)
        (tif,) = (walk / "outputs" / "FCD" / "results" / "tifs").glob(f"*_{name}_mask.tif")
        window = ((int(row), int(row) + 32), (int(column), int(column) + 32))
        with rasterio.open(tif) as dataset:
            expected = labels.patch_from_tif(dataset.read(1, window=window))
        truth = tifffile.imread(patch / "mask.tif")
        expected[truth == 0] = 0
        assert (tifffile.imread(patch / "generated_mask.tif") == expected).all()


def test_the_metrics_are_those_of_the_masks(walk):
    """FCD's overall figures again, from the network and scikit-learn, whole scenes at once."""
    from fcd.training.run import RunFolder
    from solver import FCDSolver, Run

    run = Run(RunFolder("FCD"), torch.device("cpu"))
    solver = FCDSolver.load(run, Path("outputs/FCD/models/best.pt"))
    results = json.loads((walk / "outputs/FCD/results/metrics.json").read_text())
    truths, predictions = [], []
    for scene in find_scenes(walk / "scenes"):
        if scene.name not in split(walk, "test"):
            continue
        with scene.open() as reader:
            truth = reader.truth()
        scored = list(strips(solver.scorer(), scene, Tiles.of(solver.scorer(), None, None, 16)))
        score = np.concatenate([s.score for s in scored])
        valid = np.concatenate([s.valid for s in scored]) & (truth != 0)
        truths.append(truth[valid] - 1)
        predictions.append(score[valid] > results["threshold"])
    truth, prediction = np.concatenate(truths), np.concatenate(predictions)
    assert results["confusion"] == confusion_matrix(truth, prediction, labels=[0, 1]).tolist()
    assert results["overall"]["macro"]["f1"] == pytest.approx(
        f1_score(truth, prediction, average="macro")
    )
    assert len(results["scenes"]) == 8
    assert set(results["biomes"]) == BIOMES


def test_supervision_is_counted_through_the_chain(walk):
    seen = {
        name: json.loads((walk / "outputs" / name / "results/metrics.json").read_text())
        for name in ("FCD", "FCDPlus", "FCDPlus1Pct")
    }
    patches = sum(1 for _ in (walk / "p" / "train").glob("*/*"))
    one_percent = max(1, round(patches / 100))
    labels_of = {name: result["supervision"] for name, result in seen.items()}
    assert labels_of["FCD"]["image_labels"] == patches
    assert labels_of["FCD"]["pixel_labels"] == labels_of["FCDPlus"]["pixel_labels"] == 0
    assert labels_of["FCDPlus"]["image_labels"] == patches
    assert "cloudy training patches" in labels_of["FCDPlus"]["threshold_chosen_by"]
    assert labels_of["FCDPlus"]["checkpoint_pixel_labels"] > 0
    assert 0 < labels_of["FCDPlus1Pct"]["pixel_labels"] <= one_percent * 32 * 32
    assert labels_of["FCDPlus1Pct"]["threshold_pixel_labels"] > 0
    assert labels_of["FCDPlus"]["threshold_chosen_by"].startswith("0.5, fixed; training masks: ")


def test_a_chosen_threshold_adds_to_what_the_training_masks_cost(walk, monkeypatch):
    monkeypatch.chdir(walk / "outputs/FCDPlus/models")
    data = ["--image_dir", walk / "p", "--orig_image_dir", walk / "scenes", *DATA[4:]]
    arguments = ["--mode", "test", *data, "--model_weights", "best.pt", "--threshold", "f1"]
    monkeypatch.setattr(sys, "argv", ["supervised_main.py", *map(str, arguments)])
    assert supervised_main.main() == 0
    results = Path("outputs/FCDPlus/results")
    own = json.loads((results / "threshold.json").read_text())["pixel_labels"]
    fixed = json.loads((walk / "outputs/FCDPlus/results/metrics.json").read_text())["supervision"]
    chosen = json.loads((results / "metrics.json").read_text())["supervision"]
    assert own > 0
    assert chosen["threshold_pixel_labels"] == fixed["threshold_pixel_labels"] + own
    assert "training masks: best macro F1" in chosen["threshold_chosen_by"]


def test_tables_reports_and_pictures_are_there(walk):
    for name in ("FCD", "FCDPlus", "FCDPlus1Pct"):
        results = walk / "outputs" / name / "results"
        assert (results / "report.html").stat().st_size > 10_000
        assert (results / "metrics.csv").read_text().startswith("scope,name,biome,accuracy")
        assert json.loads((walk / "outputs" / name / "config.json").read_text())["versions"][
            "torch"
        ]
    table = (walk / "outputs/comparison/table.csv").read_text()
    methods = [line.split(",")[0] for line in table.splitlines()[1:]]
    assert list(dict.fromkeys(methods)) == ["FCD", "FCD+", "FCD+1Pct"]
    assert (walk / "outputs/FCD/samples/translations.png").exists()
    assert (walk / "outputs/FCD/samples/000010.png").exists()


def test_nothing_temporary_is_left(walk):
    assert {path.name for path in walk.rglob(".*")} == {".lock"}


def test_a_second_walk_finds_everything_done(walk, monkeypatch, capsys):
    monkeypatch.chdir(walk)
    tif = next((walk / "outputs/FCD/results/tifs").glob("*_mask.tif"))
    before = tif.stat().st_mtime_ns
    for module, arguments in [
        (
            prepare_landsat8_biome,
            ["--data_path", "scenes", "--output_dir", "p", "--patch_size", "32"],
        ),
        (main, ["--mode", "train", *DATA, *GAN, "--experiment_name", "FCD"]),
        (
            main,
            ["--mode", "generate_masks", *DATA, "--batch_size", "8", "--experiment_name", "FCD"],
        ),
    ]:
        monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *arguments])
        assert module.main() == 0
    assert "24 scenes are cut already" in capsys.readouterr().out
    assert tif.stat().st_mtime_ns == before


def test_one_patch_in_a_batch_is_refused(walk, monkeypatch):
    monkeypatch.chdir(walk)
    for flags in (["--batch_size", "1"], ["--keep_ratio", "0.0001"]):
        arguments = ["--mode", "train", *DATA, *flags, "--experiment_name", "One"]
        monkeypatch.setattr(sys, "argv", ["supervised_main.py", *arguments])
        with pytest.raises(UserError, match="batch norm needs at least two"):
            supervised_main.main()
    assert not (walk / "outputs/One").exists()


def test_a_continued_run_says_with_what(walk, monkeypatch):
    monkeypatch.chdir(walk)
    path = walk / "outputs/FCD/config.json"
    config = json.loads(path.read_text())
    assert "continued" not in config
    for commit in ("another", "another", "a third"):
        monkeypatch.setattr(run_folder, "git_commit", lambda commit=commit: commit)
        monkeypatch.setattr(
            sys, "argv", ["main.py", "--mode", "train", *DATA, *GAN, "--experiment_name", "FCD"]
        )
        assert main.main() == 0
    continued = json.loads(path.read_text())
    assert [part["commit"] for part in continued.pop("continued")] == ["another", "a third"]
    assert continued == config
    path.write_text(json.dumps(config))


def test_otsu_takes_no_pixel_label(walk, monkeypatch):
    monkeypatch.chdir(walk)
    arguments = ["--mode", "test", *DATA, "--experiment_name", "FCD", "--threshold", "otsu"]
    before = (walk / "outputs/FCD/results/threshold.json").read_bytes()
    monkeypatch.setattr(sys, "argv", ["main.py", *arguments])
    assert main.main() == 0
    record = json.loads((walk / "outputs/FCD/results/threshold.json").read_text())
    assert record["pixel_labels"] == 0
    metrics = json.loads((walk / "outputs/FCD/results/metrics.json").read_text())
    assert metrics["supervision"]["threshold_pixel_labels"] == 0
    (walk / "outputs/FCD/results/threshold.json").write_bytes(before)


def test_tensorboard_serves_the_curves_and_pictures(walk):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", "runs", "--port", str(port)]
    server = subprocess.Popen(
        command, cwd=walk, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        scalars = ask(f"http://127.0.0.1:{port}/data/plugin/scalars/tags", wait_for="FCDPlus1Pct")
        images = ask(f"http://127.0.0.1:{port}/data/plugin/images/tags", wait_for="FCD")
    finally:
        server.terminate()
        server.wait(20)
    assert {"D/loss_gp", "G/loss_rec_id", "val/f1"} <= set(scalars["FCD"])
    assert {"train/loss_mask", "train/loss_label", "val/f1"} <= set(scalars["FCDPlus"])
    assert "translations" in images["FCD"]


def ask(address, wait_for):
    for _ in range(120):
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:
                tags = json.load(answer)
            if wait_for in tags:
                return tags
        except OSError:
            pass
        time.sleep(0.5)
    raise AssertionError(f"{address} does not serve {wait_for}")


@pytest.mark.parametrize("network", ["ucam", pytest.param("resnet50", marks=pytest.mark.slow)])
def test_class_activation_maps_from_image_labels(walk, monkeypatch, network):
    monkeypatch.chdir(walk)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["supervised_main.py", *DATA, *arguments])
        assert supervised_main.main() == 0

    call("--mode", "train", *UNET, "--network", network, "--experiment_name", network)
    for method in ("cam", "gradcampp"):
        call("--mode", "test", "--model_weights", f"outputs/{network}/models/best.pt",
             "--cam_method", method, "--threshold", "otsu",
             "--experiment_name", f"{network}-{method}")  # fmt: skip
        results = json.loads(
            (walk / f"outputs/{network}-{method}/results/metrics.json").read_text()
        )
        assert results["supervision"] == {
            "image_labels": 48,
            "pixel_labels": 0,
            "threshold_chosen_by": results["supervision"]["threshold_chosen_by"],
            "threshold_pixel_labels": 0,
            "checkpoint_chosen_by": "best macro F1 on the validation patches' image-level labels",
            "checkpoint_pixel_labels": 0,
            "labels_from": "manual masks",
        }
        assert results["overall"]["pixels"] > 25_000


def test_the_qa_band_is_scored_as_what_it_is(walk, monkeypatch):
    monkeypatch.chdir(walk)
    arguments = ["--mode", "cfmask", *DATA, "--experiment_name", "QA"]
    monkeypatch.setattr(sys, "argv", ["main.py", *arguments])
    assert main.main() == 0
    monkeypatch.setattr(sys, "argv", ["main.py", *arguments[:-2]])
    with pytest.raises(UserError, match=r"outputs/FCD holds a trained network, .* QA"):
        main.main()
    results = json.loads((walk / "outputs/QA/results/metrics.json").read_text())
    assert results["method"] == "QA band"
    assert results["threshold"] is None
    confusion = np.zeros((2, 2), int)
    for scene in find_scenes(walk / "scenes"):
        if scene.name in split(walk, "test"):
            with scene.open() as reader:
                qa, truth = reader.qa().astype(int), reader.truth()
            cloud = ((qa >> 14) & 3 >= 2) | ((qa >> 12) & 3 >= 2)
            valid = (qa & 1 == 0) & (truth != 0)
            confusion += confusion_matrix(truth[valid] - 1, cloud[valid], labels=[0, 1])
    assert results["confusion"] == confusion.tolist()


def test_a_checkpoint_chosen_by_image_labels_needs_no_mask(walk, monkeypatch):
    monkeypatch.chdir(walk)
    for module, arguments in [
        (main, [*GAN, "--experiment_name", "I"]),
        (supervised_main, [*UNET, "--train_mask_file", "generated_mask.tif",
                           "--experiment_name", "I+"]),
    ]:  # fmt: skip
        monkeypatch.setattr(
            sys, "argv", ["x", "--mode", "train", *DATA, "--select", "image", *arguments]
        )
        assert module.main() == 0
    gan = torch.load(walk / "outputs/I/models/best.pt", weights_only=True)
    assert gan["choice"]["pixel_labels"] == 0
    assert "image-level labels" in gan["choice"]["by"]
    last = torch.load(walk / "outputs/FCD/models/latest.pt", weights_only=True)
    assert last["choice"] == {"by": "last step", "pixel_labels": 0}
    # The learning rate of a U-Net falls when the validation scores no longer rise.
    by_pixels, by_images = (
        torch.load(walk / f"outputs/{name}/models/latest.pt", weights_only=True)["choice"]
        for name in ("FCDPlus", "IPlus")
    )
    assert by_pixels["by"] == ("last step, learning rate by best macro F1 on the validation masks")
    assert by_pixels["pixel_labels"] > 0
    assert by_images["pixel_labels"] == 0
    unet = torch.load(walk / "outputs/IPlus/models/best.pt", weights_only=True)
    assert unet["choice"]["pixel_labels"] == 0
    # Its training masks came from a checkpoint that was chosen with pixel labels.
    assert unet["supervision"]["checkpoint_pixel_labels"] > 0


def test_a_threshold_belongs_to_its_score_and_zero_is_a_number(walk, monkeypatch):
    monkeypatch.chdir(walk)
    train = ["--mode", "train", *UNET, "--network", "ucam", "--experiment_name", "ucam"]
    monkeypatch.setattr(sys, "argv", ["supervised_main.py", *DATA, *train])
    assert supervised_main.main() == 0  # at once, where another test has done it
    monkeypatch.chdir(walk / "outputs/ucam/models")
    data = ["--image_dir", walk / "p", "--orig_image_dir", walk / "scenes", *DATA[4:]]
    records = []
    for flags in (["--cam_method", "cam"], ["--cam_method", "gradcampp"], ["--threshold", "0"]):
        arguments = ["--mode", "test", *data, "--model_weights", "best.pt", *flags]
        monkeypatch.setattr(sys, "argv", ["supervised_main.py", *map(str, arguments)])
        assert supervised_main.main() == 0
        records.append(json.loads(Path("outputs/FCDPlus/results/threshold.json").read_text()))
    assert [record["score"] for record in records] == ["cam", "gradcampp", "cam"]
    assert [record["choice"] for record in records] == ["f1", "f1", 0.0]
    assert records[2]["pixel_labels"] == 0
    assert json.loads(Path("outputs/FCDPlus/results/metrics.json").read_text())["threshold"] == 0
