"""Leave-scenes-out folds: each crop is tested once, by networks that have not seen its scene."""

import os
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from fcd.errors import UserError
from fcd.files import replacing
from fcd.patches.crops import LIST, Crop, cloud_share, image_path, mask_path, read_list

# Up to 35 and above 65 % of cloud a scene of Biome counts as clear and as cloudy
# (Foga et al. 2017, doi 10.1016/j.rse.2017.03.026).
CLOUDINESS = (0.35, 0.65)
TURNS = 100  # scenes are dealt so often, and the most even folds are taken


def choose_folds(
    crops: Sequence[Crop], shares: Sequence[float], folds: int, seed: int
) -> dict[str, int]:
    """Scene -> fold, from 0: biomes, cloudiness and crops are spread as evenly as possible.

    shares: of cloud in each crop, in [0, 1]. Scenes, shares and seed alone decide, not the order.
    Raises `UserError` if there are fewer scenes than folds.

    scikit-learn's StratifiedGroupKFold, which does the same, knows one class of each sample; biome
    and cloudiness together are classes of one or two scenes.
    """
    table = pd.DataFrame({"scene": [crop.scene for crop in crops], "share": shares})
    table["biome"] = [crop.biome for crop in crops]
    table["cloudiness"] = np.digitize(table["share"], CLOUDINESS)
    columns = pd.get_dummies(table[["biome", "cloudiness"]].astype(str), dtype=int)
    columns["crops"] = 1
    counts = columns.groupby(table["scene"]).sum().sort_index()
    if len(counts) < folds:
        raise UserError(f"--folds {folds}: there are {len(counts)} scenes; give at most as many")
    dealt = (_deal(counts.to_numpy(), folds, f"{seed} {turn}") for turn in range(TURNS))
    chosen, _ = min(dealt, key=lambda pair: pair[1])
    return dict(zip(counts.index, chosen, strict=True))


def _deal(counts: np.ndarray, folds: int, seed: str) -> tuple[list[int], int]:
    """The fold of each row of `counts`, one after the other where it fits best, and how uneven.

    The totals of the columns are what they are: the sum of squares over folds is least where they
    are even.
    """
    generator = random.Random(seed)
    order = list(range(len(counts)))
    generator.shuffle(order)
    sums = np.zeros((folds, counts.shape[1]), np.int64)
    chosen = [0] * len(counts)
    for scene in order:
        cost = ((sums + counts[scene]) ** 2 - sums**2).sum(axis=1)
        chosen[scene] = generator.choice(np.flatnonzero(cost == cost.min()).tolist())
        sums[chosen[scene]] += counts[scene]
    return chosen, int((sums**2).sum())


def write_folds(folder: Path, output_dir: Path, folds: int, seed: int) -> list[Path]:
    """Write the csv of each fold for `fcd.patches.labelled`; return their paths.

    ``fold-<n>.csv`` tests the scenes of fold n and trains on the others, ``held-<n>.csv`` holds the
    tested ones alone, as val; ``all.csv`` trains on all.
    Raises `UserError` if an image is missing, and what `choose_folds` and reading a mask raise.
    """
    crops = read_list(folder / LIST)
    for crop in crops:
        if not image_path(folder, crop).is_file():
            raise UserError(f"{image_path(folder, crop)} is missing, which {LIST} lists")
    shares = [cloud_share(folder, crop) for crop in crops]
    chosen = choose_folds(crops, shares, folds, seed)
    table = pd.DataFrame(
        {
            "path": [os.path.relpath(image_path(folder, crop), output_dir) for crop in crops],
            "mask": [os.path.relpath(mask_path(folder, crop), output_dir) for crop in crops],
            "label": "",
            "split": "",
            "biome": [crop.biome for crop in crops],
            "scene": [crop.scene for crop in crops],
            "sun_elevation": [crop.sun_elevation for crop in crops],
        }
    )
    fold_of, tables = table["scene"].map(chosen), {}
    for n in range(folds):
        tables[f"fold-{n}"] = table.assign(split=np.where(fold_of == n, "test", "train"))
        tables[f"held-{n}"] = table[fold_of == n].assign(split="val")
    tables["all"] = table.assign(split="train")
    for name, rows in tables.items():
        with replacing(output_dir / f"{name}.csv") as temporary:
            rows.to_csv(temporary, index=False, lineterminator="\n")
    return [output_dir / f"{name}.csv" for name in tables]
