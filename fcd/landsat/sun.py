"""Where the sun stood, of scenes without an MTL file whose files have no tags of it.

A list of crops may say it, or the name of the scene: Landsat passes each place at the same time of
the day.
"""

import math
import re
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from functools import lru_cache
from pathlib import Path

from fcd.files import csv_rows
from fcd.landsat.radiometry import SUN_AZIMUTH, SUN_ELEVATION

LIST, IMAGES = "patches.csv", "images"  # of a folder of crops, see `fcd.patches.crops`
# Of a product (LC08_L1TP_196022_20240512), such as Earth Engine names it (LC08_196022_20240512), or
# of a scene before collections (LC81960222024133).
_NAMED = re.compile(
    r"(?<![A-Z0-9])L[CO]0?[89]_?(L1[A-Z]{2}_)?(?P<path>\d{3})(?P<row>\d{3})_?(?P<date>\d{7,8})(?!\d)",
    re.I,
)
# As of a composite of several; the day that a product was made comes before its collection.
_OTHER_DAY = re.compile(r"(?<!\d)20\d\d[01]\d[0-3]\d(?!\d|_\d\d_(?:RT|T[12]))", re.I)
# The orbit of Landsat 8 and 9 (USGS, Landsat 8 Data Users Handbook, LSDS-1574, and the grid WRS-2):
# its rows are equal parts of it, counted from the north; of these the first 122 have daylight.
INCLINATION = math.radians(98.2)
ROWS, DAY_ROWS, EQUATOR = 248, 122, 60
AT_EQUATOR = 10.2  # mean local time, hours: 10:12 ± 5 minutes


def told(fields: Mapping[str, str], tags: Mapping[str, str], image: Path) -> dict[str, str]:
    """What is said of the sun of a scene, by name, and more.

    Of its MTL file the `fields`; what these lack by the `tags` of its first file, `image`, or by
    the list of the folder of crops that it is in. Raises `UserError` if that cannot be read.
    """
    folder, listed = image.absolute().parent, ""
    if folder.name == IMAGES and (path := folder.with_name(LIST)).is_file():
        listed = _by_name(path, path.stat().st_mtime_ns).get(image.stem) or ""
    sources = ({SUN_ELEVATION: listed}, tags, fields)
    return {name: text for source in sources for name, text in source.items() if text}


def position(
    said: Mapping[str, str], asked: Sequence[float | None], name: str
) -> tuple[str | float | None, ...]:
    """Elevation and azimuth: as `said` (see `told`), else as `asked`, else by its file's `name`."""
    calculated = by_orbit(name) or (None, None)
    return tuple(
        said.get(field) or (by_name if given is None else given)
        for field, given, by_name in zip(
            (SUN_ELEVATION, SUN_AZIMUTH), asked, calculated, strict=True
        )
    )


@lru_cache(maxsize=1)
def _by_name(path: Path, _changed: int) -> dict[str, str | None]:
    rows = csv_rows(path, (), "list of crops")  # one of other columns says nothing of the sun
    return {row.get("patch") or "": row.get("sun_elevation") for _, row in rows}


def by_orbit(name: str) -> tuple[float, float] | None:
    """Elevation and azimuth of the sun, degrees, at the middle of the scene with its ID in `name`.

    Within a degree: of real scenes that say it 26 elevations and 3 azimuths, 0.6 at most. None:
    there is no ID of Landsat-8 or -9 in it, one more or another day, or it is of a night.
    """
    found = {match.group("path", "row", "date") for match in _NAMED.finditer(name)}
    if len(found) != 1 or _OTHER_DAY.search(_NAMED.sub("", name)):
        return None
    ((_, row_text, written),) = found
    row = int(row_text)
    try:
        day = datetime.strptime(written, "%Y%m%d" if len(written) == 8 else "%Y%j").date()
    except ValueError:
        return None
    if not 1 <= row <= DAY_ROWS:
        return None
    along = 2 * math.pi * (row - EQUATOR) / ROWS  # southwards from the equator
    latitude = -math.asin(math.sin(along) * math.sin(INCLINATION))
    ahead = math.atan2(math.cos(INCLINATION) * math.sin(along), math.cos(along))
    declination, fast = _sun(day)
    angle = math.radians(15 * (AT_EQUATOR - 12)) + ahead + fast  # after noon
    # Of a vector to the sun, the parts along the earth's axis, out from it, and east.
    axis, out = math.sin(declination), math.cos(declination) * math.cos(angle)
    east = -math.cos(declination) * math.sin(angle)
    up = math.sin(latitude) * axis + math.cos(latitude) * out
    north = math.cos(latitude) * axis - math.sin(latitude) * out
    if up <= 0:
        return None
    return math.degrees(math.asin(up)), math.degrees(math.atan2(east, north)) % 360


def _sun(day: date) -> tuple[float, float]:
    """Its declination, and the angle it is ahead of mean time, radians, at noon in Greenwich.

    The low-precision formulas of the Astronomical Almanac, section C.
    """
    days = (day - date(2000, 1, 1)).days
    mean, anomaly = (
        math.radians(at + rate * days) for at, rate in ((280.46, 0.9856474), (357.528, 0.9856003))
    )
    longitude = mean + math.radians(1.915 * math.sin(anomaly) + 0.02 * math.sin(2 * anomaly))
    tilt = math.radians(23.439)
    ascension = math.atan2(math.cos(tilt) * math.sin(longitude), math.cos(longitude))
    ahead = (mean - ascension + math.pi) % (2 * math.pi) - math.pi
    return math.asin(math.sin(tilt) * math.sin(longitude)), ahead
