"""The bands of a network, by name: those of Landsat, or those of other imagery, named or numbered.

A network keeps the names of its bands in its own order, and takes them by name from what it scores.
"""

import re
from collections.abc import Sequence
from typing import TypeVar

from fcd.errors import MissingBand, UserError

Band = TypeVar("Band", int, str)

# The ten 30 m bands in network order; B8 (panchromatic, 15 m) is not used.
BANDS = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B9", "B10", "B11")
# The height of the sun as a band of its own, in no file: `fcd.landsat.radiometry.with_sun`.
SUN = "SUN"
PIXEL_SIZE = 30.0  # metres
THERMAL = BANDS[8:]
SENSORS = {"OLI_TIRS": BANDS, "OLI": BANDS[:8], "TIRS": THERMAL}  # by SENSOR_ID
# Landsat, its sensors and its number: LC08_L1TP_…, LO09_…; before the collections LC8….
_PRODUCT = re.compile(r"L(?P<sensor>[CTEMO])0?(?P<number>\d)", re.I)
_SENSOR = {"C": "OLI_TIRS", "O": "OLI", "T": "TIRS"}  # of Landsat 8 and 9
SENTINEL_2 = ("B8A", "B12")  # no bands of Landsat; others of Sentinel-2 have the names of Landsat's
RGB_NAMES = ("B4", "B3", "B2")
RGB_BANDS = tuple(map(BANDS.index, RGB_NAMES))  # where they are among all ten
_LANDSAT = re.compile(r"^(?:(?!.*_?S[RT]_B\d+$).*_)?(B\d+)$", re.I)
FILL_DN = 0  # digital number of a pixel outside the footprint


def taken_by(name: str) -> tuple[str, str | None] | None:
    """The craft and, of Landsat 8 and 9, the sensor of a product of that name; None for others.

    ``LO09_L1TP_…`` is of LANDSAT_9 and OLI, ``LE07_L1TP_…`` of LE07.
    """
    if not (match := _PRODUCT.match(name)):
        return None
    letter, number = match["sensor"].upper(), match["number"]
    if letter in _SENSOR and number in "89":
        return f"LANDSAT_{number}", _SENSOR[letter]
    return name.partition("_")[0], None


def band_names(num_channels: int) -> tuple[str, ...]:
    """Those of Landsat if there are as many; else 1, 2, 3, …"""
    return BANDS if num_channels == len(BANDS) else tuple(map(str, range(1, num_channels + 1)))


def is_landsat(bands: Sequence[str], dtype: str) -> bool:
    """Whether pixels of these `bands` and of this type are DN of Landsat, whose 0 is fill."""
    return bool(bands) and {*bands} <= {*BANDS, SUN} and dtype == "uint16"


def in_files(bands: Sequence[str]) -> tuple[str, ...]:
    """Those of the `bands` of a network that are read: all but `SUN`."""
    return tuple(band for band in bands if band != SUN)


def named(descriptions: Sequence[str | None]) -> tuple[str, ...]:
    """The names of a raster's bands, or those of `band_names` if it does not name each otherwise.

    descriptions: what the file says of its bands. ``B2`` is also what ends in ``_B2``, in any case,
    as files of Landsat scenes do; not ``SR_B2``, whose values are of Level-2. Numbers of their
    places, as ``Band 1``, are no names. Where only some have names, and one is of Landsat, the
    others are called by number: nothing may then be taken by its position.
    """
    told = [
        _LANDSAT.sub(lambda match: match[1].upper(), (text or "").strip()) for text in descriptions
    ]
    counted = (re.fullmatch(rf"(band|layer)?[ _]?0*{n}", t, re.I) for n, t in enumerate(told, 1))
    if all(told) and len(set(told)) == len(told) and not all(counted):
        return tuple(told)
    some = tuple(t if t and told.count(t) == 1 else str(n) for n, t in enumerate(told, 1))
    return some if any(map(_LANDSAT.match, some)) else band_names(len(told))


def are_named(bands: Sequence[str]) -> bool:
    """Whether `bands` have names, and not mere numbers."""
    return tuple(bands) != tuple(map(str, range(1, len(bands) + 1)))


def described(bands: Sequence[str]) -> str:
    """How many `bands`, and their names if they have any, in words."""
    return f"{len(bands)} bands" + f" ({', '.join(bands)})" * are_named(bands)


def positions(needed: Sequence[str], given: Sequence[str], told: str) -> list[int]:
    """Where each of the `needed` bands of a network is among the `given`, from 0: by name.

    By position, all of them, if one of the two has mere numbers. Raises `MissingBand`, which begins
    with `told`, if there is no such band, or another number of bands without names.
    """
    if not (are_named(needed) and are_named(given)):
        if len(needed) != len(given):
            raise MissingBand(
                f"{told} has {described(given)}, the network takes {described(needed)}; say which "
                "by --bands, such as 1-7,9-11"
            )
        return list(range(len(needed)))
    if missing := [band for band in needed if band not in given]:
        raise MissingBand(
            f"{told} has no band {', '.join(missing)}, it has {', '.join(given)}; --bands says "
            "which are to be read if they have other names"
        )
    return [given.index(band) for band in needed]


def default_rgb(bands: Sequence[str]) -> tuple[int, ...]:
    """Which of the `bands`, from 0, are shown as red, green and blue unless one says."""
    if {*RGB_NAMES} <= {*bands}:
        return tuple(bands.index(band) for band in RGB_NAMES)
    # Of other imagery with more than three: blue comes first in most stacks.
    if len(bands) < 3:
        return (0, 0, 0)
    return (0, 1, 2) if len(bands) == 3 else (2, 1, 0)


def listed_bands(text: str, flag: str, *, sun: bool = False) -> tuple[str, ...]:
    """Names of Landsat bands of the value of a flag such as ``B2-B7,B9,B10``, in its order.

    A range leaves B8 out, as `BANDS` does. sun: whether `SUN` may be the last of them. Raises
    `UserError` for what is no such band or range, or a band that is there twice.
    """
    parts, names = text.split(","), list[str]()
    last = [SUN] if sun and len(parts) > 1 and parts[-1].strip().upper() == SUN else []
    for part in parts[: len(parts) - len(last)]:
        ends = [end.strip().upper() for end in part.split("-")]
        if len(ends) > 2 or not {*ends} <= {*BANDS}:
            raise UserError(
                f"{flag} {text}: {part!r} is neither a band nor a range of {', '.join(BANDS)}"
            )
        chosen = BANDS[BANDS.index(ends[0]) : BANDS.index(ends[-1]) + 1]
        if not chosen:
            raise UserError(f"{flag} {text}: {part!r} runs backwards; name the bands one by one")
        names += chosen
    return tuple(_distinct(names + last, text, flag))


def band_numbers(text: str, flag: str, *, distinct: bool = True) -> list[int]:
    """Band numbers, from 1, of the value of a flag such as ``1-7,9-11``."""
    numbers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([1-9]\d{0,3})(?:-([1-9]\d{0,3}))?\s*", part)
        if not match:
            raise UserError(f"{flag} {text}: {part!r} is neither a band number nor a range")
        numbers += range(int(match[1]), int(match[2] or match[1]) + 1)
    return _distinct(numbers, text, flag) if distinct else numbers


def _distinct(bands: list[Band], text: str, flag: str) -> list[Band]:
    if len(set(bands)) != len(bands):
        raise UserError(f"{flag} {text} names a band twice")
    return bands
