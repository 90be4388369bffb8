"""Scenes to patches with image-level labels."""

import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np

from fcd import pictures
from fcd.errors import SceneError, UserError
from fcd.files import write_json, write_text
from fcd.landsat import labels
from fcd.landsat.bands import FILL_DN, RGB_BANDS
from fcd.landsat.reference import Reference
from fcd.landsat.scenes import Scene, SceneReader
from fcd.patches import store
from fcd.patches.jobs import parallel
from fcd.patches.records import Cutting, Record, cutting_of, patch_name, read_record, record_path
from fcd.patches.splits import SPLIT_FILE, SPLITS, choose_split, write_split


def prepare(
    scenes: list[Scene],
    image_dir: Path,
    cutting: Cutting,
    split_file: Path | None,
    seed: int,
    by_cloud: bool,
    workers: int,
) -> int:
    """Split the scenes and cut those that are not cut yet into `image_dir`; return the exit code.

    split_file, seed, by_cloud: where the split comes from, see `choose_split`. workers: scenes cut
    at the same time. A scene that cannot be cut is left out and named at the end. Raises
    `UserError` if one was cut or split otherwise before.
    """
    source = cutting.reference if by_cloud else None
    split = choose_split(scenes, image_dir, split_file, seed, source)
    records = _finished(scenes, split, image_dir, cutting)
    written = image_dir / SPLIT_FILE
    if split_file:
        write_text(written, split_file.read_text(encoding="utf-8-sig"))
    elif not written.exists():
        write_split(written, scenes, split)
    if records:
        print(f"{len(records)} scenes are cut already")
    jobs = {
        scene.name: partial(cut_scene, scene, image_dir, split[scene.name], cutting)
        for scene in scenes
        if scene.name not in records
    }
    failures = []
    for name, result in parallel(jobs, workers, "cutting scenes"):
        if isinstance(result, SceneError):
            failures.append(result)
        else:
            records[name] = result
    _print_balance(list(records.values()))
    for failure in failures:
        print(f"left out: {failure}", file=sys.stderr)
    return 1 if failures else 0


def _finished(
    scenes: list[Scene], split: dict[str, str], image_dir: Path, cutting: Cutting
) -> dict[str, Record]:
    """Records of the scenes cut before; `UserError` if one was cut or split otherwise."""
    records = {}
    for scene in scenes:
        if (record := read_record(image_dir, scene)) is None:
            continue
        if cutting_of(record) != cutting or record["split"] != split[scene.name]:
            raise UserError(
                f"{image_dir} holds patches of {scene.name} cut otherwise ({record['split']}, "
                f"{record['cutting']}); remove it or choose another --output_dir"
            )
        records[scene.name] = record
    return records


def _print_balance(records: list[Record]) -> None:
    """Print scenes, patches and cloud share of each split."""
    print(f"{'split':6} {'scenes':>6} {'clear':>8} {'cloudy':>8} {'cloud in scenes':>16}")
    for split in SPLITS:
        members = [record for record in records if record["split"] == split]
        clear, cloudy = (
            "whole" if split == "test" else sum(len(record[folder]) for record in members)
            for folder in labels.CLASS_FOLDERS
        )
        share = f"{np.mean([r['cloud_share'] for r in members]):.0%}" if members else "-"
        print(f"{split:6} {len(members):6} {clear:>8} {cloudy:>8} {share:>16}")


def cut_scene(scene: Scene, image_dir: Path, split: str, cutting: Cutting) -> Record:
    """Cut a scene into `<split>/<clear|cloudy>/<patch>/{image.tif, mask.tif}` and record it.

    image.tif is (size, size, 10) uint16 DN, mask.tif (size, size) uint8 patch codes of
    `cutting.reference`. Test scenes are only checked and pictured: they stay whole. Patches
    appear at the end, all at once; the record `scenes/<biome>_<scene>.json` is written last and
    says the scene is done.
    Raises `SceneError` if the scene is incomplete or damaged.
    """
    reference = Reference(scene, cutting.reference)
    reference.check()
    partial = image_dir / f".partial-{scene.key}"
    shutil.rmtree(partial, ignore_errors=True)
    patches: dict[str, list[str]] = {folder: [] for folder in labels.CLASS_FOLDERS}
    try:
        with scene.open() as reader:
            if split != "test":
                for row, column, dn, mask in _cut(reader, reference, cutting):
                    if (label := cutting.label(mask)) is None:
                        continue
                    folder = labels.CLASS_FOLDERS[label]
                    name = patch_name(scene.name, row, column)
                    patches[folder].append(name)
                    place = partial / folder / name
                    place.mkdir(parents=True)
                    store.write(place / "image.tif", dn.transpose(1, 2, 0))
                    store.write(place / "mask.tif", mask)
            share = _write_thumbnail(reader, reference, record_path(image_dir, scene))
        for folder, names in patches.items():
            target = image_dir / split / folder
            target.mkdir(parents=True, exist_ok=True)
            for name in names:
                shutil.rmtree(target / name, ignore_errors=True)
                (partial / folder / name).rename(target / name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    record = {
        "biome": scene.biome,
        "scene": scene.name,
        "split": split,
        "cutting": asdict(cutting),
        "cloud_share": round(share, 4),
        **patches,
    }
    write_json(record_path(image_dir, scene), record)
    return record


def _cut(
    reader: SceneReader, reference: Reference, cutting: Cutting
) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
    """Row, column, DN (10, size, size) and mask of every patch, reading one strip at a time."""
    height, width = reader.grid.height, reader.grid.width
    for row in range(0, height - cutting.size + 1, cutting.stride):
        dn = reader.bands(row, row + cutting.size)
        mask = reference.mask(reader, row, row + cutting.size)
        mask[(dn == FILL_DN).any(axis=0)] = labels.INVALID
        for column in range(0, width - cutting.size + 1, cutting.stride):
            columns = slice(column, column + cutting.size)
            yield row, column, dn[:, :, columns], mask[:, columns]


def _write_thumbnail(reader: SceneReader, reference: Reference, record: Path) -> float:
    """Write the scene's picture beside its mask, at most 512 pixels high; return cloud share."""
    step = max(1, -(-max(reader.grid.height, reader.grid.width) // 512))
    dn, mask = reader.bands(step=step), reference.mask(reader, step=step)
    fill = (dn == FILL_DN).any(axis=0)
    mask[fill] = labels.INVALID
    image = pictures.stretch_rgb(dn[list(RGB_BANDS)], ~fill)
    picture = np.hstack([image, pictures.colour_mask(mask)])
    pictures.write_png(record.with_suffix(".png"), picture)
    return labels.cloud_share(mask)
