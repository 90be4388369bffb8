"""Pictures of what a generator makes of patches."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from fcd import pictures
from fcd.landsat import labels
from fcd.patches.normalisation import FILL, Normalization
from fcd.training.losses import difference_map


@torch.inference_mode()
def translations(
    generator: nn.Module,
    x: Tensor,
    masks: np.ndarray | None,
    normalization: Normalization,
    rgb: Sequence[int],
) -> np.ndarray:
    """One row a patch: input, to clear, difference map, to cloudy, truth; RGB (h, w, 3) uint8.

    x: (N, C, S, S) float32 in [-1, 1]; masks: (N, S, S) patch codes, if there are some; rgb: red,
    green and blue among the bands, from 0.
    """
    domain = x.new_ones(len(x), 1)
    clear, cloudy = generator(x, domain * labels.LABEL_CLEAR), generator(x, domain)
    difference = difference_map(generator, x).cpu().numpy()
    upper = max(float(np.quantile(difference, 0.99)), 1e-6)
    dn = [normalization.denormalize(t)[:, list(rgb)].cpu().numpy() for t in (x, clear, cloudy)]
    valid = (x != FILL).all(dim=1).cpu().numpy()
    rows = []
    for index, values in enumerate(difference):
        # One stretch for the three, so that their colours can be compared.
        images = np.concatenate([image[index] for image in dn], axis=-1)
        strip = pictures.stretch_rgb(images, np.tile(valid[index], 3))
        source, to_clear, to_cloudy = np.split(strip, 3, axis=1)
        cells = [source, to_clear, pictures.colour_score(values, upper), to_cloudy]
        if masks is not None:
            cells.append(pictures.colour_mask(masks[index]))
        rows.append(np.hstack(cells))
    return np.vstack(rows)
