"""Scenes in tar archives: read where they are, or unpacked.

Whatever one holds, nothing is written but plain files, directly in one folder, up to a limit.
"""

import gzip
import os
import posixpath
import re
import shutil
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from fcd.errors import UserError

GZIP_MAGIC = b"\x1f\x8b"
_CHUNK = 1 << 20
_MAX_READ = 16 << 20  # tarfile reads a header in one go: a forged one must not fill the memory
_MAX_MEMBERS = 1000  # a scene has 16
_MAX_TEXT = 4 << 20  # bytes of a text in an archive that are read
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,199}")
# What gzip and tarfile raise on damaged data, depending on where the damage is.
DAMAGE = (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError, OverflowError,
          RecursionError)  # fmt: skip


class ArchiveError(UserError):
    """An archive that is damaged, or that holds what a scene's archive must not hold."""


@dataclass(frozen=True)
class Member(os.PathLike):
    """A file in a tar archive, which GDAL reads where it is."""

    archive: Path
    member: str

    @property
    def name(self) -> str:
        """The file's name without folders."""
        return self.member.rpartition("/")[2]

    def __fspath__(self) -> str:
        # GDAL knows the members of an archive without the ./ that some have.
        return f"/vsitar/{self.archive.resolve()}/{posixpath.normpath(self.member)}"

    def __str__(self) -> str:
        return f"{self.archive}: {self.member}"

    def read_text(self, encoding: str, errors: str) -> str:
        """As that of a path: the file's text; OSError if the archive is damaged, too."""
        try:
            with tarfile.open(self.archive) as archive:
                stream = archive.extractfile(self.member)
                return stream.read(_MAX_TEXT).decode(encoding, errors) if stream else ""
        except DAMAGE as error:
            raise OSError(str(error)) from error


class _BoundedGzip(gzip.GzipFile):
    """A gzip file that refuses to decompress much at once."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= _MAX_READ:
            raise ArchiveError("has a header of absurd size")
        return super().read(size)


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(GZIP_MAGIC)) == GZIP_MAGIC


def unpack(
    archive: Path, folder: Path, *, limit: int, on_bytes: Callable[[int], object] = lambda _: None
) -> None:
    """Copy the plain files of `archive` (tar.gz) directly into `folder`, which must exist.

    A ``*.tar`` inside it, as LC81490122013218LGN00 has one, is unpacked too and removed; of two
    files of one name the first is kept. `on_bytes` gets the size of each chunk written. Raises
    `ArchiveError`, and may leave some of the files, if the archive is damaged, unpacks to more than
    `limit` bytes (or than the disk has free), or holds a link, a device or a path that leaves its
    folder; `OSError` if they cannot be written.
    """
    if not _is_gzip(archive):
        raise ArchiveError(f"{archive.name} is no gzip file (a web page saved under its name?)")
    limit = left = min(limit, shutil.disk_usage(folder).free)

    def spend(count: int) -> None:
        nonlocal left
        if not 0 <= count <= left:
            raise ArchiveError(f"unpacks to more than the {limit:,} bytes a scene may take")
        left -= count

    try:
        _copy_files(archive, folder, spend, on_bytes)
        for nested in sorted(folder.glob("*.tar")):
            _copy_files(nested, folder, spend, on_bytes)
            nested.unlink()
    except ArchiveError as error:
        raise ArchiveError(f"{archive.name} {error}") from error
    except DAMAGE as error:
        raise ArchiveError(f"{archive.name} is damaged ({error})") from error


def _copy_files(
    archive: Path,
    folder: Path,
    spend: Callable[[int], None],
    on_bytes: Callable[[int], object],
) -> None:
    stream: BinaryIO | _BoundedGzip
    stream = _BoundedGzip(archive, "rb") if _is_gzip(archive) else archive.open("rb")
    with stream, tarfile.open(fileobj=stream, mode="r:") as tar:
        for count, member in enumerate(tar):
            if count >= _MAX_MEMBERS:
                raise ArchiveError(f"holds more than {_MAX_MEMBERS} files")
            spend(member.size)
            path = PurePosixPath(member.name)
            if path.is_absolute() or ".." in path.parts or "\\" in member.name:
                raise ArchiveError(f"holds {member.name!r}, a path outside its folder")
            if not (member.isreg() or member.isdir()):
                raise ArchiveError(f"holds {member.name!r}, a link or device")
            target = folder / path.name
            # tarfile extracts nothing: contents go to a name of ours, so that no link, path,
            # owner or mode of the archive counts (stricter than its filter="data").
            if member.isreg() and _PLAIN_NAME.fullmatch(target.name) and not target.exists():
                source = tar.extractfile(member)
                assert source is not None  # it is a regular file
                with source, target.open("xb") as file:
                    while chunk := source.read(_CHUNK):
                        file.write(chunk)
                        on_bytes(len(chunk))
        # The checksum stands at the end of the gzip file, behind the padding of the tar file.
        if len(stream.read(_CHUNK)) == _CHUNK:
            raise ArchiveError("goes on after its end")
