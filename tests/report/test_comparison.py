import csv
import json
import statistics
import subprocess
import sys
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from fcd.errors import UserError
from fcd.report import comparison
from fcd.report.comparison import Estimate, group, latex, markdown, read_run
from fcd.report.run_page import supervision_note
from tests.conftest import ROOT
from tests.report.runs import LABEL_FREE, WEAK, write_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two seeds of FCD and one run of a method without a score."""
    root = tmp_path_factory.mktemp("outputs")
    write_run(root / "FCD-1", "FCD", seed=0, supervision=WEAK)
    write_run(root / "FCD-2", "FCD", seed=100, supervision=WEAK)
    write_run(root / "QA", "QA & band_1", seed=0, threshold=None, supervision=LABEL_FREE)
    return [root / name for name in ("FCD-1", "FCD-2", "QA")]


@pytest.fixture(scope="module")
def written(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("comparison")
    comparison.main([*map(str, runs), "--output_dir", str(folder), "--num_scenes", "2"])
    return folder


class TestEstimate:
    def test_mean_and_sample_standard_deviation(self):
        estimate = Estimate.of([0.90, 0.92, 0.97])
        assert estimate.mean == pytest.approx(0.93)
        assert estimate.spread == pytest.approx((0.0026 / 2) ** 0.5)  # 9 + 1 + 16 = 26
        assert estimate.text() == "93.00 ± 3.61"

    def test_one_run_has_no_spread(self):
        assert Estimate.of([0.5]).text() == "50.00"

    def test_undefined_runs_are_left_out(self):
        assert Estimate.of([None, 0.25, None]) == Estimate(0.25, None)
        assert Estimate.of([None]).text() == "–"


def test_runs_of_a_method_are_one_row(runs):
    methods = group([read_run(folder) for folder in runs])
    assert [(method.name, len(method.runs)) for method in methods] == [
        ("FCD", 2),
        ("QA & band_1", 1),
    ]
    accuracies = [
        json.loads((folder / "results/metrics.json").read_text())["biomes"]["SnowIce"]["accuracy"]
        for folder in runs[:2]
    ]
    estimate = methods[0].estimate("SnowIce", "accuracy")
    assert estimate.mean == pytest.approx(sum(accuracies) / 2)
    assert estimate.spread == pytest.approx(statistics.stdev(accuracies))
    assert methods[0].estimate("Water", "accuracy") == Estimate(None, None)


def test_terminal_table_names_the_supervision(runs):
    lines = comparison.terminal_table(group([read_run(folder) for folder in runs])).splitlines()
    assert lines[0].split("  ")[0] == "Method"
    assert lines[1].endswith("threshold, checkpoint")
    assert lines[2].endswith("nothing")
    assert len({len(line) for line in lines}) == 1


def test_labels_of_weights_from_elsewhere_are_unknown_and_not_none(tmp_path):
    choice = replace(LABEL_FREE, checkpoint_chosen_by="unknown")
    write_run(tmp_path / "run", supervision=choice)
    methods = group([read_run(tmp_path / "run")])
    assert methods[0].chosen_with_pixel_labels("checkpoint") == "unknown"
    assert methods[0].chosen_with_pixel_labels("threshold") == "no"
    assert comparison.terminal_table(methods).endswith("checkpoint (unknown)")
    assert "is unknown" in supervision_note(vars(choice))


def test_csv_has_a_line_per_method_and_scope(written):
    with (written / "table.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["scope"] for row in rows] == 2 * ["Overall", "Forest", "SnowIce"]
    assert rows[0]["runs"] == "2"
    assert 0 < float(rows[0]["macro_f1_std"]) < float(rows[0]["macro_f1_mean"]) < 1
    assert rows[3]["macro_f1_std"] == ""
    assert rows[0]["image_labels"] == "300"
    assert rows[0]["threshold_chosen_with_pixel_labels"] == "yes"
    assert rows[3]["checkpoint_chosen_with_pixel_labels"] == "no"


def test_markdown_and_latex_escape():
    table = [["Method", "F1"], ["a|b & c_1 100%", "93.00 ± 0.10"]]
    assert markdown(table).splitlines()[2] == r"| a\|b & c_1 100% | 93.00 ± 0.10 |"
    assert r"a|b \& c\_1 100\% & 93.00 $\pm$ 0.10 \\" in latex(table)


def test_figure_is_well_formed_and_holds_every_bar(written):
    root = ElementTree.parse(written / "figure.svg").getroot()
    svg = "{http://www.w3.org/2000/svg}"
    assert len(root.findall(f".//{svg}rect[@class='bar']")) == 3 * 2  # scopes x methods
    # Error bars of the method with two runs: one line and its two ends.
    assert len(root.findall(f".//{svg}line[@class='error']")) == 3 * 3


def test_page_shows_scenes_of_all_runs(written):
    html = (written / "comparison.html").read_text()
    assert "QA &amp; band_1" in html
    assert "QA & band_1" not in html
    # Two scenes: image, truth, score and mask of FCD, mask of the QA band.
    assert html.count("<img ") == 2 * 5


def test_different_scenes_are_warned_about(runs, tmp_path, capsys):
    write_run(tmp_path / "other", "FCD+", biomes=("Forest",))
    comparison.main([str(runs[0]), str(tmp_path / "other"), "--output_dir", str(tmp_path / "out")])
    assert "different scenes" in capsys.readouterr().out
    assert "different scenes" in (tmp_path / "out/table.md").read_text()


def test_missing_metrics_name_the_file_and_the_command(tmp_path):
    command = [sys.executable, "-m", "fcd.comparison", str(tmp_path / "FCDPlus")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert str(tmp_path / "FCDPlus/results/metrics.json") in done.stderr
    assert "--mode test --experiment_name FCD+" in done.stderr


def test_damaged_metrics_are_refused(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results/metrics.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        read_run(tmp_path)


class TestPublished:
    HEADER = "method,accuracy,macro_f1,cloud_iou,split,source\n"

    def test_is_shown_with_source_and_split(self, runs, tmp_path):
        path = tmp_path / "published.csv"
        path.write_text(self.HEADER + "Fmask,84.75,84.74,,all 96 scenes,doi 10.0/x\n")
        comparison.main(
            [str(runs[0]), "--published", str(path), "--output_dir", str(tmp_path / "out")]
        )
        html = (tmp_path / "out/comparison.html").read_text()
        assert "doi 10.0/x" in html
        assert "all 96 scenes" in html

    def test_figure_without_a_source_is_refused(self, tmp_path):
        path = tmp_path / "published.csv"
        path.write_text(self.HEADER + "Fmask,84.75,84.74,,all 96 scenes,\n")
        with pytest.raises(UserError, match="line 2: no source"):
            comparison.read_published(path)
