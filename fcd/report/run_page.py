"""The page of one run: numbers, supervision, tables, thresholds, pictures and configuration."""

import json
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from fcd import metrics
from fcd.landsat.reference import NAMES, QA, TRUTH
from fcd.patches.supervision import UNKNOWN
from fcd.report import page, plots

PICTURES = {
    "image": "Image (red, green, blue)",
    "truth": "Truth",
    "score": "Cloud score",
    "mask": "Mask",
    "error": "Errors",
}
_SHOWN_SCENES = 3  # as many worst and as many best scenes are shown as pictures
_FIGURES = {
    "accuracy": "Accuracy",
    "macro_f1": "Macro F1",
    "cloud_iou": "Cloud IoU",
    "cloud_precision": "Cloud precision",
    "cloud_recall": "Cloud recall",
    "cloud_f1": "Cloud F1",
    "clear_f1": "Clear F1",
    "pixels": "Pixels",
}


def picture_path(results_dir: Path | str, scene_key: str, name: str) -> Path:
    """Where picture `name` (of `PICTURES`) of a scene lies."""
    return Path(results_dir) / "pictures" / f"{scene_key}_{name}.png"


def score_range(threshold: float) -> float:
    """Where the colours of the score map end: twice the threshold, at most 1.

    Cloud and clear then meet in the middle of the colours, and scenes can be compared.
    """
    return min(2 * threshold, 1.0) or 1.0


def flat(scores: dict[str, Any]) -> dict[str, float | None]:
    """Nested `fcd.metrics.scores` -> one level: ``accuracy``, ``macro_f1``, ``cloud_iou``, …"""
    result = {}
    for name, value in scores.items():
        if isinstance(value, dict):
            result.update({f"{name}_{figure}": number for figure, number in value.items()})
        else:
            result[name] = value
    return result


def threshold_bin(threshold: float) -> int:
    """Index of a threshold in [0, 1] in the arrays by threshold of `fcd.metrics`."""
    return min(round(threshold * metrics.BINS), metrics.BINS - 1)


def report_page(
    results: dict[str, Any],
    histogram: np.ndarray | None,
    config: dict[str, Any],
    results_dir: Path,
) -> str:
    """The whole HTML document.

    results: the content of metrics.json; histogram: pooled score counts (2, BINS), or None;
    config: the run's flags; the pictures are read from `results_dir`.
    """
    title = ": ".join(dict.fromkeys((results["experiment"], results["method"])))
    parts = [
        f"<h1>{escape(title)}</h1>",
        page.paragraph(
            f"Cloud masks of {len(results['scenes'])} whole scenes against their "
            f"{results['reference']}. "
            "Figures are per cent of pixels, pooled over the scenes; a dash is a figure that is "
            "not defined, such as the recall of cloud where there is none.",
            "soft",
        ),
        *(page.paragraph(text, "note warn") for text in reference_notes([results])),
        _headline(results),
        _supervision(results["supervision"]),
        _tables(results),
        _plots(results["thresholds"], histogram),
        _scenes(results, results_dir),
        _config(config),
    ]
    return page.page(title, "\n".join(parts))


def _headline(results: dict[str, Any]) -> str:
    overall = flat(results["overall"])
    shown = ("macro_f1", "accuracy", "cloud_iou")
    values = {_FIGURES[figure]: page.number(overall[figure]) for figure in shown}
    values["Pixel labels trained on"] = f"{results['supervision']['pixel_labels']:,}"
    if results["threshold"] is not None:
        values["Threshold"] = f"{results['threshold']:.4g}"
    return page.headline(values)


def _reference(results: dict[str, Any]) -> str:
    # Results from before there was a choice were compared with manual masks.
    return results.get("reference", NAMES[TRUTH])


def reference_notes(runs: Sequence[dict[str, Any]]) -> list[str]:
    """What has to be said of the masks that `runs` (metrics.json) were compared with."""
    references = {_reference(results) for results in runs}
    if references == {NAMES[TRUTH]}:
        return []
    if len(references) > 1:
        return ["The runs were compared with different masks: their figures cannot be compared."]
    return [
        "The reference is the scenes' own QA bands, not a manual truth: the figures say how well "
        "the masks agree with what the QA bands call cloud, not how accurate they are."
    ]


def reference_caption(results: dict[str, Any]) -> str:
    """What the picture of the reference is called."""
    return "QA band" if _reference(results) == NAMES[QA] else PICTURES["truth"]


def supervision_note(supervision: dict[str, Any]) -> str:
    """One plain sentence: which pixel labels the run owes its figures to."""
    trained = supervision["pixel_labels"]
    chosen = {
        name: supervision[f"{name}_pixel_labels"]
        for name in ("threshold", "checkpoint")
        if supervision[f"{name}_pixel_labels"]
    }
    if UNKNOWN in supervision["checkpoint_chosen_by"]:
        return "The weights come from elsewhere: what labels they and their choice cost is unknown."
    if not trained and not chosen:
        if NAMES[QA] in supervision.get("labels_from", ""):
            return (
                "No pixel was labelled by hand: labels, also those of any choice after training, "
                f"come from {supervision['labels_from']}."
            )
        return "No pixel label was used, neither in training nor for any choice after it."
    uses = [f"{trained:,} labelled pixels were trained on"] if trained else []
    uses += [
        f"the {name} was chosen with {count:,} labelled pixels" for name, count in chosen.items()
    ]
    sentence = "; ".join(uses) + "."
    if not trained:
        sentence += (
            " This is not image-level supervision alone, though no weight saw a pixel label."
        )
    return sentence[0].upper() + sentence[1:]


def _supervision(supervision: dict[str, Any]) -> str:
    note = supervision_note(supervision)
    kind = "note good" if note.startswith("No pixel") else "note warn"
    rows = [
        (
            "Training: image labels",
            supervision["image_labels"],
            f"one per patch, clear or cloudy, from {supervision['labels_from']}",
        ),
        ("Training: pixel labels", supervision["pixel_labels"], "manual masks"),
        ("Threshold", supervision["threshold_pixel_labels"], supervision["threshold_chosen_by"]),
        ("Checkpoint", supervision["checkpoint_pixel_labels"], supervision["checkpoint_chosen_by"]),
    ]
    return (
        "<h2>Supervision</h2>"
        + page.paragraph(note, kind)
        + page.table("Labels used", ("For", "Labels", "How"), rows, sortable=False)
    )


def _tables(results: dict[str, Any]) -> str:
    columns = tuple(_FIGURES.values())

    def row(scores: dict[str, Any]) -> list[page.Value]:
        numbers = flat(scores)
        return [numbers[figure] for figure in _FIGURES]

    overall = results["overall"]
    classes = (*metrics.CLASSES, "macro")
    by_class = [(name, *overall[name].values()) for name in classes]
    biomes = [(name, *row(scores)) for name, scores in results["biomes"].items()]
    scenes = [
        (key.removeprefix(f"{scores['biome']}_"), scores["biome"], *row(scores))
        for key, scores in results["scenes"].items()
    ]
    counts, reference = np.array(results["confusion"]), reference_caption(results)
    confusion = [
        (f"{reference} {name}", *(int(n) for n in line), *(n / max(line.sum(), 1) for n in line))
        for name, line in zip(metrics.CLASSES, counts, strict=True)
    ]
    return "\n".join(
        (
            "<h2>Overall</h2>",
            page.table(
                f"By class, % (accuracy {page.number(overall['accuracy'])})",
                ("Class", "Precision", "Recall", "F1", "IoU"),
                by_class,
            ),
            "<h2>Confusion matrix</h2>",
            page.table(
                "Pixels, and per cent of the true class",
                ("", "Said clear", "Said cloud", "Said clear, %", "Said cloud, %"),
                confusion,
                sortable=False,
            ),
            "<h2>By biome</h2>",
            page.table("%, pooled over the biome's scenes", ("Biome", *columns), biomes),
            "<h2>By scene</h2>",
            page.table("%, per scene", ("Scene", "Biome", *columns), scenes),
        )
    )


def _plots(thresholds: dict[str, Any] | None, histogram: np.ndarray | None) -> str:
    if thresholds is None:
        return ""
    grid = np.arange(metrics.BINS) / metrics.BINS
    f1 = metrics.macro_f1_by_threshold(histogram)
    cells = metrics.confusion_by_threshold(histogram).astype(float)
    hit, said, occurs = cells[:, 1, 1], cells[:, :, 1].sum(axis=1), cells[:, 1].sum(axis=1)
    known = (said > 0) & (occurs > 0)
    points = np.column_stack([hit[known] / occurs[known], hit[known] / said[known]])
    values = {name: entry["value"] for name, entry in thresholds.items()}
    marks = [
        plots.Mark(name, value, thresholds[name]["macro_f1"], rule=True)
        for name, value in values.items()
    ]
    on_curve = [
        plots.Mark(name, hit[k] / occurs[k], hit[k] / said[k])
        for name, k in ((name, threshold_bin(value)) for name, value in values.items())
        if known[k]
    ]
    said_so = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
    legend = {}
    for (name, entry), colour in zip(thresholds.items(), plots.MARKS, strict=True):
        figure = f"macro F1 {page.number(entry['macro_f1'])} %"
        legend[f"{name.capitalize()} {entry['value']:.4g}, {figure}"] = f"var(--{colour})"
    by_threshold = plots.curve(
        np.column_stack([grid, f1]),
        marks,
        x_label="Threshold of the score",
        y_label="Macro F1",
        alt=f"Macro F1 over the threshold; {said_so}",
        x_max=_shown_range(histogram, values.values()),
    )
    precision_recall = plots.curve(
        points,
        on_curve,
        x_label="Recall of cloud",
        y_label="Precision of cloud",
        alt=f"Precision over recall of cloud; thresholds {said_so}",
    )
    return (
        "<h2>Thresholds</h2>"
        + page.paragraph(
            "Otsu's threshold is found from these scores alone, without a label; the best one from "
            "the labels of these very test pixels. Both show what the choice cost: no figure above "
            "uses them.",
            "soft",
        )
        + page.legend("Thresholds:", legend)
        + '<div class="grid">'
        + page.figure(by_threshold, "Threshold and macro F1, all test pixels pooled")
        + page.figure(precision_recall, "Precision and recall of cloud over all thresholds")
        + "</div>"
    )


def _shown_range(histogram: np.ndarray, values: Iterable[float]) -> float:
    """Thresholds up to the 99.9th percentile of the score, and a little past every mark."""
    share = np.cumsum(histogram.sum(axis=0)) / histogram.sum()
    highest = (np.searchsorted(share, 0.999) + 1) / metrics.BINS
    return min(max(highest, *(1.2 * value for value in values)), 1.0)


def _scenes(results: dict[str, Any], results_dir: Path) -> str:
    accuracy = {key: scores["accuracy"] for key, scores in results["scenes"].items()}
    ranked = [key for key in accuracy if accuracy[key] is not None]
    ranked.sort(key=lambda key: (accuracy[key], key))
    worst = ranked[:_SHOWN_SCENES]
    best = ranked[_SHOWN_SCENES:][-_SHOWN_SCENES:][::-1]
    parts = []
    for heading, keys in (("Worst scenes, by accuracy", worst), ("Best scenes, by accuracy", best)):
        if keys:
            parts += [f"<h2>{heading}</h2>", page.picture_legend()]
        parts += [_scene(key, results, results_dir) for key in keys]
    return "\n".join(parts)


def _scene(key: str, results: dict[str, Any], results_dir: Path) -> str:
    numbers = flat(results["scenes"][key])
    summary = ", ".join(
        f"{_FIGURES[figure]} {page.number(numbers[figure])}"
        for figure in ("macro_f1", "accuracy", "cloud_iou")
    )
    captions = PICTURES | {"truth": reference_caption(results)}
    if results["threshold"] is not None:
        captions["score"] += f", colours from 0 to {score_range(results['threshold']):.4g}"
    pictures = "".join(
        page.picture(path.read_bytes(), f"{caption}; scene {key}", caption)
        for name, caption in captions.items()
        if (path := picture_path(results_dir, key, name)).exists()
    )
    return f'<h3>{escape(key)}: {escape(summary)}</h3><div class="pictures">{pictures}</div>'


def _config(config: dict[str, Any]) -> str:
    rows = []
    for name, value in config.items():
        entries = value.items() if isinstance(value, dict) else [("", value)]
        rows += [(name, entry, _plain(content)) for entry, content in entries]
    table = page.table("config.json", ("Group", "Name", "Value"), rows, sortable=False)
    return f"<h2>Run</h2><details><summary>The run's configuration</summary>{table}</details>"


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
