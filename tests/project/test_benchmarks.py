"""The benchmarks at a tiny size: both ways compute the same, and the rows are what is promised."""

import gc
import json
import re
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile
import torch
from PIL import Image
from sklearn.metrics import f1_score

from benchmarks import (
    gpu,
    levers,
    loader,
    measure,
    peer,
    peers,
    plain,
    prepare,
    scene,
    seam,
    tiles,
    train_step,
)
from benchmarks.scenes import unpack, write_scene
from data_loader import PatchDataset, collate
from fcd.landsat.scenes import find_scenes
from fcd.masks.scoring import Tiles
from fcd.patches import cutting
from fcd.patches.cutting import Cutting
from fcd.patches.normalisation import Normalization
from fcd.report import plots
from fcd.training.run import Run, RunFolder
from tests.conftest import ROOT

CPU = torch.device("cpu")
TINY = train_step.SIZES["tiny"]
RUN = Run(RunFolder("benchmark"), CPU)
COMPILED = replace(RUN, compile=True)


@pytest.fixture(scope="module", autouse=True)
def little_garbage_to_collect():
    """A benchmark collects it before each run, which takes half a second of all that is here."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.parametrize(
    ("main", "arguments", "names"),
    [
        pytest.param(
            train_step.main, ["--size", "tiny", "--device", "cpu", "--amp", "True"], 4,
            marks=pytest.mark.slow,
        ),
        (loader.main, ["--patch_size", "16", "--patches", "6", "--batch_size", "4"],
         5 + bool(find_spec("zarr"))),
        (prepare.main, ["--sides", "96", "--patch_size", "32", "--num_workers", "2"], 4),
        (
            scene.main,
            ["--size", "tiny", "--mpixel", "0.01", "0.02", "--plain_up_to", "0.01", "--overlap",
             "8", "--device", "cpu"],
            2,
        ),
        pytest.param(
            levers.main,
            ["--size", "tiny", "--device", "cpu", "--only", "batched", "fused", "layers",
             "channels_last", "bfloat16", "in place"],
            20,
            marks=pytest.mark.slow,
        ),
    ],
    ids=["train_step", "loader", "prepare", "scene", "levers"],
)  # fmt: skip
def test_rows(tmp_path, monkeypatch, main, arguments, names, capsys):
    monkeypatch.setattr(measure, "matrix_product", partial(measure.matrix_product, size=256))
    made = main([*arguments, "--rounds", "1", "--json", str(tmp_path / "rows.json")])
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert len({row["name"] for row in rows}) == len(rows) == names
    for row, comparison in zip(rows, made, strict=True):
        assert list(row) == ["name", "unit", "plain", "ours", "ratio", "peak_mib"]
        assert row["unit"].endswith("/s")
        assert row["ours"] > 0
        assert 50 < row["peak_mib"] < 8192
        if comparison.plain:
            assert row["ratio"] == pytest.approx(row["ours"] / row["plain"])
        else:
            assert (row["plain"], row["ratio"]) == (None, None)
        assert row["name"] in capsys.readouterr().out or comparison is not made[0]
    assert (rows[-1]["plain"] is None) == (main is scene.main)


def test_the_share_of_the_network(tmp_path, monkeypatch, capsys):
    spent, network = [], scene.build("unet", TINY, RUN).scorer()
    slow = replace(network, score=lambda x: time.sleep(0.05) or x[:, 0])
    scene.clocked(slow, spent).score(torch.ones(1, 3, 32, 32))
    assert 0.05 <= sum(spent) < 0.5
    monkeypatch.setattr(scene, "clocked", lambda scorer, spent: spent.append(3.0) or scorer)
    ways = measure.Comparison("u", "x/s", 1, None, measure.Way(4.0, 512.0))
    monkeypatch.setattr(measure, "compare", lambda *_: ways)
    asked = ["--size", "tiny", "--mpixel", "0.01", "--plain_up_to", "0", "--device", "cpu"]
    monkeypatch.setattr(measure, "matrix_product", lambda *_: 1e12)
    scene.main(asked)
    assert "U-Net, 0.01 Mpixel, float32: the network takes 75% of the time" in (
        capsys.readouterr().out
    )


def test_the_median_of_alternating_runs(monkeypatch):
    order, clock = [], iter([0, 1, 10, 30, 100, 102, 200, 205, 300, 303, 400, 440])
    monkeypatch.setattr(measure.time, "perf_counter", lambda: next(clock))
    made = measure.compare(
        "x", "steps/s", 10, lambda: order.append("p"), lambda: order.append("o"), rounds=3,
        before=lambda: order.append("-"),
    )  # fmt: skip
    assert "".join(order) == "-p-o" + "-o-p" + "-p-o" + "-o-p"
    # Ours took 1, 5 and 3 seconds, plain 20, 2 and 40.
    assert (made.ours.seconds, made.plain.seconds) == (3, 20)
    assert made.row()["ratio"] == pytest.approx(20 / 3)
    assert made.row()["ours"] == pytest.approx(10 / 3)


def test_peak_memory_is_that_of_one_way():
    def large():
        return np.ones(100 << 17).sum()  # 100 MiB

    made = measure.compare("x", "1/s", 1, large, lambda: None, rounds=2)
    assert 90 < made.plain.peak_mib - made.ours.peak_mib < 130


def test_flops_and_the_matrix_product():
    a = torch.ones(3, 5)
    assert measure.flops(lambda: a @ a.T) == 2 * 3 * 5 * 3
    assert 1e6 < measure.matrix_product(torch.float32, CPU, 64) < 1e15


@pytest.mark.parametrize("ways", [train_step.gan_ways, train_step.unet_ways])
# Compiling looks at gradients of what has none, and hides the warning unless it is an error.
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
@pytest.mark.parametrize("run", [RUN, pytest.param(COMPILED, marks=pytest.mark.slow)])
def test_training_steps_have_the_same_losses(ways, run):
    plainly, ours = ways(TINY, 4, run, amp=False)
    for _ in range(2):
        for expected, parts in zip(plainly(), ours(), strict=True):
            assert set(expected) == set(parts)
            for name, value in expected.items():
                assert parts[name].item() == pytest.approx(value.item(), abs=1e-4), name


@pytest.mark.slow
def test_what_is_compiled():
    gan, unet = (scene.build(network, TINY, COMPILED) for network in ("gan", "unet"))
    assert gan.G._compiled_call_impl
    assert unet.network._compiled_call_impl
    assert gan.D._compiled_call_impl is None  # its penalty is a gradient of a gradient


def test_batches_are_the_same_numbers(tmp_path):
    loader.write_patches(tmp_path, 5, 16)
    dataset = PatchDataset(tmp_path, "train")
    expected = plain.read_batch([folder for folder, _ in dataset.patches])
    dn = collate([dataset[index] for index in range(5)])["image"]
    x = Normalization.paper(10).normalize(dn)
    assert expected.shape == x.shape == (5, 10, 16, 16)
    assert (x - expected).abs().max() < 1e-6


def test_patches_are_the_same_files(tmp_path):
    write_scene(tmp_path / "scenes", 100, 150)
    (drawn,) = find_scenes(tmp_path / "scenes")
    number = plain.cut(drawn, tmp_path / "plain", Cutting(32, 32))
    assert number == 3 * 4
    cutting.cut_scene(drawn, tmp_path / "ours", "train", Cutting(32, 32))
    files = sorted((tmp_path / "plain").rglob("*.tif"))
    assert len(files) == 2 * number
    for path in files:
        other = tmp_path / "ours" / "train" / path.relative_to(tmp_path / "plain")
        assert (tifffile.imread(path) == tifffile.imread(other)).all()


def test_an_unpacked_scene_holds_the_same_pixels_a_strip_a_row(tmp_path):
    folder = write_scene(tmp_path, 60, 90)
    before = {path: tifffile.imread(path) for path in folder.glob("*.TIF")}
    unpack(folder)
    assert sorted(before) == sorted(folder.glob("*.TIF"))
    assert len(before) == 11
    for path, pixels in before.items():
        with rasterio.open(path) as dataset:
            assert dataset.compression is None
            assert dataset.block_shapes == [(1, 90)]
            assert (dataset.read(1) == pixels).all()


@pytest.mark.parametrize("network", ["unet", "gan"])
def test_masks_are_the_same(tmp_path, network):
    write_scene(tmp_path / "scenes", 90, 130)
    (drawn,) = find_scenes(tmp_path / "scenes")
    solver = scene.build(network, TINY, RUN)
    tiles = Tiles.of(solver.scorer(), 32, 8, 4)
    threshold = scene.median_score(solver, drawn, tiles)
    for way in scene.ways_of(solver, solver.scorer(), drawn, threshold, tiles, tmp_path):
        way()
    differ, cloud = scene.differing(tmp_path, drawn)
    assert differ < 1e-3
    assert 0.3 < cloud < 0.7


def test_plots_show_the_sizes(tmp_path, monkeypatch):
    ways = [measure.Comparison("a", "x/s", 1, None, measure.Way(60.0 * n, 512.0)) for n in (1, 4)]
    curve, drawn = plots.curve, {}

    def seen(points, marks, **texts):
        drawn[texts["y_label"]] = points.tolist()
        assert [(mark.name, [mark.x, mark.y]) for mark in marks] == [("a", points[-1].tolist())]
        return curve(points, marks, **texts)

    monkeypatch.setattr(plots, "curve", seen)
    scene.write_plots(ways, [1, 4], tmp_path / "p")
    assert drawn == {"peak memory, GiB": [[1, 0.5], [4, 0.5]], "minutes": [[1, 1], [4, 4]]}
    for what, unit in (("memory", "peak memory, GiB"), ("time", "minutes")):
        svg = (tmp_path / f"p-{what}.svg").read_text()
        assert svg.count(f">{unit}<") == 1  # the label, beside what is read aloud
        assert f'aria-label="{unit} by the size of the scene"' in svg


@pytest.mark.parametrize(
    ("main", "arguments", "told"),
    [
        (scene.main, ["--mpixel", "1", "-1"],
         "argument --mpixel: -1 is not a finite number of at least 0"),
        (prepare.main, ["--sides", "64", "0"], "argument --sides: 0 is not at least 1"),
        (prepare.main, ["--compress", "none", "zip"],
         "argument --compress: invalid choice: 'zip' (choose from"),
        (levers.main, ["--only"], "argument --only: expected at least one argument"),
        (loader.main, ["--rounds", "0"], "argument --rounds: 0 is not at least 1"),
        (seam.main, [], "the following arguments are required: scene"),
    ],
)  # fmt: skip
def test_a_bad_flag_is_one_line(main, arguments, told, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert error.startswith(f"error: {told}")
    assert error.count("\n") == 1
    name = main.__module__
    assert error.endswith(f"(all flags: python -m {name} --help)\n")


def test_what_a_gpu_has_to_show_runs_on_the_cpu(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "matrix_product", lambda *_: 1e12)
    asked = ["--size", "tiny", "--device", "cpu", "--gan_batch", "2", "--unet_batch", "2"]
    asked += ["--mpixel", "0.004", "--seconds", "0", "--parts", "agreement", "steps", "scenes"]
    places = {kind: tmp_path / f"gpu.{kind}" for kind in ("json", "md")}
    asked += ["--json", str(places["json"]), "--markdown", str(places["md"])]
    rows = gpu.main(asked)
    agreed = [row for row in rows if row.part == "agreement"]
    assert len(agreed) == 2 * (2 * 2 + 2 * 2)
    for row in agreed:
        # Against itself float32 is exact.
        assert row.value == 0 or row.way == "bfloat16", row
        assert row.value <= row.limit, row
    assert any(row.value > 0 for row in agreed)
    assert gpu.sound(rows)
    assert not gpu.sound([*rows, replace(agreed[0], value=1.0, limit=0.5)])
    rates = [row for row in rows if row.part != "agreement"]
    assert [row.part for row in rates] == ["steps"] * 4 + ["scenes"] * 10
    assert all(row.value > 0 for row in rates)
    written = json.loads(places["json"].read_text())
    assert written["card"] == "none, CPU"
    assert len(written["rows"]) == len(rows)
    page = places["md"].read_text().splitlines()
    assert len([line for line in page if line.startswith("| ")]) == len(rows) + 2


def test_batches_in_flight_are_all_counted():
    """The mean score of tiles that lie side by side is that of the scene."""
    solver = scene.build("unet", TINY, RUN)
    tiles = Tiles.of(solver.scorer(), 32, 0, 3)
    dn = gpu._random_dn(128)
    side_by_side = dn.reshape(10, 4, 32, 4, 32).transpose(1, 3, 0, 2, 4).reshape(16, 10, 32, 32)
    x = solver.normalization.normalize(torch.from_numpy(side_by_side))
    with torch.inference_mode():
        expected = solver.score(x).mean().item()
    assert gpu.in_flight(solver.scorer(), dn, tiles) == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
def test_the_script_for_a_gpu(tmp_path):
    script = ROOT / "benchmarks/gpu.sh"
    asked = ["--size", "tiny", "--device", "cpu", "--seconds", "0", "--mpixel", "0.01"]
    done = subprocess.run(
        ["bash", script, "--output", tmp_path, *asked, "--gan_batch", "2", "--unet_batch", "2"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert [row["unit"] for row in rows if row["part"] == "demo"] == ["s", ""] * 2
    assert "| demo | FCD+, 2 epochs" in (tmp_path / "gpu.md").read_text()


def test_the_grid_is_the_energy_at_the_tiles_frequency():
    """Waves of so many periods in 16 tiles of 16 pixels, that of the tiles three times as high."""
    places = np.arange(256) / 256
    heights = {13: 1, 14: 1, 16: 3, 18: 1, 19: 1, 40: 7}
    wave = sum(height * np.cos(2 * np.pi * f * places) for f, height in heights.items())
    assert seam.grid(5 + wave[:, None] + wave, 16) == pytest.approx(9)
    longer = np.pad(wave[:, None] + wave, ((0, 5), (0, 9)))  # a tile that is none ends
    assert seam.grid(longer[:256], 16) == pytest.approx(9, rel=1e-6)


def test_the_seam_of_a_scene_smaller_than_the_picture(tmp_path, capsys):
    folder, picture = write_scene(tmp_path, 100, 90), tmp_path / "seam.png"
    seam.main([str(folder), "--tile_size", "32", "--overlaps", "0", "8", "--picture", str(picture)])
    told = [re.split(": seam |, grid ", line) for line in capsys.readouterr().out.splitlines()]
    assert [name for name, *_ in told] == ["overlap 0", "overlap 8"]
    assert all(float(value) > 0 for _, value, _ in told)
    assert [grid for *_, grid in told] == ["nan", "nan"]  # of three tiles a row
    with Image.open(picture) as image:
        assert image.size == (90 + 8 + 90, 100)


@pytest.fixture(scope="module")
def scorer():
    return scene.build("unet", TINY, RUN).scorer()


def test_tiles_are_judged_by_the_truth(tmp_path, scorer):
    """Tiles of 32 all clear, of 64 all cloud."""
    write_scene(tmp_path, 90, 130)
    (drawn,) = find_scenes(tmp_path)
    scorer = replace(scorer, score=lambda x: torch.full_like(x[:, 0], x.shape[-1] == 64))
    flags = tiles.Settings(tile_sizes=[32, 64], overlaps=[0, 16, 32], rounds=1)
    rows = tiles.measured(scorer, 0.5, [drawn], flags)
    assert [(row.tile, row.overlap) for row in rows] == [
        (32, 0),
        (32, 16),
        (64, 0),
        (64, 16),
        (64, 32),
    ]
    assert [row.computed for row in rows] == [1, 4, 1, pytest.approx(16 / 9), 4]
    with drawn.open() as reader:
        truth = reader.truth()
    truth = truth[truth > 0]
    for row in rows:
        expected = f1_score(truth, np.full_like(truth, 1 + (row.tile == 64)), average="macro")
        assert row.macro_f1 == pytest.approx(expected)
        assert row.differ == (row.tile == 64)  # from tiles of 32 that overlap by 16
        assert row.mpixel_per_second > 0
        assert row.mpixel_per_cpu_second > 0
        assert len(row.line()) == len(tiles.HEAD)


def test_the_pixels_of_tiles_outside_of_the_scene_are_no_gain(tmp_path, scorer, monkeypatch):
    """Tiles of 32 without overlap compute 96 x 160 pixels of a scene of 90 x 130."""
    write_scene(tmp_path, 90, 130)
    (drawn,) = find_scenes(tmp_path)
    scorer = replace(scorer, score=lambda x: x[:, 0] * 0)
    way = measure.Way(2.0, 0.0, 4.0)
    monkeypatch.setattr(
        measure,
        "in_turn",
        lambda ways, rounds: {name: (run(), way)[1] for name, run in ways.items()},
    )
    flags = tiles.Settings(tile_sizes=[32], overlaps=[0])
    (row,) = tiles.measured(scorer, 0.5, [drawn], flags)
    assert row.mpixel_per_second == pytest.approx(96 * 160 / 2e6)
    assert row.mpixel_per_cpu_second == pytest.approx(96 * 160 / 4e6)


def test_tiles_of_weights_at_hand(tmp_path, capsys):
    asked = ["--side", "64", "--tile_sizes", "32", "--overlaps", "0", "--rounds", "1"]
    (row,) = tiles.main([*asked, "--json", str(tmp_path / "rows.json")])
    assert json.loads((tmp_path / "rows.json").read_text())[0]["macro_f1"] == row.macro_f1
    assert 0.3 < row.macro_f1 < 1
    assert "starter.pt, 8 scenes" in capsys.readouterr().out


def test_peers_in_turn_and_one_that_cannot_run(tmp_path, monkeypatch, capsys):
    took, seen = iter([2.0, 1.0, 4.0]), []

    def fake(given):
        array = np.load(given.array)
        with rasterio.open(next(given.scene.rglob("*_B4.TIF"))) as dataset:
            red = dataset.read(1)
        # Reflectance of Landsat-8 as its handbook has it, but for the sun.
        np.testing.assert_allclose(array[..., 2], red * 2e-5 - 0.1, atol=1e-6)
        assert array.shape == (100, 100, 6)
        assert given.weights.exists()
        seen.append("fake")
        figures = {"seconds": next(took), "cpu_seconds": 8.0, "peak_mib": 77.0}
        return [sys.executable, "-c", f"print('much'); print('{json.dumps(figures)}')"]

    def broken(given):
        seen.append("broken")
        return [sys.executable, "-c", "import sys; sys.exit('one\\nno such wheel')"]

    monkeypatch.setattr(peers, "PEERS", {"fake": fake, "broken": broken})
    asked = ["--mpixel", "0.01", "--size", "tiny", "--rounds", "3"]
    rows = peers.main([*asked, "--json", str(tmp_path / "rows.json")])
    assert seen == ["fake", "broken"] * 3
    assert rows[0] == peers.Row("fake", 0.01, 0.005, 0.00125, 77.0)
    assert (rows[1].mpixel_per_second, rows[1].peak_mib) == (None, None)
    assert rows[1].note.endswith("has failed: no such wheel")
    assert [row["peer"] for row in json.loads((tmp_path / "rows.json").read_text())] == seen[:2]
    assert "no such wheel" in capsys.readouterr().out


def test_what_one_peer_makes_another_finds(tmp_path):
    given = peers.Input(tmp_path, peers.Settings(checkpoint=tmp_path / "best.pt"))
    made, there = (peers.PEERS[f"ours, int8, which is {how}"](given) for how in ("made", "there"))
    assert made == there
    assert str(tmp_path / "best.pt") in map(str, made)
    folder = Path(made[made.index("--output_dir") + 1])
    # Not of other peers: what asks for their commands makes their environments.
    others = [name for name in peers.PEERS if name.startswith("ours") and "int8" not in name]
    assert len(others) == 4
    for name in others:
        command = peers.PEERS[name](given)
        assert Path(command[command.index("--output_dir") + 1]) != folder
    folder.mkdir(parents=True)
    (folder / "summary.csv").write_text("scene,precision\na,float32\na,int8\n")
    assert peers._precision(made) == "int8"


def test_a_peer_tells_what_it_took(monkeypatch, capsys):
    done = []
    monkeypatch.setitem(peer.PEERS, "fake", lambda a, b: lambda: (print("x"), done.append((a, b))))
    peer.main("fake", "1", "2")
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert done == [("1", "2")]
    assert list(figures) == ["seconds", "cpu_seconds", "peak_mib"]
    assert 0 < figures["seconds"] < 1
    assert 10 < figures["peak_mib"] < 8192
