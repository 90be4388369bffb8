"""Patches with image-level labels, in batches that depend on seed and step alone."""

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Subset, default_collate
from tqdm import tqdm

from fcd.cli.settings import TrainingSettings
from fcd.errors import UserError
from fcd.files import digest
from fcd.landsat import labels
from fcd.landsat.bands import SUN, in_files, positions
from fcd.landsat.rasters import plain
from fcd.landsat.reference import TRUTH
from fcd.masks import thresholds
from fcd.masks.quantisation import Sample, Samples
from fcd.patches import generated
from fcd.patches.normalisation import FILL, Kind, Normalization, normalization
from fcd.patches.sources import PreparedPatches, Source
from fcd.patches.store import TRUTH_MASK, DamagedPatch
from fcd.patches.suns import Suns
from fcd.processes import Part, Processes
from fcd.training.augmentation import Augmentation
from fcd.training.batches import Loader, Place, StepBatches, obey_parent_alone
from fcd.training.checkpoints import Select

SUBSET_SEED = 42  # keep_ratio takes the same patches in every experiment
MEASURED = 2000  # patches whose values give a normalisation
REHEARSED = 4  # drawn patches that are learned along with each other one, at most


def as_source(source: Source | Path | str) -> Source:
    """`source`, or the patches of prepare_landsat8_biome.py in that folder."""
    return PreparedPatches(Path(source)) if isinstance(source, Path | str) else source


class Form(NamedTuple):
    """What must be the same in all patches."""

    image: tuple[tuple[int, ...], str]  # shape (C, H, W) and type
    mask: tuple[int, ...] | None  # shape (H, W)

    @classmethod
    def of(cls, image: np.ndarray, mask: np.ndarray | None) -> "Form":
        """That of a patch."""
        return cls((image.shape, image.dtype.name), None if mask is None else mask.shape)


class PatchDataset(Dataset):
    """Patches of one split, sorted by name.

    A sample is a dict: image (C, H, W) DN, of prepared patches uint16 (float32, with NaN, where its
    file hides pixels); label (1,) float32, 0 clear or 1 cloudy; mask (H, W) uint8 patch codes, if
    `mask_file` is given; name.

    source: where the patches are; a path is a folder of prepare_landsat8_biome.py.
    mask_file: mask.tif, generated_mask.tif, …; None reads no mask.
    keep_ratio: share of the patches to keep, the same ones every time; most: how many, at most.
    only: the patches of that label alone.
    skip_bad: read every patch once and leave out, for good, those that are damaged, or of another
    shape or type than most: `left_out`. Otherwise they raise `DamagedPatch` when they are read.
    masks_optional: read no mask if a patch has none and `source` lets it do without.
    bands: those that images give, by name and in this order, the height of the sun among them
    (`fcd.landsat.radiometry.with_sun`); None: all, as they are.
    toa: images are standard DN (`fcd.landsat.radiometry`), whatever sun scenes were taken under.
    least_cloud: the mask of a cloudy patch in which a smaller share is cloud contradicts the label;
    it is given as all invalid.
    Raises `UserError` if a folder is missing or empty, or a patch has no `mask_file` but should.
    """

    def __init__(
        self,
        source: Source | Path | str,
        split: str,
        mask_file: str | None = None,
        keep_ratio: float = 1.0,
        most: int | None = None,
        only: Literal["clear", "cloudy"] | None = None,
        skip_bad: bool = False,
        masks_optional: bool = False,
        bands: Sequence[str] | None = None,
        toa: bool = False,
        least_cloud: float = 0.0,
    ) -> None:
        self.source, self.bands = as_source(source), bands
        self.mask_file, self.toa, self.least_cloud = mask_file, toa, least_cloud
        self.reference, self.labels_from = self.source.reference, self.source.labels_from
        self.patches: list[tuple[Path, int]] = []
        whole: list[Path] = []
        for label, name in enumerate(labels.CLASS_FOLDERS):
            if not (found := self.source.find(split, name)):
                place = self.source.root / split / name
                raise UserError(
                    f"{place} holds no patches; {self.source.absent(place)} (FCD needs clear and "
                    "cloudy patches)"
                )
            whole += found
            if only in (None, name):
                self.patches += [(patch, label) for patch in found]
        self.along: PatchDataset | None = None
        kept = min(max(1, round(keep_ratio * len(self.patches))), most or len(self.patches))
        if kept < len(self.patches):
            order = np.random.default_rng(SUBSET_SEED).permutation(len(self.patches))
            self.patches = [self.patches[index] for index in sorted(order[:kept])]
        if mask_file and (missing := self.without(mask_file)):
            if not (masks_optional and self.source.masks_are_optional):
                raise UserError(
                    f"{missing[0]} has no {mask_file} ({len(missing)} of {len(self.patches)} "
                    f"patches have none); {self.source.mask_hint}"
                )
            self.mask_file = None
        self.left_out = self._leave_out_damaged(split) if skip_bad else []
        if self.mask_file:
            labels.require_clear(self._masks(whole), f"the {split} patches of {self.source.root}")
        self._suns = Suns()
        if toa or SUN in (bands or ()):
            found = [patch for patch, _ in self.patches]
            self._suns = Suns.of(self.source, found, self.kind, toa)

    def rehearse(self, source: Source, skip_bad: bool = False) -> None:
        """Give after one's own patches those of `source`, with masks if those have masks.

        `patches`, and what is counted of them, stay one's own. `UserError` if they are unlike.
        """
        how: dict[str, Any] = {"skip_bad": skip_bad, "bands": self.bands, "toa": self.toa}
        mask_file, most = TRUTH_MASK if self.mask_file else None, REHEARSED * len(self.patches)
        self.along = PatchDataset(source, "train", mask_file, most=most, **how)
        self.require_alike(self.along, "drawn")

    def require_alike(self, other: "PatchDataset", name: str) -> None:
        """Raise `UserError` if the patches of `other`, called `name`, have another `kind`."""
        if other.kind != self.kind:
            raise UserError(
                f"{other.source.root}: the {name} patches have {other.kind}, the training patches "
                f"{self.kind}; they must be alike"
            )

    def _masks(self, patches: Sequence[Path]) -> Iterator[np.ndarray]:
        """The masks of `patches` that can be read."""
        for patch in patches:
            with suppress(DamagedPatch):  # told when it is learned from
                yield self.source.mask(patch, str(self.mask_file))

    def _leave_out_damaged(self, split: str) -> list[str]:
        """Take patches that cannot be read or differ from most out of `patches`; return names."""
        count, task = len(self.patches), f"checking {split} patches"
        with ThreadPoolExecutor(8) as pool:
            read = pool.map(self._form_or_damage, self.patches)
            found = list(tqdm(read, task, count, leave=False, dynamic_ncols=True))
        if forms := [form.image for form in found if isinstance(form, Form)]:
            self._image_form = Counter(forms).most_common(1)[0][0]
        bad: dict[Path, DamagedPatch] = {}
        for (patch, _), form in zip(self.patches, found, strict=True):
            if error := self._unlike(patch, form) if isinstance(form, Form) else form:
                print(f"left out: {error}")
                bad[patch] = error
        whole = [(patch, label) for patch, label in self.patches if patch not in bad]
        if {label for _, label in whole} != {label for _, label in self.patches}:
            first = next(iter(bad.values()))
            raise UserError(f"every clear or every cloudy patch is damaged, such as {first}")
        self.patches = whole
        return [patch.name for patch in bad]

    def _form_or_damage(self, patch: tuple[Path, int]) -> Form | DamagedPatch:
        try:
            return Form.of(*self.source.read(patch[0], self.mask_file))
        except DamagedPatch as error:
            return error

    def summary(self) -> dict[str, Any]:
        """Which patches these are, for config.json: they must be the same when a run goes on."""
        names = digest("".join(f"{folder.name} {label}\n" for folder, label in self.patches))
        own = {"patches": len(self.patches), "fingerprint": names, "left_out": self.left_out}
        if which := self.mask_file and generated.which_masks(self.source.root, self.mask_file):
            own["masks"] = which
        return own if self.along is None else own | {"drawn": self.along.summary()}

    def without(self, mask_file: str) -> list[Path]:
        """The patches that have no mask `mask_file`."""
        return [p for p, _ in self.patches if not self.source.mask_path(p, mask_file).exists()]

    @property
    def labels(self) -> torch.Tensor:
        """Image-level labels of all samples (n,) float32."""
        drawn = self.along.patches if self.along else []
        return torch.tensor([label for _, label in self.patches + drawn], dtype=torch.float32)

    @cached_property
    def _whole(self) -> Kind:
        """Of the patches as they are on the disk."""
        with _can_be_left_out():
            return self.source.kind([patch for patch, _ in self.patches])

    @property
    def kind(self) -> Kind:
        """Bands, size, type and nodata of the patches; `UserError` if they differ."""
        return replace(self._whole, bands=tuple(self.bands)) if self.bands else self._whole

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
        """That of the first image that can be read, or of most where all are read beforehand."""
        for patch, _ in self.patches:
            with suppress(DamagedPatch):
                return Form.of(*self.source.read(patch, None)).image
        raise UserError(f"every patch is damaged, such as {self.patches[0][0]}")

    @cached_property
    def _places(self) -> list[int] | None:
        """Where the bands asked for are; None: as the images have them."""
        if self.bands is None or in_files(self.bands) == self._whole.bands:
            return None
        return positions(in_files(self.bands), self._whole.bands, str(self.source.root))

    def labelled_pixels(self) -> int:
        """Number of pixels whose mask says clear or cloud."""
        assert self.mask_file, "only where masks are read"
        masks = (self.source.mask(patch, self.mask_file) for patch, _ in self.patches)
        with _can_be_left_out():
            return sum(int(np.count_nonzero(mask)) for mask in masks)

    def __len__(self) -> int:
        return len(self.patches) + (len(self.along) if self.along else 0)

    def __getitem__(self, index: int) -> dict:
        if self.along and index >= len(self.patches):
            return self.along[index - len(self.patches)]
        patch, label = self.patches[index]
        with _can_be_left_out():
            image, mask = self.source.read(patch, self.mask_file)
            if error := self._unlike(patch, Form.of(image, mask)):
                raise error
        image = plain(image)
        image = image if self._places is None else image[self._places]
        sample = {
            "image": torch.from_numpy(self._suns.change(patch, image)),
            "label": torch.tensor([label], dtype=torch.float32),
            "name": patch.name,
        }
        if mask is not None:
            if label == labels.LABEL_CLOUDY and labels.cloud_share(mask) < self.least_cloud:
                mask = np.full_like(mask, labels.INVALID)
            sample["mask"] = torch.from_numpy(mask)
        return sample

    def _unlike(self, patch: Path, form: Form) -> DamagedPatch | None:
        """The error that names the file of a patch in which it is unlike the others, if any."""
        (shape, dtype), source = self._image_form, self.source
        if form.image != self._image_form:
            told = f"it holds {form.image[1]} {form.image[0]}, the others {dtype} {shape}"
            return source.damaged(source.image_path(patch), told)
        if self.mask_file and form.mask not in (None, shape[1:]):
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
    train_set: PatchDataset, select: Select, skip_bad: bool = False
) -> tuple[PatchDataset | None, Select]:
    """The validation patches with their masks, and how they choose the best checkpoint.

    Without masks `select` becomes `image`; without a val split there are no patches. Either is said
    aloud. Raises `UserError` if they are not like those of `train_set`.
    """
    source = train_set.source
    if not (source.root / "val").is_dir():
        print(f"{source.root} has no val split: the last checkpoint will count as the best one")
        return None, select
    how: dict[str, Any] = {"skip_bad": skip_bad, "masks_optional": True}
    how |= {"bands": train_set.bands, "toa": train_set.toa}
    dataset = PatchDataset(source, "val", TRUTH_MASK, **how)
    train_set.require_alike(dataset, "val")
    if dataset.mask_file is None and select == "pixel":
        missing = len(dataset.without(TRUTH_MASK))
        print(
            f"{missing} of the {len(dataset)} val patches of {source.root} have no mask: the best "
            "checkpoint will be chosen by image-level labels (--select image)"
        )
        select = "image"
    return dataset, select


def threshold_patches(source: Source, choice: str, **how: Any) -> PatchDataset:
    """The patches from whose scores a threshold is chosen: see `thresholds.choose`.

    They are training patches, for `image` val patches if there are some.

    how: more arguments of `PatchDataset`.
    """
    if thresholds.clear_share(choice) is not None:
        return PatchDataset(source, "train", only="clear", **how)
    if choice == "image":
        split = "val" if (source.root / "val").is_dir() else "train"
        return PatchDataset(source, split, **how)
    if choice == "otsu":
        how["masks_optional"] = True
    return PatchDataset(source, "train", TRUTH_MASK, only="cloudy", **how)


def threshold_choice(source: Source) -> str:
    """How a threshold is chosen unless one says: `f1`, without manual masks `clear`."""
    if not source.masks_are_optional:  # what fits QA bands best has their errors
        return "f1" if source.reference == TRUTH else thresholds.CLEAR
    dataset = threshold_patches(source, "f1", masks_optional=True)
    if dataset.mask_file:
        return "f1"
    print(
        f"{len(dataset.without(TRUTH_MASK))} of the {len(dataset)} cloudy training patches of "
        f"{source.root} have no mask: the threshold will be chosen on the clear ones "
        "(--threshold clear)"
    )
    return thresholds.CLEAR


def training_samples(source: Source, normalization: Normalization) -> Samples:
    """The training patches, and their masks if there are any, to calibrate a network on.

    Raises `UserError` if there are none, or they lack a band of the network.
    """
    how: dict[str, Any] = {"bands": normalization.bands, "toa": normalization.is_toa}
    dataset = PatchDataset(source, "train", TRUTH_MASK, masks_optional=True, **how)

    def draw(count: int) -> Iterator[Sample]:
        for index in thresholds.sample(len(dataset), count):
            patch = dataset[index]
            x = normalization.normalize(patch["image"][None])[0]
            mask = patch["mask"].numpy() if "mask" in patch else None
            yield x, (x != FILL).all(dim=0).numpy(), mask

    summary = dataset.summary()
    told = f"{summary['patches']} training patches {summary['fingerprint']} of {source.root}"
    return Samples(draw, told, of_training=True)


def summaries(train_set: PatchDataset, val_set: PatchDataset | None) -> dict[str, Any]:
    """What a run is trained and validated on: a `PatchDataset.summary` each."""
    return {"train": train_set.summary()} | ({"val": val_set.summary()} if val_set else {})


def training_normalization(kind: str, dataset: PatchDataset) -> Normalization:
    """`paper`, or the others from the statistics of at most `MEASURED` of the patches."""
    order = np.random.default_rng(SUBSET_SEED).permutation(len(dataset))[:MEASURED]
    return normalization(
        kind, dataset.kind, lambda: (dataset[int(index)]["image"].numpy() for index in order)
    )


@dataclass(frozen=True)
class AugmentedPatches(Dataset):
    """The samples of `patches`, changed if there is a `change`; which and how says a `Place`."""

    patches: PatchDataset | Subset
    change: Augmentation | None

    def __getitem__(self, place: Place) -> dict:
        sample = self.patches[place.patch]
        if self.change is None:
            return sample
        arrays = {name: sample[name].numpy() for name in ("image", "mask") if name in sample}
        changed = self.change(place.step, place.position, **arrays)
        return sample | {name: torch.from_numpy(array) for name, array in changed.items()}


def collate(samples: list[dict]) -> dict:
    """A batch of `samples`; images (N, C, H, W) keep the bands of a pixel together in memory.

    So prepared patches lie in their files: they are transposed on the device (`Solver.inputs`). One
    with NaN makes them all float32.
    """
    images = [sample["image"].permute(1, 2, 0) for sample in samples]
    if any(image.is_floating_point() for image in images):
        images = [image.float() for image in images]
    interleaved = [s | {"image": image} for s, image in zip(samples, images, strict=True)]
    batch = default_collate(interleaved)
    return batch | {"image": batch["image"].permute(0, 3, 1, 2)}


def get_loader(
    dataset: PatchDataset | Subset,
    batch_size: int,
    num_workers: int,
    *,
    batches: StepBatches | None = None,
    augmentation: Augmentation | None = None,
    pin_memory: bool = False,
) -> DataLoader:
    """Batches of `dataset`: image (N, C, H, W) DN, label (N, 1) float32, mask (N, H, W) uint8.

    In the order of `batches`, each sample changed by `augmentation`, or once from first to last,
    as they are. pin_memory: for a CUDA device, which then takes them while it computes.
    """
    order = {"batch_sampler": batches} if batches else {"batch_size": batch_size}
    return Loader(
        AugmentedPatches(dataset, augmentation) if batches else dataset,
        num_workers=num_workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        worker_init_fn=obey_parent_alone,
        **order,
    )


def training_batches(
    dataset: PatchDataset,
    settings: TrainingSettings,
    seed: int,
    steps: tuple[int, int],
    processes: Processes,
    **reading: Any,
) -> Iterator[tuple[dict, Part]]:
    """The batches of a run from the first to the second of `steps`: this process's part of each.

    `all_labels` (size, 1) are the labels of the whole batch. reading: see `get_loader`.
    """
    all_labels, size, augment = dataset.labels, settings.batch_size, settings.augment
    order = StepBatches(all_labels, size, seed, *steps, settings.balance, processes)
    change = None if augment == "none" else Augmentation(augment, seed, dataset.kind.bands)
    loader = get_loader(dataset, size, batches=order, augmentation=change, **reading)
    for batch, indices in zip(loader, order.whole(), strict=True):
        part = processes.part(len(indices), size)
        yield batch | {"all_labels": all_labels[indices, None]}, part
