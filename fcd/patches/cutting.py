"""Scenes to patches with image-level labels; records say which are cut, how and into what."""

import glob
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
from tqdm import tqdm

from fcd import pictures
from fcd.errors import SceneError, UserError
from fcd.files import decoded, from_plain, read_json, write_json, write_text
from fcd.landsat import labels, radiometry
from fcd.landsat.bands import BANDS, FILL_DN, PIXEL_SIZE, default_rgb, listed_bands
from fcd.landsat.radiometry import Radiometry
from fcd.landsat.reference import QA, TRUTH, Reference
from fcd.landsat.scenes import Scene, SceneReader
from fcd.patches import store
from fcd.patches.splits import SPLIT_FILE, SPLITS, choose_split, write_split

# Shares of cloud up to which a patch is clear and above which it is cloudy, by --labels. A QA
# band is wrong about single pixels of bright ground and thin cloud: it counts when it is plain.
MARGINS = {TRUTH: (0.0, 0.0), QA: (0.01, 0.2)}
RECORDS = "scenes"  # folder of the per-scene records, below the patches' folder
PATCH_NAME = re.compile(r"[^/\\\0]+_\d{5,9}_\d{5,9}")

Record = dict[str, Any]
"""biome, scene, split, cutting (of `Cutting`), cloud_share, pixel_size (metres), radiometry (fields
of the MTL file by which DN become reflectance), reference (digest of the file that says where cloud
is; earlier versions did not say), and the patches' names by label."""


@dataclass(frozen=True)
class Cutting:
    """How scenes are cut; the defaults are the paper's."""

    size: int = 128  # of patches, in pixels
    stride: int = 128  # distance of patches in pixels
    clear_below: float = 0.0  # a patch is clear if its share of cloud does not exceed this
    cloudy_above: float = 0.0  # cloudy if the share exceeds this; between: left out
    reference: str = TRUTH  # what says where cloud is: `fcd.landsat.reference.TRUTH` or `QA`
    bands: str = ",".join(BANDS)  # of the patches, in order
    mask_codes: str = ""  # of the manual masks, if they are not the usual ones

    @classmethod
    def of(
        cls,
        size: int,
        stride: int | None,
        margins: Sequence[float | None],
        reference: str,
        bands: Sequence[str] = BANDS,
        mask_codes: str | None = None,
    ) -> "Cutting":
        """With what is None as usual: no overlap, and the `MARGINS` of the reference.

        Raises `UserError` if a patch could be both clear and cloudy.
        """
        usual = zip(margins, MARGINS[reference], strict=True)
        clear, cloudy = (other if share is None else share for share, other in usual)
        if cloudy < clear:
            raise UserError(
                f"--cloudy_above {cloudy} is below --clear_below {clear}: a patch would be both"
            )
        how = (reference, ",".join(bands), mask_codes or "")
        return cls(size, stride or size, clear, cloudy, *how)

    @property
    def band_names(self) -> tuple[str, ...]:
        """The names of the bands, in order."""
        return tuple(self.bands.split(","))

    def label(self, mask: np.ndarray) -> int | None:
        """Image-level label of a patch-coded mask; None if it is left out."""
        share = labels.cloud_share(mask)
        if not mask.any() or self.clear_below < share <= self.cloudy_above:
            return None
        return labels.LABEL_CLEAR if share <= self.clear_below else labels.LABEL_CLOUDY


def patch_name(scene: str, row: int, column: int) -> str:
    """``<scene>_<row>_<column>``: pixel position of the patch's upper left corner."""
    return f"{scene}_{row:05d}_{column:05d}"


def patch_position(name: str) -> tuple[int, int]:
    """Row and column of a patch from its name."""
    row, column = name.rsplit("_", 2)[1:]
    return int(row), int(column)


def record_path(image_dir: Path | str, scene: Scene) -> Path:
    """Where the record of a finished scene is."""
    return Path(image_dir, RECORDS, f"{scene.key}.json")


def read_record(image_dir: Path | str, scene: Scene) -> Record | None:
    """The record of a finished scene, or None."""
    path = record_path(image_dir, scene)
    return _checked(path) if path.exists() else None


def _records(image_dir: Path | str) -> list[Record]:
    return [_checked(path) for path in sorted(Path(image_dir, RECORDS).glob("*.json"))]


def _checked(path: Path) -> Record:
    """The record at `path`; `UserError` if it is none, or names what is no patch."""
    record = read_json(path)
    if "label" in record and "scene" not in record:
        raise UserError(
            f"{path.parents[1]} holds patches of labelled images (python -m fcd.cut), which are "
            "read with --dataset Patches"
        )
    fits = {name: isinstance(record.get(name), str) for name in ("biome", "scene")}
    fits["split"] = record.get("split") in SPLITS
    fits["cloud_share"] = isinstance(record.get("cloud_share"), int | float)
    fits["pixel_size"] = isinstance(record.get("pixel_size"), float | None)
    fields = record.get("radiometry", {})
    fits["radiometry"] = isinstance(fields, dict) and all(type(v) is str for v in fields.values())
    for folder in labels.CLASS_FOLDERS:
        names = record.get(folder)
        fits[folder] = isinstance(names, list) and all(
            isinstance(name, str) and PATCH_NAME.fullmatch(name) for name in names
        )
    if wrong := [name for name, fit in fits.items() if not fit]:
        raise UserError(
            f"{path} is damaged ({', '.join(wrong)}); remove it and prepare the scene again"
        )
    cutting = from_plain(Cutting, record.get("cutting"), path)
    listed_bands(cutting.bands, f"{path}: bands")
    return record


def cutting_of(record: Record) -> Cutting:
    """How the scene of a record was cut."""
    return Cutting(**record["cutting"])


def cuttings(image_dir: Path | str) -> dict[Cutting, float | None]:
    """How the scenes in `image_dir` were cut, and how large a pixel of one cut so is, metres.

    As large as Landsat's if it does not say, as records of earlier versions do not.
    """
    records = _records(image_dir)
    return {cutting_of(record): record.get("pixel_size", PIXEL_SIZE) for record in records}


def reference_of(image_dir: Path | str, known: Iterable[Cutting] | None = None) -> str:
    """What the patches in `image_dir` have their labels and their mask.tif from: `TRUTH` or `QA`.

    known: its `cuttings`, if they are read already. Raises `UserError` if these differ in it.
    """
    found = {one.reference for one in (cuttings(image_dir) if known is None else known)}
    if len(found) > 1:
        raise UserError(
            f"{image_dir} holds scenes labelled by manual masks and scenes labelled by QA bands; "
            "prepare them into folders of their own (--output_dir)"
        )
    return found.pop() if found else TRUTH


def bands_of(
    image_dir: Path | str, known: Iterable[Cutting] | None = None
) -> tuple[str, ...] | None:
    """The bands of the patches in `image_dir`; None if no record says.

    known: see `reference_of`. Raises `UserError` if the records of the scenes differ.
    """
    found = {one.band_names for one in (cuttings(image_dir) if known is None else known)}
    if len(found) > 1:
        names = " and scenes cut in bands ".join(",".join(bands) for bands in sorted(found))
        raise UserError(
            f"{image_dir} holds scenes cut in bands {names}; prepare them into folders of their "
            "own (--output_dir)"
        )
    return found.pop() if found else None


def radiometries(image_dir: Path | str, bands: Sequence[str]) -> dict[str, Radiometry]:
    """Scene -> how DN of its patches in `image_dir` become standard DN, for these `bands`.

    Raises `UserError` if a record of a scene with patches does not say.
    """
    found: dict[str, Radiometry] = {}
    for record in _records(image_dir):
        if not any(record[folder] for folder in labels.CLASS_FOLDERS):
            continue
        if not record.get("radiometry"):
            raise UserError(
                f"{image_dir} has no gains and sun of scene {record['scene']}, which --normalize "
                "toa and the band SUN take: it has no MTL file, or was cut by an earlier version; "
                f"remove its record in {RECORDS} and prepare it again, with its MTL file"
            )
        told = f"the record of scene {record['scene']} in {image_dir}"
        found[record["scene"]] = Radiometry.of(record["radiometry"], bands, told)
    return found


def scenes_of_split(scenes: Iterable[Scene], image_dir: Path | str, kind: str) -> list[Scene]:
    """Those of `scenes` that were prepared into `image_dir` for the split `kind`, in its bands.

    Raises `UserError` if there are none, or one of them is not on disk any more.
    """
    records = _records(image_dir)
    wanted = {r["scene"]: cutting_of(r).band_names for r in records if r["split"] == kind}
    if not wanted:
        others = ", ".join(sorted({record["split"] for record in records}))
        raise UserError(
            f"{image_dir} has no prepared {kind} scene"
            + (f", only of the split {others}" if others else "")
            + "; run python prepare_landsat8_biome.py"
            + (" with more scenes or a --split_file, or choose another split" if others else "")
        )
    chosen = [replace(s, bands=wanted[s.name]) for s in scenes if s.name in wanted]
    if absent := sorted(wanted.keys() - {scene.name for scene in chosen}):
        raise UserError(
            f"{len(absent)} of the {len(wanted)} {kind} scenes of {image_dir} are not below "
            f"--orig_image_dir: {', '.join(absent[:3])}"
        )
    return chosen


def prepare(
    scenes: list[Scene],
    image_dir: Path,
    cutting: Cutting,
    split_file: Path | None,
    seed: int,
    by_cloud: bool,
    workers: int,
) -> int:
    """Split the scenes and cut those that are not cut yet into `image_dir`; return the exit code.

    split_file, seed, by_cloud: of `choose_split`. A scene that cannot be cut is left out and named
    at the end. Raises `UserError` if one was cut or split otherwise before.
    """
    source = cutting.reference if by_cloud else None
    split = choose_split(scenes, image_dir, split_file, seed, source)
    found = {scene.name: read_record(image_dir, scene) for scene in scenes}
    records = {name: record for name, record in found.items() if record is not None}
    for name, record in records.items():
        if cutting_of(record) != cutting or record["split"] != split[name]:
            raise UserError(
                f"{image_dir} holds patches of {name} cut otherwise ({record['split']}, "
                f"{record['cutting']}); remove it or choose another --output_dir"
            )
    for scene in scenes:
        _check_reference(Reference(scene, cutting.reference), records.get(scene.name), image_dir)
    written = image_dir / SPLIT_FILE
    if split_file:
        write_text(written, decoded(split_file.read_bytes()))
    elif not written.exists():
        write_split(written, scenes, split)
    if records:
        print(f"{len(records)} scenes are cut already")
    if cutting.reference == TRUTH:
        labels.require_clear(_truths(scenes), f"the scenes of {image_dir}")
    jobs = {
        scene.name: partial(cut_scene, scene, image_dir, split[scene.name], cutting)
        for scene in scenes
        if scene.name not in records
    }
    results = dict(parallel(jobs, workers, "cutting scenes"))
    failures = [result for result in results.values() if isinstance(result, SceneError)]
    records |= {name: result for name, result in results.items() if result not in failures}
    _print_balance(list(records.values()))
    for failure in failures:
        print(f"left out: {failure}", file=sys.stderr)
    return 1 if failures else 0


def _check_reference(reference: Reference, record: Record | None, image_dir: Path) -> None:
    """Raise `UserError` if the scene of `record` was labelled by another file than there is now."""
    if record is None or reference.file is None or "reference" not in record:
        return
    if record["reference"] != reference.digest():
        raise UserError(
            f"{reference.file} has changed since {image_dir} was cut by it; remove "
            f"{record_path(image_dir, reference.scene)}, and the scene is cut again"
        )


def _truths(scenes: Iterable[Scene]) -> Iterator[np.ndarray]:
    """Some pixels of the manual mask of each scene that can be read, in patch codes."""
    for scene in scenes:
        with suppress(SceneError), scene.open() as reader:  # told when it is cut
            yield reader.truth(step=max(1, reader.grid.height // 512))


def _print_balance(records: list[Record]) -> None:
    """Print scenes, patches and cloud share of each split."""
    print(f"{'split':6} {'scenes':>6} {'clear':>8} {'cloudy':>8} {'cloud in scenes':>16}")
    for split in SPLITS:
        members = [record for record in records if record["split"] == split]
        clear, cloudy = (
            "whole" if split == "test" else sum(len(record[folder]) for record in members)
            for folder in labels.CLASS_FOLDERS
        )
        share = f"{np.mean([r['cloud_share'] for r in members]):.0%}" if members else "-"
        print(f"{split:6} {len(members):6} {clear:>8} {cloudy:>8} {share:>16}")


def cut_scene(scene: Scene, image_dir: Path, split: str, cutting: Cutting) -> Record:
    """Cut a scene into `<split>/<clear|cloudy>/<patch>/{image.tif, mask.tif}` and record it.

    image.tif is (size, size, C) uint16 DN in the bands of `cutting`, mask.tif (size, size) uint8
    patch codes. Test scenes are only checked and pictured: they stay whole. Patches appear at the
    end, all at once; the record, written last, says that it is done. Raises `SceneError` if it is
    incomplete or damaged, `MissingBand` if a band is fill alone.
    """
    scene = replace(scene, bands=cutting.band_names)
    reference = Reference(scene, cutting.reference)
    grid = reference.check()
    partial = image_dir / f".partial-{scene.key}"
    shutil.rmtree(partial, ignore_errors=True)
    patches: dict[str, list[str]] = {folder: [] for folder in labels.CLASS_FOLDERS}
    try:
        with scene.open() as reader:
            if split != "test":
                for row, column, dn, mask in _cut(reader, reference, cutting):
                    if (label := cutting.label(mask)) is None:
                        continue
                    folder = labels.CLASS_FOLDERS[label]
                    name = patch_name(scene.name, row, column)
                    patches[folder].append(name)
                    place = partial / folder / name
                    place.mkdir(parents=True)
                    store.write(place / store.IMAGE, dn.transpose(1, 2, 0))
                    store.write(place / store.TRUTH_MASK, mask)
            mask = _write_thumbnail(reader, reference, record_path(image_dir, scene))
        if not mask.any():
            scene.require_pixels("prepare without it, such as by --bands B1-B9")
        for old in _patches_of(scene, image_dir):  # of before, perhaps under the other label
            shutil.rmtree(old)
        for folder, names in patches.items():
            target = image_dir / split / folder
            target.mkdir(parents=True, exist_ok=True)
            for name in names:
                (partial / folder / name).rename(target / name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    share = round(labels.cloud_share(mask), 4)
    record: Record = {"biome": scene.biome, "scene": scene.name, "split": split}
    record |= {"cutting": asdict(cutting), "cloud_share": share, **patches}
    record["pixel_size"] = grid.pixel_size
    record["reference"] = reference.digest()
    with suppress(SceneError):  # patches are as good with a damaged MTL file
        record["radiometry"] = radiometry.kept(scene.metadata(), scene.bands)
    write_json(record_path(image_dir, scene), record)
    return record


def _patches_of(scene: Scene, image_dir: Path) -> list[Path]:
    """The patches of `scene` that there are in `image_dir`, of any split and label."""
    folders = [image_dir / split / label for split in SPLITS for label in labels.CLASS_FOLDERS]
    named = f"{glob.escape(scene.name)}_*_*"
    found = [patch for folder in folders for patch in folder.glob(named)]
    return [patch for patch in found if patch.name.rsplit("_", 2)[0] == scene.name]


def _cut(
    reader: SceneReader, reference: Reference, cutting: Cutting
) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
    """Row, column, DN (C, size, size) and mask of every patch, reading one strip at a time."""
    height, width = reader.grid.height, reader.grid.width
    for row in range(0, height - cutting.size + 1, cutting.stride):
        dn = reader.bands(row, row + cutting.size)
        mask = reference.mask(reader, row, row + cutting.size)
        mask[(dn == FILL_DN).any(axis=0)] = labels.INVALID
        for column in range(0, width - cutting.size + 1, cutting.stride):
            columns = slice(column, column + cutting.size)
            yield row, column, dn[:, :, columns], mask[:, columns]


def _write_thumbnail(reader: SceneReader, reference: Reference, record: Path) -> np.ndarray:
    """Write the scene's picture beside its mask, at most 512 pixels high; return the mask."""
    step = max(1, -(-max(reader.grid.height, reader.grid.width) // 512))
    dn, mask = reader.bands(step=step), reference.mask(reader, step=step)
    fill = (dn == FILL_DN).any(axis=0)
    mask[fill] = labels.INVALID
    rgb = default_rgb(reference.scene.bands)
    image = pictures.stretch_rgb(dn[list(rgb)], ~fill)
    picture = np.hstack([image, pictures.colour_mask(mask)])
    pictures.write_png(record.with_suffix(".png"), picture)
    return mask


def parallel(
    jobs: Mapping[str, Callable[[], Any]], workers: int, title: str
) -> Iterator[tuple[str, Any]]:
    """Run `jobs` in `workers` processes; yield name and result or `SceneError` as they end.

    Raises `UserError` if one of the processes is killed.
    """
    context = get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_end_with_parent) as pool:
        names = {pool.submit(job): name for name, job in jobs.items()}
        done = as_completed(names)
        try:
            for future in tqdm(done, title, len(names), unit="scene", dynamic_ncols=True):
                error = future.exception()
                if isinstance(error, BrokenProcessPool):
                    raise UserError(
                        f"{title}: a process was killed, mostly for lack of memory; lower "
                        "--num_workers and run the same command again, what is done is kept"
                    ) from error
                if error is not None and not isinstance(error, SceneError):
                    raise error
                yield names[future], error or future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _end_with_parent() -> None:
    """In a worker: end when the process that started it does, however it ends."""

    def wait() -> None:
        if parent := parent_process():
            parent.join()
        os._exit(1)

    Thread(target=wait, daemon=True).start()
