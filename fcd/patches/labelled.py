"""Cut labelled GeoTIFFs into patches to train on with `--dataset Patches`.

The csv has the columns path (relative to the csv) and label: clear or cloudy, what holds for all of
the image, or nothing, and then each patch is labelled by its share of cloud in the mask. Columns it
may have: mask (a path like the other; else ``<name>_mask.tif`` beside the image is cut along),
sun_elevation (degrees; kept in the patches as a tag, as that of the image is) and split. Patches of
one image stay in one split; what is to be tested stays whole.
"""

import itertools
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from rasterio.errors import RasterioIOError
from rasterio.windows import Window
from tqdm import tqdm

from fcd.errors import UserError
from fcd.files import csv_rows, file_digest, from_plain, read_json, write_json
from fcd.landsat import labels
from fcd.landsat.bands import described
from fcd.landsat.radiometry import SUN_ELEVATION, sun_elevation
from fcd.landsat.rasters import (
    Grid,
    names_of,
    nodata_of,
    opened,
    pixel_bands,
    plain,
    require_fit,
    write_raster,
)  # fmt: skip
from fcd.landsat.reference import TRUTH
from fcd.patches.cutting import MARGINS, RECORDS, Cutting, patch_name
from fcd.patches.normalisation import DTYPES, known
from fcd.patches.sources import MASK_ENDING, SUFFIXES, is_mask, read_image
from fcd.patches.splits import SPLITS

BY_MASK = ""  # in place of a label


@dataclass(frozen=True)
class Image:
    """A row of the csv."""

    path: Path
    label: str  # clear, cloudy or `BY_MASK`
    mask: Path | None = None
    split: str | None = None  # None: drawn
    sun_elevation: str | None = None  # degrees; None: as the file says, if it does


@dataclass(frozen=True)
class Record:
    """How an image is cut, where its patches go, and how many there are; a JSON file says so."""

    size: int  # of patches, in pixels
    stride: int  # distance of patches in pixels
    clear_below: float  # shares of cloud, of `Cutting`, which count without a label
    cloudy_above: float
    label: str  # of `Image`
    split: str
    mask_codes: str = ""  # of the masks, if they are not the usual ones
    mask: str = ""  # digest of its file, if there is one; earlier versions did not say
    sun_elevation: str = ""  # of `Image`
    image: str = ""  # digest of its file; earlier versions did not say
    clear: int = 0  # patches
    cloudy: int = 0


def read_labels(path: Path) -> list[Image]:
    """The images a csv lists, in its order.

    Raises `UserError` with the line number for a row that cannot be used: no such file, no such
    label or split, a name that is there twice, or other bands or another type than the first.
    """
    images: dict[str, Image] = {}
    kinds: dict[tuple[str, str, float | None], int] = {}
    rows = csv_rows(path, ("path", "label"), "--csv")
    for line, row in tqdm(rows, "checking images", leave=False, dynamic_ncols=True):
        told = f"{path} line {line}"
        image = _image(row, path.parent, told)
        file = image.path
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
                f"{told}: {row['path']} has {described(bands)} of {dtype}, nodata {nodata}; that "
                f"of line {kinds[first]} has {first[0]} of {first[1]}, nodata {first[2]}"
            )
        images[file.stem] = image
    if not images:
        raise UserError(f"{path} lists no image")
    return list(images.values())


def _image(row: dict[str, str | None], folder: Path, told: str) -> Image:
    """The image of a row, whose paths start at `folder`; `UserError` if it says what cannot be."""
    name, label, split = row["path"], row["label"], row.get("split")
    if label not in (*labels.CLASS_FOLDERS, BY_MASK):
        raise UserError(f"{told}: label {label!r} is neither clear nor cloudy")
    file = folder / (name or "")
    if not file.is_file() or file.suffix.lower() not in SUFFIXES:
        raise UserError(f"{told}: {name!r} is no GeoTIFF file; paths start at the csv's folder")
    if is_mask(file):
        raise UserError(f"{told}: {name!r} is a mask by its name; rename it")
    mask: Path | None = file.with_name(f"{file.stem}{MASK_ENDING}")
    if named := row.get("mask"):
        mask = folder / named
        if not mask.is_file():
            raise UserError(f"{told}: mask {named!r} is no file; paths start at the csv's folder")
    elif mask and not mask.exists():
        mask = None
    if label == BY_MASK and mask is None:
        raise UserError(
            f"{told}: neither a label nor a mask to take it from; write clear or cloudy, or name "
            "the mask in a column mask"
        )
    if "split" in row and split not in SPLITS:
        raise UserError(f"{told}: split {split!r} is none of {', '.join(SPLITS)}")
    sun = row.get("sun_elevation") or None
    if sun is not None:
        sun_elevation(sun, told)
    return Image(file, label, mask, split, sun)


def split_images(images: Sequence[Image], val_share: float, seed: int) -> dict[Path, str]:
    """Path -> split: as the csv says, else of each label `val_share` of the images, at random, val.

    At least one, unless the share is 0, and the others train; whatever the order of `images`.
    Raises `UserError` if a label would be left without a training image.
    """
    chosen = {image.path: image.split for image in images if image.split is not None}
    if chosen:
        return chosen
    kinds = {image.label for image in images}
    for label in sorted(kinds if BY_MASK in kinds else kinds | {*labels.CLASS_FOLDERS}):
        members = sorted(image.path for image in images if image.label == label)
        random.Random(f"{seed} {label}").shuffle(members)
        val = max(1, round(val_share * len(members))) if val_share else 0
        if val >= len(members):
            raise UserError(
                f"{len(members)} images are {label or 'without a label'}: with --val_share "
                f"{val_share:g} none is left to train on; label more of them, or give "
                "--val_share 0 for no validation"
            )
        chosen |= {path: "val" if n < val else "train" for n, path in enumerate(members)}
    return chosen


def cut_image(image: Image, cut: Record, output_dir: Path) -> Record:
    """Write the patches of an image that hold data, as `cut` says; return it with their number.

    The remainder at the right and the bottom is dropped. Of the split test the image is written
    whole, among the cloudy ones if it holds any cloud. The record ``scenes/<name>.json``, written
    last, says that the image is done. Raises `UserError` if it is damaged, or its mask has another
    size or lies elsewhere.
    """
    written: Counter[str] = Counter()
    whole = cut.split == "test"
    margins = MARGINS[TRUTH] if whole else (cut.clear_below, cut.cloudy_above)
    cutting = Cutting(cut.size, cut.stride, *margins)
    try:
        with ExitStack() as stack:
            dataset = stack.enter_context(opened(image.path))
            mask = stack.enter_context(opened(image.mask)) if image.mask else None
            grid, marked = Grid.of(dataset), nodata_of(dataset)
            if mask and image.mask:
                require_fit(Grid.of(mask), grid, image.mask)
            bands = [dataset.descriptions[number - 1] for number in pixel_bands(dataset)]
            decode = labels.truth_decoder(cut.mask_codes or None)
            sun = image.sun_elevation or dataset.tags().get(SUN_ELEVATION)
            tags = {SUN_ELEVATION: sun} if sun else {}
            for name, window, place in _windows(image.path.stem, grid, None if whole else cutting):
                pixels, nodata = read_image(dataset, window)
                valid = known(plain(pixels), nodata).any(axis=0)
                if not valid.any():
                    continue
                label, codes = cut.label, None
                if mask:
                    codes = mask.read(1, window=window)
                    patch = decode(codes, str(image.mask))  # none but known ones
                    codes = labels.tif_from_patch(patch) if cut.mask_codes else codes
                    if label == BY_MASK:
                        found = cutting.label(np.where(valid, patch, labels.INVALID))
                        if found is None:
                            continue
                        label = labels.CLASS_FOLDERS[found]
                folder = output_dir / cut.split / label
                if codes is not None:
                    path = folder / f"{name}{MASK_ENDING}"
                    write_raster(path, codes[None], place, labels.TIF_NODATA)
                hidden = np.logical_or.reduce(np.ma.getmaskarray(pixels))
                path, pixels = folder / f"{name}.tif", np.ma.getdata(pixels)
                write_raster(path, pixels, place, marked, bands, tags, hidden)
                written[label] += 1
    except RasterioIOError as error:
        raise UserError(f"{image.path} is damaged ({error}); get it again, or unlist it") from error
    record = replace(cut, clear=written["clear"], cloudy=written["cloudy"])
    write_json(_record_path(image, output_dir), asdict(record))
    return record


def _codes(path: Path, mask_codes: str | None) -> np.ndarray:
    """Patch codes (h, w) of a mask; `UserError` if it cannot be read."""
    try:
        with opened(path) as dataset:
            return labels.truth_decoder(mask_codes)(dataset.read(1), str(path))
    except RasterioIOError as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def _windows(stem: str, grid: Grid, cutting: Cutting | None) -> Iterator[tuple[str, Window, Grid]]:
    """Name, window and place of every patch of a raster; None: of the whole as one."""
    if cutting is None:
        yield stem, Window(0, 0, grid.width, grid.height), grid
        return
    rows = range(0, grid.height - cutting.size + 1, cutting.stride)
    columns = range(0, grid.width - cutting.size + 1, cutting.stride)
    for row, column in itertools.product(rows, columns):
        window = Window(column, row, cutting.size, cutting.size)
        yield patch_name(stem, row, column), window, grid.square(row, column, cutting.size)


def _record_path(image: Image, output_dir: Path) -> Path:
    return output_dir / RECORDS / f"{image.path.stem}.json"


def cut_labelled(
    csv_path: Path,
    output_dir: Path,
    cutting: Cutting,
    val_share: float,
    seed: int,
    mask_codes: str | None = None,
) -> None:
    """Split the images that a csv lists, cut those not cut yet and print how many patches.

    mask_codes: see `fcd.landsat.labels.truth_decoder`; patches' masks have the usual ones. Raises
    `UserError` if no image has a patch of that size, before any work if one was cut otherwise
    before or no mask has a clear pixel, and what `read_labels`, `split_images` and `cut_image`
    raise.
    """
    images = read_labels(csv_path)
    listed = {_record_path(image, output_dir) for image in images}
    if more := sorted({*Path(output_dir, RECORDS).glob("*.json")} - listed):
        raise UserError(
            f"{output_dir} holds patches of {len(more)} images that {csv_path} does not list, such "
            f"as {more[0].stem}; remove it or choose another --output_dir"
        )
    masks = (_codes(image.mask, mask_codes) for image in images if image.mask)
    labels.require_clear(masks, f"the images of {csv_path}")
    split = split_images(images, val_share, seed)
    records: list[Record] = []
    todo: list[tuple[Image, Record]] = []
    how = (cutting.size, cutting.stride, cutting.clear_below, cutting.cloudy_above)
    for image in images:
        mask = file_digest(image.mask) if image.mask else ""
        told = (mask_codes or "", mask, image.sun_elevation or "", file_digest(image.path))
        cut = Record(*how, image.label, split[image.path], *told)
        path = _record_path(image, output_dir)
        if not path.exists():
            todo.append((image, cut))
            continue
        record = from_plain(Record, read_json(path), path)
        record = replace(record, image=record.image or cut.image)
        then, now = asdict(replace(record, clear=0, cloudy=0)), asdict(cut)
        if changed := [f"{k} {then[k]!r} then, {now[k]!r} now" for k in now if then[k] != now[k]]:
            raise UserError(
                f"{output_dir} holds patches of {image.path.name} that were cut otherwise "
                f"({'; '.join(changed)}); remove it or choose another --output_dir"
            )
        records.append(record)
    if records:
        print(f"{len(records)} images are cut already")
    for image, cut in tqdm(todo, "cutting images", unit="image", dynamic_ncols=True):
        records.append(cut_image(image, cut, output_dir))
    learned = [record for record in records if record.split != "test"]
    if learned and not any(record.clear + record.cloudy for record in learned):
        raise UserError(
            f"no image of {csv_path} has a patch of {cutting.size} pixels; give a smaller "
            "--patch_size"
        )
    for kind in SPLITS:
        if members := [record for record in records if record.split == kind]:
            clear, cloudy = (sum(getattr(r, f) for r in members) for f in labels.CLASS_FOLDERS)
            unit = "images" if kind == "test" else "patches"
            print(f"{kind}: {clear} clear, {cloudy} cloudy {unit}")
