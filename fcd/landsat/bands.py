"""The bands of a network: those of Landsat, or so many numbered ones of other imagery."""

import re

from fcd.errors import UserError

# The ten 30 m bands in network order; B8 (panchromatic, 15 m) is not used.
BANDS = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B9", "B10", "B11")
RGB_BANDS = tuple(BANDS.index(band) for band in ("B4", "B3", "B2"))
FILL_DN = 0  # digital number of a pixel outside the footprint


def band_names(num_channels: int) -> tuple[str, ...]:
    """Those of Landsat if there are as many; else 1, 2, 3, …"""
    return BANDS if num_channels == len(BANDS) else tuple(map(str, range(1, num_channels + 1)))


def default_rgb(num_channels: int) -> tuple[int, ...]:
    """Which of the bands, from 0, are shown as red, green and blue unless one says."""
    # Of other imagery with more than three: blue comes first in most stacks.
    if num_channels < 3:
        return (0, 0, 0)
    return {len(BANDS): RGB_BANDS, 3: (0, 1, 2)}.get(num_channels, (2, 1, 0))


def band_numbers(text: str, flag: str, *, distinct: bool = True) -> list[int]:
    """Band numbers, from 1, of the value of a flag such as ``1-7,9-11``."""
    numbers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([1-9]\d{0,3})(?:-([1-9]\d{0,3}))?\s*", part)
        if not match:
            raise UserError(f"{flag} {text}: {part!r} is neither a band number nor a range")
        numbers += range(int(match[1]), int(match[2] or match[1]) + 1)
    if distinct and len(set(numbers)) != len(numbers):
        raise UserError(f"{flag} {text} names a band twice")
    return numbers
