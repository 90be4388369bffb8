"""Score a raster of any size with any ``score(x)``, strip by strip, in bounded memory."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from fcd.patches.normalisation import Normalization, to_device

Score = Callable[[torch.Tensor], torch.Tensor]
"""(N, C, h, w) float32 in [-1, 1] -> (N, h, w) cloud score in [0, 1]."""


@dataclass(frozen=True)
class Strip:
    """Finished rows of a scored raster; h rows by the full width W. Of N rasters (N, …)."""

    row: int  # the first one in the raster
    dn: np.ndarray  # (C, h, W) digital numbers as read
    score: np.ndarray  # (h, W) float32 in [0, 1]; 0 where not valid
    valid: np.ndarray  # (h, W) bool: no band holds the nodata value, NaN or infinity


def score_strips(
    read: Callable[[int, int], np.ndarray],
    height: int,
    width: int,
    score: Score,
    normalization: Normalization,
    device: torch.device,
    *,
    tile: int,
    overlap: int,
    batch_size: int,
) -> Iterator[Strip]:
    """Score a raster and yield its rows from top to bottom.

    `read(start, stop)` returns the rows as (C, stop - start, width) DN, or as (N, C, …) those of N
    rasters, whose tiles then share batches: of small ones that is faster. Square tiles of `tile`
    pixels overlap by `overlap`; their scores are blended with weights that rise linearly over the
    overlap and add up to one: each tile is normalised by its own statistics (instance norm) and
    would otherwise end in a seam. The raster is padded by reflection, so that the networks' zero
    padding never touches a pixel that counts. Tiles without a valid pixel are not scored.
    """
    if not 0 <= overlap <= tile // 2:
        raise ValueError(f"overlap must be 0 to half the tile ({tile // 2}), not {overlap}")
    stride, weight = tile - overlap, _weight(tile, overlap)
    tile_columns = range(0, width + overlap, stride)
    total: np.ndarray | None = None
    columns = _reflected(range(-overlap, tile_columns[-1] + tile - overlap), width)
    tops = range(-overlap, height, stride)

    def rows_of(top: int) -> _Rows:
        lines = _reflected(range(top, top + tile), height)
        return _rows(read, lines, columns, normalization, device)

    for top, (first, dn, valid, x) in zip(tops, _ahead(rows_of, tops), strict=True):
        total = np.zeros(valid.shape, np.float32) if total is None else total
        wanted = [
            (raster, slice(left, left + tile))
            for raster in np.ndindex(valid.shape[:-2])  # () alone if there is one
            for left in tile_columns
            if valid[raster][:, left : left + tile].any()
        ]
        for start in range(0, len(wanted), batch_size):
            tiles = wanted[start : start + batch_size]
            batch = torch.stack([x[raster][:, :, place] for raster, place in tiles])
            scores = score(batch).float().cpu().numpy()
            for (raster, place), values in zip(tiles, scores, strict=True):
                total[raster][:, place] += values * weight
        # The first `stride` rows of the buffer get nothing more from tiles further down.
        begin, end = max(top, 0), min(top + stride, height)
        if end > begin:
            inside = slice(overlap, overlap + width)
            done = valid[..., begin - top : end - top, inside]
            yield Strip(
                row=begin,
                dn=dn[..., begin - first : end - first, :],
                score=np.clip(total[..., begin - top : end - top, inside], 0, 1) * done,
                valid=done,
            )
        total[..., :overlap, :] = total[..., stride:, :]
        total[..., overlap:, :] = 0


def _weight(tile: int, overlap: int) -> np.ndarray:
    """Of the pixels of a tile, (tile, tile) float32: rises linearly over the overlap."""
    ramp = np.minimum((np.arange(tile) + 0.5) / max(overlap, 0.5), 1)
    profile = np.minimum(ramp, ramp[::-1]).astype(np.float32)
    return np.outer(profile, profile)


class _Rows(NamedTuple):
    """The rows of the raster that tiles side by side take."""

    first: int  # of the raster's rows that are read
    dn: np.ndarray  # (…, C, h, W) these
    valid: np.ndarray  # (…, tile, w) of the padded raster, w columns
    x: torch.Tensor  # (…, C, tile, w) float32 in [-1, 1], on the device


def _rows(
    read: Callable[[int, int], np.ndarray],
    lines: np.ndarray,
    columns: np.ndarray,
    normalization: Normalization,
    device: torch.device,
) -> _Rows:
    """Read what `lines` and `columns` of the padded raster are; a pixel is normalised once here."""
    first = lines.min()
    dn = read(first, lines.max() + 1)
    padded = dn.take(lines - first, axis=-2).take(columns, axis=-1)
    images = to_device(torch.from_numpy(padded.reshape(-1, *padded.shape[-3:])), device)
    x = normalization.normalize(images).reshape(padded.shape)
    return _Rows(first, dn, normalization.is_valid(padded), x)


def _ahead(rows_of: Callable[[int], _Rows], tops: range) -> Iterator[_Rows]:
    """`rows_of` each of `tops`; the next ones are made ready, in a thread, meanwhile."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(rows_of, tops[0])
        for after in tops[1:]:
            present, coming = coming.result(), pool.submit(rows_of, after)
            yield present
        yield coming.result()


def _reflected(positions: range, size: int) -> np.ndarray:
    """Indices into a line of `size` pixels continued by reflection at both ends."""
    index = np.abs(np.asarray(positions)) % max(2 * (size - 1), 1)
    return np.where(index < size, index, 2 * (size - 1) - index)
