"""Cut scenes into patches with image-level labels; later, cut generated masks onto them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge

from fcd.cli import entry
from fcd.cli.parser import Flag, parse
from fcd.cli.settings import (
    IMAGE_DIR,
    SCENE_DIR,
    UNIT,
    GeneratedMaskFile,
    MaskCodes,
    PatchSize,
    Stride,
)
from fcd.landsat.bands import listed_bands
from fcd.landsat.labels import truth_decoder
from fcd.landsat.reference import QA, TRUTH
from fcd.landsat.scenes import find_scenes
from fcd.patches.cutting import MARGINS, Cutting, prepare
from fcd.patches.generated import GENERATED_MASK, add_masks


@dataclass(frozen=True)
class Settings:
    """Cut scenes into patches with image-level labels; later, cut generated masks onto them."""

    data_path: Annotated[
        Path, Flag("--orig_image_dir"), "folder of the scenes, <biome>/<scene>/…"
    ] = Path(SCENE_DIR)
    output_dir: Annotated[Path, "folder of the patches"] = Path(IMAGE_DIR)
    generated_masks: Annotated[
        Path | None,
        Flag(metavar="DIR"),
        "cut the masks in DIR (main.py --mode generate_masks) onto the training patches",
    ] = None
    generated_mask_file: GeneratedMaskFile = GENERATED_MASK
    split_file: Annotated[
        Path | None,
        "csv with the columns scene,split (train, val or test) to use instead of drawing one",
    ] = None
    stratify: Annotated[
        Literal["biome", "cloud"],
        "biome: 3:1:2 at random within each biome, as the paper; cloud: also spread scenes of "
        "similar cloud share over the splits",
    ] = "biome"
    seed: Annotated[int, Ge(0), "seed of the split"] = 1337
    patch_size: PatchSize = 128
    stride: Stride = None
    bands: Annotated[
        str,
        Flag(metavar="B2-B7,B9,B10"),
        "bands of the patches, in order; what is trained on them takes these, by name, from the "
        "scenes it masks, and does without the others",
    ] = "B1-B11"
    labels: Annotated[
        Literal["truth", "qa"],
        "where the patches' labels come from; truth: the manual masks (_fixedmask.img); qa: the "
        "scenes' own quality bands (BQA, QA_PIXEL), for Level-1 scenes without a manual mask: "
        "mask.tif is then the QA band's, and tests compare with the QA band. A biome (the folder) "
        "with fewer than 6 scenes has no validation scene, with fewer than 3 no test scene",
    ] = "truth"
    mask_codes: MaskCodes = None
    clear_below: Annotated[
        float | None,
        UNIT,
        "a patch is clear if its share of cloud pixels is at most this; "
        f"None: {MARGINS[TRUTH][0]}, with --labels qa {MARGINS[QA][0]}",
    ] = None
    cloudy_above: Annotated[
        float | None,
        UNIT,
        "a patch is cloudy if its share of cloud pixels exceeds this; between the two it is left "
        f"out; None: {MARGINS[TRUTH][1]}, with --labels qa {MARGINS[QA][1]}",
    ] = None
    num_workers: Annotated[int, Ge(1), "scenes cut at the same time"] = 2


def main() -> int:
    """Run the command line; return the exit code."""
    asked = parse(Settings)
    scenes = find_scenes(asked.data_path, truth_decoder(asked.mask_codes))
    image_dir, workers = asked.output_dir, asked.num_workers
    if asked.generated_masks:
        add_masks(scenes, asked.generated_masks, image_dir, asked.generated_mask_file, workers)
        return 0
    margins = (asked.clear_below, asked.cloudy_above)
    bands = listed_bands(asked.bands, "--bands")
    how = (margins, asked.labels, bands, asked.mask_codes)
    cutting = Cutting.of(asked.patch_size, asked.stride, *how)
    by_cloud = asked.stratify == "cloud"
    return prepare(scenes, image_dir, cutting, asked.split_file, asked.seed, by_cloud, workers)


if __name__ == "__main__":
    entry.run(main)
