"""`python -m fcd.synthetic`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Ge

from fcd.cli.parser import parse
from fcd.synthetic.layout import write_data_set, write_images


@dataclass(frozen=True)
class Settings:
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


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw a data set as the command line says."""
    asked = parse(Settings, arguments, "-m fcd.synthetic")
    if asked.images:
        print(f"labels: {write_images(asked.output_dir, asked.images, asked.size, asked.seed)}")
        return
    write_data_set(asked.output_dir, asked.scenes_per_biome, asked.size, asked.seed)
