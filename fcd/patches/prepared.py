"""The patches of prepare_landsat8_biome.py: where they are and how they are read."""

from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from fcd.errors import UserError
from fcd.landsat import labels
from fcd.landsat.bands import FILL_DN
from fcd.landsat.reference import NAMES
from fcd.landsat.scenes import Scene, find_scenes
from fcd.patches import store
from fcd.patches.normalisation import DTYPES
from fcd.patches.records import reference_of, scenes_of_split
from fcd.patches.store import DamagedPatch


@dataclass(frozen=True)
class Kind:
    """What all patches of a data set have in common. nodata: None if no value marks it."""

    num_channels: int
    image_size: int
    dtype: str
    nodata: float | None

    def __str__(self) -> str:
        nodata = "no nodata" if self.nodata is None else f"nodata {self.nodata:g}"
        size = f"{self.image_size}x{self.image_size} pixels"
        return f"{self.num_channels} bands of {self.dtype}, {size}, {nodata}"


@dataclass(frozen=True)
class PreparedPatches:
    """Where the patches of prepare_landsat8_biome.py are and how they are read.

    `reference` says what the labels and mask.tif come from, see `reference_of`.
    """

    root: Path

    nodata = None  # no choice of the user: fill
    masks_are_optional = False
    mask_hint = "run python prepare_landsat8_biome.py --generated_masks DIR"

    @property
    def absent(self) -> str:
        """What to do if there are no patches."""
        return f"run python prepare_landsat8_biome.py --output_dir {self.root}"

    @cached_property
    def reference(self) -> str:
        """`fcd.landsat.reference.TRUTH` or `QA`; the records of the scenes are read once."""
        return reference_of(self.root)

    @property
    def labels_from(self) -> str:
        """What the labels come from, in words."""
        return NAMES[self.reference]

    def find(self, split: str, folder: str) -> list[Path]:
        """The patches of a split in the folder `clear` or `cloudy`, sorted by name."""
        place = self.root / split / folder
        return sorted(place.iterdir()) if place.is_dir() else []

    def image_path(self, patch: Path) -> Path:
        """Where the image of a patch is."""
        return patch / "image.tif"

    def mask_path(self, patch: Path, mask_file: str) -> Path:
        """Where the mask `mask_file`, such as mask.tif, of a patch is."""
        return patch / mask_file

    def check_mask_file(self, mask_file: str) -> None:
        """Nothing: any name will do."""

    def read(self, patch: Path, mask_file: str | None) -> tuple[np.ndarray, np.ndarray | None]:
        """Image (C, H, W), and patch codes (H, W) uint8 of its mask; `DamagedPatch` if it is."""
        image = store.read(self.image_path(patch), 3).transpose(2, 0, 1)
        return image, None if mask_file is None else self.mask(patch, mask_file)

    def mask(self, patch: Path, mask_file: str) -> np.ndarray:
        """Patch codes (H, W) uint8 of the mask of a patch."""
        path = self.mask_path(patch, mask_file)
        mask = store.read(path, 2)
        if mask.dtype != np.uint8 or mask.max() > labels.CLOUD:
            raise DamagedPatch.of(path, f"it holds {mask.dtype} up to {mask.max()}, no patch codes")
        return mask

    def damaged(self, path: Path, reason: str) -> DamagedPatch:
        """The error that names a file of a patch and what can be done."""
        return DamagedPatch.of(path, reason)

    def kind(self, found: list[Path]) -> Kind:
        """What the patches `found` have in common, from the first one that can be read.

        Raises `UserError` if none can be, or its pixels are of a type that no network takes.
        """
        for patch in found:
            with suppress(DamagedPatch):
                image, _ = self.read(patch, None)
                if image.dtype.name not in DTYPES:
                    raise UserError(
                        f"{self.image_path(patch)} holds {image.dtype}; patches hold "
                        f"{', '.join(DTYPES)}: prepare their scenes anew into another --output_dir"
                    )
                return Kind(len(image), image.shape[-1], image.dtype.name, FILL_DN)
        raise UserError(f"every patch is damaged, such as {found[0]}")

    def scenes(self, split: str, scene_dir: Path | str, *, masked: bool) -> list[Scene]:
        """The scenes below `scene_dir` that were prepared for `split`; all have a reference."""
        return scenes_of_split(find_scenes(scene_dir), self.root, split)
