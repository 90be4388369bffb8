"""Random changes of training patches, by albumentations; what a patch becomes has no memory.

A sample's change depends on the seed, the step and its position in the batch alone: not on the
process that reads it, on what was read before or on where a run was resumed. A new kind of change
is a line of `Augmentation`, of a transform of the library or, for what must know about bands (as
`randomisation` does), of an `ImageOnlyTransform` of our own beside it.
"""

import os
import random
from typing import Literal

import numpy as np

from fcd.patches import normalisation

# Otherwise albumentations asks the network for a newer release when it is imported.
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

Kind = Literal["flip", "d4", "randomise", "none"]
"""Left-right with probability 1/2, as in the paper; a square's symmetries, all alike; these, and
another sun, air and sensor for Landsat-8 DN (`randomisation`); nothing."""
MOST_BANDS = 128  # that OpenCV 5, which does the work, takes at a time
_DIGIT = 2**32  # more than there are steps, or samples in a batch


def check(kind: Kind, patches: normalisation.Kind) -> None:
    """Raise `UserError` if such `patches` cannot be changed so."""
    if kind == "randomise":
        patches.require_landsat("--augment randomise", "--augment d4")


class Augmentation:
    """The change `kind`, but not `none`, of each sample of a run of that seed.

    bands: names of the patches' bands, which `randomise` must know (see `check`).
    albumentations takes seconds to import: that is done here, before reading processes start.
    """

    def __init__(self, kind: Kind, seed: int, bands: tuple[str, ...] = ()) -> None:
        import albumentations

        flip, d4 = albumentations.HorizontalFlip(p=0.5), albumentations.D4(p=1)
        transforms = [flip if kind == "flip" else d4]
        if kind == "randomise":
            from fcd.training.randomisation import Randomise

            transforms.append(Randomise(bands))
        # The data set checks the shapes.
        self._compose = albumentations.Compose(transforms, is_check_shapes=False)
        self._seed = seed

    def __call__(
        self, step: int, position: int, image: np.ndarray, **mask: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Image (C, H, W) and, if given, `mask` (H, W) of the sample at `position` of batch `step`.

        They are square, and keep their types; the bands of a pixel come to lie together in memory.
        """
        key = (self._seed * _DIGIT + step) * _DIGIT + position
        pixels, parts = image.transpose(1, 2, 0), []
        for first in range(0, len(image), MOST_BANDS):
            # The same numbers for all bands. This takes half the time of `set_random_seed`.
            self._compose.set_random_state(np.random.default_rng(key), random.Random(key))
            done = self._compose(image=pixels[:, :, first : first + MOST_BANDS], **mask)
            parts.append(done["image"])
        changed = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)
        return done | {"image": changed.transpose(2, 0, 1)}
