"""Which networks train in bfloat16, that only these do, and that a run keeps to it."""

import time

import pytest
import torch
from torch import nn

from data_loader import PatchDataset
from fcd.cli.settings import amp_from
from fcd.training import amp, checkpoints
from solver import GANTraining, SupervisedTraining
from tests.conftest import write_patches
from tests.tiny import gan, unet

BF16, FULL = torch.bfloat16, torch.float32


class Sleeping(nn.Module):
    """Takes so many seconds in float32, and so many in bfloat16."""

    def __init__(self, full, half):
        super().__init__()
        self.took, self.layer = {False: full, True: half}, nn.BatchNorm1d(2)

    def forward(self, x):
        time.sleep(self.took[torch.is_autocast_enabled("cpu")])
        return self.layer(x), torch.dropout(x, 0.5, train=True)


def test_auto_takes_bfloat16_for_what_is_faster_by_it(capsys):
    networks = {"G": Sleeping(0.03, 0.01), "D": Sleeping(0.01, 0.03)}
    inputs = dict.fromkeys(networks, (torch.rand(8, 2),))
    before = torch.get_rng_state()
    assert amp.chosen("auto", networks, inputs) == ["G"]
    assert "it is taken for G" in capsys.readouterr().out
    assert torch.equal(torch.get_rng_state(), before)
    assert networks["G"].layer.num_batches_tracked == 0
    assert networks["G"].layer.weight.grad is None
    assert amp.chosen(True, networks, inputs) == ["G", "D"]
    assert amp.chosen(False, networks, inputs) == []


def computed_in(solver, names):
    """What the first convolution of each network makes values of, as they come."""
    seen = {name: [] for name in names}
    for name, dtypes in seen.items():
        first = next(m for m in solver.networks[name].modules() if isinstance(m, nn.Conv2d))
        first.register_forward_hook(lambda _, __, made, to=dtypes: to.append(made.dtype))
    return seen


@pytest.mark.parametrize(
    ("taken", "dtypes"),
    [([], {"G": {FULL}, "D": {FULL}}), (["G"], {"G": {BF16}, "D": {FULL}}),
     (["D"], {"G": {FULL}, "D": {BF16, FULL}}), (["G", "D"], {"G": {BF16}, "D": {BF16, FULL}})],
)  # fmt: skip
def test_only_these_networks_compute_in_bfloat16(taken, dtypes):
    solver = gan("one")  # the penalty of D is always in float32
    settings = GANTraining(n_critic=1)
    solver.start_optimizers(settings)
    solver.in_bfloat16, solver.step = taken, 1
    seen = computed_in(solver, "GD")
    c = torch.tensor([[0.0], [1.0]])
    parts = solver.learn(settings, torch.rand(2, 10, 32, 32), c, c.flip(0), torch.rand(2, 1, 1, 1))
    assert {name: set(found) for name, found in seen.items()} == dtypes
    assert all(value.dtype == FULL and value.isfinite() for value in parts.values())


def test_a_network_in_float32_learns_as_without_bfloat16():
    """D, which sees G's patches in either precision, has the gradient of these very patches."""
    solver, x = gan("one"), torch.rand(2, 10, 32, 32)
    with solver.training(True, D=()):
        half = x.bfloat16()
        inside = [value.clone() for value in solver.computing("D")(half)]
        solver.in_bfloat16 = ["G"]
        outside = solver.computing("D")(half)
    expected = solver.D(half.float())
    assert all(map(torch.equal, outside, expected))
    assert not torch.equal(inside[0].float(), expected[0])


@pytest.mark.usefixtures("in_tmp")
@pytest.mark.parametrize(
    ("make", "settings", "networks"),
    [(gan, GANTraining(batch_size=4, num_iters=4, n_critic=2, amp="auto"), ["G", "D"]),
     (unet, SupervisedTraining(batch_size=4, n_epochs=1, amp="auto"), ["network"])],
)  # fmt: skip
def test_a_run_keeps_to_what_was_chosen(tmp_path, monkeypatch, make, settings, networks):
    asked = []

    def chosen(asked_for, _, inputs):
        asked.append((asked_for, list(inputs)))
        return networks[:1]

    monkeypatch.setattr(amp, "chosen", chosen)
    train_set = PatchDataset(write_patches(tmp_path / "p", 10, 4), "train", "mask.tif")
    make("kept").train(settings, train_set, None)
    assert asked == [("auto", networks)]
    assert checkpoints.load("outputs/kept/models/latest.pt")["in_bfloat16"] == networks[:1]
    again = make("kept")
    again.start(settings, train_set, None)
    assert again.resume()
    assert again.in_bfloat16 == networks[:1]


def test_the_flag():
    assert [amp_from(text) for text in ("True", "false", "Auto")] == [True, False, "auto"]
