"""Patches with image-level labels, in batches that depend on seed and step alone."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from fcd import labels, patches
from fcd.distributed import ALONE, Processes
from fcd.errors import UserError
from fcd.tifs import TifReader
from fcd.transforms import Normalization

SUBSET_SEED = 42  # keep_ratio takes the same patches in every experiment


class PatchDataset(Dataset):
    """Patches of one split, sorted by name.

    A sample is a dict: image (C, H, W) uint16 DN; label (1,) float32, 0 clear or 1 cloudy;
    mask (H, W) uint8 patch codes, if `mask_file` is given; name.

    Args:
        image_dir: folder written by prepare_landsat8_biome.py.
        split: train or val.
        mask_file: mask.tif, generated_mask.tif, …; None reads no mask.
        keep_ratio: share of the patches to keep, the same ones every time.
        only_cloudy: leave out patches labelled clear.

    `reference` says what the labels and mask.tif come from (`fcd.patches.reference_of`).

    Raises:
        UserError: a folder is missing or empty, or a patch has no `mask_file`.
    """

    def __init__(
        self,
        image_dir: Path | str,
        split: str,
        mask_file: str | None = None,
        keep_ratio: float = 1.0,
        only_cloudy: bool = False,
    ) -> None:
        self.mask_file = mask_file
        self._read_tif = TifReader()
        self.reference = patches.reference_of(image_dir)
        self.patches: list[tuple[Path, int]] = []
        for label, name in enumerate(labels.CLASS_FOLDERS):
            folder = Path(image_dir, split, name)
            found = sorted(entry for entry in folder.iterdir()) if folder.is_dir() else []
            if not found:
                raise UserError(
                    f"{folder} holds no patches; run python prepare_landsat8_biome.py "
                    f"--output_dir {image_dir} (FCD needs clear and cloudy patches)"
                )
            if label == labels.LABEL_CLOUDY or not only_cloudy:
                self.patches += [(patch, label) for patch in found]
        if keep_ratio < 1:
            order = np.random.default_rng(SUBSET_SEED).permutation(len(self.patches))
            kept = sorted(order[: max(1, round(keep_ratio * len(order)))])
            self.patches = [self.patches[index] for index in kept]
        if mask_file:
            missing = [patch for patch, _ in self.patches if not (patch / mask_file).exists()]
            if missing:
                raise UserError(
                    f"{missing[0]} has no {mask_file} ({len(missing)} of {len(self.patches)} "
                    "patches have none); run python prepare_landsat8_biome.py --generated_masks DIR"
                )

    @property
    def labels(self) -> torch.Tensor:
        """Image-level labels (n,) float32."""
        return torch.tensor([label for _, label in self.patches], dtype=torch.float32)

    @property
    def image_size(self) -> int:
        """Side of the patches in pixels, from the first one."""
        return self[0]["image"].shape[-1]

    @property
    def num_channels(self) -> int:
        """Number of bands, from the first patch."""
        return self[0]["image"].shape[0]

    def labelled_pixels(self) -> int:
        """Number of pixels whose mask says clear or cloud."""
        return sum(
            int(np.count_nonzero(self._read(folder / self.mask_file, 2)))
            for folder, _ in self.patches
        )

    def __len__(self) -> int:
        return len(self.patches)

    def __getitem__(self, index: int) -> dict:
        folder, label = self.patches[index]
        image = self._read(folder / "image.tif", 3)
        sample = {
            "image": torch.from_numpy(image).permute(2, 0, 1),
            "label": torch.tensor([label], dtype=torch.float32),
            "name": folder.name,
        }
        if self.mask_file:
            sample["mask"] = torch.from_numpy(self._read(folder / self.mask_file, 2))
        return sample

    def _read(self, path: Path, dimensions: int) -> np.ndarray:
        try:
            array = self._read_tif(path)
        except (OSError, ValueError, IndexError, tifffile.TiffFileError) as error:
            raise UserError(
                f"{path} cannot be read ({error}); prepare the patches again"
            ) from error
        if array.ndim != dimensions:
            raise UserError(f"{path} has shape {array.shape}, expected {dimensions} dimensions")
        return array


def validation_set(image_dir: Path | str) -> PatchDataset | None:
    """The validation patches with their masks, or None (said aloud) if there is no such split."""
    if Path(image_dir, "val").is_dir():
        return PatchDataset(image_dir, "val", "mask.tif")
    print(f"{image_dir} has no val split: the last checkpoint will count as the best one")
    return None


def training_normalization(kind: str, dataset: PatchDataset) -> Normalization:
    """`paper`, or `stretch` from the statistics of the training patches."""
    if kind == "stretch":
        return Normalization.stretch(dn_counts(dataset))
    return Normalization.paper(dataset.num_channels)


def batches_per_epoch(patches: int, batch_size: int) -> int:
    """Batches of a pass over `patches`; one that is left over joins the batch before.

    Batch norm cannot take a single sample whose features are one pixel wide.
    """
    full, rest = divmod(patches, batch_size)
    return max(full + (rest > 1), 1)


class StepBatches(Sampler[list[int]]):
    """Batches of indices for the steps `start` to `stop` of a run.

    Batch k depends on the seed and k alone: a run resumed at step k sees what an
    uninterrupted run would have seen. Each pass over the data is a new permutation; with
    `balance` it is a draw with replacement in which clear and cloudy are equally likely.

    The batches do not depend on how many `processes` there are; iteration yields this process's
    part of each (`Processes.part`).
    """

    def __init__(
        self,
        labels: torch.Tensor,
        batch_size: int,
        seed: int,
        start: int,
        stop: int,
        balance: bool,
        processes: Processes = ALONE,
    ) -> None:
        self.labels, self.batch_size, self.seed = labels, batch_size, seed
        self.start, self.stop, self.balance = start, stop, balance
        self.processes = processes
        self.per_epoch = batches_per_epoch(len(labels), batch_size)

    def __len__(self) -> int:
        return self.stop - self.start

    def _epoch(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        n = len(self.labels)
        if not self.balance:
            return torch.randperm(n, generator=generator).tolist()
        share = self.labels.mean()
        weights = torch.where(self.labels > 0, 1 / share, 1 / (1 - share))
        return torch.multinomial(weights, n, replacement=True, generator=generator).tolist()

    def __iter__(self) -> Iterator[list[int]]:
        for indices in self.whole():
            yield indices[self.processes.part(len(indices), self.batch_size).rows]

    def whole(self) -> Iterator[list[int]]:
        """The batches of all processes together."""
        epoch, order = None, []
        for step in range(self.start, self.stop):
            if step // self.per_epoch != epoch:
                epoch = step // self.per_epoch
                order = self._epoch(epoch)
            batch = step % self.per_epoch
            first, last = batch * self.batch_size, batch == self.per_epoch - 1
            yield order[first:] if last else order[first : first + self.batch_size]


def _ignore_interrupt(_: int) -> None:
    # Ctrl-C, and SIGTERM from torchrun or a batch system, reach all processes; the training loop
    # alone decides when to stop. A loader ends when that loop's process asks it to.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_obey_parent, args=(os.getppid(),), daemon=True).start()
    else:  # macOS does not say who sent a signal
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _obey_parent(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def collate(samples: list[dict]) -> dict:
    """A batch of `samples`; images (N, C, H, W) keep the bands of a pixel together in memory.

    So they lie in the files, and so the networks want them: they are copied, never transposed.
    """
    interleaved = [sample | {"image": sample["image"].permute(1, 2, 0)} for sample in samples]
    batch = default_collate(interleaved)
    return batch | {"image": batch["image"].permute(0, 3, 1, 2)}


def get_loader(
    dataset: PatchDataset,
    batch_size: int,
    num_workers: int,
    *,
    batches: StepBatches | None = None,
) -> DataLoader:
    """Batches of `dataset`: image (N, C, H, W) uint16, label (N, 1) float32, mask (N, H, W).

    In the order of `batches`, or once from first to last.
    """
    order = {"batch_sampler": batches} if batches is not None else {"batch_size": batch_size}
    return DataLoader(
        dataset,
        num_workers=num_workers,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_ignore_interrupt,
        **order,
    )


def dn_counts(dataset: PatchDataset, sample: int = 2000) -> np.ndarray:
    """How often each DN occurs per band, (C, 65536) int64, in at most `sample` seeded patches."""
    order = np.random.default_rng(SUBSET_SEED).permutation(len(dataset))[:sample]
    counts: np.ndarray | int = 0
    for index in order:
        image = dataset[int(index)]["image"].numpy()
        counts = counts + np.stack([np.bincount(b.ravel(), minlength=65536) for b in image])
    return counts
