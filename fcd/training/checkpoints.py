"""Checkpoints: plain tensors and values, written whole, loaded on any device."""

import os
import pickle
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from fcd.errors import UserError, first_line
from fcd.files import replacing
from fcd.landsat.bands import default_rgb
from fcd.landsat.reference import QA
from fcd.training import averaging

MAX_IMAGE_SIZE = 16_384  # of a checkpoint that is believed, pixels

# The authors' checkpoints hold their validation score as a NumPy number, under the name that
# NumPy's function had before version 2.
_SCALAR = np.float64(0).__reduce__()[0]  # numpy._core.multiarray.scalar
_OLD_SCALAR = (_SCALAR, "numpy.core.multiarray.scalar")
_NUMPY_SCALARS = [_OLD_SCALAR, _SCALAR, np.dtype, np.dtypes.Float64DType]

# What PyTorch raises on a file that is no checkpoint, depending on where it is none.
_DAMAGE = (OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, AssertionError,
           ArithmeticError, MemoryError, RuntimeError, NotImplementedError, struct.error,
           pickle.UnpicklingError)  # fmt: skip

Select = Literal["pixel", "image"]
"""What chooses the best checkpoint: the validation masks, or the image-level labels."""


@dataclass(frozen=True)
class Choice:
    """How a checkpoint was chosen, in words, and how many pixel labels that took."""

    by: str
    pixel_labels: int

    @classmethod
    def of(cls, select: Select, reference: str, pixels: int) -> "Choice":
        """By the best macro F1 on the validation patches, whose masks come from `reference`.

        select: on their labelled `pixels` ("pixel") or their image-level labels ("image").
        """
        if select == "image":
            return cls("best macro F1 on the validation patches' image-level labels", 0)
        if reference == QA:
            return cls("best macro F1 on the validation patches' QA bands", 0)
        return cls("best macro F1 on the validation masks", pixels)


class DamagedCheckpoint(UserError):
    """A checkpoint whose bytes are not those that were written."""


def save(path: Path, state: dict[str, Any], previous: Path | None = None) -> None:
    """Write `state` (tensors, numbers, strings, lists, dicts) to `path`, whole or not at all.

    The bytes are on the disk before an earlier `path` is replaced; it becomes `previous`, if
    that is given. Raises `OutputError` if they cannot be written.
    """
    with replacing(path) as temporary:
        with temporary.open("wb") as stream:
            try:
                torch.save(state, stream)
            except RuntimeError as error:  # of PyTorch's zip writer, when the disk is full
                raise OSError(first_line(error)) from error
            stream.flush()
            os.fsync(stream.fileno())
        if previous and path.exists():
            os.replace(path, previous)


def packed(state: dict[str, Any], scoring: str, threshold: dict[str, Any]) -> dict[str, Any]:
    """`state` as weights that are passed on: half precision, without what training alone takes.

    scoring: the name of its network that scores, of which the average is taken if there is one.
    threshold: record of `fcd.masks.thresholds`, of which no path is kept.
    """
    network = state.get(averaging.name_of(scoring), state[scoring])
    kept = {name: value for name, value in state.items() if not isinstance(value, dict)}
    kept |= {name: state[name] for name in ("choice", "normalization", "supervision", "task")}
    kept[scoring] = {name: v.half() if v.is_floating_point() else v for name, v in network.items()}
    told = ("threshold", "pixel_labels", "chosen_by")
    return kept | {"threshold": {name: threshold[name] for name in told}}


def load(path: Path | str, needs: tuple[str, ...] = ()) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Raises `DamagedCheckpoint` if its bytes have changed or it holds more than plain values and
    tensors, `UserError` if it is missing or lacks one of the entries `needs`.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist; train first, or name another --experiment_name")
    if not zipfile.is_zipfile(path):
        # Before 1.6 PyTorch wrote another format, whose reader trusts more.
        raise DamagedCheckpoint(f"{path} is no checkpoint or is damaged (not a zip file)")
    _check_sums(path)
    try:
        with torch.serialization.safe_globals(_NUMPY_SCALARS):
            state = torch.load(path, map_location="cpu", weights_only=True)
        claimed = sum(tensor.numel() * tensor.element_size() for tensor in _tensors(state))
    except _DAMAGE as error:
        raise DamagedCheckpoint(
            f"{path} is no checkpoint or is damaged ({first_line(error)})"
        ) from error
    if claimed > path.stat().st_size:  # tensors may repeat what is stored once
        raise DamagedCheckpoint(f"{path} is damaged (its tensors would take {claimed:,} bytes)")
    missing = [name for name in needs if not isinstance(state, dict) or name not in state]
    if missing or not isinstance(state, dict):
        told = ", ".join(missing) or "entries"
        raise UserError(f"{path} holds no {told}: it is a checkpoint of another kind")
    return state


def newest(paths: Sequence[Path], needs: tuple[str, ...]) -> tuple[Path, dict[str, Any]] | None:
    """The first of `paths`, the newest first, that is whole; None if there are none.

    Raises `UserError` if all of them are damaged, or one lacks an entry of `needs`.
    """
    damage: DamagedCheckpoint | None = None
    for path in paths:
        try:
            return path, load(path, needs)
        except DamagedCheckpoint as error:
            print(f"{error}; going back to the checkpoint before", file=sys.stderr)
            damage = error
    if damage:
        raise UserError(f"{damage}, and so is any before; --overwrite True trains anew")
    return None


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """All tensors in nested dicts and lists."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors(part)


def _check_sums(path: Path) -> None:
    """Raise `DamagedCheckpoint` if an entry differs from its checksum, which torch ignores."""
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
            if unpacked > path.stat().st_size:  # PyTorch compresses nothing
                raise ValueError(f"it would unpack to {unpacked:,} bytes")
            if damaged := archive.testzip():
                raise ValueError(f"checksum of {damaged}")
    except (zipfile.BadZipFile, zlib.error, *_DAMAGE) as error:
        raise DamagedCheckpoint(f"{path} is damaged ({error})") from error


def part_of(
    weights: Any, prefix: str, without: tuple[str, ...], source: object
) -> dict[str, torch.Tensor]:
    """Those of the `weights` whose names begin with `prefix`, which is taken off.

    Those that begin with one of `without` are left out. Raises `UserError` if they have no names.
    """
    if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights):
        raise UserError(f"{source} is a checkpoint of another kind: its network has no names")
    return {
        name.removeprefix(prefix): value
        for name, value in weights.items()
        if name.startswith(prefix) and not name.startswith(without)
    }


def load_weights(network: nn.Module, weights: dict[str, torch.Tensor], source: object) -> None:
    """Load `weights`; a network of another shape becomes one line that names the first mismatch."""
    try:
        network.load_state_dict(weights)
    except (TypeError, AttributeError) as error:
        raise UserError(f"{source} is a checkpoint of another kind: {error}") from error
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:]] or [str(error)]
        raise UserError(
            f"{source} is from a network of another shape: {lines[0][:200]} "
            f"({len(lines)} mismatches); give the sizes it was trained with"
        ) from error


@contextmanager
def another_kind(path: Path | str) -> Iterator[None]:
    """Missing or unknown entries of a checkpoint, in one line."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise UserError(
            f"{path} is a checkpoint of another kind or version ({error}); train anew"
        ) from error


def image_side(state: dict[str, Any]) -> int:
    """The side of a checkpoint's patches, pixels; ValueError if it is no size."""
    side = state["image_size"]
    if not isinstance(side, int) or not 1 <= side <= MAX_IMAGE_SIZE:
        raise ValueError(f"image_size is {side!r}")
    return side


def rgb_of(state: dict[str, Any], bands: Sequence[str]) -> tuple[int, ...]:
    """Which of the `bands` pictures show; ValueError or TypeError if `state` holds no such."""
    rgb = tuple(map(int, state.get("rgb", default_rgb(bands))))
    if len(rgb) != 3 or not all(0 <= band < len(bands) for band in rgb):
        raise ValueError(f"rgb {rgb} of {len(bands)} bands")
    return rgb
