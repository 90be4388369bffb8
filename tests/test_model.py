import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from fcd.errors import UserError
from fcd.training.checkpoints import load_weights
from fcd.training.losses import difference_map
from fcd.training.run import RunFolder
from model import Discriminator, Generator, HalvingConv, InstanceNorm, build_unet
from solver import FCDSolver, Run


def small_generator():
    torch.manual_seed(0)
    return Generator(conv_dim=8, c_dim=1, repeat_num=2, num_channels=3)


def test_parameter_counts_of_the_paper():
    assert sum(p.numel() for p in Generator().parameters()) == 8_461_888
    assert sum(p.numel() for p in Discriminator().parameters()) == 44_736_448


def test_generator_by_hand_from_its_layers():
    generator, x = small_generator(), torch.rand(2, 3, 16, 16) * 1.8 - 0.9
    c = torch.tensor([[0.0], [1.0]])
    planes = torch.stack([torch.zeros(1, 16, 16), torch.ones(1, 16, 16)])
    expected = torch.tanh(generator.main(torch.cat([x, planes], dim=1)) + x)
    assert torch.equal(generator(x, c), expected)


def test_fill_stays_fill_and_nothing_else_becomes_fill():
    x = torch.rand(2, 3, 16, 16) * 1.8 - 0.9
    x[:, :, :5] = -1
    x[0, 1, 9, 9] = -1
    translated = small_generator()(x, torch.zeros(2, 1))
    assert torch.equal(translated == -1, x == -1)


def test_evaluation_mode_does_not_change_the_generator():
    generator, x, c = small_generator(), torch.rand(2, 3, 16, 16), torch.ones(2, 1)
    generator.train()
    for _ in range(3):
        trained = generator(x, c)
    assert torch.equal(generator.eval()(x, c), trained)


def test_instance_norm_is_pytorchs_and_so_are_its_gradients():
    torch.manual_seed(0)
    x, ours = torch.randn(2, 3, 8, 8) * 4 + 9, InstanceNorm(3)
    theirs = nn.InstanceNorm2d(3, affine=True)
    theirs.load_state_dict(ours.state_dict())
    results = []
    for norm in (ours, theirs):
        leaf = x.clone().requires_grad_()
        value = norm(leaf)
        value.sin().sum().backward()
        results.append((value, leaf.grad, norm.weight.grad, norm.bias.grad))
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("side", [2, 8, 9, 10])  # 4 × 4 out of 8 and 9; 10 is the convolution
def test_the_halving_convolution_is_pytorchs_and_so_are_its_gradients(side):
    torch.manual_seed(0)
    ours, theirs = HalvingConv(3, 5).double(), nn.Conv2d(3, 5, 4, stride=2, padding=1).double()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(4, 3, side, side, dtype=torch.double, requires_grad=True)
    found = []
    for conv in (ours, theirs):
        y = conv(x)
        (gradient,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        conv.zero_grad()
        (gradient.square().sum() + y.sum()).backward()  # as the gradient penalty
        found.append([y, gradient, conv.weight.grad, conv.bias.grad])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)
    assert torch.autograd.gradgradcheck(ours, x[:1, :, :4, :4])


def test_samples_do_not_influence_each_other():
    generator, x, c = small_generator(), torch.rand(3, 3, 16, 16), torch.ones(3, 1)
    alone = torch.cat([generator(x[i : i + 1], c[:1]) for i in range(3)])
    assert torch.allclose(generator(x, c), alone, atol=1e-5)


def test_discriminator_shapes_and_refused_sizes():
    scores, domain = Discriminator(64, 4, 1, 5, 3)(torch.rand(2, 3, 64, 64))
    assert scores.shape == (2, 1, 2, 2)
    assert domain.shape == (2, 1)
    with pytest.raises(ValueError, match="image size 100"):
        Discriminator(100)


class AuthorsResidualBlock(nn.Module):
    """As in checkpoints of the authors' code: instance norm that tracks statistics."""

    def __init__(self, dim):
        super().__init__()
        layers = []
        for _ in range(2):
            layers += [
                nn.Conv2d(dim, dim, 3, padding=1, bias=False),
                nn.InstanceNorm2d(dim, affine=True, track_running_stats=True),
                nn.ReLU(),
            ]
        self.main = nn.Sequential(*layers[:-1])

    def forward(self, x):
        return x + self.main(x)


def test_a_checkpoint_with_running_statistics_gives_the_same_difference_map():
    torch.manual_seed(1)
    authors = Generator(8, 1, 2, 3)
    for index in (9, 10):
        authors.main[index] = AuthorsResidualBlock(32)
    x = torch.rand(2, 3, 16, 16)
    state = nn.Module.state_dict(authors)
    assert any(key.endswith("running_mean") for key in state)
    generator = small_generator()
    generator.load_state_dict(state)
    expected = (authors(x, torch.zeros(2, 1)) - x).abs().mean(dim=1) / 2
    assert torch.allclose(difference_map(generator, x), expected, atol=1e-5)


def test_weights_of_another_shape_are_one_clear_line():
    with pytest.raises(UserError, match=r"a\.pt is from a network of another shape.*main"):
        load_weights(small_generator(), Generator(4, 1, 2, 3).state_dict(), "a.pt")


def test_the_slim_unet_is_resnet18_without_its_last_stage():
    slim, whole = build_unet(8, "slim18", True), build_unet(8, "resnet18", True)
    kept, all_of_it = slim.encoder.state_dict(), whole.encoder.state_dict()
    left_out = all_of_it.keys() - kept.keys()
    assert left_out == {name for name in all_of_it if name.startswith("layer4.")}
    assert all(kept[name].shape == all_of_it[name].shape for name in kept)
    assert (
        sum(p.numel() for p in slim.parameters()) < sum(p.numel() for p in whole.parameters()) / 3.9
    )
    masks, label = slim(torch.rand(2, 8, 64, 64))
    assert (masks.shape, label.shape) == ((2, 2, 64, 64), (2, 1))


def test_unet_heads():
    x = torch.rand(2, 10, 32, 32)
    assert build_unet(10, "resnet18", False)(x).shape == (2, 2, 32, 32)
    mask, label = build_unet(10, "resnet34", True)(x)
    assert mask.shape == (2, 2, 32, 32)
    assert label.shape == (2, 1)


def rename_in_zip(source, target):
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("data.pkl"):
                assert b"numpy._core.multiarray" in content
                content = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
            new.writestr(name, content)


def test_a_checkpoint_of_the_authors_code_becomes_a_solver(tmp_path):
    torch.manual_seed(2)
    authors = Generator(8, 1, 2, 10)
    for index in (9, 10):
        authors.main[index] = AuthorsResidualBlock(32)
    discriminator = Discriminator(64, 4, 1, 5, 10)
    state = {"G": nn.Module.state_dict(authors), "D": discriminator.state_dict()}
    # Its score is a NumPy number, pickled under the name of NumPy 1.
    torch.save(state | {"val_f1": np.float64(0.5)}, tmp_path / "new.ckpt")
    rename_in_zip(tmp_path / "new.ckpt", tmp_path / "best-model.ckpt")
    run = Run(RunFolder("authors"), torch.device("cpu"))
    solver = FCDSolver.load(run, tmp_path / "best-model.ckpt")
    assert (solver.size.g_conv_dim, solver.size.g_repeat_num) == (8, 2)
    assert (solver.size.d_conv_dim, solver.size.d_repeat_num, solver.image_size) == (4, 5, 64)
    x = torch.rand(1, 10, 64, 64)
    expected = (authors(x, torch.zeros(1, 1)) - x).abs().mean(dim=1) / 2
    assert torch.allclose(solver.score(x), expected, atol=1e-5)
