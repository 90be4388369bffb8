"""`python -m fcd.comparison`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Ge

from fcd.cli.parser import Flag, parse
from fcd.report.runs import PUBLISHED_COLUMNS


@dataclass(frozen=True)
class Settings:
    """Gather the evaluations of many runs into one table, one figure and one page."""

    runs: Annotated[
        list[Path],
        Flag(metavar="RUN_DIR", positional=True),
        "run folder, such as outputs/FCDPlus",
    ]
    output_dir: Annotated[Path, "folder to write to"] = Path("outputs/comparison")
    num_scenes: Annotated[int, Ge(0), "scenes shown as pictures; 0: none"] = 4
    published: Annotated[
        Path | None,
        f"csv of published figures (%) with the columns {', '.join(PUBLISHED_COLUMNS)}; "
        "None: show none",
    ] = None


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare as the command line says."""
    asked = parse(Settings, arguments, "-m fcd.comparison")
    from fcd.report.comparison import compare  # with libraries that --help does without

    compare(asked.runs, asked.output_dir, asked.published, asked.num_scenes)
