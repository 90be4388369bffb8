"""Which patches each step of a training sees: from seed and step alone, by any process."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch.utils.data import Sampler

from fcd.processes import ALONE, Processes


def batches_per_epoch(patches: int, batch_size: int) -> int:
    """Batches of a pass over `patches`; one that is left over joins the batch before.

    Batch norm cannot take a single sample whose features are one pixel wide.
    """
    full, rest = divmod(patches, batch_size)
    return max(full + (rest > 1), 1)


class Place(NamedTuple):
    """Which patch a sample is, and where in training it stands."""

    patch: int
    """Its index in the data set."""
    step: int
    """Of the run, from 0."""
    position: int
    """In the batch of all processes."""


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
        for places in self.places():
            yield [place.patch for place in places]

    def places(self) -> Iterator[list[Place]]:
        """What iteration yields, with where in training each sample stands."""
        for step, indices in enumerate(self.whole(), self.start):
            positions = range(len(indices))[self.processes.part(len(indices), self.batch_size).rows]
            yield [Place(indices[position], step, position) for position in positions]

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
