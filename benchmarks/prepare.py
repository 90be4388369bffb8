"""Scenes to patches."""

import itertools
import shutil
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge

from benchmarks import measure, plain
from benchmarks.measure import Comparison
from benchmarks.scenes import unpack, write_scene
from fcd.cli import entry
from fcd.landsat.scenes import Scene, find_scenes
from fcd.patches.cutting import Cutting, cut_scene


@dataclass(frozen=True)
class Settings(measure.Settings):
    """Scenes to patches.

    Whole in memory one after the other, against strips in several processes.
    """

    sides: Annotated[list[int], Ge(1), "pixels"] = field(default_factory=lambda: [2000, 4000])
    compress: Annotated[
        list[Literal["none", "deflate"]],
        "of the bands: none, as in Landsat-8 Biome; deflate, as in Collection 2",
    ] = field(default_factory=lambda: ["none", "deflate"])
    patch_size: Annotated[int, Ge(1), "side in pixels"] = 128
    num_workers: Annotated[int, Ge(1), "processes, and scenes"] = 2


def main(arguments: Sequence[str] | None = None) -> list[Comparison]:
    """Run the command line; return what was measured."""
    flags = measure.asked(Settings, arguments, "prepare")
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
    return measure.show(made, flags.json)


if __name__ == "__main__":
    entry.run(lambda: main() and 0)
