"""The small commands: `python -m fcd.cut`, `fcd.synthetic` and `fcd.comparison`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Ge

from fcd.cli.parser import Flag, parse
from fcd.cli.settings import UNIT, PatchSize, Stride
from fcd.patches.labelled import cut_labelled
from fcd.report.runs import PUBLISHED_COLUMNS
from fcd.synthetic.layout import write_data_set, write_images


@dataclass(frozen=True)
class Cut:
    """Cut labelled GeoTIFFs into patches to train on with `--dataset Patches`."""

    csv: Annotated[Path, "columns path and label (clear or cloudy)"]
    output_dir: Annotated[Path, "folder of the patches"]
    patch_size: PatchSize = 128
    stride: Stride = None
    val_share: Annotated[float, UNIT, "share of the images for val"] = 0.2
    seed: Annotated[int, Ge(0), "seed of the split"] = 0


def cut(arguments: Sequence[str] | None = None) -> None:
    """`python -m fcd.cut`."""
    asked = parse(Cut, arguments, "-m fcd.cut")
    cut_labelled(
        asked.csv, asked.output_dir, asked.patch_size, asked.stride, asked.val_share, asked.seed
    )


@dataclass(frozen=True)
class Draw:
    """Draw Landsat-8 scenes in the layout of L8 Biome, for the demo and the tests."""

    output_dir: Annotated[Path, "folder for <biome>/<scene>/…"] = Path("data/synthetic")
    scenes_per_biome: Annotated[int, Ge(1), "scenes of each biome"] = 6
    size: Annotated[int, Ge(1), "side of a scene, pixels of 30 m"] = 384
    seed: Annotated[int, Ge(0), "seed; another one gives other scenes"] = 0
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
        print(f"labels: {write_images(asked.output_dir, asked.images, asked.size, asked.seed)}")
    else:
        write_data_set(asked.output_dir, asked.scenes_per_biome, asked.size, asked.seed)


@dataclass(frozen=True)
class Compare:
    """Gather the evaluations of many runs into one table, one figure and one page."""

    runs: Annotated[
        list[Path], Flag(metavar="RUN_DIR", positional=True), "run folder, such as outputs/FCDPlus"
    ]
    output_dir: Annotated[Path, "folder to write to"] = Path("outputs/comparison")
    num_scenes: Annotated[int, Ge(0), "scenes shown as pictures; 0: none"] = 4
    published: Annotated[
        Path | None,
        f"csv of published figures (%) with the columns {', '.join(PUBLISHED_COLUMNS)}; "
        "None: show none",
    ] = None


def compare(arguments: Sequence[str] | None = None) -> None:
    """`python -m fcd.comparison`."""
    asked = parse(Compare, arguments, "-m fcd.comparison")
    from fcd.report import comparison  # with libraries that --help does without

    comparison.compare(asked.runs, asked.output_dir, asked.published, asked.num_scenes)
