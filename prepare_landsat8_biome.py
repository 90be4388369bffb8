"""Cut scenes into patches with image-level labels; later, cut generated masks onto them."""

from pathlib import Path

from fcd.cli.options import (
    DEFAULT_IMAGE_DIR,
    DEFAULT_SCENE_DIR,
    Parser,
    fraction,
    natural,
    positive,
    run,
)
from fcd.landsat.reference import QA, TRUTH
from fcd.landsat.scenes import find_scenes
from fcd.patches.cutting import prepare
from fcd.patches.generated import GENERATED_MASK, add_masks
from fcd.patches.records import MARGINS, Cutting


def build_parser() -> Parser:
    """The command line."""
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--data_path",
        "--orig_image_dir",
        type=Path,
        default=Path(DEFAULT_SCENE_DIR),
        help="folder of the scenes, <biome>/<scene>/…",
    )
    parser.add_argument(
        "--output_dir", type=Path, default=Path(DEFAULT_IMAGE_DIR), help="folder of the patches"
    )
    parser.add_argument(
        "--generated_masks",
        type=Path,
        metavar="DIR",
        help="cut the masks in DIR (main.py --mode generate_masks) onto the training patches",
    )
    parser.add_argument(
        "--generated_mask_file",
        default=GENERATED_MASK,
        metavar="NAME",
        help="name of the mask that --generated_masks writes into each patch",
    )
    parser.add_argument(
        "--split_file",
        type=Path,
        help="csv with the columns scene,split (train, val or test) to use instead of drawing one",
    )
    parser.add_argument(
        "--stratify",
        choices=["biome", "cloud"],
        default="biome",
        help="biome: 3:1:2 at random within each biome, as the paper; cloud: also spread scenes "
        "of similar cloud share over the splits",
    )
    parser.add_argument("--seed", type=natural, default=1337, help="seed of the split")
    parser.add_argument("--patch_size", type=positive, default=128, help="patch side in pixels")
    parser.add_argument(
        "--stride",
        type=positive,
        default=None,
        help="distance of patches in pixels; None: the patch size, no overlap",
    )
    parser.add_argument(
        "--labels",
        choices=list(MARGINS),
        default=TRUTH,
        help="where the patches' labels come from; truth: the manual masks (_fixedmask.img); "
        "qa: the scenes' own quality bands (BQA, QA_PIXEL), for Level-1 scenes without a manual "
        "mask: mask.tif is then the QA band's, and tests compare with the QA band. A biome (the "
        "folder) with fewer than 6 scenes has no validation scene, with fewer than 3 no test scene",
    )
    parser.add_argument(
        "--clear_below",
        type=fraction,
        default=None,
        help="a patch is clear if its share of cloud pixels is at most this; "
        f"None: {MARGINS[TRUTH][0]}, with --labels qa {MARGINS[QA][0]}",
    )
    parser.add_argument(
        "--cloudy_above",
        type=fraction,
        default=None,
        help="a patch is cloudy if its share of cloud pixels exceeds this; between the two it "
        f"is left out; None: {MARGINS[TRUTH][1]}, with --labels qa {MARGINS[QA][1]}",
    )
    parser.add_argument(
        "--num_workers", type=positive, default=2, help="scenes cut at the same time"
    )
    return parser


def main() -> int:
    """Run the command line; return the exit code."""
    flags = build_parser().parse_args()
    scenes = find_scenes(flags.data_path)
    if flags.generated_masks:
        add_masks(
            scenes,
            flags.generated_masks,
            flags.output_dir,
            flags.generated_mask_file,
            flags.num_workers,
        )
        return 0
    cutting = Cutting.of(
        flags.patch_size,
        flags.stride,
        flags.clear_below,
        flags.cloudy_above,
        flags.labels,
    )
    by_cloud = flags.stratify == "cloud"
    return prepare(
        scenes,
        flags.output_dir,
        cutting,
        flags.split_file,
        flags.seed,
        by_cloud,
        flags.num_workers,
    )


if __name__ == "__main__":
    run(main)
