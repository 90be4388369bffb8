"""The files of a patch: small, many, uncompressed tifs whose pixels have a checksum.

Parsing a tif takes longer than reading the pixels of a patch. Files that one program writes for
arrays of one shape differ in their pixels and checksums alone, so one of them is parsed and the
others are not.
"""

import io
import struct
import sys
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import tifffile

from fcd.errors import OutputError, UserError

IMAGE = "image.tif"  # of a patch
TRUTH_MASK = "mask.tif"  # of a patch; those of other names were generated
CHECKSUM = "crc32"  # its name in the JSON that tifffile keeps in the ImageDescription tag
_NO_DIGITS = "--------"  # as long as the eight hex digits of a checksum
# What tifffile and its decoders raise on damaged files, depending on where the damage is.
_DAMAGE = (OSError, ValueError, LookupError, TypeError, ArithmeticError, AttributeError,
           MemoryError, RuntimeError, struct.error, tifffile.TiffFileError, zlib.error)  # fmt: skip


class DamagedPatch(UserError):
    """A file of a patch that cannot be read, or that does not hold what was written."""


def damaged(path: Path, reason: object) -> DamagedPatch:
    """The error that names a file of a patch and what can be done."""
    return DamagedPatch(
        f"{path} is damaged ({reason}); cut its scene again (remove the scene's record in "
        "scenes/ and run prepare_landsat8_biome.py)"
    )


def write(path: Path, array: np.ndarray) -> None:
    """Write an image (h, w, C) or a mask (h, w); `OutputError` if that fails."""
    array = np.ascontiguousarray(array)
    head = _head(array.shape, array.dtype.str).replace(_NO_DIGITS.encode(), _checksum(array))
    try:
        with open(path, "wb") as file:
            file.write(head)
            file.write(array.data)
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error.strerror or error})") from error


def _checksum(array: np.ndarray) -> bytes:
    """The eight hex digits of the checksum of the pixels of an array."""
    return f"{zlib.crc32(np.ascontiguousarray(array).data):08x}".encode()


@cache
def _head(shape: tuple[int, ...], dtype: str) -> bytes:
    """What a tif of such an array holds before its pixels, without the digits of the checksum."""
    file, array = io.BytesIO(), np.zeros(shape, dtype)
    planes = "contig" if array.ndim == 3 else None
    metadata = {CHECKSUM: _NO_DIGITS}
    tifffile.imwrite(file, array, photometric="minisblack", planarconfig=planes, metadata=metadata)
    return file.getvalue()[: -array.nbytes]


@dataclass(frozen=True)
class _Layout:
    """A tif that is a head, in which `digits` are those of its checksum, and then pixels."""

    head: bytes  # without the digits
    digits: slice
    shape: tuple[int, ...]
    dtype: np.dtype

    def read(self, content: np.ndarray) -> tuple[np.ndarray, bytes] | None:
        """Pixels and digits of such a file, of the length of the first; None if it is none."""
        size = len(self.head) + self.digits.stop - self.digits.start
        head = content[:size].tobytes()
        if head[: self.digits.start] + head[self.digits.stop :] != self.head:
            return None
        return content[size:].view(self.dtype).reshape(self.shape), head[self.digits]


class PatchReader:
    """Reads tifs of any kind; those that begin as one read before are not parsed again.

    Two files of one length that hold the same bytes before their pixels, the checksum apart, and
    none after them are parsed alike. Compressed ones, and those with something after the pixels,
    are parsed each time.
    """

    def __init__(self) -> None:
        self._layouts: dict[int, _Layout] = {}  # by the length of the file

    def __call__(self, path: Path, dimensions: int) -> np.ndarray:
        """An image (`dimensions` 3) or a mask (2), in the machine's byte order, writable.

        Raises `DamagedPatch`, which names the file, if it is none or if its pixels differ from
        their checksum; patches written before there was one have none.
        """
        try:
            content = np.fromfile(path, np.uint8)
            layout = self._layouts.get(len(content))
            known = layout.read(content) if layout else None
            array, digits = known or self._parsed(path, content)
        except _DAMAGE as error:
            raise damaged(path, str(error) or type(error).__name__) from error
        if array.ndim != dimensions or not array.size:
            told = f"its shape is {array.shape}, not pixels in {dimensions} dimensions"
            raise damaged(path, told)
        if digits and _checksum(array) != digits:
            raise damaged(path, "its pixels differ from their checksum")
        return array

    def _parsed(self, path: Path, content: np.ndarray) -> tuple[np.ndarray, bytes]:
        """Pixels and digits of the checksum, by tifffile; the layout is kept if it is simple."""
        with tifffile.TiffFile(path) as tif:
            metadata = tif.shaped_metadata
            checksum = metadata[0].get(CHECKSUM) if metadata else None
            claimed, offset = tif.series[0].nbytes, tif.series[0].dataoffset
            if claimed > 16 * len(content) + (1 << 20):  # no patch is compressed that far
                raise damaged(path, f"it claims to hold {claimed:,} bytes")
            native = tif.byteorder == {"little": "<", "big": ">"}[sys.byteorder]
            array = tif.asarray()
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
        digits = b"" if checksum is None else str(checksum).encode()
        simple = native and offset is not None and offset % array.itemsize == 0
        if simple and offset + array.nbytes == len(content):
            head = content[:offset].tobytes()
            first = max(0, head.find(digits))
            rest = head[:first] + head[first + len(digits) :]
            layout = _Layout(rest, slice(first, first + len(digits)), array.shape, array.dtype)
            again = layout.read(content)
            # Pixels that are stored in another order of bits are not these.
            if again and again[1] == digits and np.array_equal(again[0], array):
                self._layouts[len(content)] = layout
        return array, digits


read = PatchReader()
"""What reads all patches: see `PatchReader.__call__`."""
