"""Patches with image-level labels, in batches that depend on seed and step alone."""

import hashlib
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate
from tqdm import tqdm

from fcd import labels, patch_files, patches
from fcd.distributed import ALONE, Processes
from fcd.errors import UserError
from fcd.patch_files import DamagedPatch
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
        skip_bad: read every patch once and leave out, for good, those that are damaged.

    `reference` says what the labels and mask.tif come from (`fcd.patches.reference_of`),
    `left_out` which patches are damaged. Without `skip_bad` a damaged patch raises `DamagedPatch`
    when it is read.

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
        skip_bad: bool = False,
    ) -> None:
        self.mask_file = mask_file
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
        self.left_out: list[str] = self._leave_out_damaged(split) if skip_bad else []

    def _leave_out_damaged(self, split: str) -> list[str]:
        """Take patches that cannot be read out of `patches`; return their names."""
        with ThreadPoolExecutor(8) as pool:
            read = pool.map(self._damage, self.patches)
            bar = tqdm(
                read, f"checking {split} patches", len(self.patches), leave=False,
                dynamic_ncols=True,
            )  # fmt: skip
            damage = list(bar)
        bad = [error for error in damage if error]
        for error in bad:
            print(f"left out: {error}")
        whole = [patch for patch, error in zip(self.patches, damage, strict=True) if not error]
        if {label for _, label in whole} != {label for _, label in self.patches}:
            raise UserError(f"every clear or every cloudy patch is damaged, such as {bad[0]}")
        names = [p.name for (p, _), error in zip(self.patches, damage, strict=True) if error]
        self.patches = whole
        return names

    def _damage(self, patch: tuple[Path, int]) -> DamagedPatch | None:
        try:
            self._read_image(patch[0])
            if self.mask_file:
                self._read_mask(patch[0])
        except DamagedPatch as error:
            return error
        return None

    def summary(self) -> dict[str, Any]:
        """Which patches these are, for config.json: they must be the same when a run goes on."""
        names = "".join(f"{folder.name} {label}\n" for folder, label in self.patches)
        digest = hashlib.sha256(names.encode()).hexdigest()[:12]
        return {"patches": len(self.patches), "fingerprint": digest, "left_out": self.left_out}

    @property
    def labels(self) -> torch.Tensor:
        """Image-level labels (n,) float32."""
        return torch.tensor([label for _, label in self.patches], dtype=torch.float32)

    @property
    def image_size(self) -> int:
        """Side of the patches in pixels, from the first one."""
        return self._shape[0]

    @property
    def num_channels(self) -> int:
        """Number of bands, from the first patch."""
        return self._shape[2]

    @cached_property
    def _shape(self) -> tuple[int, int, int]:
        """(H, W, C) that all patches must have, from the first one that can be read."""
        for folder, _ in self.patches:
            with suppress(DamagedPatch):
                return patch_files.read(folder / "image.tif", 3).shape
        raise UserError(f"every patch is damaged, such as {self.patches[0][0]}")

    def labelled_pixels(self) -> int:
        """Number of pixels whose mask says clear or cloud."""
        return sum(int(np.count_nonzero(self._read_mask(folder))) for folder, _ in self.patches)

    def __len__(self) -> int:
        return len(self.patches)

    def __getitem__(self, index: int) -> dict:
        folder, label = self.patches[index]
        image = self._read_image(folder)
        sample = {
            "image": torch.from_numpy(image).permute(2, 0, 1),
            "label": torch.tensor([label], dtype=torch.float32),
            "name": folder.name,
        }
        if self.mask_file:
            sample["mask"] = torch.from_numpy(self._read_mask(folder))
        return sample

    def _read_image(self, folder: Path) -> np.ndarray:
        """DN (H, W, C) of a patch; `DamagedPatch` if they cannot be read or have another shape."""
        path = folder / "image.tif"
        image = patch_files.read(path, 3)
        if image.shape != self._shape:
            raise DamagedPatch.of(path, f"its shape is {image.shape}, that of others {self._shape}")
        return image

    def _read_mask(self, folder: Path) -> np.ndarray:
        """Patch codes (H, W) of a patch; `DamagedPatch` if they cannot be read or are none."""
        path = folder / self.mask_file
        mask = patch_files.read(path, 2)
        if mask.shape != self._shape[:2]:
            raise DamagedPatch.of(path, f"its shape is {mask.shape}, that of images {self._shape}")
        if mask.dtype != np.uint8 or mask.max() > labels.CLOUD:
            raise DamagedPatch.of(path, f"it holds {mask.dtype} up to {mask.max()}, no patch codes")
        return mask


def validation_set(image_dir: Path | str, skip_bad: bool = False) -> PatchDataset | None:
    """The validation patches with their masks, or None (said aloud) if there is no such split."""
    if Path(image_dir, "val").is_dir():
        return PatchDataset(image_dir, "val", "mask.tif", skip_bad=skip_bad)
    print(f"{image_dir} has no val split: the last checkpoint will count as the best one")
    return None


def summaries(train_set: PatchDataset, val_set: PatchDataset | None) -> dict[str, Any]:
    """What a run is trained and validated on; see `PatchDataset.summary`."""
    return {"train": train_set.summary()} | ({"val": val_set.summary()} if val_set else {})


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


class _Loader(DataLoader):
    """Tells the end of one of its processes always as PyTorch mostly does."""

    def __iter__(self) -> Iterator[dict]:
        try:
            yield from super().__iter__()
        except (ConnectionError, EOFError, FileNotFoundError) as error:
            # It was killed while it handed a batch over. Patches raise `DamagedPatch` instead.
            raise RuntimeError(f"DataLoader worker: {type(error).__name__}") from error


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
    return _Loader(
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
