import csv
import json
import math
import statistics
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from fcd.cli import commands
from fcd.errors import UserError
from fcd.report import comparison
from fcd.report.comparison import estimates, latex, markdown, summary
from fcd.report.results import supervision_note
from fcd.report.runs import Run, Sample, group, read_published, read_run
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
    comparison.compare(runs, folder, None, 2)
    return folder


def of_method(*accuracies):
    """A method of one run per accuracy, each over the same scene of 100 pixels; None: of none."""
    counts = [
        np.array([[0, 0], [100 - right, right]]) if right else np.zeros((2, 2), int)
        for right in (accuracy and round(100 * accuracy) for accuracy in accuracies)
    ]
    return group([Run(None, {"method": "FCD"}, {"S": Sample("Water", "S", c)}) for c in counts])


def mean_and_spread(methods, scope="Overall", figure="accuracy"):
    found = summary(methods).loc[(methods[0].name, scope), figure]
    return found["mean"], found["std"]


class TestEstimate:
    def test_mean_and_sample_standard_deviation(self):
        methods = of_method(0.90, 0.92, 0.97)
        mean, spread = mean_and_spread(methods)
        assert mean == pytest.approx(0.93)
        assert spread == pytest.approx((0.0026 / 2) ** 0.5)  # 9 + 1 + 16 = 26
        assert texts(methods) == ["93.00 ± 3.61"]

    def test_one_run_has_no_spread(self):
        assert texts(of_method(0.5)) == ["50.00"]

    def test_undefined_runs_are_left_out(self):
        mean, spread = mean_and_spread(of_method(None, 0.25, None))
        assert mean == 0.25
        assert math.isnan(spread)
        assert texts(of_method(None)) == ["–"]


def texts(methods):
    return estimates(comparison.by_scope(methods, "accuracy")["Overall"])


def sample(scene, *cells, biome="Water"):
    return Sample(biome, scene, np.reshape(cells, (2, 2)))


def test_folds_are_pooled_and_seeds_are_averaged():
    """Two seeds of two folds, whatever their order; a scene of fold 1 has two crops."""
    first = {"a": sample("A", 90, 10, 0, 0), "b": sample("B", 0, 0, 50, 50)}
    second = {"c1": sample("C", 10, 0, 0, 10), "c2": sample("C", 0, 20, 20, 0)}
    other = {"a": sample("A", 100, 0, 0, 0), "b": sample("B", 0, 0, 0, 100)}
    runs = [Run(None, {"method": "FCD"}, tested) for tested in (first, other, second, dict(second))]
    for order in ((0, 1, 2, 3), (0, 2, 1, 3)):
        (method,) = group([runs[n] for n in order])
        assert method.count == "2 × 2 folds"
        assert [r.figures("Overall")[0] for r in method.repetitions] == [
            pytest.approx(160 / 260),  # 90 + 50 + 10 + 10 right
            pytest.approx(220 / 260),
        ]
        # Cloud of the first: 60 hit of 130 that are there, and 30 that are said falsely.
        assert method.repetitions[0].figures("Overall")[2] == pytest.approx(60 / 160)
        assert method.repetitions[0].by_scene()["C"].tolist() == [[10, 20], [20, 10]]
        mean, spread = mean_and_spread([method])
        assert mean == pytest.approx(190 / 260)
        assert spread == pytest.approx(30 / 260 * 2**0.5)


def test_folds_and_a_run_over_all_scenes_can_be_compared():
    parts = ({"a": sample("A", 9, 1, 0, 0)}, {"b": sample("B", 0, 0, 5, 5, biome="Forest")})
    folds = [Run(None, {"method": "FCD"}, part) for part in parts]
    whole = Run(None, {"method": "U-Net"}, parts[0] | parts[1])
    methods = group([*folds, whole])
    assert comparison.warnings(methods) == []
    figures = [method.repetitions[0].figures("Overall") for method in methods]
    assert figures[0] == figures[1]
    assert methods[0].repetitions[0].figures("Forest")[0] == 0.5
    assert methods[0].repetitions[0].run_of("b") is folds[1]
    assert "different scenes" in comparison.warnings(group([folds[0], whole]))[0]


def test_differences_are_taken_run_by_run():
    """Seeds differ by 20 points, the methods by 10 in each."""
    pairs = {"A": [(50, 50, 0, 0), (70, 30, 0, 0)], "B": [(60, 40, 0, 0), (80, 20, 0, 0)]}
    runs = [
        Run(None, {"method": name}, {"a": sample("S", *cells), "b": sample("T", *cells)})
        for name, each in pairs.items()
        for cells in each
    ]
    table = comparison.difference_table(group(runs), "A")
    assert table.Method.tolist() == ["B"]
    assert table.Accuracy.tolist() == ["+10.00 ± 0.00 [+10.0, +10.0]"]
    assert table["Cloud IoU"].tolist() == ["+0.00 ± 0.00 [+0.0, +0.0]"]
    with pytest.raises(UserError, match="--base C is no method; choose one of: A, B"):
        comparison.difference_table(group(runs), "C")
    with pytest.raises(UserError, match=r"B has other runs than it .1, not 2, or over other sc"):
        comparison.difference_table(group(runs[:-1]), "A")


def test_differences_that_are_not_defined_are_no_numbers():
    """One scene has no interval, one pair no deviation, and where no cloud is there is no IoU."""
    runs = [Run(None, {"method": name}, {"a": sample("S", 9, 0, 0, 0)}) for name in "AB"]
    table = comparison.difference_table(group(runs), "A")
    assert table.iloc[0].tolist() == ["B", "+0.00", "+0.00", "–"]


def test_the_base_is_in_every_table(runs, tmp_path, capsys):
    comparison.compare([*runs[:1], runs[2]], tmp_path, None, 0, base="FCD")
    printed = capsys.readouterr().out
    (line,) = (row for row in printed.split("Minus FCD, points")[1].splitlines() if "QA" in row)
    difference = line.split("QA & band_1")[1].split()[0]
    for name in ("table.md", "table.tex", "comparison.html"):
        text = (tmp_path / name).read_text()
        assert difference in text, name
        assert "Minus FCD, points" in text or name == "table.tex"


def test_a_list_of_crops_says_biomes_and_scenes(runs, tmp_path, capsys):
    """The crops of a scene are resampled together: of one scene there is no interval."""
    lines = ["LC800,Water,S", "LC801,Water,S", "LC810,Water,S", "LC811,Urban,S"]
    (tmp_path / "patches.csv").write_text("\n".join(["patch,biome,scene", *lines]))
    comparison.compare(runs, tmp_path / "out", None, 1, tmp_path / "patches.csv")
    table = pd.read_csv(tmp_path / "out/table.csv")
    assert table.scope.tolist() == 2 * ["Overall", "Urban", "Water"]
    assert table.macro_f1_low.isna().all()
    (tmp_path / "patches.csv").write_text("\n".join(["patch,biome,scene", *lines[1:]]))
    with pytest.raises(UserError, match="tests LC800, which --crops does not list"):
        comparison.compare(runs, tmp_path / "out", None, 1, tmp_path / "patches.csv")


def test_intervals_stand_beside_the_figures(written):
    with (written / "table.csv").open(newline="") as stream:
        overall = next(csv.DictReader(stream))
    bounds = [float(overall[f"macro_f1_{name}"]) for name in ("low", "mean", "high")]
    assert bounds == sorted(bounds)
    low, high = (f"{100 * bound:.1f}" for bound in bounds[::2])
    assert f" [{low}, {high}] " in (written / "table.md").read_text().splitlines()[4]


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
    mean, spread = mean_and_spread(methods, "SnowIce")
    assert mean == pytest.approx(sum(accuracies) / 2)
    assert spread == pytest.approx(statistics.stdev(accuracies))


def test_biome_that_some_methods_lack_is_undefined_for_them(tmp_path):
    write_run(tmp_path / "a", "FCD", biomes=("Forest",))
    write_run(tmp_path / "b", "FCD+", biomes=("Forest", "Water"))
    methods = group([read_run(tmp_path / name) for name in "ab"])
    assert all(map(math.isnan, mean_and_spread(methods, "Water")))
    assert comparison.biome_table(methods)["Water"][0] == "–"


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
    table = pd.DataFrame({"Method": ["a|b & c_1 100%"], "F1": ["93.00 ± 0.10"]})
    assert markdown(table).splitlines()[2] == r"| a\|b & c_1 100% | 93.00 ± 0.10 |"
    assert r"a|b \& c\_1 100\% & 93.00 $\pm$ 0.10 \\" in latex(table)


def test_latex_escapes_every_special_character():
    table = pd.DataFrame({"#": [r"\ ~ ^ & % $ # _ { } ± –"]})
    assert latex(table).splitlines() == [
        r"\begin{tabular}{l}",
        r"\toprule",
        r"\# \\",
        r"\midrule",
        r"\textbackslash \space \textasciitilde \space \textasciicircum \space"
        r" \& \% \$ \# \_ \{ \} $\pm$ -- \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_biomes_may_be_called_anything(runs, tmp_path):
    names = ("Method", "$x^{", "a|b", "森林")
    write_run(tmp_path / "run", "FCD", biomes=names)
    path = comparison.compare([tmp_path / "run"], tmp_path / "out", None, 0)
    with (tmp_path / "out/table.csv").open(newline="", encoding="utf-8") as stream:
        scopes = [row["scope"] for row in csv.DictReader(stream)]
    assert scopes == ["Overall", *sorted(names)]
    for name in ("table.md", "table.tex", "figure.svg"):
        assert "森林" in (tmp_path / "out" / name).read_text(encoding="utf-8")
    assert "$x^{" in path.read_text(encoding="utf-8")


def test_figure_is_well_formed_and_holds_every_bar(written):
    root = ElementTree.parse(written / "figure.svg").getroot()
    ids = [part.get("id", "").partition("-")[2] for part in root.iter()]
    # scopes x methods; of the method with two runs an error bar with two ends.
    bars = [f"bar-{scope}-{method}" for scope in range(3) for method in range(2)]
    assert sorted(name for name in ids if name.startswith("bar-")) == bars
    errors = [part for part in root.iter() if "-error-" in part.get("id", "")]
    assert [part.get("id").partition("-")[2] for part in errors] == [
        f"error-{scope}-0" for scope in range(3)
    ]
    uses = "{http://www.w3.org/2000/svg}use"
    assert all(len(list(part.iter(uses))) == 2 for part in errors)


def test_page_shows_scenes_of_all_runs(written):
    html = (written / "comparison.html").read_text()
    assert "QA &amp; band_1" in html
    assert "QA & band_1" not in html
    # Two scenes: image, truth, score and mask of FCD, mask of the QA band.
    assert html.count("<img ") == 2 * 5


def test_different_scenes_are_warned_about(runs, tmp_path, capsys):
    write_run(tmp_path / "other", "FCD+", biomes=("Forest",))
    comparison.compare([runs[0], tmp_path / "other"], tmp_path / "out", None, 4)
    assert "different scenes" in capsys.readouterr().out
    assert "different scenes" in (tmp_path / "out/table.md").read_text()


def test_missing_metrics_name_the_file_and_the_command(tmp_path):
    with pytest.raises(UserError) as refused:
        commands.compare([str(tmp_path / "FCDPlus")])
    said = str(refused.value)
    assert "\n" not in said
    assert str(tmp_path / "FCDPlus/results/metrics.json") in said
    assert "--mode test --experiment_name FCD+" in said


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
        comparison.compare([runs[0]], tmp_path / "out", path, 4)
        html = (tmp_path / "out/comparison.html").read_text()
        assert "doi 10.0/x" in html
        assert "all 96 scenes" in html

    def test_figure_without_a_source_is_refused(self, tmp_path):
        path = tmp_path / "published.csv"
        path.write_text(self.HEADER + "Fmask,84.75,84.74,,all 96 scenes,\n")
        with pytest.raises(UserError, match="line 2: no source"):
            read_published(path)
