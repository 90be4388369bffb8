"""The losses of Fixed-Point GAN and of the supervised networks, and the difference map.

Each loss returns (loss, parts): the weighted sum and its unweighted parts, for the log.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor

from fcd.landsat import labels

Parts = dict[str, Tensor]
Network = Callable[..., Any]  # a module, or a function that has one compute


@dataclass(frozen=True)
class LossWeights:
    """Weights of the GAN's losses."""

    lambda_cls: Annotated[float, Ge(0), "weight of the loss of domain classification"] = 1.0
    lambda_rec: Annotated[float, Ge(0), "weight of the loss of reconstruction"] = 10.0
    lambda_gp: Annotated[float, Ge(0), "weight of the loss of the gradient penalty"] = 10.0
    lambda_id: Annotated[float, Ge(0), "weight of the loss of identity"] = 10.0


def gradient_penalty(discriminator: Network, x_hat: Tensor) -> Tensor:
    """E[(‖∇D(x̂)‖₂ - 1)²] over the samples of `x_hat` (Gulrajani et al. 2017, eq. 3).

    Never in bfloat16: a norm is to be held near 1.
    """
    x_hat = x_hat.detach().requires_grad_()
    with torch.autocast(x_hat.device.type, enabled=False):
        source, _ = discriminator(x_hat)
        (gradient,) = torch.autograd.grad(source.sum(), x_hat, create_graph=True)
        return ((gradient.flatten(1).norm(2, dim=1) - 1) ** 2).mean()


def discriminator_loss(
    discriminator: Network,
    x_real: Tensor,
    x_fake: Tensor,
    c_org: Tensor,
    alpha: Tensor,
    weights: LossWeights,
) -> tuple[Tensor, Parts]:
    """-E[D(x)] + E[D(G(x, c'))] + λ_cls BCE(D_cls(x), c) + λ_gp GP.

    x_real, x_fake (N, C, S, S); c_org (N, 1); alpha (N, 1, 1, 1) in [0, 1], the share of the
    real patch in the interpolate.
    """
    source, domain = map(full, discriminator(torch.cat([x_real, x_fake])))
    of_real, of_fake = source.chunk(2)
    parts: Parts = {}
    real = parts["D/loss_real"] = -of_real.mean()
    fake = parts["D/loss_fake"] = of_fake.mean()
    classified = parts["D/loss_cls"] = label_loss(domain[: len(x_real)], c_org)
    x_hat = alpha * x_real + (1 - alpha) * x_fake
    penalty = parts["D/loss_gp"] = gradient_penalty(discriminator, x_hat)
    return real + fake + weights.lambda_cls * classified + weights.lambda_gp * penalty, parts


def translate(generator: Network, x: Tensor, targets: Sequence[Tensor]) -> Tensor:
    """`x` (N, C, S, S) translated to each of `targets` (N, 1): (len(targets) · N, C, S, S).

    In one batch, which changes nothing: no layer of the generator mixes samples.
    """
    return generator(x.repeat(len(targets), 1, 1, 1), torch.cat(list(targets)))


def generator_loss(
    generator: Network,
    discriminator: Network,
    x_real: Tensor,
    translated: Tensor,
    c_org: Tensor,
    targets: Sequence[Tensor],
    weights: LossWeights,
) -> tuple[Tensor, Parts]:
    """Loss of the generator: the cross-domain half, and the same-domain half if `targets` has it.

    targets: [c'] or [c', c]; translated: `x_real` translated to them by `translate`, with graph.

    Cross-domain: -E[D(G(x,c'))] + λ_cls BCE(D_cls(G(x,c')), c') + λ_rec E|x - G(G(x,c'),c)|.
    Same-domain (makes the translation fixed-point; without it this is StarGAN): the same with
    c' = c, + λ_id E|x - G(x,c)|. Both halves go through the networks in one batch.
    """
    n = len(targets)
    source, domain = map(full, discriminator(translated))
    restored = generator(translated, c_org.repeat(n, 1))

    parts: Parts = {}
    loss = x_real.new_zeros(())
    columns = (source.chunk(n), domain.chunk(n), restored.chunk(n))
    for half, target, s, d, back in zip(("", "_id")[:n], targets, *columns, strict=True):
        fake = parts[f"G/loss_fake{half}"] = -s.mean()
        classified = parts[f"G/loss_cls{half}"] = label_loss(d, target)
        cycle = parts[f"G/loss_rec{half}"] = (x_real - back).abs().mean()
        loss = loss + fake + weights.lambda_cls * classified + weights.lambda_rec * cycle
    if n == 2:
        parts["G/loss_id"] = (x_real - translated[len(x_real) :]).abs().mean()
        loss = loss + weights.lambda_id * parts["G/loss_id"]
    return loss, parts


def segmentation_loss(
    logits: Tensor,
    mask: Tensor,
    image_logit: Tensor | None,
    label: Tensor,
    pixels: Tensor | None = None,
) -> tuple[Tensor, Parts]:
    """Cross-entropy over the valid pixels, + BCE on the image label with a classifier head.

    logits (N, 2, H, W), mask (N, H, W) patch codes, image_logit (N, 1) or None, label (N, 1).
    pixels: what the sum over the valid pixels is divided by; None: their number. A batch without
    a valid pixel has cross-entropy 0.
    """
    target, ignored = labels.target_from_patch(mask), labels.IGNORE_INDEX
    if pixels is None:
        pixels = (target != ignored).sum().clamp(min=1)
    total = F.cross_entropy(full(logits), target, ignore_index=ignored, reduction="sum")
    parts = {"train/loss_mask": total / pixels}
    if image_logit is not None:
        parts["train/loss_label"] = label_loss(image_logit, label)
    return torch.stack(list(parts.values())).sum(), parts


def label_loss(image_logit: Tensor, label: Tensor) -> Tensor:
    """BCE of the image logit (N, 1) against the image-level label (N, 1)."""
    return F.binary_cross_entropy_with_logits(full(image_logit), label)


def full(values: Tensor) -> Tensor:
    """What a network has computed in bfloat16, under autocast, as float32."""
    return values.float() if values.dtype == torch.bfloat16 else values


def detached(parts: Parts, weight: float = 1.0) -> Parts:
    """Loss parts without their graph, times `weight`, to be logged later."""
    return {name: value.detach() * weight for name, value in parts.items()}


def difference_map(generator: Network, x: Tensor) -> Tensor:
    """Mean over the bands of |G(x, clear) - x| / 2: (N, C, H, W) -> (N, H, W) in [0, 1]."""
    # x.shape[0] and not len(x), which would fix the batch size of an exported network.
    clear = x.new_full((x.shape[0], 1), float(labels.LABEL_CLEAR))
    return (generator(x, clear) - x).abs().mean(dim=1) / 2


def cosine_factor(step: int, steps: int) -> float:
    """From 1 at the first of `steps` along a cosine to almost 0 at the last; counts from 1."""
    return (1 + math.cos(math.pi * (step - 1) / steps)) / 2


def learning_rate_factor(step: int, num_iters: int, num_iters_decay: int) -> float:
    """1, then falling linearly over the last `num_iters_decay` steps; step counts from 1."""
    return min(1.0, (num_iters - step + 1) / num_iters_decay) if num_iters_decay else 1.0
