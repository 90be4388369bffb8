"""What a GPU makes of it: agreement with the CPU, training steps, scenes, two epochs of the demo.

    bash benchmarks/gpu.sh

Without a CUDA device everything runs on the CPU, at `--size tiny` within a test.
"""

import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor, nn

from benchmarks import measure, scene
from benchmarks.train_step import SIZES, Cycle, Size, SizeName, gan_cycle, unet_cycle
from fcd.cli import entry
from fcd.cli.entry import compiles, use_device
from fcd.errors import UserError, first_line
from fcd.files import write_json, write_text
from fcd.masks.precision import in_bfloat16
from fcd.masks.scoring import ArrayScene, Scorer, Tiles, strips
from fcd.patches.normalisation import to_device
from fcd.training.run import Run, RunFolder

ROOT = Path(__file__).parents[1]
Part = Literal["agreement", "steps", "scenes", "demo"]
PARTS: list[Part] = ["agreement", "steps", "scenes", "demo"]
CPU = torch.device("cpu")
Solver = scene.Solver
PAPER_PATCHES = 200_000 * 16  # of the paper's run of FCD


@dataclass(frozen=True)
class Precision:
    """A way to compute, and how far from float32 on the CPU it may take scores in [0, 1] (RMS)."""

    name: str
    amp: bool
    tf32: bool
    tolerance: float

    @property
    def dtype(self) -> torch.dtype:
        """What the products are of."""
        return torch.bfloat16 if self.amp else torch.float32

    @contextmanager
    def used(self) -> Iterator[None]:
        """From here on CUDA computes so; bfloat16 is the affair of --amp."""
        before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        torch.set_float32_matmul_precision("high" if self.tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = self.tf32
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before[0])
            torch.backends.cudnn.allow_tf32 = before[1]


# TF32 keeps 10 bits of a product's factors and bfloat16 7; through some 30 layers of random
# weights that is about this.
FLOAT32 = Precision("float32", False, False, 1e-4)
TF32 = Precision("TF32", False, True, 1e-2)
BF16 = Precision("bfloat16", True, True, 5e-2)


@dataclass(frozen=True)
class Row:
    """A line of the table: what was measured, in what way, and how much of what is possible."""

    part: Part
    what: str
    way: str
    value: float | None
    unit: str
    limit: float | None = None  # what `value` may be at most, or the card could do
    note: str = ""


@dataclass(frozen=True)
class Settings(measure.Settings):
    """What a GPU makes of it: agreement with the CPU, training steps, scenes, the demo."""

    size: Annotated[SizeName, "of the networks"] = "paper"
    parts: Annotated[list[Part], "what is done"] = field(default_factory=lambda: list(PARTS))
    gan_batch: Annotated[int, Ge(1), "patches in a step of FCD"] = 16
    unet_batch: Annotated[int, Ge(1), "patches in a step of FCD+"] = 64
    mpixel: Annotated[float, Ge(0), "size of the scene"] = 16
    seconds: Annotated[float, Ge(0), "for which a rate is taken"] = 3
    markdown: Annotated[Path | None, "also write the table"] = None
    device: measure.Device = "auto"


def main(arguments: Sequence[str] | None = None) -> list[Row]:
    """Run the command line; return what was measured."""
    flags = measure.asked(Settings, arguments, "gpu")
    device, rows = use_device(flags.device), []
    works = {"agreement": agreement, "steps": steps, "scenes": scenes, "demo": demo}
    for part in flags.parts:
        try:
            for row in works[part](flags, device):
                rows.append(row)
                _tell(rows, flags, device)
        except Exception as error:  # time on a card is short: the other parts are measured
            traceback.print_exc()
            rows.append(Row(part, "has ended", "", None, "", note=first_line(error)))
            _tell(rows, flags, device)
    return rows


def _tell(rows: list[Row], flags: Settings, device: torch.device) -> None:
    """Print the last row and write all: what is measured when time is up is kept."""
    print(_cells(rows[-1]), flush=True)
    if flags.json:
        write_json(flags.json, _machine(device) | {"rows": [asdict(row) for row in rows]})
    if flags.markdown:
        write_text(flags.markdown, table(rows, _machine(device)))


def sound(rows: Sequence[Row]) -> bool:
    """Whether all parts came to their end, and what was compared agrees."""
    compared = [row for row in rows if row.part == "agreement"]
    near = all(row.value is not None and row.value <= (row.limit or 0) for row in compared)
    return near and not any(row.what == "has ended" for row in rows)


# --- agreement ----------------------------------------------------------------------------------


def agreement(flags: Settings, device: torch.device) -> Iterator[Row]:
    """Scores, losses and training steps on `device`, against float32 on the CPU."""
    size = SIZES[flags.size]
    for network, name in scene.NAMES.items():
        expected = scene.build(network, size, _run(CPU))
        found = expected if device == CPU else scene.build(network, size, _run(device))
        _take_weights(found, expected)
        for precision in precisions(device):
            yield from _scores_agree(name, expected, found, precision)
    for name, cycle in (("FCD", gan_cycle), ("FCD+", unet_cycle)):
        for precision in precisions(device):
            yield from _steps_agree(name, cycle, flags, device, precision)


def _scores_agree(
    name: str, expected: Solver, found: Solver, precision: Precision
) -> Iterator[Row]:
    side = 2 * expected.image_size
    dn, scores = _random_dn(side), []
    for solver, amp in ((expected, False), (found, precision.amp)):
        scorer = in_bfloat16(solver.scorer()) if amp else solver.scorer()
        tiles = Tiles.of(scorer, batch_size=4)
        with precision.used():
            scored = list(strips(scorer, ArrayScene(dn), tiles))
        scores.append(np.concatenate([strip.score for strip in scored]))
    # In bfloat16 single pixels of random weights are far off on any processor.
    apart = float(np.sqrt(np.mean((scores[0] - scores[1]) ** 2)))
    half = np.median(scores[0])
    differ = float(np.mean((scores[0] > half) != (scores[1] > half)))
    way, most = precision.name, precision.tolerance
    yield Row("agreement", f"{name}: score of a scene, RMS", way, apart, "", most)
    # Half of the pixels lie above the threshold, where scores are densest.
    yield Row("agreement", f"{name}: pixels of its mask", way, differ, "", 10 * most)


def _steps_agree(
    name: str, cycle: Any, flags: Settings, device: torch.device, precision: Precision
) -> Iterator[Row]:
    size, count = SIZES[flags.size], min(4, flags.gan_batch)
    # Of fewer values batch norm makes from rounding another sign.
    size = replace(size, image_size=max(size.image_size, 64))
    expected, first = cycle(size, count, _run(CPU), False)
    found, second = cycle(size, count, _run(device), precision.amp)
    _without_dropout(expected, found)
    _take_weights(found, expected)
    before, losses = _weights(expected), first()
    with precision.used():
        furthest = max(
            abs(one[key].item() - other[key].item()) / max(1.0, abs(one[key].item()))
            for one, other in zip(losses, second(), strict=True)
            for key in one
        )
    way, most = precision.name, 10 * precision.tolerance  # critics are no probabilities
    yield Row("agreement", f"{name}: losses", way, furthest, "", most)
    moved = [_weights(solver) - before for solver in (expected, found)]
    ours, theirs = (nn.functional.normalize(steps, dim=0) for steps in moved)
    apart = (ours - theirs).square().sum().item() / 2  # exact where they are the same
    # Adam's first steps are the signs of gradients: of those near 0 rounding decides.
    most = 0.5 if precision.amp else 0.2
    yield Row("agreement", f"{name}: steps, 1 - cosine", way, apart, "", most)


def precisions(device: torch.device) -> list[Precision]:
    """Those that `device` has; TF32 is CUDA's."""
    return [FLOAT32, TF32, BF16] if device.type == "cuda" else [FLOAT32, BF16]


def _without_dropout(*solvers: Solver) -> None:
    for solver in solvers:
        for module in solver.network.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0


def _take_weights(solver: Solver, source: Solver) -> None:
    for name, network in solver.networks.items():
        network.load_state_dict(source.networks[name].state_dict())


def _weights(solver: Solver) -> Tensor:
    every = (p for network in solver.networks.values() for p in network.parameters())
    return torch.cat([p.detach().flatten().cpu() for p in every])


# --- training -----------------------------------------------------------------------------------


def steps(flags: Settings, device: torch.device) -> Iterator[Row]:
    """Patches a second in training, by each lever, and the share of the card's products."""
    size, fastest = SIZES[flags.size], 0.0
    side = 8192 if device.type == "cuda" else 1024  # of the matrices whose product is the measure
    for name, cycle, batch, each in (
        ("FCD", gan_cycle, flags.gan_batch, SIZES[flags.size].n_critic),
        ("FCD+", unet_cycle, flags.unet_batch, 1),
    ):
        work = measure.flops(cycle(size, batch, _run(device), False)[1]) / (batch * each)
        for way, precision, lever in levers(device):
            with precision.used():
                try:
                    done = lever(cycle, size, batch, device, precision.amp)
                    rate = _rate(done, batch * each, flags.seconds)
                except (RuntimeError, UserError) as error:
                    yield Row("steps", name, way, None, "patches/s", note=first_line(error)[:80])
                    continue
                limit = measure.matrix_product(precision.dtype, device, side) / work
            yield Row("steps", name, way, rate, "patches/s", limit)
            fastest = max(fastest, rate if name == "FCD" else 0)
    if fastest and flags.size == "paper":
        yield Row("steps", "the paper's run of FCD", "the fastest", PAPER_PATCHES / fastest / 60,
                  "minutes", 60)  # fmt: skip


Lever = Callable[[Any, Size, int, torch.device, bool], Cycle]


def levers(device: torch.device) -> list[tuple[str, Precision, Lever]]:
    """Name, precision and what makes the cycle, of each way to train."""
    ways = [(precision.name, precision, _plainly) for precision in precisions(device)]
    if device.type == "cuda":
        ways += [
            ("bfloat16, kernels not tried", BF16, partial(_plainly, tried=False)),
            ("bfloat16, channels_last", BF16, partial(_plainly, last=True)),
            ("bfloat16, CUDA graph", BF16, partial(_graphed, last=False)),
            ("bfloat16, channels_last, CUDA graph", BF16, partial(_graphed, last=True)),
            ("bfloat16, compiled", BF16, partial(_plainly, compiled=True)),
        ]
    return ways


def _plainly(
    cycle: Any,
    size: Size,
    batch: int,
    device: torch.device,
    amp: bool,
    *,
    last: bool = False,
    compiled: bool = False,
    tried: bool = True,
) -> Cycle:
    """The cycle plainly, its networks `compiled`, or with the channels `last` in memory.

    tried: whether cuDNN takes the fastest of its kernels, and not the one it expects to be that, as
    in training, where trying has not paid.
    """
    torch.backends.cudnn.benchmark = tried
    run = replace(_run(device), compile=compiled and compiles(True, device))
    solver, work = cycle(size, batch, run, amp)
    if last:
        _channels_last(solver)
    return work


def _channels_last(solver: Solver) -> None:
    for network in solver.networks.values():
        network.to(memory_format=torch.channels_last)


def _graphed(
    cycle: Any, size: Size, batch: int, device: torch.device, amp: bool, *, last: bool
) -> Cycle:
    """The whole cycle as one CUDA graph."""
    torch.backends.cudnn.benchmark = True
    solver, work = cycle(size, batch, _run(device), amp)
    if last:
        _channels_last(solver)
    for optimizer in solver.optimizers.values():
        for group in getattr(optimizer, "param_groups", []):
            group["capturable"] = True
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


# --- scenes -------------------------------------------------------------------------------------


def scenes(flags: Settings, device: torch.device) -> Iterator[Row]:
    """Mpixel a second: as the program does from memory, by batches in flight, file to file."""
    torch.backends.cudnn.benchmark = False
    side = round((flags.mpixel * 1e6) ** 0.5)
    dn = _random_dn(side)
    for network, name in scene.NAMES.items():
        solver = scene.build(network, SIZES[flags.size], _run(device))
        for precision in precisions(device):
            scorer = in_bfloat16(solver.scorer()) if precision.amp else solver.scorer()
            tiles = Tiles.of(scorer, batch_size=64)
            ways: dict[str, Callable[[], Any]] = {
                "from memory": lambda scorer=scorer, tiles=tiles: _exhaust(
                    strips(scorer, ArrayScene(dn), tiles)
                ),
                "two batches in flight": lambda scorer=scorer, tiles=tiles: in_flight(
                    scorer, dn, tiles
                ),
            }
            with precision.used():
                for way, work in ways.items():
                    rate = _rate(work, side**2 / 1e6, flags.seconds, warm=1)
                    yield Row("scenes", name, f"{precision.name}, {way}", rate, "Mpixel/s")
        how: dict[str, Any] = {"network": network, "size": flags.size, "precision": "bfloat16"}
        asked = scene.Settings(1, plain_up_to=0, **how)
        done = scene.measured(solver, tiles, flags.mpixel, asked)
        yield Row("scenes", name, "bfloat16, file to file", done.row()["ours"], "Mpixel/s")


@torch.inference_mode()
def in_flight(scorer: Scorer, dn: np.ndarray, tiles: Tiles) -> float:
    """The mean score over the tiles of DN (C, H, W), one batch computed while the next is sent.

    Transfers go by pinned memory and the device is waited for one batch late; nothing is blended.
    """
    stride, total, count = tiles.size - tiles.overlap, 0.0, 0
    corners = [
        (row, column)
        for row in range(0, dn.shape[1] - tiles.size + 1, stride)
        for column in range(0, dn.shape[2] - tiles.size + 1, stride)
    ]
    pinned, waiting = scorer.device.type == "cuda", None
    for start in range(0, len(corners) + tiles.batch_size, tiles.batch_size):
        batch = [
            dn[:, row : row + tiles.size, column : column + tiles.size]
            for row, column in corners[start : start + tiles.batch_size]
        ]
        coming = None
        if batch:
            host = torch.from_numpy(np.stack(batch))
            host = host.pin_memory() if pinned else host
            x = scorer.normalization.normalize(to_device(host, scorer.device))
            coming = scorer.score(x).float().to("cpu", non_blocking=True)
            done = torch.cuda.Event() if pinned else None
            if done:
                done.record()
            coming = coming, done, host  # which must not be freed before it has been read
        if waiting:
            scores, done, _ = waiting
            if done:
                done.synchronize()
            total, count = total + float(scores.sum()), count + scores.numel()
        waiting = coming
    return total / max(count, 1)


def _exhaust(values: Iterator[Any]) -> None:
    for _ in values:
        pass


# --- the demo -----------------------------------------------------------------------------------


def demo(flags: Settings, device: torch.device) -> Iterator[Row]:
    """Two epochs of FCD and of FCD+ on scenes of the demo, as commands."""
    with tempfile.TemporaryDirectory() as folder:
        drawn = ["--scenes_per_biome", "6", "--size", "96" if flags.size == "tiny" else "384"]
        _command(folder, "-m", "fcd.synthetic", "--output_dir", "scenes", *drawn)
        prepare = ["--data_path", "scenes", "--output_dir", "patches", "--patch_size", "32"]
        _command(folder, ROOT / "prepare_landsat8_biome.py", *prepare)
        patches = len(list(Path(folder, "patches/train").glob("*/*/image.tif")))
        data = ["--mode", "train", "--image_dir", "patches", "--normalize", "stretch"]
        data += ["--device", device.type, "--num_workers", "0"]
        twice = str(max(1, 2 * patches // 16))
        gan = ["--image_size", "32", "--g_conv_dim", "16", "--g_repeat_num", "3", "--d_conv_dim"]
        gan += ["32", "--d_repeat_num", "4", "--n_critic", "2", "--num_iters", twice]
        gan += ["--num_iters_decay", "0", "--model_save_step", twice, "--sample_step", "100000"]
        unet = ["--encoder", "resnet18", "--batch_size", "32", "--n_epochs", "2", "--lr", "5e-4"]
        for name, script, more in (("FCD", "main.py", gan), ("FCD+", "supervised_main.py", unet)):
            began = time.monotonic()
            said = _command(folder, ROOT / script, *data, *more)
            taken = time.monotonic() - began
            f1 = float(re.findall(r"macro F1 ([\d.]+)", said)[-1])
            what = f"{name}, 2 epochs of {patches} patches"
            yield Row("demo", what, "seconds, start and all", taken, "s")
            yield Row("demo", what, "validation macro F1", f1, "")


def _command(folder: str, *arguments: str | Path) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{arguments}: {done.stderr[-2000:]}")
    return done.stdout


# --- what is written ----------------------------------------------------------------------------


def _random_dn(side: int) -> np.ndarray:
    """DN (10, side, side)."""
    return np.random.default_rng(0).integers(5000, 40000, (10, side, side)).astype(np.uint16)


def _run(device: torch.device) -> Run:
    return Run(RunFolder("benchmark"), device)


def _rate(work: Callable[[], Any], amount: float, seconds: float, warm: int = 3) -> float:
    """How much of `amount` a run, `work` does in a second."""
    for _ in range(warm):
        work()
    measure.finish()
    began, runs = time.perf_counter(), 0
    while not runs or time.perf_counter() - began < seconds:
        work()
        measure.finish()
        runs += 1
    return runs * amount / (time.perf_counter() - began)


def _machine(device: torch.device) -> dict[str, str]:
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "none, CPU"
    cuda = torch.version.cuda or "none"
    return {
        "card": card,
        "date": date.today().isoformat(),
        "torch": torch.__version__,
        "cuda": cuda,
        "python": platform.python_version(),
    }


def table(rows: Sequence[Row], machine: dict[str, str]) -> str:
    """`rows` as a page of Markdown."""
    told = ", ".join(f"{name} {value}" for name, value in machine.items())
    head = ["part", "what", "way", "value", "unit", "at most", "share", ""]
    lines = [head, ["---"] * 3 + ["---:"] * 4 + ["---"], *map(_cells, rows)]
    body = "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
    return f"# On a GPU\n\nLast output of `bash benchmarks/gpu.sh`: {told}.\n\n{body}"


def _cells(row: Row) -> list[str]:
    value = "-" if row.value is None else f"{row.value:.4g}"
    limit = "" if row.limit is None else f"{row.limit:.4g}"
    share = f"{row.value / row.limit:.0%}" if row.value is not None and row.limit else ""
    return [row.part, row.what, row.way, value, row.unit, limit, share, row.note]


if __name__ == "__main__":
    entry.run(lambda: int(not sound(main())))
