"""The networks: Fixed-Point GAN, the U-Net of FCD+, and classifiers for class activation maps."""

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Annotated, Any, Literal, get_args

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor, nn

from fcd.errors import UserError
from fcd.patches.normalisation import FILL, Normalization
from fcd.patches.supervision import UNKNOWN

Network = Literal["unet", "resnet50", "ucam"]
Encoder = Literal["resnet18", "resnet34", "resnet50", "slim18"]
# ResNet-18 without its last stage, whose features of small patches are two pixels wide, and half a
# decoder: a quarter of the weights.
SLIM: dict[str, Any] = {"encoder_depth": 4, "decoder_channels": (128, 64, 32, 16)}


class InstanceNorm(nn.InstanceNorm2d):
    """Affine instance norm by the statistics of the instance itself, in evaluation mode too."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, affine=True, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, h, w) -> the same shape."""
        if x.device.type != "cpu":
            return super().forward(x)
        # The same, a channel a group; on a CPU it is the faster kernel of the two. On CUDA
        # autocast would make it float32.
        return F.group_norm(x, self.num_features, self.weight, self.bias, self.eps)


class HalvingConv(nn.Conv2d):
    """4×4 convolution of stride 2: (N, in_channels, h, w) -> (N, out_channels, h / 2, w / 2)."""

    bias: Tensor

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 4, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """As a matrix product where a CPU has less map than kernel to go through."""
        # There the convolution would bring the kernel, 134 MB in the paper's last layer, into
        # another order each time; with gradients it takes two to five times as long.
        height, width = (side // 2 for side in x.shape[2:])
        if x.device.type != "cpu" or height * width > 16:
            return super().forward(x)
        patches = F.unfold(x, 4, padding=1, stride=2)  # (N, in_channels · 16, height · width)
        columns = patches.transpose(0, 1).flatten(1)
        out = torch.addmm(self.bias[:, None], self.weight.flatten(1), columns)
        return out.view(-1, len(x), height, width).transpose(0, 1)


def _normed(conv: nn.Conv2d | nn.ConvTranspose2d) -> list[nn.Module]:
    return [conv, InstanceNorm(conv.out_channels), nn.ReLU(inplace=True)]


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions with instance norm, added to the input; shape is kept."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        first, second = (_normed(nn.Conv2d(dim, dim, 3, padding=1, bias=False)) for _ in range(2))
        self.main = nn.Sequential(*first, *second[:-1])

    def forward(self, x: Tensor) -> Tensor:
        """(N, dim, h, w) -> the same shape."""
        return x + self.main(x)


class Generator(nn.Module):
    """Translate patches to a domain (0 clear, 1 cloudy), changing only what has to change.

    Layers are numbered `main.0…` as in StarGAN (Choi et al. 2018) and the authors' code, so that
    their checkpoints load. conv_dim: filters of the first layer. c_dim: domain labels per patch,
    each a constant extra input channel. repeat_num: residual blocks. num_channels: bands.
    """

    def __init__(
        self, conv_dim: int = 64, c_dim: int = 1, repeat_num: int = 6, num_channels: int = 10
    ) -> None:
        super().__init__()
        halving: dict[str, Any] = {"kernel_size": 4, "stride": 2, "padding": 1, "bias": False}
        layers = _normed(nn.Conv2d(num_channels + c_dim, conv_dim, 7, padding=3, bias=False))
        for dim in (conv_dim, 2 * conv_dim):
            layers += _normed(nn.Conv2d(dim, 2 * dim, **halving))
        layers += [ResidualBlock(4 * conv_dim) for _ in range(repeat_num)]
        for dim in (2 * conv_dim, conv_dim):
            layers += _normed(nn.ConvTranspose2d(2 * dim, dim, **halving))
        layers.append(nn.Conv2d(conv_dim, num_channels, 7, padding=3, bias=False))
        self.main = nn.Sequential(*layers)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Translate `x` to the domains `c`: tanh(main(x, c) + x), fill (-1) stays fill.

        x (N, num_channels, H, W) in [-1, 1], H and W multiples of 4; c (N, c_dim) float
        -> (N, num_channels, H, W) in [-1, 1].
        """
        domain = c[:, :, None, None].expand(-1, -1, *x.shape[2:])
        translated = torch.tanh(self.main(torch.cat([x, domain], dim=1)) + x)
        return translated.masked_fill(x == FILL, FILL)

    def load_state_dict(self, state_dict: Mapping[str, Tensor], *args, **kwargs):  # noqa: ANN002, ANN003, ANN201
        """Load weights; the running statistics in the authors' residual blocks are ignored."""
        statistics = ("running_mean", "running_var", "num_batches_tracked")
        kept = {key: value for key, value in state_dict.items() if not key.endswith(statistics)}
        return super().load_state_dict(kept, *args, **kwargs)


class Discriminator(nn.Module):
    """PatchGAN: real or fake per cell of the patch, and the domain of the whole patch.

    image_size: side of the patches in pixels, a multiple of 2 ** repeat_num (else ValueError).
    conv_dim: filters of the first layer, doubled with each of the `repeat_num` stride-2 layers.
    c_dim: domain labels per patch. num_channels: bands.
    """

    def __init__(
        self,
        image_size: int = 128,
        conv_dim: int = 64,
        c_dim: int = 1,
        repeat_num: int = 6,
        num_channels: int = 10,
    ) -> None:
        super().__init__()
        cells, rest = divmod(image_size, 2**repeat_num)
        if rest or not cells:
            raise ValueError(
                f"image size {image_size} is no multiple of {2**repeat_num} "
                f"(2 ** {repeat_num} stride-2 layers)"
            )
        dims = [num_channels, *(conv_dim * 2**layer for layer in range(repeat_num))]
        layers: list[nn.Module] = []
        for dim_in, dim in pairwise(dims):
            layers += [HalvingConv(dim_in, dim), nn.LeakyReLU(0.01)]
        self.main = nn.Sequential(*layers)
        self.conv1 = nn.Conv2d(dims[-1], 1, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(dims[-1], c_dim, cells, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, num_channels, S, S) -> patch scores (N, 1, s, s) and domain logits (N, c_dim)."""
        h = self.main(x)
        return self.conv1(h), self.conv2(h).flatten(1)


def build_unet(num_channels: int, encoder: str, classifier_head: bool) -> nn.Module:
    """U-Net of FCD+ (segmentation-models-pytorch): (N, C, H, W) -> logits (N, 2, H, W).

    With `classifier_head` it returns (logits, image logit (N, 1)): average pooling of the
    deepest features, dropout 0.2. H and W are multiples of 32. No weights are downloaded.
    """
    # Imported here and below: two seconds that every start, and error message, would wait for.
    import segmentation_models_pytorch as smp

    head = {"pooling": "avg", "dropout": 0.2, "classes": 1} if classifier_head else None
    how: dict[str, Any] = {"encoder_weights": None, "in_channels": num_channels, "classes": 2}
    if encoder != "slim18":
        return smp.Unet(encoder, **how, aux_params=head)
    unet = smp.Unet("resnet18", **how, aux_params=head, **SLIM)
    unet.encoder.layer4 = nn.Identity()  # never used, but trained and stored
    return unet


class PooledClassifier(nn.Module):
    """Image classifier for class activation maps: features, 1×1 convolution, mean.

    backbone: (N, C, H, W) -> features (N, channels, h, w), not negative.
    """

    def __init__(self, backbone: nn.Module, channels: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = nn.Conv2d(channels, 2, 1, bias=False)

    def features(self, x: Tensor) -> Tensor:
        """(N, C, H, W) in [-1, 1] -> (N, channels, h, w)."""
        return self.backbone(x)

    def classify(self, features: Tensor) -> Tensor:
        """(N, channels, h, w) -> logits (N, 2) of clear and cloudy."""
        return self.classifier(features).mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) in [-1, 1] -> logits (N, 2) of clear and cloudy."""
        return self.classify(self.features(x))


def build_resnet50(
    num_channels: int, weights: Literal["imagenet"] | None = None
) -> PooledClassifier:
    """ResNet-50 of output stride 16 for CAM, Grad-CAM and Grad-CAM++: 2048 channels.

    With `weights` "imagenet" it begins with torchvision's IMAGENET1K_V1, downloaded unless in the
    cache of torch.hub (`UserError` if they cannot be had); each band gets the mean of the colours'
    first-layer kernels times 3 / num_channels, so that the sum over the bands keeps its size.
    """
    from torchvision.models import ResNet50_Weights, resnet50

    resnet = resnet50(weights=None, replace_stride_with_dilation=[False, False, True])
    conv = nn.Conv2d(num_channels, 64, 7, stride=2, padding=3, bias=False)
    if weights == "imagenet":
        source = ResNet50_Weights.IMAGENET1K_V1
        try:
            resnet.load_state_dict(source.get_state_dict(progress=False, check_hash=True))
        except (OSError, RuntimeError) as error:  # no network, or a damaged file
            raise UserError(
                f"the ImageNet weights cannot be had ({error}): put {source.url} into "
                f"{torch.hub.get_dir()}/checkpoints, or train without them"
            ) from error
        with torch.no_grad():
            conv.weight.copy_(resnet.conv1.weight.mean(dim=1, keepdim=True) * 3 / num_channels)
    resnet.conv1 = conv
    layers = OrderedDict(resnet.named_children())
    channels = layers.pop("fc").in_features
    layers.pop("avgpool")
    return PooledClassifier(nn.Sequential(layers), channels)


def build_ucam(num_channels: int, encoder: str) -> PooledClassifier:
    """U-CAM: a U-Net that is pooled and classified, features at full resolution (16 channels).

    H and W are multiples of 32. No weights are downloaded.
    """
    unet = build_unet(num_channels, encoder, classifier_head=False)
    last = unet.get_submodule("segmentation_head.0")
    assert isinstance(last, nn.Conv2d)
    unet.segmentation_head = nn.Identity()  # the U-Net then ends with its decoder's output
    return PooledClassifier(unet, last.in_channels)


@dataclass(frozen=True)
class GANSize:
    """Networks (modes after training read them from the checkpoint)."""

    g_conv_dim: Annotated[int, Ge(1), "filters in the first layer of the generator"] = 64
    g_repeat_num: Annotated[int, Ge(1), "residual blocks in the generator"] = 6
    d_conv_dim: Annotated[int, Ge(1), "filters in the first layer of the discriminator"] = 64
    d_repeat_num: Annotated[int, Ge(1), "stride-2 layers in the discriminator"] = 6

    @classmethod
    def of(cls, g: Mapping[str, Tensor], d: Mapping[str, Tensor]) -> "GANSize":
        """The size of the networks whose weights are `g` and `d`."""
        return cls(
            g_conv_dim=len(g["main.0.weight"]),
            g_repeat_num=sum(name.endswith(".main.0.weight") for name in g),
            d_conv_dim=len(d["main.0.weight"]),
            d_repeat_num=sum(n.startswith("main.") and n.endswith(".weight") for n in d),
        )

    def build(self, image_size: int, num_channels: int) -> tuple[Generator, Discriminator]:
        """The two networks, with random weights."""
        return (
            Generator(self.g_conv_dim, 1, self.g_repeat_num, num_channels),
            Discriminator(image_size, self.d_conv_dim, 1, self.d_repeat_num, num_channels),
        )

    def check(self, weights: Mapping[str, Any], image_size: int, num_channels: int) -> None:
        """Raise ValueError unless the `weights` G and D are of networks of this size."""
        if GANSize.of(weights["G"], weights["D"]) != self:
            raise ValueError(f"its weights are not those of {self}")
        with torch.device("meta"):  # a forged size must not fill the memory
            built = self.build(image_size, num_channels)
        for network, name in zip(built, ("G", "D"), strict=True):
            for key, value in network.state_dict().items():
                if weights[name][key].shape != value.shape:
                    raise ValueError(f"{key} of {name} is not that of {self}")


def completed(state: dict[str, Any]) -> dict[str, Any]:
    """A GAN checkpoint; one of the authors' code, `G` and `D` alone, gets the rest from them."""
    if "size" in state:
        return state
    g, d = state["G"], state["D"]
    size = GANSize.of(g, d)
    return {
        "G": g,
        "D": d,
        "size": asdict(size),
        "image_size": d["conv2.weight"].shape[-1] * 2**size.d_repeat_num,
        "normalization": Normalization.paper(d["main.0.weight"].shape[1]).state(),
        "step": 0,
        "best": -math.inf,
        "choice": {"by": UNKNOWN, "pixel_labels": 0},
        "image_labels": 0,
    }


@dataclass(frozen=True)
class Task:
    """A network and what it learns; stored in the checkpoint."""

    network: str = "unet"  # or `resnet50` or `ucam`, classifiers for class activation maps
    target: str = "mask"  # pixels; or `label`: image-level labels alone
    encoder: str = "resnet34"  # of the U-Nets
    classifier_head: bool = False  # a U-Net that learns the image-level label too

    def __post_init__(self) -> None:
        for value, values in (
            (self.network, get_args(Network)),
            (self.target, ("mask", "label")),
            (self.encoder, get_args(Encoder)),
        ):
            if value not in values:
                raise ValueError(f"{value!r} is none of {', '.join(values)}")

    def build(self, num_channels: int) -> nn.Module:
        """The network, with random weights."""
        if self.network == "resnet50":
            return build_resnet50(num_channels)
        if self.network == "ucam":
            return build_ucam(num_channels, self.encoder)
        return build_unet(num_channels, self.encoder, self.classifier_head)
