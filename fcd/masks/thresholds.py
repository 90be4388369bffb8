"""The threshold between score and mask: chosen, written down with what it cost, found again."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from fcd import metrics
from fcd.errors import UserError
from fcd.files import digest, read_json, write_json
from fcd.landsat.labels import CLASS_FOLDERS
from fcd.landsat.reference import TRUTH
from fcd.masks.scoring import Scorer
from fcd.masks.tiling import Score
from fcd.patches.normalisation import FILL
from fcd.patches.sources import Source
from fcd.patches.store import TRUTH_MASK
from fcd.processes import Processes

SAMPLE_SEED = 42
CLEAR = "clear"
# It calls this share of the pixels of clear patches clear, `clear:99.5` as many per cent. Not all:
# a patch is called clear with some pixels of cloud, and single pixels of bright ground differ most.
CLEAR_SHARE = 0.999
# `image` calls a patch cloudy if more than this share of its pixels are: between the margins of
# patches labelled by their masks (`fcd.patches.cutting.MARGINS`).
CLOUDY_SHARE = 0.05
Record = dict[str, Any]
"""A threshold in [0, 1], `chosen_by` in words, `pixel_labels` it took, and what it holds for."""


@torch.inference_mode()
def histogram(
    batches: Iterable[dict],
    inputs: Callable[[dict], Tensor],
    score: Callable[[Tensor], Tensor],
    truth: Callable[[dict, Tensor], np.ndarray],
    processes: Processes,
) -> np.ndarray:
    """`fcd.metrics.histogram` (2, BINS) of the scores of `batches` against their `truth`.

    batches: those of this process; what is returned counts those of all. score, truth: of the
    network's input x (N, C, h, w), both of one shape, such as (N, h, w) or (N,).
    """
    counts = np.zeros((2, metrics.BINS), np.int64)
    silent = not processes.first
    for batch in tqdm(batches, "scoring patches", leave=False, dynamic_ncols=True, disable=silent):
        x = inputs(batch)
        counts += metrics.histogram(truth(batch, x), score(x).float().cpu().numpy())
    return processes.sum_counts(counts)


def mask_of(batch: dict, x: Tensor) -> np.ndarray:
    """Patch codes (N, h, w) of a batch; without masks as `valid_of`."""
    return batch["mask"].numpy() if "mask" in batch else valid_of(batch, x)


def valid_of(_: dict, x: Tensor) -> np.ndarray:
    """Patch codes (N, h, w) in which all pixels that have data are clear."""
    return torch.where((x == FILL).any(dim=1), metrics.INVALID, metrics.CLEAR).cpu().numpy()


def of_patches(x: Tensor, values: Tensor, share: float | None = None) -> Tensor:
    """The mean of the `values` (N, h, w) of each patch, or what a `share` does not exceed, (N,).

    Of the pixels of x (N, C, h, w) that have data, as labels are; 0 where none has.
    """
    known = values.float().masked_fill((x == FILL).any(dim=1), torch.nan).flatten(1)
    found = known.nanmean(dim=1) if share is None else known.nanquantile(share, dim=1)
    return found.nan_to_num()


def label_of(batch: dict, _: Tensor) -> np.ndarray:
    """The image-level labels (N,) of a batch as patch codes."""
    return np.array([metrics.CLEAR, metrics.CLOUD])[batch["label"][:, 0].long().numpy()]


def judged(choice: str, score: Score) -> tuple[Score, Callable[[dict, Tensor], np.ndarray]]:
    """What `histogram` is of for a `choice`: of a batch the score, and the truth about it.

    For `image` they are of whole patches, (N,): the score that `CLOUDY_SHARE` of the pixels exceed
    says up to which threshold the patch is called cloudy.
    """
    if choice != "image":
        return score, mask_of
    return lambda x: of_patches(x, score(x), 1 - CLOUDY_SHARE), label_of


def require_pixels(counts: np.ndarray, which: str) -> None:
    """Raise `UserError` if `counts`, those of the patches called `which`, are all zero."""
    if not counts.any():
        raise UserError(
            f"the {which} patches hold no pixel that is valid in image and mask; check the codes "
            "of their masks"
        )


def clear_share(choice: str) -> float | None:
    """The share of pixels that `clear` or `clear:PERCENT` calls clear; None for other choices."""
    name, _, percent = choice.partition(":")
    if name != CLEAR:
        return None
    return float(percent) / 100 if percent else CLEAR_SHARE


def clear_threshold(counts: np.ndarray, share: float = CLEAR_SHARE) -> float:
    """What `share` of the pixels do not exceed; counts: `histogram` of clear patches."""
    return metrics.upper_quantile(counts.sum(axis=0), share)


def sample(patches: int, count: int) -> list[int]:
    """At most `count` of so many `patches`, seeded: always the same ones."""
    return sorted(np.random.default_rng(SAMPLE_SEED).permutation(patches)[:count].tolist())


def stamp(source: Source, choice: str | float) -> str:
    """Digits of names, sizes and times of the files a `choice` depends on: others change them."""
    if isinstance(choice, float):
        return ""
    masked = choice in ("f1", "otsu")
    told: list[str] = []
    for split, folder in product(("train", "val"), CLASS_FOLDERS):
        for patch in source.find(split, folder):
            files = [source.image_path(patch)]
            files += [source.mask_path(patch, TRUTH_MASK)] * masked
            for file in files:
                with suppress(OSError):  # one that is not there is told where it is needed
                    status = file.stat()
                    told.append(f"{split} {folder} {patch.name} {file.name} ")
                    told.append(f"{status.st_size} {status.st_mtime_ns}\n")
    return digest("".join(told))


def choose(
    scorer: Scorer,
    choice: str | float,
    asked: Record,
    measured: Callable[[], tuple[np.ndarray, int]],
) -> Record:
    """The threshold of the score, and how many pixel labels it took.

    choice: `f1` (the paper's: best macro F1 on the masks of cloudy training patches; those of QA
    bands count as no pixel label), `otsu` (Otsu's on the same patches, without any mask), `clear`
    (what the `clear_share` of the pixels of clear training patches do not exceed, without masks),
    `image` (best macro F1 of whole patches against their labels, see `judged`), or a number in
    [0, 1]. asked: what else the threshold depends on (`reference` among it). measured:
    the `histogram` of the patches of that choice, and how many they are. The result is kept in
    threshold.json and used again while weights, choice and `asked` stay the same.
    """
    path, processes = scorer.results[0] / "threshold.json", scorer.processes
    asked = asked | {"choice": choice, "score": scorer.name, "weights": scorer.fingerprint}
    known = processes.broadcast(_read_for(path, asked) if processes.first else None)
    if known:
        return known
    if isinstance(choice, float):
        record = asked | fixed(choice)
    else:
        record = asked | _chosen(choice, *measured(), asked["reference"])
    if processes.first:
        write_json(path, record)
    return record


def _read_for(path: Path, asked: Record) -> Record | None:
    """What threshold.json holds, if it was chosen as is `asked`."""
    known = _read(path)
    if known and asked["choice"] == "image" and "counts" not in known:
        return None  # earlier versions kept no counts
    return known if known and asked.items() <= known.items() else None


def _chosen(choice: str, counts: np.ndarray, count: int, reference: str) -> Record:
    """What `choose` finds by the `histogram` of so many patches, whose masks are of `reference`."""
    share, which = clear_share(choice), "labelled" if choice == "image" else "cloudy training"
    if share is not None:
        which = "clear training"
    require_pixels(counts, which)
    where = f"the scores of {count} {which} patches"
    if share is not None:
        by = f"{100 * share:g} percentile of {where}"
        return {"pixel_labels": 0, "threshold": clear_threshold(counts, share), "chosen_by": by}
    if choice == "otsu":
        value = metrics.otsu_threshold(counts.sum(axis=0))
        return {"pixel_labels": 0, "threshold": value, "chosen_by": f"Otsu on {where}"}
    value, f1 = metrics.best_threshold(counts)
    more: Record = {}
    if choice == "image":
        against, more = "image-level labels", {"counts": _sparse(counts)}
    elif reference == TRUTH:
        against, more = "pixel labels", {"pixel_labels": int(counts.sum())}
    else:
        against = "scenes' QA bands"
    by = f"best macro F1 on {where}, against their {against}"
    return {"pixel_labels": 0, "threshold": value, "chosen_by": by, "macro_f1": f1} | more


def _sparse(counts: np.ndarray) -> list[list[int]]:
    """[bin, clear, cloudy] for each bin of a `histogram` that is not empty."""
    bins = np.flatnonzero(counts.any(axis=0))
    return np.column_stack([bins, counts[:, bins].T]).tolist()


def pooled(paths: Iterable[Path]) -> float:
    """The threshold of best macro F1 on the patches of several files threshold.json together.

    Each was chosen by `image`, of a network of the same kind on patches of its own. Scenes that no
    threshold gets right weigh as much as others here; a mean of thresholds would follow them.
    Raises `UserError` if a file holds no such threshold.
    """
    counts = np.zeros((2, metrics.BINS), np.int64)
    for path in paths:
        record = _read(path)
        if not record or "counts" not in record:
            raise UserError(
                f"{path} holds no threshold chosen by --threshold image with its counts; remove "
                "it, and run the command again"
            )
        bins, *both = np.array(record["counts"]).T
        counts[:, bins] += both
    return metrics.best_threshold(counts)[0]


def fixed(value: float) -> Record:
    """The record of a threshold that was not chosen."""
    return {"pixel_labels": 0, "threshold": value, "chosen_by": f"{value:g}, fixed"}


def known(scorer: Scorer, amp: bool = False) -> Record:
    """The record of the threshold chosen for these weights before, or of a probability's, 0.5.

    amp: whether it is for scores computed in bfloat16, which differ by more than many a
    threshold of FCD. Raises `UserError` if there is neither, or it was chosen on others.
    """
    of_others = None
    for path, record in _kept(scorer):
        if record["amp"] == amp or not isinstance(record.get("choice"), str):
            return record
        of_others = path
    if of_others:
        raise UserError(
            f"{of_others} holds a threshold chosen with --amp {not amp}, which changes the "
            f"scores: run --mode test or generate_masks with --amp {amp} first, or give a "
            "number with --threshold"
        )
    if scorer.natural_threshold is None:
        raise UserError(
            f"no threshold is known for these weights of {scorer.experiment}: run "
            "--mode test or generate_masks first, or give a number with --threshold"
        )
    return fixed(scorer.natural_threshold)


def _kept(scorer: Scorer) -> Iterator[tuple[Path, Record]]:
    """The records kept for these weights and their files: those of runs, then the checkpoint's."""
    own = {"score": scorer.name, "weights": scorer.fingerprint}
    for folder in scorer.results:
        path = folder / "threshold.json"
        if (record := _read(path)) and own.items() <= record.items():
            yield path, record
    if scorer.stored_threshold is not None:
        yield scorer.checkpoint, _checked(scorer.stored_threshold, scorer.checkpoint)


def _read(path: Path) -> Record | None:
    """What threshold.json holds, or None; `UserError` if that is no threshold."""
    if not path.exists():
        return None
    return _checked(read_json(path), path)


def _checked(record: Any, path: Path) -> Record:
    """`record`, which the file `path` holds; `UserError` if it is no threshold."""
    # Earlier versions chose on scores in float32, whatever --amp said.
    record = {"amp": False} | (record if isinstance(record, dict) else {})
    value, cost = record.get("threshold"), record.get("pixel_labels")
    fits = isinstance(value, int | float) and 0 <= value <= 1 and isinstance(cost, int)
    if not fits or not isinstance(record.get("chosen_by"), str):
        raise UserError(f"{path} holds no threshold; remove it, and it is chosen again")
    return record
