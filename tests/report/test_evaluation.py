import csv
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import accuracy_score, f1_score, jaccard_score

from fcd import metrics, pictures
from fcd.report.evaluation import Evaluation, SceneEvaluation
from fcd.report.results import supervision_note
from tests.report.runs import LABEL_FREE, WEAK, evaluate_scene, scene, write_run


class Tags(HTMLParser):
    """Checks that tags nest, and keeps attributes that point elsewhere and the pictures."""

    def __init__(self):
        super().__init__()
        self.open, self.links, self.images = [], [], []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.links += [attrs[name] for name in ("src", "href") if name in attrs]
        self.images += [attrs] if tag == "img" else []
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "FCD<0>").parent


class TestSceneEvaluation:
    def test_strips_of_any_height_give_the_whole(self):
        rgb, truth, score = scene(0, size=(61, 45))
        whole, mask = evaluate_scene("a", "Water", rgb, truth, score, 0.4, rows=61)
        for rows in (1, 7, 16):
            strips, _ = evaluate_scene("a", "Water", rgb, truth, score, 0.4, rows)
            np.testing.assert_array_equal(strips.counts, whole.counts)
            np.testing.assert_array_equal(strips.histogram, whole.histogram)
            for name, picture in whole.pictures.items():
                np.testing.assert_array_equal(strips.pictures[name], picture)
        valid = truth > 0
        assert whole.counts.sum() == valid.sum()
        assert np.trace(whole.counts) == np.count_nonzero((truth == mask)[valid])

    def test_large_scene_is_thinned_on_one_grid(self):
        truth = np.random.default_rng(0).integers(1, 3, (1100, 700)).astype(np.uint8)
        rgb = np.ones((3, 1100, 700), np.uint16)
        result, mask = evaluate_scene("a", "Water", rgb, truth, truth / 3, 0.5, rows=97)
        np.testing.assert_array_equal(result.pictures["mask"], pictures.colour_mask(mask[::3, ::3]))

    def test_pixel_without_prediction_does_not_count(self):
        evaluation = SceneEvaluation("a", "Water", 1, 3, 0.5)
        truth, prediction = np.array([[2, 2, 0]], np.uint8), np.array([[2, 0, 1]], np.uint8)
        evaluation.add(0, np.ones((3, 1, 3)), truth, prediction, np.ones((1, 3), np.float32))
        result = evaluation.result()
        assert result.counts.tolist() == [[0, 0], [0, 1]]
        assert result.histogram.sum() == 1

    def test_method_without_score_has_no_score_picture(self):
        result, _ = evaluate_scene("a", "Water", *scene(0), None)
        assert result.histogram is None
        assert set(result.pictures) == {"image", "truth", "mask", "error"}


class TestMetricsFiles:
    def test_figures_equal_scikit_learn_on_pooled_pixels(self, run):
        results = json.loads((run / "metrics.json").read_text())
        truths, masks = [], []
        for seed, cloud in ((0, False), (1, True), (10, False), (11, True)):
            rgb, truth, score = scene(seed, cloud)
            _, mask = evaluate_scene("", "", rgb, truth, score, 0.5)
            truths.append(truth[truth > 0])
            masks.append(mask[truth > 0])

        def check(scores, truth, mask):
            assert scores["accuracy"] == pytest.approx(accuracy_score(truth, mask))
            assert scores["macro"]["f1"] == pytest.approx(f1_score(truth, mask, average="macro"))
            assert scores["cloud"]["iou"] == pytest.approx(jaccard_score(truth == 2, mask == 2))

        check(results["overall"], np.concatenate(truths), np.concatenate(masks))
        check(results["biomes"]["SnowIce"], np.concatenate(truths[2:]), np.concatenate(masks[2:]))
        check(results["scenes"]["Forest_LC801"], truths[1], masks[1])
        assert results["scenes"]["Forest_LC800"]["cloud"]["recall"] is None
        assert results["scenes"]["Forest_LC801"]["biome"] == "Forest"
        assert np.sum(results["confusion"]) == results["overall"]["pixels"]

    def test_says_what_the_run_is(self, run):
        results = json.loads((run / "metrics.json").read_text())
        assert (results["method"], results["experiment"]) == ("FCD", "FCD<0>")
        assert results["threshold"] == 0.5
        assert results["supervision"]["threshold_pixel_labels"] == 1000

    def test_thresholds_compare_the_chosen_one(self, run):
        results = json.loads((run / "metrics.json").read_text())
        thresholds = results["thresholds"]
        assert thresholds["chosen"]["value"] == 0.5
        assert thresholds["chosen"]["macro_f1"] == pytest.approx(results["overall"]["macro"]["f1"])
        assert thresholds["best"]["macro_f1"] >= thresholds["chosen"]["macro_f1"]
        assert thresholds["best"]["macro_f1"] >= thresholds["otsu"]["macro_f1"]

    def test_csv_holds_every_scope(self, run):
        with (run / "metrics.csv").open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        assert [row["scope"] for row in rows] == ["overall"] + 2 * ["biome"] + 4 * ["scene"]
        results = json.loads((run / "metrics.json").read_text())
        assert float(rows[0]["macro_f1"]) == results["overall"]["macro"]["f1"]
        assert rows[3]["cloud_recall"] == ""

    def test_pictures_lie_beside(self, run):
        with Image.open(run / "pictures" / "Forest_LC801_error.png") as image:
            assert image.size == (70, 60)
        assert len(list((run / "pictures").iterdir())) == 4 * 5
        assert not list(run.rglob(".*"))


class TestPage:
    def test_is_one_well_formed_file_that_needs_no_network(self, run):
        html = (run / "report.html").read_text()
        tags = Tags()
        tags.feed(html)
        assert not tags.open
        assert all(link.startswith("data:") for link in tags.links)
        assert not re.search(r"@import|url\(", html)
        assert len(tags.images) == 4 * 5
        assert all(image["alt"] for image in tags.images)

    def test_escapes_text(self, run):
        html = (run / "report.html").read_text()
        assert "<script>alert" not in html
        assert "&lt;script&gt;alert(1)" in html
        assert "FCD&lt;0&gt;" in html

    def test_shows_the_headline_figures(self, run):
        results = json.loads((run / "metrics.json").read_text())
        html = (run / "report.html").read_text()
        for figure in (results["overall"]["accuracy"], results["overall"]["macro"]["f1"]):
            assert f"<dd>{100 * figure:.1f}</dd>" in html

    def test_method_without_score_has_no_threshold_section(self, tmp_path):
        html = write_run(tmp_path / "QA", "QA band", threshold=None).read_text()
        assert "<h2>Thresholds</h2>" not in html
        assert "Cloud score" not in html
        assert json.loads((tmp_path / "QA/results/metrics.json").read_text())["thresholds"] is None

    def test_title_does_not_repeat_itself(self, tmp_path):
        assert "<h1>FCD</h1>" in write_run(tmp_path / "FCD", "FCD").read_text()
        assert "<h1>FCD-1: FCD</h1>" in write_run(tmp_path / "FCD-1", "FCD").read_text()

    def test_no_scene_makes_a_page_of_dashes(self, tmp_path):
        evaluation = Evaluation(tmp_path, "FCD", 0.5, WEAK)
        evaluation.write({})
        html = evaluation.report.read_text()
        assert "<dd>–</dd>" in html

    @pytest.mark.parametrize("threshold", [0.0, 1.0])
    def test_thresholds_at_the_ends(self, tmp_path, threshold):
        page = write_run(tmp_path / "run", threshold=threshold)
        results = json.loads(page.with_name("metrics.json").read_text())
        chosen = {"value": threshold, "macro_f1": results["overall"]["macro"]["f1"]}
        assert results["thresholds"]["chosen"] == chosen

    def test_marks_keep_the_colours_of_the_legend(self, tmp_path):
        """At 0.99 nothing is called cloud: that threshold has no place on the second curve."""
        rgb, truth, score = scene(0)
        evaluation = Evaluation(tmp_path, "FCD", 0.99, WEAK)
        evaluation.add(evaluate_scene("a", "Water", rgb, truth, 0.9 * score, 0.99)[0])
        evaluation.write({})
        html = evaluation.report.read_text()
        first, second = re.findall(r"<svg .*?</svg>", html, re.DOTALL)
        marks = re.compile(r'id="[^"]*-mark-(\w+)"><title>(\w+)</title>')
        places = [("first", "chosen"), ("second", "otsu"), ("third", "best")]
        assert marks.findall(first) == places
        assert marks.findall(second) == places[1:]


class TestSupervisionNote:
    def test_choice_with_pixel_labels_is_said(self):
        note = supervision_note(vars(WEAK))
        assert "threshold was chosen with 1,000 labelled pixels" in note
        assert "checkpoint was chosen with 2,000 labelled pixels" in note
        assert "not image-level supervision alone" in note

    def test_label_free_run_is_said(self):
        assert supervision_note(vars(LABEL_FREE)).startswith("No pixel label was used")

    def test_trained_on_pixels_is_said(self):
        note = supervision_note(vars(LABEL_FREE) | {"pixel_labels": 12345})
        assert note == "12,345 labelled pixels were trained on."


def test_histogram_and_counts_agree():
    result, _ = evaluate_scene("a", "Water", *scene(4), 0.5)
    cells = metrics.confusion_by_threshold(result.histogram)
    np.testing.assert_array_equal(cells[metrics.BINS // 2], result.counts)
