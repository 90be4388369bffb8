"""The exponential moving average of a network's weights, which scores steadier than the last ones.

Yazıcı et al. 2019 (arXiv 1806.04498): it beats the last iterate of every GAN they tried.
"""

import copy

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

# The half-life is no longer than this share of the steps done: the first weights are forgotten (the
# ramp-up of StyleGAN3, whose half-lives are far shorter). Not where they were trained before: the
# mean of weights before and after fine-tuning errs less on what the latter does not show (Wortsman
# et al. 2022, arXiv 2109.01903).
RAMP_UP = 0.4


def name_of(network: str) -> str:
    """The name in a checkpoint of the average of the network of that name."""
    return f"{network}_average"


def copy_of(network: nn.Module) -> nn.Module:
    """An average that begins with the weights of `network`, in evaluation mode."""
    return copy.deepcopy(network).requires_grad_(False).eval()


def weight_of_new(step: int, half_life: float, *, ramp_up: bool = True) -> float:
    """What the weights after `step`, from 1, count in the average, in [0, 1].

    half_life: in steps. ramp_up: whether the first weights are to be forgotten.
    """
    return 1 - 0.5 ** (1 / (min(half_life, RAMP_UP * step) if ramp_up else half_life))


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module, weight: float) -> None:
    """Move `average` to `network` by `weight`: parameters and statistics; counters are copied."""
    ours, theirs = average.state_dict(), network.state_dict()
    floating = [name for name, value in ours.items() if value.is_floating_point()]
    mean = get_ema_multi_avg_fn(1 - weight)
    mean([ours[name] for name in floating], [theirs[name] for name in floating], 0)
    for name in ours.keys() - floating:
        ours[name].copy_(theirs[name])
