"""Pictures for people: arrays in, RGB uint8 out, in colours that everyone can tell apart.

OpenCV shrinks, colours, outlines and encodes. Its own order of colours is blue, green, red.
"""

from pathlib import Path

import cv2
import numpy as np

from fcd.files import replacing
from fcd.metrics import BUFFER, CLEAR, CLOUD, INVALID, SHADOW

Colour = tuple[int, int, int]

NODATA_COLOUR: Colour = (128, 128, 128)
MASK_COLOURS = {"clear": (38, 70, 110), "cloud": (246, 246, 246), "no data": NODATA_COLOUR}
# Of finished masks: shadow, lit by the sky alone, in blue-grey, and what is near to cloud.
FINISHED_COLOURS = {**MASK_COLOURS, "shadow": (104, 132, 168), "buffer": (196, 180, 140)}
# Vermilion and blue of Okabe and Ito's palette, which colour-blind readers can tell apart.
ERROR_COLOURS = {
    "cloud, found": (255, 255, 255),
    "clear, found": (218, 222, 226),
    "false alarm": (213, 94, 0),
    "miss": (0, 114, 178),
    "no data": NODATA_COLOUR,
}
OUTLINE_COLOUR: Colour = (255, 0, 170)  # neither cloud, snow, land nor water has it


def _bytes(shade: np.ndarray) -> np.ndarray:
    """Shade in [0, 1] -> 0 to 255 uint8."""
    return np.rint(shade * 255).astype(np.uint8)


def _viridis(shade: np.ndarray) -> np.ndarray:
    """Shade (h, w) in [0, 1] -> RGB (h, w, 3) uint8 in viridis (CC0), perceptually uniform."""
    colours = cv2.applyColorMap(_bytes(shade), cv2.COLORMAP_VIRIDIS)
    return cv2.cvtColor(colours, cv2.COLOR_BGR2RGB)


# What a legend shows of the colours of scores: nine evenly spaced points, from 0 to the greatest.
SCORE_COLOURS: tuple[Colour, ...] = tuple(
    map(tuple, _viridis(np.linspace(0, 1, 9)[None])[0].tolist())
)


class Shrunk:
    """A raster `step` times smaller: the mean of what is valid in each block of so many pixels.

    From strips, full-width rows from top to bottom, of any height. The last blocks may be cut off.
    """

    def __init__(self, step: int) -> None:
        self._step = step
        self._means: list[np.ndarray] = []
        self._begun: list[tuple[np.ndarray, np.ndarray]] = []  # rows of blocks not yet whole

    def add(self, values: np.ndarray, valid: np.ndarray) -> None:
        """Add the rows `values` (…, h, W), any number type; `valid` (h, W) bool."""
        strips = [*self._begun, (values, valid)]
        values, valid = (np.concatenate(rows, axis=-2) for rows in zip(*strips, strict=True))
        whole = len(valid) // self._step * self._step
        if whole:
            self._means.append(self._shrink(values[..., :whole, :], valid[:whole]))
        self._begun = [(values[..., whole:, :].copy(), valid[whole:].copy())]

    def result(self) -> np.ndarray:
        """The means (…, ceil(H / step), ceil(W / step)) float32; 0 where nothing is valid."""
        rest = [self._shrink(*rows) for rows in self._begun if len(rows[1])]
        return np.concatenate([*self._means, *rest], axis=-2)

    def _shrink(self, values: np.ndarray, valid: np.ndarray) -> np.ndarray:
        share = self._area(valid)
        bands = np.where(valid, values, 0).reshape(-1, *valid.shape)
        means = np.stack([self._area(band) for band in bands]) / np.where(share, share, 1)
        return means.reshape(*values.shape[:-2], *share.shape)

    def _area(self, band: np.ndarray) -> np.ndarray:
        height, width = (-(-side // self._step) for side in band.shape)
        below, right = (height * self._step - len(band), width * self._step - band.shape[1])
        band = cv2.copyMakeBorder(
            band.astype(np.float32), 0, below, 0, right, cv2.BORDER_CONSTANT, value=0
        )
        return cv2.resize(band, (width, height), interpolation=cv2.INTER_AREA)


def stretch_rgb(dn: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
    """Red, green, blue (3, h, w) in DN -> natural-looking RGB (h, w, 3) uint8.

    Each band starts at its 1st percentile (which takes off the haze) and all span the same
    range (which keeps clouds white); a root lifts the land that bright clouds leave dark.
    Where `valid` (h, w) bool is False pixels become grey.
    """
    valid = np.ones(dn.shape[1:], bool) if valid is None else valid
    if not valid.any():
        return np.full((*valid.shape, 3), NODATA_COLOUR, np.uint8)
    low, high = np.percentile(dn[:, valid], (1, 99), axis=1)
    known = np.where(valid, dn, low[:, None, None])
    shade = (known - low[:, None, None]) / (float((high - low).max()) or 1)
    rgb = _bytes(shade.clip(0, 1) ** 0.65).transpose(1, 2, 0)
    rgb[~valid] = NODATA_COLOUR
    return rgb


def colour_score(score: np.ndarray, upper: float, valid: np.ndarray | None = None) -> np.ndarray:
    """Cloud score (h, w) -> RGB (h, w, 3) uint8: viridis from 0 to `upper`, clipped beyond.

    Where `valid` (h, w) bool is False pixels become grey.
    """
    rgb = _viridis(np.clip(score / upper, 0, 1))
    if valid is not None:
        rgb[~valid] = NODATA_COLOUR
    return rgb


def colour_mask(mask: np.ndarray) -> np.ndarray:
    """Patch codes (h, w) -> RGB (h, w, 3) uint8 in `FINISHED_COLOURS`."""
    names = {
        INVALID: "no data", CLEAR: "clear", CLOUD: "cloud", SHADOW: "shadow", BUFFER: "buffer"
    }  # fmt: skip
    return np.array([FINISHED_COLOURS[names[code]] for code in range(5)], np.uint8)[mask]


def colour_errors(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Truth and prediction (h, w) in patch codes -> RGB (h, w, 3) uint8 in `ERROR_COLOURS`."""
    colours = np.full((3, 3, 3), ERROR_COLOURS["no data"], np.uint8)  # [truth, prediction]
    colours[CLEAR, CLEAR] = ERROR_COLOURS["clear, found"]
    colours[CLEAR, CLOUD] = ERROR_COLOURS["false alarm"]
    colours[CLOUD, CLEAR] = ERROR_COLOURS["miss"]
    colours[CLOUD, CLOUD] = ERROR_COLOURS["cloud, found"]
    return colours[truth, prediction]


def outline_cloud(rgb: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A copy of RGB (h, w, 3) uint8 in which the cloud of `mask` (h, w) patch codes is outlined.

    Its outermost pixels, those around holes too, but not those where it goes on beyond the picture.
    """
    cloud = cv2.copyMakeBorder((mask == CLOUD).astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    outlines, _ = cv2.findContours(cloud, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(rgb.copy(), outlines, -1, OUTLINE_COLOUR, offset=(-1, -1))


def encode_png(rgb: np.ndarray) -> bytes:
    """RGB (h, w, 3) uint8 -> the bytes of a PNG file."""
    # Masks are half as large as with the compression that OpenCV takes unless it is told.
    level = (cv2.IMWRITE_PNG_COMPRESSION, 6)
    _, content = cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), level)
    return content.tobytes()


def write_png(path: Path | str, rgb: np.ndarray) -> None:
    """Write RGB (h, w, 3) uint8 to `path` as PNG, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(encode_png(rgb))
