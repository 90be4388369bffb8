"""Random suns, air, sensors and thin veils over Landsat-8 patches, in the units of their DN.

A network that learns from few scenes, or from drawn ones, learns their light by heart. Here each
patch gets another one. DN of reflective bands are 5000 + reflectance x sin(sun elevation) / 2e-5
(USGS Landsat 8 Data Users Handbook, section 5), so light is what lies above `DARK_DN`.
Imported where it is used: the library takes seconds (see `augmentation`).
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from albumentations import ImageOnlyTransform

from fcd.landsat.bands import FILL_DN, SUN, THERMAL
from fcd.landsat.radiometry import DN_MAX, REFLECTANCE_ADD, REFLECTANCE_MULT, UNKNOWN_SUN

DARK_DN = round(-REFLECTANCE_ADD / REFLECTANCE_MULT)  # 5000: of reflectance 0
# Centres in um of the bands that see haze; B9 lies where water vapour hides the lower air.
WAVELENGTH = {
    "B1": 0.443, "B2": 0.482, "B3": 0.561, "B4": 0.655, "B5": 0.865, "B6": 1.609, "B7": 2.201
}  # fmt: skip

# How likely each change is, so that a batch holds patches with few of them, and some as they were.
P_ANY = 0.5
P_CONTRAST, P_HAZE, P_BLUR, P_NOISE = 0.3, 0.5, 0.25, 0.5
P_ILLUMINATION, P_SPECTRAL, P_THERMAL = 0.8, 0.7, 0.7
# A veil over the whole patch leaves this share of its contrast; the manual masks of L8 Biome call
# cloud what is as thin as the least.
CONTRAST = (0.3, 1.0)
# Scattered light in B2, DN under an overhead sun: from mountain air, with 0.012 less than that of
# the sea, to an aerosol optical depth of about 0.6, with 0.06 more. It falls as wavelength to the
# -1 (dust and smoke) to -4 (molecules).
HAZE_DN, HAZE_EXPONENT = (-600.0, 3000.0), (1.0, 4.0)
# Logarithmically uniform: drawn and most real scenes have suns of 30 to 68 degrees, the least
# leaves 10 degrees of 30; the most is midsummer for autumn.
ILLUMINATION = (0.35, 1.6)
# Of each band by itself, 0.002 of reflectance: little, because what parts snow and bright sand from
# cloud are ratios of bands.
GAIN, OFFSET_DN = (0.95, 1.05), 100.0
# About 8 K at 290 K, and more in the cold.
THERMAL_DN = 1000.0
# Standard deviations: pixels, up to a TIRS pixel of 100 m; DN, logarithmically uniform, about the
# noise of OLI over dark water and that over a grainy ground.
BLUR, NOISE_DN = (0.3, 1.5), (5.0, 100.0)
# A network that knows the sun is to learn what light and warmth go with it, and to do without: some
# patches do not say.
P_UNKNOWN_SUN = 0.5
KNOWN_CONTRAST, KNOWN_ILLUMINATION, KNOWN_THERMAL_DN = (0.75, 1.0), (0.75, 1.3), 400.0


@dataclass(frozen=True)
class Change:
    """What happens to a patch, in this order; by default nothing."""

    contrast: float = 1.0  # of all bands, about their means over the patch
    haze: np.ndarray | float = 0.0  # DN under an overhead sun, (C,)
    illumination: float = 1.0  # factor of the light
    gain: np.ndarray | float = 1.0  # factor of the light, (C,)
    offset: np.ndarray | float = 0.0  # DN, (C,)
    thermal: float = 0.0  # DN, the same in B10 and B11
    blur: float = 0.0  # standard deviation, pixels
    noise: float = 0.0  # standard deviation, DN
    sun: bool = True  # whether it is known, if it is a band

    def of(self, dn: np.ndarray, bands: tuple[str, ...], rng: np.random.Generator) -> np.ndarray:
        """The changed `dn` (h, w, C) uint16; fill stays fill, and what is valid stays valid."""
        valid = dn != FILL_DN
        reflective = np.array([band not in THERMAL for band in bands])
        x = dn.astype(np.float32)
        if self.contrast != 1:
            count = np.count_nonzero(valid, axis=(0, 1)).clip(1).astype(np.float32)
            mean = x.sum(axis=(0, 1)) / count  # fill is 0
            x = mean + np.float32(self.contrast) * (x - mean)
        light = np.where(reflective, self.illumination * np.asarray(self.gain), 1)
        # (x - dark + haze) * light + dark + offset, in one pass.
        shift = np.where(
            reflective, (self.haze - DARK_DN) * light + DARK_DN + self.offset, self.thermal
        )
        x = x * light.astype(np.float32) + shift.astype(np.float32)
        if self.blur:
            x = _blurred(x, valid, self.blur)
        if self.noise:
            x += np.float32(self.noise) * rng.standard_normal(x.shape, np.float32)
        if SUN in bands:
            place = bands.index(SUN)
            x[:, :, place] = dn[:, :, place] if self.sun else UNKNOWN_SUN
        return np.where(valid, np.rint(x).clip(FILL_DN + 1, DN_MAX), FILL_DN).astype(np.uint16)


def _blurred(x: np.ndarray, valid: np.ndarray, deviation: float) -> np.ndarray:
    """`x` (h, w, C) under a Gaussian window, in which fill has no weight."""

    def smooth(image: np.ndarray) -> np.ndarray:
        done = cv2.GaussianBlur(image, (0, 0), deviation, borderType=cv2.BORDER_REFLECT_101)
        return done.reshape(image.shape)  # one band loses its axis

    if valid.all():
        return smooth(x)
    weight = smooth(valid.astype(np.float32))
    return smooth(np.where(valid, x, 0)) / np.maximum(weight, np.float32(1e-6))


def draw_change(bands: tuple[str, ...], rng: np.random.Generator) -> Change:
    """A change of a patch that holds `bands`, each part of it by its own chance."""

    def maybe(chance: float, value: Any, otherwise: float) -> Any:
        return value if rng.random() < chance else otherwise

    exponent = rng.uniform(*HAZE_EXPONENT)
    blue = WAVELENGTH["B2"]
    color = np.array([(blue / WAVELENGTH[b]) ** exponent if b in WAVELENGTH else 0 for b in bands])
    spectral = rng.random() < P_SPECTRAL
    contrast, illumination, thermal = CONTRAST, ILLUMINATION, THERMAL_DN
    if SUN in bands:
        contrast, illumination, thermal = KNOWN_CONTRAST, KNOWN_ILLUMINATION, KNOWN_THERMAL_DN
    return Change(
        contrast=maybe(P_CONTRAST, rng.uniform(*contrast), 1),
        haze=maybe(P_HAZE, rng.uniform(*HAZE_DN) * color, 0),
        illumination=maybe(P_ILLUMINATION, _log_uniform(rng, illumination), 1),
        gain=rng.uniform(*GAIN, len(bands)) if spectral else 1.0,
        offset=rng.uniform(-OFFSET_DN, OFFSET_DN, len(bands)) if spectral else 0.0,
        thermal=maybe(P_THERMAL, rng.uniform(-thermal, thermal), 0),
        blur=maybe(P_BLUR, rng.uniform(*BLUR), 0),
        noise=maybe(P_NOISE, _log_uniform(rng, NOISE_DN), 0),
        sun=not (SUN in bands and rng.random() < P_UNKNOWN_SUN),
    )


def _log_uniform(rng: np.random.Generator, bounds: tuple[float, float]) -> float:
    return float(np.exp(rng.uniform(*np.log(bounds))))


class Randomise(ImageOnlyTransform):
    """A `Change` of each patch (h, w, C) uint16 of `bands`, with probability `p`."""

    def __init__(self, bands: tuple[str, ...], p: float = P_ANY) -> None:
        super().__init__(p=p)
        self.bands = bands

    def get_params(self) -> dict[str, Change]:
        """The change of the next patch."""
        return {"change": draw_change(self.bands, self.random_generator)}

    def apply(self, img: np.ndarray, change: Change, **_: Any) -> np.ndarray:
        """The changed patch."""
        return change.of(img, self.bands, self.random_generator)
