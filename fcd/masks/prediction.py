"""Cloud masks of any number of scenes, as files: what `--mode predict` does, and its Python call.

from solver import load_solver
from fcd.masks.prediction import predict_scenes

predict_scenes(["LC09_….tar"], load_solver("outputs/FCDPlus/models/best.pt").predictor(), "masks")

`predict_array` does the same to DN in memory, without any file.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from math import nan
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Literal

import numpy as np
import rasterio
from rasterio.errors import RasterioIOError
from tqdm import tqdm

import fcd
from fcd import pictures
from fcd.errors import MissingBand, OutputError, UserError
from fcd.landsat import labels
from fcd.landsat.bands import positions
from fcd.landsat.products import scene_from
from fcd.landsat.rasters import SAME_PIXELS, WRITTEN_BY, Grid, opened, raster_writer
from fcd.landsat.scenes import Scene
from fcd.masks.scoring import ArrayScene, Prediction, Scorer, Tiles, predictions
from fcd.masks.summary import add_row, named, rows_of
from fcd.patches.normalisation import as_nodata, in_words
from fcd.processes import ALONE, Processes

QUICKLOOK_SIZE = 1024  # longest side of each of the two pictures, pixels
GDAL_CACHE = 128 << 20  # bytes of blocks that GDAL keeps; a share of all memory unless it is told
COLOURS = {
    labels.TIF_NODATA: (0, 0, 0, 0),  # transparent
    labels.TIF_CLEAR: (*pictures.MASK_COLOURS["clear"], 255),
    labels.TIF_CLOUD: (*pictures.MASK_COLOURS["cloud"], 255),
}
Scores = Literal["none", "uint8", "float32"]
"""How the score is written beside the mask: not at all; 0 nodata, 1 to 255 for 0 to 1; NaN nodata,
0 to 1."""
_COLUMNS = (
    "scene", "path", "cloud_fraction", "valid_fraction", "pixel_size", "threshold", "weights",
    "seconds", "status", "reason",
)  # fmt: skip


@dataclass(frozen=True)
class Predictor:
    """A trained method with everything chosen: scorer, tiles, threshold."""

    bands: tuple[str, ...]
    threshold: float
    tags: dict[str, str]  # what the masks are made with, for their metadata
    predict: Callable[[Scene | ArrayScene], Iterator[Prediction]]
    weights: str = ""  # the file they are from
    dtype: str = "uint16"  # of the DN
    pixel_size: float | None = None  # of training, metres; None: unknown


def predictor_of(scorer: Scorer, tiles: Tiles, threshold: float) -> Predictor:
    """What masks scenes by the score of `scorer`, cloud above `threshold`."""
    tags = {
        WRITTEN_BY: fcd.__version__,
        "FCD_EXPERIMENT": scorer.experiment,
        "FCD_SCORE": scorer.name,
        "FCD_WEIGHTS": scorer.fingerprint,
        "FCD_BANDS": ",".join(scorer.normalization.bands),
        "FCD_THRESHOLD": repr(threshold),
        # How many tiles are scored at a time does not matter.
        "FCD_TILES": f"{tiles.size} pixels, overlap {tiles.overlap}" + ", bf16" * tiles.amp,
    }
    if tiles.nodata is not None:
        tags["FCD_NODATA"] = in_words(as_nodata(tiles.nodata))
    if tiles.sun_elevation is not None and scorer.normalization.is_toa:
        tags["FCD_SUN_ELEVATION"] = str(tiles.sun_elevation)
    return Predictor(
        scorer.normalization.bands,
        threshold,
        tags,
        lambda scene: predictions(scorer, scene, tiles, threshold),
        scorer.checkpoint.name,
        scorer.normalization.dtype,
        scorer.normalization.pixel_size,
    )


def predict_array(
    dn: np.ndarray,
    predictor: Predictor,
    bands: Sequence[str] | None = None,
    sun_elevation: float | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Mask and score of DN in memory, the same as the files of `predict_scenes` hold.

    dn: (C, H, W) digital numbers in the type of training, of Landsat uint16, or whole numbers in
    floating point; nodata, in any band, is what a masked array masks, NaN, and that of training.
    bands: the names of its bands, such as ``("B2", "B3", …)``, of
    which the network takes its own, `predictor.bands`; None: it holds just these in their order.
    sun_elevation: in degrees, which a network that takes reflectance (--normalize toa) needs.
    Returns the mask (H, W) uint8: 0 nodata, 128 clear, 255 cloud; and the score (H, W) float32 in
    [0, 1], NaN where nodata. Raises `UserError` if the array has another shape or type, or lacks a
    band or its sun.
    """
    count = len(predictor.bands if bands is None else bands)
    if dn.ndim != 3 or len(dn) != count or not dn.size:
        raise UserError(
            f"the array has shape {dn.shape}, "
            + f"the network takes ({count}, H, W)" * (bands is None)
            + f"there are names for ({count}, H, W)" * (bands is not None)
        )
    if bands is not None:
        dn = dn[positions(predictor.bands, bands, "the array")]
    scene = ArrayScene(_typed(dn, predictor.dtype), predictor.bands, sun_elevation=sun_elevation)
    parts = list(predictor.predict(scene))
    mask = np.concatenate([part.mask for part in parts])
    score = np.concatenate([part.score for part in parts])
    score[mask == labels.INVALID] = np.nan
    return labels.tif_from_patch(mask), score


def _typed(dn: np.ndarray, dtype: str) -> np.ndarray:
    """`dn` as `dtype`, masked where not finite, if it holds whole numbers of it in floats.

    So other programs return integers with gaps. Anything else is returned as it is.
    """
    if dn.dtype.kind != "f" or dn.dtype.name == dtype:
        return dn
    there = np.isfinite(np.ma.getdata(dn)) & ~np.ma.getmaskarray(dn)
    values = np.where(there, np.ma.getdata(dn), 0)
    limits: Any = np.finfo(dtype) if dtype == "float32" else np.iinfo(dtype)
    if not limits.min <= values.min() <= values.max() <= limits.max:
        return dn
    typed = values.astype(dtype)
    same = dtype == "float32" or (typed == values).all()
    return np.ma.array(typed, mask=~there) if same else dn


def predict_scenes(
    paths: Sequence[str],
    predictor: Predictor | Sequence[Predictor],
    output_dir: Path | str,
    *,
    bands: str | None = None,
    write_score: Scores = "none",
    overwrite: bool = False,
    allow_pixel_size: bool = False,
    progress: bool = True,
    processes: Processes = ALONE,
) -> int:
    """Write mask, quicklook and, if asked, score of each scene; return how many failed.

    paths: scene folders, archives, MTL files or GeoTIFFs, of one scene each
    (`fcd.landsat.products.expand` lists those of a folder; `scene_from` there says how they and
    `bands` are read). predictor: of several each scene takes the one with the most bands whose
    bands it has. Files are those of `predict_scene`; summary.csv gets a line a scene. A scene whose
    files are there already, made with the same weights and settings, is skipped unless `overwrite`.
    A scene that cannot be read is told on stderr and in summary.csv; so is one whose pixels are of
    another size than those of training, unless `allow_pixel_size`. progress: show a bar.
    processes: each masks its share of the scenes; what is returned counts those of all. Raises
    `UserError` if `output_dir` cannot be written to.
    """
    output_dir = _made_writable(Path(output_dir))
    failed, skipped, claim = 0, 0, processes.claims()

    def mask(row: dict[str, str], predictor: Predictor) -> bool:
        """Mask the scene of `row` and fill it in; whether that was done before."""
        read = partial(scene_from, needed=predictor.bands, bands=bands)
        scene = named(read(row["path"]), row["path"], output_dir, claim, read)
        if scene is None:
            return True
        row["scene"] = scene.name
        done = not overwrite and _is_done(scene.name, predictor.tags, output_dir, write_score)
        how = (output_dir, write_score, allow_pixel_size)
        row.update({} if done else predict_scene(scene, predictor, *how))
        return done

    own, silent = processes.share(paths), not (progress and processes.first)
    for path in tqdm(own, "predicting", unit="scene", dynamic_ncols=True, disable=silent):
        row = {"scene": "", "path": path}
        try:
            if _with_first_fitting(predictor, partial(mask, row)):
                skipped += 1
                continue
        except OutputError:
            raise  # the next scene would fare no better
        except UserError as error:
            failed += 1
            tqdm.write(f"error: {error}", file=sys.stderr)
            row |= {"status": "failed", "reason": str(error)}
        add_row(output_dir, row, _COLUMNS)
    skipped, failed = processes.sum_counts(np.array([skipped, failed])).tolist()
    done = len(paths) - failed - skipped
    print(f"{done} scenes masked, {skipped} were there already, {failed} failed: {output_dir}")
    return failed


def _made_writable(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(f"--output_dir {folder} cannot be written to: {error.strerror}") from error
    return folder


def _with_first_fitting(
    predictor: Predictor | Sequence[Predictor], attempt: Callable[[Predictor], bool]
) -> bool:
    """What `attempt` returns for that with the most bands of which the scene lacks none."""
    several = [predictor] if isinstance(predictor, Predictor) else predictor
    *others, last = sorted(several, key=lambda one: -len(one.bands))
    for one in others:
        with suppress(MissingBand):
            return attempt(one)
    return attempt(last)


def predict_scene(
    scene: Scene,
    predictor: Predictor,
    output_dir: Path,
    write_score: Scores = "none",
    allow_pixel_size: bool = False,
) -> dict[str, str]:
    """Write the files of one scene; return its fractions, threshold, weights, seconds and status.

    `<name>_mask.tif`: Cloud-Optimised GeoTIFF on the scene's grid, 0 nodata, 128 clear, 255
    cloud; `<name>_score.tif`: the score, on the same grid; `<name>_quicklook.png`: image, with
    clouds outlined, beside mask. A pixel that is nodata in any band is nodata in all of them.
    Files appear when they are whole, the mask last. Raises `SceneError` if the scene is
    incomplete or damaged, `MissingBand` if it lacks a band or one of them is fill alone.
    """
    began = time.monotonic()
    grid = scene.check()
    counts = np.zeros(3, np.int64)
    step = -(-max(grid.height, grid.width) // QUICKLOOK_SIZE)
    image, codes = pictures.Shrunk(step), []
    mask_tif, score_tif = (output_dir / f"{scene.name}_{kind}.tif" for kind in ("mask", "score"))
    pixels = _pixels(scene, grid, predictor, allow_pixel_size)
    tags = predictor.tags | ({"FCD_PIXEL_SIZE": pixels} if pixels else {})
    files = mask_files(mask_tif, score_tif, grid, tags, write_score, as_cog=True)
    with (
        rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE),
        files as write,
        ThreadPoolExecutor(1) as pool,
    ):
        writing: Future | None = None
        for part in predictor.predict(scene):
            counts += np.bincount(part.mask.ravel(), minlength=3)
            image.add(part.rgb, part.mask != labels.INVALID)
            codes.append(part.mask[-part.row % step :: step, ::step].copy())
            # One strip is written while the next is scored, no more: memory stays bounded.
            if writing:
                writing.result()
            writing = pool.submit(write, part.row, part.mask, part.score)
        if writing:
            writing.result()
        if not counts[1:].any():
            scene.require_pixels(
                "weights of a network that is trained without can mask it: --model_weights takes "
                "a folder of several, or starter"
            )
        mask = np.concatenate(codes)
        rgb = pictures.stretch_rgb(image.result(), mask != labels.INVALID)
        picture = np.hstack([pictures.outline_cloud(rgb, mask), pictures.colour_mask(mask)])
        pictures.write_png(output_dir / f"{scene.name}_quicklook.png", picture)
    valid = counts[labels.CLEAR] + counts[labels.CLOUD]
    return {
        "cloud_fraction": f"{counts[labels.CLOUD] / valid:.4f}" if valid else "",
        "valid_fraction": f"{valid / counts.sum():.4f}",
        "pixel_size": pixels,
        "threshold": f"{predictor.threshold:.4f}",
        "weights": predictor.weights,
        "seconds": f"{time.monotonic() - began:.1f}",
        "status": "done" if valid else "no valid pixel",
        "reason": "" if valid else "no pixel has data in all bands",
    }


def _pixels(scene: Scene, grid: Grid, predictor: Predictor, silent: bool) -> str:
    """The size of its pixels, metres, and that of training if it is another, which is told."""
    own, learned = grid.pixel_size, predictor.pixel_size
    if own is None:
        return ""
    if learned is None or max(own / learned, learned / own) < SAME_PIXELS:
        return f"{own:g}"
    if not silent:
        told = (
            f"warning: {scene.where} has pixels of {own:g} m, those of training are of "
            f"{learned:g} m: its mask is worse than others (--allow_pixel_size True: not told)"
        )
        tqdm.write(told, file=sys.stderr)
    return f"{own:g} (trained on {learned:g})"


@contextmanager
def mask_files(
    mask: Path,
    score: Path,
    grid: Grid,
    tags: dict[str, str],
    scores: Scores,
    *,
    as_cog: bool = False,
) -> Iterator[Callable[..., None]]:
    """What writes rows of a mask and, unless `scores` is `none`, of its score to these files.

    It takes the first row, patch codes (h, W), score (h, W) in [0, 1] and, perhaps, where the mask
    is left open though there is a score, (h, W) bool. The files appear when they are whole, the
    mask last: where it is, the score is too. Raises `OutputError` if they cannot be written.
    """
    writer = partial(raster_writer, grid=grid, tags=tags, cloud_optimised=as_cog)
    with ExitStack() as stack:
        mask_tif = stack.enter_context(
            writer(mask, dtype="uint8", nodata=labels.TIF_NODATA, colormap=COLOURS)
        )
        if scores != "none":
            # What is in bytes, scale and offset in the file undo.
            whole = scores == "uint8"
            nodata, scale, offset = (0, 1 / 254, -1 / 254) if whole else (nan, 1, 0)
            score_tif = stack.enter_context(
                writer(score, dtype=scores, nodata=nodata, scale=scale, offset=offset)
            )

        def write(
            row: int,
            codes: np.ndarray,
            values: np.ndarray | None,
            left_open: np.ndarray | bool = False,
        ) -> None:
            window = ((row, row + len(codes)), (0, grid.width))
            mask = np.where(left_open, labels.INVALID, codes)
            mask_tif.write(labels.tif_from_patch(mask), 1, window=window)
            if scores != "none" and values is not None:
                values = np.rint(values * 254) + 1 if whole else values
                values = np.where(codes == labels.INVALID, nodata, values).astype(scores)
                score_tif.write(values, 1, window=window)

        yield write


def has_tags(path: Path, tags: dict[str, str], dtype: str | None = None) -> bool:
    """Whether the raster `path` is there, whole, and carries `tags` (and holds `dtype`)."""
    if not path.exists():
        return False
    try:
        with opened(path) as dataset:
            return tags.items() <= dataset.tags().items() and dtype in (None, *dataset.dtypes)
    except RasterioIOError:
        return False  # damaged: to be made again


def _is_done(name: str, tags: dict[str, str], output_dir: Path, write_score: Scores) -> bool:
    files = {"mask": "uint8"} | ({} if write_score == "none" else {"score": write_score})
    return all(
        has_tags(output_dir / f"{name}_{kind}.tif", tags, dtype) for kind, dtype in files.items()
    ) and name in {row["scene"] for row in rows_of(output_dir)}
