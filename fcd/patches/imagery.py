"""Patches of any imagery with image-level labels: a GeoTIFF a patch, a folder a label.

    DIR/{train,val,test}/{clear,cloudy}/<name>.tif
    DIR/{train,val,test}/{clear,cloudy}/<name>_mask.tif             where there is one
    DIR/{train,val,test}/{clear,cloudy}/<name>_generated_mask.tif   by main.py --mode generate_masks

Patches are square, of one size, type and number of bands. Masks have one band of uint8 in the
codes of the masks that this project writes: 0 invalid, 128 clear, 255 cloud (`fcd.landsat.labels`).
"""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from rasterio.errors import RasterioIOError
from tqdm import tqdm

from fcd.errors import UserError
from fcd.landsat import labels
from fcd.landsat.rasters import Grid, nodata_of, opened, write_raster
from fcd.landsat.reference import TRUTH
from fcd.landsat.scenes import Band, File, Scene
from fcd.patches import generated
from fcd.patches.normalisation import DTYPES
from fcd.patches.prepared import Kind
from fcd.patches.store import DamagedPatch

SUFFIXES = (".tif", ".tiff")
MASK_ENDING = "_mask.tif"  # of the file of a mask
NO_NODATA = "none"


def is_mask(path: Path) -> bool:
    """Whether a raster is a mask by its name, never a patch."""
    return path.stem.endswith(Path(MASK_ENDING).stem)


@dataclass(frozen=True)
class RasterPatches:
    """The patches below `root`, as `fcd.patches.prepared.PreparedPatches`.

    nodata: None takes what the files say, `NO_NODATA` none, a number that one.
    """

    root: Path
    nodata: float | str | None = None

    reference = TRUTH
    labels_from = "folder names"
    masks_are_optional = True
    mask_hint = (
        "<name>.tif has its mask beside it as <name>_mask.tif; main.py --mode generate_masks "
        "writes <name>_generated_mask.tif, for --train_mask_file generated_mask.tif"
    )
    absent = f"folders with {' or '.join(SUFFIXES)} files are expected"

    def find(self, split: str, folder: str) -> list[Path]:
        """The patches of a split in the folder `clear` or `cloudy`, sorted by name.

        Raises `UserError` if two have one name, or a mask has no patch or another ending.
        """
        place = self.root / split / folder
        files = sorted(place.iterdir()) if place.is_dir() else []
        rasters = [f for f in files if f.suffix.lower() in SUFFIXES and not f.name.startswith(".")]
        found: dict[str, Path] = {}
        for path in itertools.filterfalse(is_mask, rasters):
            if (other := found.setdefault(path.stem, path)) is not path:
                raise UserError(f"{path} and {other.name} have one name; rename one")
        for path in filter(is_mask, rasters):
            if not path.name.endswith(MASK_ENDING):
                raise UserError(
                    f"{path} is a mask by its name; masks end in {MASK_ENDING}: rename it"
                )
            # <stem>_mask.tif, <stem>_generated_mask.tif, …: what comes before one of the _.
            words = path.stem.split("_")
            if not any("_".join(words[:count]) in found for count in range(1, len(words))):
                raise UserError(
                    f"{path} is a mask by its name, but there is no patch it belongs to; "
                    "rename it or remove it"
                )
        return list(found.values())

    def image_path(self, patch: Path) -> Path:
        """Where the image of a patch is."""
        return patch

    def mask_path(self, patch: Path, mask_file: str) -> Path:
        """Where the mask `mask_file`, such as mask.tif, of a patch is."""
        return patch.with_name(f"{patch.stem}_{mask_file}")

    def check_mask_file(self, mask_file: str) -> None:
        """Raise `UserError` if masks of that name would be taken for patches."""
        if not f"_{mask_file}".endswith(MASK_ENDING):
            raise UserError(
                f"--train_mask_file {mask_file}: with --dataset Patches its name must end in "
                "mask.tif, or the masks would be taken for patches"
            )

    def read(self, patch: Path, mask_file: str | None) -> tuple[np.ndarray, np.ndarray | None]:
        """Image (C, H, W), and patch codes (H, W) uint8 of its mask: invalid where nodata."""
        if mask_file is not None:
            return self._masked(patch, mask_file)
        return self._pixels(patch)[0], None

    def mask(self, patch: Path, mask_file: str) -> np.ndarray:
        """Patch codes (H, W) uint8 of the mask of a patch: invalid where nodata."""
        return self._masked(patch, mask_file)[1]

    def _masked(self, patch: Path, mask_file: str) -> tuple[np.ndarray, np.ndarray]:
        image, nodata = self._pixels(patch)
        path = self.mask_path(patch, mask_file)
        codes, _ = self._pixels(path)
        if codes.shape != (1, *image.shape[1:]):
            raise UserError(
                f"{path} is {_size(codes)}, its patch {_size(image)}; a mask has one band and the "
                "size of its patch"
            )
        mask = labels.patch_from_truth(codes[0], str(path))
        invalid = ~np.isfinite(image).all(axis=0)
        if nodata is not None:
            invalid |= (image == nodata).any(axis=0)
        mask[invalid] = labels.INVALID
        return image, mask

    def damaged(self, path: Path, reason: str) -> DamagedPatch:
        """The error that names a file of a patch and what can be done."""
        return _damaged(path, reason)

    def kind(self, found: Iterable[Path]) -> Kind:
        """What the patches `found` have in common; `UserError` names one that differs."""
        kinds: dict[Kind, Path] = {}
        for path in tqdm(found, "checking patches", unit="patch", leave=False, dynamic_ncols=True):
            with _opened(path) as dataset:
                kinds.setdefault(self._kind_of(dataset, path), path)
            if len(kinds) > 1:
                (common, first), (kind, _) = kinds.items()
                raise UserError(
                    f"{path} has {kind}, {first.name} has {common}; all patches "
                    "must be alike (--nodata says what is nodata in all of them)"
                )
        return next(iter(kinds))

    def _kind_of(self, dataset: rasterio.DatasetReader, path: Path) -> Kind:
        types = set(dataset.dtypes)
        if len(types) > 1 or not types <= set(DTYPES):
            raise UserError(
                f"{path} holds {', '.join(sorted(types))}; patches hold {', '.join(DTYPES)}: "
                "convert it, such as by gdal_translate -ot Float32"
            )
        if dataset.width != dataset.height:
            raise UserError(
                f"{path} is {dataset.width}x{dataset.height} pixels; patches are square "
                "(python -m fcd.cut cuts larger images into such)"
            )
        return Kind(dataset.count, dataset.width, types.pop(), self._nodata(dataset))

    def _pixels(self, path: Path) -> tuple[np.ndarray, float | None]:
        with _opened(path) as dataset:
            try:
                return dataset.read(), self._nodata(dataset)
            except RasterioIOError as error:
                raise _damaged(path, error.__cause__ or error) from error

    def _nodata(self, dataset: rasterio.DatasetReader) -> float | None:
        if self.nodata is None:
            return nodata_of(dataset)
        return None if isinstance(self.nodata, str) else self.nodata

    # Whole scenes: each patch is one.

    def scenes(self, split: str, scene_dir: Path | str, *, masked: bool) -> list[Scene]:
        """The patches of `split` as scenes; `masked`: those that have a mask.

        The label takes the place of the biome. Raises `UserError` if there are none.
        """
        found = [(p, folder) for folder in labels.CLASS_FOLDERS for p in self.find(split, folder)]
        scenes = [self._scene(path, folder) for path, folder in found]
        chosen = [scene for scene in scenes if scene.truth] if masked else scenes
        if not chosen:
            raise UserError(
                f"{self.root / split} has no patch{' with a mask' * masked}; "
                "choose another --test_split, or put <name>_mask.tif beside the patches"
            )
        if len(chosen) < len(scenes):
            print(f"{len(chosen)} of the {len(scenes)} {split} patches have a mask to compare with")
        return chosen

    def _scene(self, path: Path, folder: str) -> Scene:
        with _opened(path) as dataset:
            files: dict[str, File] = {
                str(number): Band(path, number) for number in range(1, dataset.count + 1)
            }
        bands, mask = tuple(files), self.mask_path(path, "mask.tif")
        if mask.exists():
            files["FIXEDMASK"] = mask
        return Scene(path.stem, folder, path.parent, files, bands)

    def add_generated_masks(self, masks: Path, scenes: list[Scene]) -> None:
        """Put the masks in the folder `masks` beside the patches, which are `scenes`.

        They are all clear where the label is: it already says so. Nodata stays invalid.
        """
        with generated.recorded(self.root, generated.GENERATED_MASK, masks):
            for scene in tqdm(scenes, "adding masks", unit="patch", dynamic_ncols=True):
                with _opened(generated.mask_tif(masks, scene)) as dataset:
                    mask, grid = dataset.read(1), Grid.of(dataset)
                if scene.biome == labels.CLASS_FOLDERS[labels.LABEL_CLEAR]:
                    mask[mask != labels.TIF_NODATA] = labels.TIF_CLEAR
                path = scene.folder / f"{scene.name}_{generated.GENERATED_MASK}"
                write_raster(path, mask[None], grid, labels.TIF_NODATA)


def _opened(path: Path) -> rasterio.DatasetReader:
    try:
        return opened(path)
    except RasterioIOError as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, reason: object) -> DamagedPatch:
    return DamagedPatch(f"{path} cannot be read ({reason}); take it out or get it again")


def _size(pixels: np.ndarray) -> str:
    return f"{pixels.shape[2]}x{pixels.shape[1]} pixels with {len(pixels)} bands"
