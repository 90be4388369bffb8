"""`--profile`: a trace with the steps asked for, a table, and the same run as without."""

import json

import pytest
import torch
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEventAvg

from data_loader import PatchDataset
from fcd.processes import ALONE
from fcd.training import checkpoints, profiling
from solver import GANTraining
from tests.whole import distributed_worker as worker

TRAINING = GANTraining(batch_size=4, num_iters=8, num_iters_decay=0, n_critic=2)
TRACE = "runs/profiled/profile.pt.trace.json"


def test_the_steps_are_traced_and_the_run_is_the_same(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    worker.make_data(tmp_path)
    for name, steps in (("profiled", 3), ("plain", 0)):
        worker.gan(name, ALONE, profile=steps).train(TRAINING, PatchDataset("p", "train"), None)
    (trace,) = tmp_path.rglob("*.json")
    assert trace == tmp_path / TRACE
    events = json.loads(trace.read_text())["traceEvents"]
    steps = {e["name"] for e in events if e["name"].startswith("ProfilerStep#")}
    assert steps == {f"ProfilerStep#{k}" for k in (3, 4, 5)}
    convolutions = [e for e in events if e["name"] == "aten::convolution"]
    assert len(convolutions) > 3 * 10
    said = capsys.readouterr().out
    assert f"trace: {TRACE}" in said
    lines = said.split("operation\n")[1].split("\ntrace:")[0].splitlines()
    assert len(lines) == profiling.ROWS
    times = [float(line.split()[0]) for line in lines]
    assert times == sorted(times, reverse=True)
    assert sum(float(line.split()[1].rstrip("%")) for line in lines) <= 100.5

    one, other = (checkpoints.load(f"outputs/{n}/models/latest.pt") for n in ("profiled", "plain"))
    for name, weight in one["G"].items():
        assert torch.equal(weight, other["G"][name])


def test_calls_are_counted_by_the_step(tmp_path, capsys):
    values = torch.ones(8, 8)
    for _ in profiling.profiled(range(6), 2, tmp_path):
        for _ in range(5):
            values.tril()
    (line,) = [text for text in capsys.readouterr().out.splitlines() if "aten::tril" in text]
    assert line.split()[2] == "5.0"


@pytest.mark.parametrize("given", [0, 4, 5])
def test_a_run_that_ends_early_passes_all_batches_and_leaves_no_trace(tmp_path, given):
    assert list(profiling.profiled(iter(range(given)), 3, tmp_path)) == list(range(given))
    assert list(tmp_path.iterdir()) == []


def test_on_a_device_the_time_of_a_kernel_counts_once():
    def event(key, device, microseconds, annotation=False):
        made = FunctionEventAvg()
        made.key, made.count, made.device_type = key, 6, device
        made.self_device_time_total, made.is_user_annotation = microseconds, annotation
        return made

    events = [
        event("ProfilerStep#3", DeviceType.CUDA, 9000.0, True),
        event("aten::convolution", DeviceType.CPU, 6000.0),  # that of the kernel it starts
        event("sgemm", DeviceType.CUDA, 6000.0),
        event("Optimizer.step#Adam.step", DeviceType.CUDA, 2000.0, True),
        event("fused_adam", DeviceType.CUDA, 2000.0),
    ]
    _, *rows = profiling.table(events, steps=2).splitlines()
    assert [row.split() for row in rows] == [
        ["3.00", "75.0%", "3.0", "sgemm"],
        ["1.00", "25.0%", "3.0", "fused_adam"],
    ]
