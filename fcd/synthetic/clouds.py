"""The sky of a drawn scene: sun and air, low clouds with their shadows, cirrus, and the truth."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from fcd.landsat.bands import PIXEL_SIZE
from fcd.landsat.labels import TRUTH_CLEAR, TRUTH_CLOUD, TRUTH_FILL, TRUTH_SHADOW, TRUTH_THIN_CLOUD
from fcd.synthetic.surface import Biome, fractal

CLOUD_OPACITY = 0.1  # a pixel is cloud where more than this share of the surface is hidden
THICK_OPACITY = 0.5  # ... and thick cloud (255, not 192) above this
SHADOW_OPACITY = 0.25  # a clear pixel is shadow where more than this share of the sun is blocked
# Thick clouds in B1…B7 and B9: droplets absorb little in the short-wave infrared, ice much.
WATER_CLOUD = (0.66, 0.66, 0.66, 0.68, 0.70, 0.55, 0.42, 0.60)
ICE_CLOUD = (0.60, 0.60, 0.60, 0.61, 0.62, 0.36, 0.28, 0.55)
VAPOUR_SCALE_HEIGHT = 2.0  # km
# Optical depth of B9 per cm of precipitable water: hides cloud tops below some 2 km in moist air
# and lets dry high ground through, as observed (Gao et al. 1993, Geophys. Res. Lett. 20(4)).
VAPOUR_ABSORPTION = 2.2
LAPSE_RATE = 6.5  # K / km (ICAO standard atmosphere)
TROPOPAUSE = 216.7  # K (ICAO standard atmosphere)
DETAIL = 0.35  # of the cells, beside 1 of the weather system


@dataclass(frozen=True)
class Sky:
    """Sun and air over a scene."""

    sun_elevation: float  # degrees
    sun_azimuth: float  # degrees
    temperature: float  # mean of the ground, K
    air: float  # K, at the ground
    altitude: float  # of the ground, km
    vapour: float  # optical depth of B9 down to the sea and up again, to the power 1 / growth
    haze: float  # beside `SKY`
    veil: float  # B9 reflectance above all that is drawn
    ozone: float = 0.0  # atm-cm down and up again
    growth: float = 1.0  # the optical depth of B9 grows as this power of the amount of vapour

    def cirrus_transmission(self, height: float) -> float:
        """Share of the light in B9 that comes back from `height` km above ground, in [0, 1]."""
        above = np.exp(-(self.altitude + height) / VAPOUR_SCALE_HEIGHT)
        return float(np.exp(-((self.vapour * above) ** self.growth)))


def draw_sky(biome: Biome, rng: np.random.Generator, sun: tuple[float, float] | None = None) -> Sky:
    """Sun and air over a scene of `biome`; sun: its elevation and azimuth in degrees."""
    sun_elevation, temperature = rng.uniform(*biome.sun_elevation), rng.uniform(*biome.temperature)
    sun_azimuth = rng.uniform(110, 165)
    if sun:
        sun_elevation, sun_azimuth = sun
    air_mass = 1 + 1 / np.sin(np.radians(sun_elevation))  # up to the sensor, down from the sun
    return Sky(
        sun_elevation=sun_elevation,
        sun_azimuth=sun_azimuth,
        temperature=temperature,
        air=temperature - rng.uniform(0, 4),
        altitude=rng.uniform(*biome.altitude),
        vapour=VAPOUR_ABSORPTION * rng.uniform(*biome.vapour) * air_mass,
        haze=rng.uniform(0.7, 1.8),
        veil=rng.uniform(0.001, 0.015),
    )


@dataclass(frozen=True)
class Clouds:
    """One layer of clouds."""

    opacity: np.ndarray  # (h, w) float32 in [0, 1]
    height: float  # km above ground
    reflectance: np.ndarray  # (8,) in B1…B7 and B9
    temperature: np.ndarray | float  # K, (h, w) float32
    absorption: tuple[float, float]  # optical depth in B10 and B11 beside the visible one
    relief: np.ndarray | float = 1.0  # factor of the reflectance, (h, w) float32
    thin: tuple[float, ...] = (1.0,) * 8  # another by band, where next to nothing is hidden
    noticed: float = 1.0  # share of its opacity that counts where one draws a mask by eye


def cells(
    system: np.ndarray,
    rng: np.random.Generator,
    cover: float,
    *,
    scale: float,
    gain: float,
    stretch: float = 1.0,
    detail: float = DETAIL,
) -> np.ndarray:
    """Clouds over the share `cover` of the scene, exactly 0 elsewhere: (h, w) float32 in [0, 1].

    Cells of `scale` pixels crowd where the smooth field `system` is high, and leave wide gaps; the
    more `detail`, the more evenly they are scattered.
    """
    if cover <= 0:
        return np.zeros_like(system)
    field = system + np.float32(detail) * fractal(
        system.shape, rng, scale, slope=2.1, stretch=stretch, angle=rng.uniform(0, np.pi)
    )
    field -= np.quantile(field, 1 - cover)
    return 1 - np.exp(-np.float32(gain) * np.maximum(field, 0))


def low_clouds(system: np.ndarray, rng: np.random.Generator, cover: float, air: float) -> Clouds:
    """Cumulus, sometimes altocumulus, over air of `air` K."""
    height = rng.choice([rng.uniform(0.8, 2.2), rng.uniform(2.5, 4.0)], p=[0.75, 0.25])
    scale, gain = rng.uniform(20, 40), rng.uniform(2, 6)
    return Clouds(
        opacity=cells(system, rng, cover, scale=scale, gain=gain),
        height=height,
        reflectance=np.array(WATER_CLOUD) * rng.uniform(0.85, 1.15),
        temperature=air - LAPSE_RATE * height,
        absorption=(1.5, 1.5),
    )


def cirrus(system: np.ndarray, rng: np.random.Generator, cover: float, air: float) -> Clouds:
    """Fibrous ice clouds; ice absorbs more at 12 than at 11 um (Inoue 1985)."""
    height = rng.uniform(7.5, 11.0)
    thickest = np.float32(rng.uniform(0.35, 0.65))
    return Clouds(
        opacity=thickest * cells(system, rng, cover, scale=50, gain=2, stretch=6),
        height=height,
        reflectance=np.array(ICE_CLOUD) * rng.uniform(0.9, 1.1),
        temperature=max(air - LAPSE_RATE * height, TROPOPAUSE),
        absorption=(1.0, 1.2),
    )


def shadow_of(clouds: Clouds, sun_elevation: float, sun_azimuth: float) -> np.ndarray:
    """The opacity of `clouds` where their shadows fall: away from the sun by height / tan(h)."""
    distance = clouds.height * 1000 / np.tan(np.radians(sun_elevation)) / PIXEL_SIZE
    azimuth = np.radians(sun_azimuth)
    down, right = distance * np.cos(azimuth), -distance * np.sin(azimuth)
    # The noise is periodic, so what is rolled in at one edge is a cloud beyond the other.
    return np.roll(clouds.opacity, (round(down), round(right)), axis=(0, 1))


def truth_of(
    layers: tuple[Clouds, ...],
    shadow: np.ndarray,
    valid: np.ndarray,
    *,
    thinnest: float = CLOUD_OPACITY,
    rim: int = 0,
) -> np.ndarray:
    """Truth codes (h, w) uint8 of `layers`, lowest first; fill where not `valid`.

    thinnest: a pixel is cloud where they hide more than this share of the surface, as far as it is
    `noticed`, or within `rim` pixels of there, as in masks drawn by hand around the clouds.
    """
    seen = np.ones(valid.shape, np.float32)
    for layer in layers:
        seen *= 1 - np.float32(layer.noticed) * layer.opacity
    opacity = 1 - seen
    cloudy = opacity > thinnest
    if rim:
        cloudy = ndimage.maximum_filter(cloudy, 2 * rim + 1)
    truth = np.full(valid.shape, TRUTH_CLEAR, np.uint8)
    truth[shadow > SHADOW_OPACITY] = TRUTH_SHADOW
    truth[cloudy] = TRUTH_THIN_CLOUD
    truth[opacity > THICK_OPACITY] = TRUTH_CLOUD
    truth[~valid] = TRUTH_FILL
    return truth
