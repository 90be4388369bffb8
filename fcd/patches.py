"""Scenes to patches with image-level labels: split, grid, cut, and generated masks."""

import csv
import random
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import rasterio
import tifffile
from rasterio.errors import RasterioIOError
from rasterio.windows import Window

from fcd import figures, labels, metrics
from fcd.errors import UserError
from fcd.files import read_json, replacing, write_json
from fcd.reference import QA, TRUTH, Reference
from fcd.scenes import FILL_DN, RGB_BANDS, Scene, SceneReader
from fcd.tifs import TifWriter

SPLITS = ("train", "val", "test")
SPLIT_FILE = "split.csv"
RECORDS = "scenes"  # folder of the per-scene records, below the patches' folder
GENERATED_MASK = "generated_mask.tif"
PROVENANCE = "supervision.json"  # in a folder of generated masks: what labels they have cost


# --- split -------------------------------------------------------------------------------


def split_scenes(
    scenes: Iterable[Scene], seed: int, cloud_share: dict[str, float] | None = None
) -> dict[str, str]:
    """Scene name -> split, 3:1:2 train/val/test at random within each biome.

    The result depends on the names and the seed alone, not on the order given. With
    `cloud_share` (scene name -> share in [0, 1]) each biome is first cut into groups of six
    scenes of similar cloud share, and each group is split 3:1:2.
    """
    by_biome = defaultdict(list)
    for scene in sorted(scenes, key=lambda scene: (scene.biome, scene.name)):
        by_biome[scene.biome].append(scene.name)
    chosen = {}
    for biome, names in by_biome.items():
        generator = random.Random(f"{seed} {biome}")
        size = len(names)
        if cloud_share is not None:
            names, size = sorted(names, key=lambda name: (cloud_share[name], name)), 6
        for start in range(0, len(names), size):
            chosen |= _split_group(names[start : start + size], generator)
    return chosen


def _split_group(names: list[str], generator: random.Random) -> dict[str, str]:
    names = names.copy()
    generator.shuffle(names)
    test, val = len(names) * 2 // 6, len(names) // 6
    kinds = ["test"] * test + ["val"] * val + ["train"] * (len(names) - test - val)
    return dict(zip(names, kinds, strict=True))


def write_split(path: Path, scenes: Iterable[Scene], split: dict[str, str]) -> None:
    """Write biome, scene and split as a csv that a person can edit and pass back."""
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["biome", "scene", "split"])
        writer.writerows([scene.biome, scene.name, split[scene.name]] for scene in scenes)


def read_split(path: Path | str) -> dict[str, str]:
    """Scene name -> split from a csv with the columns scene and split.

    Raises `UserError` with the line number for a scene given twice or an unknown split.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if not {"scene", "split"} <= set(reader.fieldnames or ()):
                raise UserError(f"{path}: the first line must name the columns scene,split")
            rows = [(reader.line_num, row["scene"], row["split"]) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"split file {path} cannot be read: {error}") from error
    split = {}
    for line, scene, kind in rows:
        if kind not in SPLITS:
            raise UserError(f"{path} line {line}: split {kind!r} is none of {', '.join(SPLITS)}")
        if not scene or scene in split:
            raise UserError(f"{path} line {line}: scene {scene!r} is empty or there twice")
        split[scene] = kind
    return split


def scenes_of_split(scenes: Iterable[Scene], image_dir: Path | str, kind: str) -> list[Scene]:
    """Those of `scenes` that were prepared into `image_dir` for the split `kind`.

    Raises `UserError` if there are none, or one of them is not on disk any more.
    """
    records = [read_json(path) for path in sorted(Path(image_dir, RECORDS).glob("*.json"))]
    wanted = {record["scene"] for record in records if record["split"] == kind}
    if not wanted:
        others = ", ".join(sorted({record["split"] for record in records}))
        raise UserError(
            f"{image_dir} has no prepared {kind} scene"
            + (f", only of the split {others}" if others else "")
            + "; run python prepare_landsat8_biome.py"
            + (" with more scenes or a --split_file, or choose another split" if others else "")
        )
    chosen = [scene for scene in scenes if scene.name in wanted]
    absent = sorted(wanted - {scene.name for scene in chosen})
    if absent:
        raise UserError(
            f"{len(absent)} of the {len(wanted)} {kind} scenes of {image_dir} are not below "
            f"--orig_image_dir: {', '.join(absent[:3])}"
        )
    return chosen


# --- cut ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cutting:
    """How scenes are cut.

    size, stride: patch side and distance of patches in pixels (the paper: 128 and 128).
    clear_below: a patch is clear if its share of cloud does not exceed this (the paper: 0).
    cloudy_above: it is cloudy if the share exceeds this (the paper: 0); between: left out.
    reference: what says where cloud is, `fcd.reference.TRUTH` (the paper) or `QA`.
    """

    size: int = 128
    stride: int = 128
    clear_below: float = 0.0
    cloudy_above: float = 0.0
    reference: str = TRUTH

    def label(self, mask: np.ndarray) -> int | None:
        """Image-level label of a patch-coded mask; None if it is left out."""
        share = labels.cloud_share(mask)
        if not mask.any():
            return None
        if share <= self.clear_below:
            return labels.LABEL_CLEAR
        return labels.LABEL_CLOUDY if share > self.cloudy_above else None


def patch_name(scene: str, row: int, column: int) -> str:
    """``<scene>_<row>_<column>``: pixel position of the patch's upper left corner."""
    return f"{scene}_{row:05d}_{column:05d}"


def patch_position(name: str) -> tuple[int, int]:
    """Row and column of a patch from its name."""
    row, column = name.rsplit("_", 2)[1:]
    return int(row), int(column)


def _cut(
    reader: SceneReader, reference: Reference, cutting: Cutting
) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
    """Row, column, DN (10, size, size) and mask of every patch, reading one strip at a time."""
    height, width = reader.grid.height, reader.grid.width
    for row in range(0, height - cutting.size + 1, cutting.stride):
        dn = reader.bands(row, row + cutting.size)
        mask = reference.mask(reader, row, row + cutting.size)
        mask[(dn == FILL_DN).any(axis=0)] = labels.INVALID
        for column in range(0, width - cutting.size + 1, cutting.stride):
            columns = slice(column, column + cutting.size)
            yield row, column, dn[:, :, columns], mask[:, columns]


def record_path(image_dir: Path | str, scene: Scene) -> Path:
    """Where the record of a finished scene is."""
    return Path(image_dir, RECORDS, f"{scene.key}.json")


def read_record(image_dir: Path | str, scene: Scene) -> dict | None:
    """The record of a finished scene, or None."""
    path = record_path(image_dir, scene)
    return read_json(path) if path.exists() else None


def reference_of(image_dir: Path | str) -> str:
    """What the patches in `image_dir` have their labels and their mask.tif from.

    `fcd.reference.TRUTH` or `QA`, from the records of the scenes. Raises `UserError` if they
    differ.
    """
    records = [read_json(path) for path in sorted(Path(image_dir, RECORDS).glob("*.json"))]
    found = {Cutting(**record["cutting"]).reference for record in records}
    if len(found) > 1:
        raise UserError(
            f"{image_dir} holds scenes labelled by manual masks and scenes labelled by QA bands; "
            "prepare them into folders of their own (--output_dir)"
        )
    return found.pop() if found else TRUTH


def cut_scene(scene: Scene, image_dir: Path, split: str, cutting: Cutting) -> dict:
    """Cut a scene into `<split>/<clear|cloudy>/<patch>/{image.tif, mask.tif}` and record it.

    image.tif is (size, size, 10) uint16 DN, mask.tif (size, size) uint8 patch codes of
    `cutting.reference`. Test scenes are only checked and pictured: they stay whole. Patches
    appear at the end, all at once; the record `scenes/<biome>_<scene>.json` is written last and
    says the scene is done.
    Raises `SceneError` if the scene is incomplete or damaged.
    """
    reference = Reference(scene, cutting.reference)
    reference.check()
    partial = image_dir / f".partial-{scene.key}"
    shutil.rmtree(partial, ignore_errors=True)
    patches = {folder: [] for folder in labels.CLASS_FOLDERS}
    write_tif = TifWriter()
    try:
        with scene.open() as reader:
            if split != "test":
                for row, column, dn, mask in _cut(reader, reference, cutting):
                    label = cutting.label(mask)
                    if label is None:
                        continue
                    folder = labels.CLASS_FOLDERS[label]
                    name = patch_name(scene.name, row, column)
                    patches[folder].append(name)
                    _write_patch(partial / folder / name, dn, mask, write_tif)
            share = _write_thumbnail(reader, reference, record_path(image_dir, scene))
        for folder, names in patches.items():
            target = image_dir / split / folder
            target.mkdir(parents=True, exist_ok=True)
            for name in names:
                shutil.rmtree(target / name, ignore_errors=True)
                (partial / folder / name).rename(target / name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    record = {
        "biome": scene.biome,
        "scene": scene.name,
        "split": split,
        "cutting": asdict(cutting),
        "cloud_share": round(share, 4),
        **patches,
    }
    write_json(record_path(image_dir, scene), record)
    return record


def _write_patch(folder: Path, dn: np.ndarray, mask: np.ndarray, write_tif: TifWriter) -> None:
    folder.mkdir(parents=True)
    write_tif(folder / "image.tif", dn.transpose(1, 2, 0))
    write_tif(folder / "mask.tif", mask)


def scene_cloud_share(reference: Reference) -> float:
    """Share of cloud among a scene's valid pixels, from every 8th pixel; in [0, 1]."""
    with reference.scene.open() as reader:
        return labels.cloud_share(reference.mask(reader, step=8))


def _write_thumbnail(reader: SceneReader, reference: Reference, record: Path) -> float:
    """Write the scene's picture beside its mask, at most 512 pixels high; return cloud share."""
    step = max(1, -(-max(reader.grid.height, reader.grid.width) // 512))
    dn, mask = reader.bands(step=step), reference.mask(reader, step=step)
    mask[(dn == FILL_DN).any(axis=0)] = labels.INVALID
    picture = np.hstack([figures.stretch_rgb(dn[list(RGB_BANDS)]), figures.colour_mask(mask)])
    figures.write_png(record.with_suffix(".png"), picture)
    return labels.cloud_share(mask)


# --- generated masks -----------------------------------------------------------------------


def mask_tif(folder: Path | str, scene: Scene) -> Path:
    """Where the generated mask of a scene is: ``<biome>_<scene>_mask.tif``."""
    return Path(folder, f"{scene.key}_mask.tif")


def add_generated_masks(
    scene: Scene, record: dict, masks: Path, image_dir: Path, name: str = GENERATED_MASK
) -> np.ndarray:
    """Cut a generated scene mask onto the scene's patches, as `name` beside their image.tif.

    A patch whose image-level label is clear becomes all clear: the label already says so.
    Pixels invalid in a manual mask stay invalid; those a QA band says nothing about, such as
    the rims of clouds in Collection 2, become what the generated mask says. Returns the
    confusion (2, 2) against mask.tif, for the log.
    Raises `UserError` if the mask cannot be read or has another size than the scene.
    """
    path, cutting = mask_tif(masks, scene), Cutting(**record["cutting"])
    counts = np.zeros((2, 2), np.int64)
    try:
        with rasterio.open(path) as dataset:
            grid = scene.grid()
            if dataset.shape != (grid.height, grid.width):
                raise UserError(
                    f"{path} is {dataset.width}x{dataset.height} pixels, scene {scene.name} is "
                    f"{grid.width}x{grid.height}; generate the masks again"
                )
            for label, folder in enumerate(labels.CLASS_FOLDERS):
                for patch in record[folder]:
                    patch_dir = image_dir / record["split"] / folder / patch
                    truth = tifffile.imread(patch_dir / "mask.tif")
                    row, column = patch_position(patch)
                    tif = dataset.read(1, window=Window(column, row, cutting.size, cutting.size))
                    mask = labels.patch_from_tif(tif, str(path))
                    invalid = (mask if cutting.reference == QA else truth) == labels.INVALID
                    if label == labels.LABEL_CLEAR:
                        mask[:] = labels.CLEAR
                    mask[invalid] = labels.INVALID
                    with replacing(patch_dir / name) as temporary:
                        tifffile.imwrite(temporary, mask, photometric="minisblack")
                    counts += metrics.confusion(truth, mask)
    except RasterioIOError as error:
        raise UserError(
            f"{path} cannot be read ({error}); run main.py --mode generate_masks first"
        ) from error
    return counts


def provenance_path(image_dir: Path | str, name: str) -> Path:
    """Where it is written down how the masks `name` came about."""
    return Path(image_dir, Path(name).with_suffix(".json").name)


def provenance(masks: Path) -> dict:
    """What labels the masks in a folder have cost (fields of `fcd.report.Supervision`).

    Raises `UserError` if the folder does not say so.
    """
    path = masks / PROVENANCE
    if not path.exists():
        raise UserError(
            f"{path} is missing, so it is unknown what labels these masks have cost; copy it "
            "along with the masks, or run python main.py --mode generate_masks again"
        )
    return read_json(path)


def mask_provenance(image_dir: Path | str, name: str) -> dict:
    """What labels the masks `name` of the patches have cost, as `provenance`.

    Raises `UserError` if nothing says so.
    """
    path = provenance_path(image_dir, name)
    if not path.exists():
        raise UserError(
            f"{path} is missing, so it is unknown what labels {name} has cost; run "
            "python prepare_landsat8_biome.py --generated_masks DIR"
        )
    return read_json(path)
