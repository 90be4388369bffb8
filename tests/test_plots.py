"""Axes of the plots."""

import pytest

from fcd import plots


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
