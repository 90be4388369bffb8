"""Class activation maps: a cloud score from a network that learned image-level labels alone.

CAM (Zhou et al. 2016, arXiv 1512.04150), Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391) and
Grad-CAM++ (Chattopadhay et al. 2018, arXiv 1710.11063) weigh the channels of the last features
and add them up; only the weights differ. U-CAM is CAM of a network with full-resolution features.

Where pooling and a linear layer are all that follows the features, Grad-CAM's weights are CAM's
divided by the number of pixels (Selvaraju et al., section 3.1): both give the same map.
"""

from collections.abc import Callable
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcd.landsat.labels import LABEL_CLOUDY

Method = Literal["cam", "gradcam", "gradcampp"]


class Classifier(Protocol):
    """What the maps need of a network; no step may mix the samples of a batch."""

    classifier: nn.Conv2d  # 1×1, without bias (K -> classes); CAM's weights

    def features(self, x: Tensor) -> Tensor:
        """(N, C, h, w) in [-1, 1] -> (N, K, h', w'), not negative."""

    def classify(self, features: Tensor) -> Tensor:
        """(N, K, h', w') -> logits (N, classes)."""


def cam_score(method: Method, network: Classifier, x: Tensor) -> Tensor:
    """Cloud score: x (N, C, h, w) float32 in [-1, 1] -> (N, h, w) float32 in [0, 1].

    The weighted sum of the features through ReLU, upsampled bilinearly to the size of `x`,
    divided by its maximum, times the probability that the sample is cloudy. The maximum is what
    the papers' thresholds refer to (20 % of it for CAM, 15 % for Grad-CAM); subtracting the minimum
    as well would make clear pixels of an overcast sample. The probability stands for the
    image-level label, which a new scene has not: without it the noise of a clear sample would
    reach 1. A map that is zero everywhere stays zero.

    The network is used in the mode it is in (evaluation, as a rule); its gradients stay as they
    are, and `torch.inference_mode` or `torch.no_grad` around it does not matter.
    """
    with torch.no_grad():
        features = network.features(x)
        weights = CHANNEL_WEIGHTS[method](network, features)
        cloudy = network.classify(features).softmax(dim=1)[:, LABEL_CLOUDY]
        heat = torch.einsum("nk,nkhw->nhw", weights, features).relu()
        heat = F.interpolate(heat[:, None], x.shape[2:], mode="bilinear").squeeze(1)
        peak = heat.amax(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(heat.dtype).tiny)
        return heat / peak * cloudy[:, None, None]


def _gradient(network: Classifier, features: Tensor) -> Tensor:
    """Gradient of each sample's own logit of cloudy by its features (N, K, h', w')."""
    # A tensor born in inference mode can never require a gradient; its clone can.
    with torch.inference_mode(False), torch.enable_grad():
        leaf = features.clone().requires_grad_()
        logit = network.classify(leaf)[:, LABEL_CLOUDY]
        # The sum keeps samples apart: no other logit depends on a sample's features.
        (gradient,) = torch.autograd.grad(logit.sum(), leaf)
    return gradient


def _cam(network: Classifier, features: Tensor) -> Tensor:
    """Weights of the linear classifier (Zhou et al., eq. 2)."""
    return network.classifier.weight[LABEL_CLOUDY].flatten().expand(len(features), -1)


def _gradcam(network: Classifier, features: Tensor) -> Tensor:
    """Mean of the gradient (Selvaraju et al., eq. 1)."""
    return _gradient(network, features).mean(dim=(2, 3))


def _gradcampp(network: Classifier, features: Tensor) -> Tensor:
    """Sum of α · ReLU(gradient), α = g² / (2 g² + g³ ΣA) (Chattopadhay et al., eq. 19).

    Cancelled by g², which spares an ε that would outweigh the small gradients of mean pooling.
    The exponential the paper sets on the logit is one factor per sample; normalising undoes it.
    """
    positive = _gradient(network, features).relu()
    alpha = 1 / (2 + positive * features.sum(dim=(2, 3), keepdim=True))
    return (alpha * positive).sum(dim=(2, 3))


# Weights (N, K) of the channels of features (N, K, h', w').
CHANNEL_WEIGHTS: dict[Method, Callable[[Classifier, Tensor], Tensor]] = {
    "cam": _cam,
    "gradcam": _gradcam,
    "gradcampp": _gradcampp,
}
