"""SPARCS as an unseen data set: what is read, and figures that equal scikit-learn's."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import confusion_matrix, f1_score

import main
import supervised_main
from fcd.errors import SceneError, UserError
from fcd.landsat.sparcs import find_sparcs
from fcd.masks.scoring import Tiles, strips
from fcd.patches.normalisation import Normalization
from fcd.synthetic.scene import draw_scene
from fcd.training.run import RunFolder
from solver import FCDSolver, GANSize, Run, SupervisedSolver, Task
from tests.conftest import write_tif

CPU = torch.device("cpu")


def write_sparcs(root, count=2, size=64):
    """Scenes as USGS ships them; return DN and classes by name."""
    scenes = {}
    for number in range(count):
        drawn = draw_scene("Water", size, 3, index=number, cover=0.4)
        classes = np.select([drawn.truth >= 192, drawn.truth == 64], [5, 0], 2).astype(np.uint8)
        classes[:4] = [[1], [3], [4], [6]]
        write_tif(root / "sending" / f"{drawn.name}_data.tif", drawn.dn)
        Image.fromarray(classes).save(root / "sending" / f"{drawn.name}_mask.png")
        scenes[drawn.name] = drawn.dn, classes
    return scenes


def test_bands_and_classes(tmp_path):
    written = write_sparcs(tmp_path)
    scenes = find_sparcs(tmp_path)
    assert {scene.name for scene in scenes} == {*written}
    for scene in scenes:
        dn, classes = written[scene.name]
        scene.check(need_truth=True)
        with scene.open() as reader:
            assert (reader.bands(10, 20) == dn[:, 10:20]).all()
            assert (reader.truth() == np.where(classes == 5, 2, 1)).all()


def test_what_is_not_sparcs(tmp_path):
    with pytest.raises(UserError, match="no SPARCS scene below"):
        find_sparcs(tmp_path)
    write_sparcs(tmp_path, 1)
    (mask,) = (tmp_path / "sending").glob("*.png")
    classes = np.array(Image.open(mask))
    classes[5, 5] = 9
    Image.fromarray(classes).save(mask)
    (scene,) = find_sparcs(tmp_path)
    with scene.open() as reader, pytest.raises(SceneError, match=r"_mask\.png: code 9 is none of"):
        reader.truth()
    mask.rename(mask.with_suffix(".gif"))
    with pytest.raises(UserError, match=r"has no mask .*_mask\.png or _labels\.tif"):
        find_sparcs(tmp_path)


def call(monkeypatch, module, *flags):
    common = ["--mode", "test", "--dataset", "L8Sparcs", "--orig_image_dir", "sparcs"]
    monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *common, *flags, "--device", "cpu"])
    return module.main()


def expected(solver, threshold):
    """Confusion of all scenes, from the network and scikit-learn."""
    truths, predictions = [], []
    for scene in find_sparcs("sparcs"):
        classes = np.array(Image.open(scene.truth))
        score = np.concatenate(
            [s.score for s in strips(solver.scorer(), scene, Tiles.of(solver.scorer()))]
        )
        truths.append(classes.ravel() == 5)
        predictions.append(score.ravel() > threshold)
    truth, prediction = np.concatenate(truths), np.concatenate(predictions)
    cells = confusion_matrix(truth, prediction).tolist()
    return cells, f1_score(truth, prediction, average="macro")


def check(solver, threshold):
    results = json.loads((solver.run.folder.results / "L8Sparcs/metrics.json").read_text())
    cells, f1 = expected(solver, threshold)
    assert results["confusion"] == cells
    assert results["overall"]["macro"]["f1"] == pytest.approx(f1)
    assert results["overall"]["pixels"] == 2 * 64 * 64
    assert set(results["biomes"]) == {"L8Sparcs"}
    assert not (solver.run.folder.results / "metrics.json").exists()
    return results


def test_fcd_takes_the_threshold_chosen_before(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_sparcs(tmp_path / "sparcs")
    size, normalization = GANSize(4, 1, 4, 3), Normalization.paper(10)
    solver = FCDSolver(Run(RunFolder("FCD"), CPU), size, 32, normalization)
    solver.save("best")
    with pytest.raises(UserError, match="no threshold is known"):
        call(monkeypatch, main)
    scores = np.concatenate(
        [
            s.score
            for s in strips(solver.scorer(), find_sparcs("sparcs")[0], Tiles.of(solver.scorer()))
        ]
    )
    middle = round(float(np.median(scores)), 4)
    record = {
        "threshold": middle, "chosen_by": "best of all", "pixel_labels": 7,
        "score": solver.score_name, "weights": solver.fingerprint(),
    }  # fmt: skip
    path = solver.run.folder.results / "threshold.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(record))
    assert call(monkeypatch, main) == 0
    results = check(solver, middle)
    assert 0.2 < np.sum(results["confusion"], axis=0)[1] / 8192 < 0.8  # both classes are predicted
    assert results["supervision"]["threshold_chosen_by"] == "best of all"
    assert results["supervision"]["threshold_pixel_labels"] == 7
    assert json.loads(path.read_text()) == record
    assert call(monkeypatch, main, "--threshold", "0.001") == 0
    assert check(solver, 0.001)["supervision"]["threshold_pixel_labels"] == 0
    assert json.loads(path.read_text()) == record
    with pytest.raises(UserError, match="on --dataset L8Sparcs nothing is chosen"):
        call(monkeypatch, main, "--threshold", "otsu")
    for mode in ("train", "generate_masks"):
        with pytest.raises(UserError, match="--dataset L8Sparcs has no patches"):
            call(monkeypatch, main, "--mode", mode)
    with pytest.raises(UserError, match="--mode cfmask needs QA bands"):
        call(monkeypatch, main, "--mode", "cfmask")


def test_a_unet_takes_one_half(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_sparcs(tmp_path / "sparcs")
    run = Run(RunFolder("FCD+"), CPU)
    solver = SupervisedSolver(run, Task(encoder="slim18"), 32, Normalization.paper(10))
    solver.network.eval()
    solver.save("best")
    assert call(monkeypatch, supervised_main) == 0
    assert check(solver, 0.5)["supervision"]["threshold_chosen_by"] == "0.5, fixed"
