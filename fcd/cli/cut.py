"""Cut labelled GeoTIFFs into patches to train on with `--dataset Patches`.

python -m fcd.cut --csv labels.csv --output_dir data/own --patch_size 128
"""

from collections.abc import Sequence
from pathlib import Path

from fcd.cli import options
from fcd.patches.labelled import cut_labelled


def main(arguments: Sequence[str] | None = None) -> None:
    """Cut as the command line says."""
    parser = options.Parser(prog="python -m fcd.cut", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--csv", type=Path, required=True, help="columns path and label (clear or cloudy)")
    add("--output_dir", type=Path, required=True, help="folder of the patches")
    add("--patch_size", type=options.positive, default=128, help="patch side in pixels")
    add(
        "--stride",
        type=options.positive,
        default=None,
        help="distance of patches in pixels; None: the patch size, no overlap",
    )
    add("--val_share", type=options.fraction, default=0.2, help="share of the images for val")
    add("--seed", type=options.natural, default=0, help="seed of the split")
    flags = parser.parse_args(arguments)
    cut_labelled(
        flags.csv, flags.output_dir, flags.patch_size, flags.stride, flags.val_share, flags.seed
    )
