"""`python -m fcd.cut`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Interval

from fcd.cli.parser import parse
from fcd.patches.labelled import cut_labelled


@dataclass(frozen=True)
class Settings:
    """Cut labelled GeoTIFFs into patches to train on with `--dataset Patches`."""

    csv: Annotated[Path, "columns path and label (clear or cloudy)"]
    output_dir: Annotated[Path, "folder of the patches"]
    patch_size: Annotated[int, Ge(1), "patch side in pixels"] = 128
    stride: Annotated[
        int | None, Ge(1), "distance of patches in pixels; None: the patch size, no overlap"
    ] = None
    val_share: Annotated[float, Interval(ge=0, le=1), "share of the images for val"] = 0.2
    seed: Annotated[int, Ge(0), "seed of the split"] = 0


def main(arguments: Sequence[str] | None = None) -> None:
    """Cut as the command line says."""
    asked = parse(Settings, arguments, "-m fcd.cut")
    cut_labelled(
        asked.csv, asked.output_dir, asked.patch_size, asked.stride, asked.val_share, asked.seed
    )
