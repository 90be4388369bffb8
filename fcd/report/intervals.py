"""How sure a figure is: 95 % intervals by bootstrap over scenes.

Pixels of a scene are alike, so scenes are resampled and not pixels (Efron & Tibshirani 1993, An
Introduction to the Bootstrap, chapter 13: the percentile interval).
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from fcd import metrics

DRAWS = 2000
PERCENTILES = (2.5, 97.5)
SEED = 0


def _accuracy(cells: np.ndarray) -> np.ndarray:
    return np.trace(cells, axis1=-2, axis2=-1) / cells.sum(axis=(-2, -1))


def _cloud_iou(cells: np.ndarray) -> np.ndarray:
    union = cells.sum(axis=(-2, -1)) - cells[..., 0, 0]
    with np.errstate(invalid="ignore"):  # NaN where no cloud occurs nor is predicted
        return cells[..., 1, 1] / union


FIGURES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "accuracy": _accuracy,
    "macro_f1": metrics.macro_f1,
    "cloud_iou": _cloud_iou,
}
"""Of confusion counts (…, 2, 2) the figure (…) in [0, 1], as `fcd.metrics.scores` has it."""


def bootstrap(
    runs: Sequence[Mapping[str, np.ndarray]], base: Sequence[Mapping[str, np.ndarray]] = ()
) -> dict[str, tuple[float, float]]:
    """Interval of each of `FIGURES`, averaged over `runs`, by name.

    runs: scene -> confusion counts (2, 2), whose sum over drawn scenes is scored. In each draw all
    runs have the same scenes, as many as there are, with replacement. NaN of fewer than two scenes.
    base: runs over the same scenes; the interval is that of the difference to them, draw by draw.
    """
    every = (*runs, *base)
    scenes = sorted({scene for run in every for scene in run})
    nothing = np.zeros((2, 2), np.int64)
    counts = np.array([[run.get(scene, nothing) for scene in scenes] for run in every])
    if len(scenes) < 2 or not counts.any():
        return dict.fromkeys(FIGURES, (np.nan, np.nan))
    drawn = np.random.default_rng(SEED).integers(len(scenes), size=(DRAWS, len(scenes)))
    cells = counts[:, drawn].sum(axis=2)  # (runs, draws, 2, 2)
    cells = cells[:, cells.any(axis=(2, 3)).all(axis=0)]  # no pixel, no figure
    found = {}
    for name, figure in FIGURES.items():
        each = figure(cells)
        values = each[: len(runs)].mean(axis=0)
        if base:
            values = values - each[len(runs) :].mean(axis=0)
        values = values[~np.isnan(values)]
        low, high = np.percentile(values, PERCENTILES) if len(values) else (np.nan, np.nan)
        found[name] = (float(low), float(high))
    return found
