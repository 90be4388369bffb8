"""Draw Landsat-8 scenes in the layout of L8 Biome, for the demo and the tests.

A scene is composed in the order the light meets it: a surface of mixed materials, the shadows
of low clouds, the low clouds, cirrus above them, the sensor. Low clouds are bright, little
colder than the ground and hidden from the cirrus band B9 by the water vapour above them; cirrus
is thin, cold and plain in B9; bright soil and snow look like clouds in the visible bands. So no
single band separates cloud from clear.

    python -m fcd.synthetic --output_dir data/synthetic --scenes_per_biome 6 --size 384 --seed 0

With --images it draws instead what an own data set may be: small images of three bands.
"""

import csv
import datetime
import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from rasterio.crs import CRS
from rasterio.transform import Affine
from scipy import fft
from tqdm import tqdm

from fcd.cli import options
from fcd.errors import UserError
from fcd.files import replacing
from fcd.landsat import labels
from fcd.landsat.bands import BANDS, FILL_DN, RGB_BANDS
from fcd.landsat.labels import TRUTH_CLEAR, TRUTH_CLOUD, TRUTH_FILL, TRUTH_SHADOW, TRUTH_THIN_CLOUD
from fcd.landsat.qa import BITS, Collection
from fcd.landsat.rasters import Grid, raster_writer, write_raster
from fcd.patches.imagery import MASK_ENDING

PIXEL_SIZE = 30.0  # metres
CLOUD_OPACITY = 0.1  # a pixel is cloud where more than this share of the surface is hidden
THICK_OPACITY = 0.5  # ... and thick cloud (255, not 192) above this
SHADOW_OPACITY = 0.25  # a clear pixel is shadow where more than this share of the sun is blocked

# DN = (reflectance x sin(sun elevation) - add) / mult, and DN = (radiance - add) / mult
# (USGS Landsat 8 Data Users Handbook, section 5; the values of every Biome MTL).
REFLECTANCE_MULT, REFLECTANCE_ADD = 2e-5, -0.1
RADIANCE_MULT, RADIANCE_ADD = 3.342e-4, 0.1  # W / (m2 sr um), B10 and B11
THERMAL_K1 = {"B10": 774.8853, "B11": 480.8883}  # W / (m2 sr um)
THERMAL_K2 = {"B10": 1321.0789, "B11": 1201.1442}  # K
REFLECTIVE, THERMAL = BANDS[:7], BANDS[8:]  # B1…B7 and B10, B11; between them B9

# Reflectance of materials in B1…B7, in [0, 1], rounded from the shapes of published spectra
# (USGS Spectral Library Version 7, doi 10.3133/ds1035), and warmth in K beside the scene's mean.
MATERIALS = {
    "sand": ((0.13, 0.17, 0.25, 0.34, 0.41, 0.50, 0.45), 3.0),
    "playa": ((0.26, 0.32, 0.40, 0.47, 0.52, 0.51, 0.42), -1.0),
    "rock": ((0.07, 0.09, 0.12, 0.16, 0.20, 0.25, 0.22), 2.0),
    "conifer": ((0.015, 0.018, 0.03, 0.02, 0.21, 0.10, 0.045), -2.5),
    "broadleaf": ((0.02, 0.025, 0.05, 0.03, 0.33, 0.16, 0.07), -1.5),
    "grass": ((0.03, 0.04, 0.07, 0.06, 0.28, 0.22, 0.12), 0.5),
    "crop": ((0.03, 0.035, 0.07, 0.04, 0.41, 0.20, 0.09), -2.0),
    "stubble": ((0.06, 0.08, 0.12, 0.17, 0.26, 0.33, 0.25), 2.0),
    "soil": ((0.05, 0.07, 0.10, 0.14, 0.20, 0.27, 0.24), 2.5),
    "shrub": ((0.04, 0.05, 0.08, 0.09, 0.22, 0.22, 0.15), 0.0),
    "snow": ((0.78, 0.80, 0.79, 0.77, 0.68, 0.11, 0.08), -1.0),
    "ice": ((0.48, 0.52, 0.50, 0.42, 0.30, 0.04, 0.03), 0.0),
    "roof": ((0.16, 0.18, 0.21, 0.23, 0.27, 0.28, 0.26), 3.0),
    "asphalt": ((0.06, 0.07, 0.08, 0.09, 0.11, 0.13, 0.12), 3.5),
    "clear water": ((0.03, 0.03, 0.02, 0.01, 0.006, 0.003, 0.002), -3.0),
    "turbid water": ((0.06, 0.08, 0.10, 0.07, 0.02, 0.005, 0.003), -2.0),
    "marsh": ((0.025, 0.03, 0.05, 0.045, 0.19, 0.10, 0.05), -1.5),
    "mud": ((0.05, 0.06, 0.08, 0.09, 0.11, 0.09, 0.06), 0.0),
}


@dataclass(frozen=True)
class Biome:
    """What a biome is made of; each pair is the range its scenes are drawn from."""

    materials: tuple[str, ...]
    temperature: tuple[float, float]  # mean surface brightness temperature, K
    vapour: tuple[float, float]  # precipitable water, cm
    altitude: tuple[float, float]  # km
    sun_elevation: tuple[float, float]  # degrees
    relief: float = 0.08  # standard deviation of the shading
    scale: float = 70  # size of patches of one material, pixels
    parcel: int = 0  # side of fields or blocks in pixels; 0: no parcels
    streets: bool = False


RECIPES = {
    "Barren": Biome(
        ("sand", "playa", "rock"), (292, 314), (0.3, 2.0), (0.0, 2.5), (40, 68), relief=0.13
    ),
    "Forest": Biome(
        ("conifer", "broadleaf", "grass"), (283, 301), (1.2, 4.0), (0.0, 1.0), (38, 65)
    ),
    "GrassCrops": Biome(
        ("crop", "stubble", "soil", "grass"),
        (284, 306), (1.0, 3.5), (0.0, 0.8), (38, 66), relief=0.03, parcel=18,
    ),
    "Shrubland": Biome(("shrub", "soil", "sand"), (288, 311), (0.7, 2.5), (0.2, 1.8), (40, 67)),
    "SnowIce": Biome(
        ("snow", "snow", "ice", "rock"), (257, 271), (0.3, 1.0), (0.0, 1.5), (32, 50), relief=0.1
    ),
    "Urban": Biome(
        ("roof", "asphalt", "grass", "broadleaf"),
        (285, 308), (1.0, 3.0), (0.0, 0.6), (38, 66), relief=0.03, parcel=4, streets=True,
    ),
    "Water": Biome(
        ("clear water", "turbid water", "grass"),
        (279, 299), (1.2, 4.0), (0.0, 0.0), (38, 66), relief=0.04, scale=220,
    ),
    "Wetlands": Biome(
        ("marsh", "clear water", "mud", "grass"),
        (280, 300), (1.2, 3.5), (0.0, 0.1), (38, 65), relief=0.05, scale=35,
    ),
}  # fmt: skip

# Molecular and aerosol reflectance of a clear sky, and the direct share of the light on the
# ground: a shadow keeps the rest, which is why shadows are blue.
SKY = (0.075, 0.055, 0.030, 0.018, 0.008, 0.002, 0.001)
DIRECT = (0.70, 0.75, 0.82, 0.86, 0.92, 0.96, 0.97)
# Thick clouds in B1…B7 and B9: droplets absorb little in the short-wave infrared, ice much.
WATER_CLOUD = (0.66, 0.66, 0.66, 0.68, 0.70, 0.55, 0.42, 0.60)
ICE_CLOUD = (0.60, 0.60, 0.60, 0.61, 0.62, 0.36, 0.28, 0.55)

VAPOUR_SCALE_HEIGHT = 2.0  # km
# Optical depth of B9 per cm of precipitable water: hides cloud tops below some 2 km in moist air
# and lets dry high ground through, as observed (Gao et al. 1993, Geophys. Res. Lett. 20(4)).
VAPOUR_ABSORPTION = 2.2
LAPSE_RATE = 6.5  # K / km (ICAO standard atmosphere)
TROPOPAUSE = 216.7  # K (ICAO standard atmosphere)
SYSTEM_SCALE = 250  # pixels over which clouds crowd
DETAIL = 0.35  # share of the cells beside that of the weather system
CONTRAST = 2.5  # of the borders between materials: 0 one even mixture, high values hard edges
NOISE_DN = 25.0  # standard deviation, about the signal-to-noise ratio of OLI over dark land

MIN_SIZE = 64  # pixels

# Of the images of three visible bands: biomes in which clouds can be told by them, and the DN that
# become 0 and 255, by a square root as in most pictures. A cloudy image is cloud by half at least.
IMAGE_BIOMES = ("Forest", "GrassCrops", "Shrubland", "Urban", "Water", "Wetlands")
IMAGE_DN = (5000, 35_000)
CLOUDY_IMAGE = 0.5

# The cloud cover of the scenes of a biome, in turn: clear, scattered, mid, cloudy.
COVERS = (0.0, 0.15, 0.55, 0.07, 0.35, 0.22)


@dataclass(frozen=True)
class SyntheticScene:
    """One drawn scene, in the coding of the files of L8 Biome."""

    name: str
    biome: str
    dn: np.ndarray  # (10, h, w) uint16 in the order of `fcd.landsat.bands.BANDS`; 0 is fill
    truth: np.ndarray  # (h, w) uint8 truth codes, see `fcd.landsat.labels`
    qa: np.ndarray  # (h, w) uint16, pre-collection BQA
    grid: Grid
    date: datetime.date
    sun_elevation: float  # degrees
    sun_azimuth: float  # degrees, clockwise from north


@dataclass(frozen=True)
class _Clouds:
    """One layer of clouds."""

    opacity: np.ndarray  # (h, w) float32 in [0, 1]
    height: float  # km above ground
    reflectance: np.ndarray  # (8,) in B1…B7 and B9
    temperature: float  # K
    absorption: tuple[float, float]  # optical depth in B10 and B11 beside the visible one


def _fractal(
    shape: tuple[int, int],
    rng: np.random.Generator,
    scale: float,
    slope: float = 1.9,
    stretch: float = 1.0,
    angle: float = 0.0,
) -> np.ndarray:
    """Periodic Gaussian noise (h, w) float32, mean 0, standard deviation 1.

    Amplitudes fall as frequency ** -slope below `scale` pixels and are flat above, so features
    keep their size in scenes of any size. `stretch` elongates them along `angle` (radians).
    """
    rows = fft.fftfreq(shape[0]).astype(np.float32)[:, None]
    columns = fft.rfftfreq(shape[1]).astype(np.float32)
    along = math.cos(angle) * columns + math.sin(angle) * rows
    across = math.cos(angle) * rows - math.sin(angle) * columns
    power = (along * stretch) ** 2 + across**2 + np.float32(scale**-2)
    spectrum = fft.rfft2(rng.standard_normal(shape, np.float32))
    spectrum *= power ** np.float32(-slope / 2)
    spectrum[0, 0] = 0
    noise = fft.irfft2(spectrum, shape)
    return noise / noise.std()


def _parcels(
    shape: tuple[int, int], rng: np.random.Generator, side: int, angle: float
) -> tuple[np.ndarray, np.ndarray]:
    """Rotated rectangles: their number (h, w) in 0…65535, and how far (pixels) their edge is."""
    row, column = np.ogrid[: shape[0], : shape[1]]
    along = (math.cos(angle) * column + math.sin(angle) * row).astype(np.float32)
    across = (math.cos(angle) * row - math.sin(angle) * column).astype(np.float32)
    strip = np.floor(across / side).astype(np.int32)
    # Each strip is cut at its own offset, like bricks.
    along += rng.uniform(0, 2 * side, 4096).astype(np.float32)[strip % 4096]
    block = np.floor(along / (2 * side)).astype(np.int32)
    edge = np.minimum(across % side, along % (2 * side))
    return (strip * 977 + block * 331) % 65536, edge


def _fractions(biome: Biome, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Share of each material of the biome, (k, h, w) float32, sum 1."""
    angle = rng.uniform(0, np.pi)
    score = np.stack(
        [_fractal(shape, rng, biome.scale * rng.uniform(0.6, 1.6)) for _ in biome.materials]
    )
    # Scenes of one biome differ in what they are mostly made of.
    score += rng.normal(0, 0.5, (len(score), 1, 1)).astype(np.float32)
    if biome.parcel:
        number, _ = _parcels(shape, rng, biome.parcel, angle)
        score *= 0.8
        score += 0.8 * rng.standard_normal((len(score), 65536), np.float32)[:, number]
    if biome.streets:
        _, edge = _parcels(shape, rng, 5 * biome.parcel, angle)
        score[biome.materials.index("asphalt")][edge < 1] += 3
    score *= CONTRAST
    score -= score.max(axis=0)
    np.exp(score, out=score)
    score /= score.sum(axis=0)
    return score


def _mixed(values: np.ndarray, fractions: np.ndarray) -> np.ndarray:
    """Mean of one value per material (k,), weighted by `fractions` (k, h, w): (h, w) float32."""
    # A plain sum: the order of additions in a matrix product depends on the threads.
    return sum(np.float32(value) * share for value, share in zip(values, fractions, strict=True))


def _opacity(
    system: np.ndarray,
    rng: np.random.Generator,
    cover: float,
    *,
    scale: float,
    gain: float,
    stretch: float = 1.0,
) -> np.ndarray:
    """Clouds over the share `cover` of the scene, exactly 0 elsewhere: (h, w) float32 in [0, 1].

    Cells of `scale` pixels crowd where the smooth field `system` is high, and leave wide gaps.
    """
    if cover <= 0:
        return np.zeros_like(system)
    field = system + DETAIL * _fractal(
        system.shape, rng, scale, slope=2.1, stretch=stretch, angle=rng.uniform(0, np.pi)
    )
    field -= np.quantile(field, 1 - cover)
    return 1 - np.exp(-np.float32(gain) * np.maximum(field, 0))


def _low_clouds(system: np.ndarray, rng: np.random.Generator, cover: float, air: float) -> _Clouds:
    """Cumulus, sometimes altocumulus, over air of `air` K."""
    height = rng.choice([rng.uniform(0.8, 2.2), rng.uniform(2.5, 4.0)], p=[0.75, 0.25])
    scale, gain = rng.uniform(20, 40), rng.uniform(2, 6)
    return _Clouds(
        opacity=_opacity(system, rng, cover, scale=scale, gain=gain),
        height=height,
        reflectance=np.array(WATER_CLOUD) * rng.uniform(0.85, 1.15),
        temperature=air - LAPSE_RATE * height,
        absorption=(1.5, 1.5),
    )


def _cirrus(system: np.ndarray, rng: np.random.Generator, cover: float, air: float) -> _Clouds:
    """Fibrous ice clouds; ice absorbs more at 12 than at 11 um (Inoue 1985)."""
    height = rng.uniform(7.5, 11.0)
    thickest = np.float32(rng.uniform(0.35, 0.65))
    return _Clouds(
        opacity=thickest * _opacity(system, rng, cover, scale=50, gain=2, stretch=6),
        height=height,
        reflectance=np.array(ICE_CLOUD) * rng.uniform(0.9, 1.1),
        temperature=max(air - LAPSE_RATE * height, TROPOPAUSE),
        absorption=(1.0, 1.2),
    )


def _shadow(clouds: _Clouds, sun_elevation: float, sun_azimuth: float) -> np.ndarray:
    """The opacity of `clouds` where their shadows fall: away from the sun by height / tan(h)."""
    distance = clouds.height * 1000 / np.tan(np.radians(sun_elevation)) / PIXEL_SIZE
    azimuth = np.radians(sun_azimuth)
    down, right = distance * np.cos(azimuth), -distance * np.sin(azimuth)
    # The noise is periodic, so what is rolled in at one edge is a cloud beyond the other.
    return np.roll(clouds.opacity, (round(down), round(right)), axis=(0, 1))


def _footprint(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """The swath in a north-up frame, (h, w) bool: an orbit inclined by 8 to 14 degrees."""
    angle = math.radians(rng.uniform(8, 14))
    row, column = np.ogrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j]
    along = np.abs(math.cos(angle) * column + math.sin(angle) * row)
    across = np.abs(math.cos(angle) * row - math.sin(angle) * column)
    return np.maximum(along, across) < 0.95


def _radiance(temperature: float | np.ndarray, band: str) -> float | np.ndarray:
    """Brightness temperature in K -> radiance in W / (m2 sr um) (Handbook, section 5.3)."""
    return THERMAL_K1[band] / np.expm1(THERMAL_K2[band] / temperature)


def _brightness_temperature(dn: np.ndarray, band: str) -> np.ndarray:
    """DN -> brightness temperature in K, the inverse of `_radiance`."""
    radiance = dn * np.float32(RADIANCE_MULT) + np.float32(RADIANCE_ADD)
    return THERMAL_K2[band] / np.log1p(THERMAL_K1[band] / radiance)


def _truth(low: _Clouds, high: _Clouds, shadow: np.ndarray, valid: np.ndarray) -> np.ndarray:
    opacity = 1 - (1 - low.opacity) * (1 - high.opacity)
    truth = np.full(valid.shape, TRUTH_CLEAR, np.uint8)
    truth[shadow > SHADOW_OPACITY] = TRUTH_SHADOW
    truth[opacity > CLOUD_OPACITY] = TRUTH_THIN_CLOUD
    truth[opacity > THICK_OPACITY] = TRUTH_CLOUD
    truth[~valid] = TRUTH_FILL
    return truth


def _qa(dn: np.ndarray, sun_elevation: float) -> np.ndarray:
    """Pre-collection BQA of `dn`, from thresholds such as those of ACCA (Irish et al. 2006).

    Like the real band it is imperfect: thin clouds are missed, bright cool ground is flagged.
    """

    def reflectance(band: str) -> np.ndarray:
        scaled = dn[BANDS.index(band)] * np.float32(REFLECTANCE_MULT)
        return (scaled + np.float32(REFLECTANCE_ADD)) / math.sin(math.radians(sun_elevation))

    green, red, nir, swir = (reflectance(band) for band in ("B3", "B4", "B5", "B6"))
    snow_index = (green - swir) / np.maximum(green + swir, 1e-3)
    cool = _brightness_temperature(dn[BANDS.index("B10")], "B10") < 300
    bright = cool & (snow_index < 0.6) & (nir > swir)
    cloud = 1 + (bright & (red > 0.20)).astype(np.uint16) + (bright & (red > 0.30))
    cirrus = 1 + 2 * (reflectance("B9") > 0.04).astype(np.uint16)
    snow = 3 * ((snow_index > 0.6) & (green > 0.2)).astype(np.uint16)
    bits = BITS[Collection.PRE]
    fields = {"cloud confidence": cloud, "cirrus confidence": cirrus, "snow confidence": snow}
    qa = sum(values << bits[name].shift for name, values in fields.items())
    qa[dn[0] == FILL_DN] = 1 << bits["fill"].shift
    return qa


@dataclass(frozen=True)
class _Sky:
    """Sun and air over a scene."""

    sun_elevation: float  # degrees
    sun_azimuth: float  # degrees
    temperature: float  # mean of the ground, K
    air: float  # K, at the ground
    altitude: float  # of the ground, km
    vapour: float  # optical depth of B9 down to the sea and up again
    haze: float  # beside `SKY`
    veil: float  # B9 reflectance above all that is drawn

    def cirrus_transmission(self, height: float) -> float:
        """Share of the light in B9 that comes back from `height` km above ground, in [0, 1]."""
        above = np.exp(-(self.altitude + height) / VAPOUR_SCALE_HEIGHT)
        return float(np.exp(-self.vapour * above))


def _draw_sky(biome: Biome, rng: np.random.Generator) -> _Sky:
    sun_elevation, temperature = rng.uniform(*biome.sun_elevation), rng.uniform(*biome.temperature)
    air_mass = 1 + 1 / np.sin(np.radians(sun_elevation))  # up to the sensor, down from the sun
    return _Sky(
        sun_elevation=sun_elevation,
        sun_azimuth=rng.uniform(110, 165),
        temperature=temperature,
        air=temperature - rng.uniform(0, 4),
        altitude=rng.uniform(*biome.altitude),
        vapour=VAPOUR_ABSORPTION * rng.uniform(*biome.vapour) * air_mass,
        haze=rng.uniform(0.7, 1.8),
        veil=rng.uniform(0.001, 0.015),
    )


def _reflective_dn(
    surface: np.ndarray, band: str, sky: _Sky, layers: tuple[_Clouds, ...], shadow: np.ndarray
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
        light += layer.opacity * (np.float32(cloud) - light)
    if band == "B9":
        light += np.float32(sky.veil)
    light *= np.float32(np.sin(np.radians(sky.sun_elevation)))
    return (light - np.float32(REFLECTANCE_ADD)) / np.float32(REFLECTANCE_MULT)


def _thermal_dn(temperature: np.ndarray, band: str, layers: tuple[_Clouds, ...]) -> np.ndarray:
    """Surface temperature (h, w) K -> DN (h, w) float32 of `band` under `layers`, lowest first."""
    light = _radiance(temperature, band)
    for layer in layers:
        emissivity = 1 - (1 - layer.opacity) ** np.float32(layer.absorption[THERMAL.index(band)])
        light += emissivity * (np.float32(_radiance(layer.temperature, band)) - light)
    return (light - np.float32(RADIANCE_ADD)) / np.float32(RADIANCE_MULT)


def _spectra(biome: Biome, rng: np.random.Generator) -> np.ndarray:
    """Reflectance of each material in B1…B7 and B9, (k, 8) float32, as it is in this scene."""
    spectra = np.array([MATERIALS[name][0] for name in biome.materials])
    # B9 (1.37 um) lies between B5 (0.86 um) and B6 (1.61 um).
    spectra = np.column_stack([spectra, spectra[:, 4:6].mean(axis=1)])
    brightness = rng.normal(1, 0.10, (len(spectra), 1)) * rng.normal(1, 0.04, spectra.shape)
    return np.clip(spectra * brightness, 0, 0.95).astype(np.float32)


def _generators(biome: str, seed: int, index: int) -> list[np.random.Generator]:
    """One generator per part of a scene, so that a change of one part leaves the others alone."""
    entropy = [seed, list(RECIPES).index(biome), index]
    return [np.random.default_rng(part) for part in np.random.SeedSequence(entropy).spawn(8)]


def _acquired(rng: np.random.Generator) -> datetime.date:
    return datetime.date(2013, 4, 1) + datetime.timedelta(days=int(rng.integers(900)))


def scene_name(biome: str, seed: int, index: int) -> str:
    """A name of the real form, on a WRS-2 path beyond the 233 real ones: never a real scene's."""
    path = 234 + list(RECIPES).index(biome)
    return f"LC8{path:03d}{index + 1:03d}{_acquired(_generators(biome, seed, index)[0]):%Y%j}LGN00"


def draw_scene(
    biome: str,
    size: int | tuple[int, int],
    seed: int,
    *,
    index: int = 0,
    cover: float = 0.3,
    footprint: bool = False,
) -> SyntheticScene:
    """Draw scene number `index` of `biome`: the same arguments give the same arrays.

    size: side, or (height, width), in pixels of 30 m. cover: share of low and high cloud
    together, in [0, 1], about; scenes that differ in `cover` alone have the same ground, sun
    and noise. footprint: rotate the swath, so that the corners are fill.
    """
    shape = (size, size) if isinstance(size, int) else size
    _check(biome, shape, cover)
    recipe = RECIPES[biome]
    calendar, sky_rng, ground, weather, low_rng, high_rng, sensor, swath = _generators(
        biome, seed, index
    )
    sky = _draw_sky(recipe, sky_rng)

    # Fair-weather cumulus alone, cirrus alone, or both.
    high_share = sky_rng.choice([0.0, 0.3, 0.5, 1.0], p=[0.4, 0.2, 0.25, 0.15])
    system = _fractal(shape, weather, SYSTEM_SCALE, slope=3.5)
    low = _low_clouds(system, low_rng, cover * (1 - high_share), sky.air)
    high = _cirrus(system, high_rng, cover * high_share, sky.air)
    shadow = _shadow(low, sky.sun_elevation, sky.sun_azimuth)
    valid = _footprint(shape, swath) if footprint else np.ones(shape, bool)

    fractions = _fractions(recipe, shape, ground)
    shading = 1 + np.float32(recipe.relief) * _fractal(shape, ground, 60, 1.6)
    spectra = _spectra(recipe, ground)
    warmth = [MATERIALS[name][1] for name in recipe.materials]
    temperature = np.float32(sky.temperature) + _mixed(warmth, fractions)
    temperature += 10 * (shading - 1)  # slopes that face the sun are brighter and warmer

    dn = np.empty((len(BANDS), *shape), np.uint16)
    for number, band in enumerate(BANDS):
        if band in THERMAL:
            band_dn = _thermal_dn(temperature, band, (low, high))
        else:
            surface = _mixed(spectra[:, number], fractions) * shading
            band_dn = _reflective_dn(surface, band, sky, (low, high), shadow)
        band_dn += np.float32(NOISE_DN) * sensor.standard_normal(shape, np.float32)
        dn[number] = np.where(valid, np.clip(band_dn, 1, 65535), FILL_DN)

    zone = 10 + list(RECIPES).index(biome)
    return SyntheticScene(
        name=scene_name(biome, seed, index),
        biome=biome,
        dn=dn,
        truth=_truth(low, high, shadow, valid),
        qa=_qa(dn, sky.sun_elevation),
        grid=Grid(
            *shape,
            CRS.from_epsg(32600 + zone),
            Affine(PIXEL_SIZE, 0, 399_985, 0, -PIXEL_SIZE, 4_200_015),
        ),
        date=_acquired(calendar),
        sun_elevation=sky.sun_elevation,
        sun_azimuth=sky.sun_azimuth,
    )


def _check_side(side: int) -> None:
    if side < MIN_SIZE:
        raise UserError(f"size {side} is too small: a scene needs {MIN_SIZE} pixels a side")


def _check(biome: str, shape: tuple[int, int], cover: float) -> None:
    if biome not in RECIPES:
        raise UserError(f"unknown biome {biome!r}: choose from {', '.join(RECIPES)}")
    _check_side(min(shape))
    if not 0 <= cover <= 1:
        raise UserError(f"cover {cover} is not in [0, 1]")


def _write_truth(truth: np.ndarray, path: Path) -> None:
    """ENVI image and header without map info, as in L8 Biome: one byte a pixel, row by row."""
    path.write_bytes(truth.tobytes())
    lines, samples = truth.shape
    header = (
        f"ENVI\nsamples = {samples}\nlines = {lines}\nbands = 1\nheader offset = 0\n"
        "file type = ENVI Standard\ndata type = 1\ninterleave = bsq\nbyte order = 0\n"
    )
    path.with_suffix(".hdr").write_text(header, encoding="ascii")


def _metadata(scene: SyntheticScene) -> dict[str, dict[str, str | float]]:
    """The groups of ``_MTL.txt`` that a reader of reflectance, temperature and place needs."""
    grid, reflective, thermal = scene.grid, (*REFLECTIVE, "B9"), THERMAL
    left, top = grid.transform.c + PIXEL_SIZE / 2, grid.transform.f - PIXEL_SIZE / 2
    right, bottom = left + (grid.width - 1) * PIXEL_SIZE, top - (grid.height - 1) * PIXEL_SIZE
    cloudy = np.count_nonzero(scene.truth >= TRUTH_THIN_CLOUD)
    number = {band: band[1:] for band in BANDS}
    return {
        "METADATA_FILE_INFO": {
            "ORIGIN": '"Synthetic scene drawn by fcd.synthetic.drawing"',
            "LANDSAT_SCENE_ID": f'"{scene.name}"',
            "STATION_ID": '"LGN"',
        },
        "PRODUCT_METADATA": {
            "DATA_TYPE": '"L1T"',
            "OUTPUT_FORMAT": '"GEOTIFF"',
            "SPACECRAFT_ID": '"LANDSAT_8"',
            "SENSOR_ID": '"OLI_TIRS"',
            "WRS_PATH": int(scene.name[3:6]),
            "WRS_ROW": int(scene.name[6:9]),
            "DATE_ACQUIRED": scene.date.isoformat(),
            "CORNER_UL_PROJECTION_X_PRODUCT": f"{left:.3f}",
            "CORNER_UL_PROJECTION_Y_PRODUCT": f"{top:.3f}",
            "CORNER_LR_PROJECTION_X_PRODUCT": f"{right:.3f}",
            "CORNER_LR_PROJECTION_Y_PRODUCT": f"{bottom:.3f}",
            "REFLECTIVE_LINES": grid.height,
            "REFLECTIVE_SAMPLES": grid.width,
            "THERMAL_LINES": grid.height,
            "THERMAL_SAMPLES": grid.width,
            **{f"FILE_NAME_BAND_{number[b]}": f'"{scene.name}_{b}.TIF"' for b in BANDS},
            "FILE_NAME_BAND_QUALITY": f'"{scene.name}_BQA.TIF"',
            "METADATA_FILE_NAME": f'"{scene.name}_MTL.txt"',
        },
        "IMAGE_ATTRIBUTES": {
            "CLOUD_COVER": f"{100 * cloudy / np.count_nonzero(scene.truth):.2f}",
            "SUN_AZIMUTH": f"{scene.sun_azimuth:.8f}",
            "SUN_ELEVATION": f"{scene.sun_elevation:.8f}",
        },
        "RADIOMETRIC_RESCALING": {
            **{f"RADIANCE_MULT_BAND_{number[b]}": f"{RADIANCE_MULT:.4E}" for b in thermal},
            **{f"RADIANCE_ADD_BAND_{number[b]}": f"{RADIANCE_ADD:.5f}" for b in thermal},
            **{f"REFLECTANCE_MULT_BAND_{number[b]}": f"{REFLECTANCE_MULT:.4E}" for b in reflective},
            **{f"REFLECTANCE_ADD_BAND_{number[b]}": f"{REFLECTANCE_ADD:.6f}" for b in reflective},
        },
        "TIRS_THERMAL_CONSTANTS": {
            **{f"K1_CONSTANT_BAND_{number[b]}": f"{THERMAL_K1[b]:.4f}" for b in thermal},
            **{f"K2_CONSTANT_BAND_{number[b]}": f"{THERMAL_K2[b]:.4f}" for b in thermal},
        },
        "PROJECTION_PARAMETERS": {
            "MAP_PROJECTION": '"UTM"',
            "DATUM": '"WGS84"',
            "UTM_ZONE": grid.crs.to_epsg() % 100,
            "GRID_CELL_SIZE_REFLECTIVE": f"{PIXEL_SIZE:.2f}",
            "GRID_CELL_SIZE_THERMAL": f"{PIXEL_SIZE:.2f}",
            "ORIENTATION": '"NORTH_UP"',
        },
    }


def _write_metadata(scene: SyntheticScene, path: Path) -> None:
    lines = ["GROUP = L1_METADATA_FILE"]
    for group, fields in _metadata(scene).items():
        lines.append(f"  GROUP = {group}")
        lines += [f"    {name} = {value}" for name, value in fields.items()]
        lines.append(f"  END_GROUP = {group}")
    lines += ["END_GROUP = L1_METADATA_FILE", "END", ""]
    path.write_text("\n".join(lines), encoding="ascii")


def write_scene(scene: SyntheticScene, folder: Path | str) -> Path:
    """Write the files of `scene` as ``<folder>/<scene>_B1.TIF`` …; `folder` must not exist.

    The folder appears when it is complete: a scene is whole or absent.
    """
    folder = Path(folder)
    temporary = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        for part, values in (*zip(BANDS, scene.dn, strict=True), ("BQA", scene.qa)):
            path = temporary / f"{scene.name}_{part}.TIF"
            # No nodata tag: real Level-1 bands carry none, fill is known by its DN alone.
            with raster_writer(path, scene.grid, dtype="uint16", nodata=None) as dataset:
                dataset.write(values, 1)
        _write_truth(scene.truth, temporary / f"{scene.name}_fixedmask.img")
        _write_metadata(scene, temporary / f"{scene.name}_MTL.txt")
        os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def plan(biome: str, index: int) -> dict[str, float | bool]:
    """Cloud cover and footprint of scene `index` of `biome` in a data set."""
    # Each biome begins elsewhere, so that a small set holds clear and cloudy scenes too.
    turn = index + list(RECIPES).index(biome)
    return {"cover": COVERS[turn % len(COVERS)], "footprint": index % 3 == 1}


def _check_size(folder: Path, size: int) -> None:
    """Refuse a scene drawn earlier at another size: the data set would be a mixture."""
    with rasterio.open(folder / f"{folder.name}_B1.TIF") as dataset:
        if dataset.shape != (size, size):
            raise UserError(
                f"{folder} is {dataset.width}x{dataset.height} pixels, not {size}x{size}: "
                "give another --output_dir, or the same --size"
            )


def write_data_set(root: Path | str, scenes_per_biome: int, size: int, seed: int) -> list[Path]:
    """Draw `scenes_per_biome` scenes of each biome into ``<root>/<biome>/<scene>``.

    Scenes already there are kept. Returns the folders of all scenes, sorted by biome and name.
    """
    _check_side(size)
    jobs = [(biome, index) for biome in RECIPES for index in range(scenes_per_biome)]
    folders = []
    for biome, index in tqdm(jobs, desc="scenes", unit="scene"):
        folder = Path(root, biome, scene_name(biome, seed, index))
        if folder.is_dir():
            _check_size(folder, size)
        else:
            write_scene(draw_scene(biome, size, seed, index=index, **plan(biome, index)), folder)
        folders.append(folder)
    return folders


def _as_image(scene: SyntheticScene) -> tuple[np.ndarray, np.ndarray]:
    """Red, green, blue (3, h, w) uint8 of a scene, and its mask (1, h, w) in tif codes."""
    low, high = IMAGE_DN
    shade = (scene.dn[list(RGB_BANDS)].astype(np.float32) - low) / (high - low)
    mask = labels.tif_from_patch(labels.patch_from_truth(scene.truth))
    return np.rint(255 * np.sqrt(np.clip(shade, 0, 1))).astype(np.uint8), mask[None]


def write_images(root: Path | str, count: int, size: int, seed: int) -> Path:
    """Draw `count` images of three bands of uint8, half of them cloudy, and two whole scenes.

    ``<root>/images/<name>.tif`` with ``<name>_mask.tif`` (0 invalid, 128 clear, 255 cloud), listed
    with their labels in ``<root>/labels.csv``, whose path is returned; ``<root>/scenes/``, the
    same kind of data 8 times as wide. They have no nodata.
    """
    root, rows = Path(root), []
    wanted = {"clear": count - count // 2, "cloudy": count // 2}
    with tqdm(total=count, desc="images", unit="image", dynamic_ncols=True) as bar:
        for number in range(-2, 100 * count):
            biome = IMAGE_BIOMES[number % len(IMAGE_BIOMES)]
            side = max(8 * size, MIN_SIZE)
            scene = draw_scene(biome, side, seed, index=number + 2, cover=0.6 * (number % 2))
            pixels, mask = _as_image(scene)
            if number < 0:  # the two whole ones, of which one is cloudy
                write_raster(root / "scenes" / f"{scene.name}.tif", pixels, scene.grid, None)
                continue
            for row, column in np.ndindex(8, 8):
                place = np.s_[:, row * size : (row + 1) * size, column * size : (column + 1) * size]
                share = np.mean(mask[place] == labels.TIF_CLOUD)
                label = "clear" if share == 0 else "cloudy" if share >= CLOUDY_IMAGE else None
                if not wanted.get(label):
                    continue
                wanted[label] -= 1
                name = f"{scene.name}_{row}_{column}"
                grid = scene.grid.square(row * size, column * size, size)
                write_raster(root / "images" / f"{name}.tif", pixels[place], grid, None)
                write_raster(root / "images" / f"{name}{MASK_ENDING}", mask[place], grid, 0)
                rows.append((f"images/{name}.tif", label))
                bar.update()
            if not any(wanted.values()):
                break
    path = root / "labels.csv"
    with replacing(path) as temporary, temporary.open("w", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows([("path", "label"), *rows])
    return path


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw a data set as the command line says."""
    parser = options.Parser(prog="-m fcd.synthetic", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--output_dir", default="data/synthetic", help="folder for <biome>/<scene>/…")
    add("--scenes_per_biome", type=options.positive, default=6, help="scenes of each biome")
    add("--size", type=options.positive, default=384, help="side of a scene, pixels of 30 m")
    add("--seed", type=options.natural, default=0, help="seed; another one gives other scenes")
    add(
        "--images",
        type=options.positive,
        default=None,
        help="draw so many images of --size pixels instead: three bands of uint8, masks, "
        "labels.csv, and whole scenes to predict",
    )
    flags = parser.parse_args(arguments)
    if flags.images:
        print(f"labels: {write_images(flags.output_dir, flags.images, flags.size, flags.seed)}")
        return
    write_data_set(flags.output_dir, flags.scenes_per_biome, flags.size, flags.seed)
