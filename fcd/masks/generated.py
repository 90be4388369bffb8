"""Masks and difference maps of the training scenes: their files, and small scenes together."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from rasterio.io import DatasetWriter
from tqdm import tqdm

from fcd.landsat import labels
from fcd.landsat.rasters import Grid
from fcd.landsat.scenes import Scene
from fcd.masks.prediction import predictor_of
from fcd.masks.rasters import encoded, has_tags, mask_writer, score_writer
from fcd.masks.scoring import ArrayScene, Scorer, Tiles, strips
from fcd.patches import generated

# What is masked at a time, at most: small scenes, two files of each of which are open, and values.
TOGETHER = 32
VALUES = 1 << 26


def alike(scenes: Iterable[Scene], side: int) -> Iterator[list[tuple[Scene, Grid]]]:
    """`scenes` and their grids in groups that are scored together: small and alike, or one alone.

    side: up to what a scene is small, pixels. Raises `SceneError` if one is incomplete.
    """
    group: list[tuple[Scene, Grid]] = []
    kind = None
    for scene in scenes:
        grid = scene.check()
        with scene.open() as reader:
            now = (grid.height, grid.width, len(scene.bands), reader.dtype, reader.nodata)
        full = len(group) == TOGETHER or (len(group) + 1) * math.prod(now[:3]) > VALUES
        if group and (full or now != kind or max(now[:2]) > side):
            yield group
            group = []
        group.append((scene, grid))
        kind = now
    if group:
        yield group


def together(scenes: list[Scene]) -> Scene | ArrayScene:
    """A group of `alike` as one scene: a single one as it is, others (N, C, H, W) in memory."""
    if len(scenes) == 1:
        return scenes[0]
    dn = []
    for scene in scenes:
        with scene.open() as reader:
            dn.append(reader.bands())
            nodata = reader.nodata
    return ArrayScene(np.stack(dn), nodata, scenes[0].key)


@contextmanager
def mask_tifs(
    folder: Path, scene: Scene, grid: Grid, tags: dict[str, str]
) -> Iterator[tuple[DatasetWriter, DatasetWriter]]:
    """What writes the mask and the difference map of a scene, renamed into place when whole."""
    difference = folder / f"{scene.key}_difference.tif"
    # The mask is renamed into place last: where it is, the difference map is too.
    with (
        mask_writer(generated.mask_tif(folder, scene), grid, tags) as mask_tif,
        score_writer(difference, grid, tags, "float32") as difference_tif,
    ):
        yield mask_tif, difference_tif


def generate_masks(
    scorer: Scorer, scenes: Sequence[Scene], tiles: Tiles, threshold: float, folder: Path
) -> None:
    """Write `<biome>_<scene>_{difference,mask}.tif` of each scene into `folder`.

    difference: the score, float32 in [0, 1], NaN nodata; mask: 0 nodata, 128 clear, 255 cloud. A
    scene whose masks are there already, from these weights and this threshold, is skipped.
    Each process masks its share of the scenes; small ones that are alike share batches.
    """
    processes = scorer.processes
    tags = predictor_of(scorer, tiles, threshold).tags
    bar = tqdm(
        processes.share(scenes),
        "generating masks",
        unit="scene",
        dynamic_ncols=True,
        disable=not processes.first,
    )
    todo = (scene for scene in bar if not has_tags(generated.mask_tif(folder, scene), tags))
    for group in alike(todo, tiles.size):
        with ExitStack() as stack:
            tifs = [stack.enter_context(mask_tifs(folder, *pair, tags)) for pair in group]
            for strip in strips(scorer, together([scene for scene, _ in group]), tiles):
                width = strip.score.shape[-1]
                scores = strip.score.reshape(len(group), -1, width)
                valid = strip.valid.reshape(scores.shape)
                masks = labels.patch_from_score(scores, valid, threshold)
                window = ((strip.row, strip.row + len(scores[0])), (0, width))
                differences = encoded(scores, valid, "float32")
                for (mask_tif, difference_tif), mask, difference in zip(
                    tifs, masks, differences, strict=True
                ):
                    mask_tif.write(labels.tif_from_patch(mask), 1, window=window)
                    difference_tif.write(difference, 1, window=window)
    processes.wait()
