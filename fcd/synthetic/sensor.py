"""What the sensor makes of a drawn scene: digital numbers, footprint and quality band."""

import math

import numpy as np
from scipy import ndimage

from fcd.landsat.bands import BANDS, FILL_DN, THERMAL
from fcd.landsat.radiometry import (
    RADIANCE_ADD,
    RADIANCE_MULT,
    REFLECTANCE_ADD,
    REFLECTANCE_MULT,
    THERMAL_K1,
    THERMAL_K2,
    brightness_temperature,
)
from fcd.landsat.reference import BITS, Collection
from fcd.synthetic.clouds import Clouds, Sky

# DN = (reflectance x sin(sun elevation) - add) / mult, and DN = (radiance - add) / mult: mult and
# add of `fcd.landsat.radiometry`, the values of every Biome MTL.
REFLECTIVE = BANDS[:7]  # all of OLI but B9
# Molecular and aerosol reflectance of a clear sky, and the direct share of the light on the
# ground: a shadow keeps the rest, which is why shadows are blue.
SKY = (0.075, 0.055, 0.030, 0.018, 0.008, 0.002, 0.001)
DIRECT = (0.70, 0.75, 0.82, 0.86, 0.92, 0.96, 0.97)
# Optical depth of an atm-cm of ozone, whose Chappuis bands lie about 0.6 um.
OZONE = (0.003, 0.020, 0.100, 0.060, 0.002, 0.0, 0.0)
NOISE_DN = 25.0  # standard deviation, about the signal-to-noise ratio of OLI over dark land
# Standard deviation in pixels of what a pixel of TIRS sees: 100 m, resampled to 30 m (USGS Landsat
# 8 Data Users Handbook, section 2.2). Small clouds are warmer in B10 than they are.
TIRS_BLUR = 1.7


def footprint_of(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """The swath in a north-up frame, (h, w) bool: an orbit inclined by 8 to 14 degrees."""
    angle = math.radians(rng.uniform(8, 14))
    row, column = np.ogrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j]
    along = np.abs(math.cos(angle) * column + math.sin(angle) * row)
    across = np.abs(math.cos(angle) * row - math.sin(angle) * column)
    return np.maximum(along, across) < 0.95


def _radiance(temperature: float | np.ndarray, band: str) -> np.ndarray:
    """Brightness temperature in K -> radiance in W / (m2 sr um) (Handbook, section 5.3)."""
    return THERMAL_K1[band] / np.expm1(THERMAL_K2[band] / np.asarray(temperature))


def reflective_dn(
    surface: np.ndarray, band: str, sky: Sky, layers: tuple[Clouds, ...], shadow: np.ndarray
) -> np.ndarray:
    """Surface reflectance (h, w) -> DN (h, w) float32 of `band` under `layers`, lowest first."""
    number = BANDS.index(band)
    if band == "B9":
        light = surface * np.float32(sky.cirrus_transmission(0))
    else:
        light = surface * (1 - np.float32(DIRECT[number]) * shadow)
        light += np.float32(SKY[number] * sky.haze)
    for layer in layers:
        cloud = layer.reflectance[number]
        if band == "B9":
            cloud *= sky.cirrus_transmission(layer.height)
        thinner = np.float32(layer.thin[number] - 1) * (1 - layer.opacity)
        light += layer.opacity * (np.float32(cloud) * (1 + thinner) * layer.relief - light)
    if band == "B9":
        light += np.float32(sky.veil)
    elif sky.ozone:
        light *= np.float32(np.exp(-OZONE[number] * sky.ozone))
    light *= np.float32(np.sin(np.radians(sky.sun_elevation)))
    return (light - np.float32(REFLECTANCE_ADD)) / np.float32(REFLECTANCE_MULT)


def thermal_dn(temperature: np.ndarray, band: str, layers: tuple[Clouds, ...]) -> np.ndarray:
    """Surface temperature (h, w) K -> DN (h, w) float32 of `band` under `layers`, lowest first."""
    light = _radiance(temperature, band)
    for layer in layers:
        emissivity = 1 - (1 - layer.opacity) ** np.float32(layer.absorption[THERMAL.index(band)])
        light += emissivity * (np.asarray(_radiance(layer.temperature, band), np.float32) - light)
    return (light - np.float32(RADIANCE_ADD)) / np.float32(RADIANCE_MULT)


def seen_by_tirs(dn: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """`dn` and `noise` (h, w) float32 as wide as pixels of TIRS; the noise keeps its deviation."""
    noise = noise * np.float32(2 * math.sqrt(math.pi) * TIRS_BLUR)
    return ndimage.gaussian_filter(dn + noise, TIRS_BLUR, mode="wrap")


def qa_of(dn: np.ndarray, sun_elevation: float) -> np.ndarray:
    """Pre-collection BQA of `dn`, from thresholds such as those of ACCA (Irish et al. 2006).

    Like the real band it is imperfect: thin clouds are missed, bright cool ground is flagged.
    """

    def reflectance(band: str) -> np.ndarray:
        scaled = dn[BANDS.index(band)] * np.float32(REFLECTANCE_MULT)
        return (scaled + np.float32(REFLECTANCE_ADD)) / math.sin(math.radians(sun_elevation))

    green, red, nir, swir = (reflectance(band) for band in ("B3", "B4", "B5", "B6"))
    snow_index = (green - swir) / np.maximum(green + swir, 1e-3)
    cool = brightness_temperature(dn[BANDS.index("B10")], "B10") < 300
    bright = cool & (snow_index < 0.6) & (nir > swir)
    cloud = 1 + (bright & (red > 0.20)).astype(np.uint16) + (bright & (red > 0.30))
    cirrus = 1 + 2 * (reflectance("B9") > 0.04).astype(np.uint16)
    snow = 3 * ((snow_index > 0.6) & (green > 0.2)).astype(np.uint16)
    bits = BITS[Collection.PRE]
    fields = {"cloud confidence": cloud, "cirrus confidence": cirrus, "snow confidence": snow}
    qa = sum(values << bits[name].shift for name, values in fields.items())
    qa[dn[0] == FILL_DN] = 1 << bits["fill"].shift
    return qa
