import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from fcd import metrics
from fcd.landsat import labels
from fcd.metrics import BINS


def random_masks(seed, codes_true=(1, 2), codes_predicted=(1, 2)):
    rng = np.random.default_rng(seed)
    shape = (40, 50)
    truth = rng.choice(codes_true, shape).astype(np.uint8)
    prediction = rng.choice(codes_predicted, shape).astype(np.uint8)
    return truth, prediction


def random_scores(seed, size=4000, digits=3):
    """Scores on a grid coarser than the bins, higher for cloud, many of them 0."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, size).astype(np.uint8)
    score = np.clip(rng.normal(0.1 + 0.2 * (truth == labels.CLOUD), 0.15), 0, 1)
    return truth, score.round(digits).astype(np.float32)


class TestConfusion:
    @pytest.mark.parametrize("seed", range(5))
    def test_equals_scikit_learn_on_valid_pixels(self, seed):
        truth, prediction = random_masks(seed, (0, 1, 2), (0, 1, 2))
        valid = (truth > 0) & (prediction > 0)
        expected = sklearn_metrics.confusion_matrix(truth[valid], prediction[valid], labels=[1, 2])
        np.testing.assert_array_equal(metrics.confusion(truth, prediction), expected)

    def test_nothing_valid_is_all_zero(self):
        nothing = np.zeros((3, 3), np.uint8)
        assert metrics.confusion(nothing, nothing).tolist() == [[0, 0], [0, 0]]


class TestScores:
    @pytest.mark.parametrize("seed", range(5))
    def test_equal_scikit_learn(self, seed):
        truth, prediction = (mask.ravel() for mask in random_masks(seed, (1, 2, 2), (1, 1, 2)))
        scores = metrics.scores(metrics.confusion(truth, prediction))
        precision, recall, f1, _ = sklearn_metrics.precision_recall_fscore_support(
            truth, prediction, labels=[1, 2]
        )
        iou = sklearn_metrics.jaccard_score(truth, prediction, labels=[1, 2], average=None)
        for index, name in enumerate(metrics.CLASSES):
            expected = (precision[index], recall[index], f1[index], iou[index])
            assert list(scores[name].values()) == pytest.approx(expected)
        assert list(scores["macro"].values()) == pytest.approx(
            [figure.mean() for figure in (precision, recall, f1, iou)]
        )
        assert scores["accuracy"] == pytest.approx(
            sklearn_metrics.accuracy_score(truth, prediction)
        )
        assert scores["pixels"] == truth.size

    def test_class_that_neither_occurs_nor_is_predicted_has_no_figure(self):
        scores = metrics.scores(np.array([[7, 0], [0, 0]]))
        assert set(scores["cloud"].values()) == {None}
        assert scores["macro"]["f1"] == 1  # that of the clear class alone

    def test_absent_class_that_is_predicted_counts_as_zero(self):
        scores = metrics.scores(np.array([[6, 2], [0, 0]]))
        assert scores["cloud"] == {"precision": 0, "recall": None, "f1": 0, "iou": 0}
        assert scores["macro"]["f1"] == pytest.approx((2 * 6 / 14 + 0) / 2)

    @pytest.mark.parametrize(("occur", "predicted"), [((1,), (1, 2)), ((1, 2), (1,)), ((2,), (1,))])
    def test_absent_class_agrees_with_scikit_learn(self, occur, predicted):
        truth, prediction = (mask.ravel() for mask in random_masks(0, occur, predicted))
        scores = metrics.scores(metrics.confusion(truth, prediction))
        precision, recall, f1, _ = sklearn_metrics.precision_recall_fscore_support(
            truth, prediction, average="macro", zero_division=0
        )
        assert list(scores["macro"].values())[:3] == pytest.approx([precision, recall, f1])

    def test_no_pixel_has_no_figures(self):
        scores = metrics.scores(np.zeros((2, 2)))
        assert scores["accuracy"] is None
        assert set(scores["macro"].values()) == {None}


class TestHistogram:
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_is_exact_at_the_edges_of_the_bins(self, dtype):
        edges = (np.arange(1, BINS) / BINS).astype(dtype)
        around = np.concatenate(
            [np.nextafter(edges, dtype(0)), edges, np.nextafter(edges, dtype(1))]
        )
        truth = np.full(around.shape, labels.CLOUD, np.uint8)
        cells = metrics.confusion_by_threshold(metrics.histogram(truth, around))
        for k in range(1, BINS, 7):
            assert cells[k, 1, 1] == np.count_nonzero(around > dtype(k / BINS))

    def test_leaves_out_invalid_pixels_whatever_their_score(self):
        truth = np.array([0, 1, 2], np.uint8)
        counts = metrics.histogram(truth, np.array([np.nan, 0.0, 1.0], np.float32))
        assert counts.sum() == 2
        assert counts[0, 0] == 1
        assert counts[1, BINS - 1] == 1

    @pytest.mark.parametrize("threshold", [0.0001, 0.05, 0.3, 0.5, 0.9999])
    def test_gives_the_confusion_of_the_mask(self, threshold):
        truth, score = random_scores(3, digits=4)
        mask = labels.patch_from_score(score, np.ones(score.shape, bool), threshold)
        cells = metrics.confusion_by_threshold(metrics.histogram(truth, score))
        expected = metrics.confusion(truth, mask)
        np.testing.assert_array_equal(cells[round(threshold * BINS)], expected)


class TestPrecisionRecall:
    @pytest.mark.parametrize("seed", range(2))
    def test_is_that_of_the_mask_at_every_threshold(self, seed):
        truth, score = random_scores(seed, digits=2)
        valid = truth > 0
        points = metrics.precision_recall(metrics.histogram(truth, score)).tolist()
        for k in (1, 7, 20, 45):
            said = score[valid] > np.float32(k / 100)
            recall = sklearn_metrics.recall_score(truth[valid] == 2, said)
            precision = sklearn_metrics.precision_score(truth[valid] == 2, said)
            assert [pytest.approx(recall), pytest.approx(precision)] in points
        occurs = np.mean(truth[valid] == 2)
        assert points[0] == pytest.approx([1, occurs])  # all is cloud
        assert points[-1][0] > 0

    def test_without_cloud_there_is_none(self):
        counts = np.zeros((2, BINS), np.int64)
        counts[0, 5] = 3
        assert metrics.precision_recall(counts).shape == (0, 2)


class TestBestThreshold:
    @pytest.mark.parametrize("seed", range(3))
    def test_equals_brute_force_over_all_thresholds(self, seed):
        truth, score = random_scores(seed, digits=2)
        valid = truth > 0
        # Between two neighbouring scores nothing changes: one threshold in each gap is enough.
        f1 = {
            k: sklearn_metrics.f1_score(truth[valid] == 2, score[valid] > k / 100, average="macro")
            for k in range(100)
        }
        threshold, best = metrics.best_threshold(metrics.histogram(truth, score))
        assert best == pytest.approx(max(f1.values()))
        reached = sklearn_metrics.f1_score(
            truth[valid] == 2, score[valid] > np.float32(threshold), average="macro"
        )
        assert reached == pytest.approx(best)

    def test_is_global_though_a_dip_comes_first(self):
        counts = np.zeros((2, BINS), np.int64)
        counts[0, 1000], counts[1, 2000] = 10, 3  # good between, then worse
        counts[0, 3000], counts[1, 8000] = 40, 30  # best between these
        threshold, _ = metrics.best_threshold(counts)
        assert 0.3 < threshold <= 0.8

    def test_holds_for_the_mask_where_all_is_cloud_and_some_scores_are_zero(self):
        truth = np.full(4, labels.CLOUD, np.uint8)
        score = np.array([0, 0.2, 0.4, 0.6], np.float32)
        threshold, f1 = metrics.best_threshold(metrics.histogram(truth, score))
        mask = labels.patch_from_score(score, np.ones(4, bool), threshold)
        assert metrics.scores(metrics.confusion(truth, mask))["macro"]["f1"] == pytest.approx(f1)

    def test_refuses_no_pixels(self):
        with pytest.raises(ValueError, match="no valid pixel"):
            metrics.best_threshold(np.zeros((2, BINS), np.int64))


class TestUpperQuantile:
    @pytest.mark.parametrize("share", [0.5, 0.99, 0.999])
    def test_just_so_many_scores_exceed_it(self, share):
        score = np.random.default_rng(0).beta(2, 50, 10_000).astype(np.float32)
        counts = metrics.histogram(np.full(score.shape, metrics.CLEAR), score).sum(axis=0)
        threshold = metrics.upper_quantile(counts, share)
        assert (score > threshold).mean() <= 1 - share + 1e-9
        assert (score > threshold - 1 / BINS).mean() > 1 - share
        assert threshold == pytest.approx(np.quantile(score, share), abs=2 / BINS)

    def test_scores_of_zero_give_the_least_threshold(self):
        counts = np.zeros(BINS, np.int64)
        counts[0] = 7
        assert metrics.upper_quantile(counts, 0.999) == 1 / BINS
        with pytest.raises(ValueError, match="no score"):
            metrics.upper_quantile(np.zeros(BINS, np.int64), 0.999)


class TestOtsuThreshold:
    @pytest.mark.parametrize("seed", range(3))
    def test_minimises_the_variance_within_both_sides(self, seed):
        truth, score = random_scores(seed, 800, digits=2)
        counts = metrics.histogram(truth, score).sum(axis=0)
        # Otsu's other definition: the least sum of squares within the two sides.
        centres = np.repeat(np.flatnonzero(counts), counts[np.flatnonzero(counts)]) / BINS

        def within(threshold):
            sides = centres[centres < threshold], centres[centres >= threshold]
            return sum(((side - side.mean()) ** 2).sum() for side in sides if side.size)

        least = min(within(value) for value in np.unique(centres)[1:])
        assert within(metrics.otsu_threshold(counts)) == pytest.approx(least)

    def test_two_peaks_are_parted_in_the_middle(self):
        counts = np.zeros(BINS, np.int64)
        counts[1000], counts[3000] = 50, 70
        assert metrics.otsu_threshold(counts) == pytest.approx(0.2, abs=0.001)
