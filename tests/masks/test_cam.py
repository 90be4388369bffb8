import copy

import numpy as np
import pytest
import pytorch_grad_cam
import torch
import torch.nn.functional as F
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn
from torchvision.models import ResNet50_Weights, resnet50

from fcd.errors import UserError
from fcd.masks.cam import CHANNEL_WEIGHTS, cam_score
from fcd.training.checkpoints import load, load_weights, save
from model import PooledClassifier, build_resnet50, build_ucam

METHODS = sorted(CHANNEL_WEIGHTS)


class Tiny(PooledClassifier):
    """Features are the input itself, or its means over cells of `stride` pixels."""

    def __init__(self, clear, cloudy, stride=1):
        super().__init__(nn.AvgPool2d(stride), len(cloudy))
        weight = torch.tensor([clear, cloudy], dtype=torch.float32)
        self.load_state_dict({"classifier.weight": weight[:, :, None, None]})


class Masked(Tiny):
    """A classifier whose gradient, `slope` (K, h, w), differs from pixel to pixel."""

    def __init__(self, slope):
        super().__init__([0.0] * len(slope), [0.0] * len(slope))
        self.slope = slope

    def classify(self, features):
        cloudy = (features * self.slope).sum(dim=(1, 2, 3))
        return torch.stack([torch.zeros_like(cloudy), cloudy], dim=1)


X = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[0.0, 1.0], [0.0, 2.0]]]])  # (1, 2, 2, 2)


def sigmoid(value):
    return 1 / (1 + np.exp(-value))


def test_cam_by_hand():
    # 4 A0 - 8 A1 = [[4, 0], [12, 0]] after ReLU; logit 4 · 2.5 - 8 · 0.75 = 4, the other is 3.
    network = Tiny(clear=[0.0, 4.0], cloudy=[4.0, -8.0])
    expected = sigmoid(4 - 3) * torch.tensor([[[1 / 3, 0.0], [1.0, 0.0]]])
    torch.testing.assert_close(cam_score("cam", network, X), expected)


def test_gradcampp_by_hand():
    # The gradient of channel 0 is 1, α 1 / (2 + 10) everywhere; channel 1 has no positive one.
    network = Tiny(clear=[0.0, 0.0], cloudy=[4.0, -8.0])
    expected = sigmoid(4) * X[:, 0] / 4
    torch.testing.assert_close(cam_score("gradcampp", network, X), expected)


def test_gradients_that_vary_over_the_map_by_hand():
    slope = torch.tensor([[[2.0, -1.0], [0.0, 3.0]], [[0.0, 1.0], [0.0, -5.0]]])
    cloudy = sigmoid((X[0] * slope).sum().item())
    mean = {
        "gradcam": [4 / 4, -4 / 4],
        # ΣA is 10 and 3: Σ g / (2 + g ΣA) over the positive g.
        "gradcampp": [2 / (2 + 20) + 3 / (2 + 30), 1 / (2 + 3)],
    }
    for method, weights in mean.items():
        heat = (weights[0] * X[:, 0] + weights[1] * X[:, 1]).relu()
        expected = heat / heat.max() * cloudy
        torch.testing.assert_close(cam_score(method, Masked(slope), X), expected)


def test_upsampling_is_bilinear_and_the_maximum_is_taken_after_it():
    network = Tiny(clear=[-1e3], cloudy=[1.0], stride=2)
    x = torch.zeros(1, 1, 4, 4)
    x[:, :, :2, :2] = 3
    up = F.interpolate(torch.tensor([[[[3.0, 0.0], [0.0, 0.0]]]]), (4, 4), mode="bilinear")
    score = cam_score("cam", network, x)
    torch.testing.assert_close(score, up[0] / 3)
    assert score.max() == 1


@pytest.mark.parametrize("method", METHODS)
def test_no_evidence_is_0_and_evidence_everywhere_is_cloud_everywhere(method):
    network = Tiny(clear=[-1e3], cloudy=[1.0])
    assert cam_score(method, network, torch.zeros(1, 1, 4, 4)).tolist() == [[[0.0] * 4] * 4]
    assert cam_score(method, network, torch.ones(1, 1, 4, 4)).tolist() == [[[1.0] * 4] * 4]


@pytest.mark.parametrize("method", METHODS)
def test_a_clear_sample_gets_no_cloud_from_its_noise(method):
    network = Tiny(clear=[2e3], cloudy=[1.0])
    assert cam_score(method, network, torch.rand(1, 1, 4, 4) * 0.1 + 0.1).max() < 1e-6


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    network = build_resnet50(10).eval()
    # Larger weights than the initial ones: probabilities other than 1/2.
    nn.init.normal_(network.classifier.weight, std=0.1)
    return network


@pytest.fixture(scope="module")
def ucam():
    torch.manual_seed(0)
    network = build_ucam(10, "resnet18").eval()
    nn.init.normal_(network.classifier.weight)
    return network


@pytest.fixture(scope="module")
def x():
    return torch.rand(3, 10, 64, 96, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_networks_give_logits_and_features_of_the_promised_stride(resnet, ucam, x):
    with torch.no_grad():
        for network, shape in ((resnet, (3, 2048, 4, 6)), (ucam, (3, 16, 64, 96))):
            features = network.features(x)
            assert features.shape == shape
            assert features.min() == 0
            assert network(x).shape == (3, 2)
            assert torch.equal(network.classify(features), network(x))
            assert network.classifier.bias is None
    assert sum(p.numel() for p in resnet.parameters()) == 23_508_032 + 7 * 64 * 49 + 2 * 2048


def test_cam_is_gradcam_where_only_pooling_follows(resnet, ucam, x):
    for network in (resnet, ucam):
        score = cam_score("cam", network, x)
        assert score.flatten(1).std(dim=1).min() > 0.05
        torch.testing.assert_close(score, cam_score("gradcam", network, x), atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_batch_is_one_by_one(resnet, x, method):
    together = cam_score(method, resnet, x)
    alone = torch.cat([cam_score(method, resnet, sample[None]) for sample in x])
    assert together.shape == (3, 64, 96)
    assert together.min() >= 0
    assert together.max() <= 1
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_callers_mode_does_not_matter_and_nothing_is_left_behind(ucam, x, method, mode):
    before = copy.deepcopy(ucam.state_dict())
    expected = cam_score(method, ucam, x)
    with mode():
        score = cam_score(method, ucam, x.clone())
        assert not torch.is_grad_enabled()
    assert torch.equal(score, expected)
    assert not expected.requires_grad
    assert all(p.grad is None and p.requires_grad for p in ucam.parameters())
    assert not any(module.training for module in ucam.modules())
    assert all(torch.equal(value, before[name]) for name, value in ucam.state_dict().items())


@pytest.mark.parametrize(
    ("method", "theirs"), [("gradcam", "GradCAM"), ("gradcampp", "GradCAMPlusPlus")]
)
def test_agrees_with_the_library_grad_cam(resnet, x, method, theirs):
    network = copy.deepcopy(resnet)
    with torch.no_grad():
        network.classifier.weight *= 1e5  # their ε of 1e-6 must be small beside squared gradients
        network.classifier.weight[0] = network.classifier.weight[1]  # a probability of 1/2
    score = cam_score(method, network, x)
    with getattr(pytorch_grad_cam, theirs)(network, [network.backbone.layer4]) as cam:
        expected = torch.from_numpy(cam(x, [ClassifierOutputTarget(1)] * len(x)))
    # They subtract the minimum and leave out the probability.
    low, high = score.amin(dim=(1, 2), keepdim=True), score.amax(dim=(1, 2), keepdim=True)
    assert high.tolist() == [[[0.5]]] * 3
    torch.testing.assert_close((score - low) / (high - low), expected, atol=1e-5, rtol=0)


def test_an_image_level_label_suffices_to_train(x):
    torch.manual_seed(0)
    network = build_ucam(10, "resnet18")
    F.cross_entropy(network(x), torch.tensor([0, 1, 1])).backward()
    assert all(p.grad is not None for p in network.parameters())


def test_weights_load_from_a_checkpoint(tmp_path, ucam, x):
    save(tmp_path / "best.pt", {"network": ucam.state_dict()})
    network = build_ucam(10, "resnet18").eval()
    load_weights(network, load(tmp_path / "best.pt")["network"], "best.pt")
    assert torch.equal(cam_score("cam", network, x), cam_score("cam", ucam, x))


def test_imagenet_weights_keep_the_response_to_a_grey_image(monkeypatch):
    source = resnet50(weights=None)
    monkeypatch.setattr(ResNet50_Weights, "get_state_dict", lambda *_, **__: source.state_dict())
    network = build_resnet50(10, "imagenet")
    grey = torch.rand(1, 1, 32, 32)
    torch.testing.assert_close(
        network.backbone.conv1(grey.expand(-1, 10, -1, -1)),
        source.conv1(grey.expand(-1, 3, -1, -1)),
    )
    weights = network.backbone.layer4[2].conv3.weight
    assert torch.equal(weights, source.layer4[2].conv3.weight)


def test_imagenet_weights_out_of_reach_are_one_clear_line(monkeypatch, tmp_path):
    def offline(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    monkeypatch.setattr(torch.hub, "urlopen", offline)
    with pytest.raises(UserError, match=r"no route to host.*resnet50.*\.pth.*train without"):
        build_resnet50(10, "imagenet")
