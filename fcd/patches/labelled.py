"""Cut labelled GeoTIFFs into patches to train on with `--dataset Patches`.

The csv has the columns path (relative to the csv) and label (clear or cloudy: what holds for all
of the image); a mask ``<name>_mask.tif`` beside an image is cut along. Patches of one image stay
in one split.
"""

import itertools
import random
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rasterio.errors import RasterioIOError
from rasterio.windows import Window
from tqdm import tqdm

from fcd.errors import UserError
from fcd.files import from_plain, read_json, write_json
from fcd.landsat import labels
from fcd.landsat.bands import described
from fcd.landsat.rasters import Grid, names_of, nodata_of, opened, write_raster
from fcd.patches.cutting import RECORDS, patch_name
from fcd.patches.normalisation import DTYPES
from fcd.patches.sources import MASK_ENDING, SUFFIXES, is_mask
from fcd.patches.splits import csv_rows

SPLITS = ("train", "val")


@dataclass(frozen=True)
class Image:
    """A row of the csv."""

    path: Path
    label: str

    @property
    def mask(self) -> Path | None:
        """The mask beside it, or None."""
        path = self.path.with_name(f"{self.path.stem}{MASK_ENDING}")
        return path if path.exists() else None


@dataclass(frozen=True)
class Record:
    """How an image is cut, where its patches go, and how many there are; a JSON file says so."""

    size: int  # of patches, in pixels
    stride: int  # distance of patches in pixels
    label: str
    split: str
    patches: int


def read_labels(path: Path) -> list[Image]:
    """The images a csv lists, in its order.

    Raises `UserError` with the line number for a row that cannot be used: no such file, no such
    label, a name that is there twice, or other bands or another type than the first row.
    """
    rows = csv_rows(path, "path", "label", "--csv")
    images: dict[str, Image] = {}
    kinds: dict[tuple[str, str, float | None], int] = {}
    for line, name, label in tqdm(rows, "checking images", leave=False, dynamic_ncols=True):
        told = f"{path} line {line}"
        if label not in labels.CLASS_FOLDERS:
            raise UserError(f"{told}: label {label!r} is neither clear nor cloudy")
        file = path.parent / (name or "")
        if not file.is_file() or file.suffix.lower() not in SUFFIXES:
            raise UserError(f"{told}: {name!r} is no GeoTIFF file; paths start at the csv's folder")
        if is_mask(file):
            raise UserError(f"{told}: {name!r} is a mask by its name; rename it")
        if file.stem in images:
            raise UserError(f"{told}: an image of the name {file.stem} is there before; rename one")
        try:
            with opened(file) as dataset:
                bands, dtype, nodata = names_of(dataset), dataset.dtypes[0], nodata_of(dataset)
        except RasterioIOError as error:
            raise UserError(f"{told}: {file} cannot be read: {error}") from error
        if dtype not in DTYPES:
            raise UserError(
                f"{told}: {file} holds {dtype}; images hold {', '.join(DTYPES)}: convert it"
            )
        kinds.setdefault((described(bands), dtype, nodata), line)
        if len(kinds) > 1:
            first = next(iter(kinds))
            raise UserError(
                f"{told}: {name} has {described(bands)} of {dtype}, nodata {nodata}; that of "
                f"line {kinds[first]} has {first[0]} of {first[1]}, nodata {first[2]}"
            )
        images[file.stem] = Image(file, label)
    if not images:
        raise UserError(f"{path} lists no image")
    return list(images.values())


def split_images(images: Sequence[Image], val_share: float, seed: int) -> dict[Path, str]:
    """Path -> train or val: of each label `val_share` of the images, at random, are val.

    At least one, unless the share is 0; whatever the order of `images`. Raises `UserError` if a
    label would be left without a training image.
    """
    chosen: dict[Path, str] = {}
    for label in labels.CLASS_FOLDERS:
        members = sorted(image.path for image in images if image.label == label)
        random.Random(f"{seed} {label}").shuffle(members)
        val = max(1, round(val_share * len(members))) if val_share else 0
        if val >= len(members):
            raise UserError(
                f"{len(members)} images are {label}: with --val_share {val_share:g} none is left "
                "to train on; label more of them, or give --val_share 0 for no validation"
            )
        chosen |= {path: "val" if n < val else "train" for n, path in enumerate(members)}
    return chosen


def cut_image(image: Image, cut: Record, output_dir: Path) -> int:
    """Write the patches of an image that hold data, as `cut` says; return how many.

    The remainder at the right and the bottom is dropped. The record ``scenes/<name>.json``,
    written last, says that the image is done. Raises `UserError` if it is damaged, or its mask
    has another size.
    """
    folder, written = output_dir / cut.split / cut.label, 0
    try:
        with ExitStack() as stack:
            dataset = stack.enter_context(opened(image.path))
            mask = stack.enter_context(opened(image.mask)) if image.mask else None
            if mask and mask.shape != dataset.shape:
                raise UserError(
                    f"{image.mask} is {mask.width}x{mask.height} pixels, its image "
                    f"{dataset.width}x{dataset.height}"
                )
            grid, nodata = Grid.of(dataset), nodata_of(dataset)
            rows = range(0, grid.height - cut.size + 1, cut.stride)
            columns = range(0, grid.width - cut.size + 1, cut.stride)
            for row, column in itertools.product(rows, columns):
                window = Window(column, row, cut.size, cut.size)
                if not dataset.dataset_mask(window=window).any():
                    continue
                place = grid.square(row, column, cut.size)
                name = patch_name(image.path.stem, row, column)
                if mask:
                    codes = mask.read(window=window)
                    labels.patch_from_truth(codes, str(image.mask))  # none but known ones
                    path = folder / f"{name}{MASK_ENDING}"
                    write_raster(path, codes, place, labels.TIF_NODATA)
                pixels = dataset.read(window=window)
                path = folder / f"{name}.tif"
                write_raster(path, pixels, place, nodata, dataset.descriptions)
                written += 1
    except RasterioIOError as error:
        raise UserError(f"{image.path} is damaged ({error}); get it again, or unlist it") from error
    write_json(_record_path(image, output_dir), asdict(replace(cut, patches=written)))
    return written


def _record_path(image: Image, output_dir: Path) -> Path:
    return output_dir / RECORDS / f"{image.path.stem}.json"


def cut_labelled(
    csv_path: Path, output_dir: Path, size: int, stride: int | None, val_share: float, seed: int
) -> None:
    """Split the images that a csv lists, cut those not cut yet and print how many patches.

    size, stride: of the patches, in pixels; None: no overlap. Raises `UserError` if no image has
    a patch of that size, before any work if one was cut otherwise before, and what `read_labels`,
    `split_images` and `cut_image` raise.
    """
    images = read_labels(csv_path)
    split = split_images(images, val_share, seed)
    counts: Counter[tuple[str, str]] = Counter()  # of patches by (split, label)
    todo: list[tuple[Image, Record]] = []
    for image in images:
        cut = Record(size, stride or size, image.label, split[image.path], 0)
        path = _record_path(image, output_dir)
        if not path.exists():
            todo.append((image, cut))
            continue
        record = from_plain(Record, read_json(path), path)
        if replace(record, patches=0) != cut:
            raise UserError(
                f"{output_dir} holds patches of {image.path.name} that were cut otherwise or "
                "belong to another split or label; remove it or choose another --output_dir"
            )
        counts[cut.split, cut.label] += record.patches
    if len(todo) < len(images):
        print(f"{len(images) - len(todo)} images are cut already")
    for image, cut in tqdm(todo, "cutting images", unit="image", dynamic_ncols=True):
        counts[cut.split, cut.label] += cut_image(image, cut, output_dir)
    if not counts.total():
        raise UserError(
            f"no image of {csv_path} has a patch of {size} pixels; give a smaller --patch_size"
        )
    for kind in SPLITS:
        numbers = (f"{counts[kind, label]} {label}" for label in labels.CLASS_FOLDERS)
        print(f"{kind}: {', '.join(numbers)} patches")
