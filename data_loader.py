"""Patches with image-level labels, in batches that depend on seed and step alone."""

import hashlib
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate
from tqdm import tqdm

from fcd.errors import READER_ENDED, UserError
from fcd.landsat import labels
from fcd.patches.imagery import RasterPatches
from fcd.patches.normalisation import Normalization
from fcd.patches.prepared import Kind, PreparedPatches
from fcd.patches.store import DamagedPatch
from fcd.processes import ALONE, Part, Processes

Source = PreparedPatches | RasterPatches
"""Where patches are and how they are read."""


def as_source(source: Source | Path | str) -> Source:
    """`source`, or the patches of prepare_landsat8_biome.py in that folder."""
    return PreparedPatches(Path(source)) if isinstance(source, Path | str) else source


SUBSET_SEED = 42  # keep_ratio takes the same patches in every experiment


class Form(NamedTuple):
    """What must be the same in all patches: shape (C, H, W) and type of the image, mask (H, W)."""

    image: tuple[tuple[int, ...], str]
    mask: tuple[int, ...] | None

    @classmethod
    def of(cls, image: np.ndarray, mask: np.ndarray | None) -> "Form":
        """That of a patch."""
        return cls((image.shape, image.dtype.name), None if mask is None else mask.shape)


class PatchDataset(Dataset):
    """Patches of one split, sorted by name.

    A sample is a dict: image (C, H, W) DN, of prepared patches uint16; label (1,) float32, 0
    clear or 1 cloudy; mask (H, W) uint8 patch codes, if `mask_file` is given; name.

    Args:
        source: where the patches are; a path is a folder of prepare_landsat8_biome.py.
        split: train or val.
        mask_file: mask.tif, generated_mask.tif, …; None reads no mask.
        keep_ratio: share of the patches to keep, the same ones every time.
        only_cloudy: leave out patches labelled clear.
        skip_bad: read every patch once and leave out, for good, those that are damaged, or of
            another shape or type than most.
        masks_optional: read no mask if a patch has none and `source` lets it do without.

    `reference` and `labels_from` say what the labels and mask.tif come from, `left_out` which
    patches are damaged. Without `skip_bad` a damaged patch raises `DamagedPatch` when it is read.

    Raises:
        UserError: a folder is missing or empty, or a patch has no `mask_file` but should.
    """

    def __init__(
        self,
        source: Source | Path | str,
        split: str,
        mask_file: str | None = None,
        keep_ratio: float = 1.0,
        only_cloudy: bool = False,
        skip_bad: bool = False,
        masks_optional: bool = False,
    ) -> None:
        self.source = as_source(source)
        self.mask_file = mask_file
        self.reference, self.labels_from = self.source.reference, self.source.labels_from
        self.patches: list[tuple[Path, int]] = []
        for label, name in enumerate(labels.CLASS_FOLDERS):
            found = self.source.find(split, name)
            if not found:
                raise UserError(
                    f"{self.source.root / split / name} holds no patches; {self.source.absent} "
                    "(FCD needs clear and cloudy patches)"
                )
            if label == labels.LABEL_CLOUDY or not only_cloudy:
                self.patches += [(patch, label) for patch in found]
        if keep_ratio < 1:
            order = np.random.default_rng(SUBSET_SEED).permutation(len(self.patches))
            kept = sorted(order[: max(1, round(keep_ratio * len(order)))])
            self.patches = [self.patches[index] for index in kept]
        if mask_file:
            self.source.check_mask_file(mask_file)
            missing = self.without(mask_file)
            if missing and masks_optional and self.source.masks_are_optional:
                self.mask_file = None
            elif missing:
                raise UserError(
                    f"{missing[0]} has no {mask_file} ({len(missing)} of {len(self.patches)} "
                    f"patches have none); {self.source.mask_hint}"
                )
        self.left_out: list[str] = self._leave_out_damaged(split) if skip_bad else []

    def _leave_out_damaged(self, split: str) -> list[str]:
        """Take patches that cannot be read or differ from most out of `patches`; return names."""
        with ThreadPoolExecutor(8) as pool:
            read = pool.map(self._form_or_damage, self.patches)
            bar = tqdm(
                read, f"checking {split} patches", len(self.patches), leave=False,
                dynamic_ncols=True,
            )  # fmt: skip
            found = list(bar)
        if forms := [form.image for form in found if isinstance(form, Form)]:
            self._image_form = Counter(forms).most_common(1)[0][0]
        damage = [
            self._unlike(patch, form) if isinstance(form, Form) else form
            for (patch, _), form in zip(self.patches, found, strict=True)
        ]
        bad = [error for error in damage if error]
        for error in bad:
            print(f"left out: {error}")
        whole = [patch for patch, error in zip(self.patches, damage, strict=True) if not error]
        if {label for _, label in whole} != {label for _, label in self.patches}:
            raise UserError(f"every clear or every cloudy patch is damaged, such as {bad[0]}")
        names = [p.name for (p, _), error in zip(self.patches, damage, strict=True) if error]
        self.patches = whole
        return names

    def _form_or_damage(self, patch: tuple[Path, int]) -> Form | DamagedPatch:
        try:
            return Form.of(*self.source.read(patch[0], self.mask_file))
        except DamagedPatch as error:
            return error

    def summary(self) -> dict[str, Any]:
        """Which patches these are, for config.json: they must be the same when a run goes on."""
        names = "".join(f"{folder.name} {label}\n" for folder, label in self.patches)
        digest = hashlib.sha256(names.encode()).hexdigest()[:12]
        return {"patches": len(self.patches), "fingerprint": digest, "left_out": self.left_out}

    def without(self, mask_file: str) -> list[Path]:
        """The patches that have no mask `mask_file`."""
        return [p for p, _ in self.patches if not self.source.mask_path(p, mask_file).exists()]

    @property
    def labels(self) -> torch.Tensor:
        """Image-level labels (n,) float32."""
        return torch.tensor([label for _, label in self.patches], dtype=torch.float32)

    @cached_property
    def kind(self) -> Kind:
        """Bands, size, type and nodata of the patches; `UserError` if they differ."""
        with _can_be_left_out():
            return self.source.kind([patch for patch, _ in self.patches])

    @property
    def image_size(self) -> int:
        """Side of the patches in pixels."""
        return self.kind.image_size

    @property
    def num_channels(self) -> int:
        """Number of bands."""
        return self.kind.num_channels

    @cached_property
    def _image_form(self) -> tuple[tuple[int, ...], str]:
        """Shape (C, H, W) and type that all images must have.

        Those of the first one that can be read, or of most where all are read beforehand.
        """
        for patch, _ in self.patches:
            with suppress(DamagedPatch):
                return Form.of(*self.source.read(patch, None)).image
        raise UserError(f"every patch is damaged, such as {self.patches[0][0]}")

    def labelled_pixels(self) -> int:
        """Number of pixels whose mask says clear or cloud."""
        masks = (self.source.mask(patch, self.mask_file) for patch, _ in self.patches)
        with _can_be_left_out():
            return sum(int(np.count_nonzero(mask)) for mask in masks)

    def __len__(self) -> int:
        return len(self.patches)

    def __getitem__(self, index: int) -> dict:
        patch, label = self.patches[index]
        with _can_be_left_out():
            image, mask = self._read(patch)
        sample = {
            "image": torch.from_numpy(image),
            "label": torch.tensor([label], dtype=torch.float32),
            "name": patch.name,
        }
        if mask is not None:
            sample["mask"] = torch.from_numpy(mask)
        return sample

    def _read(self, patch: Path) -> tuple[np.ndarray, np.ndarray | None]:
        """Image (C, H, W) and mask (H, W); `DamagedPatch` if not readable or unlike the others."""
        image, mask = self.source.read(patch, self.mask_file)
        if error := self._unlike(patch, Form.of(image, mask)):
            raise error
        return image, mask

    def _unlike(self, patch: Path, form: Form) -> DamagedPatch | None:
        """The error that names the file of a patch in which it is unlike the others, if any."""
        (shape, dtype), source = self._image_form, self.source
        if form.image != self._image_form:
            told = f"it holds {form.image[1]} {form.image[0]}, the others {dtype} {shape}"
            return source.damaged(source.image_path(patch), told)
        if form.mask not in (None, shape[1:]):
            told = f"its shape is {form.mask}, that of images {shape}"
            return source.damaged(source.mask_path(patch, self.mask_file), told)
        return None


@contextmanager
def _can_be_left_out() -> Iterator[None]:
    """Say of a damaged patch also how to go without it, which other readers of patches cannot."""
    try:
        yield
    except DamagedPatch as error:
        raise DamagedPatch(f"{error}, or go without it: --skip_bad True") from error


def validation_set(
    train_set: PatchDataset, select: str, skip_bad: bool = False
) -> tuple[PatchDataset | None, str]:
    """The validation patches with their masks, and how they choose the best checkpoint.

    select: `pixel` or `image`. Without masks it is `image`; without a val split there are no
    patches. Either is said aloud. Raises `UserError` if they are not like those of `train_set`.
    """
    source = train_set.source
    if not (source.root / "val").is_dir():
        print(f"{source.root} has no val split: the last checkpoint will count as the best one")
        return None, select
    dataset = PatchDataset(source, "val", "mask.tif", skip_bad=skip_bad, masks_optional=True)
    if dataset.kind != train_set.kind:
        raise UserError(
            f"{source.root}: the val patches have {dataset.kind}, the training patches "
            f"{train_set.kind}; they must be alike"
        )
    if dataset.mask_file is None and select == "pixel":
        missing = len(dataset.without("mask.tif"))
        print(
            f"{missing} of the {len(dataset)} val patches of {source.root} have no mask: the best "
            "checkpoint will be chosen by image-level labels (--select image)"
        )
        select = "image"
    return dataset, select


def cloudy_patches(source: Source, skip_bad: bool, masks_optional: bool) -> PatchDataset:
    """The cloudy training patches, from which a threshold is chosen."""
    return PatchDataset(
        source,
        "train",
        "mask.tif",
        only_cloudy=True,
        skip_bad=skip_bad,
        masks_optional=masks_optional,
    )


def threshold_choice(source: Source) -> str:
    """How the threshold of a score is chosen unless one says: `f1`, without masks `otsu`.

    The latter is said aloud.
    """
    if not source.masks_are_optional:
        return "f1"
    dataset = cloudy_patches(source, skip_bad=False, masks_optional=True)
    if dataset.mask_file:
        return "f1"
    print(
        f"{len(dataset.without('mask.tif'))} of the {len(dataset)} cloudy training patches of "
        f"{source.root} have no mask: the threshold will be Otsu's (--threshold otsu)"
    )
    return "otsu"


def summaries(train_set: PatchDataset, val_set: PatchDataset | None) -> dict[str, Any]:
    """What a run is trained and validated on; see `PatchDataset.summary`."""
    return {"train": train_set.summary()} | ({"val": val_set.summary()} if val_set else {})


def training_normalization(kind: str, dataset: PatchDataset) -> Normalization:
    """`paper`, or `stretch` from the statistics of the training patches."""
    data = dataset.kind
    if data.dtype == "float32":
        measured = Normalization.measured(value_ranges(dataset), data.nodata)
        if kind == "paper":
            return measured
        counts, values = binned_counts(dataset, measured)
        return Normalization.stretch(counts, values, data.nodata, data.dtype)
    if kind == "paper":
        return Normalization.paper(data.num_channels, data.dtype, data.nodata)
    return Normalization.stretch(dn_counts(dataset), None, data.nodata, data.dtype)


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


_SAYS_WHO = hasattr(signal, "sigwaitinfo")  # macOS does not say who sent a signal


def _ignore_interrupt(_: int) -> None:
    # Ctrl-C, and SIGTERM from torchrun or a batch system, reach all processes; the training loop
    # alone decides when to stop. A loader ends when that loop's process asks it to.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if _SAYS_WHO:  # SIGTERM is blocked, see `_Loader`
        threading.Thread(target=_obey_parent, args=(os.getppid(),), daemon=True).start()
    else:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _obey_parent(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


@contextmanager
def _sigterm_blocked() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Loader(DataLoader):
    """Tells the end of one of its processes always as PyTorch mostly does."""

    def __iter__(self) -> Iterator[dict]:
        try:
            # Before its processes start, or threads that they have from the start would not.
            with _sigterm_blocked() if _SAYS_WHO else nullcontext():
                batches = super().__iter__()
            yield from batches
        except (ConnectionError, EOFError, FileNotFoundError, RuntimeError) as error:
            # With pinned memory a thread meets the error, and PyTorch tells the end of the thread.
            if isinstance(error, RuntimeError) and not str(error).startswith("Pin memory"):
                raise
            # It was killed while it handed a batch over. Patches raise `DamagedPatch` instead.
            # The signal that makes PyTorch tell it comes in a moment; later it would come out
            # in the midst of what is done after an error.
            time.sleep(1)
            raise RuntimeError(f"{READER_ENDED}: {type(error).__name__}") from error


def collate(samples: list[dict]) -> dict:
    """A batch of `samples`; images (N, C, H, W) keep the bands of a pixel together in memory.

    So prepared patches lie in their files: they are copied here, and transposed on the device
    (`solver.Solver.inputs`).
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
    pin_memory: bool = False,
) -> DataLoader:
    """Batches of `dataset`: image (N, C, H, W) DN, label (N, 1) float32, mask (N, H, W) uint8.

    In the order of `batches`, or once from first to last. pin_memory: for a CUDA device, which
    then takes them while it computes.
    """
    order = {"batch_sampler": batches} if batches is not None else {"batch_size": batch_size}
    return _Loader(
        dataset,
        num_workers=num_workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        worker_init_fn=_ignore_interrupt,
        **order,
    )


def training_batches(
    dataset: PatchDataset,
    batch_size: int,
    seed: int,
    start: int,
    stop: int,
    balance: bool,
    processes: Processes,
    **reading: Any,
) -> Iterator[tuple[dict, Part]]:
    """The batches of the steps `start` to `stop`: this process's part of each, see `StepBatches`.

    `all_labels` (size, 1) are the labels of the whole batch. reading: see `get_loader`.
    """
    all_labels = dataset.labels
    order = StepBatches(all_labels, batch_size, seed, start, stop, balance, processes)
    loader = get_loader(dataset, batch_size, batches=order, **reading)
    for batch, indices in zip(loader, order.whole(), strict=True):
        part = processes.part(len(indices), batch_size)
        yield batch | {"all_labels": all_labels[indices, None]}, part


def _sampled(dataset: PatchDataset, sample: int) -> Iterator[np.ndarray]:
    """The images (C, H, W) of at most `sample` seeded patches, always the same ones."""
    order = np.random.default_rng(SUBSET_SEED).permutation(len(dataset))[:sample]
    return (dataset[int(index)]["image"].numpy() for index in order)


def dn_counts(dataset: PatchDataset, sample: int = 2000) -> np.ndarray:
    """How often each DN of an integer type occurs per band, (C, 256 or 65536) int64."""
    counts: np.ndarray | int = 0
    for image in _sampled(dataset, sample):
        size = np.iinfo(image.dtype).max + 1
        counts = counts + np.stack([np.bincount(b.ravel(), minlength=size) for b in image])
    return counts


def value_ranges(dataset: PatchDataset, sample: int = 2000) -> np.ndarray:
    """Least and greatest value of each band of float32 patches, (2, C); nodata left out.

    The least is infinite, the greatest -infinite, if a band is all nodata.
    """
    low, high = np.inf, -np.inf
    for image in _sampled(dataset, sample):
        known = _known(image, dataset.kind.nodata)
        low = np.minimum(low, np.where(known, image, np.inf).min(axis=(1, 2)))
        high = np.maximum(high, np.where(known, image, -np.inf).max(axis=(1, 2)))
    return np.stack([low, high])


def binned_counts(
    dataset: PatchDataset, measured: Normalization, sample: int = 2000, bins: int = 65536
) -> tuple[np.ndarray, np.ndarray]:
    """How often values of float32 bands fall into bins of their range, and the bins' middles.

    Both (C, bins).
    """
    limits = zip(measured.low, measured.high, strict=True)
    edges = [np.linspace(low, high, bins + 1) for low, high in limits]
    counts: np.ndarray | int = 0
    for image in _sampled(dataset, sample):
        bands = zip(image, _known(image, measured.nodata), edges, strict=True)
        counts = counts + np.stack([np.histogram(b[known], e)[0] for b, known, e in bands])
    return counts, np.stack([(e[:-1] + e[1:]) / 2 for e in edges])


def _known(image: np.ndarray, nodata: float | None) -> np.ndarray:
    """Where float32 pixels are finite and not `nodata`, (C, H, W) bool."""
    return np.isfinite(image) & (True if nodata is None else image != nodata)
