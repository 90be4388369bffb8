"""Cloud masks of any number of scenes, as files: what `--mode predict` does, and its Python call.

from solver import load_solver
from fcd.masks.prediction import predict_scenes

predict_scenes(["LC09_….tar"], load_solver("outputs/FCDPlus/models/best.pt").predictor(), "masks")

`predict_array` does the same to DN in memory, without any file.
"""

import csv
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Literal

import numpy as np
import rasterio
from tqdm import tqdm

import fcd
from fcd import pictures
from fcd.errors import OutputError, SceneError, UserError
from fcd.files import locked, replacing
from fcd.landsat import labels
from fcd.landsat.products import scene_from
from fcd.landsat.scenes import Scene
from fcd.masks.rasters import encoded, has_tags, mask_writer, score_writer
from fcd.masks.scoring import ArrayScene, Prediction, Scorer, Tiles, predictions
from fcd.processes import ALONE, Processes

SUMMARY = "summary.csv"
QUICKLOOK_SIZE = 1024  # longest side of each of the two pictures, pixels
GDAL_CACHE = 128 << 20  # bytes of blocks that GDAL keeps; a share of all memory unless it is told
Scores = Literal["none", "uint8", "float32"]
_COLUMNS = (
    "scene", "path", "cloud_fraction", "valid_fraction", "threshold", "seconds", "status",
)  # fmt: skip


@dataclass(frozen=True)
class Predictor:
    """A trained method with everything chosen: scorer, tiles, threshold."""

    num_channels: int
    threshold: float
    tags: dict[str, str]
    """What the masks are made with, for their metadata; other tags, another mask."""
    predict: Callable[["Scene | ArrayScene"], Iterator[Prediction]]


def predictor_of(scorer: Scorer, tiles: Tiles, threshold: float) -> Predictor:
    """What masks scenes by the score of `scorer`, cloud above `threshold`."""
    tags = {
        "FCD_VERSION": fcd.__version__,
        "FCD_EXPERIMENT": scorer.experiment,
        "FCD_SCORE": scorer.name,
        "FCD_WEIGHTS": scorer.fingerprint,
        "FCD_THRESHOLD": repr(threshold),
        # How many tiles are scored at a time does not matter.
        "FCD_TILES": f"{tiles.size} pixels, overlap {tiles.overlap}" + ", bf16" * tiles.amp,
    }
    if tiles.nodata is not None:
        tags["FCD_NODATA"] = str(tiles.nodata)
    return Predictor(
        scorer.normalization.num_channels,
        threshold,
        tags,
        lambda scene: predictions(scorer, scene, tiles, threshold),
    )


def predict_array(dn: np.ndarray, predictor: Predictor) -> tuple[np.ndarray, np.ndarray]:
    """Mask and score of DN in memory, the same as the files of `predict_scenes` hold.

    dn: (C, H, W) digital numbers in the type and order of bands of training, of Landsat uint16
    and `fcd.landsat.bands.BANDS`; nodata, in any band, is that of training, and NaN. Returns the
    mask (H, W) uint8: 0 nodata, 128 clear, 255 cloud; and the score (H, W) float32 in [0, 1], NaN
    where nodata. Raises `UserError` if the array has another shape or type.
    """
    if dn.ndim != 3 or len(dn) != predictor.num_channels or not dn.size:
        raise UserError(
            f"the array has shape {dn.shape}, the network takes ({predictor.num_channels}, H, W)"
        )
    parts = list(predictor.predict(ArrayScene(dn)))
    mask = np.concatenate([part.mask for part in parts])
    score = np.concatenate([part.score for part in parts])
    score[mask == labels.INVALID] = np.nan
    return labels.tif_from_patch(mask), score


def predict_scenes(
    paths: Sequence[str],
    predictor: Predictor,
    output_dir: Path | str,
    *,
    bands: str | None = None,
    write_score: str = "none",
    overwrite: bool = False,
    progress: bool = True,
    processes: Processes = ALONE,
) -> int:
    """Write mask, quicklook and, if asked, score of each scene; return how many failed.

    paths: scene folders, archives, MTL files or GeoTIFFs (see `fcd.landsat.products.scene_from`,
    also for `bands`). write_score: `none`, `uint8` (0 nodata, 1 to 255 for 0 to 1) or `float32`.
    Files are those of `predict_scene`; summary.csv gets a line a scene. A scene whose files are
    there already, made with the same weights and settings, is skipped unless `overwrite`. A scene
    that cannot be read is told on stderr and in summary.csv, and the others go on. progress: show a
    bar. processes: each masks its share of the scenes; what is returned counts those of all. Raises
    `UserError` if `output_dir` cannot be written to.
    """
    output_dir = Path(output_dir)
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=output_dir).close()
    except OSError as error:
        raise UserError(
            f"--output_dir {output_dir} cannot be written to: {error.strerror}"
        ) from error
    failed, skipped, claim = 0, 0, processes.claims()
    own, silent = processes.share(paths), not (progress and processes.first)
    for path in tqdm(own, "predicting", unit="scene", dynamic_ncols=True, disable=silent):
        name = ""
        try:
            scene = scene_from(path, predictor.num_channels, bands)
            if (first := claim(scene.name, path)) != path:
                raise SceneError(f"{path} has the name {scene.name}, as {first}; rename one")
            name = scene.name
            if not overwrite and _is_done(scene, predictor, output_dir, write_score):
                skipped += 1
                continue
            row = predict_scene(scene, predictor, output_dir, write_score)
        except OutputError:
            raise  # the next scene would fare no better
        except UserError as error:
            failed += 1
            tqdm.write(f"error: {error}", file=sys.stderr)
            row = {"status": f"failed: {error}"}
        _add_to_summary(output_dir / SUMMARY, {"scene": name, "path": path, **row})
    skipped, failed = processes.sum_counts(np.array([skipped, failed])).tolist()
    done = len(paths) - failed - skipped
    print(f"{done} scenes masked, {skipped} were there already, {failed} failed: {output_dir}")
    return failed


def predict_scene(
    scene: Scene, predictor: Predictor, output_dir: Path, write_score: str = "none"
) -> dict[str, str]:
    """Write the files of one scene; return its fractions, threshold, seconds and status.

    `<name>_mask.tif`: Cloud-Optimised GeoTIFF on the scene's grid, 0 nodata, 128 clear, 255
    cloud; `<name>_score.tif`: the score, on the same grid; `<name>_quicklook.png`: image, with
    clouds outlined, beside mask. A pixel that is nodata in any band is nodata in all of them.
    Files appear when they are whole, the mask last. Raises `SceneError` if the scene is
    incomplete or damaged.
    """
    began = time.monotonic()
    grid = scene.check()
    counts = np.zeros(3, np.int64)
    step = -(-max(grid.height, grid.width) // QUICKLOOK_SIZE)
    image, codes = pictures.Shrunk(step), []
    with ExitStack() as stack:
        stack.enter_context(rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE))
        # Left in the opposite order: the mask, which says that a scene is done, comes last.
        path, tags = _mask_path(output_dir, scene), predictor.tags
        mask_tif = stack.enter_context(mask_writer(path, grid, tags, cloud_optimised=True))
        score_tif = None
        if write_score != "none":
            path = output_dir / f"{scene.name}_score.tif"
            score_tif = stack.enter_context(
                score_writer(path, grid, tags, write_score, cloud_optimised=True)
            )

        def write(part: Prediction) -> None:
            window = ((part.row, part.row + len(part.mask)), (0, grid.width))
            mask_tif.write(labels.tif_from_patch(part.mask), 1, window=window)
            if score_tif and part.score is not None:
                valid = part.mask != labels.INVALID
                score_tif.write(encoded(part.score, valid, write_score), 1, window=window)

        pool = stack.enter_context(ThreadPoolExecutor(1))
        writing: Future | None = None
        for part in predictor.predict(scene):
            counts += np.bincount(part.mask.ravel(), minlength=3)
            image.add(part.rgb, part.mask != labels.INVALID)
            codes.append(part.mask[-part.row % step :: step, ::step].copy())
            # One strip is written while the next is scored, no more: memory stays bounded.
            if writing:
                writing.result()
            writing = pool.submit(write, part)
        if writing:
            writing.result()
        mask = np.concatenate(codes)
        rgb = pictures.stretch_rgb(image.result(), mask != labels.INVALID)
        picture = np.hstack([pictures.outline_cloud(rgb, mask), pictures.colour_mask(mask)])
        pictures.write_png(output_dir / f"{scene.name}_quicklook.png", picture)
    valid = counts[labels.CLEAR] + counts[labels.CLOUD]
    return {
        "cloud_fraction": f"{counts[labels.CLOUD] / valid:.4f}" if valid else "",
        "valid_fraction": f"{valid / counts.sum():.4f}",
        "threshold": f"{predictor.threshold:.4f}",
        "seconds": f"{time.monotonic() - began:.1f}",
        "status": "done" if valid else "no valid pixel",
    }


def _mask_path(output_dir: Path, scene: Scene) -> Path:
    return output_dir / f"{scene.name}_mask.tif"


def _is_done(scene: Scene, predictor: Predictor, output_dir: Path, write_score: str) -> bool:
    path = _mask_path(output_dir, scene)
    if write_score != "none":
        score = output_dir / f"{scene.name}_score.tif"
        if not has_tags(score, predictor.tags, write_score):
            return False
    return has_tags(path, predictor.tags, "uint8") and scene.name in {
        row["scene"] for row in _read_summary(output_dir / SUMMARY)
    }


def _read_summary(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def _add_to_summary(path: Path, row: dict[str, str]) -> None:
    """Put `row` into the csv in place of an earlier one of the same path or scene."""
    with locked(path.parent, wait=True):
        kept = [
            other
            for other in _read_summary(path)
            if other["path"] != row["path"] and other["scene"] != (row["scene"] or None)
        ]
        rows = sorted([*kept, row], key=lambda other: (other["scene"], other["path"]))
        with (
            replacing(path) as temporary,
            temporary.open("w", newline="", encoding="utf-8") as stream,
        ):
            writer = csv.DictWriter(stream, _COLUMNS, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
