"""The records of the scenes that are cut: what says that one is, how, and into which patches."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fcd.errors import UserError
from fcd.files import from_plain, read_json
from fcd.landsat import labels
from fcd.landsat.reference import QA, TRUTH
from fcd.landsat.scenes import Scene
from fcd.patches.splits import SPLITS

# Shares of cloud up to which a patch is clear and above which it is cloudy, by --labels. A QA
# band is wrong about single pixels of bright ground and thin cloud: it counts when it is plain.
MARGINS = {TRUTH: (0.0, 0.0), QA: (0.01, 0.2)}
RECORDS = "scenes"  # folder of the per-scene records, below the patches' folder

Record = dict[str, Any]
"""biome, scene, split, cutting (of `Cutting`), cloud_share, and the patches' names by label."""


@dataclass(frozen=True)
class Cutting:
    """How scenes are cut.

    size, stride: patch side and distance of patches in pixels (the paper: 128 and 128).
    clear_below: a patch is clear if its share of cloud does not exceed this (the paper: 0).
    cloudy_above: it is cloudy if the share exceeds this (the paper: 0); between: left out.
    reference: what says where cloud is, `fcd.landsat.reference.TRUTH` (the paper) or `QA`.
    """

    size: int = 128
    stride: int = 128
    clear_below: float = 0.0
    cloudy_above: float = 0.0
    reference: str = TRUTH

    @classmethod
    def of(
        cls,
        size: int,
        stride: int | None,
        clear_below: float | None,
        cloudy_above: float | None,
        reference: str,
    ) -> "Cutting":
        """With what is None as usual: no overlap, and the `MARGINS` of the reference.

        Raises `UserError` if a patch could be both clear and cloudy.
        """
        clear, cloudy = MARGINS[reference]
        clear = clear if clear_below is None else clear_below
        cloudy = cloudy if cloudy_above is None else cloudy_above
        if cloudy < clear:
            raise UserError(
                f"--cloudy_above {cloudy} is below --clear_below {clear}: a patch would be both"
            )
        return cls(size, stride or size, clear, cloudy, reference)

    def label(self, mask: np.ndarray) -> int | None:
        """Image-level label of a patch-coded mask; None if it is left out."""
        share = labels.cloud_share(mask)
        if not mask.any():
            return None
        if share <= self.clear_below:
            return labels.LABEL_CLEAR
        return labels.LABEL_CLOUDY if share > self.cloudy_above else None


def patch_name(scene: str, row: int, column: int) -> str:
    """``<scene>_<row>_<column>``: pixel position of the patch's upper left corner."""
    return f"{scene}_{row:05d}_{column:05d}"


def patch_position(name: str) -> tuple[int, int]:
    """Row and column of a patch from its name."""
    row, column = name.rsplit("_", 2)[1:]
    return int(row), int(column)


def record_path(image_dir: Path | str, scene: Scene) -> Path:
    """Where the record of a finished scene is."""
    return Path(image_dir, RECORDS, f"{scene.key}.json")


def read_record(image_dir: Path | str, scene: Scene) -> Record | None:
    """The record of a finished scene, or None."""
    path = record_path(image_dir, scene)
    return _checked(path) if path.exists() else None


def _records(image_dir: Path | str) -> list[Record]:
    return [_checked(path) for path in sorted(Path(image_dir, RECORDS).glob("*.json"))]


def _checked(path: Path) -> Record:
    """The record at `path`; `UserError` if it is none, or names what is no patch."""
    record = read_json(path)
    fits = {name: isinstance(record.get(name), str) for name in ("biome", "scene")}
    fits["split"] = record.get("split") in SPLITS
    fits["cloud_share"] = isinstance(record.get("cloud_share"), int | float)
    for folder in labels.CLASS_FOLDERS:
        names = record.get(folder)
        fits[folder] = isinstance(names, list) and all(map(_is_patch_name, names))
    if wrong := [name for name, fit in fits.items() if not fit]:
        raise UserError(
            f"{path} is damaged ({', '.join(wrong)}); remove it and prepare the scene again"
        )
    from_plain(Cutting, record.get("cutting"), path)
    return record


def _is_patch_name(name: object) -> bool:
    return isinstance(name, str) and bool(re.fullmatch(r"[^/\\\0]+_\d{5,9}_\d{5,9}", name))


def cutting_of(record: Record) -> Cutting:
    """How the scene of a record was cut."""
    return Cutting(**record["cutting"])


def reference_of(image_dir: Path | str) -> str:
    """What the patches in `image_dir` have their labels and their mask.tif from.

    `fcd.landsat.reference.TRUTH` or `QA`, from the records of the scenes. Raises `UserError` if
    they differ.
    """
    found = {cutting_of(record).reference for record in _records(image_dir)}
    if len(found) > 1:
        raise UserError(
            f"{image_dir} holds scenes labelled by manual masks and scenes labelled by QA bands; "
            "prepare them into folders of their own (--output_dir)"
        )
    return found.pop() if found else TRUTH


def scenes_of_split(scenes: Iterable[Scene], image_dir: Path | str, kind: str) -> list[Scene]:
    """Those of `scenes` that were prepared into `image_dir` for the split `kind`.

    Raises `UserError` if there are none, or one of them is not on disk any more.
    """
    records = _records(image_dir)
    wanted = {record["scene"] for record in records if record["split"] == kind}
    if not wanted:
        others = ", ".join(sorted({record["split"] for record in records}))
        raise UserError(
            f"{image_dir} has no prepared {kind} scene"
            + (f", only of the split {others}" if others else "")
            + "; run python prepare_landsat8_biome.py"
            + (" with more scenes or a --split_file, or choose another split" if others else "")
        )
    chosen = [scene for scene in scenes if scene.name in wanted]
    absent = sorted(wanted - {scene.name for scene in chosen})
    if absent:
        raise UserError(
            f"{len(absent)} of the {len(wanted)} {kind} scenes of {image_dir} are not below "
            f"--orig_image_dir: {', '.join(absent[:3])}"
        )
    return chosen
