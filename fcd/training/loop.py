"""What surrounds the steps of a training: bar, log, pictures, stop signals, randomness."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from fcd import pictures
from fcd.interruption import Interruption
from fcd.landsat import labels
from fcd.patches.normalisation import FILL, Normalization
from fcd.processes import Processes
from fcd.training.losses import difference_map


class _NoLog(nullcontext):
    """The TensorBoard log of a process that writes none."""

    def __enter__(self) -> "_NoLog":
        return self

    def add_scalar(self, *_: Any) -> None:
        """Nothing."""

    def add_image(self, *_: Any, **__: Any) -> None:
        """Nothing."""


Log = SummaryWriter | _NoLog


@contextmanager
def training_loop(
    step: int, stop: int, logs: Path, processes: Processes
) -> Iterator[tuple[tqdm, Log, Interruption]]:
    """Progress bar from `step` to `stop`, TensorBoard log in `logs`, stop signals."""
    silent = not processes.first
    with (
        Interruption() as interruption,
        # What an earlier start has logged of steps that are now done again is not shown.
        _NoLog() if silent else SummaryWriter(str(logs), purge_step=step + 1) as log,
        tqdm(initial=step, total=stop, unit="step", dynamic_ncols=True, disable=silent) as bar,
    ):
        yield bar, log, interruption


def log_validation(
    log: Log, step: int, scores: dict[str, Any], threshold: float, best: float
) -> None:
    """Log and print the `scores` of `fcd.metrics.scores`; best: macro F1 so far."""
    accuracy, macro = scores["accuracy"], scores["macro"]
    said = {"accuracy": accuracy, "f1": macro["f1"], "iou": macro["iou"], "threshold": threshold}
    for name, value in said.items():
        log.add_scalar(f"val/{name}", value, step)
    tqdm.write(
        f"step {step}: validation accuracy {accuracy:.3f}, macro F1 {macro['f1']:.3f} "
        f"(best {best:.3f})"
    )


def seed_step(seed: int, step: int, rank: int) -> torch.Generator:
    """Seed dropout and return the generator of step `step`: from seed and step alone.

    The generator is the same in all processes, each of which, `rank`, has dropout of its own.
    """
    seed = seed * 1_000_003 + step
    # The CPU's generator keeps 32 bits of its seed: neighbours must differ in those.
    torch.manual_seed(seed + rank * 2_654_435_761)
    return torch.Generator().manual_seed(seed)


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
