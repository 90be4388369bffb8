"""What surrounds the steps of a training: bar, log and stop signals, randomness, a last check."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from fcd.interruption import Interruption
from fcd.processes import Processes
from fcd.training.losses import Parts


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
    with (
        Interruption() as interruption,
        # What an earlier start has logged of steps that are now done again is not shown.
        SummaryWriter(str(logs), purge_step=step + 1) if processes.first else _NoLog() as log,
        tqdm(
            initial=step, total=stop, unit="step", dynamic_ncols=True, disable=not processes.first
        ) as bar,
    ):
        yield bar, log, interruption


def seed_step(seed: int, step: int, rank: int) -> torch.Generator:
    """Seed dropout and return the generator of step `step`: from seed and step alone.

    The generator is the same in all processes, each of which, `rank`, has dropout of its own.
    """
    seed = seed * 1_000_003 + step
    # The CPU's generator keeps 32 bits of its seed: neighbours must differ in those.
    torch.manual_seed(seed + rank * 2_654_435_761)
    return torch.Generator().manual_seed(seed)


def log_parts(
    step: int, parts: Parts, lr: float, shown: tuple[str, ...], log: Log, bar: tqdm
) -> None:
    """Log loss parts and learning rate; put the parts `shown` beside the bar."""
    values = dict(zip(parts, torch.stack(list(parts.values())).tolist(), strict=True))
    for name, value in (values | {"lr": lr}).items():
        log.add_scalar(name, value, step)
    known = {name: f"{values[name]:.3f}" for name in shown if name in values}
    bar.set_postfix(known, refresh=False)
