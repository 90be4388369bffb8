"""The plain way: the method as it is written, in float32, nothing batched, nothing read in parts.

What the benchmarks compare with, and what their results have to equal.
"""

from pathlib import Path

import numpy as np
import rasterio
import tifffile
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as bce

from fcd.landsat import labels
from fcd.landsat.bands import FILL_DN
from fcd.landsat.scenes import Scene
from fcd.patches.cutting import Cutting, patch_name
from fcd.patches.normalisation import Normalization
from fcd.training.losses import LossWeights, segmentation_loss
from model import Discriminator, Generator, HalvingConv, InstanceNorm


def with_pytorch_layers(network: nn.Module) -> nn.Module:
    """`network` with PyTorch's layers in place of ours that compute the same; changes it."""
    for module in network.modules():
        if isinstance(module, HalvingConv | InstanceNorm):
            module.forward = super(type(module), module).forward
    return network


class GANStep:
    """Training steps of a Fixed-Point GAN, one forward a term."""

    def __init__(self, G: Generator, D: Discriminator, lr: float, n_critic: int) -> None:
        self.G, self.D = with_pytorch_layers(G), with_pytorch_layers(D)
        self.n_critic, self.number = n_critic, 0
        self.g_optimizer = torch.optim.Adam(G.parameters(), lr, (0.5, 0.999))
        self.d_optimizer = torch.optim.Adam(D.parameters(), lr, (0.5, 0.999))

    def __call__(self, x: Tensor, c_org: Tensor, c_trg: Tensor, alpha: Tensor) -> dict[str, Tensor]:
        """One step; the arguments and the parts returned are those of `FCDSolver.learn`."""
        G, D, weights = self.G, self.D, LossWeights()
        self.number += 1
        source, domain = D(x)
        parts = {"D/loss_real": -source.mean(), "D/loss_cls": bce(domain, c_org)}
        x_fake = G(x, c_trg).detach()
        parts["D/loss_fake"] = D(x_fake)[0].mean()
        x_hat = (alpha * x + (1 - alpha) * x_fake).requires_grad_()
        (gradient,) = torch.autograd.grad(D(x_hat)[0].sum(), x_hat, create_graph=True)
        parts["D/loss_gp"] = ((gradient.flatten(1).norm(2, dim=1) - 1) ** 2).mean()
        loss = parts["D/loss_real"] + parts["D/loss_fake"]
        loss = (
            loss + weights.lambda_cls * parts["D/loss_cls"] + weights.lambda_gp * parts["D/loss_gp"]
        )
        self._descend(loss, self.d_optimizer)
        if self.number % self.n_critic:
            return parts

        loss = x.new_zeros(())
        for half, target in (("", c_trg), ("_id", c_org)):
            fake = G(x, target)
            source, domain = D(fake)
            parts[f"G/loss_fake{half}"] = -source.mean()
            parts[f"G/loss_cls{half}"] = bce(domain, target)
            parts[f"G/loss_rec{half}"] = (x - G(fake, c_org)).abs().mean()
            loss = (
                loss + parts[f"G/loss_fake{half}"] + weights.lambda_cls * parts[f"G/loss_cls{half}"]
            )
            loss = loss + weights.lambda_rec * parts[f"G/loss_rec{half}"]
        parts["G/loss_id"] = (x - fake).abs().mean()
        self._descend(loss + weights.lambda_id * parts["G/loss_id"], self.g_optimizer)
        return parts

    def _descend(self, loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
        self.G.zero_grad()
        self.D.zero_grad()
        loss.backward()
        optimizer.step()


class UNetStep:
    """Training steps of FCD+."""

    def __init__(self, network: nn.Module, lr: float) -> None:
        self.network, self.optimizer = network, torch.optim.Adam(network.parameters(), lr)

    def __call__(self, x: Tensor, mask: Tensor, label: Tensor) -> dict[str, Tensor]:
        """One step; returns the parts of the loss."""
        logits, image_logit = self.network(x)
        loss, parts = segmentation_loss(logits, mask, image_logit, label)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return parts


def read_batch(folders: list[Path]) -> Tensor:
    """Images (N, 10, H, W) float32 in [-1, 1] of the patches, each read and normalised alone."""
    images = []
    for folder in folders:
        image = tifffile.imread(folder / "image.tif").astype(np.float32).transpose(2, 0, 1)
        images.append(torch.from_numpy(np.ascontiguousarray((image / 65535 - 0.5) / 0.5)))
    return torch.stack(images)


def cut(scene: Scene, folder: Path, cutting: Cutting) -> int:
    """Cut a scene, whole in memory, into patch folders below `folder`; return their number."""
    with scene.open() as reader:
        dn, mask = reader.bands(), reader.truth()
    mask[(dn == FILL_DN).any(axis=0)] = labels.INVALID
    number, size = 0, cutting.size
    for row in range(0, dn.shape[1] - size + 1, cutting.stride):
        for column in range(0, dn.shape[2] - size + 1, cutting.stride):
            window = np.s_[row : row + size, column : column + size]
            label = cutting.label(mask[window])
            if label is None:
                continue
            name = patch_name(scene.name, row, column)
            patch = folder / labels.CLASS_FOLDERS[label] / name
            patch.mkdir(parents=True, exist_ok=True)
            image = np.moveaxis(dn[:, window[0], window[1]], 0, -1)
            for file, array in (("image.tif", image), ("mask.tif", mask[window])):
                tifffile.imwrite(patch / file, array, photometric="minisblack", compression=None)
            number += 1
    return number


@torch.no_grad()
def mask_scene(
    scene: Scene,
    score: nn.Module,
    normalization: Normalization,
    threshold: float,
    path: Path,
    tile: int,
    overlap: int,
    batch_size: int,
    device: torch.device,
) -> None:
    """Score a scene that is in memory as a whole, blended tiles, and write its mask to `path`.

    score: (N, C, h, w) in [-1, 1] -> (N, h, w) in [0, 1].
    """
    with scene.open() as reader:
        dn, grid = torch.from_numpy(reader.bands()), reader.grid
    valid = (dn != FILL_DN).all(dim=0).numpy()
    x = normalization.normalize(dn[None])[0].numpy()
    stride = tile - overlap
    below, right = ((-(size + overlap) % stride) + tile for size in valid.shape)
    x = np.pad(x, ((0, 0), (overlap, below), (overlap, right)), "reflect")
    ramp = np.minimum((np.arange(tile) + 0.5) / max(overlap, 0.5), 1)
    profile = np.minimum(ramp, ramp[::-1]).astype(np.float32)
    weight, total = np.outer(profile, profile), np.zeros(x.shape[1:], np.float32)
    corners = [
        (row, column)
        for row in range(0, grid.height + overlap, stride)
        for column in range(0, grid.width + overlap, stride)
    ]
    for start in range(0, len(corners), batch_size):
        windows = [
            np.s_[row : row + tile, column : column + tile]
            for row, column in corners[start : start + batch_size]
        ]
        batch = torch.from_numpy(np.stack([x[:, rows, columns] for rows, columns in windows]))
        scores = score(batch.to(device)).cpu().numpy()
        for window, values in zip(windows, scores, strict=True):
            total[window] += values * weight
    inside = total[overlap : overlap + grid.height, overlap : overlap + grid.width]
    mask = labels.tif_from_patch(labels.patch_from_score(inside, valid, threshold))
    profile = {"driver": "COG", "dtype": "uint8", "count": 1, "nodata": 0, "compress": "deflate"}
    with rasterio.open(
        path, "w", height=grid.height, width=grid.width, crs=grid.crs, transform=grid.transform,
        **profile,
    ) as dataset:  # fmt: skip
        dataset.write(mask, 1)
