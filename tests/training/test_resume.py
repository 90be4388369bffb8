"""A run that was stopped and continued equals one that was not, bit for bit on the CPU."""

import math
import signal
from dataclasses import replace

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import solver as solver_module
from data_loader import PatchDataset
from fcd.errors import UserError
from fcd.interruption import Interruption, Stopped
from fcd.processes import ALONE
from fcd.training import checkpoints
from fcd.training.loop import training_loop
from fcd.training.losses import LossWeights
from fcd.training.run import RunFolder
from solver import GANTraining, Run, SupervisedTraining
from tests.conftest import write_patches
from tests.tiny import CPU, equal, gan, scalars, unet

pytestmark = pytest.mark.usefixtures("in_tmp")
GAN = GANTraining(
    batch_size=4, num_iters=12, num_iters_decay=6, n_critic=2, sample_step=5, model_save_step=4
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A function name -> what an undisturbed run leaves: checkpoints, curves; each trained once."""
    folder = tmp_path_factory.mktemp("whole")
    image_dir = write_patches(folder / "p", 10, 4)
    left = {}

    def trained(name):
        if name not in left:
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(folder)
                TRAININGS[name](name, image_dir)
                left[name] = results(name)
        return left[name]

    return trained


def train_gan(name, image_dir):
    sets = PatchDataset(image_dir, "train"), PatchDataset(image_dir, "val", "mask.tif")
    gan(name).train(GAN, *sets)


def train_gan_without_masks(name, image_dir):
    gan(name).train(GAN, PatchDataset(image_dir, "train"), None)


def train_averaged(name, image_dir):
    sets = PatchDataset(image_dir, "train"), PatchDataset(image_dir, "val", "mask.tif")
    gan(name).train(replace(GAN, ema=0.5), *sets)


def train_unet(name, image_dir):
    sets = (PatchDataset(image_dir, split, "mask.tif") for split in ("train", "val"))
    unet(name).train(SupervisedTraining(batch_size=4, n_epochs=2, plateau_patience=0), *sets)


def train_unet_without_masks(name, image_dir):
    train_set = PatchDataset(image_dir, "train", "mask.tif")
    unet(name).train(SupervisedTraining(batch_size=4, n_epochs=2), train_set, None)


TRAININGS = {
    "unet, cosine": train_unet_without_masks,
    "gan": train_gan,
    "no masks": train_gan_without_masks,
    "averaged": train_averaged,
    "unet": train_unet,
}


def results(name):
    """What a run has left: the latest and the best checkpoint, and the curves."""
    found = (checkpoints.load(f"outputs/{name}/models/{which}.pt") for which in ("latest", "best"))
    return [*found, scalars(f"runs/{name}")]


class StopAt:
    """Sends a signal to the process when a solver has done `step` steps."""

    def __init__(self, step, signum):
        self.step, self.signum, self.count = step, signum, 0

    def __call__(self, original):
        def counted(seed, step, rank):
            self.count += 1
            if self.count == self.step:
                signal.raise_signal(self.signum)
            return original(seed, step, rank)

        return counted


def stopped(patch, step, signum, train, image_dir):
    """Train the run "cut" until it is stopped at `step`; return the exit code."""
    with patch.context() as context:
        counted = StopAt(step, signum)(solver_module.seed_step)
        context.setattr(solver_module, "seed_step", counted)
        with pytest.raises(Stopped, match=f"stopped after step {step}") as told:
            train("cut", image_dir)
    return told.value.exit_code


@pytest.mark.parametrize("stop", [1, 3, 4, 7, 11])
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_gan_resumes_exactly(image_dir, monkeypatch, whole, stop, signum):
    assert stopped(monkeypatch, stop, signum, train_gan, image_dir) == 128 + signum
    train_gan("cut", image_dir)
    assert equal(whole("gan"), results("cut"))
    assert whole("gan")[1]["step"] > 0


@pytest.mark.parametrize("stop", [3, 7])
def test_an_averaged_gan_resumes_exactly(image_dir, monkeypatch, whole, stop):
    stopped(monkeypatch, stop, signal.SIGTERM, train_averaged, image_dir)
    train_averaged("cut", image_dir)
    assert equal(whole("averaged"), results("cut"))
    assert not equal(whole("averaged")[0]["G"], whole("averaged")[0]["G_average"])


@pytest.mark.parametrize("stop", [1, 3, 4, 5])
def test_unet_resumes_exactly(image_dir, monkeypatch, whole, stop):
    stopped(monkeypatch, stop, signal.SIGTERM, train_unet, image_dir)
    train_unet("cut", image_dir)
    assert equal(whole("unet"), results("cut"))


def test_without_validation_the_rate_falls_and_resumes_exactly(image_dir, monkeypatch, whole):
    stopped(monkeypatch, 3, signal.SIGTERM, train_unet_without_masks, image_dir)
    train_unet_without_masks("cut", image_dir)
    assert equal(whole("unet, cosine"), results("cut"))
    rates = [value for _, value in results("cut")[2]["lr"]]
    steps = len(rates)
    expected = [1e-4 * (1 + math.cos(math.pi * step / steps)) / 2 for step in range(steps)]
    assert rates == pytest.approx(expected)


def test_another_seed_gives_another_run(image_dir):
    train = PatchDataset(image_dir, "train")
    first, second = gan("a"), gan("b")
    first.train(GAN, train, None)
    second.run = Run(RunFolder("b"), CPU, seed=4, log_step=2)
    second.train(GAN, train, None)
    assert not equal(first.G.state_dict(), second.G.state_dict())


def test_every_loss_part_and_a_picture_are_logged(image_dir):
    train_gan("logged", image_dir)
    parts = {f"G/loss_{part}{half}" for part in ("fake", "cls", "rec") for half in ("", "_id")}
    parts |= {"G/loss_id"} | {f"D/loss_{part}" for part in ("real", "fake", "cls", "gp")}
    logged = scalars("runs/logged")
    assert parts | {"lr", "val/accuracy", "val/f1", "val/iou", "val/threshold"} == logged.keys()
    assert [step for step, _ in logged["D/loss_gp"]] == [2, 4, 6, 8, 10, 12]
    assert [value for _, value in logged["lr"]][-1] == pytest.approx(1e-4 / 6)
    assert EventAccumulator("runs/logged").Reload().Tags()["images"] == ["translations"]


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(image_dir):
    train = PatchDataset(image_dir, "train")
    settings = GANTraining(**{**vars(GAN), "g_lr": 1e30, "weights": LossWeights()})
    solver = gan("broken")
    solver.save("latest")
    before = checkpoints.load("outputs/broken/models/latest.pt")
    solver = gan("other")
    solver.run = Run(RunFolder("broken2"), CPU, log_step=1)
    with pytest.raises(UserError, match=r"step \d+: .* is not finite; the last good checkpoint"):
        solver.train(settings, train, None)
    assert equal(before, checkpoints.load("outputs/broken/models/latest.pt"))
    assert not RunFolder("broken2").models.exists()


def test_without_validation_the_last_checkpoint_is_the_best(whole):
    _, best, _ = whole("no masks")
    assert best["step"] == 12
    assert best["choice"] == {"by": "last step", "pixel_labels": 0}


def test_frozen_encoder_keeps_weights_and_statistics(image_dir):
    train = PatchDataset(image_dir, "train", "mask.tif")
    solver = unet("frozen")
    before = {k: v.clone() for k, v in solver.network.state_dict().items()}
    solver.train(SupervisedTraining(batch_size=4, n_epochs=1, freeze_encoder=True), train, None)
    after = solver.network.state_dict()
    changed = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
    assert changed == {"decoder", "segmentation_head", "classification_head"}


def test_pre_training_changes_the_encoder_alone_and_hands_it_on(image_dir):
    solver = unet("pre", "label")
    before = {k: v.clone() for k, v in solver.network.state_dict().items()}
    solver.train(
        SupervisedTraining(batch_size=4, n_epochs=1), PatchDataset(image_dir, "train"),
        PatchDataset(image_dir, "val", "mask.tif"),
    )  # fmt: skip
    after = solver.network.state_dict()
    changed = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
    assert changed == {"encoder", "classification_head"}
    started = unet("next")
    started.start_from("outputs/pre/models/best.pt", encoder_only=True)
    assert equal(started.network.encoder.state_dict(), solver.network.encoder.state_dict())


def test_a_stop_never_saves_weights_that_are_not_finite(image_dir):
    solver = gan("nan")
    solver.save("latest")
    with torch.no_grad():
        next(solver.G.parameters()).fill_(float("nan"))
    asked = Interruption()
    asked.signum = signal.SIGTERM
    with pytest.raises(UserError, match="weights of G is not finite"):
        solver.stop_if_asked(asked)
    kept = checkpoints.load("outputs/nan/models/latest.pt")
    assert all(torch.isfinite(value).all() for value in kept["G"].values())


def flip_a_bit(path):
    """In the middle, where the weights are: torch itself would load it."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


def test_a_damaged_checkpoint_is_noticed_and_the_one_before_is_used(image_dir, whole, capsys):
    train_gan_without_masks("hurt", image_dir)
    models = RunFolder("hurt").models
    assert checkpoints.load(models / "previous.pt")["step"] == 8
    flip_a_bit(models / "latest.pt")
    with pytest.raises(checkpoints.DamagedCheckpoint, match=r"latest.pt is damaged \(checksum"):
        checkpoints.load(models / "latest.pt")
    train_gan_without_masks("hurt", image_dir)
    assert "going back to the checkpoint before" in capsys.readouterr().err
    assert equal(whole("no masks"), results("hurt"))


def test_two_damaged_checkpoints_are_no_reason_to_begin_anew(image_dir):
    train_gan_without_masks("lost", image_dir)
    for name in ("latest", "previous"):
        flip_a_bit(RunFolder("lost").checkpoint(name))
    with pytest.raises(UserError, match="--overwrite True trains anew"):
        train_gan_without_masks("lost", image_dir)


def test_a_stop_between_two_renames_leaves_something_to_go_on_from(image_dir, whole):
    train_gan_without_masks("cut", image_dir)
    RunFolder("cut").checkpoint("latest").unlink()
    train_gan_without_masks("cut", image_dir)
    assert equal(whole("no masks"), results("cut"))


def test_curves_of_a_run_killed_before_its_first_checkpoint_are_not_shown_twice(image_dir, whole):
    with training_loop(0, 12, RunFolder("cut").logs, ALONE) as (_, log, _):
        for step in range(1, 4):
            log.add_scalar("D/loss_gp", -1.0, step)
    train_gan_without_masks("cut", image_dir)
    assert scalars("runs/cut") == whole("no masks")[2]
