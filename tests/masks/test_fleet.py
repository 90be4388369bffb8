"""Scenes masked by workers: who is blamed, what is told, and that masks are those of one process.

`tests.whole.fleet` kills workers at random: python -m tests.whole.fleet.
"""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import cloudpickle
import dask
import distributed
import numpy as np
import pytest
import rasterio
import torch
from distributed.protocol import pickle
from rasterio.errors import RasterioIOError
from rasterio.transform import Affine

import supervised_main
from fcd.cli import modes
from fcd.cli.parser import parse
from fcd.errors import FleetError, MissingBand, OutputError, SceneError
from fcd.landsat import labels, stacks
from fcd.landsat.bands import BANDS, RGB_BANDS, THERMAL
from fcd.landsat.products import expand, scene_from
from fcd.masks.fleet import Fleet, Job, _mask, fleet
from fcd.masks.outputs import OUTPUTS
from fcd.masks.postprocessing import PostProcessing
from fcd.masks.prediction import predict_scenes
from fcd.masks.predictor import Predictor
from fcd.masks.scoring import Prediction
from fcd.processes import Processes
from fcd.synthetic.layout import write_scene
from fcd.synthetic.scene import draw_scene
from tests.conftest import ROOT, write_tif
from tests.landsat.test_products import ONE, TWO, pack, write
from tests.masks.test_prediction import PREDICTOR, TAGS, first_band, summary
from tests.whole import fleet as harness
from tests.whole.crashes import orphans

HOST = f"one on {os.uname().nodename}"


@pytest.fixture(scope="module")
def cluster():
    """One worker, in this process."""
    how = {"n_workers": 1, "threads_per_worker": 1, "processes": False}
    with distributed.LocalCluster(**how, dashboard_address="127.0.0.1:0") as cluster:
        yield cluster


@pytest.fixture
def client(cluster):
    with distributed.Client(cluster) as client:
        yield client


def masked(client, predict, root, predictors=None, attempts=2, **how):
    """How many of the scenes in `root` failed, masked by workers whose predictor does `predict`."""
    told = predictors or [PREDICTOR]
    built = [replace(one, predict=predict) for one in told]
    pickled = cloudpickle.dumps(lambda _: built)
    where = Fleet(client, Job(root.name, Path.cwd(), pickled, attempts))
    paths = [str(path) for path in sorted(root.iterdir()) if path.name != "out"]
    return predict_scenes(paths, told, root / "out", where=where, **how)


def draw_kinds(root):
    """Scenes of every kind that the command tells apart, below `root`; return their paths."""

    def drawn(index, folder="", **changes):
        scene = draw_scene("Forest", 96, 7, index=index, cover=0.2, sun=(50, 140))
        scene = replace(scene, **changes)
        path = write_scene(scene, root / (folder or scene.name))
        next(path.glob("*_fixedmask.img")).unlink()
        return path, scene

    folder, scene = drawn(0)
    pack(folder, root / "again.tar", "w")  # the same scene once more
    elsewhere = replace(scene.grid, transform=scene.grid.transform @ Affine.translation(500, 0))
    drawn(0, "north", grid=elsewhere)  # another area of its name
    alone, _ = drawn(1)
    for band in THERMAL:
        next(alone.glob(f"*_{band}.TIF")).unlink()
    _, scene = drawn(2, "plain")
    filled = scene.dn.copy()
    filled[[BANDS.index(band) for band in THERMAL]] = 0
    drawn(3, dn=filled)
    drawn(4, grid=replace(scene.grid, transform=scene.grid.transform @ Affine.scale(2)))
    folder, _ = drawn(5)
    pack(folder, root / "packed.tar.gz", "w:gz")
    shutil.rmtree(folder)
    folder, _ = drawn(6)
    os.truncate(next(folder.glob("*_B3.TIF")), 4000)
    image = root / "no_metadata.tif"
    write_tif(image, np.ones((len(BANDS), 64, 64), np.uint16))
    return expand([str(root), str(image)])


def bright(scene):
    """Score: B1 / 65535; cloud above 0.3."""
    with scene.open() as reader:
        dn = reader.bands()
    score = (dn[0] / 65535).astype(np.float32)
    mask = labels.patch_from_score(score, (dn != 0).all(axis=0), 0.3)
    yield Prediction(0, dn[list(RGB_BANDS)], mask, score)


def assert_same_folders(one, other, files):
    """Whether two folders hold the same so many files, summaries apart from their seconds."""
    names = [sorted(p.name for p in root.iterdir() if p.name != ".lock") for root in (one, other)]
    assert names[0] == names[1]
    assert len(names[0]) == files + 1
    for name in names[0]:
        if name != "summary.csv":
            assert (one / name).read_bytes() == (other / name).read_bytes(), name
    rows = [summary(folder) for folder in (one, other)]
    for row in [*rows[0].values(), *rows[1].values()]:
        row["seconds"] = ""
    assert rows[0] == rows[1]


def test_the_same_files_as_without_and_what_is_done_stays(client, tmp_path, capsys):
    paths = draw_kinds(tmp_path / "s")
    few = tuple(band for band in BANDS if band not in THERMAL)
    several = [
        replace(
            PREDICTOR, bands=bands, tags=TAGS | {"FCD_WEIGHTS": name}, predict=bright, weights=name
        )
        for bands, name in ((BANDS, "all"), (few, "few"))
    ]
    several = [replace(one, pixel_size=30.0, sun_elevation=50.0) for one in several]
    work = PostProcessing(min_cloud=3, cloud_buffer=2, shadow=True, shadow_buffer=1)
    asked = {"write_score": "float32", "write_bands": "mask,score", "stac": True}
    asked |= {"postprocessing": work, "progress": False}
    pickled = cloudpickle.dumps(lambda _: several)

    def masked(out, **where):
        capsys.readouterr()
        stacks._warn_once.cache_clear()
        assert predict_scenes(paths, several, tmp_path / out, **asked, **where) == 2
        said, told = capsys.readouterr()
        return said.splitlines(), sorted(told.splitlines())

    plain = masked("plain")
    job = partial(Job, folder=Path.cwd(), predictors=pickled, attempts=2)
    found = masked("out", where=Fleet(client, job("one")))
    assert [line.replace("/out", "/plain") for line in found[0]] == plain[0]
    assert found[1] == plain[1]
    assert sum("pixels of 60 m" in line for line in plain[1]) == 1
    assert_same_folders(tmp_path / "plain", tmp_path / "out", 7 * 4)
    rows = summary(tmp_path / "plain")
    assert sorted(row["weights"] for row in rows.values()) == ["", ""] + ["all"] * 5 + ["few"] * 2
    assert max(row["shadow_fraction"] for row in rows.values()) > "0.01"
    again, _ = masked("out", where=Fleet(client, job("two")))
    assert again[-1] == f"0 scenes masked, 8 were there already, 2 failed: {tmp_path / 'out'}"


def test_an_error_that_may_pass_is_tried_again(client, tmp_path):
    """A second time it passes; a scene that always ends so has failed, with the reasons."""
    for name in (ONE, TWO):
        write(tmp_path / name, name)
    begun = []

    def often(scene):
        begun.append(scene.name)
        if scene.name == ONE or begun.count(TWO) == 1:
            raise MemoryError("no room")
        yield from first_band(scene)

    # In this process, so that `begun` is ours.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fcd.masks.fleet._predictors", lambda _: [replace(PREDICTOR, predict=often)])
        assert masked(client, None, tmp_path, attempts=3) == 1
    assert (begun.count(ONE), begun.count(TWO)) == (3, 2)
    rows = summary(tmp_path / "out")
    assert (rows[TWO]["status"], rows[ONE]["status"]) == ("done", "failed")
    assert rows[ONE]["reason"] == (
        f"scene {ONE} in {tmp_path / ONE}: no worker could mask it, --attempts 3: "
        + "; ".join([f"{HOST} said no room"] * 3)
    )


def test_an_error_that_gdal_has_caused_travels(client, tmp_path):
    """As between processes, which exceptions of GDAL do not survive."""
    write(tmp_path / ONE, ONE)

    def damaged(scene):
        try:
            with rasterio.open(tmp_path / "none.tif"):
                yield
        except RasterioIOError as error:
            raise SceneError("none.tif is damaged") from error

    def carried(*task):
        return pickle.loads(pickle.dumps(_mask(*task)[0]))

    built = [replace(PREDICTOR, predict=damaged)]
    job = Job("damaged", Path.cwd(), cloudpickle.dumps(lambda _: built), 1)
    task = (job, scene_from(str(tmp_path / ONE)), PREDICTOR.tags, tmp_path, OUTPUTS)
    outcome = client.submit(carried, *task).result()
    assert (type(outcome), str(outcome)) == (SceneError, "none.tif is damaged")


def test_a_band_that_turns_out_to_be_fill_takes_the_other_weights(client, tmp_path):
    write(tmp_path / ONE, ONE)
    few = Predictor(BANDS[:7], 0.5, TAGS | {"FCD_WEIGHTS": "few"}, first_band, "few.pt")

    def filled(scene):
        if len(scene.bands) == 10:
            raise MissingBand("B10 is fill")
        yield from first_band(scene)

    assert masked(client, filled, tmp_path, [PREDICTOR, few], attempts=1) == 0
    assert summary(tmp_path / "out")[ONE]["status"] == "done"


def test_workers_with_other_weights_end_all(client, tmp_path, monkeypatch):
    write(tmp_path / ONE, ONE)
    other = Predictor(BANDS, 0.5, TAGS | {"FCD_WEIGHTS": "other"}, first_band)
    monkeypatch.setattr("fcd.masks.fleet._predictors", lambda _: [other])
    with pytest.raises(FleetError, match="has other weights, threshold or code than this"):
        masked(client, first_band, tmp_path)


def test_a_full_disk_ends_all(client, tmp_path):
    write(tmp_path / ONE, ONE)

    def full(scene):
        raise OutputError("the disk is full")
        yield

    with pytest.raises(OutputError, match="the disk is full"):
        masked(client, full, tmp_path)


def test_clusters_that_are_not_there(monkeypatch):
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "0.3s"}),
        pytest.raises(FleetError, match=r"--cluster tcp://127.0.0.1:9 cannot be used: Timed out"),
        fleet("tcp://127.0.0.1:9", None),
    ):
        pass
    with (
        pytest.raises(FleetError, match="--cluster_options gone cannot be read"),
        fleet("slurm", None, options=Path("gone")),
    ):
        pass
    with (
        pytest.raises(FleetError, match="--cluster_options x: only --cluster slurm takes them"),
        fleet("local:2", None, options=Path("x")),
    ):
        pass
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(FleetError, match="pip install distributed dask-jobqueue"), fleet("x", None):
        pass


def test_workers_that_are_slow_to_end_change_nothing(monkeypatch):
    class Slow(nullcontext):
        def close(self):
            closed.append(self)
            raise TimeoutError

        def nthreads(self):
            return {}

    closed = []
    monkeypatch.setattr(distributed, "LocalCluster", lambda **_: Slow())
    monkeypatch.setattr(distributed, "Client", lambda cluster, **_: nullcontext(cluster))
    with fleet("local:2", None):
        pass
    with pytest.raises(OutputError, match="full"), fleet("local:2", None):
        raise OutputError("the disk is full")
    assert len(closed) == 2


@pytest.mark.parametrize("text", ["local", "local:", "local:0", "local:x", "host:8786", "Slurm"])
def test_a_cluster_of_no_kind_is_refused(text, capsys):
    with pytest.raises(SystemExit):
        parse(supervised_main.Settings, ["--mode", "predict", "--cluster", text])
    assert "argument --cluster: " in capsys.readouterr().err


def test_each_worker_of_a_machine_takes_a_device(monkeypatch):
    taken = []
    monkeypatch.setattr(modes, "use_device", lambda name: taken.append(name) or torch.device("cpu"))
    monkeypatch.setattr(modes, "predictors_of", lambda settings, run, *_: [run.processes])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    settings = parse(supervised_main.Settings, ["--mode", "predict", "--scenes", "x"])
    for name in (0, 3, "tcp://worker"):
        (processes,) = modes._on_a_worker(settings, None, name)
        assert not processes.first
    assert taken == ["cuda:0", "cuda:1", "auto"]


def test_not_under_torchrun(monkeypatch):
    settings = parse(
        supervised_main.Settings, ["--mode", "predict", "--scenes", "x", "--cluster", "local:2"]
    )
    run = modes._run(settings, torch.device("cpu"), Processes(0, 2), False)
    with pytest.raises(modes.UserError, match="leave torchrun out"):
        modes.predict(settings, run, None, None)


# --- workers that are processes -----------------------------------------------------------------


@pytest.mark.slow
def test_a_scene_that_kills_its_workers_is_put_down_and_no_other(tmp_path):
    paths = harness.draw(tmp_path / "s", 6)
    poison = Path(paths[1]).name
    with fleet("local:2", partial(harness.killing, poison), 2) as where:
        assert predict_scenes(paths, harness.BAND, tmp_path / "out", where=where) == 1
    assert predict_scenes(paths, harness.BAND, tmp_path / "plain") == 0
    rows = summary(tmp_path / "out")
    told = "; ".join([f"{HOST} was killed, or ran out of memory"] * 2)
    assert rows.pop(poison)["reason"].endswith(f"no worker could mask it, --attempts 2: {told}")
    assert len(rows) == 5
    assert {row["status"] for row in rows.values()} == {"done"}
    for name in rows:
        mask = f"{name}_mask.tif"
        assert (tmp_path / "out" / mask).read_bytes() == (tmp_path / "plain" / mask).read_bytes()


@pytest.mark.slow
def test_workers_killed_at_random(tmp_path):
    figures = tmp_path / "fleet.json"
    command = [sys.executable, "-m", "tests.whole.fleet", "--runs", "1", "--scenes", "40"]
    done = subprocess.run(
        [*command, "--json", figures], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = json.loads(figures.read_text())
    assert (row["equal"], row["killed by the scene"]) == (39, harness.ATTEMPTS)


@pytest.mark.slow
def test_the_command_with_all_its_options(tmp_path):
    """Several weights, and everything that the workers have to be told."""
    asked = ["--scenes", *draw_kinds(tmp_path / "s"), "--model_weights", "starter"]
    asked += ["--device", "cpu", "--nodata", "0", "65535", "--overlap", "8"]
    asked += ["--precision", "float32"]  # auto measures, and a fleet does not
    asked += ["--min_cloud", "3", "--cloud_buffer", "2", "--shadow", "True", "--stac", "True"]
    asked += ["--write_score", "uint8", "--write_bands", "mask,score", "--sun_elevation", "50"]
    command = [sys.executable, ROOT / "supervised_main.py", "--mode", "predict", *asked]
    said = {}
    for out, more in (("plain", []), ("fleet", ["--cluster", "local:2"])):
        done = subprocess.run(
            [*command, "--output_dir", tmp_path / out, *more], cwd=tmp_path,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 1, done.stdout + done.stderr
        said[out] = done.stdout.replace(str(tmp_path / out), "out").splitlines()
    assert said["fleet"] == [
        *said["plain"][:-2],
        "local:2: 2 workers are there",
        *said["plain"][-2:],
    ]
    assert said["plain"][-1] == "7 scenes masked, 1 were there already, 2 failed: out"
    assert_same_folders(tmp_path / "plain", tmp_path / "fleet", 7 * 4)


@pytest.fixture
def ready(tmp_path, monkeypatch):
    """Scenes, weights of a small U-Net, and the command that masks them."""
    monkeypatch.chdir(tmp_path)
    harness.draw(tmp_path / "s", 8)
    weights = harness.make_weights()
    command = [sys.executable, ROOT / "supervised_main.py", "--mode", "predict", "--scenes", "s/*"]
    return [*command, "--model_weights", weights, "--output_dir", "masks", "--device", "cpu"]


@pytest.mark.slow
def test_ctrl_c_ends_cleanly_and_the_same_command_goes_on(ready):
    def start():
        return subprocess.Popen(
            [*ready, "--cluster", "local:2"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip

    process, masks = start(), Path("masks")
    while not list(masks.glob("*_mask.tif")):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, workers and all
    said, _ = process.communicate()
    assert process.returncode == 130, said
    assert said.rstrip().endswith("stopped; run the same command again to go on")
    assert "Traceback" not in said
    assert not orphans(process.pid)  # the dead stay in the list until init has collected them
    assert not list(masks.glob(".*.partial-*"))
    process = start()
    said, _ = process.communicate()
    assert process.returncode == 0, said
    with (masks / "summary.csv").open(newline="") as stream:
        assert [row["status"] for row in csv.DictReader(stream)] == ["done"] * 8


@pytest.mark.slow
def test_slurm_with_stand_ins(ready, tmp_path):
    """sbatch starts the script here; the workers come from it."""
    for name, does in (
        ("sbatch", f'cp "$1" {tmp_path}/job.sh; bash "$1" >{tmp_path}/job.log 2>&1 &\n'
                   'echo "Submitted batch job $!"'),
        ("scancel", 'pkill -P "$1"; kill "$1"'),
        ("squeue", "true"),
    ):  # fmt: skip
        (tmp_path / "bin" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{does}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    options = ["jobs: 1", "cores: 2", "processes: 2", "memory: 4GB"]
    options += ["scheduler_options: {host: 127.0.0.1}"]
    (tmp_path / "slurm.yaml").write_text("\n".join(options) + "\n")
    done = subprocess.run(
        [*ready, "--cluster", "slurm", "--cluster_options", "slurm.yaml"],
        env=os.environ | {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"},
        capture_output=True, text=True, check=False, timeout=250,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "8 scenes masked" in done.stdout
    script = (tmp_path / "job.sh").read_text()
    assert "#SBATCH --cpus-per-task=2" in script
    assert f"export OMP_NUM_THREADS=1 PYTHONPATH={ROOT}" in script
