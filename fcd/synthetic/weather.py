"""The skies of `wide` scenes: overcast, decks, fog, veils, trails and towers, under any sun.

Plain scenes have fair weather: cumulus and cirrus over a high sun. Real ones have all of this, and
a network that learns from drawn scenes alone misses what is not drawn.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from scipy import ndimage

from fcd.synthetic.clouds import (
    DETAIL,
    LAPSE_RATE,
    TROPOPAUSE,
    VAPOUR_ABSORPTION,
    VAPOUR_SCALE_HEIGHT,
    Clouds,
    Sky,
    cells,
)
from fcd.synthetic.sensor import SKY
from fcd.synthetic.surface import fractal

# Masks drawn by hand take blobs with their rims: this share of the ground is hidden, or is so that
# many pixels away.
THINNEST, MOST_RIM = 0.06, 2
# A smooth veil is seen later than a small cloud: where B9 alone shows cirrus, masks say clear.
VEIL_NOTICED = 0.45
# Optical depth of B9 per root of cm of water: its lines are strong, so what little vapour there is
# above middle clouds hides much of them (square-root law, Goody and Yung 1989, section 4.2).
STRONG_LINES = 5.0
DRIEST = 0.12  # relative humidity
SOFT = (0.4, 1.6)  # pixels over which the sensor and the air blur a cloud's border
FREEZING, GLASSY = 273.0, 235.0  # K: droplets are liquid above, ice below, either between
RAYLEIGH_SCALE_HEIGHT = 8.0  # km
# How much more light one droplet sends back in B6 than in B4, and in B7 than in B6: scattering
# efficiency times 1 - asymmetry, by Mie's theory, for effective radii of 12 to 4 um.
THIN_DROPLETS = (1.14, 1.43), (1.0, 1.12)
# K, standard deviation over a view: tops of droplets lie below an inversion, those of ice where
# they were blown to, and let warmer air through.
WATER_TOPS_K, ICE_TOPS_K = (0.0, 2.5), (0.7, 4.0)


def wide_sky(sky: Sky, rng: np.random.Generator) -> Sky:
    """`sky` with the air of any day: path light grows with the path of the light."""
    sine = np.sin(np.radians(sky.sun_elevation))
    hazy = rng.uniform(1, 2.5) if rng.random() < 0.25 else 1.0
    air = sky.temperature - rng.uniform(-4, 6)
    wettest = most_vapour(air) * float(np.exp(sky.altitude / VAPOUR_SCALE_HEIGHT)) * (1 + 1 / sine)
    vapour = np.clip(sky.vapour / VAPOUR_ABSORPTION, DRIEST * wettest, wettest)
    return replace(
        sky,
        vapour=STRONG_LINES**2 * float(vapour),
        growth=0.5,
        air=air,
        haze=min(rng.uniform(0.6, 1.2) * hazy * 0.85 / sine, 4.0),
        veil=float(np.exp(rng.uniform(*np.log((0.0005, 0.015))))),
        ozone=rng.uniform(0.24, 0.42) * (1 + 1 / sine),
    )


def most_vapour(air: float) -> float:
    """Precipitable water in cm over ground where saturated air has the temperature `air` in K.

    Air of the polar plateaus can hold next to none, and B9 sees their snow. Vapour pressure by
    Magnus's formula (WMO No. 8, annex 4.B), density by the gas law (461.5 J per kg and K).
    """
    celsius = air - 273.15
    pressure = 611.2 * math.exp(17.62 * celsius / (243.12 + celsius))  # Pa
    density = pressure / (461.5 * air)  # kg per m3: over 1 km, 100 times as many cm of water
    return 100 * density * VAPOUR_SCALE_HEIGHT


def _layer(
    sky: Sky,
    opacity: np.ndarray,
    height: float,
    rng: np.random.Generator,
    *,
    bright: tuple[float, float] = (0.42, 1.15),
    rough: tuple[float, float] = (0.01, 0.12),
    thin: bool = False,
) -> Clouds:
    """A layer of `opacity` (h, w) at `height` km of the droplets or ice of that height.

    Droplets absorb little in the short-wave infrared, ice absorbs much, and the more so the thicker
    the cloud is (Platnick et al. 2003, IEEE TGRS 41(2)); thin clouds of droplets are brightest
    there, for they scatter less of it forward (Hansen and Travis 1974, Space Sci. Rev. 16). Tops
    colder than `GLASSY` are of ice (homogeneous freezing, Pruppacher and Klett 1997, chapter 7).
    bright: range of the visible reflectance; rough: of the standard deviation of its texture.
    """
    top = max(sky.air - LAPSE_RATE * height, TROPOPAUSE - 12)
    frozen = (FREEZING - top) / (FREEZING - GLASSY)
    visible, ice = rng.uniform(*bright), np.clip(frozen + rng.normal(0, 0.25), 0, 1)
    thick_ice = rng.uniform(0.45, 0.9) if thin else rng.uniform(0.12, 0.5)
    b6 = (1 - ice) * rng.uniform(0.5, 0.95) + ice * thick_ice
    b7 = b6 * ((1 - ice) * rng.uniform(0.55, 0.85) + ice * rng.uniform(0.8, 1.2))
    b9 = (1 - ice) * rng.uniform(0.6, 0.95) + ice * rng.uniform(0.25, 0.7)
    shares = (1, 1, 1, 1, rng.uniform(1.0, 1.06), b6, b7, b9)
    thin6 = rng.uniform(*THIN_DROPLETS[0])
    thin7 = thin6 * rng.uniform(*THIN_DROPLETS[1])
    brighter6, brighter7 = 1 + (1 - ice) * (thin6 / b6 - 1), 1 + (1 - ice) * (thin7 / b7 - 1)
    above = sky.haze * np.exp(-height / RAYLEIGH_SCALE_HEIGHT) * (1 - 0.6 * visible)
    opacity = ndimage.gaussian_filter(opacity, rng.uniform(*SOFT), mode="wrap")
    texture = fractal(opacity.shape, rng, rng.uniform(15, 150), slope=rng.uniform(1.8, 3))
    tops, absorption = (ICE_TOPS_K, (1.0, 1.2)) if ice > 0.5 else (WATER_TOPS_K, (1.5, 1.5))
    return Clouds(
        opacity=opacity,
        height=height,
        reflectance=visible * np.array(shares) + above * np.array((*SKY, 0)),
        # Where it is brighter it is thicker, and its top higher and colder.
        temperature=np.float32(top) - np.float32(rng.uniform(*tops)) * texture,
        absorption=absorption,
        relief=(1 + np.float32(rng.uniform(*rough)) * texture).clip(0.3),
        thin=(1, 1, 1, 1, 1, brighter6, brighter7, 1),
        noticed=VEIL_NOTICED if thin else 1.0,
    )


def _overcast(sky: Sky, system: np.ndarray, cover: float, rng: np.random.Generator) -> Clouds:
    """Stratus or altostratus over the whole view."""
    del cover
    thickness = np.exp(rng.uniform(*np.log((0.5, 5)))) * np.exp(
        np.float32(rng.uniform(0, 0.4)) * system
    )
    opacity = 1 - np.exp(-thickness.astype(np.float32))
    return _layer(sky, opacity, rng.uniform(0.3, 11.5), rng, rough=(0.005, 0.2))


def _anvil(sky: Sky, system: np.ndarray, cover: float, rng: np.random.Generator) -> Clouds:
    """The anvil of a storm, or nimbostratus: thick, cold, of ice, over the whole view."""
    del cover
    thickness = np.exp(rng.uniform(*np.log((3, 30))) + np.float32(rng.uniform(0, 0.4)) * system)
    opacity = 1 - np.exp(-thickness.astype(np.float32))
    height = rng.uniform(5, 11.5)
    return _layer(sky, opacity, height, rng, bright=(0.55, 1.15), rough=(0.005, 0.1))


def _deck(sky: Sky, system: np.ndarray, cover: float, rng: np.random.Generator) -> Clouds:
    """Stratocumulus or altocumulus with holes."""
    del cover
    scale, gain = rng.uniform(10, 45), rng.uniform(3, 12)
    opacity = cells(0.4 * system, rng, rng.uniform(0.5, 0.97), scale=scale, gain=gain)
    return _layer(sky, opacity, rng.uniform(0.5, 4.5), rng, rough=(0.03, 0.2))


def _fog(sky: Sky, system: np.ndarray, cover: float, rng: np.random.Generator) -> Clouds:
    """Fog, or low cloud under an inversion: as warm as the ground or warmer, with soft borders."""
    share = min(1.0, cover + rng.uniform(0.1, 0.8))
    opacity = cells(system, rng, share, scale=rng.uniform(100, 250), gain=rng.uniform(0.8, 4))
    fog = _layer(
        sky, opacity, rng.uniform(0.03, 0.5), rng, bright=(0.35, 0.75), rough=(0.005, 0.06)
    )
    return replace(fog, temperature=fog.temperature + np.float32(rng.uniform(0, 7)))


def _broken(sky: Sky, system: np.ndarray, cover: float, rng: np.random.Generator) -> Clouds:
    """Cumulus of any size, in one system or scattered over the whole view; some altocumulus."""
    scale = float(np.exp(rng.uniform(*np.log((5, 45)))))
    gain = float(np.exp(rng.uniform(*np.log((0.4, 7)))))
    detail = float(np.exp(rng.uniform(*np.log((DETAIL, 5)))))
    opacity = cells(system, rng, cover, scale=scale, gain=gain, detail=detail)
    return _layer(sky, opacity, rng.uniform(0.5, 4.5), rng, rough=(0.03, 0.2))


def _towers(sky: Sky, system: np.ndarray, cover: float, rng: np.random.Generator) -> Clouds:
    """Deep convection: bright, cold, of ice, with hard borders."""
    opacity = cells(system, rng, cover, scale=rng.uniform(20, 80), gain=rng.uniform(4, 12))
    return _layer(sky, opacity, rng.uniform(5, 12), rng, bright=(0.7, 1.25), rough=(0.05, 0.2))


def _veil(sky: Sky, system: np.ndarray, cover: float, rng: np.random.Generator) -> Clouds:
    """Cirrostratus or thin altostratus: little contrast, no borders."""
    del cover
    thickest, spread = rng.uniform(0.1, 0.6), np.float32(rng.uniform(0.1, 0.8))
    opacity = np.float32(thickest) / (1 + np.exp(-spread * system - np.float32(rng.uniform(0, 2))))
    return _layer(sky, opacity, rng.uniform(2.5, 11), rng, rough=(0.005, 0.08), thin=True)


def _fibres(sky: Sky, system: np.ndarray, cover: float, rng: np.random.Generator) -> Clouds:
    """Cirrus, and fibrous clouds of middle heights."""
    scale = float(np.exp(rng.uniform(*np.log((10, 90)))))
    fibres = cells(system, rng, cover, scale=scale, gain=2, stretch=rng.uniform(2, 8))
    opacity = np.float32(rng.uniform(0.15, 0.75)) * fibres
    return _layer(sky, opacity, rng.uniform(3.5, 11.5), rng, thin=True)


def _trails(sky: Sky, system: np.ndarray, cover: float, rng: np.random.Generator) -> Clouds:
    """Contrails: straight, some of them spread out and frayed."""
    del cover
    height, width = system.shape
    row, column = np.mgrid[:height, :width].astype(np.float32)
    seen = np.ones_like(system)
    for _ in range(rng.integers(1, 5)):
        angle, spread = rng.uniform(0, np.pi), rng.uniform(1.5, 7)
        through = rng.uniform(0, height), rng.uniform(0, width)
        away = (row - through[0]) * np.cos(angle) + (column - through[1]) * np.sin(angle)
        frayed = away + np.float32(rng.uniform(0, 0.8) * spread) * fractal(system.shape, rng, 20)
        seen *= 1 - np.float32(rng.uniform(0.1, 0.5)) * np.exp(
            -((frayed / np.float32(spread)) ** 2)
        )
    opacity = np.where(seen < 0.98, 1 - seen, 0).astype(np.float32)
    return _layer(sky, opacity, rng.uniform(8.5, 11.5), rng, thin=True)


Kind = Callable[[Sky, np.ndarray, float, np.random.Generator], Clouds]
# How often each kind of sky is drawn, its layers from the lowest.
SKIES: tuple[tuple[float, tuple[Kind, ...]], ...] = (
    (0.20, (_broken,)),
    (0.10, (_broken, _fibres)),
    (0.08, (_broken, _veil)),
    (0.08, (_fibres,)),
    (0.08, (_veil,)),
    (0.12, (_overcast,)),
    (0.07, (_anvil,)),
    (0.04, (_broken, _overcast)),
    (0.10, (_deck,)),
    (0.08, (_fog,)),
    (0.07, (_towers,)),
    (0.05, (_trails,)),
)


def draw_weather(
    sky: Sky, system: np.ndarray, cover: float, rng: np.random.Generator
) -> tuple[Clouds, ...]:
    """The layers over a scene, lowest first; none if `cover` is 0.

    system: smooth field (h, w) float32, mean 0 and standard deviation 1, where clouds crowd. Broken
    kinds hide about the share `cover` each, the others what they do.
    """
    if cover == 0:
        return ()
    chances = np.array([chance for chance, _ in SKIES])
    kinds = SKIES[rng.choice(len(SKIES), p=chances / chances.sum())][1]
    layers = [kind(sky, system, cover, rng) for kind in kinds]
    return tuple(sorted(layers, key=lambda layer: layer.height))
