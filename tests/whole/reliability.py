"""Every figure of docs/reliability.md: kills, faults, malformed inputs; written into that page.

    python -m tests.whole.reliability [--kills 20] [--tries 6] [--examples 300]

An hour or two on two cores. The long parts can be run apart and handed in:
--crashes FILE (python -m tests.whole.crashes --json FILE), --faults FILE
(python -m tests.whole.faults --json FILE), --fleet FILE (python -m tests.whole.fleet --json FILE).
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.whole import crashes, faults, fleet

PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- figures: python -m tests.whole.reliability -->", "<!-- end of figures -->"
SUITES = {
    "damaged patches and scenes, killed readers, full disks": "tests/whole/test_faults.py",
    "locale, clock, odd folders, two runs at once, readers killed": (
        "tests/whole/test_conditions.py"
    ),
    "network: a server that misbehaves, archives that are hostile": (
        "tests/download tests/landsat/test_archives.py"
    ),
}


class Outcomes:
    """Counts what pytest says."""

    def __init__(self) -> None:
        self.counts = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or not report.passed:
            self.counts[report.outcome] += 1


def suite(paths: str) -> Counter:
    outcomes = Outcomes()
    # The harnesses have imported what pytest would otherwise have rewritten.
    calm = ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
    places = [str(ROOT / path) for path in paths.split()]
    pytest.main(["-q", "--no-header", *calm, *places], plugins=[outcomes])
    return outcomes.counts


def table(header: list[str], rows: list[list[Any]]) -> str:
    lines = [header, [":--"] + ["--:"] * (len(header) - 1), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def measured(module: Any, arguments: list[str], given: Path | None) -> list[dict[str, Any]]:
    """The rows that `module` counts, or those it has counted before."""
    if given:
        return json.loads(given.read_text())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.json")
        module.run([*arguments, "--json", str(path)])
        return json.loads(path.read_text())


def fleet_table(rows: list[dict[str, Any]]) -> list[str]:
    counted = ["scenes", "killed", "killed by the scene", "begun again", "equal"]
    header = ["run", "scenes, one poisonous", "workers killed at random", "killed by the scene"]
    return [
        "**Workers of a cluster killed while they mask scenes**: `--cluster local`, the other "
        "scenes compared with a run without a cluster, to the byte.\n",
        table(
            [*header, "scenes begun again", "masked, equal"],
            [[number, *(row[name] for name in counted)] for number, row in enumerate(rows, 1)],
        ),
    ]


def figures(flags: argparse.Namespace) -> str:
    killed = measured(crashes, ["--kills", str(flags.kills)], flags.crashes)
    parts = [
        "**Killed at random moments, run again, compared with an undisturbed run**\n",
        table(
            ["command", "seconds undisturbed", "kills tried", "that hit it running", "survived"],
            [[r["command"], r["seconds"], r["tried"], r["landed"], r["survived"]] for r in killed],
        ),
    ]
    disturbed = measured(faults, ["--tries", str(flags.tries)], flags.faults)
    parts += [
        "**Full disk or read-only folder, then run again, compared likewise**\n",
        table(
            ["command", "faults injected", "handled"],
            [[row["command"], row["injected"], row["handled"]] for row in disturbed],
        ),
    ]
    parts += fleet_table(measured(fleet, [], flags.fleet))
    os.environ["FCD_FUZZ_EXAMPLES"] = str(flags.examples)
    suite("tests/whole/test_fuzz.py")
    counts = sys.modules["tests.whole.test_fuzz"].COUNTS

    parts += [
        "**Malformed input**: handled is either read as what it says or refused by an error of "
        "ours.\n",
        table(
            ["input", "tried", "refused", "handled"],
            [[kind, n["tried"], n["refused"], n["handled"]] for kind, n in counts.items()],
        ),
    ]
    outcomes = {name: suite(path) for name, path in SUITES.items()}
    parts += [
        "**Faults in the middle**, a test each\n",
        table(
            ["faults", "tried", "handled"],
            [[name, n["passed"] + n["failed"], n["passed"]] for name, n in outcomes.items()],
        ),
    ]
    machine = f"Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} cores"
    return "\n".join([*parts, f"Measured on {machine}, CPU only.\n"])


def run(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.whole.reliability", description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--tries", type=int, default=6)
    parser.add_argument("--examples", type=int, default=300)
    parser.add_argument("--crashes", type=Path)
    parser.add_argument("--faults", type=Path)
    parser.add_argument("--fleet", type=Path)
    new = figures(parser.parse_args(arguments))
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n\n{new}\n{END}{rest.partition(END)[2]}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(run())
