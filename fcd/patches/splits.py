"""Which scene trains, validates or tests: drawn, or read from a csv."""

import csv
import random
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from fcd.errors import SceneError, UserError
from fcd.files import csv_rows, replacing
from fcd.landsat import labels
from fcd.landsat.reference import Reference
from fcd.landsat.scenes import Scene

SPLITS = ("train", "val", "test")
SPLIT_FILE = "split.csv"


def choose_split(
    scenes: list[Scene], image_dir: Path, split_file: Path | None, seed: int, by_cloud: str | None
) -> dict[str, str]:
    """Scene name -> split: from `split_file`, from an earlier split.csv, or drawn.

    by_cloud: what says how cloudy a scene is, to spread clear and cloudy scenes; None: nothing.
    Raises `UserError` if a scene on disk is not in the file.
    """
    source = split_file or image_dir / SPLIT_FILE
    if not split_file and not source.exists():
        share = {s.name: _cloud_share(s, by_cloud) for s in scenes} if by_cloud else None
        return split_scenes(scenes, seed, share)
    split = read_split(source)
    if unknown := [scene.name for scene in scenes if scene.name not in split]:
        raise UserError(
            f"{source} does not say where scene {unknown[0]} belongs ({len(unknown)} scenes "
            "are missing); add a line for each, or remove the file to draw a new split"
        )
    absent = len(split) - len(scenes)
    others = f"; {absent} of its scenes are not here" if absent else ""
    print(f"split from {source}, --seed and --stratify do not matter{others}")
    return split


def _cloud_share(scene: Scene, source: str) -> float:
    """Share of cloud in [0, 1], from every 8th pixel; 0 if unreadable, told when it is cut."""
    try:
        with scene.open() as reader:
            return labels.cloud_share(Reference(scene, source).mask(reader, step=8))
    except SceneError:
        return 0.0


def split_scenes(
    scenes: Iterable[Scene], seed: int, cloud_share: dict[str, float] | None = None
) -> dict[str, str]:
    """Scene name -> split, 3:1:2 train/val/test at random within each biome.

    Names and seed alone decide, not the order given. With `cloud_share` (scene name -> share in
    [0, 1]) each biome is first cut into groups of six scenes of similar cloud share, and each
    group is split 3:1:2.
    """
    by_biome = defaultdict(list)
    for biome, name in sorted((scene.biome, scene.name) for scene in scenes):
        by_biome[biome].append(name)
    chosen: dict[str, str] = {}
    for biome, names in by_biome.items():
        generator, size = random.Random(f"{seed} {biome}"), len(names)
        if cloud_share is not None:
            names, size = sorted(names, key=lambda name: (cloud_share[name], name)), 6
        for start in range(0, len(names), size):
            group = names[start : start + size]
            generator.shuffle(group)
            test, val = len(group) * 2 // 6, len(group) // 6
            kinds = ["test"] * test + ["val"] * val + ["train"] * (len(group) - test - val)
            chosen |= zip(group, kinds, strict=True)
    return chosen


def write_split(path: Path, scenes: Iterable[Scene], split: dict[str, str]) -> None:
    """Write biome, scene and split as a csv that a person can edit and pass back."""
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["biome", "scene", "split"])
        writer.writerows([scene.biome, scene.name, split[scene.name]] for scene in scenes)


def read_split(path: Path | str) -> dict[str, str]:
    """Scene name -> split from a csv with the columns scene and split.

    Raises `UserError` with the line number for a scene given twice or an unknown split.
    """
    split: dict[str, str] = {}
    for line, row in csv_rows(path, ("scene", "split"), "split file"):
        scene, kind = row["scene"], row["split"]
        if kind not in SPLITS:
            raise UserError(f"{path} line {line}: split {kind!r} is none of {', '.join(SPLITS)}")
        if not scene or scene in split:
            raise UserError(f"{path} line {line}: scene {scene!r} is empty or there twice")
        split[scene] = kind
    return split
