"""Masks and difference maps of the training scenes: their files, and small scenes together."""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from fcd.landsat import labels
from fcd.landsat.rasters import Grid
from fcd.landsat.scenes import Scene
from fcd.masks.outputs import has_tags, mask_files
from fcd.masks.predictor import predictor_of
from fcd.masks.scoring import ArrayScene, Scorer, Tiles, strips
from fcd.masks.summary import SOURCE, fingerprint
from fcd.patches import generated

# What is masked at a time, at most: small scenes, two files of each of which are open, and values.
TOGETHER = 32
VALUES = 1 << 26


def alike(scenes: Iterable[Scene], side: int) -> Iterator[list[tuple[Scene, Grid]]]:
    """`scenes` and their grids in groups that are scored together: small and alike, or one alone.

    side: up to what a scene is small, pixels. Raises `SceneError` if one is incomplete.
    """

    def described() -> Iterator[tuple[tuple[Scene, Grid], tuple[Any, ...]]]:
        for scene in scenes:
            grid = scene.check()
            with scene.open() as reader:
                form = (grid.height, grid.width, len(scene.bands), reader.dtype, reader.marked)
            yield (scene, grid), form

    for form, found in itertools.groupby(described(), lambda pair: pair[1]):
        most = 1
        if max(form[:2]) <= side:
            most = max(1, min(TOGETHER, VALUES // math.prod(form[:3])))
        while group := [member for member, _ in itertools.islice(found, most)]:
            yield group


def together(scenes: list[Scene], asked: Sequence[float] | None = None) -> Scene | ArrayScene:
    """A group of `alike` as one scene: a single one as it is, others (N, C, H, W) in memory.

    asked: see `fcd.landsat.scenes.SceneReader.bands`.
    """
    if len(scenes) == 1:
        return scenes[0]
    dn, first = [], scenes[0]
    for scene in scenes:
        with scene.open() as reader:
            dn.append(reader.bands(asked=asked))
            marked, dtype = reader.marked, reader.dtype
    return ArrayScene(np.stack(dn), first.bands, marked, first.key, values=dtype)


def generate_masks(
    scorer: Scorer,
    scenes: Sequence[Scene],
    tiles: Tiles,
    threshold: float,
    folder: Path,
    unsure: tuple[float, float] = (1.0, 1.0),
    overwrite: bool = False,
) -> None:
    """Write `<biome>_<scene>_{difference,mask}.tif` of each scene into `folder`.

    difference: the score, float32 in [0, 1], NaN nodata; mask: 0 nodata, 128 clear, 255 cloud. A
    scene whose masks are there already, of its pixels by these weights and this threshold, is
    skipped unless `overwrite`.
    unsure: pixels whose score lies between so many times the threshold are 0 in the mask, too:
    they teach nothing.
    Each process masks its share of the scenes; small ones that are alike share batches.
    """
    processes = scorer.processes
    tags = predictor_of(scorer, tiles, threshold).tags
    low, high = (times * threshold for times in unsure)
    if low < high:
        tags["FCD_UNSURE"] = f"scores from {low!r} to {high!r}"
    own, silent = processes.share(scenes), not processes.first
    bar = tqdm(own, "generating masks", unit="scene", dynamic_ncols=True, disable=silent)

    def made(scene: Scene) -> dict[str, str]:
        return tags | {SOURCE: fingerprint(scene)}

    def is_there(scene: Scene) -> bool:
        path = generated.mask_tif(folder, scene)
        return path.exists() and has_tags(path, made(scene))

    todo = (scene for scene in bar if overwrite or not is_there(scene))
    # Scenes under suns of their own are read one by one.
    side = 0 if scorer.normalization.needs_sun else tiles.size
    for group in alike(todo, side):
        with ExitStack() as stack:
            writers = [
                stack.enter_context(
                    mask_files(
                        generated.mask_tif(folder, scene),
                        folder / f"{scene.key}_difference.tif",
                        grid,
                        made(scene),
                        "float32",
                    )
                )
                for scene, grid in group
            ]
            joined = together([scene for scene, _ in group], tiles.nodata)
            for strip in strips(scorer, joined, tiles):
                scores = strip.score.reshape(len(group), -1, strip.score.shape[-1])
                valid = strip.valid.reshape(scores.shape)
                masks = labels.patch_from_score(scores, valid, threshold)
                left_open = (low < scores) & (scores < high)
                for write, *parts in zip(writers, masks, scores, left_open, strict=True):
                    write(strip.row, *parts)
    processes.wait()
