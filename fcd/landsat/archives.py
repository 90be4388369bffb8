"""Scenes in tar and zip archives: read where they are, or unpacked.

What an archive is say its first bytes, never its name. Whatever one holds, nothing is written but
plain files, directly in one folder, up to a limit.
"""

import gzip
import os
import re
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from fcd.errors import SceneError, UserError
from fcd.files import is_hidden

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".zip")
"""Endings of those that can be read."""
GZIP_MAGIC = b"\x1f\x8b"
_GZIP, _TAR, _ZIP, _WEB_PAGE = "gzip", "tar", "zip", "a web page"
_MAGIC = {
    GZIP_MAGIC: _GZIP, b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"PK\x03\x04": _ZIP,
    b"PK\x05\x06": _ZIP, b"7z\xbc\xaf": "7z", b"Rar!": "rar",
}  # fmt: skip
_CHUNK = 1 << 20
_MAX_READ = 16 << 20  # tarfile reads a header in one go: a forged one must not fill the memory
_MAX_MEMBERS = 1000  # a scene has 16
_MAX_TEXT = 4 << 20  # bytes of a text in an archive that are read
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,199}")
# What gzip, tarfile and zipfile raise on damaged data, depending on where the damage is.
DAMAGE = (tarfile.TarError, gzip.BadGzipFile, zipfile.BadZipFile, zlib.error, EOFError, ValueError,
          OverflowError, RecursionError)  # fmt: skip


class ArchiveError(UserError):
    """An archive that is damaged, or that holds what a scene's archive must not hold."""


def kind_of(path: Path) -> str | None:
    """What kind of archive a file is, or `a web page`, by its first bytes; None if it is neither.

    Raises `SceneError` if it cannot be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(tarfile.BLOCKSIZE)
    except OSError as error:
        raise SceneError(f"{path} cannot be read: {error}") from error
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return _WEB_PAGE
    if head[257:262] == b"ustar":
        return _TAR
    return next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), None)


@dataclass(frozen=True)
class Member(os.PathLike):
    """A file in an archive, which GDAL reads where it is."""

    archive: Path
    member: str
    kind: str  # of archive: tar, gzip (a tar file in it), zip
    offset: int = 0  # of its bytes in a tar file
    size: int = 0  # bytes

    @property
    def name(self) -> str:
        """The file's name without folders."""
        return self.member.rpartition("/")[2]

    @property
    def parent(self) -> PurePosixPath:
        """Its folder in the archive."""
        return PurePosixPath(self.member).parent

    def __fspath__(self) -> str:
        place = self.archive.resolve()
        if self.kind == _ZIP:
            return f"/vsizip/{{{place}}}/{self.member}"
        # Not by /vsitar/, which goes by the archive's name.
        unpacking = "/vsigzip/" * (self.kind == _GZIP)
        return f"/vsisubfile/{self.offset}_{self.size},{unpacking}{place}"

    def __str__(self) -> str:
        return f"{self.archive}: {self.member}"

    def read_bytes(self) -> bytes:
        """As that of a path, at most `_MAX_TEXT`; OSError if the archive is damaged, too."""
        packed = self.kind == _GZIP
        try:
            if self.kind == _ZIP:
                with zipfile.ZipFile(self.archive) as archive, archive.open(self.member) as stream:
                    return stream.read(_MAX_TEXT)
            with gzip.open(self.archive) if packed else self.archive.open("rb") as stream:
                stream.seek(self.offset)
                return stream.read(min(self.size, _MAX_TEXT))
        except DAMAGE as error:
            raise OSError(str(error)) from error


def members(path: Path) -> list[Member]:
    """The files in a tar archive, plain or in gzip, or in a zip file; hidden ones are left out.

    Raises `SceneError` if it is damaged or an archive of another kind.
    """
    kind = kind_of(path)
    if kind == _WEB_PAGE:
        raise SceneError(
            f"{path} is a web page saved under the name of an archive, such as one to log in; "
            "download it again"
        )
    if kind not in (_TAR, _GZIP, _ZIP, None):
        raise SceneError(
            f"{path} is packed by {kind}, whatever its name says; unpack it and give its folder"
        )
    try:
        files = _in_zip(path) if kind == _ZIP else _in_tar(path, kind or _TAR)
    except (OSError, *DAMAGE) as error:
        raise SceneError(f"{path} is damaged or no archive ({error}); get it again") from error
    return [
        file
        for file in files
        if file.size > 0 and not any(map(is_hidden, PurePosixPath(file.member).parts))
    ]


def _in_tar(path: Path, kind: str) -> list[Member]:
    with tarfile.open(path, "r:gz" if kind == _GZIP else "r:") as archive:
        # A sparse file is not stored as it is.
        plain = [member for member in archive if member.isfile() and not member.issparse()]
    return [Member(path, file.name, kind, file.offset_data, file.size) for file in plain]


def _in_zip(path: Path) -> list[Member]:
    with zipfile.ZipFile(path) as archive:
        plain = [file for file in archive.infolist() if not file.is_dir()]
    if any(file.flag_bits & 1 for file in plain):
        raise SceneError(f"{path} is packed by zip with a password; unpack it and give its folder")
    if inner := [file.filename for file in plain if file.filename.lower().endswith(ARCHIVES)]:
        raise SceneError(
            f"{path} is packed by zip and holds archives ({inner[0]}); unpack it and give its "
            "folder"
        )
    return [Member(path, file.filename, _ZIP, size=file.file_size) for file in plain]


class _BoundedGzip(gzip.GzipFile):
    """A gzip file that refuses to decompress much at once."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= _MAX_READ:
            raise ArchiveError("has a header of absurd size")
        return super().read(size)


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
    if kind_of(archive) != _GZIP:
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
    stream = _BoundedGzip(archive, "rb") if kind_of(archive) == _GZIP else archive.open("rb")
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
