"""The weights in weights/: what they are, what they have cost, and that they find drawn clouds."""

import csv

import numpy as np
import pytest
import rasterio

import supervised_main
from fcd import metrics
from fcd.landsat import labels
from fcd.landsat.bands import listed_bands
from fcd.patches.supervision import DRAWN
from fcd.synthetic.layout import write_scene
from fcd.synthetic.scene import draw_scene
from solver import load_solver
from tests.conftest import ROOT

BANDS = {
    "starter-thermal": listed_bands("B2-B7,B9,B10,SUN", "--train_bands", sun=True),
    "starter": listed_bands("B2-B7,B9,SUN", "--train_bands", sun=True),
}


def test_they_are_small():
    found = {path.stem: path.stat().st_size for path in (ROOT / "weights").glob("*.pt")}
    assert found.keys() == BANDS.keys()
    assert sum(found.values()) <= 15e6


@pytest.mark.parametrize("name", BANDS)
def test_they_have_cost_no_pixel_label(name):
    solver = load_solver(ROOT / f"weights/{name}.pt", "cpu")
    assert solver.normalization.bands == BANDS[name]
    seen = solver.seen
    assert seen.labels_from == DRAWN
    assert (seen.image_labels, seen.pixel_labels) == (0, 0)
    assert (seen.threshold_pixel_labels, seen.checkpoint_pixel_labels) == (0, 0)
    assert solver.choice.pixel_labels == 0
    assert 0.1 < solver.predictor().threshold < 0.5


def test_they_mask_scenes_without_training(tmp_path, monkeypatch, call):
    """Drawn scenes of other seeds: one whole, one whose thermal bands are fill."""
    monkeypatch.chdir(tmp_path)
    scenes = [draw_scene("Wetlands", 128, 77, index=n, cover=0.4, variety="wide") for n in (2, 5)]
    for scene in scenes:
        write_scene(scene, tmp_path / "scenes" / scene.name)
    for band in ("B10", "B11"):
        path = tmp_path / "scenes" / scenes[1].name / f"{scenes[1].name}_{band}.TIF"
        with rasterio.open(path, "r+") as dataset:
            dataset.write(np.zeros_like(dataset.read()))
    arguments = ["--mode", "predict", "--model_weights", "starter", "--device", "cpu"]
    paths = [f"scenes/{scene.name}" for scene in scenes]
    assert call(supervised_main, *arguments, "--scenes", *paths, "--output_dir", "masks")[0] == 0
    with open("masks/summary.csv", newline="") as stream:
        weights = {row["scene"]: row["weights"] for row in csv.DictReader(stream)}
    assert list(weights.values()) == ["starter-thermal.pt", "starter.pt"]
    for scene in scenes:
        with rasterio.open(f"masks/{scene.name}_mask.tif") as dataset:
            mask = labels.patch_from_tif(dataset.read(1))
        counts = metrics.confusion(labels.patch_from_truth(scene.truth), mask)
        assert metrics.scores(counts)["macro"]["f1"] > 0.65
