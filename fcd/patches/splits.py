"""Which scene trains, validates or tests: drawn, or read from a csv."""

import csv
import random
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from fcd.errors import SceneError, UserError
from fcd.files import replacing
from fcd.landsat import labels
from fcd.landsat.reference import Reference
from fcd.landsat.scenes import Scene

SPLITS = ("train", "val", "test")
SPLIT_FILE = "split.csv"


def split_scenes(
    scenes: Iterable[Scene], seed: int, cloud_share: dict[str, float] | None = None
) -> dict[str, str]:
    """Scene name -> split, 3:1:2 train/val/test at random within each biome.

    The result depends on the names and the seed alone, not on the order given. With
    `cloud_share` (scene name -> share in [0, 1]) each biome is first cut into groups of six
    scenes of similar cloud share, and each group is split 3:1:2.
    """
    by_biome = defaultdict(list)
    for scene in sorted(scenes, key=lambda scene: (scene.biome, scene.name)):
        by_biome[scene.biome].append(scene.name)
    chosen = {}
    for biome, names in by_biome.items():
        generator = random.Random(f"{seed} {biome}")
        size = len(names)
        if cloud_share is not None:
            names, size = sorted(names, key=lambda name: (cloud_share[name], name)), 6
        for start in range(0, len(names), size):
            chosen |= _split_group(names[start : start + size], generator)
    return chosen


def _split_group(names: list[str], generator: random.Random) -> dict[str, str]:
    names = names.copy()
    generator.shuffle(names)
    test, val = len(names) * 2 // 6, len(names) // 6
    kinds = ["test"] * test + ["val"] * val + ["train"] * (len(names) - test - val)
    return dict(zip(names, kinds, strict=True))


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
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if not {"scene", "split"} <= set(reader.fieldnames or ()):
                raise UserError(f"{path}: the first line must name the columns scene,split")
            rows = [(reader.line_num, row["scene"], row["split"]) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"split file {path} cannot be read: {error}") from error
    split = {}
    for line, scene, kind in rows:
        if kind not in SPLITS:
            raise UserError(f"{path} line {line}: split {kind!r} is none of {', '.join(SPLITS)}")
        if not scene or scene in split:
            raise UserError(f"{path} line {line}: scene {scene!r} is empty or there twice")
        split[scene] = kind
    return split


def choose_split(
    scenes: list[Scene],
    image_dir: Path,
    split_file: Path | None,
    seed: int,
    by_cloud: str | None,
) -> dict[str, str]:
    """Scene name -> split: from `split_file`, from an earlier split.csv, or drawn.

    by_cloud: what says how cloudy a scene is, to spread clear and cloudy scenes; None: nothing.
    Raises `UserError` if a scene on disk is not in the file.
    """
    written = image_dir / SPLIT_FILE
    source = split_file or (written if written.exists() else None)
    if source is None:
        share = {s.name: known_cloud_share(s, by_cloud) for s in scenes} if by_cloud else None
        return split_scenes(scenes, seed, share)
    split = read_split(source)
    unknown = [scene.name for scene in scenes if scene.name not in split]
    if unknown:
        raise UserError(
            f"{source} does not say where scene {unknown[0]} belongs ({len(unknown)} scenes "
            "are missing); add a line for each, or remove the file to draw a new split"
        )
    absent = len(split) - len(scenes)
    print(
        f"split from {source}, --seed and --stratify do not matter"
        + (f"; {absent} of its scenes are not here" * bool(absent))
    )
    return split


def known_cloud_share(scene: Scene, source: str) -> float:
    """Cloud share of a scene; 0 for one that cannot be read, which is named when it is cut."""
    try:
        return scene_cloud_share(Reference(scene, source))
    except SceneError:
        return 0.0


def scene_cloud_share(reference: Reference) -> float:
    """Share of cloud among a scene's valid pixels, from every 8th pixel; in [0, 1]."""
    with reference.scene.open() as reader:
        return labels.cloud_share(reference.mask(reader, step=8))
