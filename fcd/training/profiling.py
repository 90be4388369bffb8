"""Where the time of a training step goes: a trace for TensorBoard and a short table."""

from collections.abc import Iterable, Iterator
from operator import attrgetter
from pathlib import Path
from typing import TypeVar

import torch
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEventAvg
from torch.profiler import ProfilerActivity, profile, schedule
from tqdm import tqdm

from fcd.files import replacing

T = TypeVar("T")

WAIT, WARM_UP = 2, 1  # steps before the trace: memory and kernels settle, then the profiler
ROWS = 10


def profiled(batches: Iterable[T], steps: int, folder: Path) -> Iterator[T]:
    """Pass `batches` on, and profile what is done with `steps` of them after the first three.

    Writes `folder`/profile.pt.trace.json (for TensorBoard's profiler plugin, chrome://tracing or
    ui.perfetto.dev) and prints the costliest operations; if the loop ends before, neither.
    """
    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_initialized():  # as it is where the networks are there
        activities.append(ProfilerActivity.CUDA)
    rest = iter(batches)
    plan = schedule(wait=WAIT, warmup=WARM_UP, active=steps, repeat=1)
    with profile(activities=activities, schedule=plan, acc_events=True) as profiler:
        for _, batch in zip(range(WAIT + WARM_UP + steps), rest, strict=False):
            yield batch
            profiler.step()
    if profiler.step_num == WAIT + WARM_UP + steps:
        path = folder / "profile.pt.trace.json"
        with replacing(path) as temporary:
            profiler.export_chrome_trace(str(temporary))
        tqdm.write(f"{table(profiler.key_averages(), steps)}\ntrace: {path}")
    yield from rest


def table(events: Iterable[FunctionEventAvg], steps: int) -> str:
    """The operations by the time of their own, on the device if there is one: ms a step, share."""
    operations = [event for event in events if not str(event.key).startswith("ProfilerStep")]
    time = attrgetter("self_cpu_time_total")  # microseconds
    if any(event.self_device_time_total for event in operations):
        time = attrgetter("self_device_time_total")
        # Its kernels: the operations that started them, and annotations, hold the same time again.
        kernels = (event for event in operations if event.device_type != DeviceType.CPU)
        operations = [event for event in kernels if not event.is_user_annotation]
    total = sum(map(time, operations))
    lines = [f"{'ms/step':>9} {'share':>6} {'calls/step':>10}  operation"]
    for event in sorted(operations, key=time, reverse=True)[:ROWS]:
        own = time(event)
        lines.append(
            f"{own / steps / 1000:9.2f} {own / total:6.1%} {event.count / steps:10.1f}  "
            f"{str(event.key)[:60]}"
        )
    return "\n".join(lines)
