"""Patches from disk to a batch."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor

from benchmarks import measure, plain
from benchmarks.measure import Comparison
from data_loader import AugmentedPatches, PatchDataset, collate
from fcd.cli import entry
from fcd.landsat import labels
from fcd.patches import store
from fcd.patches.normalisation import Normalization
from fcd.training.augmentation import Augmentation
from fcd.training.batches import Place


@dataclass(frozen=True)
class Settings(measure.Settings):
    """Patches from disk to a batch.

    Read and normalised one by one, against uint16 as they lie there. The same with the changes of
    training (--augment), which are made one by one after reading. Also the same patches packed, to
    see whether that would be worth a format: in one array on disk, and in Zarr, a chunk a patch, if
    that library is installed (pip install zarr).
    """

    rounds: measure.Rounds = 5
    patch_size: Annotated[int, Ge(1), "side in pixels"] = 128
    patches: Annotated[int, Ge(1), "patches on disk"] = 512
    batch_size: Annotated[int, Ge(1), "patches in a batch"] = 16


def main(arguments: Sequence[str] | None = None) -> list[Comparison]:
    """Run the command line; return what was measured."""
    flags = measure.asked(Settings, arguments, "loader")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_patches(root, flags.patches, flags.patch_size)
        dataset = PatchDataset(root, "train")
        packed = np.load(_pack(root, dataset), mmap_mode="r")
        order = np.random.default_rng(0).permutation(len(dataset)).tolist()
        batches = [order[i : i + flags.batch_size] for i in range(0, len(order), flags.batch_size)]
        normalize = Normalization.paper(dataset.num_channels).normalize

        def plain_batch(batch: list[int]) -> Tensor:
            return plain.read_batch([dataset.patches[index][0] for index in batch])

        def our_batch(batch: list[int]) -> Tensor:
            return collate([dataset[index] for index in batch])["image"]

        def changed_batch(kind: str) -> Callable[[list[int]], Tensor]:
            changed = AugmentedPatches(dataset, Augmentation(kind, 0))
            return lambda batch: collate(
                [changed[Place(index, batch[0], position)] for position, index in enumerate(batch)]
            )["image"]

        def all_of(make: Callable[[list[int]], Tensor]) -> Callable[[], None]:
            return lambda: [make(batch) for batch in batches] and None

        # Nothing is faster than to read as many bytes, from a file that is in memory.
        size = dataset[0]["image"].nbytes
        limit = _copies_per_second(root / "packed.npy", size)
        ours = {
            "read, uint16": our_batch,
            "read and flipped": changed_batch("flip"),
            "read and turned (d4)": changed_batch("d4"),
            "read and normalised by the batch": lambda b: normalize(our_batch(b).contiguous()),
            "packed in one array, uint16": lambda b: torch.from_numpy(packed[b]),
        }
        if find_spec("zarr"):
            chunks = _zarr(root, packed)
            ours["packed in Zarr, uint16"] = lambda b: torch.from_numpy(chunks.oindex[b])
        made = [
            measure.compare(
                f"patches of {flags.patch_size} pixels, {name}",
                "patches/s",
                len(dataset),
                all_of(plain_batch),
                all_of(way),
                flags.rounds,
                limit,
            )
            for name, way in ours.items()
        ]
    return measure.show(made, flags.json)


def write_patches(root: Path, count: int, side: int) -> None:
    """Write `count` patches of random DN as prepare_landsat8_biome.py writes them."""
    rng = np.random.default_rng(0)
    for number in range(count):
        label = labels.CLASS_FOLDERS[number % 2]
        folder = root / "train" / label / f"S_{number:05d}_00000"
        folder.mkdir(parents=True)
        dn = rng.integers(1, 65536, (side, side, 10)).astype(np.uint16)
        store.write(folder / "image.tif", dn)


def _pack(root: Path, dataset: PatchDataset) -> Path:
    path = root / "packed.npy"
    np.save(path, np.stack([dataset[index]["image"].numpy() for index in range(len(dataset))]))
    return path


def _zarr(root: Path, packed: np.ndarray) -> Any:
    """The same as a Zarr array without compression, a chunk a patch."""
    return import_module("zarr").create_array(
        root / "packed.zarr", data=packed, chunks=(1, *packed.shape[1:]), compressors=None
    )


def _copies_per_second(path: Path, size: int) -> float:
    """How often `size` bytes are read from `path` in a second."""
    times = max(1, path.stat().st_size // size)
    buffer = bytearray(size)

    def read() -> None:
        with open(path, "rb", buffering=0) as file:
            for _ in range(times):
                file.readinto(buffer)

    done = measure.compare("", "", times, None, read, 5)
    return done.rate(done.ours)


if __name__ == "__main__":
    entry.run(lambda: main() and 0)
