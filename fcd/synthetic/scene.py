"""A whole scene, composed in the order in which the light meets it.

A surface of mixed materials, the shadows of low clouds, the low clouds, cirrus above them, the
sensor. Low clouds are bright, little colder than the ground and hidden from the cirrus band B9 by
the water vapour above them; cirrus is thin, cold and plain in B9; bright soil and snow look like
clouds in the visible bands. So no single band separates cloud from clear.
"""

import datetime
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from rasterio.crs import CRS
from rasterio.transform import Affine

from fcd.errors import UserError
from fcd.landsat.bands import BANDS, FILL_DN, PIXEL_SIZE, THERMAL
from fcd.landsat.rasters import Grid
from fcd.synthetic.clouds import (
    CLOUD_OPACITY,
    Clouds,
    Sky,
    cirrus,
    draw_sky,
    low_clouds,
    shadow_of,
    truth_of,
)
from fcd.synthetic.sensor import (
    NOISE_DN,
    footprint_of,
    qa_of,
    reflective_dn,
    seen_by_tirs,
    thermal_dn,
)
from fcd.synthetic.surface import RECIPES, Biome, draw_ground, fractal, glittering, widened
from fcd.synthetic.weather import MOST_RIM, THINNEST, draw_weather, wide_sky

SYSTEM_SCALE = 250  # pixels over which clouds crowd
MIN_SIZE = 64  # pixels
Variety = Literal["plain", "wide"]
Sun = tuple[float, float]  # elevation and azimuth, degrees


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
    casting: tuple[float, ...]  # km above ground: the layers that throw shadows
    variety: Variety = "plain"  # of `draw_scene`


class _Generators(NamedTuple):
    """One generator per part of a scene, so that a change of one part leaves the others alone."""

    calendar: np.random.Generator
    sky: np.random.Generator
    ground: np.random.Generator
    weather: np.random.Generator
    low: np.random.Generator
    high: np.random.Generator
    sensor: np.random.Generator
    swath: np.random.Generator
    wide: np.random.Generator


def _generators(biome: str, seed: int, index: int) -> _Generators:
    entropy = [seed, list(RECIPES).index(biome), index]
    parts = np.random.SeedSequence(entropy).spawn(len(_Generators._fields))
    return _Generators(*map(np.random.default_rng, parts))


def _acquired(rng: np.random.Generator) -> datetime.date:
    return datetime.date(2013, 4, 1) + datetime.timedelta(days=int(rng.integers(900)))


def scene_name(biome: str, seed: int, index: int) -> str:
    """A name of the real form, on a WRS-2 path beyond the 233 real ones: never a real scene's."""
    path = 234 + list(RECIPES).index(biome)
    date = _acquired(_generators(biome, seed, index).calendar)
    return f"LC8{path:03d}{index + 1:03d}{date:%Y%j}LGN00"


def _grid_of(biome: str, shape: tuple[int, int]) -> Grid:
    """On the central meridian of a zone, where up is north, from which the sun's azimuth counts."""
    crs = CRS.from_epsg(32610 + list(RECIPES).index(biome))
    left = 499_985 - PIXEL_SIZE * (shape[1] // 2)
    return Grid(*shape, crs, Affine(PIXEL_SIZE, 0, left, 0, -PIXEL_SIZE, 4_200_015))


class _View(NamedTuple):
    """What stands in the light, and how a mask of it is drawn."""

    recipe: Biome
    sky: Sky
    layers: tuple[Clouds, ...]  # lowest first
    casting: tuple[Clouds, ...]  # those with shadows
    thinnest: float = CLOUD_OPACITY  # see `truth_of`
    rim: int = 0


def _plain(
    biome: str, system: np.ndarray, cover: float, rng: _Generators, sun: Sun | None
) -> _View:
    """Fair weather: cumulus alone, cirrus alone, or both."""
    recipe = RECIPES[biome]
    sky = draw_sky(recipe, rng.sky, sun)
    high_share = rng.sky.choice([0.0, 0.3, 0.5, 1.0], p=[0.4, 0.2, 0.25, 0.15])
    low = low_clouds(system, rng.low, cover * (1 - high_share), sky.air)
    high = cirrus(system, rng.high, cover * high_share, sky.air)
    return _View(recipe, sky, (low, high), (low,))


def _wide(biome: str, system: np.ndarray, cover: float, rng: _Generators, sun: Sun | None) -> _View:
    """Any weather, ground and sun."""
    recipe = widened(biome, rng.wide)
    sky = wide_sky(draw_sky(recipe, rng.sky, sun), rng.wide)
    fair = rng.wide.random() < recipe.cloudless
    layers = draw_weather(sky, system, 0 if fair else cover, rng.wide)
    return _View(recipe, sky, layers, layers, THINNEST, int(rng.wide.integers(MOST_RIM + 1)))


def draw_scene(
    biome: str,
    size: int | tuple[int, int],
    seed: int,
    *,
    index: int = 0,
    cover: float = 0.3,
    footprint: bool = False,
    variety: Variety = "plain",
    sun: Sun | None = None,
) -> SyntheticScene:
    """Draw scene number `index` of `biome`: the same arguments give the same arrays.

    size: side, or (height, width), in pixels of 30 m. cover: share of low and high cloud
    together, in [0, 1], about; scenes that differ in `cover` alone have the same ground, sun
    and noise. footprint: rotate the swath, so that the corners are fill. variety: `plain` scenes
    have fair weather and a high sun; `wide` ones any weather, any sun and more kinds of ground, and
    masks as drawn by hand; their `cover` is 0 or that of broken clouds. sun: None: by season.
    """
    shape = (size, size) if isinstance(size, int) else size
    _check(biome, shape, cover)
    rng = _generators(biome, seed, index)
    system = fractal(shape, rng.weather, SYSTEM_SCALE, slope=3.5)
    view = (_wide if variety == "wide" else _plain)(biome, system, cover, rng, sun)
    sky, layers = view.sky, view.layers
    shadow = np.zeros(shape, np.float32)
    for layer in view.casting:
        shadow += (1 - shadow) * shadow_of(layer, sky.sun_elevation, sky.sun_azimuth)
    valid = footprint_of(shape, rng.swath) if footprint else np.ones(shape, bool)

    ground = draw_ground(view.recipe, shape, rng.ground, sky.temperature)
    if variety == "wide" and view.recipe.parcel:
        ground = glittering(ground, rng.wide, view.recipe.parcel)
    dn = np.empty((len(BANDS), *shape), np.uint16)
    for number, band in enumerate(BANDS):
        if band in THERMAL:
            band_dn = thermal_dn(ground.temperature, band, layers)
        else:
            surface = ground.reflectance(number)
            band_dn = reflective_dn(surface, band, sky, layers, shadow)
        noise = np.float32(NOISE_DN) * rng.sensor.standard_normal(shape, np.float32)
        if variety == "wide" and band in THERMAL:
            band_dn = seen_by_tirs(band_dn, noise)
        else:
            band_dn += noise
        dn[number] = np.where(valid, np.clip(band_dn, 1, 65535), FILL_DN)

    return SyntheticScene(
        name=scene_name(biome, seed, index),
        biome=biome,
        dn=dn,
        truth=truth_of(layers, shadow, valid, thinnest=view.thinnest, rim=view.rim),
        qa=qa_of(dn, sky.sun_elevation),
        grid=_grid_of(biome, shape),
        date=_acquired(rng.calendar),
        sun_elevation=sky.sun_elevation,
        sun_azimuth=sky.sun_azimuth,
        casting=tuple(layer.height for layer in view.casting),
        variety=variety,
    )


def check_side(side: int) -> None:
    """Raise `UserError` if a scene of `side` pixels is too small to be drawn."""
    if side < MIN_SIZE:
        raise UserError(f"size {side} is too small: a scene needs {MIN_SIZE} pixels a side")


def _check(biome: str, shape: tuple[int, int], cover: float) -> None:
    if biome not in RECIPES:
        raise UserError(f"unknown biome {biome!r}: choose from {', '.join(RECIPES)}")
    check_side(min(shape))
    if not 0 <= cover <= 1:
        raise UserError(f"cover {cover} is not in [0, 1]")
