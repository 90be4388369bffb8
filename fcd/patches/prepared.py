"""Scenes to patches with image-level labels: split, grid, cut, and generated masks."""

import csv
import random
import re
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import rasterio
from rasterio.errors import RasterioIOError
from rasterio.windows import Window

from fcd import metrics, pictures
from fcd.errors import UserError
from fcd.files import from_plain, read_json, replacing, write_json
from fcd.landsat import labels
from fcd.landsat.bands import FILL_DN, RGB_BANDS
from fcd.landsat.reference import NAMES, QA, TRUTH, Reference
from fcd.landsat.scenes import Scene, SceneReader, find_scenes
from fcd.patches import store
from fcd.patches.normalisation import DTYPES
from fcd.patches.store import DamagedPatch

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
    records = _records(image_dir)
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


@dataclass(frozen=True)
class Kind:
    """What all patches of a data set have in common. nodata: None if no value marks it."""

    num_channels: int
    image_size: int
    dtype: str
    nodata: float | None

    def __str__(self) -> str:
        nodata = "no nodata" if self.nodata is None else f"nodata {self.nodata:g}"
        size = f"{self.image_size}x{self.image_size} pixels"
        return f"{self.num_channels} bands of {self.dtype}, {size}, {nodata}"


# --- cut ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cutting:
    """How scenes are cut.

    size, stride: patch side and distance of patches in pixels (the paper: 128 and 128).
    clear_below: a patch is clear if its share of cloud does not exceed this (the paper: 0).
    cloudy_above: it is cloudy if the share exceeds this (the paper: 0); between: left out.
    reference: what says where cloud is, `fcd.landsat.reference.TRUTH` (the paper) or `QA`.
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
    return _checked_record(path) if path.exists() else None


def _records(image_dir: Path | str) -> list[dict]:
    return [_checked_record(path) for path in sorted(Path(image_dir, RECORDS).glob("*.json"))]


def _checked_record(path: Path) -> dict:
    """The record at `path`; `UserError` if it is none, or names what is no patch."""
    record = read_json(path)
    cutting = record.get("cutting")
    wrong = [name for name in ("biome", "scene") if not isinstance(record.get(name), str)]
    wrong += [] if record.get("split") in SPLITS else ["split"]
    wrong += [] if isinstance(record.get("cloud_share"), int | float) else ["cloud_share"]
    for folder in labels.CLASS_FOLDERS:
        names = record.get(folder)
        if not isinstance(names, list) or not all(map(_is_patch_name, names)):
            wrong.append(folder)
    if wrong:
        raise UserError(
            f"{path} is damaged ({', '.join(wrong)}); remove it and prepare the scene again"
        )
    from_plain(Cutting, cutting, path)
    return record


def _is_patch_name(name: object) -> bool:
    return isinstance(name, str) and bool(re.fullmatch(r"[^/\\\0]+_\d{5,9}_\d{5,9}", name))


def cutting_of(record: dict) -> Cutting:
    """How the scene of a record was cut."""
    return Cutting(**record["cutting"])


def reference_of(image_dir: Path | str) -> str:
    """What the patches in `image_dir` have their labels and their mask.tif from.

    `fcd.landsat.reference.TRUTH` or `QA`, from the records of the scenes. Raises `UserError` if
    they differ.
    """
    found = {cutting_of(record).reference for record in _records(image_dir)}
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
                    _write_patch(partial / folder / name, dn, mask)
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


def _write_patch(folder: Path, dn: np.ndarray, mask: np.ndarray) -> None:
    folder.mkdir(parents=True)
    store.write(folder / "image.tif", dn.transpose(1, 2, 0))
    store.write(folder / "mask.tif", mask)


def scene_cloud_share(reference: Reference) -> float:
    """Share of cloud among a scene's valid pixels, from every 8th pixel; in [0, 1]."""
    with reference.scene.open() as reader:
        return labels.cloud_share(reference.mask(reader, step=8))


def _write_thumbnail(reader: SceneReader, reference: Reference, record: Path) -> float:
    """Write the scene's picture beside its mask, at most 512 pixels high; return cloud share."""
    step = max(1, -(-max(reader.grid.height, reader.grid.width) // 512))
    dn, mask = reader.bands(step=step), reference.mask(reader, step=step)
    fill = (dn == FILL_DN).any(axis=0)
    mask[fill] = labels.INVALID
    image = pictures.stretch_rgb(dn[list(RGB_BANDS)], ~fill)
    picture = np.hstack([image, pictures.colour_mask(mask)])
    pictures.write_png(record.with_suffix(".png"), picture)
    return labels.cloud_share(mask)


# --- read --------------------------------------------------------------------------------


@dataclass(frozen=True)
class PreparedPatches:
    """Where the patches of prepare_landsat8_biome.py are and how they are read.

    `reference` says what the labels and mask.tif come from, see `reference_of`.
    """

    root: Path

    nodata = None  # no choice of the user: fill
    masks_are_optional = False
    mask_hint = "run python prepare_landsat8_biome.py --generated_masks DIR"

    @property
    def absent(self) -> str:
        """What to do if there are no patches."""
        return f"run python prepare_landsat8_biome.py --output_dir {self.root}"

    @cached_property
    def reference(self) -> str:
        """`fcd.landsat.reference.TRUTH` or `QA`; the records of the scenes are read once."""
        return reference_of(self.root)

    @property
    def labels_from(self) -> str:
        """What the labels come from, in words."""
        return NAMES[self.reference]

    def find(self, split: str, folder: str) -> list[Path]:
        """The patches of a split in the folder `clear` or `cloudy`, sorted by name."""
        place = self.root / split / folder
        return sorted(place.iterdir()) if place.is_dir() else []

    def image_path(self, patch: Path) -> Path:
        """Where the image of a patch is."""
        return patch / "image.tif"

    def mask_path(self, patch: Path, mask_file: str) -> Path:
        """Where the mask `mask_file`, such as mask.tif, of a patch is."""
        return patch / mask_file

    def check_mask_file(self, mask_file: str) -> None:
        """Nothing: any name will do."""

    def read(self, patch: Path, mask_file: str | None) -> tuple[np.ndarray, np.ndarray | None]:
        """Image (C, H, W), and patch codes (H, W) uint8 of its mask; `DamagedPatch` if it is."""
        image = store.read(self.image_path(patch), 3).transpose(2, 0, 1)
        return image, None if mask_file is None else self.mask(patch, mask_file)

    def mask(self, patch: Path, mask_file: str) -> np.ndarray:
        """Patch codes (H, W) uint8 of the mask of a patch."""
        path = self.mask_path(patch, mask_file)
        mask = store.read(path, 2)
        if mask.dtype != np.uint8 or mask.max() > labels.CLOUD:
            raise DamagedPatch.of(path, f"it holds {mask.dtype} up to {mask.max()}, no patch codes")
        return mask

    def damaged(self, path: Path, reason: str) -> DamagedPatch:
        """The error that names a file of a patch and what can be done."""
        return DamagedPatch.of(path, reason)

    def kind(self, found: list[Path]) -> Kind:
        """What the patches `found` have in common, from the first one that can be read.

        Raises `UserError` if none can be, or its pixels are of a type that no network takes.
        """
        for patch in found:
            with suppress(DamagedPatch):
                image, _ = self.read(patch, None)
                if image.dtype.name not in DTYPES:
                    raise UserError(
                        f"{self.image_path(patch)} holds {image.dtype}; patches hold "
                        f"{', '.join(DTYPES)}: prepare their scenes anew into another --output_dir"
                    )
                return Kind(len(image), image.shape[-1], image.dtype.name, FILL_DN)
        raise UserError(f"every patch is damaged, such as {found[0]}")

    def scenes(self, split: str, scene_dir: Path | str, *, masked: bool) -> list[Scene]:
        """The scenes below `scene_dir` that were prepared for `split`; all have a reference."""
        return scenes_of_split(find_scenes(scene_dir), self.root, split)


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
    path, cutting = mask_tif(masks, scene), cutting_of(record)
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
                    truth = store.read(patch_dir / "mask.tif", 2)
                    row, column = patch_position(patch)
                    tif = dataset.read(1, window=Window(column, row, cutting.size, cutting.size))
                    mask = labels.patch_from_tif(tif, str(path))
                    invalid = (mask if cutting.reference == QA else truth) == labels.INVALID
                    if label == labels.LABEL_CLEAR:
                        mask[:] = labels.CLEAR
                    mask[invalid] = labels.INVALID
                    with replacing(patch_dir / name) as temporary:
                        store.write(temporary, mask)
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
    """What labels the masks in a folder have cost: fields of `Supervision`, of this room.

    Raises `UserError` if the folder does not say so.
    """
    path = masks / PROVENANCE
    if not path.exists():
        raise UserError(
            f"{path} is missing, so it is unknown what labels these masks have cost; copy it "
            "along with the masks, or run python main.py --mode generate_masks again"
        )
    return read_json(path)


def write_provenance(image_dir: Path, name: str, masks: Path) -> None:
    """Write down that the masks `name` of the patches have cost what those in `masks` have."""
    write_json(provenance_path(image_dir, name), provenance(masks))


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
