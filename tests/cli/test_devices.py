"""The commands on each kind of device; on CUDA where there is one."""

import signal

import pytest
import torch

import main
import supervised_main
from benchmarks import scene
from fcd.training import checkpoints
from solver import Solver
from tests.whole import distributed_worker as worker

GAN = ["--image_size", "32", "--g_conv_dim", "4", "--g_repeat_num", "1", "--d_conv_dim", "4",
       "--d_repeat_num", "3", "--num_iters_decay", "0", "--n_critic", "2", "--model_save_step", "2",
       "--sample_step", "2", "--num_iters", "4"]  # fmt: skip
UNET = ["--encoder", "slim18", "--classifier_head", "True", "--n_epochs", "2"]


@pytest.fixture(
    params=[
        "cpu",
        pytest.param(
            "cuda",
            marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA"),
        ),
    ]
)
def device(request):
    return request.param


@pytest.mark.parametrize(
    ("module", "flags", "steps", "amp"),
    [(main, GAN, 4, True), (supervised_main, UNET, 6, False)],
    ids=["gan-amp", "unet"],
)
def test_a_run_goes_on_on_another_device(
    tmp_path, monkeypatch, call, device, module, flags, steps, amp
):
    monkeypatch.chdir(tmp_path)
    worker.make_data(tmp_path)
    train = [
        "--mode",
        "train",
        *flags,
        "--image_dir",
        "p",
        "--batch_size",
        "4",
        "--num_workers",
        "1",
        "--amp",
        amp,
        "--log_step",
        "1",
        "--experiment_name",
        "run",
    ]
    log_parts = Solver.log_parts

    def stopped(*arguments):
        log_parts(*arguments)
        signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Solver, "log_parts", stopped)
        for step, where in ((1, device), (2, "cpu")):
            code, error, _ = call(module, *train, "--device", where)
            assert code == 128 + signal.SIGTERM, error
            assert checkpoints.load("outputs/run/models/latest.pt")["step"] == step
    code, error, _ = call(module, *train, "--device", device)
    assert code == 0, error
    assert checkpoints.load("outputs/run/models/latest.pt")["step"] == steps
    code, error, _ = call(
        module, "--mode", "predict", "--scenes", "scenes/Water/*", "--output_dir", "masks",
        "--experiment_name", "run", "--device", device, "--threshold", 0.5,
    )  # fmt: skip
    assert code == 0, error
    assert len(list(tmp_path.glob("masks/*_mask.tif"))) == 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA")
@pytest.mark.parametrize("network", ["unet", "gan"])
def test_masks_of_both_ways_are_the_same(network, capsys):
    """On the CPU they are in tests/project/test_benchmarks.py."""
    arguments = ["--size", "tiny", "--mpixel", "0.01", "--overlap", "8", "--rounds", "1"]
    scene.main([*arguments, "--network", network, "--device", "cuda"])
    (differ,) = (
        float(line.split(": ")[1].split("%")[0])
        for line in capsys.readouterr().out.splitlines()
        if "of pixels differ" in line
    )
    assert differ < 0.1
