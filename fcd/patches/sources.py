"""Where patches are and how they are read: those we cut, and those of any imagery.

The latter are a GeoTIFF each, square, of one size, type and number of bands:

    DIR/{train,val,test}/{clear,cloudy}/<name>.tif
    DIR/{train,val,test}/{clear,cloudy}/<name>_mask.tif             where there is one
    DIR/{train,val,test}/{clear,cloudy}/<name>_generated_mask.tif   by --mode generate_masks

Masks have one band of uint8 in the codes of the masks that this project writes: 0 invalid, 128
clear, 255 cloud (`fcd.landsat.labels`).
"""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import filterfalse
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias, TypeVar

import numpy as np
import rasterio
from rasterio.errors import RasterioIOError
from rasterio.windows import Window
from tqdm import tqdm

from fcd.errors import UserError
from fcd.files import is_hidden
from fcd.landsat import labels
from fcd.landsat.bands import FILL_DN, PIXEL_SIZE, band_names, is_landsat
from fcd.landsat.radiometry import SUN_ELEVATION, Radiometry
from fcd.landsat.rasters import (
    SAME_PIXELS,
    Grid,
    alpha_of,
    blanked,
    hidden_in,
    names_of,
    nodata_of,
    opened,
    pixel_bands,
    plain,
    require_fit,
    write_raster,
)  # fmt: skip
from fcd.landsat.reference import NAMES, TRUTH
from fcd.landsat.scenes import Band, File, Scene, find_scenes
from fcd.patches import generated, store
from fcd.patches.cutting import (
    RECORDS,
    Cutting,
    bands_of,
    cuttings,
    radiometries,
    reference_of,
    scenes_of_split,
)  # fmt: skip
from fcd.patches.normalisation import DTYPES, Kind, Nodata, as_nodata, known
from fcd.patches.store import DamagedPatch

T = TypeVar("T")
SUFFIXES = (".tif", ".tiff")
MASK_ENDING = "_mask.tif"  # of the file of a mask
SIZES_MEASURED = 100  # patches whose pixels' size on the ground is computed


def listing(folder: Path) -> list[Path]:
    """What is in `folder`, sorted by name; nothing if there is no such folder."""
    return sorted(folder.iterdir()) if folder.is_dir() else []


@dataclass(frozen=True)
class PreparedPatches:
    """The patches of prepare_landsat8_biome.py below `root`, a folder each.

    mask_codes: of the scenes' manual masks, see `fcd.landsat.labels.truth_decoder`.
    """

    root: Path
    mask_codes: str | None = None

    nodata = sun_elevation = None  # no choice of the user: fill, and what the MTL files say
    masks_are_optional = False
    mask_hint = "run python prepare_landsat8_biome.py --generated_masks DIR"
    damaged = staticmethod(store.damaged)

    def absent(self, place: Path) -> str:
        """What to do if there are no patches in the folder `place`."""
        return f"run python prepare_landsat8_biome.py --output_dir {self.root}"

    @cached_property
    def _cuttings(self) -> dict[Cutting, float | None]:
        """How the scenes were cut, see `cuttings`; their records are read once."""
        return cuttings(self.root)

    @cached_property
    def reference(self) -> str:
        """What labels and mask.tif come from: `TRUTH` or `QA`."""
        return reference_of(self.root, self._cuttings)

    @property
    def labels_from(self) -> str:
        """What the labels come from, in words."""
        return NAMES[self.reference]

    def find(self, split: str, folder: str) -> list[Path]:
        """The patches of a split in the folder `clear` or `cloudy`, sorted by name."""
        place = self.root / split / folder
        return [patch for patch in listing(place) if not is_hidden(patch.name)]

    def image_path(self, patch: Path) -> Path:
        """Where the image of a patch is."""
        return patch / store.IMAGE

    def mask_path(self, patch: Path, mask_file: str) -> Path:
        """Where the mask `mask_file`, such as mask.tif, of a patch is."""
        return patch / mask_file

    def read(self, patch: Path, mask_file: str | None) -> tuple[np.ndarray, np.ndarray | None]:
        """Image (C, H, W), and patch codes (H, W) uint8 of its mask; `DamagedPatch` if it is."""
        image = store.read(self.image_path(patch), 3).transpose(2, 0, 1)
        return image, None if mask_file is None else self.mask(patch, mask_file)

    def mask(self, patch: Path, mask_file: str) -> np.ndarray:
        """Patch codes (H, W) uint8 of the mask of a patch."""
        path = self.mask_path(patch, mask_file)
        mask = store.read(path, 2)
        if mask.dtype != np.uint8 or mask.max() > labels.CLOUD:
            raise store.damaged(path, f"it holds {mask.dtype} up to {mask.max()}, no patch codes")
        return mask

    def kind(self, found: list[Path]) -> Kind:
        """What the patches `found` have in common, from the first one that can be read.

        Their bands are those of the scenes' records. Raises `UserError` if none can be read, it has
        another number of bands, or its pixels are of a type that no network takes.
        """
        bands = bands_of(self.root, self._cuttings)
        for patch in found:
            with suppress(DamagedPatch):
                image, _ = self.read(patch, None)
                if image.dtype.name not in DTYPES:
                    raise UserError(
                        f"{self.image_path(patch)} holds {image.dtype}; patches hold "
                        f"{', '.join(DTYPES)}: prepare their scenes anew into another --output_dir"
                    )
                if bands and len(bands) != len(image):
                    raise UserError(
                        f"{self.image_path(patch)} has {len(image)} bands, the records in "
                        f"{RECORDS} name {', '.join(bands)}; prepare into another --output_dir"
                    )
                names = bands or band_names(len(image))
                form = (image.shape[-1], image.dtype.name, FILL_DN)
                return Kind(names, *form, next(iter(self._cuttings.values()), PIXEL_SIZE))
        raise UserError(f"every patch is damaged, such as {found[0]}")

    def radiometries(self, found: list[Path], bands: Sequence[str]) -> dict[Path, Radiometry]:
        """How DN of the patches `found` become standard DN, by the records of their scenes.

        bands: of the patches, those that are asked for. Raises `UserError` if one does not say.
        """
        of_scenes = radiometries(self.root, bands)
        scenes = {patch: patch.name.rsplit("_", 2)[0] for patch in found}
        if unknown := [patch for patch, scene in scenes.items() if scene not in of_scenes]:
            raise UserError(
                f"{unknown[0]}: its scene has no record in {self.root / RECORDS}, from which gains "
                "and sun are taken; prepare it again into another --output_dir"
            )
        return {patch: of_scenes[scene] for patch, scene in scenes.items()}

    def scenes(self, split: str, scene_dir: Path | str, *, masked: bool) -> list[Scene]:
        """The scenes below `scene_dir` that were prepared for `split`; all have a reference."""
        found = find_scenes(scene_dir, labels.truth_decoder(self.mask_codes))
        return scenes_of_split(found, self.root, split)


def is_mask(path: Path) -> bool:
    """Whether a raster is a mask by its name, never a patch."""
    return path.stem.endswith(Path(MASK_ENDING).stem)


def _damaged(path: Path, reason: object) -> DamagedPatch:
    return DamagedPatch(f"{path} cannot be read ({reason}); take it out or get it again")


def _opened(path: Path) -> rasterio.DatasetReader:
    try:
        return opened(path)
    except RasterioIOError as error:
        raise _damaged(path, error) from error


def nodata_in(dataset: rasterio.DatasetReader, asked: Sequence[float] | None = None) -> Nodata:
    """What is nodata in what `read_image` returns of such a file."""
    if is_landsat(names_of(dataset), dataset.dtypes[0]):
        return FILL_DN
    marked = {nodata_of(dataset, number) for number in pixel_bands(dataset)}
    own = [value for value in marked if value is not None and len(marked) == 1]
    return as_nodata(own if asked is None else asked)


def read_image(
    dataset: rasterio.DatasetReader,
    window: Window | None = None,
    asked: Sequence[float] | None = None,
) -> tuple[np.ndarray, Nodata]:
    """The pixels (C, h, w) of a raster without its alpha band, and what is nodata in them.

    See `fcd.landsat.rasters.blanked`, also for `asked`.
    """
    numbers, names = pixel_bands(dataset), names_of(dataset)
    marked = [nodata_of(dataset, number) for number in numbers]
    hidden = hidden_in(dataset, numbers, window)
    pixels = dataset.read(numbers, window=window)
    return blanked(pixels, names, hidden, marked, asked), nodata_in(dataset, asked)


@dataclass(frozen=True)
class RasterPatches:
    """The patches below `root`, a GeoTIFF each.

    nodata: values that mean nothing; None takes what the files say. sun_elevation: of those whose
    files do not say, degrees. mask_codes: see `fcd.landsat.labels.truth_decoder`.
    """

    root: Path
    nodata: tuple[float, ...] | None = None
    sun_elevation: float | None = None
    mask_codes: str | None = None

    reference = TRUTH
    labels_from = "folder names"
    masks_are_optional = True
    mask_hint = (
        "<name>.tif has its mask beside it as <name>_mask.tif; main.py --mode generate_masks "
        "writes <name>_generated_mask.tif, for --train_mask_file generated_mask.tif"
    )
    damaged = staticmethod(_damaged)

    def absent(self, place: Path) -> str:
        """What is expected if there are no patches in the folder `place`, and what is there."""
        while not place.is_dir() and place != self.root:
            place = place.parent
        kinds = Counter(f.suffix.lower() if f.is_file() else f"{f.name}/" for f in listing(place))
        there = ", ".join(f"{n} {kind}" if n > 1 else kind for kind, n in kinds.most_common(5))
        expected = f"folders with {' or '.join(SUFFIXES)} files are expected"
        return f"{expected}, {{train,val}}/{{clear,cloudy}}; {place} holds {there or 'nothing'}"

    def find(self, split: str, folder: str) -> list[Path]:
        """The patches of a split in the folder `clear` or `cloudy`, sorted by name.

        Raises `UserError` if two have one name, or a mask has no patch or another ending.
        """
        place = self.root / split / folder
        files = [file for file in listing(place) if not is_hidden(file.name)]
        rasters = [file for file in files if file.suffix.lower() in SUFFIXES]
        found: dict[str, Path] = {}
        for path in filterfalse(is_mask, rasters):
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
        """Where the mask `mask_file`, such as mask.tif, of a patch is; see `check_mask_file`."""
        self.check_mask_file(mask_file)
        return patch.with_name(f"{patch.stem}_{mask_file}")

    def check_mask_file(self, name: str) -> None:
        """Raise `UserError` if masks of that name would be taken for patches."""
        if not f"_{name}".endswith(MASK_ENDING):
            raise UserError(
                f"masks named {name}: with --dataset Patches the name must end in mask.tif, or "
                "the masks would be taken for patches"
            )

    def read(self, patch: Path, mask_file: str | None) -> tuple[np.ndarray, np.ndarray | None]:
        """Image (C, H, W), and patch codes (H, W) uint8 of its mask: invalid where nodata.

        The image is a masked array where its file hides pixels (`fcd.landsat.rasters.blanked`).
        """
        if mask_file is not None:
            return self._masked(patch, mask_file)
        return self._image(patch)[0][0], None

    def mask(self, patch: Path, mask_file: str) -> np.ndarray:
        """Patch codes (H, W) uint8 of the mask of a patch: invalid where nodata."""
        return self._masked(patch, mask_file)[1]

    def _masked(self, patch: Path, mask_file: str) -> tuple[np.ndarray, np.ndarray]:
        path = self.mask_path(patch, mask_file)
        (image, nodata), grid = self._image(patch)
        codes, lies = self._read(path, lambda mask: (mask.read(), Grid.of(mask)))
        require_fit(lies, grid, path)
        if len(codes) != 1:
            raise UserError(f"{path} has {len(codes)} bands; a mask has one: write one alone")
        # Masks that this project writes have its own codes.
        own = mask_file != store.TRUTH_MASK
        decode = labels.truth_decoder(None if own else self.mask_codes)
        mask = decode(codes[0], str(path))
        mask[~known(plain(image), nodata).all(axis=0)] = labels.INVALID
        return image, mask

    def _image(self, path: Path) -> tuple[tuple[np.ndarray, Nodata], Grid]:
        """What `read_image` returns of a patch, and where it lies."""
        return self._read(path, lambda file: (read_image(file, asked=self.nodata), Grid.of(file)))

    def _read(self, path: Path, read: Callable[[rasterio.DatasetReader], T]) -> T:
        with _opened(path) as dataset:
            try:
                return read(dataset)
            except RasterioIOError as error:
                raise _damaged(path, error.__cause__ or error) from error

    def kind(self, found: list[Path]) -> Kind:
        """What the patches `found` have in common; `UserError` names one that differs."""
        kinds: dict[Kind, Path] = {}
        alphas: dict[int, Path] = {}
        pixel_sizes: list[float] = []
        named = False
        every = -(-len(found) // SIZES_MEASURED)
        bar = tqdm(found, "checking patches", unit="patch", leave=False, dynamic_ncols=True)
        for place, path in enumerate(bar):
            with _opened(path) as dataset:
                types = {dataset.dtypes[number - 1] for number in pixel_bands(dataset)}
                named |= any(dataset.descriptions)
                if alpha := alpha_of(dataset):
                    alphas.setdefault(alpha, path)
                if len(types) > 1 or not types <= set(DTYPES):
                    raise UserError(
                        f"{path} holds {', '.join(sorted(types))}; patches hold "
                        f"{', '.join(DTYPES)}: convert it, such as by gdal_translate -ot Float32"
                    )
                if dataset.width != dataset.height:
                    raise UserError(
                        f"{path} is {dataset.width}x{dataset.height} pixels; patches are square "
                        "(python -m fcd.cut cuts larger images into such)"
                    )
                size, nodata = dataset.width, nodata_in(dataset, self.nodata)
                kind = Kind(names_of(dataset), size, types.pop(), nodata)
                kinds.setdefault(kind, path)
                if place % every == 0 and (pixel_size := Grid.of(dataset).pixel_size):
                    pixel_sizes.append(pixel_size)
            if len(kinds) > 1:
                (common, first), (kind, _) = kinds.items()
                raise UserError(
                    f"{path} has {kind}, {first.name} has {common}; all patches "
                    "must be alike (--nodata says what is nodata in all of them)"
                )
        if not named and is_landsat((common := next(iter(kinds))).bands, common.dtype):
            print(
                f"bands of patches such as {found[0]} have no names: they are taken for "
                f"{', '.join(common.bands)}, in this order, with DN 0 as fill"
            )
        for number, path in alphas.items():
            print(
                f"band {number} of patches such as {path} is alpha: it says what is nodata, and "
                "nothing is learned from it. If it is a band of the image, say so by gdal_edit.py "
                f"-colorinterp_{number} undefined"
            )
        alike = pixel_sizes and max(pixel_sizes) < SAME_PIXELS * min(pixel_sizes)
        return replace(next(iter(kinds)), pixel_size=median(pixel_sizes) if alike else None)

    def radiometries(self, found: list[Path], bands: Sequence[str]) -> dict[Path, Radiometry]:
        """How DN of the patches `found` become standard DN, by the tag SUN_ELEVATION of each.

        bands: of the patches, those that are asked for. Raises `UserError` if one does not say.
        """
        suns: dict[str | float | None, Radiometry] = {}
        of_patches = {}
        for path in found:
            with _opened(path) as dataset:
                sun = dataset.tags().get(SUN_ELEVATION) or self.sun_elevation
            if sun not in suns:
                suns[sun] = Radiometry.under(sun, bands, str(path))
            of_patches[path] = suns[sun]
        return of_patches

    def scenes(self, split: str, scene_dir: Path | str, *, masked: bool) -> list[Scene]:
        """The patches of `split` as scenes, each whole; `masked`: those that have a mask.

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
        if masked:
            pairs = zip(scenes, found, strict=True)
            masks = (self.mask(path, store.TRUTH_MASK) for scene, (path, _) in pairs if scene.truth)
            labels.require_clear(masks, f"the {split} patches of {self.root}")
        if len(chosen) < len(scenes):
            print(f"{len(chosen)} of the {len(scenes)} {split} patches have a mask to compare with")
        return chosen

    def _scene(self, path: Path, folder: str) -> Scene:
        with _opened(path) as dataset:
            names = zip(names_of(dataset), pixel_bands(dataset), strict=True)
            files: dict[str, File] = {band: Band(path, number) for band, number in names}
        bands, mask = tuple(files), self.mask_path(path, store.TRUTH_MASK)
        if mask.exists():
            files["FIXEDMASK"] = mask
        decode = labels.truth_decoder(self.mask_codes)
        return Scene(path.stem, folder, path.parent, files, bands, False, decode)

    def add_generated_masks(self, masks: Path, scenes: list[Scene], name: str) -> None:
        """Put the masks in the folder `masks` beside the patches, which are `scenes`, as `name`.

        They are all clear where the label is, whatever was left open: it already says so.
        """
        with generated.recorded(self.root, name, masks):
            for scene in tqdm(scenes, "adding masks", unit="patch", dynamic_ncols=True):
                with _opened(generated.mask_tif(masks, scene)) as dataset:
                    mask, grid = dataset.read(1), Grid.of(dataset)
                if scene.biome == labels.CLASS_FOLDERS[labels.LABEL_CLEAR]:
                    mask[:] = labels.TIF_CLEAR  # `_masked` knows what is nodata
                path = scene.folder / f"{scene.name}_{name}"
                write_raster(path, mask[None], grid, labels.TIF_NODATA)


Source: TypeAlias = PreparedPatches | RasterPatches
"""The data sets of patches, which answer to the same names."""


def read_how(source: Source) -> dict[str, Any]:
    """What the user has said of pixels and masks, as JSON holds it."""
    nodata = None if source.nodata is None else list(source.nodata)
    codes, sun = source.mask_codes, source.sun_elevation
    return {"nodata": nodata, "mask_codes": codes, "sun_elevation": sun}
