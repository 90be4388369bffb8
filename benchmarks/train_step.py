"""A training step of the Fixed-Point GAN and of FCD+."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from torch import Tensor

from benchmarks import measure, plain
from benchmarks.measure import Comparison
from fcd.cli import entry
from fcd.cli.entry import compiles, use_device
from fcd.cli.settings import AmpFlag, GANTraining, SupervisedTraining
from fcd.patches.normalisation import Normalization
from fcd.processes import Part
from fcd.training.amp import AUTO, Amp
from fcd.training.run import Run, RunFolder
from model import GANSize, Task
from solver import FCDSolver, SupervisedSolver

LR = 1e-4
Cycle = Callable[[], list[dict[str, Tensor]]]


@dataclass(frozen=True)
class Size:
    """What is trained: networks, side of the patches and batch."""

    image_size: int
    gan: GANSize
    n_critic: int
    encoder: str


SizeName = Literal["paper", "demo", "tiny"]
SIZES: dict[SizeName, Size] = {
    "paper": Size(128, GANSize(), 5, "resnet34"),
    "demo": Size(32, GANSize(16, 3, 32, 4), 2, "resnet18"),
    "tiny": Size(32, GANSize(4, 1, 4, 3), 2, "slim18"),
}


@dataclass(frozen=True)
class Settings(measure.Settings):
    """A training step of the Fixed-Point GAN and of FCD+: batched, fused, in place of term by term.

    The defaults are the networks of the paper with a batch for a CPU; `--size demo` takes those of
    scripts/demo.sh.
    """

    size: Annotated[SizeName, "of the networks"] = "paper"
    batch_size: Annotated[int, Ge(1), "patches in a step"] = 4
    amp: Annotated[
        AmpFlag,
        "also ours in bfloat16 (auto: the networks that gain by it), beside plain in float32",
    ] = False
    compile: Annotated[bool, "ours with --compile True"] = False
    device: measure.Device = "auto"


def main(arguments: Sequence[str] | None = None) -> list[Comparison]:
    """Run the command line; return what was measured."""
    flags = measure.asked(Settings, arguments, "train_step")
    device, size = use_device(flags.device), SIZES[flags.size]
    run = Run(RunFolder("benchmark"), device, compile=compiles(flags.compile, device))
    made = []
    for amp in dict.fromkeys((False, flags.amp)):
        dtype = torch.bfloat16 if amp else torch.float32
        limit = measure.matrix_product(dtype, device)
        named = {False: "float32", True: "bf16", AUTO: "bf16 where it pays"}
        kind = named[amp] + ", compiled" * flags.compile
        for name, ways, steps in (
            ("Fixed-Point GAN", gan_ways(size, flags.batch_size, run, amp), size.n_critic),
            ("FCD+", unet_ways(size, flags.batch_size, run, amp), 1),
        ):
            work = measure.flops(ways[1])  # of one cycle
            made.append(
                measure.compare(
                    f"{name}, {flags.size} size, {kind}",
                    "steps/s",
                    steps,
                    *ways,
                    flags.rounds,
                    limit * steps / work,
                )
            )
    return measure.show(made, flags.json)


def gan_ways(size: Size, batch_size: int, run: Run, amp: Amp) -> tuple[Cycle, Cycle]:
    """Plain and our way of `size.n_critic` steps, from the same weights: the loss parts of each."""
    solver, ours = gan_cycle(size, batch_size, run, amp)
    plain_step = plain.GANStep(copy.deepcopy(solver.G), copy.deepcopy(solver.D), LR, size.n_critic)
    patches = _gan_patches(size, batch_size, run.device)
    return lambda: [plain_step(*patches) for _ in range(size.n_critic)], ours


def gan_cycle(size: Size, batch_size: int, run: Run, amp: Amp) -> tuple[FCDSolver, Cycle]:
    """A solver with random weights, and `size.n_critic` of its steps: the loss parts of each."""
    solver = FCDSolver(run, size.gan, size.image_size, Normalization.paper(10))
    settings = GANTraining(n_critic=size.n_critic, g_lr=LR, d_lr=LR, amp=amp)
    solver.start_optimizers(settings)
    patches = _gan_patches(size, batch_size, run.device)

    def step() -> dict[str, Tensor]:
        solver.step += 1
        return solver.learn(settings, *patches)

    return solver, lambda: [step() for _ in range(size.n_critic)]


def unet_ways(size: Size, batch_size: int, run: Run, amp: Amp) -> tuple[Cycle, Cycle]:
    """Plain and our way of a step of FCD+, from the same weights: the loss parts of each."""
    solver, ours = unet_cycle(size, batch_size, run, amp)
    plain_step = plain.UNetStep(copy.deepcopy(solver.network).train(), LR)
    patches = _patches(size, batch_size, run.device)

    def seeded(cycle: Cycle) -> Cycle:
        def work() -> list[dict[str, Tensor]]:
            torch.manual_seed(0)  # of dropout
            return cycle()

        return work

    return seeded(lambda: [plain_step(*patches)]), seeded(ours)


def unet_cycle(size: Size, batch_size: int, run: Run, amp: Amp) -> tuple[SupervisedSolver, Cycle]:
    """A solver with random weights, and one step of its FCD+: the loss parts."""
    task = Task(encoder=size.encoder, classifier_head=True)
    solver = SupervisedSolver(run, task, size.image_size, Normalization.paper(10))
    settings = SupervisedTraining(lr=LR, amp=amp)
    solver.start_optimizers(settings)
    patches, part = _patches(size, batch_size, run.device), Part(batch_size)
    return solver, lambda: [solver.learn(settings, *patches, part)]


def _gan_patches(size: Size, count: int, device: torch.device) -> tuple[Tensor, ...]:
    """What `FCDSolver.learn` takes: images, both domains (N, 1) and alpha (N, 1, 1, 1)."""
    x, _, c_org = _patches(size, count, device)
    return x, c_org, c_org.roll(1, 0), torch.rand(count, 1, 1, 1).to(device)


def _patches(size: Size, count: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Images (N, 10, S, S) in [-1, 1], masks (N, S, S) in patch codes and labels (N, 1)."""
    torch.manual_seed(0)
    side = size.image_size
    x = torch.rand(count, 10, side, side) * 1.8 - 0.9
    label = (torch.arange(count) % 2).float()[:, None]
    mask = (1 + (torch.rand(count, side, side) < label[:, None] / 2)).to(torch.uint8)
    return x.to(device), mask.to(device), label.to(device)


if __name__ == "__main__":
    entry.run(lambda: main() and 0)
