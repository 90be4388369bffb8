"""Axes and bars of the plots."""

import re

import pytest

from fcd.report import plots


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
    assert plots.round_steps(upper) == steps


@pytest.mark.parametrize("letters", [3, 25, 26, 100])
def test_bars_have_room_beside_long_names(letters):
    names = ["F" * letters, "F" * (letters - 1) + "S"]
    svg = plots.bar_panel(
        "Overall", [plots.Bar(name, value) for name, value in zip(names, (0.5, 1), strict=True)]
    )
    half, whole = (float(width) for width in re.findall(r'class="bar".*?width="([^"]*)"', svg))
    assert whole == pytest.approx(2 * half, abs=0.2)
    assert whole > 90
    written = re.findall(r"<text[^>]*>(F[^<]*)</text>", svg)
    assert len(set(written)) == 2
    assert max(map(len, written)) == min(letters, 25)
    assert all(name in svg for name in names)  # in the words for those who do not see it
