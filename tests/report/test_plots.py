"""Axes, bars and colours of the plots."""

import re
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from fcd.report import page, plots

LINE = np.array([[0, 0], [1, 1]])


def curve(**options):
    return plots.curve(LINE, [], x_label="x", y_label="y", alt="line", **options)


def frame(means, spreads=None):
    names = [f"FCD{index}" for index in range(len(means))]
    return pd.DataFrame({"mean": means, "std": spreads or np.nan}, names, dtype=float)


def texts(svg):
    return [part.text for part in ElementTree.fromstring(svg).iter() if part.tag.endswith("text")]


@pytest.mark.parametrize(
    ("upper", "steps"),
    [
        (1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0.28, [0, 0.1, 0.2]),
        (0.23, [0, 0.05, 0.1, 0.15, 0.2]),
        (0.0004, [0, 0.0001, 0.0002, 0.0003, 0.0004]),
    ],
)
def test_axes_are_marked_at_round_numbers(upper, steps):
    numbers = [float(text) for text in texts(curve(x_max=upper)) if re.match(r"\d", text)]
    assert numbers == [*steps, 0, 0.2, 0.4, 0.6, 0.8, 1]


@pytest.mark.parametrize("letters", [3, 25, 26, 100])
def test_bars_have_room_beside_long_names(letters):
    names = ["F" * letters, "F" * (letters - 1) + "S"]
    svg = plots.bars({"Overall": pd.DataFrame({"mean": [0.5, 1], "std": np.nan}, names)})
    ends = [
        [float(x) for x in re.findall(r"[ML] (\S+)", path)]
        for path in re.findall(r'-bar-[^"]*">\s*<path d="([^"]*)"', svg)
    ]
    half, whole = (max(x) - min(x) for x in ends)
    assert whole == pytest.approx(2 * half, abs=0.2)
    assert whole > 90
    written = re.findall(r"<text[^>]*>(F[^<]*)</text>", svg)
    assert len(set(written)) == 2
    assert max(map(len, written)) == min(letters, 25)
    assert all(name in svg for name in names)  # in the words for those who do not see it


def test_wide_names_leave_room_and_do_not_leave_the_picture():
    svg = plots.bars({"Overall": pd.DataFrame({"mean": [1.0], "std": [0.1]}, ["W" * 60])})
    (name,) = (text for text in texts(svg) if "W" in text)
    assert name == "WWWWWWW…WWWWWWW"  # 15 letters of at most 12 pixels


def test_a_bar_says_its_value_and_error_bars_stay_on_the_scale():
    svg = plots.bars({"Overall": frame([0.5, 0.95, np.nan], [0.25, 0.1, np.nan])})
    assert {"FCD0", "FCD1", "FCD2", "50.0", "95.0", "–", "Overall"} == set(texts(svg))
    assert "Overall: FCD0 50.0 ± 25.0 %, FCD1 95.0 ± 10.0 %, FCD2 not defined" in svg
    bar, error = (
        [float(x) for x in re.findall(r"[ML] (\S+)", path)]
        for name in ("bar-0-0", "error-0-1")
        for path in re.findall(rf'-{name}">\s*<path d="([^"]*)"', svg)
    )
    left, unit = min(bar), 2 * (max(bar) - min(bar))
    assert (min(error) - left) / unit == pytest.approx(0.85, abs=1e-3)
    assert (max(error) - left) / unit == pytest.approx(1, abs=1e-3)


def test_text_is_text_whatever_is_in_it():
    names = ["$x^{", "<script>", "森林", "a & b"]
    svg = plots.bars({"$\\frac": pd.DataFrame({"mean": 0.5, "std": np.nan}, names)})
    assert set(names) < set(texts(svg))


def test_same_plot_is_the_same_text_and_no_two_plots_share_an_id():
    first, second = plots.bars({"a": frame([0.5])}), plots.bars({"b": frame([0.5])})
    assert plots.bars({"a": frame([0.5])}) == first
    ids = [re.findall(r' id="([^"]*)"', svg) for svg in (first, second)]
    assert all(len(set(names)) == len(names) for names in ids)
    assert not set(ids[0]) & set(ids[1])
    used = re.findall(r'href="#([^"]*)"', first)
    assert set(used) <= set(ids[0])


def test_settings_of_the_user_change_nothing_and_are_left_alone():
    plain = curve()
    with plots.matplotlib.rc_context({"font.size": 30, "svg.fonttype": "path"}):
        assert curve() == plain
        assert plots.matplotlib.rcParams["font.size"] == 30


def test_colours_are_those_of_the_page_and_plain_ones_without_it():
    mark = plots.Mark("best", 0.5, 0.5, rule=True)
    svg = plots.curve(LINE, [mark] * 3, x_label="x", y_label="y", alt="line")
    assert "var(" not in svg
    inlined = page.inlined(svg)
    colours = re.findall(r"(?:fill|stroke): ([^;\"]+)", inlined)
    names = {"card", "ink", "soft", "line", "first", "second", "third"}
    assert set(colours) == {"none", *(f"var(--{name})" for name in names)}
