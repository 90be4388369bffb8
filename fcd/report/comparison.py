"""Gather the evaluations of many runs into one table, one figure and one page.

    python -m fcd.comparison outputs/FCD outputs/FCDPlus … --output_dir outputs/comparison

Runs of the same method (other seeds) become one row: mean ± sample standard deviation.
"""

import csv
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from fcd import files
from fcd.errors import UserError
from fcd.landsat.reference import NAMES, TRUTH
from fcd.patches.supervision import UNKNOWN, Supervision
from fcd.report import page, plots
from fcd.report.run_page import (
    flat,
    picture_path,
    reference_caption,
    reference_notes,
    score_range,
    supervision_note,
)

FIGURES = {"accuracy": "Accuracy", "macro_f1": "Macro F1", "cloud_iou": "Cloud IoU"}
OVERALL = "Overall"
CHOICES = ("threshold", "checkpoint")
PUBLISHED_COLUMNS = ("method", *FIGURES, "split", "source")


@dataclass(frozen=True)
class Run:
    """One evaluated run: its folder and the content of its metrics.json."""

    folder: Path
    metrics: dict[str, Any]

    @property
    def results(self) -> Path:
        """The folder of metrics.json and the pictures."""
        return self.folder / "results"


@dataclass(frozen=True)
class Estimate:
    """Mean over runs and sample standard deviation; None where not defined."""

    mean: float | None
    spread: float | None

    @classmethod
    def of(cls, values: Iterable[float | None]) -> "Estimate":
        """Estimate from one value per run; runs where the figure is not defined are left out."""
        known = [value for value in values if value is not None]
        return cls(
            statistics.mean(known) if known else None,
            statistics.stdev(known) if len(known) > 1 else None,
        )

    def text(self) -> str:
        """In per cent: ``93.41 ± 0.20``, ``93.41`` for a single run, or a dash."""
        spread = "" if self.spread is None else f" ± {page.number(self.spread, 2)}"
        return page.number(self.mean, 2) + spread


@dataclass(frozen=True)
class Method:
    """One row of the table: all runs of a method."""

    name: str
    runs: list[Run]

    def estimate(self, scope: str, figure: str) -> Estimate:
        """`figure` (of `FIGURES`) of `scope`, which is `OVERALL` or a biome."""
        return Estimate.of(flat(_scope(run, scope)).get(figure) for run in self.runs)

    def labels(self, kind: str) -> str:
        """How many labels of `kind` a run used (a field of `Supervision`), or their range."""
        counts = sorted({run.metrics["supervision"][kind] for run in self.runs})
        return "–".join(f"{count:,}" for count in dict.fromkeys((counts[0], counts[-1])))

    def chosen_with_pixel_labels(self, choice: str) -> str:
        """Whether `choice` ("threshold" or "checkpoint") of any run used pixel labels.

        yes, no, or unknown.
        """
        seen = [run.metrics["supervision"] for run in self.runs]
        if any(supervision[f"{choice}_pixel_labels"] for supervision in seen):
            return "yes"
        unknown = any(UNKNOWN in supervision[f"{choice}_chosen_by"] for supervision in seen)
        return UNKNOWN if unknown else "no"


def _scope(run: Run, scope: str) -> dict[str, Any]:
    return run.metrics["overall"] if scope == OVERALL else run.metrics["biomes"].get(scope, {})


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
    if not isinstance(by_name, dict):
        return False
    return all(
        isinstance(scores, dict)
        and _is_share(scores.get("accuracy", ""))
        and all(_is_share(flat(scores).get(figure)) for figure in FIGURES)
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


def common_scenes(methods: Sequence[Method]) -> list[str]:
    """Keys of the scenes all runs were evaluated on, lowest mean accuracy first."""
    scenes = [run.metrics["scenes"] for method in methods for run in method.runs]
    keys = set.intersection(*map(set, scenes))

    def accuracy(key: str) -> tuple[float, str]:
        mean = Estimate.of(scores[key]["accuracy"] for scores in scenes).mean
        return (1.0 if mean is None else mean, key)

    return sorted(keys, key=accuracy)


def warnings(methods: Sequence[Method]) -> list[str]:
    """What keeps the rows from being comparable, or from being accuracies, in words."""
    notes = reference_notes([run.metrics for method in methods for run in method.runs])
    sets = {tuple(sorted(run.metrics["scenes"])) for method in methods for run in method.runs}
    if len(sets) < 2:
        return notes
    return [
        *notes,
        "The runs were evaluated on different scenes: their figures cannot be compared. "
        "Evaluate them on one split.",
    ]


# --- tables -----------------------------------------------------------------------------------

_SUPERVISION = (
    "Image labels",
    "Pixel labels",
    "Threshold chosen with pixel labels",
    "Checkpoint chosen with pixel labels",
)


def overall_table(methods: Sequence[Method]) -> list[list[str]]:
    """Header and one row per method: figures over all scenes, and supervision."""
    header = ["Method", "Runs", *FIGURES.values(), *_SUPERVISION]
    return [header] + [
        [
            method.name,
            str(len(method.runs)),
            *(method.estimate(OVERALL, figure).text() for figure in FIGURES),
            method.labels("image_labels"),
            method.labels("pixel_labels"),
            *map(method.chosen_with_pixel_labels, CHOICES),
        ]
        for method in methods
    ]


def biome_table(methods: Sequence[Method]) -> list[list[str]]:
    """Header and one row per method: macro F1 by biome."""
    columns = biomes(methods)
    return [["Method", *columns]] + [
        [method.name, *(method.estimate(biome, "macro_f1").text() for biome in columns)]
        for method in methods
    ]


def terminal_table(methods: Sequence[Method]) -> str:
    """The table of the terminal: figures, labels trained on, choices made with pixel labels."""
    columns = ("Method", "Runs", *FIGURES.values(), "Image labels", "Pixel labels")
    lines = [row[: len(columns)] for row in overall_table(methods)]
    lines[0].append("Chosen with pixel labels")
    for line, method in zip(lines[1:], methods, strict=True):
        answers = {choice: method.chosen_with_pixel_labels(choice) for choice in CHOICES}
        named = {"yes": "", UNKNOWN: f" ({UNKNOWN})"}
        choices = (c + named[answer] for c, answer in answers.items() if answer in named)
        line.append(", ".join(choices) or "nothing")
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def markdown(table: list[list[str]]) -> str:
    """`table` in Markdown."""
    header, *rows = [[cell.replace("|", "\\|") for cell in row] for row in table]
    ruler = [":--"] + ["--:"] * (len(header) - 1)
    return "".join(f"| {' | '.join(row)} |\n" for row in (header, ruler, *rows))


def latex(table: list[list[str]]) -> str:
    """`table` as a LaTeX tabular (package booktabs)."""
    header, *rows = [[_latex_text(cell) for cell in row] for row in table]
    lines = [
        f"\\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
        "\\toprule",
        " & ".join(header) + r" \\",
        "\\midrule",
        *(" & ".join(row) + r" \\" for row in rows),
        "\\bottomrule",
        "\\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _latex_text(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {character: f"\\{character}" for character in "&%$#_{}"}
    special |= {"±": r"$\pm$", "–": "--"}
    return "".join(special.get(character, character) for character in text)


def _write_csv(path: Path, methods: Sequence[Method]) -> None:
    """One line per method and scope; figures in [0, 1], empty where not defined."""
    figures = [f"{figure}_{part}" for figure in FIGURES for part in ("mean", "std")]
    with files.replacing(path) as temporary, temporary.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["method", "runs", "scope", *figures, *map(_snake, _SUPERVISION)])
        for method, row in zip(methods, overall_table(methods)[1:], strict=True):
            supervision = [cell.replace(",", "") for cell in row[-len(_SUPERVISION) :]]
            for scope in (OVERALL, *biomes(methods)):
                estimates = [method.estimate(scope, figure) for figure in FIGURES]
                values = [value for e in estimates for value in (e.mean, e.spread)]
                writer.writerow([method.name, len(method.runs), scope, *values, *supervision])


def _snake(name: str) -> str:
    return name.lower().replace(" ", "_")


def read_published(path: Path) -> list[dict[str, str]]:
    """Figures of others, in per cent; `UserError` unless each names its source and its split."""
    if not path.is_file():
        raise UserError(f"--published {path} is no file")
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"--published {path} cannot be read: {error}") from error
    for number, row in enumerate(rows, 2):
        missing = [name for name in PUBLISHED_COLUMNS if row.get(name) is None]
        missing += [
            name for name in ("method", "split", "source") if not (row.get(name) or "").strip()
        ]
        if missing:
            raise UserError(f"{path}, line {number}: no {', '.join(dict.fromkeys(missing))}")
    return rows


# --- the page and the command -----------------------------------------------------------------


def _panels(methods: Sequence[Method]) -> dict[str, list[plots.Bar]]:
    """Macro F1 of every method, overall and by biome."""
    scopes = (OVERALL, *biomes(methods))
    return {scope: [_bar(method, scope) for method in methods] for scope in scopes}


def _bar(method: Method, scope: str) -> plots.Bar:
    estimate = method.estimate(scope, "macro_f1")
    return plots.Bar(method.name, estimate.mean, estimate.spread)


def comparison_page(
    methods: Sequence[Method], published: list[dict[str, str]], num_scenes: int
) -> str:
    """The whole HTML document; pictures of `num_scenes` scenes, from the hardest to the easiest."""
    panels = "".join(
        f"<figure>{plots.bar_panel(title, bars)}</figure>"
        for title, bars in _panels(methods).items()
    )
    parts = [
        "<h1>Comparison of methods</h1>",
        page.paragraph(
            "Per cent of pixels, pooled over the scenes; mean ± sample standard deviation over "
            "runs. Labels are those a run was trained on; a threshold or a checkpoint chosen with "
            "pixel labels is supervision too.",
            "soft",
        ),
        *(page.paragraph(text, "note warn") for text in warnings(methods)),
        "<h2>Overall</h2>",
        _sortable("Figures in %, and supervision of one run", methods),
        "<h2>By biome</h2>",
        page.paragraph("Macro F1 in %; lines are ± one standard deviation over runs.", "soft"),
        f'<div class="grid">{panels}</div>',
        _published(published),
        _scenes(methods, num_scenes),
        "<h2>Supervision</h2>",
        _supervision(methods),
    ]
    return page.page("Comparison of methods", "\n".join(parts))


def _sortable(caption: str, methods: Sequence[Method]) -> str:
    """`overall_table` in HTML: shown as text, sorted by mean and by count."""
    header, *rows = overall_table(methods)
    cells: list[list[page.Value]] = []
    for method, row in zip(methods, rows, strict=True):
        supervision = method.runs[0].metrics["supervision"]
        keys = [
            len(method.runs),
            *(method.estimate(OVERALL, figure).mean for figure in FIGURES),
            supervision["image_labels"],
            supervision["pixel_labels"],
        ]
        numbers = [page.Shown(text, key) for text, key in zip(row[1:], keys, strict=False)]
        cells.append([row[0], *numbers, *row[1 + len(keys) :]])
    return page.table(caption, header, cells)


def _supervision(methods: Sequence[Method]) -> str:
    rows = []
    for method in methods:
        supervision = method.runs[0].metrics["supervision"]
        chosen = (supervision[f"{choice}_chosen_by"] for choice in CHOICES)
        rows.append((method.name, *chosen, supervision_note(supervision)))
    columns = ("Method", "Threshold", "Checkpoint", "Pixel labels")
    return page.table("How the first run of each method chose", columns, rows, sortable=False)


def _published(rows: list[dict[str, str]]) -> str:
    if not rows:
        return ""
    columns = ("Method", *FIGURES.values(), "Split", "Source")
    cells = [[row[name] for name in PUBLISHED_COLUMNS] for row in rows]
    return (
        "<h2>Published figures</h2>"
        + page.paragraph("From other splits than ours: for orientation, not for comparison.")
        + page.table("%, as published", columns, cells, sortable=False)
    )


def _scenes(methods: Sequence[Method], count: int) -> str:
    keys = common_scenes(methods)
    if not keys or not count:
        return ""
    # Evenly from the hardest to the easiest.
    steps = {round(i * (len(keys) - 1) / max(count - 1, 1)) for i in range(count)}
    shown = "".join(_scene(keys[step], methods) for step in sorted(steps))
    return (
        "<h2>Scenes</h2>"
        + page.paragraph(
            "From the hardest to the easiest of the scenes all runs share (by mean accuracy); "
            "each method by its first run. The colours of a score meet at its threshold.",
            "soft",
        )
        + page.picture_legend()
        + shown
    )


def _scene(key: str, methods: Sequence[Method]) -> str:
    first = methods[0].runs[0]
    shown = [
        _picture(first, key, "image", "Image"),
        _picture(first, key, "truth", reference_caption(first.metrics)),
    ]
    for method in methods:
        run = method.runs[0]
        if (threshold := run.metrics["threshold"]) is not None:
            upper = f"{score_range(threshold):.4g}"
            shown.append(_picture(run, key, "score", f"{method.name}: score, 0 to {upper}"))
        accuracy = page.number(run.metrics["scenes"][key]["accuracy"])
        shown.append(_picture(run, key, "mask", f"{method.name}: mask, accuracy {accuracy} %"))
    return f'<h3>{escape(key)}</h3><div class="pictures">{"".join(shown)}</div>'


def _picture(run: Run, key: str, name: str, caption: str) -> str:
    """The picture of a scene, or nothing if the run has none."""
    path = picture_path(run.results, key, name)
    return (
        page.picture(path.read_bytes(), f"{caption}, scene {key}", caption) if path.exists() else ""
    )


def write(
    methods: Sequence[Method],
    output_dir: Path,
    published: list[dict[str, str]],
    num_scenes: int,
) -> Path:
    """Write table.csv, table.md, table.tex, figure.svg and comparison.html; return the last."""
    tables = (overall_table(methods), biome_table(methods))
    _write_csv(output_dir / "table.csv", methods)
    notes = "".join(f"{text}\n\n" for text in warnings(methods))
    titles = ("Overall, %", "Macro F1 by biome, %")
    text = "\n".join(
        f"**{t}**\n\n{markdown(table)}" for t, table in zip(titles, tables, strict=True)
    )
    files.write_text(output_dir / "table.md", notes + text)
    files.write_text(output_dir / "table.tex", "\n".join(map(latex, tables)))
    files.write_text(output_dir / "figure.svg", plots.sheet(_panels(methods)))
    path = output_dir / "comparison.html"
    files.write_text(path, comparison_page(methods, published, num_scenes))
    return path


def compare(folders: Sequence[Path], output_dir: Path, published: Path | None, scenes: int) -> None:
    """Write tables, figure and page of the runs in `folders`; print the table.

    published: csv of figures of others; scenes: how many are shown as pictures.
    """
    others = read_published(published) if published else []
    methods = group([read_run(folder) for folder in dict.fromkeys(folders)])
    path = write(methods, output_dir, others, scenes)
    print(terminal_table(methods))
    for text in warnings(methods):
        print(f"note: {text}")
    print(f"Report: {path}")
