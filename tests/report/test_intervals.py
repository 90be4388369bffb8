"""Intervals against scikit-learn on pixels and a bootstrap written out with numpy."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, jaccard_score

from fcd.report.intervals import DRAWS, FIGURES, bootstrap

COUNTS = np.random.default_rng(4).integers(0, 50, (6, 2, 2))


def test_figures_are_those_of_scikit_learn():
    for counts in (*COUNTS, np.array([[5, 2], [0, 0]])):
        truth = np.repeat([0, 0, 1, 1], counts.ravel())
        said = np.repeat([0, 1, 0, 1], counts.ravel())
        assert FIGURES["accuracy"](counts) == pytest.approx(accuracy_score(truth, said))
        assert FIGURES["macro_f1"](counts) == pytest.approx(f1_score(truth, said, average="macro"))
        assert FIGURES["cloud_iou"](counts) == pytest.approx(jaccard_score(truth, said))


def test_scenes_are_resampled_as_a_loop_does_it():
    runs = [COUNTS, COUNTS[:, ::-1]]
    found = bootstrap([{f"S{n}": c for n, c in enumerate(counts)} for counts in runs])
    rng, values = np.random.default_rng(0), []
    for draw in rng.integers(6, size=(DRAWS, 6)):
        accuracies = []
        for counts in runs:
            total = sum(counts[scene] for scene in draw)
            accuracies.append((total[0, 0] + total[1, 1]) / total.sum())
        values.append(np.mean(accuracies))
    assert found["accuracy"] == pytest.approx(np.percentile(values, [2.5, 97.5]))


def test_scenes_that_are_alike_leave_no_doubt_and_differing_ones_do():
    alike = bootstrap([dict.fromkeys("abcd", np.array([[8, 2], [1, 9]]))])
    assert alike["accuracy"] == pytest.approx((0.85, 0.85))
    right, wrong = np.array([[5, 0], [0, 5]]), np.array([[0, 5], [5, 0]])
    low, high = bootstrap([{"a": right, "b": wrong}])["accuracy"]
    assert (low, high) == (0, 1)


def test_what_has_no_interval():
    nothing = np.zeros((2, 2), int)
    one = np.array([[8, 0], [0, 0]])
    assert np.isnan(bootstrap([{"a": one}])["accuracy"]).all()
    assert np.isnan(bootstrap([{"a": nothing, "b": nothing}])["accuracy"]).all()
    found = bootstrap([{"a": one, "b": one, "c": nothing}])
    assert np.isnan(found["cloud_iou"]).all()  # no cloud, neither there nor said
    assert found["accuracy"] == (1, 1)


def test_differences_are_those_of_each_draw():
    """The interval of a difference is not the difference of two intervals: scenes are shared."""
    ours, base = [{f"S{n}": c for n, c in enumerate(counts)} for counts in (COUNTS, COUNTS[::-1])]
    values = []
    for draw in np.random.default_rng(0).integers(6, size=(DRAWS, 6)):
        totals = [sum(run[f"S{scene}"] for scene in draw) for run in (ours, base)]
        shares = [(total[0, 0] + total[1, 1]) / total.sum() for total in totals]
        values.append(shares[0] - shares[1])
    expected = np.percentile(values, [2.5, 97.5])
    assert bootstrap([ours], [base])["accuracy"] == pytest.approx(expected)
    assert bootstrap([ours], [ours])["accuracy"] == (0, 0)
