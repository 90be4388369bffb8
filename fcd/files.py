"""Files that are either whole or absent: write to a temporary name, then rename."""

import codecs
import csv
import fcntl
import hashlib
import io
import json
import os
import platform
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import MISSING, fields
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

from fcd.errors import OutputError, UserError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")

# In the names of temporary files: of those in a folder that several machines share, each knows
# its own processes alone.
_HOST = re.sub(r"\W", "", platform.node())
_WORKBOOKS = {b"PK\x03\x04": "xlsx or ods", b"\xd0\xcf\x11\xe0": "xls"}


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path of the same suffix in the folder of `path`; rename it on success.

    On an exception it is removed and an earlier `path` stays as it was. What killed processes of
    this machine have left in the folder is removed, too, before the first file that this process
    writes there. Raises `OutputError` if the file cannot be written (the disk is full, a folder is
    read-only).
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.partial-{_HOST}-{os.getpid()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep_once(path.parent.absolute())
        try:
            yield temporary
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written ({error.strerror or error}); what was there before is kept"
        ) from error


@lru_cache(maxsize=1024)
def _sweep_once(folder: Path) -> None:
    # A folder of many files takes long to list.
    sweep(folder)


def sweep(folder: Path) -> None:
    """Remove from `folder` what killed processes of this machine have left of their files."""
    for left in folder.glob(".*.partial-*"):
        match = re.fullmatch(rf"\..*\.partial-{_HOST}-(\d+)\..*", left.name)
        if match and not _is_running(int(match[1])):
            left.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        with suppress(PermissionError):
            os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def locked(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold `folder` for this process; the system lets go of it however the process ends.

    Raises BlockingIOError if another process holds it, or waits for that one.
    """
    # Not the folder itself: where machines share it by NFS, that would hold on one of them only.
    handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(handle)


def is_hidden(name: str) -> bool:
    """Whether the name is that of a hidden file or folder, or of what macOS adds to archives."""
    return name.startswith(".") or name == "__MACOSX"


def decoded(data: bytes, errors: str = "strict") -> str:
    """Text as editors and spreadsheets save it: UTF-8 or, by its byte order mark, UTF-16.

    errors: of `bytes.decode`. Raises ValueError if it is a workbook or other data; if it is text of
    another kind, and they are strict, that is a UnicodeDecodeError.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", errors)
    if kind := _WORKBOOKS.get(data[:4]):
        raise ValueError(f"it is a workbook ({kind}), which has to be saved as CSV")
    if b"\0" in data.rstrip(b"\0"):  # USGS has filled up metadata with them
        raise ValueError("it is no text in UTF-8 or UTF-16")
    return data.decode("utf-8-sig", errors)


def csv_rows(
    path: Path | str, columns: Sequence[str], told: str
) -> list[tuple[int, dict[str, str | None]]]:
    """Line number and values by column of each row of a csv; None where the row is too short.

    Raises `UserError`, which calls the file `told`, if it cannot be read or lacks one of `columns`.
    """
    try:
        text = decoded(Path(path).read_bytes())
        reader = csv.DictReader(io.StringIO(text, newline=""))
        if not {*columns} <= set(reader.fieldnames or ()):
            raise UserError(
                f"{path}: the first line must name the columns {','.join(columns)}; it is "
                f"{text.partition(chr(10))[0].strip()[:50]!r}"
            )
        return [(reader.line_num, row) for row in reader]
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{told} {path} cannot be read: {error}") from error


def write_text(path: Path | str, text: str) -> None:
    """Write `text` (UTF-8) to `path`, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as indented JSON; NaN and infinity are refused (ValueError), use None."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path | str) -> dict[str, Any]:
    """Read a JSON file that holds an object; `UserError` if it is missing or damaged."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} cannot be read: it holds no JSON object")
    return value


def digest(content: bytes | str) -> str:
    """Twelve digits that another content would change."""
    data = content.encode() if isinstance(content, str) else content
    return hashlib.sha256(data).hexdigest()[:12]


def file_digest(path: os.PathLike[str] | str) -> str:
    """The `digest` of a file; `UserError` if it cannot be read."""
    try:
        return digest(Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def from_plain(kind: type[T], values: Any, source: object) -> T:
    """The dataclass `kind` from the `values` that a file holds of it, which is not trusted.

    Raises `UserError`, which names `source`, if a field is missing, unknown or of another type than
    annotated, or a number is negative.
    """
    types = get_type_hints(kind)
    if not isinstance(values, dict) or not values.keys() <= types.keys():
        raise UserError(f"{source} is damaged or of another version: no {kind.__name__} in it")
    for field in fields(kind):
        name, wanted = field.name, types[field.name]
        value = values.get(name, field.default)
        fits = type(value) is wanted or (wanted is float and type(value) is int)
        if value is MISSING or not fits or (type(value) in (int, float) and not 0 <= value < 2**63):
            told = "nothing" if value is MISSING else repr(value)[:50]
            raise UserError(f"{source} is damaged or of another version: {name} is {told}")
    return kind(**values)
