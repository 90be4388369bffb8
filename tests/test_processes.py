"""Two processes compute what one computes, write what one writes, and fail as one does."""

import csv
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
import torch.distributed as dist
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fcd import processes
from fcd.cli.entry import use_device
from fcd.errors import UserError
from fcd.processes import Part, Processes
from fcd.training import checkpoints
from fcd.training.batches import StepBatches
from tests import tiny
from tests.conftest import ROOT
from tests.whole import distributed_worker as worker

TRAIN = ["--mode", "train", "--image_dir", "p", *tiny.GAN, "--device", "cpu",
         "--batch_size", "4", "--n_critic", "2", "--num_iters_decay", "0", "--log_step", "5",
         "--sample_step", "1000", "--num_workers", "1"]  # fmt: skip


# --- the split of a batch ------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("each", [1, 2, 5])
def test_the_parts_of_a_batch_are_the_batch(count, each):
    batch_size = count * each
    for size in range(1, batch_size + 2):
        parts = [Processes(rank, count).part(size, batch_size) for rank in range(count)]
        taken = [list(range(size))[part.rows] for part in parts]
        working = [rows for rows, part in zip(taken, parts, strict=True) if part.weight]
        assert sorted(itertools.chain(*working)) == list(range(size))
        assert sum(part.weight for part in parts) == pytest.approx(1)
        for rows, part in zip(taken, parts, strict=True):
            assert len(rows) >= min(2, each, size)
            assert part.weight in (0, len(rows) / size)
    even = [Processes(rank, count).part(batch_size, batch_size).weight for rank in range(count)]
    assert even == [1 / count] * count


def test_an_uneven_batch_is_refused():
    assert Processes(0, 4).per_process(12) == 3
    with pytest.raises(UserError, match=r"--batch_size 10 .* give a multiple of 4"):
        Processes(0, 4).per_process(10)


def test_processes_see_the_batches_and_numbers_of_one():
    labels = torch.tensor([0.0, 1.0] * 6 + [1.0])
    one = list(StepBatches(labels, 8, 5, 0, 4, balance=False))
    two = [list(StepBatches(labels, 8, 5, 0, 4, False, Processes(r, 2))) for r in range(2)]
    assert [len(batch) for batch in one] == [8, 5, 8, 5]
    for whole, first, second in zip(one, *two, strict=True):
        assert (first, second) == (whole[::2], whole[1::2])
    numbers = [Part(5, rows).uniform(torch.Generator().manual_seed(1), 2)
               for rows in (slice(None), slice(0, None, 2), slice(1, None, 2))]  # fmt: skip
    assert torch.equal(numbers[0][::2], numbers[1])
    assert torch.equal(numbers[0][1::2], numbers[2])


def test_why_processes_cannot_communicate_is_said():
    said = r"cannot communicate, mostly because one has ended \(NCCL error; Last error: no socket\)"
    with pytest.raises(UserError, match=said), processes._others():
        raise RuntimeError("NCCL error\nncclSystemError: it failed\nLast error: no socket\n")
    # PyTorch tells of a killed reader wherever the process is.
    with pytest.raises(RuntimeError, match="DataLoader worker"), processes._others():
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")


def test_a_process_whose_store_is_gone_is_not_the_first_to_fail(monkeypatch):
    class Gone:
        def add(self, *_):
            raise dist.DistNetworkError("Broken pipe")

        wait = add

    monkeypatch.setattr(processes, "_store", Gone)
    with processes.failing() as first:
        assert not first


# --- flags ---------------------------------------------------------------------------------


def test_each_process_takes_its_own_device(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert use_device("cpu") == torch.device("cpu")
    with pytest.raises(UserError, match="--device cuda:1 cannot be shared by several processes"):
        use_device("cuda:1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match=r"more processes .* \(1\); give --nproc_per_node 1"):
        use_device("auto")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    current, precision = [], []
    monkeypatch.setattr(torch, "zeros", lambda *_, device: None)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setattr(torch, "set_float32_matmul_precision", precision.append)
    assert use_device("auto") == use_device("cuda") == torch.device("cuda:1")
    assert current == [torch.device("cuda:1")] * 2
    assert precision == ["high"] * 2


def test_one_process_under_torchrun_is_one_process(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    if not torch.cuda.is_available():
        assert use_device("auto").type in ("cpu", "mps")
    assert use_device("cpu") == torch.device("cpu")


# --- two processes against one -------------------------------------------------------------


def torchrun(*arguments):
    """Two processes on the CPU; stdout and stderr together."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    return subprocess.Popen(
        [*command, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # Its own group, as of a terminal: torchrun is told to stop, not pytest.
        start_new_session=True,
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """What one process (a) and two processes (b) have written."""
    root = tmp_path_factory.mktemp("processes")
    worker.make_data(root / "a")
    shutil.copytree(root / "a", root / "b")
    two = torchrun(ROOT / "tests/whole/distributed_worker.py", root / "b")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root / "a")
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        worker.everything(Processes())
        torch.set_num_threads(threads)
    output, _ = two.communicate()
    assert two.returncode == 0, output
    return root / "a", root / "b"


def seen(folder, rank):
    return json.loads((folder / f"seen{rank}.json").read_text())


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.parametrize("batch_size", worker.BATCH_SIZES)
@pytest.mark.parametrize("network", ["gan", "unet"])
def test_two_processes_learn_what_one_learns(folders, monkeypatch, network, batch_size):
    one, two = (
        checkpoints.load(folder / f"outputs/{network}{batch_size}/models/latest.pt")
        for folder in folders
    )
    monkeypatch.chdir(folders[0])
    begun = getattr(worker, network)("begun", Processes()).state()
    assert one["step"] == two["step"] == {"gan": 4, "unet": 2}[network]
    for name in ("G", "D") if network == "gan" else ("network",):
        for key, weight in one[name].items():
            if not weight.is_floating_point():
                continue
            size = weight.abs().max().item()
            difference = (weight - two[name][key]).abs().max().item()
            assert difference <= 1e-12 * size, key
        # What is compared must have moved, by far more than that.
        moved = [
            ((weight - begun[name][key]).abs().max() / weight.abs().max()).item()
            for key, weight in one[name].items()
            if weight.is_floating_point() and weight.any()
        ]
        assert np.median(moved) > 1e-4, name


@pytest.mark.slow
@pytest.mark.ci
def test_logged_losses_are_those_of_the_whole_batch(folders):
    for run in (f"{network}{size}" for network in ("gan", "unet") for size in worker.BATCH_SIZES):
        one, two = (EventAccumulator(str(folder / "runs" / run)).Reload() for folder in folders)
        assert len(list((folders[1] / "runs" / run).iterdir())) == 1
        tags = one.Tags()["scalars"]
        assert tags == two.Tags()["scalars"]
        for tag in tags:
            if tag.startswith("val/"):
                continue
            pairs = [[(e.step, e.value) for e in events.Scalars(tag)] for events in (one, two)]
            assert np.array(pairs[1]) == pytest.approx(np.array(pairs[0]), rel=2e-5, abs=1e-6), tag


@pytest.mark.slow
@pytest.mark.ci
def test_validation_masks_and_metrics_are_equal(folders):
    cells = [json.loads((folder / "cells.json").read_text()) for folder in folders]
    assert cells[0] == cells[1]
    assert np.sum(cells[0]["image"][0]) == 5
    scored = [folder / "outputs/scored/results" for folder in folders]
    thresholds = [json.loads((folder / "threshold.json").read_text()) for folder in scored]
    for record in thresholds:
        record.pop("image_dir")
    assert thresholds[0] == thresholds[1]
    assert thresholds[0]["pixel_labels"] > 0
    metrics = [json.loads((folder / "metrics.json").read_text()) for folder in scored]
    assert metrics[0] == metrics[1]
    assert len(metrics[0]["scenes"]) == 3
    # Corners are fill; all else counts.
    assert metrics[0]["overall"]["pixels"] == 3 * (50 * 70 - 10 * 10)
    names = [sorted(p.relative_to(folder) for p in folder.rglob("*.*")) for folder in scored]
    assert names[0] == names[1]
    tifs = [name for name in names[0] if name.suffix == ".tif"]
    assert len(tifs) == 6
    for name in tifs:
        with rasterio.open(scored[0] / name) as a, rasterio.open(scored[1] / name) as b:
            assert np.array_equal(a.read(1), b.read(1), equal_nan=True)
            assert a.tags() == b.tags()


@pytest.mark.slow
@pytest.mark.ci
def test_a_file_is_written_by_one_process(folders):
    first, second = (seen(folders[1], rank)["written"] for rank in range(2))
    assert not set(first) & set(second)
    assert len(set(second)) == len(second)
    assert {Path(path).suffix for path in second} == {".tif", ".png"}
    assert {Path(path).name.split("_")[1] for path in second if path.endswith(".tif")} == {
        "LC80101201421 0LGN00".replace(" ", "")
    }


@pytest.mark.slow
@pytest.mark.ci
def test_the_scenes_of_all_processes_are_counted(folders):
    """One of them cannot be read, and two are the same, in different processes."""
    for rank in range(2):
        failed, said = seen(folders[1], rank)["predicted"]
        *once, last = said.splitlines()
        assert (failed, last) == (1, "3 scenes masked, 1 were there already, 1 failed: masks")
        assert all("is the scene of" in line for line in once)
    rows = list(csv.DictReader((folders[1] / "masks/summary.csv").read_text().splitlines()))
    assert sum(row["status"] == "done" for row in rows) == 3
    assert sum(row["status"] == "failed" for row in rows) == 1
    assert len(list((folders[1] / "masks").glob("*_mask.tif"))) == 3


@pytest.mark.slow
@pytest.mark.ci
def test_dropout_differs_and_all_else_agrees(folders):
    first, second = (seen(folders[1], rank) for rank in range(2))
    assert first["generator"] == second["generator"]
    assert first["dropout"] != second["dropout"]
    assert first["averaged"] == second["averaged"] == [0.5]


@pytest.mark.slow
@pytest.mark.ci
def test_processes_that_grow_apart_are_an_error_in_all(folders):
    for rank in range(2):
        said = seen(folders[1], rank)
        assert re.match(r"process 1 has other weights than process 0 \(step 0, ", said["apart"])
        assert said["patches"].startswith("process 1 has other training patches than process 0")


# --- the commands --------------------------------------------------------------------------


def until(process, happened):
    while not happened():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)


@pytest.mark.slow
def test_stopped_and_resumed_with_another_number_of_processes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    worker.make_data(tmp_path)
    flags = [*TRAIN, "--num_iters", "300", "--model_save_step", "1000"]
    latest, config = Path("outputs/FCD/models/latest.pt"), Path("outputs/FCD/config.json")

    def stop(process, how):
        events = Path("runs/FCD")
        until(process, lambda: events.exists() and len(list(events.iterdir())) > len(earlier))
        time.sleep(3)
        process.send_signal(how)
        return process.communicate()[0]

    earlier = []
    output = stop(torchrun(ROOT / "main.py", *flags), signal.SIGTERM)
    assert output.count("stopped after step") == 1, output
    first = checkpoints.load(latest)["step"]
    assert 0 < first < 300

    earlier = list(Path("runs/FCD").iterdir())
    alone = subprocess.Popen(
        [sys.executable, ROOT / "main.py", *flags],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert "stopped after step" in stop(alone, signal.SIGTERM)
    assert alone.returncode == 128 + signal.SIGTERM
    second = checkpoints.load(latest)["step"]
    assert first < second < 300

    last = torchrun(ROOT / "main.py", *flags)
    output, _ = last.communicate()
    assert last.returncode == 0, output
    assert output.count("trained: ") == 1
    assert checkpoints.load(latest)["step"] == 300
    read = json.loads(config.read_text())
    assert [read["processes"], *(now["processes"] for now in read["continued"])] == [2, 1, 2]
    events = EventAccumulator("runs/FCD").Reload()
    assert [e.step for e in events.Scalars("D/loss_gp")] == list(range(5, 301, 5))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--batch_size", "5"], "--batch_size 5 is the batch of all processes together"),
        (["--batch_size", "x"], "'x' is no whole number"),
        (["--num_iters", "50"], "S_00003_00000/image.tif is damaged"),
    ],
    ids=["all", "parser", "one"],
)
def test_a_failure_stops_all_and_is_said_once(tmp_path, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    worker.make_data(tmp_path)
    (damaged,) = tmp_path.glob("p/train/*/S_00003_00000/image.tif")
    damaged.write_bytes(damaged.read_bytes()[:1000])  # met by one process, some steps on
    process = torchrun(ROOT / "main.py", *TRAIN, *flags)
    output, _ = process.communicate(timeout=300)
    assert process.returncode != 0
    # It may stand behind the other process's bar.
    (said,) = re.findall(r"\berror: .*", output)
    assert message in said
    assert "exitcode  : 2" in output  # torchrun's own summary
    assert 'main.py", line' not in output  # no traceback of ours
