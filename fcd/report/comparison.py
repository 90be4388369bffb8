"""Gather the evaluations of many runs into one table, one figure and one page.

Runs of the same method become one row: those of its folds are pooled, of other seeds mean ± sample
standard deviation; in brackets the interval over scenes (`fcd.report.intervals`).
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from fcd import files
from fcd.errors import UserError
from fcd.patches.crops import read_list
from fcd.patches.supervision import UNKNOWN
from fcd.report import page, plots
from fcd.report.intervals import bootstrap
from fcd.report.results import (
    number,
    picture_path,
    reference_caption,
    score_range,
    supervision_note,
)
from fcd.report.runs import (
    CHOICES,
    FIGURES,
    LABELS,
    OVERALL,
    Method,
    Run,
    biomes,
    group,
    read_published,
    read_run,
    warnings,
)


def summary(methods: Sequence[Method]) -> pd.DataFrame:
    """Mean and sample standard deviation over the repetitions of a method, in [0, 1].

    Rows by method and scope (`OVERALL` or a biome), columns by figure (of `FIGURES`) and "mean"
    or "std". A repetition in which a figure is not defined is left out; NaN if none or, for the
    standard deviation, only one is left.
    """
    scopes = (OVERALL, *biomes(methods))
    rows = [
        (method.name, scope, *repetition.figures(scope))
        for method in methods
        for repetition in method.repetitions
        for scope in scopes
    ]
    table = pd.DataFrame(rows, columns=["method", "scope", *FIGURES])
    table = table.astype(dict.fromkeys(FIGURES, float))
    return table.groupby(["method", "scope"], sort=False).agg(["mean", "std"])


def by_scope(methods: Sequence[Method], figure: str) -> dict[str, pd.DataFrame]:
    """Columns mean and std of `figure`, a row per method, overall and by biome."""
    means = summary(methods)[figure]
    return {
        scope: pd.DataFrame(means.xs(scope, level="scope")) for scope in (OVERALL, *biomes(methods))
    }


def estimates(means: pd.DataFrame) -> list[str]:
    """Columns mean and std in per cent: ``93.41 ± 0.20``, ``93.41`` for a single run, or a dash."""
    return [
        number(mean, 2) + (f" ± {number(std, 2)}" if std == std else "")
        for mean, std in means[["mean", "std"]].itertuples(index=False)
    ]


def scene_intervals(methods: Sequence[Method]) -> pd.DataFrame:
    """95 % interval over scenes: a row per method, columns by figure and "low" or "high"."""
    found = [bootstrap([r.by_scene() for r in method.repetitions]) for method in methods]
    columns = pd.MultiIndex.from_product([FIGURES, ("low", "high")])
    rows = [[bound for figure in FIGURES for bound in one[figure]] for one in found]
    return pd.DataFrame(rows, [method.name for method in methods], columns)


def overall_table(methods: Sequence[Method]) -> pd.DataFrame:
    """One row of texts per method: figures over all scenes, and supervision."""
    columns = {"Method": [m.name for m in methods], "Runs": [m.count for m in methods]}
    intervals = scene_intervals(methods)
    for figure, title in FIGURES.items():
        bounds = intervals[figure].itertuples(index=False)
        columns[title] = [
            text + (f" [{number(low, 1)}, {number(high, 1)}]" if low == low else "")
            for text, (low, high) in zip(
                estimates(by_scope(methods, figure)[OVERALL]), bounds, strict=True
            )
        ]
    for kind, title in LABELS.items():
        columns[title] = [method.labels(kind) for method in methods]
    for choice, title in CHOICES.items():
        columns[title] = [method.chosen_with_pixel_labels(choice) for method in methods]
    return pd.DataFrame(columns)


def difference_table(methods: Sequence[Method], base: str) -> pd.DataFrame:
    """One row of texts per method but `base`: its figures minus those of `base`, in points.

    Runs are taken in pairs, the first of a method with the first of `base`, and so on: the mean of
    the differences, their sample standard deviation, and the 95 % interval over scenes. Raises
    `UserError` unless `base` is a method, and the others have as many runs over the same scenes.
    """
    named = {method.name: method for method in methods}
    if base not in named:
        raise UserError(f"--base {base} is no method; choose one of: {', '.join(named)}")
    theirs, rows = named.pop(base).repetitions, []
    for name, method in named.items():
        ours = method.repetitions
        if [{*run.tested} for run in ours] != [{*run.tested} for run in theirs]:
            raise UserError(
                f"--base {base}: {name} has other runs than it ({len(ours)}, not {len(theirs)}, or "
                "over other scenes), so that there are no pairs; leave those without a pair out"
            )
        figures = [[run.figures(OVERALL) for run in runs] for runs in (ours, theirs)]
        each = pd.DataFrame(np.subtract(*np.array(figures, float)), columns=list(FIGURES))
        bounds = bootstrap([run.by_scene() for run in ours], [run.by_scene() for run in theirs])
        texts = []
        for figure in FIGURES:
            mean, std, low, high = (
                100 * v for v in (each[figure].mean(), each[figure].std(), *bounds[figure])
            )
            spread = f" ± {std:.2f}" if std == std else ""
            interval = f" [{low:+.1f}, {high:+.1f}]" if low == low else ""
            texts.append(f"{mean:+.2f}{spread}{interval}" if mean == mean else number(mean))
        rows.append([name, *texts])
    return pd.DataFrame(rows, columns=["Method", *FIGURES.values()])


def biome_table(methods: Sequence[Method]) -> pd.DataFrame:
    """One row of texts per method: macro F1 by biome."""
    by_biome = by_scope(methods, "macro_f1")
    columns = [
        [method.name for method in methods],
        *(estimates(by_biome[b]) for b in biomes(methods)),
    ]
    return pd.DataFrame(zip(*columns, strict=True), columns=["Method", *biomes(methods)])


def csv_table(methods: Sequence[Method]) -> pd.DataFrame:
    """One row per method and scope; figures in [0, 1], NaN where not defined.

    Columns such as macro_f1_mean, _std, and, overall, _low and _high of the interval over scenes.
    """
    intervals = pd.concat({OVERALL: scene_intervals(methods)}, names=["scope", "method"])
    table = summary(methods).join(intervals.reorder_levels(["method", "scope"]))
    table = table[[(f, c) for f in FIGURES for c in ("mean", "std", "low", "high")]]
    table.columns = ["_".join(column) for column in table.columns]
    told = overall_table(methods).set_index("Method")[["Runs", *LABELS.values(), *CHOICES.values()]]
    told = told.replace(",", "", regex=True).rename(columns=lambda c: c.lower().replace(" ", "_"))
    table = table.reset_index().join(told, on="method")
    table.insert(1, "runs", table.pop("runs"))
    return table


def terminal_table(methods: Sequence[Method]) -> str:
    """The table of the terminal: figures, labels trained on, choices made with pixel labels."""
    named = {"yes": "", UNKNOWN: f" ({UNKNOWN})"}
    chosen = [
        [c + named[a] for c in CHOICES if (a := method.chosen_with_pixel_labels(c)) in named]
        for method in methods
    ]
    table = overall_table(methods).drop(columns=list(CHOICES.values()))
    table["Chosen with pixel labels"] = [", ".join(choices) or "nothing" for choices in chosen]
    return _indexed(table, "Method")


def _indexed(table: pd.DataFrame, corner: str) -> str:
    """A `table` of texts by method for the terminal, where an index stands on the left."""
    return table.set_index("Method").rename_axis(index=None, columns=corner).to_string()


def markdown(table: pd.DataFrame) -> str:
    """A `table` of texts in Markdown."""
    escaped = table.replace(r"\|", r"\|", regex=True)
    escaped.columns = [name.replace("|", r"\|") for name in table.columns]
    alignment = ["left"] + ["right"] * (table.shape[1] - 1)
    return escaped.to_markdown(index=False, colalign=alignment, disable_numparse=True) + "\n"


def latex(table: pd.DataFrame) -> str:
    """A `table` of texts as a LaTeX tabular (package booktabs)."""
    alignment = "l" + "r" * (table.shape[1] - 1)
    text = table.to_latex(index=False, escape=True, column_format=alignment)
    return text.replace("±", r"$\pm$").replace("–", "--")


def common_scenes(methods: Sequence[Method]) -> list[str]:
    """Keys of the scenes all repetitions were evaluated on, lowest mean accuracy first."""
    every = [repetition for method in methods for repetition in method.repetitions]
    keys = sorted(set.intersection(*(set(repetition.tested) for repetition in every)))
    accuracy = [[_accuracy(repetition.run_of(key), key) for key in keys] for repetition in every]
    mean = pd.DataFrame(accuracy, columns=keys, dtype=float).mean().fillna(1.0)
    return mean.sort_values(kind="stable").index.tolist()


def _accuracy(run: Run, key: str) -> float | None:
    return run.metrics["scenes"][key]["accuracy"]


# --- the page and the files -------------------------------------------------------------------


def comparison_page(
    methods: Sequence[Method],
    published: list[dict[str, str]],
    num_scenes: int,
    differences: Mapping[str, pd.DataFrame],
) -> str:
    """The whole HTML document; pictures of `num_scenes` scenes, from the hardest to the easiest.

    differences: a `difference_table` by its title.
    """
    names = {"method": "Method", **FIGURES, "split": "Split", "source": "Source"}
    texts = overall_table(methods)
    keys = {title: [m.supervision[kind] for m in methods] for kind, title in LABELS.items()}
    for figure, title in FIGURES.items():
        keys[title] = by_scope(methods, figure)[OVERALL]["mean"].tolist()
    chosen = [
        (method.name, *(seen[f"{choice}_chosen_by"] for choice in CHOICES), supervision_note(seen))
        for method in methods
        if (seen := method.supervision)
    ]
    panels = by_scope(methods, "macro_f1").items()
    return page.render(
        "comparison.html",
        title="Comparison of methods",
        warnings=warnings(methods),
        overall=texts.assign(Runs=[len(method.repetitions) for method in methods], **keys),
        texts=texts,
        differences=differences,
        panels=[plots.bars({title: means}) for title, means in panels],
        published=pd.DataFrame(published, columns=list(names)).rename(columns=names),
        scenes=_scenes(methods, num_scenes),
        supervision=pd.DataFrame(
            chosen, columns=["Method", "Threshold", "Checkpoint", "Pixel labels"]
        ),
    )


def _scenes(methods: Sequence[Method], count: int) -> dict[str, list[page.Picture]]:
    """Pictures of `count` scenes, evenly from the hardest to the easiest, by key."""
    keys = common_scenes(methods)
    if not keys or not count:
        return {}
    steps = {round(i * (len(keys) - 1) / max(count - 1, 1)) for i in range(count)}
    return {keys[step]: _pictures(keys[step], methods) for step in sorted(steps)}


def _pictures(key: str, methods: Sequence[Method]) -> list[page.Picture]:
    """A scene's pictures, those that the runs have."""
    first = methods[0].repetitions[0].run_of(key)
    shown = [(first, "image", "Image"), (first, "truth", reference_caption(first.metrics))]
    for method in methods:
        run = method.repetitions[0].run_of(key)
        if (threshold := run.metrics["threshold"]) is not None:
            upper = f"{score_range(threshold):.4g}"
            shown.append((run, "score", f"{method.name}: score, 0 to {upper}"))
        accuracy = number(_accuracy(run, key))
        shown.append((run, "mask", f"{method.name}: mask, accuracy {accuracy} %"))
    return [
        page.Picture(path, caption, f"{caption}, scene {key}")
        for run, name, caption in shown
        if (path := picture_path(run.folder / "results", key, name)).exists()
    ]


def compare(
    folders: Iterable[Path],
    output_dir: Path,
    published: Path | None,
    num_scenes: int,
    crops: Path | None = None,
    base: str | None = None,
) -> Path:
    """Write tables, figure and page of the runs in `folders`; print the table, return the page.

    published: csv of figures of others; num_scenes: how many are shown as pictures; crops: list of
    the crops that were tested (`fcd.patches.crops`), None if scenes were; base: the method that
    `difference_table` compares the others with.
    Raises `UserError`, before anything is written, for a file that is missing or damaged.
    """
    others = read_published(published) if published else []
    named = {crop.name: crop for crop in read_list(crops)} if crops else None
    methods = group([read_run(folder, named) for folder in dict.fromkeys(folders)])
    tables = {"Overall, %": overall_table(methods), "Macro F1 by biome, %": biome_table(methods)}
    differences = {f"Minus {base}, points": difference_table(methods, base)} if base else {}
    tables |= differences
    notes = warnings(methods)
    parts = [f"**{title}**\n\n{markdown(table)}" for title, table in tables.items()]
    page_path = output_dir / "comparison.html"
    contents = {
        output_dir / "table.csv": csv_table(methods).to_csv(index=False, lineterminator="\r\n"),
        output_dir / "table.md": "".join(f"{note}\n\n" for note in notes) + "\n".join(parts),
        output_dir / "table.tex": "\n".join(map(latex, tables.values())),
        output_dir / "figure.svg": plots.bars(by_scope(methods, "macro_f1"), columns=3),
        page_path: comparison_page(methods, others, num_scenes, differences),
    }
    for path, text in contents.items():
        files.write_text(path, text)
    print(terminal_table(methods))
    for title, table in differences.items():
        print(f"\n{_indexed(table, title)}")
    for note in notes:
        print(f"note: {note}")
    print(f"Report: {page_path}")
    return page_path
