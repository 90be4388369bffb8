"""Runs of several processes, started by torchrun: what each computes and what they agree on.

A batch is split among the processes. Each takes the gradient of its part of the batch's loss; the
sum over them is the gradient of the whole batch, so that N processes take the step of one. It is
summed after `backward`, without DistributedDataParallel: the discriminator runs several times
before one `backward`, which that wrapper is not made for.

Where there is one process, every method returns at once and torch.distributed is not touched.
"""

import functools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar
from uuid import uuid4

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from fcd.errors import READER_ENDED, UserError, first_line

T = TypeVar("T")

# How long a process waits for another, which may mask scenes for hours more. That one has died is
# noticed by torchrun.
PATIENCE = timedelta(days=1)
LAST_WORDS = timedelta(seconds=10)


@dataclass(frozen=True)
class Part:
    """The samples of a batch that one process computes."""

    size: int  # samples of the whole batch
    rows: slice = field(default_factory=lambda: slice(None))  # which of them
    weight: float = 1.0  # their share: what a mean over them counts in the mean over the batch

    def uniform(self, generator: torch.Generator, *shape: int) -> Tensor:
        """Numbers in [0, 1), (n, *shape): drawn for the whole batch, of which this part's."""
        return torch.rand(self.size, *shape, generator=generator)[self.rows]


@dataclass(frozen=True)
class Processes:
    """The processes of a run, seen from process `rank` of `count`.

    A method that communicates must be called by all; it raises `UserError` if one has ended.
    """

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes what is written once."""
        return self.rank == 0

    # Who does what:

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Every `count`-th of `items`, from the `rank`-th on: the share of this process."""
        return items[self.rank :: self.count]

    def per_process(self, batch_size: int) -> int:
        """Samples of a batch of `batch_size` that each process takes; `UserError` if uneven."""
        if batch_size % self.count:
            raise UserError(
                f"--batch_size {batch_size} is the batch of all processes together and cannot be "
                f"split evenly among {self.count}; give a multiple of {self.count}"
            )
        return batch_size // self.count

    def part(self, size: int, batch_size: int) -> Part:
        """What this process takes of a batch of `size` samples, usually `batch_size`.

        A shorter batch, the last of a pass, goes to so few processes that each gets two samples,
        which batch norm needs, if a full batch gives it as many. The others repeat samples with
        weight 0: so all do the same steps.
        """
        least = min(2, batch_size // self.count)
        active = max(1, min(self.count, size // least))
        if self.rank >= active:
            return Part(size, slice(0, least), 0.0)
        rows = slice(self.rank, None, active)
        return Part(size, rows, len(range(size)[rows]) / size)

    # What they tell one another:

    def sum(self, values: Tensor) -> Tensor:
        """The sum of `values` over the processes; in place."""
        if self.count > 1:
            with _others():
                dist.all_reduce(values)
        return values

    def sum_counts(self, counts: np.ndarray) -> np.ndarray:
        """The sum of integer `counts` over the processes; exact."""
        return self.sum(torch.from_numpy(counts)).numpy()

    def sum_parts(self, parts: dict[str, Tensor]) -> dict[str, Tensor]:
        """The sum of each of the scalars `parts` over the processes."""
        if self.count == 1:
            return parts
        return dict(zip(parts, self.sum(torch.stack(list(parts.values()))), strict=True))

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Make each gradient the sum over the processes, in one message."""
        self._sum_all([p.grad for p in parameters if p.grad is not None])

    def average_statistics(self, network: nn.Module) -> None:
        """Average the batch-norm statistics that `network` gathers in training."""
        if self.count == 1:
            return
        learning = [module for module in network.modules() if module.training]
        buffers = [b for module in learning for b in module.buffers(recurse=False)]
        statistics = [b for b in buffers if b.is_floating_point()]
        self._sum_all(statistics)
        for values in statistics:
            values /= self.count

    def _sum_all(self, tensors: list[Tensor]) -> None:
        if self.count == 1 or not tensors:
            return
        flat = self.sum(torch.cat([t.reshape(-1) for t in tensors]))
        for tensor, values in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(values.view_as(tensor))

    def largest(self, value: int) -> int:
        """The largest `value` any process has."""
        if self.count == 1:
            return value
        values = torch.tensor(value)
        with _others():
            dist.all_reduce(values, dist.ReduceOp.MAX)
        return int(values)

    def broadcast(self, value: T) -> T:
        """The `value` of the first process."""
        return self.gather(value)[0]

    def gather(self, value: T) -> list[T]:
        """The `value` of every process, in the order of their ranks."""
        if self.count == 1:
            return [value]
        values: list = [None] * self.count
        with _others():
            dist.all_gather_object(values, value)
        return values

    def require_equal(self, what: str, value: str) -> None:
        """Raise `UserError`, in every process, if `value` is not the same in all of them."""
        first, *others = self.gather(value)
        for rank, other in enumerate(others, start=1):
            if other != first:
                raise UserError(
                    f"process {rank} has other {what} than process 0 ({other}, not {first}); "
                    "check that all machines see the same files and hold the same code"
                )

    def claims(self) -> Callable[[str, str], str]:
        """A function (name, claimant) -> who was the first to claim `name`, in any process."""
        if self.count == 1:
            known: dict[str, str] = {}
            return known.setdefault
        shared = _store()
        assert shared is not None  # torchrun has started several
        store = PrefixStore(self.broadcast(uuid4().hex), shared)

        def claim(name: str, claimant: str) -> str:
            with _others():
                if store.add(name, 1) == 1:
                    store.set(f"{name}/claimant", claimant)
                return store.get(f"{name}/claimant").decode()

        return claim

    def wait(self) -> None:
        """Wait until every process has come here."""
        if self.count > 1:
            with _others():
                dist.barrier()


ALONE = Processes()


@contextmanager
def _others() -> Iterator[None]:
    """Communication that fails, mostly because another process has ended, in one line."""
    try:
        yield
    except RuntimeError as error:
        if str(error).startswith(READER_ENDED):
            raise  # this process is often here when it is told
        # NCCL says what happened at the beginning and why at the end.
        reason = "; ".join([first_line(error), *str(error).strip().splitlines()[1:][-1:]])
        raise UserError(
            f"the processes of this run cannot communicate, mostly because one has ended ({reason})"
        ) from error


# --- torchrun ----------------------------------------------------------------------------------


def local_rank() -> int | None:
    """Number of this process on its machine, or None if torchrun has not started several."""
    several = "LOCAL_RANK" in os.environ and int(os.environ["WORLD_SIZE"]) > 1
    return int(os.environ["LOCAL_RANK"]) if several else None


@contextmanager
def joined(device: torch.device) -> Iterator[Processes]:
    """The processes that torchrun has started, connected: by NCCL on CUDA, by Gloo on a CPU.

    Without torchrun it is one process. Standard output of all but the first is dropped.
    """
    if local_rank() is None:
        yield ALONE
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(
        # Values and counts in main memory go by Gloo on CUDA machines too.
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        store=_store(),
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
        timeout=PATIENCE,
    )
    processes = Processes(dist.get_rank(), dist.get_world_size())
    with (
        open(os.devnull, "w") as nowhere,
        redirect_stdout(sys.stdout if processes.first else nowhere),
    ):
        yield processes
    # After an error the process just ends: closing would wait for processes that hang.
    processes.wait()
    dist.destroy_process_group()


@functools.cache
def _store() -> Store | None:
    """The table of names and values that torchrun's processes share; None without torchrun."""
    return None if local_rank() is None else next(rendezvous("env://"))[0]


@contextmanager
def failing() -> Iterator[bool]:
    """Whether this process is the first to fail, and so the one that says why.

    One failure makes all processes fail. They wait until the first has spoken, because torchrun
    ends all as soon as one has.
    """
    if (store := _store()) is None:
        yield True
        return
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    first, said = False, f"fcd/said/{attempt}"
    # Where the store is gone, the machine that held it has ended: it was the first.
    with suppress(RuntimeError):
        first = store.add(f"fcd/failed/{attempt}", 1) == 1
    try:
        yield first
    finally:
        sys.stderr.flush()
        with suppress(RuntimeError):
            if first:
                store.set(said, "1")
            else:
                store.wait([said], LAST_WORDS)
