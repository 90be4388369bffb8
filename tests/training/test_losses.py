"""The losses against a plain computation, one forward per term, as they are written."""

import copy

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits as bce

from fcd.patches.normalisation import Normalization
from fcd.training.losses import (
    LossWeights,
    cosine_factor,
    discriminator_loss,
    generator_loss,
    gradient_penalty,
    learning_rate_factor,
    segmentation_loss,
    translate,
)
from fcd.training.run import RunFolder
from model import Discriminator, Generator
from solver import FCDSolver, GANSize, GANTraining, Run

WEIGHTS = LossWeights(lambda_cls=1.5, lambda_rec=7.0, lambda_gp=9.0, lambda_id=3.0)


@pytest.fixture
def networks():
    torch.manual_seed(0)
    return Generator(8, 1, 1, 3).double(), Discriminator(16, 8, 1, 3, 3).double()


@pytest.fixture
def batch():
    torch.manual_seed(1)
    x = torch.rand(4, 3, 16, 16, dtype=torch.float64) * 1.6 - 0.8
    c_org = torch.tensor([[0.0], [1.0], [1.0], [0.0]], dtype=torch.float64)
    return x, c_org, c_org[[1, 0, 2, 3]]


def test_discriminator_loss_and_its_gradient(networks, batch):
    G, D = networks
    x, c_org, c_trg = batch
    fake = G(x, c_trg).detach()
    alpha = torch.rand(4, 1, 1, 1, dtype=torch.float64)
    loss, parts = discriminator_loss(D, x, fake, c_org, alpha, WEIGHTS)
    ours = torch.autograd.grad(loss, list(D.parameters()))

    x_hat = (alpha * x + (1 - alpha) * fake).requires_grad_()
    penalty = 0
    for sample in range(4):  # one sample at a time: its own gradient
        (g,) = torch.autograd.grad(D(x_hat)[0][sample].sum(), x_hat, create_graph=True)
        penalty = penalty + (g[sample].pow(2).sum().sqrt() - 1) ** 2 / 4
    expected = -D(x)[0].mean() + D(fake)[0].mean() + 1.5 * bce(D(x)[1], c_org) + 9 * penalty
    plain = torch.autograd.grad(expected, list(D.parameters()))

    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    assert parts["D/loss_gp"].item() == pytest.approx(penalty.item(), rel=1e-9)
    assert all(
        torch.allclose(a, b, rtol=1e-7, atol=1e-12) for a, b in zip(ours, plain, strict=True)
    )


def test_gradient_penalty_of_a_linear_function():
    def linear(x):
        return 3 * x.flatten(1)[:, :1], None

    assert gradient_penalty(linear, torch.rand(5, 1, 2, 2)).item() == pytest.approx(4)


@pytest.mark.parametrize("same_domain", [True, False])
def test_generator_loss_and_its_gradient(networks, batch, same_domain):
    G, D = networks
    x, c_org, c_trg = batch
    targets = [c_trg, c_org] if same_domain else [c_trg]
    translated = translate(G, x, targets)
    loss, parts = generator_loss(G, D, x, translated, c_org, targets, WEIGHTS)
    ours = torch.autograd.grad(loss, list(G.parameters()))

    fake = G(x, c_trg)
    expected = -D(fake)[0].mean() + 1.5 * bce(D(fake)[1], c_trg)
    expected = expected + 7 * (x - G(fake, c_org)).abs().mean()
    if same_domain:
        same = G(x, c_org)
        expected = expected - D(same)[0].mean() + 1.5 * bce(D(same)[1], c_org)
        expected = expected + 7 * (x - G(same, c_org)).abs().mean() + 3 * (x - same).abs().mean()
    plain = torch.autograd.grad(expected, list(G.parameters()))

    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    assert ("G/loss_id" in parts) is same_domain
    assert all(
        torch.allclose(a, b, rtol=1e-6, atol=1e-12) for a, b in zip(ours, plain, strict=True)
    )


def test_a_step_is_that_of_the_plain_losses_one_after_the_other():
    """The generator's step goes on from what the discriminator's has translated."""
    torch.manual_seed(2)
    c_org = torch.tensor([[0.0], [1.0], [1.0]])
    x, c_trg, alpha = torch.rand(3, 3, 16, 16) * 2 - 1, c_org[[2, 0, 1]], torch.rand(3, 1, 1, 1)
    run = Run(RunFolder("step"), torch.device("cpu"))
    solver = FCDSolver(run, GANSize(8, 1, 8, 3), 16, Normalization.paper(3))
    G, D = copy.deepcopy(solver.G), copy.deepcopy(solver.D)
    settings = GANTraining(n_critic=2, d_lr=1e-3, g_lr=1e-3)
    solver.start_optimizers(settings)
    optimizers = [torch.optim.Adam(net.parameters(), 1e-3, (0.5, 0.999)) for net in (D, G)]
    for step in (1, 2):
        solver.step = step
        parts = solver.learn(settings, x, c_org, c_trg, alpha)

        x_hat = (alpha * x + (1 - alpha) * G(x, c_trg)).detach()
        d_loss = D(G(x, c_trg).detach())[0].mean() - D(x)[0].mean()
        d_loss = d_loss + bce(D(x)[1], c_org) + 10 * gradient_penalty(D, x_hat)
        optimizers[0].zero_grad()
        d_loss.backward()
        optimizers[0].step()
    fake, same = G(x, c_trg), G(x, c_org)
    g_loss = bce(D(fake)[1], c_trg) + bce(D(same)[1], c_org)
    g_loss = g_loss - D(fake)[0].mean() - D(same)[0].mean() + 10 * (x - same).abs().mean()
    g_loss = g_loss + 10 * ((x - G(fake, c_org)).abs() + (x - G(same, c_org)).abs()).mean()
    optimizers[1].zero_grad()
    g_loss.backward(inputs=list(G.parameters()))
    optimizers[1].step()

    d_ours = sum(parts[f"D/loss_{name}"] for name in ("real", "fake", "cls"))
    assert (d_ours + 10 * parts["D/loss_gp"]).item() == pytest.approx(d_loss.item(), abs=1e-4)
    for ours, plain in ((solver.D, D), (solver.G, G)):
        for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
            assert torch.allclose(a.grad, b.grad, rtol=1e-3, atol=1e-5)
            assert (a - b).abs().mean() < 1e-5


def test_bfloat16_changes_little_and_the_gradient_penalty_not_at_all():
    torch.manual_seed(3)
    G, D = Generator(8, 1, 1, 3), Discriminator(16, 8, 1, 3, 3)
    x, c, alpha = torch.rand(4, 3, 16, 16) * 2 - 1, torch.ones(4, 1), torch.rand(4, 1, 1, 1)
    exact, parts = discriminator_loss(D, x, x.flip(0), c, alpha, WEIGHTS)
    expected = generator_loss(G, D, x, translate(G, x, [c, c]), c, [c, c], WEIGHTS)[1]
    with torch.autocast("cpu", torch.bfloat16):
        near, in_bfloat16 = discriminator_loss(D, x, x.flip(0), c, alpha, WEIGHTS)
        halves = generator_loss(G, D, x, translate(G, x, [c, c]), c, [c, c], WEIGHTS)[1]
    assert in_bfloat16["D/loss_gp"].item() == parts["D/loss_gp"].item()
    assert {value.dtype for value in (in_bfloat16 | halves).values()} == {torch.float32}
    assert 0 < abs(near.item() - exact.item()) < 0.01
    for name, value in halves.items():
        assert value.item() == pytest.approx(expected[name].item(), abs=0.02), name


def test_segmentation_loss_leaves_invalid_pixels_out():
    logits = torch.randn(2, 2, 4, 4)
    mask = torch.randint(0, 3, (2, 4, 4), dtype=torch.uint8)
    label, image_logit = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.3], [-0.2]])
    loss, _ = segmentation_loss(logits, mask, image_logit, label)
    log_p = logits.log_softmax(dim=1)
    terms = [
        -log_p[n, mask[n, i, j].item() - 1, i, j]
        for n in range(2) for i in range(4) for j in range(4) if mask[n, i, j] > 0
    ]  # fmt: skip
    image = [torch.log1p(torch.exp(torch.tensor(0.3))), torch.log1p(torch.exp(torch.tensor(0.2)))]
    expected = torch.stack(terms).mean() + torch.stack(image).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    empty, _ = segmentation_loss(logits, torch.zeros_like(mask), None, label)
    assert empty.item() == 0


def test_learning_rate_falls_linearly_to_zero_at_the_end():
    factors = [
        learning_rate_factor(step, 200_000, 100_000) for step in (1, 100_001, 150_001, 200_000)
    ]
    assert factors == pytest.approx([1, 1, 0.5, 1e-5])
    assert learning_rate_factor(7, 10, 0) == 1


def test_the_cosine_falls_as_pytorchs():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 1.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12)
    for step in range(1, 13):
        assert cosine_factor(step, 12) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
