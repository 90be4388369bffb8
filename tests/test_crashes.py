"""A few of the kills of `tests.crashes`; all of them: python -m tests.crashes."""

import random

import pytest

from tests import crashes


@pytest.mark.slow
@pytest.mark.ci
def test_killed_and_run_again_equals_undisturbed(tmp_path):
    crashes.draw(tmp_path / "work")
    for name in ("prepare", "train_fcd"):
        row = crashes.try_command(name, tmp_path, 2, random.Random(1))
        assert row["failures"] == []
        assert row["orphans"] == 0
        assert row["landed"] > 0


def test_a_difference_is_found(tmp_path):
    for side in ("a", "b"):
        (tmp_path / side / "runs").mkdir(parents=True)
        (tmp_path / side / "same").write_text("1")
        (tmp_path / side / "other").write_text(side)
        (tmp_path / side / "runs" / f"only {side}").write_text("")
    (tmp_path / "a" / "gone").write_text("1")
    assert crashes.differences(tmp_path / "a", tmp_path / "b") == [
        "gone is only expected", "other differs"
    ]  # fmt: skip
