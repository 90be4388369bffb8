"""summary.csv, a line a scene, and what the outputs of a scene are called."""

import csv
import io
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import blake2b
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
SOURCE = "FCD_SOURCE"  # tag of a mask: `fingerprint` of its scene
_ROWS_COMPARED = 8

Row: TypeAlias = dict[str, str]


def paths_in(folder: Path) -> dict[str, str]:
    """The path of each scene of the summary in `folder`, none if there is none that can be read."""
    try:
        return {row["scene"]: row["path"] for row in _read(folder / SUMMARY)}
    except ValueError:
        return {}


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


def add_rows(folder: Path, rows: Sequence[Row], columns: Sequence[str]) -> None:
    """Put `rows` into the summary in `folder`, in place of earlier ones of their paths or scenes.

    columns: the first ones; those that others have added follow. A file of that name that is no
    summary is kept under another one, which is said.
    """
    if not rows:
        return
    path, added = folder / SUMMARY, [row | {"path": in_utf_8(row["path"])} for row in rows]
    paths, scenes = {row["path"] for row in added}, {row["scene"] for row in added} - {""}
    with locked(folder, wait=True):
        try:
            there = _read(path)
        except ValueError as error:
            aside = (folder / f"{path.stem}.kept-{n}.csv" for n in range(1, 1000))
            kept = next(name for name in aside if not name.exists())
            path.rename(kept)
            told = f"warning: {path} is no summary ({error}): kept as {kept.name}, begun anew"
            tqdm.write(told, file=sys.stderr)
            there = []
        there = [r for r in there if r["path"] not in paths and r["scene"] not in scenes]
        there = sorted([*there, *added], key=lambda row: (row["scene"], row["path"]))
        names = dict.fromkeys([*columns, *(name for row in there for name in row)])
        with (
            replacing(path) as temporary,
            temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream,
        ):
            writer = csv.DictWriter(stream, list(names), restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(there)


def in_utf_8(path: str) -> str:
    """A path as text, whatever the locale calls it."""
    return os.fsencode(path).decode("utf-8", "surrogateescape")


@dataclass(frozen=True)
class Names:
    """What the outputs of the scenes of a run are called."""

    folder: Path  # of the outputs
    claim: Callable[[str, str], str]  # of `fcd.processes.Processes.claims`
    listed: Mapping[str, str]  # `paths_in` the folder when the run began

    def named(self, scene: Scene, path: str, read: Callable[[str], Scene]) -> Scene | None:
        """The scene at `path` under the name of its outputs; None if it is masked already.

        That is its own unless another area has it, or had it in an earlier run: then what tells the
        path apart is added. read: the scene at another path of the same run; one that is there once
        more is masked once. Raises `SceneError` if the longer name is taken, too.
        """
        names = [scene.name] * (not self._is_held(scene, path))
        names.append(_longer_name(scene.name, path))
        for name in names:
            if (first := self.claim(name, path)) == path:
                return replace(scene, name=name)
            with suppress(SceneError):
                if _are_equal(scene, read(first)):
                    tqdm.write(f"{path} is the scene of {first}: masked once")
                    return None
        raise SceneError(f"{path} has the name {names[-1]}, as {first}; rename one")

    def _is_held(self, scene: Scene, path: str) -> bool:
        """Whether the mask of the scene's name lies elsewhere, or is of other pixels and a path."""
        if scene.name not in self.listed:
            return False
        try:
            with opened(self.folder / f"{scene.name}_mask.tif") as dataset:
                if not Grid.of(dataset).is_same(scene.grid()):
                    return True
                of_other = dataset.tags().get(SOURCE)
        except RasterioIOError:
            return False
        moved = self.listed[scene.name] != in_utf_8(path)
        return moved and of_other is not None and of_other != fingerprint(scene)


def _are_equal(one: Scene, other: Scene) -> bool:
    return one.grid().is_same(other.grid()) and fingerprint(one) == fingerprint(other)


def fingerprint(scene: Scene) -> str:
    """What tells the pixels of two scenes on one grid apart: of rows all over it, in all bands."""
    digest = blake2b(digest_size=8)
    with scene.open() as reader:
        height = reader.grid.height
        for row in range(0, height, -(-height // _ROWS_COMPARED)):
            digest.update(np.ascontiguousarray(reader.bands(row, row + 1)).tobytes())
    return digest.hexdigest()


def _longer_name(name: str, path: str) -> str:
    """`name` and the last part of the path that is not it."""
    place = Path(os.path.abspath(path))
    parts = list(reversed(place.parts[1:]))
    if place.is_file():
        match = SCENE_FILE.fullmatch(place.name)
        parts[0] = match["scene"] if match else re.sub(r"(\.tar)?\.\w+$", "", place.name)
    part = next((as_file_name(part) for part in parts if as_file_name(part) != name), "")
    return part if part.startswith(name) else f"{name}_{part}"
