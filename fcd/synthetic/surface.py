"""The ground of a drawn scene: what it is made of, where, and how bright and warm that is."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from scipy import fft

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
    # What `wide` scenes have beside these; snow and ice by size of grain and wetness.
    "bright sand": ((0.15, 0.20, 0.30, 0.40, 0.48, 0.58, 0.54), 4.0),
    "salt": ((0.45, 0.50, 0.56, 0.60, 0.62, 0.55, 0.45), -1.0),
    "basalt": ((0.045, 0.05, 0.055, 0.06, 0.07, 0.08, 0.08), 4.0),
    "burnt": ((0.03, 0.035, 0.04, 0.05, 0.08, 0.16, 0.17), 4.0),
    "glint": ((0.16, 0.15, 0.14, 0.13, 0.13, 0.12, 0.11), -2.0),
    "silt": ((0.09, 0.11, 0.16, 0.18, 0.10, 0.015, 0.008), -2.0),
    "fine snow": ((0.90, 0.91, 0.92, 0.91, 0.88, 0.20, 0.22), -2.0),
    "coarse snow": ((0.80, 0.81, 0.80, 0.77, 0.62, 0.05, 0.05), 0.0),
    "frost": ((0.30, 0.33, 0.36, 0.40, 0.45, 0.28, 0.22), -1.0),
    "sea ice": ((0.58, 0.61, 0.60, 0.55, 0.38, 0.03, 0.025), -2.0),
    "snowy wood": ((0.20, 0.21, 0.205, 0.21, 0.28, 0.075, 0.055), -1.5),
    "wet ice": ((0.40, 0.41, 0.39, 0.36, 0.24, 0.010, 0.008), 0.0),
}
COLD = {"snow", "ice", "fine snow", "coarse snow", "frost", "sea ice", "wet ice", "snowy wood"}


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
    cloudless: float = 0.0  # share of its scenes without clouds, beside those drawn without


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
# What else the ground of a `wide` scene can be made of.
GUESTS = {
    "Barren": ("bright sand", "salt", "basalt", "clear water", "frost", "coarse snow"),
    "Forest": ("burnt", "clear water", "coarse snow", "snowy wood", "frost", "shrub", "soil"),
    "GrassCrops": ("frost", "fine snow", "coarse snow", "silt", "bright sand", "clear water"),
    "Shrubland": ("frost", "salt", "burnt", "basalt", "bright sand", "clear water"),
    "SnowIce": ("fine snow", "coarse snow", "sea ice", "wet ice", "clear water", "snowy wood"),
    "Urban": ("salt", "bright sand", "clear water", "frost", "coarse snow"),
    "Water": ("glint", "silt", "sea ice", "wet ice"),
    "Wetlands": ("glint", "silt", "frost", "wet ice", "snowy wood"),
}
# Of `wide` scenes: suns in degrees, a third of them low; K of snow and ice, in SnowIce beside the
# ice sheets; K by which other ground may be colder or warmer than the recipe says; share of
# its water vapour.
LOW_SUN, HIGH_SUN, LOW_SHARE = (9, 32), (32, 72), 0.33
COLD_K, POLAR_K, WIDE_K, WIDE_VAPOUR = (254, 277), (230, 275), (-14, 8), (0.15, 1.1)
WOODS = {"conifer", "broadleaf"}
# Where winters are white, and how often a scene is of one, beside those that snow is a guest of.
WINTRY, WINTER_SHARE = {"Forest", "GrassCrops", "Shrubland", "Wetlands"}, 0.2
# The ice sheets inland: flat, dry, high, and as cold as cirrus, their fine snow as dark in B6 and
# B7 as ice clouds are. What parts the two is how even the snow is, and that clouds are rare there
# (Bromwich et al. 2012, Rev. Geophys. 50, RG1004). The higher their sun, the warmer they are, as at
# the South Pole (Lazzara et al. 2012, Atmos. Res. 118) and on Greenland (Steffen and Box 2001, JGR
# 106, D24): about a line, 14 K up or down. What is far colder under a high sun is cloud.
PLATEAU = Biome(
    ("fine snow",), (208, 270), (0.0, 0.3), (1.5, 3.8), (8, 42), scale=300, cloudless=0.85
)
PLATEAU_SHARE, PLATEAU_RELIEF = 0.7, (0.001, 0.03)
PLATEAU_K, PLATEAU_K_PER_DEGREE, PLATEAU_SPREAD_K = 214.0, 1.0, 14.0
CONTRAST = 2.5  # of the borders between materials: 0 one even mixture, high values hard edges


def fractal(
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


def widened(name: str, rng: np.random.Generator) -> Biome:
    """The recipe `name` for one `wide` scene: other materials too, any sun, any season."""
    biome, guests = RECIPES[name], GUESTS[name]
    if name == "SnowIce" and rng.random() < PLATEAU_SHARE:
        relief, sun = (
            np.exp(rng.uniform(*np.log(PLATEAU_RELIEF))),
            rng.uniform(*PLATEAU.sun_elevation),
        )
        usual = PLATEAU_K + PLATEAU_K_PER_DEGREE * sun
        return replace(
            PLATEAU,
            relief=float(relief),
            sun_elevation=(sun, sun),
            temperature=(usual - PLATEAU_SPREAD_K, usual + PLATEAU_SPREAD_K),
        )
    own = rng.choice(biome.materials, rng.integers(1, len(biome.materials) + 1), replace=False)
    materials = [
        *own,
        *rng.choice(guests, rng.choice([0, 1, 2], p=[0.4, 0.35, 0.25]), replace=False),
    ]
    if name in WINTRY and rng.random() < WINTER_SHARE and "coarse snow" not in materials:
        materials.append("coarse snow")
    if "coarse snow" in materials:
        materials = ["snowy wood" if one in WOODS else one for one in materials]
    if biome.streets and "asphalt" not in materials:
        materials.append("asphalt")
    low, high = biome.temperature
    warmth = (low + WIDE_K[0], high + WIDE_K[1])
    if COLD & set(materials):
        warmth = POLAR_K if name == "SnowIce" else COLD_K
    return replace(
        biome,
        materials=tuple(map(str, materials)),
        temperature=warmth,
        vapour=(WIDE_VAPOUR[0] * biome.vapour[0], WIDE_VAPOUR[1] * biome.vapour[1]),
        altitude=(0.0, 3.5) if name == "SnowIce" else biome.altitude,
        sun_elevation=LOW_SUN if rng.random() < LOW_SHARE else HIGH_SUN,
        relief=biome.relief * rng.uniform(0.1, 1.8),
        scale=biome.scale * rng.uniform(0.4, 2),
    )


def glittering(ground: "Ground", rng: np.random.Generator, side: int) -> "Ground":
    """`ground` with a few roofs, or other squares of `side` pixels, that reflect like mirrors."""
    number, _ = _parcels(ground.shading.shape, rng, side, rng.uniform(0, np.pi))
    factor = np.where(rng.random(65536) < rng.uniform(0, 0.05), rng.uniform(2, 6, 65536), 1)
    return replace(ground, shading=ground.shading * factor.astype(np.float32)[number])


def _material_shares(biome: Biome, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Share of each material of the biome, (k, h, w) float32, sum 1."""
    angle = rng.uniform(0, np.pi)
    score = np.stack(
        [fractal(shape, rng, biome.scale * rng.uniform(0.6, 1.6)) for _ in biome.materials]
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


def _mixed(values: Iterable[float], fractions: np.ndarray) -> np.ndarray:
    """Mean of one value per material (k,), weighted by `fractions` (k, h, w): (h, w) float32."""
    # A plain sum: the order of additions in a matrix product depends on the threads.
    return sum(np.float32(value) * share for value, share in zip(values, fractions, strict=True))


def _spectra_of(biome: Biome, rng: np.random.Generator) -> np.ndarray:
    """Reflectance of each material in B1…B7 and B9, (k, 8) float32, as it is in this scene."""
    spectra = np.array([MATERIALS[name][0] for name in biome.materials])
    # B9 (1.37 um) lies between B5 (0.86 um) and B6 (1.61 um).
    spectra = np.column_stack([spectra, spectra[:, 4:6].mean(axis=1)])
    brightness = rng.normal(1, 0.10, (len(spectra), 1)) * rng.normal(1, 0.04, spectra.shape)
    return np.clip(spectra * brightness, 0, 0.95).astype(np.float32)


@dataclass(frozen=True)
class Ground:
    """The surface of a scene."""

    fractions: np.ndarray  # (k, h, w) float32: share of each material
    spectra: np.ndarray  # (k, 8) float32: their reflectance in B1…B7 and B9
    shading: np.ndarray  # (h, w) float32: 1 on flat ground
    temperature: np.ndarray  # (h, w) float32: brightness temperature, K

    def reflectance(self, number: int) -> np.ndarray:
        """In band `number` of B1…B7 and B9: (h, w) float32."""
        return _mixed(self.spectra[:, number], self.fractions) * self.shading


def draw_ground(
    biome: Biome, shape: tuple[int, int], rng: np.random.Generator, temperature: float
) -> Ground:
    """Ground of `biome` whose mean temperature is `temperature` K."""
    fractions = _material_shares(biome, shape, rng)
    shading = 1 + np.float32(biome.relief) * fractal(shape, rng, 60, 1.6)
    spectra = _spectra_of(biome, rng)
    warmth = _mixed([MATERIALS[name][1] for name in biome.materials], fractions)
    # Slopes that face the sun are brighter and warmer.
    kelvin = np.float32(temperature) + warmth + 10 * (shading - 1)
    return Ground(fractions, spectra, shading, kelvin)
