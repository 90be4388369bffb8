"""The page of one run: numbers, supervision, tables, thresholds, pictures and configuration."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fcd import metrics
from fcd.report import page, plots
from fcd.report.results import (
    FIGURES,
    PICTURES,
    flat,
    number,
    picture_path,
    reference_caption,
    reference_notes,
    score_range,
    score_table,
    supervision_note,
)

_SHOWN_SCENES = 3  # as many worst and as many best scenes are shown as pictures
_Shown = tuple[str, list[page.Picture]]  # what is said of a scene, and its pictures
_HEADLINE = ("macro_f1", "accuracy", "cloud_iou")


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
    thresholds = results["thresholds"]
    return page.render(
        "report.html",
        title=": ".join(dict.fromkeys((results["experiment"], results["method"]))),
        results=results,
        warnings=reference_notes([results]),
        headline=_headline(results),
        supervision_note=supervision_note(results["supervision"]),
        supervision=_supervision(results["supervision"]),
        **_tables(results),
        thresholds=None if histogram is None or not thresholds else _plots(thresholds, histogram),
        pictures=_scenes(results, results_dir),
        config=_config(config),
    )


def _headline(results: dict[str, Any]) -> dict[str, str]:
    overall = flat(results["overall"])
    values = {FIGURES[figure]: number(overall[figure]) for figure in _HEADLINE}
    values["Pixel labels trained on"] = f"{results['supervision']['pixel_labels']:,}"
    if results["threshold"] is not None:
        values["Threshold"] = f"{results['threshold']:.4g}"
    return values


def _supervision(supervision: dict[str, Any]) -> pd.DataFrame:
    images = f"one per patch, clear or cloudy, from {supervision['labels_from']}"
    rows = [
        ("Training: image labels", supervision["image_labels"], images),
        ("Training: pixel labels", supervision["pixel_labels"], "manual masks"),
    ]
    for choice in ("threshold", "checkpoint"):
        count, how = supervision[f"{choice}_pixel_labels"], supervision[f"{choice}_chosen_by"]
        rows.append((choice.capitalize(), count, how))
    return pd.DataFrame(rows, columns=["For", "Labels", "How"])


def _tables(results: dict[str, Any]) -> dict[str, pd.DataFrame]:
    """The tables of figures, by their name in the template."""
    classes = {name: results["overall"][name] for name in (*metrics.CLASSES, "macro")}
    by_class = pd.DataFrame.from_dict(classes, "index", dtype=float).reset_index()
    by_class.columns = ["Class", "Precision", "Recall", "F1", "IoU"]
    counts = np.array(results["confusion"])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    caption = reference_caption(results)
    confusion: dict[str, Any] = {"": [f"{caption} {name}" for name in metrics.CLASSES]}
    confusion |= {f"Said {name}": counts[:, k] for k, name in enumerate(metrics.CLASSES)}
    confusion |= {f"Said {name}, %": shares[:, k] for k, name in enumerate(metrics.CLASSES)}
    table = score_table(results)
    scenes = table[table["scope"] == "scene"].copy()
    scenes["name"] = [
        key.removeprefix(f"{biome}_")
        for key, biome in scenes[["name", "biome"]].itertuples(index=False)
    ]
    biomes = table.loc[table["scope"] == "biome", ["name", *FIGURES]]
    return {
        "by_class": by_class,
        "confusion": pd.DataFrame(confusion),
        "biomes": biomes.rename(columns={"name": "Biome", **FIGURES}),
        "scenes": scenes[["name", "biome", *FIGURES]].rename(
            columns={"name": "Scene", "biome": "Biome", **FIGURES}
        ),
    }


def _plots(thresholds: dict[str, Any], histogram: np.ndarray) -> dict[str, Any]:
    """Two plots of the thresholds and the legend of their marks."""
    values = {name: entry["value"] for name, entry in thresholds.items()}
    cells = metrics.confusion_by_threshold(histogram)
    rules, on_curve, legend = [], [], {}
    for (name, entry), colour in zip(thresholds.items(), plots.MARKS, strict=True):
        rules.append(plots.Mark(name, entry["value"], entry["macro_f1"], rule=True))
        cloud = metrics.scores(cells[metrics.threshold_bin(entry["value"])])["cloud"]
        # A threshold without a place on the curve keeps its colour for the others' sake.
        on_curve.append(plots.Mark(name, cloud["recall"], cloud["precision"]))
        text = f"{name.capitalize()} {entry['value']:.4g}, macro F1 {number(entry['macro_f1'])} %"
        legend[text] = f"var(--{colour})"
    said = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
    by_threshold = plots.curve(
        np.column_stack(
            [np.arange(metrics.BINS) / metrics.BINS, metrics.macro_f1_by_threshold(histogram)]
        ),
        rules,
        x_label="Threshold of the score",
        y_label="Macro F1",
        alt=f"Macro F1 over the threshold; {said}",
        x_max=_shown_range(histogram, values.values()),
    )
    precision_recall = plots.curve(
        metrics.precision_recall(histogram),
        on_curve,
        x_label="Recall of cloud",
        y_label="Precision of cloud",
        alt=f"Precision over recall of cloud; thresholds {said}",
    )
    return {"legend": legend, "macro_f1": by_threshold, "precision_recall": precision_recall}


def _shown_range(histogram: np.ndarray, values: Iterable[float]) -> float:
    """Thresholds up to the 99.9th percentile of the score, and a little past every mark."""
    share = np.cumsum(histogram.sum(axis=0)) / histogram.sum()
    highest = (np.searchsorted(share, 0.999) + 1) / metrics.BINS
    return min(max(highest, *(1.2 * value for value in values)), 1.0)


def _scenes(
    results: dict[str, Any], results_dir: Path
) -> dict[str, list[tuple[str, list[page.Picture]]]]:
    """Summary and pictures of the worst and of the best scenes, by heading."""
    accuracy = {key: scores["accuracy"] for key, scores in results["scenes"].items()}
    ranked = [key for key in accuracy if accuracy[key] is not None]
    ranked.sort(key=lambda key: (accuracy[key], key))
    shown = {
        "Worst scenes, by accuracy": ranked[:_SHOWN_SCENES],
        "Best scenes, by accuracy": ranked[_SHOWN_SCENES:][-_SHOWN_SCENES:][::-1],
    }
    return {
        heading: [_scene(key, results, results_dir) for key in keys]
        for heading, keys in shown.items()
    }


def _scene(key: str, results: dict[str, Any], results_dir: Path) -> _Shown:
    numbers = flat(results["scenes"][key])
    summary = ", ".join(f"{FIGURES[figure]} {number(numbers[figure])}" for figure in _HEADLINE)
    captions = PICTURES | {"truth": reference_caption(results)}
    if results["threshold"] is not None:
        captions["score"] += f", colours from 0 to {score_range(results['threshold']):.4g}"
    pictures = [
        page.Picture(path, caption, f"{caption}; scene {key}")
        for name, caption in captions.items()
        if (path := picture_path(results_dir, key, name)).exists()
    ]
    return f"{key}: {summary}", pictures


def _config(config: dict[str, Any]) -> pd.DataFrame:
    rows = []
    for group, value in config.items():
        entries = value.items() if isinstance(value, dict) else [("", value)]
        for name, content in entries:
            text = content if isinstance(content, str) else json.dumps(content, default=str)
            rows.append((group, name, text))
    return pd.DataFrame(rows, columns=["Group", "Name", "Value"])
