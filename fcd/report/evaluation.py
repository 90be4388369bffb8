"""One run's evaluation -> metrics.json, metrics.csv, pictures and one self-contained HTML page.

The scenes come strip by strip (`SceneEvaluation`), so that a full-size scene never sits in
memory; what stays of each is its counts and a few small pictures.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from fcd import files, metrics, pictures
from fcd.landsat import labels
from fcd.landsat.reference import NAMES, TRUTH, Reference
from fcd.landsat.scenes import Scene
from fcd.masks.prediction import Prediction
from fcd.patches.supervision import Supervision
from fcd.processes import ALONE, Processes
from fcd.report.results import number, picture_path, score_range, score_table

PICTURE_SIZE = 512  # longest side of a scene's pictures, pixels


@dataclass(frozen=True)
class SceneResult:
    """What is kept of one evaluated scene."""

    name: str
    biome: str
    counts: np.ndarray
    """Confusion counts (2, 2) int64, rows truth, order clear, cloud."""
    histogram: np.ndarray | None
    """Score counts (2, BINS) int64 of `fcd.metrics.histogram`; None for a method without score."""
    pictures: dict[str, np.ndarray]
    """RGB (h, w, 3) uint8, at most 512 pixels long, by name of `fcd.report.results.PICTURES`."""

    @property
    def key(self) -> str:
        """``<biome>_<scene>``, as `fcd.landsat.scenes.Scene.key`."""
        return f"{self.biome}_{self.name}"


class SceneEvaluation:
    """Counts and small pictures of one scene, gathered strip by strip.

    threshold: that of the mask, in [0, 1]; None for a method without a score.
    """

    def __init__(
        self, name: str, biome: str, height: int, width: int, threshold: float | None
    ) -> None:
        self._name, self._biome, self._threshold = name, biome, threshold
        self._step = -(-max(height, width) // PICTURE_SIZE)
        self._counts = np.zeros((2, 2), np.int64)
        self._histogram = None
        if threshold is not None:
            self._histogram = np.zeros((2, metrics.BINS), np.int64)
        self._codes: list[np.ndarray] = []  # truth and prediction
        self._rgb, self._score = pictures.Shrunk(self._step), pictures.Shrunk(self._step)

    def add(
        self,
        row: int,
        rgb: np.ndarray,
        truth: np.ndarray,
        prediction: np.ndarray,
        score: np.ndarray | None = None,
    ) -> None:
        """Add h rows that begin at `row` of the scene; strips come from top to bottom.

        rgb (3, h, W) DN, truth and prediction (h, W) uint8 patch codes, score (h, W) float in
        [0, 1], needed when there is a threshold. Pixels invalid in truth or prediction do not
        count.
        """
        self._counts += metrics.confusion(truth, prediction)
        if self._histogram is not None:
            if score is None:
                raise ValueError("a scene with a threshold needs the score")
            counted = np.where(prediction == labels.INVALID, labels.INVALID, truth)
            self._histogram += metrics.histogram(counted, score)
        codes = np.stack([truth, prediction])
        self._codes.append(codes[:, -row % self._step :: self._step, :: self._step].copy())
        self._rgb.add(rgb, prediction != labels.INVALID)
        if score is not None:
            self._score.add(score, prediction != labels.INVALID)

    def result(self) -> SceneResult:
        """The scene's counts and pictures."""
        truth, prediction = np.concatenate(self._codes, axis=-2)
        valid = prediction != labels.INVALID
        shown = {
            "image": pictures.stretch_rgb(self._rgb.result(), valid),
            "truth": pictures.colour_mask(truth),
            "mask": pictures.colour_mask(prediction),
            "error": pictures.colour_errors(truth, prediction),
        }
        if self._threshold is not None:
            upper = score_range(self._threshold)
            shown["score"] = pictures.colour_score(self._score.result(), upper, valid)
        return SceneResult(self._name, self._biome, self._counts, self._histogram, shown)


@dataclass
class Evaluation:
    """Pools scenes and writes the results of one run into `results_dir`.

    threshold: that of the mask, in [0, 1]; None for a method without a score.
    reference: what the masks are compared with, `fcd.landsat.reference.TRUTH` or `QA`.
    """

    results_dir: Path
    method: str
    threshold: float | None
    supervision: Supervision
    reference: str = TRUTH
    _scenes: dict[str, SceneResult] = field(default_factory=dict, init=False)

    def add(self, result: SceneResult) -> None:
        """Take a scene in; its pictures are written at once, its counts kept."""
        for name, rgb in result.pictures.items():
            pictures.write_png(picture_path(self.results_dir, result.key, name), rgb)
        self._scenes[result.key] = replace(result, pictures={})

    def merge(self, other: "Evaluation") -> None:
        """Take in the scenes of `other`, whose pictures are written."""
        self._scenes |= other._scenes

    @property
    def _histogram(self) -> np.ndarray | None:
        """Score counts (2, BINS) of all scenes; None if there is no score."""
        counts = [s.histogram for s in self._scenes.values() if s.histogram is not None]
        return np.sum(counts, axis=0) if counts else None

    def results(self, config: dict[str, Any]) -> dict[str, Any]:
        """What goes into metrics.json; a figure that is not defined is None."""
        biomes: dict[str, np.ndarray] = {}
        for scene in self._scenes.values():
            biomes[scene.biome] = biomes.get(scene.biome, 0) + scene.counts
        total = sum(biomes.values(), np.zeros((2, 2), np.int64))
        overall = metrics.scores(total)
        return {
            "method": self.method,
            "experiment": config.get("experiment_name", self.method),
            "reference": NAMES[self.reference],
            "threshold": self.threshold,
            "supervision": asdict(self.supervision),
            "overall": overall,
            "biomes": {biome: metrics.scores(biomes[biome]) for biome in sorted(biomes)},
            "scenes": {
                key: {"biome": scene.biome, **metrics.scores(scene.counts)}
                for key, scene in sorted(self._scenes.items())
            },
            "confusion": total.tolist(),
            "confusion_by_scene": {
                key: scene.counts.tolist() for key, scene in sorted(self._scenes.items())
            },
            "thresholds": self._thresholds(overall["macro"]["f1"]),
        }

    def _thresholds(self, macro_f1: float | None) -> dict[str, dict[str, float | None]] | None:
        """`macro_f1`, that of the chosen threshold, and macro F1 at Otsu's and at the best."""
        counts = self._histogram
        if self.threshold is None or counts is None or not counts.any():
            return None
        f1 = metrics.macro_f1_by_threshold(counts)
        values = {
            "otsu": metrics.otsu_threshold(counts.sum(axis=0)),
            "best": metrics.best_threshold(counts)[0],
        }
        # A number that was given as a threshold may lie beside the grid of the histogram.
        return {"chosen": {"value": self.threshold, "macro_f1": macro_f1}} | {
            name: {"value": value, "macro_f1": float(f1[metrics.threshold_bin(value)])}
            for name, value in values.items()
        }

    @property
    def report(self) -> Path:
        """Where the page is written."""
        return self.results_dir / "report.html"

    def write(self, config: dict[str, Any]) -> dict[str, Any]:
        """Write metrics.json, metrics.csv and report.html; return what is in metrics.json.

        config: the run's flags and versions, shown in the report.
        """
        from fcd.report import run_page  # with all its libraries, which no other step needs

        results = self.results(config)
        files.write_json(self.results_dir / "metrics.json", results)
        table = score_table(results).to_csv(index=False, lineterminator="\r\n")
        files.write_text(self.results_dir / "metrics.csv", table)
        text = run_page.report_page(results, self._histogram, config, self.results_dir)
        files.write_text(self.report, text)
        return results


def evaluate(
    scenes: list[Scene],
    predict: Callable[[Scene], Iterator[Prediction]],
    evaluation: Evaluation,
    config: dict[str, Any],
    processes: Processes = ALONE,
) -> None:
    """Compare the predictions of `scenes` with their reference; write the results and say where.

    Each of the `processes` takes its share of the scenes; the first one writes.
    Raises `SceneError`, before any scene is predicted, if one is incomplete.
    """
    references = [Reference(scene, evaluation.reference) for scene in scenes]
    grids = [reference.check() for reference in references]
    pairs = processes.share(list(zip(references, grids, strict=True)))
    bar = tqdm(pairs, "evaluating", unit="scene", dynamic_ncols=True, disable=not processes.first)
    for reference, grid in bar:
        scene = reference.scene
        result = SceneEvaluation(
            scene.name, scene.biome, grid.height, grid.width, evaluation.threshold
        )
        with scene.open() as reader:
            for p in predict(scene):
                truth = reference.mask(reader, p.row, p.row + len(p.mask))
                result.add(p.row, p.rgb, truth, p.mask, p.score)
        evaluation.add(result.result())
    _, *others = processes.gather(evaluation)
    if not processes.first:
        return
    for other in others:
        evaluation.merge(other)
    overall = evaluation.write(config)["overall"]
    print(
        f"{evaluation.method}, {len(scenes)} scenes against their {NAMES[evaluation.reference]}: "
        f"accuracy {number(overall['accuracy'], 2)} %, "
        f"macro F1 {number(overall['macro']['f1'], 2)} %, "
        f"IoU of cloud {number(overall['cloud']['iou'], 2)} %\nreport: {evaluation.report}"
    )
