"""Which patches each step of a training sees, from seed and step alone; who reads them.

Processes that read end when the one that trains says so, and their end is told.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch.utils.data import DataLoader

from fcd.errors import READER_ENDED
from fcd.processes import ALONE, Processes

_SAYS_WHO = hasattr(signal, "sigwaitinfo")  # macOS does not say who sent a signal


def batches_per_epoch(patches: int, batch_size: int) -> int:
    """Batches of a pass over `patches`; one that is left over joins the batch before.

    Batch norm cannot take a single sample whose features are one pixel wide.
    """
    full, rest = divmod(patches, batch_size)
    return max(full + (rest > 1), 1)


class Place(NamedTuple):
    """Which patch a sample is, and where in training it stands."""

    patch: int  # its index in the data set
    step: int  # of the run, from 0
    position: int  # in the batch of all processes


@dataclass(frozen=True)
class StepBatches:
    """The batches of the steps `start` to `stop` of a run; of each this process's part.

    labels: image-level, (n,) float32. A run resumed at step k sees what an uninterrupted run would
    have seen, however many `processes` there are. Each pass over the data is a new permutation;
    with `balance` a draw with replacement in which clear and cloudy are equally likely.
    """

    labels: torch.Tensor
    batch_size: int
    seed: int
    start: int
    stop: int
    balance: bool
    processes: Processes = ALONE

    def __iter__(self) -> Iterator[list[Place]]:
        for step, indices in enumerate(self.whole(), self.start):
            places = [Place(index, step, position) for position, index in enumerate(indices)]
            yield places[self.processes.part(len(indices), self.batch_size).rows]

    def whole(self) -> Iterator[list[int]]:
        """The batches of all processes together, as indices in the data set."""
        per_epoch = batches_per_epoch(len(self.labels), self.batch_size)
        epoch, order = None, []
        for step in range(self.start, self.stop):
            if step // per_epoch != epoch:
                epoch = step // per_epoch
                order = self._epoch(epoch)
            batch = step % per_epoch
            first, last = batch * self.batch_size, batch == per_epoch - 1
            yield order[first:] if last else order[first : first + self.batch_size]

    def _epoch(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        n = len(self.labels)
        if not self.balance:
            return torch.randperm(n, generator=generator).tolist()
        share = self.labels.mean()
        weights = torch.where(self.labels > 0, 1 / share, 1 / (1 - share))
        return torch.multinomial(weights, n, replacement=True, generator=generator).tolist()


def obey_parent_alone(_: int) -> None:
    """What each reading process begins with."""
    # Ctrl-C, and SIGTERM from torchrun or a batch system, reach all processes; the training loop
    # alone decides when to stop. A loader ends when that loop's process asks it to.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if _SAYS_WHO:  # SIGTERM is blocked, see `Loader`
        threading.Thread(target=_obey_parent, args=(os.getppid(),), daemon=True).start()
    else:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _obey_parent(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


class Loader(DataLoader):
    """Tells the end of one of its processes always as PyTorch mostly does."""

    def __iter__(self) -> Iterator[dict]:  # type: ignore[override]
        try:
            # Before its processes start, or threads that they have from the start would not.
            blocked = {signal.SIGTERM} if _SAYS_WHO else set()
            before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
            try:
                batches = super().__iter__()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
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
