"""What the values of training patches are, band by band, and the normalisation that follows."""

from collections.abc import Callable, Iterable

import numpy as np

from fcd.patches.normalisation import Normalization
from fcd.patches.prepared import Kind

BINS = 65536  # of the range of a float32 band


def normalization(
    kind: str, data: Kind, images: Callable[[], Iterable[np.ndarray]]
) -> Normalization:
    """`paper`, or `stretch` from the values of patches of which each call of `images` tells.

    images: gives the patches (C, H, W) one by one, the same ones at each call; it is not called
    where the range of an integer type is all that counts.
    """
    if data.dtype == "float32":
        measured = Normalization.measured(value_ranges(images(), data.nodata), data.nodata)
        if kind == "paper":
            return measured
        counts, values = binned_counts(images(), measured)
        return Normalization.stretch(counts, values, data.nodata, data.dtype)
    if kind == "paper":
        return Normalization.paper(data.num_channels, data.dtype, data.nodata)
    return Normalization.stretch(dn_counts(images()), None, data.nodata, data.dtype)


def dn_counts(images: Iterable[np.ndarray]) -> np.ndarray:
    """How often each DN of an integer type occurs per band, (C, 256 or 65536) int64."""
    counts = np.zeros((), np.int64)
    for image in images:
        size = np.iinfo(image.dtype).max + 1
        counts = counts + np.stack([np.bincount(b.ravel(), minlength=size) for b in image])
    return counts


def value_ranges(images: Iterable[np.ndarray], nodata: float | None) -> np.ndarray:
    """Least and greatest value of each band of float32 patches, (2, C); nodata left out.

    The least is infinite, the greatest -infinite, if a band is all nodata.
    """
    low, high = np.array(np.inf), np.array(-np.inf)
    for image in images:
        known = _known(image, nodata)
        low = np.minimum(low, np.where(known, image, np.inf).min(axis=(1, 2)))
        high = np.maximum(high, np.where(known, image, -np.inf).max(axis=(1, 2)))
    return np.stack([low, high])


def binned_counts(
    images: Iterable[np.ndarray], measured: Normalization
) -> tuple[np.ndarray, np.ndarray]:
    """How often values of float32 bands fall into bins of their range, and the bins' middles.

    Both (C, BINS). measured: the ranges.
    """
    edges = np.linspace(measured.low, measured.high, BINS + 1, axis=1)
    counts = np.zeros((), np.int64)
    for image in images:
        bands = zip(image, _known(image, measured.nodata), edges, strict=True)
        counts = counts + np.stack([np.histogram(b[known], e)[0] for b, known, e in bands])
    return counts, (edges[:, :-1] + edges[:, 1:]) / 2


def _known(image: np.ndarray, nodata: float | tuple[float | None, ...] | None) -> np.ndarray:
    """Where float32 pixels are finite and not `nodata`, (C, H, W) bool."""
    return np.isfinite(image) & (True if nodata is None else image != nodata)
