"""Confusion counts, scores from them, and thresholds from histograms of the cloud score."""

from typing import Any

import numpy as np

# Codes of a mask as it is counted; how other codings turn into it: `fcd.landsat.labels`.
INVALID, CLEAR, CLOUD = 0, 1, 2
SHADOW, BUFFER = 3, 4  # of finished masks alone (`fcd.masks.postprocessing`): never counted
CLASSES = ("clear", "cloud")  # of CLEAR and CLOUD
# Scores are counted in bins of 1e-4: fine enough for difference maps of DN / 65535.
BINS = 10_000


def confusion(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Pixel counts (2, 2) int64, rows truth, columns prediction, order clear, cloud.

    Both are patch codes of one shape; pixels invalid in either are not counted.
    """
    valid = (truth != INVALID) & (prediction != INVALID)
    cells = (truth[valid].astype(np.int64) - 1) * 2 + (prediction[valid] - 1)
    return np.bincount(cells, minlength=4).reshape(2, 2)


def scores(counts: np.ndarray) -> dict[str, Any]:
    """Accuracy, and precision, recall, F1 and IoU per class and macro-averaged, in [0, 1].

    counts: (2, 2) of `confusion`, which weigh the four cells for scikit-learn. A figure whose
    denominator is zero is None, not a perfect score. A class that neither occurs nor is predicted
    is left out of the macro average; of one that only occurs or only is predicted every figure
    counts there as 0, that without a denominator too (scikit-learn's ``zero_division=0``).
    """
    from sklearn.metrics import accuracy_score, jaccard_score, precision_recall_fscore_support

    names = ("precision", "recall", "f1", "iou")
    if not np.any(counts):
        nothing = dict.fromkeys(names)
        by_class = {name: dict(nothing) for name in (*CLASSES, "macro")}
        return {"accuracy": None, "pixels": 0, **by_class}
    cells = ([CLEAR, CLEAR, CLOUD, CLOUD], [CLEAR, CLOUD, CLEAR, CLOUD])  # truth, prediction
    weights = np.ravel(counts)
    of = {"labels": [CLEAR, CLOUD], "sample_weight": weights, "average": None}
    *prf, _ = precision_recall_fscore_support(*cells, **of, zero_division=np.nan)
    # Where IoU has no denominator F1 has none either.
    iou = np.where(np.isnan(prf[2]), np.nan, jaccard_score(*cells, **of, zero_division=0))
    figures = np.stack([*prf, iou])  # (4, 2), nan where not defined
    there = ~np.isnan(prf[2])  # the F1 of a class that is there always has a denominator
    accuracy = float(accuracy_score(*cells, sample_weight=weights))
    result: dict[str, Any] = {"accuracy": accuracy, "pixels": int(weights.sum())}
    for name, values in zip(CLASSES, figures.T.tolist(), strict=True):
        known = (None if np.isnan(value) else value for value in values)
        result[name] = dict(zip(names, known, strict=True))
    macro = np.nan_to_num(figures)[:, there].mean(axis=1)
    return result | {"macro": dict(zip(names, macro.tolist(), strict=True))}


def histogram(truth: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Counts (2, BINS) int64 of `score` in [0, 1] over the clear and the cloud pixels of `truth`.

    Bin k holds the scores in (k / BINS, (k + 1) / BINS], so that thresholding at k / BINS
    (cloud where score > threshold) is exact on the grid of bins; a score of 0 is in bin 0.
    """
    # Compared in the precision of the score, as thresholding does: a product score * BINS
    # would round across an edge.
    edges = (np.arange(1, BINS) / BINS).astype(score.dtype)
    return np.stack(
        [
            np.bincount(np.searchsorted(edges, score[truth == code]), minlength=BINS)
            for code in (CLEAR, CLOUD)
        ]
    )


def confusion_by_threshold(counts: np.ndarray) -> np.ndarray:
    """Confusion counts (BINS, 2, 2) for the thresholds k / BINS, from `histogram` counts."""
    above = np.cumsum(counts[:, ::-1], axis=1)[:, ::-1]
    # A score of exactly 0 sits in bin 0 but exceeds no threshold: threshold 0 is not exact there.
    below = counts.sum(axis=1, keepdims=True) - above
    return np.stack([below, above], axis=2).transpose(1, 0, 2)


def threshold_bin(threshold: float) -> int:
    """Index of a threshold in [0, 1] in the arrays by threshold."""
    return min(round(threshold * BINS), BINS - 1)


def precision_recall(counts: np.ndarray) -> np.ndarray:
    """Recall and precision of cloud (n, 2) over the thresholds, from `histogram` counts.

    Thresholds k / BINS in rising order, without those above the highest score; n = 0 if there is
    no cloud.
    """
    from sklearn.metrics import precision_recall_curve

    if not counts[1].any():
        return np.empty((0, 2))
    truth, score = np.repeat((0, 1), BINS), np.tile(np.arange(BINS), 2)
    precision, recall, _ = precision_recall_curve(truth, score, sample_weight=np.ravel(counts))
    return np.column_stack([recall, precision])[:-1]  # the last point stands for no threshold


def macro_f1(cells: np.ndarray) -> np.ndarray:
    """Macro F1 (…) of confusion counts (…, 2, 2), none empty; an absent class is as in `scores`."""
    hit = np.diagonal(cells, axis1=-2, axis2=-1).astype(np.float64)
    size = cells.sum(axis=-1) + cells.sum(axis=-2)
    with np.errstate(invalid="ignore"):
        f1 = np.where(size > 0, 2 * hit / size, np.nan)
    return np.nanmean(f1, axis=-1)


def macro_f1_by_threshold(counts: np.ndarray) -> np.ndarray:
    """Macro F1 (BINS,) for the thresholds k / BINS; an absent class counts as in `scores`."""
    return macro_f1(confusion_by_threshold(counts))


def best_threshold(counts: np.ndarray) -> tuple[float, float]:
    """The threshold with the best macro F1 over the whole range, and that F1.

    Of several equally good thresholds the middle one is taken (repeatable, and the least
    sensitive). Raises ValueError if `counts` is empty.
    """
    if not counts.sum():
        raise ValueError("no valid pixel to choose a threshold from")
    # Threshold 0 is not on offer: it is the one that is not exact, where scores are 0.
    f1 = macro_f1_by_threshold(counts)[1:]
    best = np.flatnonzero(f1 == f1.max())
    return float((best[len(best) // 2] + 1) / BINS), float(f1.max())


def upper_quantile(counts: np.ndarray, share: float) -> float:
    """The least threshold k / BINS, but 0, that `share` in [0, 1] of the scores do not exceed.

    counts: (BINS,) of `histogram`. Raises ValueError if it is empty.
    """
    if not counts.any():
        raise ValueError("no score to choose a threshold from")
    below = np.cumsum(counts)
    return float((np.searchsorted(below, share * below[-1]) + 1) / BINS)


def otsu_threshold(counts: np.ndarray) -> float:
    """Otsu's threshold in [0, 1] of a score histogram (BINS,), without any label.

    It maximises the between-class variance (Otsu 1979, doi 10.1109/TSMC.1979.4310076).
    """
    counts = np.asarray(counts, np.float64)
    centres = (np.arange(BINS) + 0.5) / BINS
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * centres)
    with np.errstate(invalid="ignore", divide="ignore"):
        variance = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    variance = np.nan_to_num(variance)
    best = np.flatnonzero(variance == variance.max())
    return float((best[len(best) // 2] + 1) / BINS)
