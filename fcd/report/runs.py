"""The evaluated runs that are compared: read, checked, and put together by method."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcd import files
from fcd.errors import UserError
from fcd.landsat.reference import NAMES, TRUTH
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
class Run:
    """One evaluated run: its folder and the content of its metrics.json."""

    folder: Path
    metrics: dict[str, Any]

    def figures(self, scope: str) -> list[float | None]:
        """The `FIGURES` of `scope`, which is `OVERALL` or a biome."""
        biomes = self.metrics["biomes"]
        scores = self.metrics["overall"] if scope == OVERALL else biomes.get(scope, {})
        return [results.flat(scores).get(figure) for figure in FIGURES]


@dataclass(frozen=True)
class Method:
    """One row of the table: all runs of a method."""

    name: str
    runs: list[Run]

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


def read_run(folder: Path) -> Run:
    """Read the evaluation of the run in `folder`; `UserError` says how to make a missing one."""
    path = folder / "results" / "metrics.json"
    name = folder.name.replace("Plus", "+")
    command = f"python main.py --mode test --experiment_name {name}"
    remedy = f"make it with `{command}` (supervised_main.py for a supervised run)"
    if not path.is_file():
        raise UserError(f"{path} is missing; {remedy}")
    try:
        metrics = files.read_json(path)
        _check(metrics, path)
    except UserError as error:
        raise UserError(f"{path} is damaged ({error}); {remedy}") from error
    return Run(folder, metrics)


def _check(metrics: dict[str, Any], path: Path) -> None:
    """Raise `UserError` unless `metrics` hold what the tables and figures take from them."""
    files.from_plain(Supervision, metrics.get("supervision"), path)
    groups = {"overall": {"all": metrics.get("overall")}} | {
        name: metrics.get(name) for name in ("biomes", "scenes")
    }
    wrong = [name for name, scores in groups.items() if not _are_scores(scores)]
    wrong += [] if _is_share(metrics.get("threshold", "")) else ["threshold"]
    texts = {"method": metrics.get("method"), "reference": metrics.get("reference", NAMES[TRUTH])}
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


def _is_share(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and 0 <= value <= 1)


def group(runs: Sequence[Run]) -> list[Method]:
    """Runs of one method together, methods in the order of their first run."""
    methods: dict[str, list[Run]] = {}
    for run in runs:
        methods.setdefault(run.metrics["method"], []).append(run)
    return [Method(name, members) for name, members in methods.items()]


def biomes(methods: Sequence[Method]) -> list[str]:
    """Every biome that any run was evaluated on, sorted."""
    return sorted(
        {biome for method in methods for run in method.runs for biome in run.metrics["biomes"]}
    )


def warnings(methods: Sequence[Method]) -> list[str]:
    """What keeps the rows from being comparable, or from being accuracies, in words."""
    notes = results.reference_notes([run.metrics for method in methods for run in method.runs])
    sets = {tuple(sorted(run.metrics["scenes"])) for method in methods for run in method.runs}
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
