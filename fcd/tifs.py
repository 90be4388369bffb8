"""The tif files of patches: small, many, uncompressed.

Parsing a tif takes longer than reading the pixels of a patch. Files that one program writes for
arrays of one shape differ in their pixels alone, so one of them is parsed and the others are not.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile


@dataclass(frozen=True)
class _Layout:
    """A tif that is `head` and then pixels, and nothing after them."""

    head: bytes
    shape: tuple[int, ...]
    dtype: np.dtype

    def pixels(self, content: np.ndarray) -> np.ndarray:
        """The pixels of `content`, the bytes of such a file."""
        return content[len(self.head) :].view(self.dtype).reshape(self.shape)


class TifReader:
    """Reads tifs of any kind; those that begin as one read before are not parsed again.

    Two files of one length that hold the same bytes before their pixels and none after them are
    parsed alike. Compressed ones, and those with something after the pixels, are parsed each time.
    """

    def __init__(self) -> None:
        self._layouts: dict[int, _Layout] = {}  # by the length of the file

    def __call__(self, path: Path) -> np.ndarray:
        """The array in the tif `path`, in the machine's byte order, writable.

        Raises OSError, ValueError, IndexError or `tifffile.TiffFileError` if it cannot be read.
        """
        content = np.fromfile(path, np.uint8)
        layout = self._layouts.get(len(content))
        if layout and content[: len(layout.head)].tobytes() == layout.head:
            return layout.pixels(content)
        with tifffile.TiffFile(path) as tif:
            array = tif.asarray()
            offset = tif.series[0].dataoffset
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
        if offset is not None and offset + array.nbytes == len(content):
            layout = _Layout(content[:offset].tobytes(), array.shape, array.dtype)
            # Pixels that are stored in another order of bytes or bits are not these.
            if offset % array.itemsize == 0 and np.array_equal(layout.pixels(content), array):
                self._layouts[len(content)] = layout
        return array


class TifWriter:
    """Writes arrays as uncompressed tifs, (H, W) or (H, W, C), as tifffile would write them.

    The bytes before the pixels are made once for a shape and type.
    """

    def __init__(self) -> None:
        self._heads: dict[tuple, bytes] = {}

    def __call__(self, path: Path, array: np.ndarray) -> None:
        """Write `array` to `path`."""
        key = (array.shape, array.dtype.str)
        if key not in self._heads:
            self._heads[key] = _head(array)
        with open(path, "wb", buffering=0) as file:
            file.write(self._heads[key])
            file.write(np.ascontiguousarray(array))


def _head(array: np.ndarray) -> bytes:
    """What a tif of an array of this shape and type holds before its pixels."""
    file = io.BytesIO()
    tifffile.imwrite(file, array, photometric="minisblack", planarconfig="contig")
    return file.getvalue()[: -array.nbytes]
