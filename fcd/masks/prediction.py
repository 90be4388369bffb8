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
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, TypeVar

import numpy as np
import rasterio
from tqdm import tqdm

from fcd import pictures
from fcd.errors import FleetError, MissingBand, OutputError, UserError
from fcd.landsat import labels
from fcd.landsat.bands import positions
from fcd.landsat.finding import MTL
from fcd.landsat.products import scene_from
from fcd.landsat.radiometry import SUN_ELEVATION
from fcd.landsat.rasters import SAME_PIXELS, Grid
from fcd.landsat.scenes import Scene
from fcd.landsat.sun import by_orbit
from fcd.masks import stac_item
from fcd.masks.outputs import OUTPUTS, TOLD, Outputs, mask_files
from fcd.masks.predictor import Predictor
from fcd.masks.scoring import ArrayScene, Prediction
from fcd.masks.summary import SOURCE, Names, Row, add_rows, fingerprint, paths_in
from fcd.metrics import BUFFER, CLOUD, SHADOW
from fcd.processes import ALONE, Processes

QUICKLOOK_SIZE = 1024  # longest side of each of the two pictures, pixels
GDAL_CACHE = 128 << 20  # bytes of blocks that GDAL keeps; a share of all memory unless it is told
_COLUMNS = (
    "scene", "path", "cloud_fraction", "shadow_fraction", "buffer_fraction", "valid_fraction",
    "nodata_fraction", "pixel_size", "threshold", "weights", "precision", "seconds", "status",
    "reason",
)  # fmt: skip
_FAILED = "failed"
_UNKNOWN = "unknown"  # of the sun
_ANY_SUN = (
    f"neither an MTL file nor the tag {SUN_ELEVATION} nor its name says how high the sun stood: "
    "masked as under any, which is worse; give --sun_elevation DEGREES"
)
T = TypeVar("T")
R = TypeVar("R")


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
    sun_elevation: in degrees, for a network of reflectance (--normalize toa) or the band SUN.
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


class Here:
    """Where scenes are masked: in this process, one after the other. See also `fcd.masks.fleet`."""

    def each(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[list[R]]:
        """What `function` returns for each of `items`, those together that are done together.

        `items` are drawn one after the other, in their order, and not long before they are needed.
        """
        return ([function(item)] for item in items)

    def mask(
        self,
        scene: Scene,
        predictor: Predictor,
        output_dir: Path,
        outputs: Outputs,
        warn: Callable[[str], object],
    ) -> Row:
        """See `predict_scene`."""
        return predict_scene(scene, predictor, output_dir, outputs, warn)


HERE = Here()


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
    where: Here = HERE,
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
    returned counts those of all. where: `HERE`, or the workers of a `fcd.masks.fleet.Fleet`. Raises
    `UserError` if `output_dir` cannot be written to, or workers cannot work.
    """
    output_dir, asked = made_writable(Path(output_dir)), Outputs(**outputs)
    if asked.stac:
        stac_item.library()
    several = [predictor] if isinstance(predictor, Predictor) else predictor
    names = Names(output_dir, processes.claims(), paths_in(output_dir))
    most_first = sorted(several, key=lambda one: -len(one.bands))
    warn = _say_nothing if allow_pixel_size else _say
    batch = _Batch(most_first, names, asked, bands, overwrite, warn, where)
    own, silent = processes.share(paths), not (progress and processes.first)
    failed, skipped = 0, 0
    with tqdm(
        total=len(own), desc="predicting", unit="scene", dynamic_ncols=True, disable=silent
    ) as bar:
        for rows in where.each(batch.mask, map(batch.look, own)):
            bar.update(len(rows))
            made = [row for row in rows if row is not None]
            skipped += len(rows) - len(made)
            failed += sum(map(_tell_failure, made))
            add_rows(output_dir, made, _COLUMNS)
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


def _tell_failure(row: Row) -> bool:
    """Whether the scene of `row` has failed, which is told on stderr."""
    if failed := row["status"] == _FAILED:
        _say(f"error: {row['reason']}")
    return failed


def _say(text: str) -> None:
    tqdm.write(text, file=sys.stderr)


def _say_nothing(text: str) -> None:
    pass


@dataclass(frozen=True)
class _Work:
    """A scene to mask, the predictor that fits it, and its line of the summary so far."""

    row: Row
    scene: Scene
    predictor: Predictor


@dataclass(frozen=True)
class _Batch:
    """The scenes of a run: looked at in their order, which their names depend on, then masked."""

    predictors: Sequence[Predictor]  # those of the most bands first
    names: Names
    outputs: Outputs
    bands: str | None
    overwrite: bool
    warn: Callable[[str], object]
    where: Here

    def look(self, path: str) -> _Work | Row | None:
        """The scene at `path`; the line of one that cannot be masked; None if it is done."""
        row = {"scene": "", "path": path}
        return self._first_fitting(self.predictors, row, partial(self._look, row))

    def mask(self, found: _Work | Row | None) -> Row | None:
        """The line of what `look` has found, once it is masked; None if it was done before."""
        if not isinstance(found, _Work):
            return found
        fitting = self.predictors[self.predictors.index(found.predictor) :]
        return self._first_fitting(fitting, found.row, partial(self._mask, found))

    def _first_fitting(
        self, predictors: Sequence[Predictor], row: Row, attempt: Callable[[Predictor], T]
    ) -> T | Row:
        """What `attempt` returns for the first of which the scene of `row` lacks no band.

        Or else its line, which says what is wrong with it.
        """
        *others, last = predictors
        try:
            for one in others:
                with suppress(MissingBand):
                    return attempt(one)
            return attempt(last)
        except (OutputError, FleetError):
            raise  # the next scene would fare no better
        except UserError as error:
            return row | {"status": _FAILED, "reason": str(error)}

    def _look(self, row: Row, predictor: Predictor) -> _Work | None:
        """Fills in the name."""
        read = partial(scene_from, needed=predictor.bands, bands=self.bands)
        scene = self.names.named(read(row["path"]), row["path"], read)
        if scene is None:
            return None
        row["scene"] = scene.name
        self.outputs.check_ours(scene.name, self.names.folder)
        if scene.name in self.names.listed and not self.overwrite:
            tags = predictor.tags | _tags(scene, predictor, self.outputs)
            if self.outputs.are_there(scene.name, tags, self.names.folder):
                return None
        return _Work(row, scene, predictor)

    def _mask(self, found: _Work, predictor: Predictor) -> Row | None:
        work = found if predictor is found.predictor else self._look(found.row, predictor)
        if work is None:
            return None
        how = (self.names.folder, self.outputs, self.warn)
        return work.row | self.where.mask(work.scene, predictor, *how)


def predict_scene(
    scene: Scene,
    predictor: Predictor,
    output_dir: Path,
    outputs: Outputs = OUTPUTS,
    warn: Callable[[str], object] = _say,
) -> Row:
    """Write the files of one scene; return its fractions, threshold, weights, precision, …

    `<name>_mask.tif`: Cloud-Optimised GeoTIFF on the scene's grid, 0 nodata, 128 clear, 255 cloud,
    64 shadow, 254 buffer; `<name>_score.tif`: the score, on the same grid; `<name>_quicklook.png`:
    image, with clouds outlined, beside mask; `<name>_mask.json`: the STAC item. A pixel that is
    nodata in any band is nodata in all of them. Files appear when they are whole, the mask after
    the score. warn: is told of pixels of another size than those of training. Raises `SceneError`
    if the scene is incomplete or damaged, or lacks what `outputs` need, `MissingBand` if it lacks a
    band or one of them is fill alone.
    """
    began = time.monotonic()
    grid = scene.check()
    finished = np.empty((grid.height, grid.width), np.uint8)
    step = -(-max(grid.height, grid.width) // QUICKLOOK_SIZE)
    image = pictures.Shrunk(step)
    mask_tif, score_tif = (output_dir / f"{scene.name}_{kind}.tif" for kind in ("mask", "score"))
    pixels = _pixels(scene, grid, predictor, warn)
    told = dict(zip(TOLD, (pixels, predictor.way.why), strict=True))
    tags = outputs.tags(predictor.tags) | {name: text for name, text in told.items() if text}
    tags |= _tags(scene, predictor, outputs)
    if any_sun := tags.get("FCD_SUN") == _UNKNOWN:
        _say(f"warning: {scene.where}: {_ANY_SUN}")
    finish = outputs.postprocessing.finishing(scene, predictor.sun_elevation)
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
        "reason": _reason(finished, any_sun),
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


def _pixels(scene: Scene, grid: Grid, predictor: Predictor, warn: Callable[[str], object]) -> str:
    """The size of its pixels, metres, and that of training if it is another, which is told."""
    own, learned = grid.pixel_size, predictor.pixel_size
    if own is None:
        return ""
    if learned is None or max(own / learned, learned / own) < SAME_PIXELS:
        return f"{own:g}"
    warn(
        f"warning: {scene.where} has pixels of {own:g} m, those of training are of {learned:g} m: "
        "its mask is worse than others (--allow_pixel_size True: not told)"
    )
    return f"{own:g} (trained on {learned:g})"


def _tags(scene: Scene, predictor: Predictor, outputs: Outputs) -> dict[str, str]:
    """Of its pixels, unless its name says what they are, and of its sun, degrees, if it counts."""
    is_named = scene.level_1 and (MTL in scene.files or by_orbit(scene.name) is not None)
    tags = {} if is_named else {SOURCE: fingerprint(scene)}
    if predictor.knows_sun:
        elevation = scene.elevation(predictor.sun_elevation)
        tags["FCD_SUN"] = _UNKNOWN if elevation is None else f"{elevation:g}"
    if outputs.postprocessing.shadow and predictor.sun_elevation is not None:
        tags["FCD_SUN_ELEVATION"] = str(predictor.sun_elevation)
    return tags


def _reason(finished: np.ndarray, any_sun: bool) -> str:
    if not finished.any():
        return "no pixel has data in all bands"
    return "masked as under any sun: its height is not known" * any_sun


def _quicklook(rgb_dn: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Red, green, blue (3, h, w) in DN with clouds outlined, beside the mask in patch codes."""
    rgb = pictures.stretch_rgb(rgb_dn, mask != labels.INVALID)
    return np.hstack([pictures.outline_cloud(rgb, mask), pictures.colour_mask(mask)])


def _fractions(finished: np.ndarray) -> dict[str, str]:
    """Of the pixels of a mask in patch codes, for the summary: of those that are valid, or all."""
    # Row by row: of the whole mask at once it takes eight bytes a pixel.
    rows = (np.bincount(row, minlength=BUFFER + 1) for row in finished)
    counts = sum(rows, np.zeros(BUFFER + 1, np.int64))
    valid = counts.sum() - counts[labels.INVALID]
    kinds = {"cloud": CLOUD, "shadow": SHADOW, "buffer": BUFFER}
    fractions = {
        f"{name}_fraction": f"{counts[code] / valid:.4f}" if valid else ""
        for name, code in kinds.items()
    }
    whole = {"valid": valid / counts.sum(), "nodata": counts[labels.INVALID] / counts.sum()}
    return fractions | {f"{name}_fraction": f"{share:.4f}" for name, share in whole.items()}
