"""Draw Landsat-8 scenes in the layout of L8 Biome, for the demo and the tests.

    python -m fcd.synthetic --output_dir data/synthetic --scenes_per_biome 6 --size 384 --seed 0

With --images it draws instead what an own data set may be: small images of three bands.
"""

from collections.abc import Sequence

from fcd.cli import options
from fcd.synthetic.layout import write_data_set, write_images


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw a data set as the command line says."""
    parser = options.Parser(prog="-m fcd.synthetic", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--output_dir", default="data/synthetic", help="folder for <biome>/<scene>/…")
    add("--scenes_per_biome", type=options.positive, default=6, help="scenes of each biome")
    add("--size", type=options.positive, default=384, help="side of a scene, pixels of 30 m")
    add("--seed", type=options.natural, default=0, help="seed; another one gives other scenes")
    add(
        "--images",
        type=options.positive,
        default=None,
        help="draw so many images of --size pixels instead: three bands of uint8, masks, "
        "labels.csv, and whole scenes to predict",
    )
    flags = parser.parse_args(arguments)
    if flags.images:
        print(f"labels: {write_images(flags.output_dir, flags.images, flags.size, flags.seed)}")
        return
    write_data_set(flags.output_dir, flags.scenes_per_biome, flags.size, flags.seed)
