"""A run that was stopped and continued equals one that was not, bit for bit on the CPU."""

import signal

import numpy as np
import pytest
import tifffile
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import solver as solver_module
from data_loader import PatchDataset
from fcd.errors import UserError
from fcd.interruption import Interruption, Stopped
from fcd.patches.normalisation import Normalization
from fcd.training import checkpoints
from fcd.training.losses import LossWeights
from fcd.training.run import RunFolder
from solver import (
    FCDSolver,
    GANSize,
    GANTraining,
    Run,
    SupervisedSolver,
    SupervisedTraining,
    Task,
)

pytestmark = pytest.mark.usefixtures("in_tmp")
CPU = torch.device("cpu")
GAN = GANTraining(
    batch_size=4, num_iters=12, num_iters_decay=6, n_critic=2, sample_step=5, model_save_step=4
)


@pytest.fixture
def image_dir(tmp_path):
    rng = np.random.default_rng(0)
    for split, count in (("train", 10), ("val", 4)):
        for number in range(count):
            cloudy = number % 2
            folder = tmp_path / "p" / split / ["clear", "cloudy"][cloudy] / f"S_{number:05d}_00000"
            folder.mkdir(parents=True)
            image = rng.integers(8000, 12000, (32, 32, 10)).astype(np.uint16)
            mask = np.ones((32, 32), np.uint8)
            if cloudy:
                image[:16] += 20_000
                mask[:16] = 2
            tifffile.imwrite(folder / "image.tif", image, photometric="minisblack")
            tifffile.imwrite(folder / "mask.tif", mask, photometric="minisblack")
    return tmp_path / "p"


def gan(name, **run):
    size = GANSize(g_conv_dim=4, g_repeat_num=1, d_conv_dim=4, d_repeat_num=3)
    return FCDSolver(
        Run(RunFolder(name), CPU, seed=3, log_step=2, **run), size, 32, Normalization.paper(10)
    )


def unet(name, target="mask", **run):
    task = Task("unet", target, "resnet18", classifier_head=True)
    run = Run(RunFolder(name), CPU, seed=3, log_step=1, **run)
    return SupervisedSolver(run, task, 32, Normalization.paper(10))


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


class StopAt:
    """Sends a signal to the process when a solver has done `step` steps."""

    def __init__(self, step, signum):
        self.step, self.signum, self.count = step, signum, 0

    def __call__(self, original):
        def counted(solver, step):
            self.count += 1
            if self.count == self.step:
                signal.raise_signal(self.signum)
            return original(solver, step)

        return counted


@pytest.mark.parametrize("stop", [1, 3, 4, 7, 11])
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_gan_resumes_exactly(image_dir, monkeypatch, stop, signum):
    train, val = PatchDataset(image_dir, "train"), PatchDataset(image_dir, "val", "mask.tif")
    gan("whole").train(GAN, train, val)

    with monkeypatch.context() as patch:
        patch.setattr(
            solver_module.Solver, "randomness",
            StopAt(stop, signum)(solver_module.Solver.randomness),
        )  # fmt: skip
        with pytest.raises(Stopped, match=f"stopped after step {stop}") as stopped:
            gan("cut").train(GAN, train, val)
    assert stopped.value.exit_code == 128 + signum
    gan("cut").train(GAN, train, val)

    for name in ("latest.pt", "best.pt"):
        whole, cut = (checkpoints.load(f"outputs/{run}/models/{name}") for run in ("whole", "cut"))
        assert equal(whole, cut)
    assert whole["step"] > 0
    assert scalars("whole") == scalars("cut")


def scalars(run):
    events = EventAccumulator(f"runs/{run}").Reload()
    return {
        tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]
    }


@pytest.mark.parametrize("stop", [1, 3, 4, 5])
def test_unet_resumes_exactly(image_dir, monkeypatch, stop):
    train, val = (PatchDataset(image_dir, split, "mask.tif") for split in ("train", "val"))
    settings = SupervisedTraining(batch_size=4, n_epochs=2, plateau_patience=0)
    unet("whole").train(settings, train, val)
    with monkeypatch.context() as patch:
        patch.setattr(
            solver_module.Solver, "randomness",
            StopAt(stop, signal.SIGTERM)(solver_module.Solver.randomness),
        )  # fmt: skip
        with pytest.raises(Stopped):
            unet("cut").train(settings, train, val)
    unet("cut").train(settings, train, val)
    for name in ("latest.pt", "best.pt"):
        assert equal(*(checkpoints.load(f"outputs/{r}/models/{name}") for r in ("whole", "cut")))


def test_another_seed_gives_another_run(image_dir):
    train = PatchDataset(image_dir, "train")
    first, second = gan("a"), gan("b")
    first.train(GAN, train, None)
    second.run = Run(RunFolder("b"), CPU, seed=4, log_step=2)
    second.train(GAN, train, None)
    assert not equal(first.G.state_dict(), second.G.state_dict())


def test_every_loss_part_and_a_picture_are_logged(image_dir):
    train, val = PatchDataset(image_dir, "train"), PatchDataset(image_dir, "val", "mask.tif")
    gan("logged").train(GAN, train, val)
    parts = {f"G/loss_{part}{half}" for part in ("fake", "cls", "rec") for half in ("", "_id")}
    parts |= {"G/loss_id"} | {f"D/loss_{part}" for part in ("real", "fake", "cls", "gp")}
    logged = scalars("logged")
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


def test_without_validation_the_last_checkpoint_is_the_best(image_dir):
    gan("noval").train(GAN, PatchDataset(image_dir, "train"), None)
    best = checkpoints.load("outputs/noval/models/best.pt")
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


def test_a_damaged_checkpoint_is_noticed_and_the_one_before_is_used(image_dir, capsys):
    train = PatchDataset(image_dir, "train")
    gan("whole").train(GAN, train, None)
    gan("hurt").train(GAN, train, None)
    models = RunFolder("hurt").models
    assert checkpoints.load(models / "previous.pt")["step"] == 8
    flip_a_bit(models / "latest.pt")
    with pytest.raises(checkpoints.DamagedCheckpoint, match=r"latest.pt is damaged \(checksum"):
        checkpoints.load(models / "latest.pt")
    gan("hurt").train(GAN, train, None)
    assert "going back to the checkpoint before" in capsys.readouterr().err
    whole, hurt = (checkpoints.load(f"outputs/{run}/models/latest.pt") for run in ("whole", "hurt"))
    assert equal(whole, hurt)
    assert scalars("whole") == scalars("hurt")


def test_two_damaged_checkpoints_are_no_reason_to_begin_anew(image_dir):
    train = PatchDataset(image_dir, "train")
    gan("lost").train(GAN, train, None)
    for name in ("latest", "previous"):
        flip_a_bit(RunFolder("lost").checkpoint(name))
    with pytest.raises(UserError, match="--overwrite True trains anew"):
        gan("lost").train(GAN, train, None)


def test_a_stop_between_two_renames_leaves_something_to_go_on_from(image_dir):
    train = PatchDataset(image_dir, "train")
    gan("whole").train(GAN, train, None)
    gan("cut").train(GAN, train, None)
    RunFolder("cut").checkpoint("latest").unlink()
    gan("cut").train(GAN, train, None)
    whole, cut = (checkpoints.load(f"outputs/{run}/models/latest.pt") for run in ("whole", "cut"))
    assert equal(whole, cut)


def test_curves_of_a_run_killed_before_its_first_checkpoint_are_not_shown_twice(image_dir):
    train = PatchDataset(image_dir, "train")
    gan("whole").train(GAN, train, None)
    with gan("cut").loop(12, "step") as (_, log, _):
        for step in range(1, 4):
            log.add_scalar("D/loss_gp", -1.0, step)
    gan("cut").train(GAN, train, None)
    assert scalars("cut") == scalars("whole")
