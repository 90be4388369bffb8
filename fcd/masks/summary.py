"""summary.csv, a line a scene, and what the outputs of a scene are called."""

import csv
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
from rasterio.errors import RasterioIOError
from tqdm import tqdm

from fcd.errors import SceneError
from fcd.files import decoded, locked, replacing
from fcd.landsat.finding import SCENE_FILE
from fcd.landsat.products import as_file_name
from fcd.landsat.rasters import Grid, opened
from fcd.landsat.scenes import Scene

SUMMARY = "summary.csv"
_ROWS_COMPARED = 16

Row: TypeAlias = dict[str, str]


def rows_of(folder: Path) -> list[Row]:
    """The rows of the summary in `folder`; none if there is none, or none that can be read."""
    try:
        return _read(folder / SUMMARY)
    except ValueError:
        return []


def _read(path: Path) -> list[Row]:
    """With any separator, as spreadsheets save it; ValueError if it is no summary."""
    if not path.exists():
        return []
    text = decoded(path.read_bytes(), "surrogateescape")
    head = text.partition("\n")[0]
    separator = max(",;\t", key=head.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, restkey="")
    try:
        rows = list(reader)
    except csv.Error as error:
        raise ValueError(str(error)) from error
    if not {"scene", "path"} <= {*(reader.fieldnames or ())}:
        raise ValueError(f"its first line is {head.strip()[:50]!r}")
    return [{name: value or "" for name, value in row.items() if name} for row in rows]


def add_row(folder: Path, row: Row, columns: Sequence[str]) -> None:
    """Put `row` into the summary in `folder`, in place of an earlier one of its path or scene.

    columns: the first ones; those that others have added follow. A file of that name that is no
    summary is kept under another one, which is said.
    """
    path, row = folder / SUMMARY, row | {"path": in_utf_8(row["path"])}
    with locked(folder, wait=True):
        try:
            rows = _read(path)
        except ValueError as error:
            aside = (folder / f"{path.stem}.kept-{n}.csv" for n in range(1, 1000))
            kept = next(name for name in aside if not name.exists())
            path.rename(kept)
            told = f"warning: {path} is no summary ({error}): kept as {kept.name}, begun anew"
            tqdm.write(told, file=sys.stderr)
            rows = []
        rows = [
            other
            for other in rows
            if other["path"] != row["path"] and other["scene"] != (row["scene"] or None)
        ]
        rows = sorted([*rows, row], key=lambda other: (other["scene"], other["path"]))
        names = dict.fromkeys([*columns, *(name for other in rows for name in other)])
        with (
            replacing(path) as temporary,
            temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream,
        ):
            writer = csv.DictWriter(stream, list(names), restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def in_utf_8(path: str) -> str:
    """A path as text, whatever the locale calls it."""
    return os.fsencode(path).decode("utf-8", "surrogateescape")


def named(
    scene: Scene,
    path: str,
    folder: Path,
    claim: Callable[[str, str], str],
    read: Callable[[str], Scene],
) -> Scene | None:
    """The scene at `path` under the name of its outputs in `folder`; None if it is masked already.

    That is its own unless another area has it, or had it in an earlier run: then what tells the
    path apart is added. claim: of `fcd.processes.Processes.claims`. read: the scene at another path
    of the same run; one that is there once more is masked once. Raises `SceneError` if the longer
    name is taken, too.
    """
    names = [scene.name] * (not _is_held(scene, path, folder))
    names.append(_longer_name(scene.name, path))
    for name in names:
        if (first := claim(name, path)) == path:
            return replace(scene, name=name)
        with suppress(SceneError):
            if _are_equal(scene, read(first)):
                tqdm.write(f"{path} is the scene of {first}: masked once")
                return None
    raise SceneError(f"{path} has the name {names[-1]}, as {first}; rename one")


def _is_held(scene: Scene, path: str, folder: Path) -> bool:
    """Whether the mask of the scene's name is that of another path, and lies elsewhere."""
    paths = {row["scene"]: row["path"] for row in rows_of(folder)}
    if paths.get(scene.name) in (None, in_utf_8(path)):
        return False
    try:
        with opened(folder / f"{scene.name}_mask.tif") as dataset:
            return not Grid.of(dataset).is_same(scene.grid())
    except RasterioIOError:
        return False


def _are_equal(one: Scene, other: Scene) -> bool:
    """Whether two scenes lie on one grid and are the same in rows all over it."""
    with one.open() as first, other.open() as second:
        if not first.grid.is_same(second.grid):
            return False
        height = first.grid.height
        return all(
            np.array_equal(first.bands(row, row + 1), second.bands(row, row + 1), equal_nan=True)
            for row in range(0, height, -(-height // _ROWS_COMPARED))
        )


def _longer_name(name: str, path: str) -> str:
    """`name` and the last part of the path that is not it."""
    place = Path(os.path.abspath(path))
    parts = list(reversed(place.parts[1:]))
    if place.is_file():
        match = SCENE_FILE.fullmatch(place.name)
        parts[0] = match["scene"] if match else re.sub(r"(\.tar)?\.\w+$", "", place.name)
    part = next((as_file_name(part) for part in parts if as_file_name(part) != name), "")
    return part if part.startswith(name) else f"{name}_{part}"
