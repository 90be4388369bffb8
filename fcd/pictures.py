"""Pictures for people: arrays in, RGB uint8 out, in colours that everyone can tell apart."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from fcd.files import replacing
from fcd.metrics import CLEAR, CLOUD, INVALID

Colour = tuple[int, int, int]

NODATA_COLOUR: Colour = (128, 128, 128)
MASK_COLOURS: dict[str, Colour] = {
    "clear": (38, 70, 110),
    "cloud": (246, 246, 246),
    "no data": NODATA_COLOUR,
}
# Vermilion and blue of Okabe and Ito's palette, which colour-blind readers can tell apart.
ERROR_COLOURS: dict[str, Colour] = {
    "cloud, found": (255, 255, 255),
    "clear, found": (218, 222, 226),
    "false alarm": (213, 94, 0),
    "miss": (0, 114, 178),
    "no data": NODATA_COLOUR,
}
# Nine evenly spaced points of viridis (CC0), which is perceptually uniform.
SCORE_COLOURS: tuple[Colour, ...] = (
    (68, 1, 84),
    (71, 44, 122),
    (59, 81, 139),
    (44, 113, 142),
    (33, 144, 141),
    (39, 173, 129),
    (92, 200, 99),
    (170, 220, 50),
    (253, 231, 37),
)


def stretch_rgb(dn: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
    """Red, green, blue (3, h, w) in DN -> natural-looking RGB (h, w, 3) uint8.

    Each band starts at its 1st percentile (which takes off the haze) and all span the same
    range (which keeps clouds white); a root lifts the land that bright clouds leave dark.
    `valid` (h, w) bool: pixels where it is False become grey.
    """
    valid = np.ones(dn.shape[1:], bool) if valid is None else valid
    if not valid.any():
        return _filled(valid.shape, NODATA_COLOUR)
    low, high = np.percentile(dn[:, valid], (1, 99), axis=1)
    known = np.where(valid, dn, low[:, None, None])
    shade = (known - low[:, None, None]) / (float((high - low).max()) or 1)
    rgb = _bytes(np.clip(shade, 0, 1) ** 0.65).transpose(1, 2, 0)
    rgb[~valid] = NODATA_COLOUR
    return rgb


def colour_score(score: np.ndarray, upper: float, valid: np.ndarray | None = None) -> np.ndarray:
    """Cloud score (h, w) -> RGB (h, w, 3) uint8: viridis from 0 to `upper`, clipped beyond.

    `valid` (h, w) bool: pixels where it is False become grey.
    """
    points = np.linspace(0, upper, len(SCORE_COLOURS))
    channels = np.transpose(SCORE_COLOURS)
    rgb = np.stack([np.rint(np.interp(score, points, channel)) for channel in channels], axis=-1)
    if valid is not None:
        rgb[~valid] = NODATA_COLOUR
    return rgb.astype(np.uint8)


def colour_mask(mask: np.ndarray) -> np.ndarray:
    """Patch codes (h, w) -> RGB (h, w, 3) uint8 in `MASK_COLOURS`."""
    colours = np.zeros((3, 3), np.uint8)
    colours[INVALID] = MASK_COLOURS["no data"]
    colours[CLEAR] = MASK_COLOURS["clear"]
    colours[CLOUD] = MASK_COLOURS["cloud"]
    return colours[mask]


def colour_errors(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Truth and prediction (h, w) in patch codes -> RGB (h, w, 3) uint8 in `ERROR_COLOURS`."""
    colours = _filled((3, 3), ERROR_COLOURS["no data"])  # [truth, prediction]
    colours[CLEAR, CLEAR] = ERROR_COLOURS["clear, found"]
    colours[CLEAR, CLOUD] = ERROR_COLOURS["false alarm"]
    colours[CLOUD, CLEAR] = ERROR_COLOURS["miss"]
    colours[CLOUD, CLOUD] = ERROR_COLOURS["cloud, found"]
    return colours[truth, prediction]


def encode_png(rgb: np.ndarray) -> bytes:
    """RGB (h, w, 3) uint8 -> the bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, format="PNG")
    return buffer.getvalue()


def write_png(path: Path | str, rgb: np.ndarray) -> None:
    """Write RGB (h, w, 3) uint8 to `path` as PNG, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(encode_png(rgb))


def _bytes(shade: np.ndarray) -> np.ndarray:
    """Shade in [0, 1] -> 0 to 255 uint8."""
    return np.rint(shade * 255).astype(np.uint8)


def _filled(shape: tuple[int, ...], colour: Colour) -> np.ndarray:
    return np.full((*shape, 3), colour, np.uint8)
