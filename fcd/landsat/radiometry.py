"""DN of any scene as those that Landsat 8 would give under an overhead sun: standard DN.

MTL files say how DN become reflectance at the top of the atmosphere and radiance (USGS Landsat 8
Data Users Handbook, section 5):

    reflectance = (REFLECTANCE_MULT_BAND_n DN + REFLECTANCE_ADD_BAND_n) / sin(SUN_ELEVATION)
    radiance = RADIANCE_MULT_BAND_n DN + RADIANCE_ADD_BAND_n, in W / (m2 sr um), B10 and B11

A standard DN is either in steps of Landsat 8: reflectance = 2e-5 DN - 0.1, up to 1.21, and radiance
= 3.342e-4 DN + 0.1. So DN 0 stays fill, and what knows DN of Landsat knows these. The brightness
temperature of a band is a monotone function of its radiance, nearly linear on Earth; by the
constants of Landsat 9 it differs at 290 K by 0.1 K.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fcd.errors import SceneError
from fcd.landsat.bands import BANDS, FILL_DN, SENSORS

SUN_ELEVATION = "SUN_ELEVATION"  # degrees: a field of MTL files, and a tag of GeoTIFFs
SUN_AZIMUTH = "SUN_AZIMUTH"  # degrees, clockwise from north; likewise
REFLECTANCE_MULT, REFLECTANCE_ADD = 2e-5, -0.1
RADIANCE_MULT, RADIANCE_ADD = 3.342e-4, 0.1  # W / (m2 sr um)
SUN_STEPS = 60_000  # of the band `SUN`: what an overhead sun is
UNKNOWN_SUN = 1  # in that band
LOWEST_SUN = 2  # degrees; Landsat takes no scene by day under a lower one, and radians end before
DN_MAX = 65535  # uint16: saturated
# Of Landsat 8, in every Biome MTL file (Handbook, section 5.3).
THERMAL_K1 = {"B10": 774.8853, "B11": 480.8883}  # W / (m2 sr um)
THERMAL_K2 = {"B10": 1321.0789, "B11": 1201.1442}  # K


@dataclass(frozen=True)
class Radiometry:
    """standard DN = gain DN + offset, both (C,): see the module."""

    gain: tuple[float, ...]
    offset: tuple[float, ...]
    elevation: float  # of the sun, degrees

    @classmethod
    def of(cls, fields: Mapping[str, str], bands: Sequence[str], told: str) -> "Radiometry":
        """Of a scene by the `fields` of its MTL file, for these `bands` of Landsat.

        Raises `SceneError`, which begins with `told`, if a field is missing or no number that it
        can be.
        """
        elevation = sun_elevation(_text(fields, SUN_ELEVATION, told), told)
        sun = math.sin(math.radians(elevation))
        gain, offset = [], []
        for band in bands:
            mult, add = (_number(fields, name, told) for name in _gains(band))
            if mult <= 0:
                raise SceneError(f"{told}: the gain of {band} is {mult:g}; get the file again")
            light, unit, dark = sun, REFLECTANCE_MULT, REFLECTANCE_ADD
            if band in SENSORS["TIRS"]:
                light, unit, dark = 1.0, RADIANCE_MULT, RADIANCE_ADD
            gain.append(mult / light / unit)
            offset.append((add / light - dark) / unit)
        return cls(tuple(gain), tuple(offset), elevation)

    @classmethod
    def under(cls, sun: float | str | None, bands: Sequence[str], told: str) -> "Radiometry":
        """Of Landsat-8 `bands` under a sun that stands so many degrees above the horizon.

        Raises `SceneError`, which begins with `told`, if that is None or none.
        """
        if sun is None:
            raise SceneError(
                f"{told}: nothing says how high the sun stood, neither an MTL file nor the tag "
                f"{SUN_ELEVATION}, and the network takes it; give --sun_elevation DEGREES"
            )
        standard = {SUN_ELEVATION: str(sun)}
        for band in bands:
            thermal = band in SENSORS["TIRS"]
            values = (
                (RADIANCE_MULT, RADIANCE_ADD) if thermal else (REFLECTANCE_MULT, REFLECTANCE_ADD)
            )
            standard.update(zip(_gains(band), map(str, values), strict=True))
        return cls.of(standard, bands, told)

    def standard(self, dn: np.ndarray) -> np.ndarray:
        """DN (…, C, h, w) uint16 -> standard DN, uint16; 0 stays 0, and nothing else becomes it."""
        gain, offset = (
            np.array(values, np.float32)[:, None, None] for values in (self.gain, self.offset)
        )
        x = dn * gain
        x += offset
        np.clip(np.rint(x, out=x), 1, DN_MAX, out=x)
        x[dn == FILL_DN] = FILL_DN
        return x.astype(np.uint16)


def with_sun(dn: np.ndarray, elevation: float | None) -> np.ndarray:
    """DN (…, C, h, w) uint16 with the band `SUN` behind them: the sine of the sun's elevation.

    elevation: degrees. It is in steps of 1 / `SUN_STEPS`; `UNKNOWN_SUN` where it is not known.
    """
    sine = 0.0 if elevation is None else math.sin(math.radians(elevation))
    plane = np.full_like(dn[..., :1, :, :], max(round(SUN_STEPS * sine), UNKNOWN_SUN))
    return np.concatenate([dn, plane], axis=-3)


def brightness_temperature(dn: np.ndarray, band: str) -> np.ndarray:
    """Standard DN of a thermal `band` -> brightness temperature in K, float32."""
    radiance = dn * np.float32(RADIANCE_MULT) + np.float32(RADIANCE_ADD)
    return THERMAL_K2[band] / np.log1p(THERMAL_K1[band] / radiance)


def kept(fields: Mapping[str, str], bands: Sequence[str]) -> dict[str, str]:
    """Those of the `fields` of an MTL file that `Radiometry.of` takes for `bands`."""
    names = [SUN_ELEVATION, *(name for band in bands for name in _gains(band))]
    return {name: fields[name] for name in names if name in fields}


def sun_elevation(text: str, told: str) -> float:
    """The sun's elevation in degrees; `SceneError`, which begins with `told`, unless in [2, 90]."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not LOWEST_SUN <= value <= 90:
        raise SceneError(
            f"{told}: the sun's elevation is {text}, not {LOWEST_SUN} to 90 degrees; the networks "
            "need daylight, and degrees, not radians"
        )
    return value


def sun_azimuth(text: str, told: str) -> float:
    """The sun's azimuth in degrees; `SceneError`, which begins with `told`, unless in ±360."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not -360 <= value <= 360:
        raise SceneError(f"{told}: the sun's azimuth is {text}, no angle from -360 to 360 degrees")
    return value


def _gains(band: str) -> Iterator[str]:
    """The names of the fields of an MTL file that hold gain and offset of a band."""
    assert band in BANDS, "of Landsat: `fcd.patches.normalisation.Kind.require_landsat`"
    quantity = "RADIANCE" if band in SENSORS["TIRS"] else "REFLECTANCE"
    return (f"{quantity}_{term}_BAND_{band[1:]}" for term in ("MULT", "ADD"))


def _text(fields: Mapping[str, str], name: str, told: str) -> str:
    if name not in fields:
        raise SceneError(
            f"{told} has no {name}, by which DN become reflectance or radiance; get the MTL file "
            "of the Level-1 scene"
        )
    return fields[name]


def _number(fields: Mapping[str, str], name: str, told: str) -> float:
    text = _text(fields, name, told)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise SceneError(f"{told}: {name} is {text[:50]}, no number; get the file again")
    return value
