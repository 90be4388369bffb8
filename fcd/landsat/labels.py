"""The only home of mask codes.

Four codings of the same thing meet in this project:

========== ======= ============ ============== =======================================
coding     nodata  clear        cloud          where
========== ======= ============ ============== =======================================
truth      0       64, 128      192, 255       ``<scene>_fixedmask.img`` of L8 Biome
patch      0       1            2              ``mask.tif``, ``generated_mask.tif``
tif        0       128          255            ``<biome>_<scene>_mask.tif``, predictions [1]_
target     -1      0            1              the loss (`IGNORE_INDEX` is left out)
========== ======= ============ ============== =======================================

.. [1] Of predictions also 64 shadow and 254 the buffer around clouds, patch codes 3 and 4.

Truth: L8 Cloud Cover Assessment Validation Data, doi 10.5066/F7251GDH. Tif codes are some of it.
SPARCS masks hold classes, none of them fill: 0 shadow, 1 shadow over water, 2 water, 3 snow, 4
land, 5 cloud, 6 flooded (doi 10.5066/F7FB5146).
"""

from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
import torch

from fcd.errors import SceneError, UserError
from fcd.metrics import BUFFER, CLEAR, CLOUD, INVALID, SHADOW

TRUTH_FILL, TRUTH_SHADOW, TRUTH_CLEAR, TRUTH_THIN_CLOUD, TRUTH_CLOUD = 0, 64, 128, 192, 255
TIF_NODATA, TIF_SHADOW, TIF_CLEAR, TIF_BUFFER, TIF_CLOUD = 0, 64, 128, 254, 255
IGNORE_INDEX = -1

# Image-level labels: the label of a patch is also the domain code the generator is given.
LABEL_CLEAR, LABEL_CLOUDY = 0, 1
CLASS_FOLDERS = ("clear", "cloudy")  # index = image-level label

_PATCH_FROM_TRUTH = {
    TRUTH_FILL: INVALID,
    TRUTH_SHADOW: CLEAR,
    TRUTH_CLEAR: CLEAR,
    TRUTH_THIN_CLOUD: CLOUD,
    TRUTH_CLOUD: CLOUD,
}
_PATCH_FROM_SPARCS = {code: CLOUD if code == 5 else CLEAR for code in range(7)}
_PATCH_FROM_TIF = {TIF_NODATA: INVALID, TIF_CLEAR: CLEAR, TIF_CLOUD: CLOUD}
MEANINGS = {"nodata": INVALID, "clear": CLEAR, "cloud": CLOUD}  # of codes that a user names


def _recode(table: dict[int, int], codes: np.ndarray, source: str) -> np.ndarray:
    if codes.dtype != np.uint8:
        raise SceneError(f"{source} holds {codes.dtype}, masks hold uint8")
    lookup = np.full(256, 255, np.uint8)
    lookup[list(table)] = list(table.values())
    recoded = lookup[codes]
    unknown = np.unique(codes[recoded == 255])
    if unknown.size:
        raise SceneError(
            f"{source}: code {', '.join(map(str, unknown))} is none of {sorted(table)}; is this a "
            "mask of another kind? That of truth may be read by --mask_codes, such as "
            "0=clear,1=cloud"
        )
    return recoded


def truth_decoder(asked: str | None) -> Callable[[np.ndarray, str], np.ndarray]:
    """What takes codes of a truth mask, and its source, to patch codes, as `patch_from_truth`.

    asked: what the codes mean, such as ``0=clear,255=cloud``; None: those of L8 Biome. Raises
    `UserError` if it says nothing, or not of both clear and cloud.
    """
    if asked is None:
        return patch_from_truth
    table: dict[int, int] = {}
    for part in asked.split(","):
        code, _, meaning = (text.strip() for text in part.partition("="))
        if not code.isdecimal() or int(code) > 255 or meaning not in MEANINGS:
            raise UserError(
                f"--mask_codes {asked}: {part!r} is no code from 0 to 255 and its meaning "
                f"({', '.join(MEANINGS)}), such as 0=clear"
            )
        if table.setdefault(int(code), MEANINGS[meaning]) != MEANINGS[meaning]:
            raise UserError(f"--mask_codes {asked}: {code} has two meanings; give one")
    if not {CLEAR, CLOUD} <= {*table.values()}:
        raise UserError(
            f"--mask_codes {asked}: a code for clear and one for cloud are needed, such as "
            "0=clear,255=cloud"
        )
    return partial(_recode, table)


def require_clear(masks: Iterable[np.ndarray], told: str) -> None:
    """Raise `UserError`, which begins with `told`, if no pixel of the masks is clear.

    masks: in patch codes; read up to the first that has a clear pixel.
    """
    counts = np.zeros(len(MEANINGS), np.int64)
    for mask in masks:
        counts += np.bincount(mask.ravel(), minlength=len(counts))
        if counts[CLEAR]:
            return
    if counts[CLOUD]:
        raise UserError(
            f"{told}: no pixel of their masks is clear; a mask holds {TRUTH_FILL} for nodata, "
            f"{TRUTH_SHADOW} or {TRUTH_CLEAR} for clear, {TRUTH_THIN_CLOUD} or {TRUTH_CLOUD} for "
            "cloud. If 0 means clear in these, add --mask_codes 0=clear,255=cloud, or convert them"
        )


# Each takes and returns (h, w) uint8. `SceneError` names `source` and the codes that are unknown.


def patch_from_truth(truth: np.ndarray, source: str = "truth mask") -> np.ndarray:
    """Truth codes -> patch codes."""
    return _recode(_PATCH_FROM_TRUTH, truth, source)


def patch_from_sparcs(classes: np.ndarray, source: str = "SPARCS mask") -> np.ndarray:
    """SPARCS classes -> patch codes."""
    return _recode(_PATCH_FROM_SPARCS, classes, source)


def patch_from_tif(mask: np.ndarray, source: str = "mask tif") -> np.ndarray:
    """Tif codes -> patch codes."""
    return _recode(_PATCH_FROM_TIF, mask, source)


def tif_from_patch(mask: np.ndarray) -> np.ndarray:
    """Patch codes -> tif codes; of finished masks also those of shadow and buffer."""
    codes = {
        INVALID: TIF_NODATA, CLEAR: TIF_CLEAR, CLOUD: TIF_CLOUD, SHADOW: TIF_SHADOW,
        BUFFER: TIF_BUFFER,
    }  # fmt: skip
    return np.array([codes[code] for code in range(len(codes))], np.uint8)[mask]


def patch_from_score(score: np.ndarray, valid: np.ndarray, threshold: float) -> np.ndarray:
    """Patch codes (…, h, w) uint8 of a score (…, h, w) in [0, 1] and `valid` (…, h, w) bool.

    Cloud where `score` exceeds `threshold`.
    """
    return np.where(valid, np.where(score > threshold, CLOUD, CLEAR), INVALID).astype(np.uint8)


def target_from_patch(mask: torch.Tensor) -> torch.Tensor:
    """Patch codes (N, h, w) -> loss targets (N, h, w) int64: 0 clear, 1 cloud, -1 left out."""
    return mask.long() - 1


def cloud_share(mask: np.ndarray) -> float:
    """Share of cloud among the valid pixels of a patch-coded mask; 0 if none is valid."""
    valid = np.count_nonzero(mask)
    return float(np.count_nonzero(mask == CLOUD) / valid) if valid else 0.0
