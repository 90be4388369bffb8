"""The evaluated runs that are compared: read, checked, and put together by method.

Runs of a method over other scenes are its folds, which are pooled; over the same scenes, its seeds.
"""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fcd import files, metrics
from fcd.errors import UserError
from fcd.landsat.reference import NAMES, TRUTH
from fcd.patches.crops import Crop
from fcd.patches.supervision import UNKNOWN, Supervision
from fcd.report import results

FIGURES = {name: results.FIGURES[name] for name in ("accuracy", "macro_f1", "cloud_iou")}
OVERALL = "Overall"
LABELS = {"image_labels": "Image labels", "pixel_labels": "Pixel labels"}
CHOICES = {
    "threshold": "Threshold chosen with pixel labels",
    "checkpoint": "Checkpoint chosen with pixel labels",
}
PUBLISHED_COLUMNS = ("method", *FIGURES, "split", "source")


@dataclass(frozen=True)
class Sample:
    """What a run was tested on: a scene, or a crop of one."""

    biome: str
    scene: str
    counts: np.ndarray
    """Confusion counts (2, 2) int64 of `fcd.metrics.confusion`."""


@dataclass(frozen=True)
class Run:
    """One evaluated run: its folder, the content of its metrics.json, and what it was tested on."""

    folder: Path
    metrics: dict[str, Any]
    tested: dict[str, Sample]
    """By key: that of its pictures."""


@dataclass(frozen=True)
class Repetition:
    """One evaluation of a method on all scenes: a run, or the runs of its folds."""

    folds: list[Run]

    @property
    def tested(self) -> dict[str, Sample]:
        """What the folds were tested on, by key."""
        return {key: value for run in self.folds for key, value in run.tested.items()}

    def run_of(self, key: str) -> Run:
        """The fold that tested `key`."""
        return next(run for run in self.folds if key in run.tested)

    def figures(self, scope: str) -> list[float | None]:
        """The `FIGURES` of the pooled pixels of `scope`, which is `OVERALL` or a biome."""
        return self._figures.get(scope, [None] * len(FIGURES))

    @cached_property
    def _figures(self) -> dict[str, list[float | None]]:
        """By scope: every table and plot of a comparison asks for them."""
        counts = self._pooled(lambda tested: {OVERALL, tested.biome})
        scores = {scope: results.flat(metrics.scores(pooled)) for scope, pooled in counts.items()}
        return {scope: [flat[figure] for figure in FIGURES] for scope, flat in scores.items()}

    def by_scene(self) -> dict[str, np.ndarray]:
        """Confusion counts (2, 2) of each scene, those of its crops together."""
        return self._pooled(lambda tested: {tested.scene})

    def _pooled(self, keys: Callable[[Sample], set[str]]) -> dict[str, np.ndarray]:
        """Confusion counts (2, 2) of what was tested, together under each of its `keys`."""
        counts: dict[str, np.ndarray] = {}
        for tested in self.tested.values():
            for key in keys(tested):
                counts[key] = counts.get(key, 0) + tested.counts
        return counts


@dataclass(frozen=True)
class Method:
    """One row of the table: all runs of a method."""

    name: str
    repetitions: list[Repetition]

    @property
    def runs(self) -> list[Run]:
        """The runs of all repetitions."""
        return [run for repetition in self.repetitions for run in repetition.folds]

    @property
    def count(self) -> str:
        """How many runs: repetitions, and of how many folds."""
        folds = max(len(repetition.folds) for repetition in self.repetitions)
        return f"{len(self.repetitions)}" + f" × {folds} folds" * (folds > 1)

    @property
    def supervision(self) -> dict[str, Any]:
        """That of the first run."""
        return self.runs[0].metrics["supervision"]

    def labels(self, kind: str) -> str:
        """How many labels of `kind` (of `LABELS`) a run used, or their range."""
        counts = sorted({run.metrics["supervision"][kind] for run in self.runs})
        return "–".join(f"{count:,}" for count in dict.fromkeys((counts[0], counts[-1])))

    def chosen_with_pixel_labels(self, choice: str) -> str:
        """Whether `choice` (of `CHOICES`) of any run used pixel labels: yes, no, or unknown."""
        seen = [run.metrics["supervision"] for run in self.runs]
        if any(supervision[f"{choice}_pixel_labels"] for supervision in seen):
            return "yes"
        unknown = any(UNKNOWN in supervision[f"{choice}_chosen_by"] for supervision in seen)
        return UNKNOWN if unknown else "no"


def read_run(folder: Path, crops: Mapping[str, Crop] | None = None) -> Run:
    """Read the evaluation of the run in `folder`; `UserError` says how to make a missing one.

    crops: what was tested, by name; None: scenes. Raises `UserError` also if one is not among them.
    """
    path = folder / "results" / "metrics.json"
    name = folder.name.replace("Plus", "+")
    command = f"python main.py --mode test --experiment_name {name}"
    remedy = f"make it with `{command}` (supervised_main.py for a supervised run)"
    if not path.is_file():
        raise UserError(f"{path} is missing; {remedy}")
    try:
        content = files.read_json(path)
        _check(content, path)
    except UserError as error:
        raise UserError(f"{path} is damaged ({error}); {remedy}") from error
    tested = {}
    for key, scores in content["scenes"].items():
        biome, scene = scores["biome"], key
        if crops is not None:
            name = key.removeprefix(f"{biome}_")
            if name not in crops:
                raise UserError(f"{path} tests {name}, which --crops does not list")
            biome, scene = crops[name].biome, crops[name].scene
        tested[key] = Sample(biome, scene, np.array(content["confusion_by_scene"][key]))
    return Run(folder, content, tested)


def _check(content: dict[str, Any], path: Path) -> None:
    """Raise `UserError` unless `content` hold what the tables and figures take from them."""
    files.from_plain(Supervision, content.get("supervision"), path)
    groups = {"overall": {"all": content.get("overall")}} | {
        name: content.get(name) for name in ("biomes", "scenes")
    }
    wrong = [name for name, scores in groups.items() if not _are_scores(scores)]
    wrong += [] if _is_share(content.get("threshold", "")) else ["threshold"]
    wrong += [] if _are_counts(content) else ["confusion_by_scene"]
    texts = {"method": content.get("method"), "reference": content.get("reference", NAMES[TRUTH])}
    wrong += [name for name, text in texts.items() if not isinstance(text, str)]
    if wrong:
        raise UserError(f"no evaluation: {', '.join(wrong)}")


def _are_scores(by_name: Any) -> bool:
    """Whether these are the scores of biomes or scenes, each a share or None."""
    return isinstance(by_name, dict) and all(
        isinstance(scores, dict)
        and _is_share(scores.get("accuracy", ""))
        and all(_is_share(results.flat(scores).get(figure)) for figure in FIGURES)
        for scores in by_name.values()
    )


def _are_counts(content: dict[str, Any]) -> bool:
    """Whether each scene has its biome and its confusion counts."""
    scenes, counts = content.get("scenes"), content.get("confusion_by_scene")
    if not isinstance(scenes, dict) or not isinstance(counts, dict) or {*counts} != {*scenes}:
        return False
    if not all(isinstance(s, dict) and isinstance(s.get("biome"), str) for s in scenes.values()):
        return False
    return all(
        isinstance(rows, list)
        and len(rows) == 2
        and all(isinstance(row, list) and len(row) == 2 for row in rows)
        and all(type(value) is int and value >= 0 for row in rows for value in row)
        for rows in counts.values()
    )


def _is_share(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and 0 <= value <= 1)


def group(runs: Sequence[Run]) -> list[Method]:
    """Runs of one method together, methods in the order of their first run.

    A run joins the first repetition that has tested none of its scenes; if there is none, it
    begins another one.
    """
    methods: dict[str, list[Repetition]] = {}
    for run in runs:
        found = methods.setdefault(run.metrics["method"], [])
        scenes = {tested.scene for tested in run.tested.values()}
        for repetition in found:
            if scenes.isdisjoint(tested.scene for tested in repetition.tested.values()):
                repetition.folds.append(run)
                break
        else:
            found.append(Repetition([run]))
    return [Method(name, repetitions) for name, repetitions in methods.items()]


def biomes(methods: Sequence[Method]) -> list[str]:
    """Every biome that any run was evaluated on, sorted."""
    tested = (t for method in methods for run in method.runs for t in run.tested.values())
    return sorted({t.biome for t in tested})


def warnings(methods: Sequence[Method]) -> list[str]:
    """What keeps the rows from being comparable, or from being accuracies, in words."""
    notes = results.reference_notes([run.metrics for method in methods for run in method.runs])
    sets = {frozenset(r.tested) for method in methods for r in method.repetitions}
    if len(sets) > 1:
        notes.append(
            "The runs were evaluated on different scenes: their figures cannot be compared. "
            "Evaluate them on one split."
        )
    return notes


def read_published(path: Path) -> list[dict[str, str]]:
    """Figures of others, in per cent; `UserError` unless each names its source and its split."""
    if not path.is_file():
        raise UserError(f"--published {path} is no file")
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"--published {path} cannot be read: {error}") from error
    for line, row in enumerate(rows, 2):
        missing = [name for name in PUBLISHED_COLUMNS if row.get(name) is None]
        missing += [
            name for name in ("method", "split", "source") if not (row.get(name) or "").strip()
        ]
        if missing:
            raise UserError(f"{path}, line {line}: no {', '.join(dict.fromkeys(missing))}")
    return rows
