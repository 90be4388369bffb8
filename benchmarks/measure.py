"""The frame of the benchmarks: two ways of one work, alternating in one process run.

What is shown is the median of the rounds. Side by side in one run, a busy machine slows both
ways alike, so that their ratio says more than their times.
"""

import ctypes
import gc
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any, TypeVar

import torch
from annotated_types import Ge
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmarks.memory import peak_mib
from fcd.cli.parser import Flag, parse
from fcd.files import write_json

GIGA = 1e9


@dataclass(frozen=True)
class Way:
    """How a way did: median seconds, and peak memory of the process in MiB.

    cpu_seconds: median seconds of processors, which other programs on the machine change less.
    """

    seconds: float
    peak_mib: float
    cpu_seconds: float = math.nan


@dataclass(frozen=True)
class Comparison:
    """A work done in two ways.

    amount: how much of the work one run does, in what `unit` counts (steps of steps/s).
    plain: None where the plain way was left out. limit: what the hardware could do, in `unit`.
    """

    name: str
    unit: str
    amount: float
    plain: Way | None
    ours: Way
    limit: float | None = None

    def rate(self, way: Way | None) -> float | None:
        """What `way` does in a second, in `unit`."""
        return self.amount / way.seconds if way else None

    def row(self) -> dict[str, Any]:
        """What `--json` writes: rates in `unit`, how many times faster ours is, and its memory."""
        return {
            "name": self.name,
            "unit": self.unit,
            "plain": self.rate(self.plain),
            "ours": self.rate(self.ours),
            "ratio": self.plain.seconds / self.ours.seconds if self.plain else None,
            "peak_mib": self.ours.peak_mib,
        }

    def line(self) -> str:
        """A line of the table."""
        row = self.row()
        ratio = f"{row['ratio']:.2f}" if self.plain else "-"
        memory = f"{self.plain.peak_mib:.0f}" if self.plain else "-"
        limit = f"{row['ours'] / self.limit:.0%}" if self.limit else "-"
        return (
            f"{self.name:44} {self.unit:>10} {_short(row['plain']):>9} {_short(row['ours']):>9} "
            f"{ratio:>6} {memory:>9} {self.ours.peak_mib:9.0f} {limit:>8}"
        )


HEAD = (
    f"{'':44} {'unit':>10} {'plain':>9} {'ours':>9} {'ratio':>6} {'plain MiB':>9} "
    f"{'ours MiB':>9} {'of limit':>8}"
)


def compare(
    name: str,
    unit: str,
    amount: float,
    plain: Callable[[], Any] | None,
    ours: Callable[[], Any],
    rounds: int,
    limit: float | None = None,
    before: Callable[[], Any] = lambda: None,
) -> Comparison:
    """Run both ways `rounds` times, in alternating order, after one run of each to warm up.

    before: called before each run, and not measured.
    """
    ways = {"plain": plain, "ours": ours} if plain else {"ours": ours}
    done = in_turn(ways, rounds, before)
    return Comparison(name, unit, amount, done.get("plain"), done["ours"], limit)


def in_turn(
    ways: dict[str, Callable[[], Any]], rounds: int, before: Callable[[], Any] = lambda: None
) -> dict[str, Way]:
    """Run all `ways` `rounds` times, there and back, after one run of each; see `compare`."""
    for run in ways.values():
        before()
        run()
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    cpu: dict[str, list[float]] = {way: [] for way in ways}
    peak = dict.fromkeys(ways, 0.0)
    for number in range(rounds):
        for way in list(ways)[:: 1 if number % 2 else -1]:
            before()
            gc.collect()
            _forget_peak()
            finish()
            began, began_cpu = time.perf_counter(), time.process_time()
            ways[way]()
            finish()
            seconds[way].append(time.perf_counter() - began)
            cpu[way].append(time.process_time() - began_cpu)
            peak[way] = max(peak[way], peak_mib())
    return {way: Way(median(seconds[way]), peak[way], median(cpu[way])) for way in ways}


def finish() -> None:
    """Wait for what the current CUDA device, if one is used, has been asked to do."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def _forget_peak() -> None:
    """Let the peak memory of this process begin anew, where the system can (Linux).

    What the other way has freed is handed back first, or it would count here.
    """
    path = Path("/proc/self/clear_refs")
    if path.exists():
        if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # of the GNU C library
            trim(0)
        path.write_text("5")


# --- what the hardware can do -----------------------------------------------------------------


def matrix_product(dtype: torch.dtype, device: torch.device, size: int = 2048) -> float:
    """FLOP/s of a square matrix product: what a network could reach if it were nothing else."""

    def seconds(side: int) -> float:
        # Of zeros or ones a card makes more in a second.
        a, b = (torch.rand(side, side, device=device).to(dtype) for _ in range(2))
        taken = []
        for _ in range(5):
            finish()
            began = time.perf_counter()
            a @ b
            finish()
            taken.append(time.perf_counter() - began)
        return median(taken[1:])

    small = min(size, 256)
    if device.type == "cpu" and seconds(small) * (size / small) ** 3 > 1:
        size = small  # a processor without bfloat16 takes a minute for the large one
    return 2 * size**3 / seconds(size)


def flops(work: Callable[[], Any]) -> float:
    """Floating-point operations of `work`, counted by PyTorch: convolutions and products.

    Compiled networks are carried out as they are written, or nothing could be counted.
    """
    with torch.compiler.set_stance("force_eager"), _Flops() as counter:
        work()
    return counter.total


class _Flops(TorchDispatchMode):
    """What FlopCounterMode counts, without its hooks, which fail on gradients of gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN204
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func._overloadpacket in flop_registry:
            self.total += flop_registry[func._overloadpacket](*args, **kwargs, out_val=out)
        return out


# --- command line -----------------------------------------------------------------------------


Rounds = Annotated[int, Ge(1), "runs of each way"]
Device = Annotated[str, "auto, cpu, cuda"]


@dataclass(frozen=True)
class Settings:
    """What all benchmarks are told."""

    rounds: Rounds = 3
    threads: Annotated[int | None, Ge(1), "threads; None: all cores"] = None
    json: Annotated[Path | None, Flag(metavar="FILE"), "also write the rows"] = None


T = TypeVar("T", bound=Settings)


def asked(kind: type[T], arguments: Sequence[str] | None, name: str) -> T:
    """The settings of the benchmark `name`; from here on so many threads compute."""
    settings = parse(kind, arguments, f"-m benchmarks.{name}")
    if settings.threads:
        torch.set_num_threads(settings.threads)
    return settings


def show(comparisons: list[Comparison], path: Path | None) -> list[Comparison]:
    """Print the table, write the rows to `path` if there is one, and hand them on."""
    capability = torch.backends.cpu.get_cpu_capability()
    amx = ", AMX" * torch.cpu._is_amx_tile_supported()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {capability}{amx}")
    print("\n".join([HEAD, *(comparison.line() for comparison in comparisons)]))
    if path:
        write_json(path, [comparison.row() for comparison in comparisons])
    return comparisons


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
