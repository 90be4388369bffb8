"""What each lever brings alone."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge
from torch import Tensor, nn

from benchmarks import measure, plain
from benchmarks.measure import Comparison
from benchmarks.scene import build
from benchmarks.train_step import SIZES, Size, SizeName
from fcd.cli import entry
from fcd.cli.entry import compiles, use_device
from fcd.errors import UserError
from fcd.masks.quantisation import quantise
from fcd.masks.runtime import DNScore, load_score, onnx_score
from fcd.patches.normalisation import VALID_MIN, Normalization
from fcd.training.run import Run, RunFolder
from solver import FCDSolver

Network = Callable[[Tensor], Tensor]
Lever = tuple[str, Callable[[], Any], Callable[[], Any]]  # its name, without, with


# --- works --------------------------------------------------------------------------------------


def learns(network: Network, *batches: Tensor) -> Callable[[], None]:
    """Forward and backward of each of `batches`, one after the other."""

    def work() -> None:
        for batch in batches:
            network(batch).sum().backward()

    return work


def scores(network: Network, x: Tensor) -> Callable[[], Tensor]:
    """The forward pass alone."""
    return lambda: torch.inference_mode()(network)(x)


def in_bfloat16(work: Callable[[], Any], device: torch.device) -> Callable[[], Any]:
    """The same work as with --amp True."""

    def mixed() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            work()

    return mixed


def passes(name: str, without: Network, with_it: Network, x: Tensor) -> Iterator[Lever]:
    """The passes of two networks that differ by a lever."""
    yield f"{name}, forward", scores(without, x), scores(with_it, x)
    yield f"{name}, forward and backward", learns(without, x), learns(with_it, x)


class Networks:
    """Generator, discriminator and U-Net of a size as functions of patches, and patches."""

    def __init__(self, size: Size, batch_size: int, device: torch.device) -> None:
        self.size, self.device = size, device
        run = Run(RunFolder("benchmark"), device)
        self.gan: FCDSolver = build("gan", size, run)
        self.unet = build("unet", size, run)
        torch.manual_seed(0)
        side = size.image_size
        self.x = torch.rand(batch_size, 10, side, side, device=device) * 1.8 - 0.9

    def generator(self, change: Callable[[nn.Module], Any] = lambda _: None) -> Network:
        """Translation to clear by a copy of the generator that `change` has had in hand."""
        network = _changed(self.gan.G, change)
        return lambda x: network(x, x.new_zeros(len(x), 1))

    def discriminator(self, change: Callable[[nn.Module], Any] = lambda _: None) -> Network:
        """Patch scores."""
        network = _changed(self.gan.D, change)
        return lambda x: network(x)[0]

    def segmenter(self, change: Callable[[nn.Module], Any] = lambda _: None) -> Network:
        """Logits of the U-Net, which as it comes is contiguous."""
        network = copy.deepcopy(self.unet.network).to(memory_format=torch.contiguous_format)
        return _changed(network, change)


def _changed(network: nn.Module, change: Callable[[nn.Module], Any]) -> nn.Module:
    network = copy.deepcopy(network)
    change(network)
    return network


def channels_last(network: nn.Module) -> None:
    """The layout of memory in which the channels of a pixel lie side by side."""
    network.to(memory_format=torch.channels_last)


# --- levers -------------------------------------------------------------------------------------


def batched(made: Networks) -> Iterator[Lever]:
    """Two batches in one pass."""
    twice = torch.cat([made.x, made.x])
    for name, network in (("D", made.discriminator()), ("G", made.generator())):
        yield (
            f"{name}, forward and backward",
            learns(network, made.x, made.x),
            learns(network, twice),
        )


def fused(made: Networks) -> Iterator[Lever]:
    """Adam as one kernel over all weights."""

    def step(fused: bool) -> Callable[[], Any]:
        network = copy.deepcopy(made.gan.D)
        for weight in network.parameters():
            weight.grad = torch.ones_like(weight)
        return torch.optim.Adam(network.parameters(), 1e-6, fused=fused).step

    yield "Adam of D", step(False), step(True)


def layers(made: Networks) -> Iterator[Lever]:
    """Our layers in place of PyTorch's on CPUs: InstanceNorm in G, HalvingConv in D."""
    for name in ("G", "D"):
        kind = _KINDS[name]
        yield from passes(name, kind(made, plain.with_pytorch_layers), kind(made), made.x)


def layout(made: Networks) -> Iterator[Lever]:
    """channels_last."""
    for name, kind in _KINDS.items():
        yield from passes(name, kind(made), kind(made, channels_last), made.x)


def bfloat16(made: Networks) -> Iterator[Lever]:
    """Autocast."""
    for name, kind in _KINDS.items():
        work = scores(kind(made), made.x)
        yield f"{name}, forward", work, in_bfloat16(work, made.device)
        work = learns(kind(made), made.x)
        yield f"{name}, forward and backward", work, in_bfloat16(work, made.device)


def compiled(made: Networks) -> Iterator[Lever]:
    """torch.compile; not of the discriminator, whose penalty it cannot differentiate."""
    compiles(True, made.device)
    for name in ("G", "U-Net"):
        kind = _KINDS[name]
        yield from passes(name, kind(made), kind(made, nn.Module.compile), made.x)


def onnx(made: Networks) -> Iterator[Lever]:
    """ONNX Runtime on the CPU, DN to score."""
    made = Networks(made.size, len(made.x), torch.device("cpu"))
    dn = made.gan.normalization.denormalize(made.x)
    scorers = {"difference map": made.gan.scorer(), "probability of U-Net": made.unet.scorer()}
    for name, scorer in scorers.items():
        module = DNScore(scorer.network, scorer.score, scorer.normalization)
        yield name, scores(module, dn), scores(onnx_score(module, scorer.multiple), dn)


def int8(made: Networks) -> Iterator[Lever]:
    """Scores in int8 by ONNX Runtime on the CPU; without it PyTorch, then ONNX Runtime."""
    made = Networks(made.size, len(made.x), torch.device("cpu"))
    scorer = made.unet.scorer()
    with TemporaryDirectory() as folder:
        path = Path(folder, "int8.onnx")
        quantise(path, scorer.module, scorer.multiple, iter(made.x))
        score = load_score(path)
    yield "probability of U-Net", scores(scorer.score, made.x), scores(score, made.x)
    float32 = onnx_score(scorer.module, scorer.multiple)
    yield "of what ONNX Runtime does", scores(float32, made.x), scores(score, made.x)


def in_place(made: Networks) -> Iterator[Lever]:
    """Normalisation of uint16 without a new array a step."""
    normalization, (count, *shape) = Normalization.paper(10), made.x.shape
    dn = torch.randint(1, 65535, (16 * count, *shape)).to(torch.uint16).to(made.device)

    def written() -> Tensor:
        x = dn.to(torch.float32)
        return ((x / 65535 - 0.5) / 0.5).clamp(VALID_MIN, 1.0).where(x != 0, -1.0)

    yield "normalisation of 16 batches", written, lambda: normalization.normalize(dn)


_KINDS: dict[str, Callable[..., Network]] = {
    "G": Networks.generator,
    "D": Networks.discriminator,
    "U-Net": Networks.segmenter,
}
Name = Literal[
    "batched",
    "fused",
    "layers",
    "channels_last",
    "bfloat16",
    "compiled",
    "ONNX Runtime",
    "int8",
    "in place",
]
LEVERS: dict[Name, Callable[[Networks], Iterator[Lever]]] = {
    "batched": batched,
    "fused": fused,
    "layers": layers,
    "channels_last": layout,
    "bfloat16": bfloat16,
    "compiled": compiled,
    "ONNX Runtime": onnx,
    "int8": int8,
    "in place": in_place,
}


@dataclass(frozen=True)
class Settings(measure.Settings):
    """What each lever brings alone: the same work without it and with it.

    The training step and the scene pull those that pay all at once. A ratio below 1 did not pay.
    Compiling takes minutes before it is measured. What is not installed is left out.
    """

    size: Annotated[SizeName, "of the networks"] = "paper"
    batch_size: Annotated[int, Ge(1), "patches, or tiles"] = 4
    only: Annotated[list[Name], "which levers"] = field(default_factory=lambda: list(LEVERS))
    device: measure.Device = "auto"


def main(arguments: Sequence[str] | None = None) -> list[Comparison]:
    """Run the command line; return what was measured."""
    flags = measure.asked(Settings, arguments, "levers")
    device = use_device(flags.device)
    networks, made = Networks(SIZES[flags.size], flags.batch_size, device), []
    for name in flags.only:
        try:
            for lever, without, with_it in LEVERS[name](networks):
                made.append(
                    measure.compare(f"{name}: {lever}", "runs/s", 1, without, with_it, flags.rounds)
                )
        except UserError as error:
            print(f"{name} is left out: {error}")
    return measure.show(made, flags.json)


if __name__ == "__main__":
    entry.run(lambda: main() and 0)
