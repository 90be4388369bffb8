"""A whole scene, composed in the order in which the light meets it.

A surface of mixed materials, the shadows of low clouds, the low clouds, cirrus above them, the
sensor. Low clouds are bright, little colder than the ground and hidden from the cirrus band B9 by
the water vapour above them; cirrus is thin, cold and plain in B9; bright soil and snow look like
clouds in the visible bands. So no single band separates cloud from clear.
"""

import datetime
from dataclasses import dataclass

import numpy as np
from rasterio.crs import CRS
from rasterio.transform import Affine

from fcd.errors import UserError
from fcd.landsat.bands import BANDS, FILL_DN
from fcd.landsat.rasters import Grid
from fcd.synthetic.clouds import PIXEL_SIZE, cirrus, draw_sky, low_clouds, shadow_of, truth_of
from fcd.synthetic.sensor import NOISE_DN, THERMAL, footprint_of, qa_of, reflective_dn, thermal_dn
from fcd.synthetic.surface import RECIPES, draw_ground, fractal

SYSTEM_SCALE = 250  # pixels over which clouds crowd
MIN_SIZE = 64  # pixels


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
    calendar, sky_rng, ground_rng, weather, low_rng, high_rng, sensor, swath = _generators(
        biome, seed, index
    )
    sky = draw_sky(recipe, sky_rng)

    # Fair-weather cumulus alone, cirrus alone, or both.
    high_share = sky_rng.choice([0.0, 0.3, 0.5, 1.0], p=[0.4, 0.2, 0.25, 0.15])
    system = fractal(shape, weather, SYSTEM_SCALE, slope=3.5)
    low = low_clouds(system, low_rng, cover * (1 - high_share), sky.air)
    high = cirrus(system, high_rng, cover * high_share, sky.air)
    shadow = shadow_of(low, sky.sun_elevation, sky.sun_azimuth)
    valid = footprint_of(shape, swath) if footprint else np.ones(shape, bool)

    ground = draw_ground(recipe, shape, ground_rng, sky.temperature)
    dn = np.empty((len(BANDS), *shape), np.uint16)
    for number, band in enumerate(BANDS):
        if band in THERMAL:
            band_dn = thermal_dn(ground.temperature, band, (low, high))
        else:
            surface = ground.reflectance(number)
            band_dn = reflective_dn(surface, band, sky, (low, high), shadow)
        band_dn += np.float32(NOISE_DN) * sensor.standard_normal(shape, np.float32)
        dn[number] = np.where(valid, np.clip(band_dn, 1, 65535), FILL_DN)

    zone = 10 + list(RECIPES).index(biome)
    return SyntheticScene(
        name=scene_name(biome, seed, index),
        biome=biome,
        dn=dn,
        truth=truth_of(low, high, shadow, valid),
        qa=qa_of(dn, sky.sun_elevation),
        grid=Grid(
            *shape,
            CRS.from_epsg(32600 + zone),
            Affine(PIXEL_SIZE, 0, 399_985, 0, -PIXEL_SIZE, 4_200_015),
        ),
        date=_acquired(calendar),
        sun_elevation=sky.sun_elevation,
        sun_azimuth=sky.sun_azimuth,
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
