"""Cut scenes into patches with image-level labels; later, cut generated masks onto them."""

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
from tqdm import tqdm

from fcd import metrics
from fcd.cli.options import (
    DEFAULT_IMAGE_DIR,
    DEFAULT_SCENE_DIR,
    Parser,
    fraction,
    natural,
    positive,
    run,
)
from fcd.errors import SceneError, UserError
from fcd.files import write_json, write_text
from fcd.landsat import labels
from fcd.landsat.reference import QA, TRUTH, Reference
from fcd.landsat.scenes import Scene, find_scenes
from fcd.patches import prepared
from fcd.patches.prepared import Cutting

# Shares of cloud up to which a patch is clear and above which it is cloudy, by --labels. A QA
# band is wrong about single pixels of bright ground and thin cloud: it counts when it is plain.
MARGINS = {TRUTH: (0.0, 0.0), QA: (0.01, 0.2)}


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
        default=prepared.GENERATED_MASK,
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
    clear_below, cloudy_above = MARGINS[flags.labels]
    cutting = Cutting(
        flags.patch_size,
        flags.stride or flags.patch_size,
        clear_below if flags.clear_below is None else flags.clear_below,
        cloudy_above if flags.cloudy_above is None else flags.cloudy_above,
        flags.labels,
    )
    if cutting.cloudy_above < cutting.clear_below:
        raise UserError(
            f"--cloudy_above {cutting.cloudy_above} is below --clear_below {cutting.clear_below}: "
            "a patch would be both"
        )
    by_cloud = flags.labels if flags.stratify == "cloud" else None
    split = choose_split(scenes, flags.output_dir, flags.split_file, flags.seed, by_cloud)
    records = finished(scenes, split, flags.output_dir, cutting)
    written = flags.output_dir / prepared.SPLIT_FILE
    if flags.split_file:
        write_text(written, flags.split_file.read_text(encoding="utf-8-sig"))
    elif not written.exists():
        prepared.write_split(written, scenes, split)
    return cut_scenes(scenes, split, flags.output_dir, cutting, records, flags.num_workers)


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
    written = image_dir / prepared.SPLIT_FILE
    source = split_file or (written if written.exists() else None)
    if source is None:
        share = {s.name: known_cloud_share(s, by_cloud) for s in scenes} if by_cloud else None
        return prepared.split_scenes(scenes, seed, share)
    split = prepared.read_split(source)
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
        return prepared.scene_cloud_share(Reference(scene, source))
    except SceneError:
        return 0.0


def finished(
    scenes: list[Scene], split: dict[str, str], image_dir: Path, cutting: Cutting
) -> dict[str, dict]:
    """Records of the scenes cut before; `UserError` if one was cut or split otherwise."""
    records = {}
    for scene in scenes:
        record = prepared.read_record(image_dir, scene)
        if record is None:
            continue
        if prepared.cutting_of(record) != cutting or record["split"] != split[scene.name]:
            raise UserError(
                f"{image_dir} holds patches of {scene.name} cut otherwise ({record['split']}, "
                f"{record['cutting']}); remove it or choose another --output_dir"
            )
        records[scene.name] = record
    return records


def cut_scenes(
    scenes: list[Scene],
    split: dict[str, str],
    image_dir: Path,
    cutting: Cutting,
    records: dict[str, dict],
    workers: int,
) -> int:
    """Cut the scenes without a record; print the class balance; return the exit code."""
    if records:
        print(f"{len(records)} scenes are cut already")
    todo = [scene for scene in scenes if scene.name not in records]
    jobs = {
        scene.name: partial(prepared.cut_scene, scene, image_dir, split[scene.name], cutting)
        for scene in todo
    }
    failures = []
    for name, result in parallel(jobs, workers, "cutting scenes"):
        if isinstance(result, SceneError):
            failures.append((name, result))
        else:
            records[name] = result
    print_balance(records.values())
    for _, failure in failures:
        print(f"left out: {failure}", file=sys.stderr)
    return 1 if failures else 0


def parallel(
    jobs: dict[str, Callable[[], Any]], workers: int, title: str
) -> Iterator[tuple[str, Any]]:
    """Run `jobs` in `workers` processes; yield name and result or `SceneError` as they end.

    Raises `UserError` if one of the processes is killed.
    """
    context = get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_end_with_parent) as pool:
        names = {pool.submit(job): name for name, job in jobs.items()}
        try:
            for future in tqdm(
                as_completed(names), title, len(names), unit="scene", dynamic_ncols=True
            ):
                error = future.exception()
                if isinstance(error, BrokenProcessPool):
                    raise UserError(
                        f"{title}: a process was killed, mostly for lack of memory; lower "
                        "--num_workers and run the same command again, what is done is kept"
                    ) from error
                if error is not None and not isinstance(error, SceneError):
                    raise error
                yield names[future], error or future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _end_with_parent() -> None:
    """In a worker: end when the process that started it does, however it ends."""

    def wait() -> None:
        parent_process().join()
        os._exit(1)

    Thread(target=wait, daemon=True).start()


def print_balance(records: Iterable[dict]) -> None:
    """Print scenes, patches and cloud share of each split."""
    by_split = {split: [r for r in records if r["split"] == split] for split in prepared.SPLITS}
    print(f"{'split':6} {'scenes':>6} {'clear':>8} {'cloudy':>8} {'cloud in scenes':>16}")
    for split, members in by_split.items():
        counts = Counter()
        for record in members:
            counts.update({folder: len(record[folder]) for folder in labels.CLASS_FOLDERS})
        share = f"{np.mean([r['cloud_share'] for r in members]):.0%}" if members else "-"
        clear, cloudy = (
            ("whole", "whole") if split == "test" else (counts["clear"], counts["cloudy"])
        )
        print(f"{split:6} {len(members):6} {clear:>8} {cloudy:>8} {share:>16}")


def add_masks(scenes: list[Scene], masks: Path, image_dir: Path, name: str, workers: int) -> None:
    """Cut the generated masks onto the patches of all training scenes.

    Raises `UserError` before any work if nothing is prepared or a mask is missing.
    """
    records = [(scene, prepared.read_record(image_dir, scene)) for scene in scenes]
    wanted = [(scene, record) for scene, record in records if record and record["split"] == "train"]
    if not wanted:
        raise UserError(
            f"{image_dir} holds no training patches of the scenes given; run "
            "python prepare_landsat8_biome.py without --generated_masks first"
        )
    missing = [
        path for scene, _ in wanted if not (path := prepared.mask_tif(masks, scene)).exists()
    ]
    if missing:
        raise UserError(
            f"{missing[0]} is missing ({len(missing)} of {len(wanted)} masks); run "
            "python main.py --mode generate_masks first, or give its folder to --generated_masks"
        )
    supervision = prepared.provenance(masks)
    jobs = {
        scene.name: partial(prepared.add_generated_masks, scene, record, masks, image_dir, name)
        for scene, record in wanted
    }
    # What earlier masks have cost does not hold for these; it is written when all are there.
    prepared.provenance_path(image_dir, name).unlink(missing_ok=True)
    counts = np.zeros((2, 2), np.int64)
    for _, result in parallel(jobs, workers, "adding masks"):
        if isinstance(result, SceneError):
            raise result
        counts += result
    write_json(prepared.provenance_path(image_dir, name), supervision)
    scores = metrics.scores(counts)
    print(
        f"wrote {name} into {sum(len(r['clear']) + len(r['cloudy']) for _, r in wanted)} patches; "
        f"against their mask.tif (for information only): accuracy {scores['accuracy']:.3f}, "
        f"macro F1 {scores['macro']['f1']:.3f}"
    )


if __name__ == "__main__":
    run(main)
