"""Scenes to patches: whole in memory one after the other, against strips in several processes."""

import itertools
import shutil
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from benchmarks import measure, plain
from benchmarks.measure import Comparison
from benchmarks.scenes import unpack, write_scene
from fcd.cli import entry
from fcd.cli.parser import positive
from fcd.landsat.scenes import Scene, find_scenes
from fcd.patches.cutting import cut_scene
from fcd.patches.records import Cutting


def main(arguments: Sequence[str] | None = None) -> list[Comparison]:
    """Run the command line; return what was measured."""
    parser = measure.parser(__doc__, rounds=3)
    parser.add_argument("--sides", type=positive, nargs="+", default=[2000, 4000], help="pixels")
    parser.add_argument(
        "--compress",
        choices=["none", "deflate"],
        nargs="+",
        default=["none", "deflate"],
        help="of the bands: none, as in Landsat-8 Biome; deflate, as in Collection 2",
    )
    parser.add_argument("--patch_size", type=positive, default=128, help="side in pixels")
    parser.add_argument("--num_workers", type=positive, default=2, help="processes, and scenes")
    flags = parser.parse_args(arguments)
    cutting, made = Cutting(flags.patch_size, flags.patch_size), []
    # A run starts its processes once for all scenes: that is not measured.
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(flags.num_workers, get_context("spawn")) as pool,
    ):
        for side, compress in itertools.product(flags.sides, flags.compress):
            root = Path(folder, str(side))
            for number in range(flags.num_workers):
                written = write_scene(root / "scenes", side, side, number)
                if compress == "none":
                    unpack(written)
            scenes, out = find_scenes(root / "scenes"), root / "out"

            def plainly(scenes: list[Scene] = scenes, out: Path = out) -> int:
                return sum(plain.cut(scene, out, cutting) for scene in scenes)

            def alone(scenes: list[Scene] = scenes, out: Path = out) -> None:
                for scene in scenes:
                    cut_scene(scene, out, "train", cutting)

            def shared(scenes: list[Scene] = scenes, out: Path = out) -> None:
                cut = partial(cut_scene, image_dir=out, split="train", cutting=cutting)
                list(pool.map(cut, scenes))

            number = plainly()
            for ours, processes in ((alone, 1), (shared, flags.num_workers)):
                made.append(
                    measure.compare(
                        f"{len(scenes)} scenes of {side}², {compress}, processes: {processes}",
                        "patches/s",
                        number,
                        plainly,
                        ours,
                        flags.rounds,
                        before=partial(shutil.rmtree, out, ignore_errors=True),
                    )
                )
            shutil.rmtree(root)
    measure.show(made, flags.json)
    return made


if __name__ == "__main__":
    entry.run(lambda: main() and 0)
