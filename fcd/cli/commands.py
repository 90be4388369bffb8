"""The small commands: `python -m fcd.cut`, `crops`, `folds`, `synthetic` and `comparison`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Ge

from fcd.cli.parser import Flag, parse
from fcd.cli.settings import SCENE_DIR, UNIT, MaskCodes, PatchSize, Stride
from fcd.errors import UserError
from fcd.landsat.bands import BANDS, listed_bands
from fcd.landsat.labels import truth_decoder
from fcd.landsat.reference import TRUTH
from fcd.landsat.scenes import find_scenes
from fcd.patches.crops import IMAGES, LIST, MASKS, crop_scenes
from fcd.patches.cutting import MARGINS, Cutting
from fcd.patches.labelled import cut_labelled
from fcd.report.runs import PUBLISHED_COLUMNS
from fcd.synthetic.layout import write_data_set, write_images
from fcd.synthetic.scene import Variety


@dataclass(frozen=True)
class Cut:
    """Cut labelled GeoTIFFs into patches to train on with `--dataset Patches`."""

    csv: Annotated[
        Path,
        "columns path and label (clear, cloudy, or nothing: by each patch's mask); if there, mask "
        "(a path), sun_elevation (degrees) and split (train, val, or test: not cut)",
    ]
    output_dir: Annotated[Path, "folder of the patches"]
    patch_size: PatchSize = 128
    stride: Stride = None
    clear_below: Annotated[
        float,
        UNIT,
        "a patch without a label is clear if its mask's share of cloud is at most this",
    ] = MARGINS[TRUTH][0]
    cloudy_above: Annotated[
        float, UNIT, "and cloudy if the share exceeds this; between the two it is left out"
    ] = MARGINS[TRUTH][1]
    mask_codes: MaskCodes = None
    val_share: Annotated[float, UNIT, "share of the images for val; not with a column split"] = 0.2
    seed: Annotated[int, Ge(0), "seed of the split"] = 0


def cut(arguments: Sequence[str] | None = None) -> None:
    """`python -m fcd.cut`."""
    asked = parse(Cut, arguments, "-m fcd.cut")
    margins = (asked.clear_below, asked.cloudy_above)
    cutting = Cutting.of(asked.patch_size, asked.stride, margins, TRUTH)
    how = (cutting, asked.val_share, asked.seed, asked.mask_codes)
    cut_labelled(asked.csv, asked.output_dir, *how)


@dataclass(frozen=True)
class Crop:
    """Crop scenes with manual masks, as the Biome data set has them, for the benchmark."""

    output_dir: Annotated[Path, f"folder of {IMAGES}/, {MASKS}/ and {LIST}"]
    data_path: Annotated[
        Path, Flag("--orig_image_dir"), "folder of the scenes, <biome>/<scene>/…"
    ] = Path(SCENE_DIR)
    crops: Annotated[int, Ge(1), "crops of each scene"] = 1
    size: Annotated[int, Ge(1), "side of a crop, pixels"] = 256
    bands: Annotated[str | None, "such as B2-B7,B9,B10; None: all ten"] = None
    mask_codes: MaskCodes = None
    seed: Annotated[int, Ge(0), "seed of the places"] = 0


def crop(arguments: Sequence[str] | None = None) -> None:
    """`python -m fcd.crops`."""
    asked = parse(Crop, arguments, "-m fcd.crops")
    scenes = find_scenes(asked.data_path, truth_decoder(asked.mask_codes))
    bands = listed_bands(asked.bands, "--bands") if asked.bands else BANDS
    how = (asked.crops, asked.size, bands, asked.seed)
    print(f"crops: {crop_scenes(scenes, asked.output_dir, *how)}")


@dataclass(frozen=True)
class Fold:
    """Leave-scenes-out folds of a benchmark's crops, each as a csv for `python -m fcd.cut`."""

    crops: Annotated[
        Path, Flag(metavar="DIR", positional=True), f"folder of {IMAGES}/, {MASKS}/ and {LIST}"
    ]
    output_dir: Annotated[
        Path, "folder of fold-0.csv, held-0.csv (its tested scenes), … and all.csv (no test)"
    ]
    folds: Annotated[int, Ge(2), "in how many each scene is tested once"] = 4
    seed: Annotated[int, Ge(0), "seed of the folds"] = 0


def fold(arguments: Sequence[str] | None = None) -> None:
    """`python -m fcd.folds`."""
    asked = parse(Fold, arguments, "-m fcd.folds")
    from fcd.patches.folds import write_folds  # with a library that --help does without

    for path in write_folds(asked.crops, asked.output_dir, asked.folds, asked.seed):
        print(f"fold: {path}")


@dataclass(frozen=True)
class Draw:
    """Draw Landsat-8 scenes in the layout of L8 Biome, for the demo and the tests."""

    output_dir: Annotated[Path, "folder for <biome>/<scene>/…"] = Path("data/synthetic")
    scenes_per_biome: Annotated[int, Ge(1), "scenes of each biome"] = 6
    size: Annotated[int, Ge(1), "side of a scene, pixels of 30 m"] = 384
    seed: Annotated[int, Ge(0), "seed; another one gives other scenes"] = 0
    variety: Annotated[
        Variety,
        "plain: fair weather under a high sun, as the demo; wide: any sky, sun and season, and "
        "masks as drawn by hand, to learn from for real scenes",
    ] = "plain"
    images: Annotated[
        int | None,
        Ge(1),
        "draw so many images of --size pixels instead: three bands of uint8, masks, labels.csv, "
        "and whole scenes to predict",
    ] = None


def draw(arguments: Sequence[str] | None = None) -> None:
    """`python -m fcd.synthetic`."""
    asked = parse(Draw, arguments, "-m fcd.synthetic")
    if asked.images:
        if asked.variety != "plain":
            raise UserError(
                f"--variety {asked.variety}: --images draws plain ones; leave one of the two out"
            )
        print(f"labels: {write_images(asked.output_dir, asked.images, asked.size, asked.seed)}")
    else:
        write_data_set(
            asked.output_dir, asked.scenes_per_biome, asked.size, asked.seed, asked.variety
        )


@dataclass(frozen=True)
class Compare:
    """Gather the evaluations of many runs into one table, one figure and one page."""

    runs: Annotated[
        list[Path], Flag(metavar="RUN_DIR", positional=True), "run folder, such as outputs/FCDPlus"
    ]
    output_dir: Annotated[Path, "folder to write to"] = Path("outputs/comparison")
    num_scenes: Annotated[int, Ge(0), "scenes shown as pictures; 0: none"] = 4
    crops: Annotated[
        Path | None,
        Flag(metavar="CSV"),
        f"{LIST} of the crops that were tested: biomes are its biomes, and intervals are over its "
        "scenes; None: what was tested are scenes",
    ] = None
    base: Annotated[
        str | None,
        Flag(metavar="METHOD"),
        "method that the others are compared with run by run, in the order given: differences are "
        "written to table.md and table.tex too",
    ] = None
    published: Annotated[
        Path | None,
        f"csv of published figures (%) with the columns {', '.join(PUBLISHED_COLUMNS)}; "
        "None: show none",
    ] = None


def compare(arguments: Sequence[str] | None = None) -> None:
    """`python -m fcd.comparison`."""
    asked = parse(Compare, arguments, "-m fcd.comparison")
    from fcd.report import comparison  # with libraries that --help does without

    how = (asked.published, asked.num_scenes, asked.crops, asked.base)
    comparison.compare(asked.runs, asked.output_dir, *how)
