"""Evaluations of hand-made scenes, for the tests of the report and the comparison."""

import numpy as np

from fcd.landsat import labels
from fcd.patches.supervision import Supervision
from fcd.report.evaluation import Evaluation, SceneEvaluation

WEAK = Supervision(300, 0, "best macro F1 on 8 patches", 1000, "best validation macro F1", 2000)
LABEL_FREE = Supervision(300, 0, "Otsu's threshold", 0, "last epoch", 0)


def scene(seed, cloud=True, size=(60, 70)):
    """RGB (3, h, w) DN, truth (h, w) patch codes, score (h, w) in [0, 1]; a corner is fill."""
    rng = np.random.default_rng(seed)
    truth = np.where(rng.random(size) < 0.4 * cloud, labels.CLOUD, labels.CLEAR).astype(np.uint8)
    truth[:10, :10] = labels.INVALID
    rgb = rng.integers(6000, 20000, (3, *size), np.uint16) * (truth > 0)
    score = np.clip(rng.normal(0.3 + 0.3 * (truth == labels.CLOUD), 0.15), 0, 1)
    return rgb, truth, score.astype(np.float32)


def evaluate_scene(name, biome, rgb, truth, score, threshold, rows=16):
    """Feed a scene strip by strip."""
    evaluation = SceneEvaluation(name, biome, *truth.shape, threshold)
    mask = labels.patch_from_score(score, truth > 0, 0.5 if threshold is None else threshold)
    for row in range(0, len(truth), rows):
        strip = slice(row, row + rows)
        part = score[strip] if threshold is not None else None
        evaluation.add(row, rgb[:, strip], truth[strip], mask[strip], part)
    return evaluation.result(), mask


def write_run(
    folder, method="FCD", seed=0, threshold=0.5, supervision=WEAK, biomes=("Forest", "SnowIce")
):
    """Evaluate two scenes of each biome, one without cloud; return the report's path."""
    evaluation = Evaluation(folder / "results", method, threshold, supervision)
    for index, biome in enumerate(biomes):
        for cloud in (False, True):
            arrays = scene(seed + 10 * index + cloud, cloud)
            name = f"LC8{index}{int(cloud)}"
            evaluation.add(evaluate_scene(name, biome, *arrays, threshold)[0])
    evaluation.write({"experiment_name": folder.name, "note": "<script>alert(1)</script>"})
    return evaluation.report
