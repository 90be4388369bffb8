"""Cloud masks of any number of scenes, as files: what `--mode predict` does, and its Python call.

from solver import load_solver
from fcd.masks.prediction import predict_scenes

predict_scenes(["LC09_….tar"], load_solver("outputs/FCDPlus/models/best.pt").predictor(), "masks")

`predict_array` does the same to DN in memory, without any file.
"""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from fcd.masks import stac_item
from fcd.masks.postprocessing import AS_SCORED, PostProcessing
from fcd.masks.scoring import PLAIN, ArrayScene, Prediction, Scorer, Tiles, Way, predictions
from fcd.masks.summary import add_row, named, rows_of
from fcd.metrics import BUFFER, CLOUD, SHADOW
from fcd.patches.normalisation import as_nodata, in_words
from fcd.processes import ALONE, Processes

QUICKLOOK_SIZE = 1024  # longest side of each of the two pictures, pixels
GDAL_CACHE = 128 << 20  # bytes of blocks that GDAL keeps; a share of all memory unless it is told
COLOURS = {
    labels.TIF_NODATA: (0, 0, 0, 0),  # transparent
    labels.TIF_CLEAR: (*pictures.MASK_COLOURS["clear"], 255),
    labels.TIF_CLOUD: (*pictures.MASK_COLOURS["cloud"], 255),
    labels.TIF_SHADOW: (*pictures.FINISHED_COLOURS["shadow"], 255),
    labels.TIF_BUFFER: (*pictures.FINISHED_COLOURS["buffer"], 255),
}
Scores = Literal["none", "uint8", "float32"]
"""How the score is written beside the mask: not at all; 0 nodata, 1 to 255 for 0 to 1; NaN nodata,
0 to 1."""
Contents = Literal["mask", "mask,score"]
"""The bands of the file of a mask: it alone, or also the score as uint8, 1 to 255 for 0 to 1."""
_SCORE_IN_BYTES = (1 / 254, -1 / 254)  # scale and offset that undo 1 to 255
_COLUMNS = (
    "scene", "path", "cloud_fraction", "shadow_fraction", "buffer_fraction", "valid_fraction",
    "nodata_fraction", "pixel_size", "threshold", "weights", "precision", "seconds", "status",
    "reason",
)  # fmt: skip


@dataclass(frozen=True)
class Outputs:
    """What is written of a scene beside its mask, and what is done to that."""

    write_score: Scores = "none"
    write_bands: Contents = "mask"
    stac: bool = False
    postprocessing: PostProcessing = AS_SCORED
    sun_elevation: float | None = None  # of scenes that do not say, degrees

    def tags(self, method: dict[str, str]) -> dict[str, str]:
        """Those of a mask that is made by a method with the tags `method`."""
        return method | {
            "FCD_CONTENTS": self.write_bands,
            "FCD_POSTPROCESSING": self.postprocessing.told,
            "FCD_CODES": "0 nodata, 64 shadow, 128 clear, 254 cloud buffer, 255 cloud",
        }


OUTPUTS = Outputs()


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
    way: Way = PLAIN  # how scores are computed


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
        "FCD_TILES": f"{tiles.size} pixels, overlap {tiles.overlap}",
        "FCD_PRECISION": scorer.way.tag,
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
        scorer.way,
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
    overwrite: bool = False,
    allow_pixel_size: bool = False,
    progress: bool = True,
    processes: Processes = ALONE,
    **outputs: Any,
) -> int:
    """Write mask, quicklook and, if asked, score of each scene; return how many failed.

    paths: scene folders, archives, MTL files or GeoTIFFs, of one scene each
    (`fcd.landsat.products.expand` lists those of a folder; `scene_from` there says how they and
    `bands` are read). predictor: of several each scene takes the one with the most bands whose
    bands it has. outputs: the fields of `Outputs`; files are those of `predict_scene`, and
    summary.csv gets a line a scene. One whose files are there already, made with the same weights
    and settings, is skipped unless `overwrite`. A scene that cannot be read is told on stderr and
    in summary.csv; so is one whose pixels are of another size than those of training, unless
    `allow_pixel_size`. progress: show a bar. processes: each masks its share of the scenes; what is
    returned counts those of all. Raises `UserError` if `output_dir` cannot be written to.
    """
    output_dir, asked = made_writable(Path(output_dir)), Outputs(**outputs)
    if asked.stac:
        stac_item.library()
    failed, skipped, claim = 0, 0, processes.claims()

    def mask(row: dict[str, str], predictor: Predictor) -> bool:
        """Mask the scene of `row` and fill it in; whether that was done before."""
        read = partial(scene_from, needed=predictor.bands, bands=bands)
        scene = named(read(row["path"]), row["path"], output_dir, claim, read)
        if scene is None:
            return True
        row["scene"] = scene.name
        done = not overwrite and _is_done(scene.name, predictor.tags, output_dir, asked)
        how = (output_dir, asked, allow_pixel_size)
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


def made_writable(folder: Path) -> Path:
    """`folder`, made if need be; `UserError` if nothing can be written there."""
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
    outputs: Outputs = OUTPUTS,
    allow_pixel_size: bool = False,
) -> dict[str, str]:
    """Write the files of one scene; return its fractions, threshold, weights, precision, …

    `<name>_mask.tif`: Cloud-Optimised GeoTIFF on the scene's grid, 0 nodata, 128 clear, 255 cloud,
    64 shadow, 254 buffer; `<name>_score.tif`: the score, on the same grid; `<name>_quicklook.png`:
    image, with clouds outlined, beside mask; `<name>_mask.json`: the STAC item. A pixel that is
    nodata in any band is nodata in all of them. Files appear when they are whole, the mask after
    the score. Raises `SceneError` if the scene is incomplete or damaged, or lacks what `outputs`
    need, `MissingBand` if it lacks a band or one of them is fill alone.
    """
    began = time.monotonic()
    grid = scene.check()
    finished = np.empty((grid.height, grid.width), np.uint8)
    step = -(-max(grid.height, grid.width) // QUICKLOOK_SIZE)
    image = pictures.Shrunk(step)
    mask_tif, score_tif = (output_dir / f"{scene.name}_{kind}.tif" for kind in ("mask", "score"))
    pixels = _pixels(scene, grid, predictor, allow_pixel_size)
    # Neither is asked for, so neither makes a mask another one.
    told = {"FCD_PIXEL_SIZE": pixels, "FCD_PRECISION_WHY": predictor.way.why}
    tags = outputs.tags(predictor.tags) | {name: text for name, text in told.items() if text}
    finish = outputs.postprocessing.finishing(scene, outputs.sun_elevation)
    describe = stac_item.describing(scene, grid) if outputs.stac else None
    how = (grid, tags, outputs.write_score, outputs.write_bands)
    files = mask_files(mask_tif, score_tif, *how, as_cog=True)
    with rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE), files as write:
        for part in _written(predictor.predict(scene), write):
            finished[part.row : part.row + len(part.mask)] = part.mask
            image.add(part.rgb, part.mask != labels.INVALID)
        if not finished.any():
            scene.require_pixels(
                "weights of a network that is trained without can mask it: --model_weights takes "
                "a folder of several, or starter"
            )
        if outputs.postprocessing.told != "none":
            finish(finished)
            write(0, finished, None)
        quicklook = _quicklook(image.result(), finished[::step, ::step])
        pictures.write_png(output_dir / f"{scene.name}_quicklook.png", quicklook)
    fractions = _fractions(finished)
    if describe:
        describe(mask_tif, tags, fractions)
    return {
        **fractions,
        "pixel_size": pixels,
        "threshold": f"{predictor.threshold:.4f}",
        "weights": predictor.weights,
        "precision": predictor.way.told,
        "seconds": f"{time.monotonic() - began:.1f}",
        "status": "done" if finished.any() else "no valid pixel",
        "reason": "" if finished.any() else "no pixel has data in all bands",
    }


def _written(parts: Iterable[Prediction], write: Callable[..., None]) -> Iterator[Prediction]:
    """`parts` as they come; of each row, mask and score are written, all at the end."""
    with ThreadPoolExecutor(1) as pool:
        writing: Future | None = None
        for part in parts:
            yield part
            # One strip is written while the next is scored, no more: memory stays bounded.
            if writing:
                writing.result()
            writing = pool.submit(write, part.row, part.mask, part.score)
        if writing:
            writing.result()


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


def _quicklook(rgb_dn: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Red, green, blue (3, h, w) in DN with clouds outlined, beside the mask in patch codes."""
    rgb = pictures.stretch_rgb(rgb_dn, mask != labels.INVALID)
    return np.hstack([pictures.outline_cloud(rgb, mask), pictures.colour_mask(mask)])


def _fractions(finished: np.ndarray) -> dict[str, str]:
    """Of the pixels of a mask in patch codes, for the summary: of those that are valid, or all."""
    counts = np.bincount(finished.ravel(), minlength=BUFFER + 1)
    valid = counts.sum() - counts[labels.INVALID]
    kinds = {"cloud": CLOUD, "shadow": SHADOW, "buffer": BUFFER}
    fractions = {
        f"{name}_fraction": f"{counts[code] / valid:.4f}" if valid else ""
        for name, code in kinds.items()
    }
    whole = {"valid": valid / counts.sum(), "nodata": counts[labels.INVALID] / counts.sum()}
    return fractions | {f"{name}_fraction": f"{share:.4f}" for name, share in whole.items()}


@contextmanager
def mask_files(
    mask: Path,
    score: Path,
    grid: Grid,
    tags: dict[str, str],
    scores: Scores,
    contents: Contents = "mask",
    *,
    as_cog: bool = False,
) -> Iterator[Callable[..., None]]:
    """What writes rows of a mask and, unless `scores` is `none`, of its score to these files.

    It takes the first row, patch codes (h, W), score (h, W) in [0, 1] or None, and, perhaps, where
    the mask is left open though there is a score, (h, W) bool. contents: bands of `mask`. The
    files appear when they are whole, the mask last: where it is, the score is too. Raises
    `OutputError` if they cannot be written.
    """
    writer = partial(raster_writer, grid=grid, tags=tags, cloud_optimised=as_cog)
    with ExitStack() as stack:
        both = contents == "mask,score"
        of_bands: dict[str, Any] = {"colormap": COLOURS}
        if both:
            scale, offset = _SCORE_IN_BYTES
            of_bands = {"names": contents.split(","), "scale": (1, scale), "offset": (0, offset)}
        mask_tif = stack.enter_context(
            writer(mask, dtype="uint8", nodata=labels.TIF_NODATA, **of_bands)
        )
        if scores != "none":
            # What is in bytes, scale and offset in the file undo.
            whole = scores == "uint8"
            nodata, scale, offset = (0, *_SCORE_IN_BYTES) if whole else (nan, 1, 0)
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
            if values is None or not (both or scores != "none"):
                return
            valid, in_bytes = codes != labels.INVALID, np.rint(values * 254) + 1
            if both:
                mask_tif.write(np.where(valid, in_bytes, 0).astype(np.uint8), 2, window=window)
            if scores != "none":
                values = np.where(valid, in_bytes if whole else values, nodata).astype(scores)
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


def _is_done(name: str, method: dict[str, str], output_dir: Path, outputs: Outputs) -> bool:
    files = {"mask": "uint8"} | (
        {} if outputs.write_score == "none" else {"score": outputs.write_score}
    )
    tags = outputs.tags(method)
    if outputs.stac and not stac_item.path_of(output_dir / f"{name}_mask.tif").exists():
        return False
    return all(
        has_tags(output_dir / f"{name}_{kind}.tif", tags, dtype) for kind, dtype in files.items()
    ) and name in {row["scene"] for row in rows_of(output_dir)}
