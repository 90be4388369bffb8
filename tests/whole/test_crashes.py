"""A few of the kills of `tests.whole.crashes`; all of them: python -m tests.whole.crashes."""

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.whole import crashes


@pytest.mark.slow
def test_killed_and_run_again_equals_undisturbed(tmp_path):
    # A process of its own, because the harness forks: one that has computed with threads cannot.
    figures = tmp_path / "crashes.json"
    command = [sys.executable, "-m", "tests.whole.crashes", "--kills", "2", "--seed", "1"]
    command += ["--only", "prepare", "train_fcd", "--json", figures]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {row["command"]: row for row in json.loads(figures.read_text())}
    for name in ("prepare", "train_fcd"):
        assert (rows[name]["tried"], rows[name]["survived"]) == (2, 2)
        assert rows[name]["landed"] > 0


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
