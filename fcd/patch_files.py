"""The files of a patch: TIFFs whose pixels have a checksum, so that a flipped bit is noticed."""

import struct
import zlib
from pathlib import Path

import numpy as np
import tifffile

from fcd.errors import OutputError, UserError

CHECKSUM = "crc32"  # its name in the JSON that tifffile keeps in the ImageDescription tag
# What tifffile and its decoders raise on damaged files, depending on where the damage is.
_DAMAGE = (OSError, ValueError, LookupError, TypeError, ArithmeticError, AttributeError,
           MemoryError, RuntimeError, struct.error, tifffile.TiffFileError, zlib.error)  # fmt: skip


class DamagedPatch(UserError):
    """A file of a patch that cannot be read, or that does not hold what was written."""

    @classmethod
    def of(cls, path: Path, reason: object) -> "DamagedPatch":
        """The error that names the file and what can be done."""
        return cls(
            f"{path} is damaged ({reason}); cut its scene again (remove the scene's record in "
            "scenes/ and run prepare_landsat8_biome.py), or go without it: --skip_bad True"
        )


def write(path: Path, array: np.ndarray) -> None:
    """Write an image (h, w, C) or a mask (h, w); `OutputError` if that fails."""
    array = np.ascontiguousarray(array)
    layout = {"planarconfig": "contig"} if array.ndim == 3 else {}
    try:
        tifffile.imwrite(
            path, array, photometric="minisblack", metadata={CHECKSUM: zlib.crc32(array)}, **layout
        )
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error.strerror or error})") from error


def read(path: Path, dimensions: int) -> np.ndarray:
    """Read an image (`dimensions` 3) or a mask (2); `DamagedPatch` names the file if it is none.

    The pixels are compared with their checksum; patches written before there was one have none.
    """
    try:
        with tifffile.TiffFile(path) as tif:
            written = (tif.shaped_metadata or ({},))[0].get(CHECKSUM)
            expected = (tif.series[0].nbytes, path.stat().st_size)
            if expected[0] > 16 * expected[1] + (1 << 20):  # no patch is compressed that far
                raise DamagedPatch.of(path, f"it claims to hold {expected[0]:,} bytes")
            array = tif.asarray()
    except _DAMAGE as error:
        raise DamagedPatch.of(path, str(error) or type(error).__name__) from error
    if array.ndim != dimensions:
        raise DamagedPatch.of(path, f"its shape is {array.shape}, not of {dimensions} dimensions")
    if written is not None and zlib.crc32(np.ascontiguousarray(array)) != written:
        raise DamagedPatch.of(path, "its pixels differ from their checksum")
    return array
