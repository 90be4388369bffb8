"""The moving average against sums written out, and a run scored by it."""

import copy

import pytest
import torch
from torch import nn

import supervised_main
from data_loader import PatchDataset
from fcd.training import averaging, checkpoints
from fcd.training.batches import batches_per_epoch
from solver import FCDSolver, GANTraining, SupervisedSolver, SupervisedTraining, load_solver
from tests.tiny import equal, gan, unet

pytestmark = pytest.mark.usefixtures("in_tmp")


def test_after_a_half_life_the_old_weights_count_half():
    # Long after the start: 100 steps of half-life, of 0 before and 1 since.
    average = torch.zeros(())
    for step in range(5001, 5101):
        average = torch.lerp(average, torch.ones(()), averaging.weight_of_new(step, 100))
    assert average.item() == pytest.approx(0.5, abs=1e-5)


def test_early_on_the_first_weights_are_soon_forgotten():
    assert averaging.weight_of_new(5, 100) == pytest.approx(1 - 0.5**0.5)  # of five steps: two
    # What the weights before the first step still count after 100 steps, of 1000 at half-life.
    left = 1.0
    for step in range(1, 101):
        left *= 1 - averaging.weight_of_new(step, 1000)
    assert left < 1e-3


def test_weights_that_were_trained_before_are_kept_along(image_dir):
    left = 1.0
    for step in range(1, 101):
        left *= 1 - averaging.weight_of_new(step, 50, ramp_up=False)
    assert left == pytest.approx(0.25)  # after two half-lives
    first = unet("first")
    first.save("best")
    solver, settings = unet("second"), SupervisedTraining(batch_size=4, n_epochs=1, ema=1.0, lr=0.1)
    solver.start_from(first.run.folder.checkpoint("best"), encoder_only=False)
    began = copy.deepcopy(solver.network.state_dict())
    train_set = PatchDataset(image_dir, "train", "mask.tif")
    steps = []
    solver.step_on = lambda *args, learn=solver.step_on: (
        steps.append(copy.deepcopy(solver.networks["network"].state_dict())) or learn(*args)
    )
    solver.train(settings, train_set, None)
    name = "segmentation_head.0.weight"
    weights = [state[name] for state in steps[1:]] + [solver.networks["network"].state_dict()[name]]
    share = 0.5 ** (1 / len(weights))  # of the old, a step
    expected = began[name]
    for weight in weights:
        expected = share * expected + (1 - share) * weight
    torch.testing.assert_close(solver.network.state_dict()[name], expected)


def test_weights_and_statistics_are_averaged_and_counters_copied():
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    average = averaging.copy_of(network)
    before = copy.deepcopy(average.state_dict())
    network.train()(torch.randn(4, 1, 8, 8) + 3)
    with torch.no_grad():
        network[0].weight += 1
    averaging.follow(average, network, 0.25)
    after, new = average.state_dict(), network.state_dict()
    for name in ("0.weight", "0.bias", "1.running_mean", "1.running_var"):
        torch.testing.assert_close(after[name], 0.75 * before[name] + 0.25 * new[name])
    assert after["1.num_batches_tracked"] == new["1.num_batches_tracked"] == 1
    assert not average.training
    assert not any(p.requires_grad for p in average.parameters())


@pytest.mark.parametrize("kind", ["gan", "unet"])
def test_a_run_scores_by_the_average_of_its_weights(image_dir, monkeypatch, kind):
    solver, settings = {
        "gan": (gan("a"), GANTraining(batch_size=4, num_iters=6, n_critic=2, ema=0.5)),
        "unet": (unet("a"), SupervisedTraining(batch_size=4, n_epochs=1, ema=0.5)),
    }[kind]
    trained = solver.networks[solver.scoring]
    by_hand = copy.deepcopy(trained).state_dict()
    original = type(solver).step_on

    def step_on(self, *args):
        parts = original(self, *args)
        weight = averaging.weight_of_new(self.step, 0.5 * stop)
        for name, value in trained.state_dict().items():
            if value.is_floating_point():
                by_hand[name] += weight * (value - by_hand[name])
        return parts

    monkeypatch.setattr(type(solver), "step_on", step_on)
    train_set = PatchDataset(image_dir, "train", "mask.tif")
    stop = 6 if kind == "gan" else batches_per_epoch(len(train_set), 4)
    solver.train(settings, train_set, None)
    assert solver.network is not trained
    for name, value in solver.network.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, by_hand[name])
    assert not equal(solver.network.state_dict(), trained.state_dict())

    loaded = {"gan": FCDSolver, "unet": SupervisedSolver}[kind].load(
        solver.run, solver.run.folder.checkpoint("best")
    )
    x = torch.rand(2, 10, 32, 32) * 2 - 1
    with torch.inference_mode():
        by_average = solver.score(x)
        # Another layout of memory, in which sums are added up otherwise.
        torch.testing.assert_close(loaded.score(x), by_average, atol=1e-5, rtol=1e-4)


def test_fine_tuning_begins_with_the_average(image_dir):
    train_set = PatchDataset(image_dir, "train", "mask.tif")
    unet("a").train(SupervisedTraining(batch_size=4, n_epochs=1, ema=0.5), train_set, None)
    path = "outputs/a/models/best.pt"
    tuned = unet("b")
    tuned.start_from(path, encoder_only=False)
    assert equal(dict(tuned.network.state_dict()), checkpoints.load(path)["network_average"])


def test_packed_weights_are_the_average_in_half_precision(image_dir, call):
    train_set = PatchDataset(image_dir, "train", "mask.tif")
    solver = unet("FCD+")
    solver.train(SupervisedTraining(batch_size=4, n_epochs=1, ema=0.5), train_set, None)
    pack = ["--mode", "pack", "--experiment_name", "FCD+", "--l8biome_image_dir", str(image_dir)]
    assert call(supervised_main, *pack, "--threshold", "0.4")[0] == 0
    whole, path = (solver.run.folder.checkpoint(name) for name in ("best", "best-packed"))
    # Three networks' worth of float32 (weights, average and Adam's two) against one of float16.
    assert path.stat().st_size < whole.stat().st_size / 7
    state = checkpoints.load(path)
    assert {"optimizer", "network_average"}.isdisjoint(state)
    passed_on = path.rename("elsewhere.pt")
    loaded, average = load_solver(passed_on, "cpu"), solver.network.state_dict()
    for name, value in loaded.network.state_dict().items():
        torch.testing.assert_close(value, average[name], atol=1e-3, rtol=1e-3)
    assert loaded.predictor().threshold == 0.4
    assert loaded.seen == solver.seen
