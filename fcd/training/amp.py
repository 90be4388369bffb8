"""Which networks train in bfloat16 (`--amp`): all, none, or those that are faster by it here.

No table of processors is right, and on one of them one network may gain and another lose: there
the generator was twice as fast and the discriminator no faster. So `auto` measures.
"""

import copy
import timeit
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from fcd.training.losses import full

Amp = bool | Literal["auto"]
AUTO: Amp = "auto"
GAIN = 1.05  # times as fast as float32 at least, or it is left for nothing
FEW = 4  # patches to measure with on a CPU, where more tell no more


def chosen(
    amp: Amp, networks: Mapping[str, nn.Module], inputs: Mapping[str, tuple[Tensor, ...]]
) -> list[str]:
    """The names of the `networks` that are to compute in bfloat16.

    inputs: of each a batch as in training. `auto` measures, on copies, changes no random state,
    and prints what it found. What is never in bfloat16 (the gradient penalty) does not count.
    """
    if amp != AUTO:
        return list(inputs) if amp else []
    gains = {name: _gain(networks[name], batch) for name, batch in inputs.items()}
    told = ", ".join(f"{name} {gain:.2f} times as fast" for name, gain in gains.items())
    taken = [name for name, gain in gains.items() if gain >= GAIN]
    print(f"amp: with bfloat16 {told}; it is taken for {', '.join(taken) or 'none'}")
    return taken


def _gain(network: nn.Module, batch: tuple[Tensor, ...]) -> float:
    """How many times as fast `network` computes, with gradients, in bfloat16."""
    device = batch[0].device
    if device.type == "cpu":
        batch = tuple(values[:FEW] for values in batch)
    learning = copy.deepcopy(network)  # batch norm learns from what it sees
    weights = [p for p in learning.parameters() if p.requires_grad]

    def computed(enabled: bool) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=enabled):
            outputs = learning(*batch)
        total = torch.stack([full(values).sum() for values in tree_leaves(outputs)]).sum()
        torch.autograd.grad(total, weights, allow_unused=True)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    def seconds(enabled: bool) -> float:
        computed(enabled)  # what is prepared at the first call
        times, took = timeit.Timer(lambda: computed(enabled)).autorange()  # 0.2 s or more
        return took / times

    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        return seconds(False) / seconds(True)


def in_float32(network: Callable[..., Any], *inputs: Tensor) -> Any:
    """What `network` makes of `inputs`, which others may have computed in bfloat16."""
    with torch.autocast(inputs[0].device.type, enabled=False):
        return network(*map(full, inputs))
