"""The world around a run: locale, clock, odd folders, many scenes, no network, several readers."""

import ast
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import main
import prepare_landsat8_biome
import supervised_main
from data_loader import PatchDataset
from fcd.cli.parser import build_parser
from fcd.landsat import finding, scenes
from fcd.landsat.scenes import find_scenes
from fcd.training import checkpoints
from solver import SupervisedTraining
from tests import tiny
from tests.conftest import ROOT, draw, threads_restored, write_scene
from tests.tiny import equal, gan, unet
from tests.training.test_resume import GAN

pytestmark = pytest.mark.usefixtures("in_tmp")
SCENES = ["LC80000012014001LGN00", "LC80000022014001LGN00", "LC80000032014001LGN00"]
TINY_GAN = [*tiny.GAN, "--num_iters", "4", "--num_iters_decay", "2", "--n_critic", "2",
            "--sample_step", "4", "--model_save_step", "2"]  # fmt: skip
TINY_UNET = [*tiny.UNET, "--batch_size", "4"]


def call(monkeypatch, module, *arguments):
    monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *map(str, arguments)])
    return module.main()


def test_every_command_works_in_folders_with_spaces_and_other_letters(tmp_path, monkeypatch):
    odd = tmp_path / "ein Ordner, où 雲 & 'ist'"
    odd.mkdir()
    monkeypatch.chdir(odd)
    for seed, name in enumerate(SCENES):
        write_scene(odd / "Szenen ä" / "Wälder" / name, name, *draw(70, 70, seed))
    data = ["--image_dir", odd / "Stücke 1", "--orig_image_dir", "Szenen ä", "--num_workers", 0,
            "--device", "cpu"]  # fmt: skip
    prepare = ["--data_path", "Szenen ä", "--output_dir", odd / "Stücke 1"]
    masks = odd / "outputs/FCD/results/tifs"
    fcdplus = ["--experiment_name", "FCD+"]
    for module, arguments in [
        (prepare_landsat8_biome, [*prepare, "--patch_size", 32]),
        (main, ["--mode", "train", *data, *TINY_GAN]),
        (main, ["--mode", "generate_masks", *data]),
        (prepare_landsat8_biome, [*prepare, "--generated_masks", masks]),
        (supervised_main, ["--mode", "train", *data, *TINY_UNET, *fcdplus, "--train_mask_file",
                           "generated_mask.tif"]),
        (main, ["--mode", "test", *data]),
        (supervised_main, ["--mode", "test", *data, *fcdplus]),
        (supervised_main, ["--mode", "predict", *data, *fcdplus, "--scenes",
                           f"Szenen ä/Wälder/{SCENES[0]}", "--output_dir", "Masken ß"]),
    ]:  # fmt: skip
        assert not call(monkeypatch, module, *arguments), arguments
    assert (masks / f"Wälder_{SCENES[1]}_mask.tif").exists() or (
        masks / f"Wälder_{SCENES[0]}_mask.tif"
    ).exists()
    assert (odd / "Masken ß" / f"{SCENES[0]}_mask.tif").exists()
    metrics = json.loads((odd / "outputs/FCDPlus/results/metrics.json").read_text("utf-8"))
    assert list(metrics["biomes"]) == ["Wälder"]


ELSEWHERE = {"LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR.UTF-8", "TZ": "Asia/Kolkata"}


def test_locale_and_time_zone_change_nothing(tmp_path, monkeypatch):
    """Files of a run with a biome of other letters, byte by byte, in another world and in ours."""
    flags = ["--data_path", "s", "--output_dir", "p", "--patch_size", "16", "--num_workers", "1"]
    command = [sys.executable, prepare_landsat8_biome.__file__, *flags]
    found = []
    for world in ("elsewhere", "here"):
        folder = tmp_path / world
        for seed, name in enumerate(SCENES):
            write_scene(folder / "s" / "Wälder" / name, name, *draw(40, 40, seed))
        if world == "elsewhere":
            subprocess.run(command, cwd=folder, env=os.environ | ELSEWHERE, check=True)
        else:
            monkeypatch.chdir(folder)
            assert not call(monkeypatch, prepare_landsat8_biome, *flags)
        files = sorted(path for path in (folder / "p").rglob("*") if path.is_file())
        found.append({str(path.relative_to(folder)): path.read_bytes() for path in files})
    assert found[0] == found[1]
    assert any("Wälder" in name for name in found[0])


def test_a_clock_that_goes_back_changes_nothing(image_dir, monkeypatch):
    train, val = PatchDataset(image_dir, "train"), PatchDataset(image_dir, "val", "mask.tif")
    gan("usual").train(GAN, train, val)
    now = [time.time()]

    def backwards():
        now[0] -= 60
        return now[0]

    with monkeypatch.context() as patch:
        patch.setattr(time, "time", backwards)
        gan("back").train(GAN, train, val)
    assert equal(*(checkpoints.load(f"outputs/{n}/models/latest.pt") for n in ("usual", "back")))


def test_ten_thousand_scenes_are_listed_with_one_look_at_each_folder(tmp_path, monkeypatch):
    """A second look at all of them for each would be 100 million; beside each lies what somebody
    made from it. The tree is told, not written: that took longer than all else here.
    """
    (tmp_path / "s").mkdir()
    looks, compared = [], []

    def tree(root):
        biomes = [f"biome{number}" for number in range(8)]
        yield str(root), biomes, []
        for biome in biomes:
            found = [f"S{number:05d}" for number in range(int(biome[-1]), 10_000, 8)]
            yield f"{root}/{biome}", found, []
            for name in found:
                files = [f"{name}_B1.TIF", f"{name}_MTL.txt", f"{name}_toa_B1.TIF"]
                yield f"{root}/{biome}/{name}", [], files

    def counted(root):
        for entry in tree(root):
            looks.append(entry[0])
            yield entry

    def bears(*names, asked=finding._bears):
        compared.append(names)
        return asked(*names)

    monkeypatch.setattr(scenes.os, "walk", counted)
    monkeypatch.setattr(finding, "_bears", bears)
    found = find_scenes("s")
    assert len(found) == len(compared) == 10_000
    assert len(looks) == len(set(looks)) == 10_000 + 8 + 1
    assert [s.name for s in found[:2]] == ["S00000", "S00008"]


# --- network -------------------------------------------------------------------------------------

MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in [*ROOT.glob("*.py"), *(ROOT / "fcd").rglob("*.py")]
    if not path.stem.startswith("__")
)
OFFLINE = """
import importlib, socket, sys

def refuse(*arguments, **_):
    raise AssertionError(f"opens a connection: {arguments}")

socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


def test_importing_opens_no_connection():
    command = [sys.executable, "-c", OFFLINE, *MODULES]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_no_network_is_built_with_weights_from_elsewhere_unless_a_flag_asks():
    """`weights` and `encoder_weights` of torchvision and smp; a flag's value is no constant."""
    for node in ast.walk(ast.parse((ROOT / "model.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.keyword) and node.arg in ("weights", "encoder_weights"):
            assert not isinstance(node.value, ast.Constant) or node.value.value is None
    flags = build_parser(supervised_main.Settings).parse_args([])
    assert (flags.imagenet, flags.encoder_weights) == (False, None)


# --- processes that read -------------------------------------------------------------------------

# `train` of this file, in a process that is killed after a step.
INTERRUPTED = """
import os, signal, sys
from pathlib import Path
import solver
from fcd.cli.parser import build_parser
from tests.whole.test_conditions import train

kind, step, image_dir = sys.argv[1], int(sys.argv[2]), sys.argv[3]
asked = solver.Solver.stop_if_asked

def killing(self, interruption):
    asked(self, interruption)
    if self.step == step:
        os.kill(os.getpid(), signal.SIGKILL)

solver.Solver.stop_if_asked = killing
train(kind, "cut", Path(image_dir))
"""


def train(kind, name, folder):
    """A short training with two processes that read."""
    if kind == "gan":
        solver, settings = gan(name, num_workers=2), GAN
        solver.train(
            settings, PatchDataset(folder, "train"), PatchDataset(folder, "val", "mask.tif")
        )
    else:
        solver, settings = unet(name, num_workers=2), SupervisedTraining(batch_size=4, n_epochs=3)
        sets = (PatchDataset(folder, split, "mask.tif") for split in ("train", "val"))
        solver.train(settings, *sets)


def test_threads_of_one_test_are_not_those_of_the_next():
    """Or it would no longer compute bit for bit what the processes that it starts compute."""
    threads, variable = torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]
    with threads_restored():
        torch.set_num_threads(threads + 2)
        os.environ["OMP_NUM_THREADS"] = str(threads + 2)
    assert (torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]) == (threads, variable)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "step"), [("gan", 7), ("unet", 4)])
def test_killed_with_readers_and_resumed_is_the_run_without_either(image_dir, kind, step):
    command = [sys.executable, "-c", INTERRUPTED, kind, str(step), image_dir]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    train(kind, "cut", image_dir)
    if kind == "gan":  # without processes that read
        sets = PatchDataset(image_dir, "train"), PatchDataset(image_dir, "val", "mask.tif")
        gan("whole").train(GAN, *sets)
    else:
        sets = (PatchDataset(image_dir, split, "mask.tif") for split in ("train", "val"))
        unet("whole").train(SupervisedTraining(batch_size=4, n_epochs=3), *sets)
    for name in ("latest.pt", "best.pt"):
        assert equal(
            *(checkpoints.load(f"outputs/{run}/models/{name}") for run in ("whole", "cut"))
        )


def test_the_same_seed_is_the_same_supervised_run_and_its_config_repeats_it(image_dir, monkeypatch):
    flags = ["--mode", "train", "--image_dir", image_dir, "--num_workers", 0, "--device", "cpu",
             *TINY_UNET, "--seed", 3, "--classifier_head", "True"]  # fmt: skip
    for name in ("A", "B"):
        assert call(monkeypatch, supervised_main, *flags, "--experiment_name", name) == 0
    again = ["--config", "outputs/A/config.json", "--experiment_name"]
    assert call(monkeypatch, supervised_main, *again, "C") == 0
    assert call(monkeypatch, supervised_main, *again, "D", "--seed", 4) == 0
    a, b, c, d = (checkpoints.load(f"outputs/{name}/models/latest.pt") for name in "ABCD")
    assert equal(a, b)
    assert equal(a, c)
    assert not all(torch.equal(v, d["network"][n]) for n, v in a["network"].items())


def test_two_trainings_at_once_in_one_folder_are_one(image_dir, call):
    """Two processes of the same command: the second is refused in one line, the first goes on."""
    flags = ["--image_dir", image_dir, "--num_workers", "0", "--device", "cpu", *TINY_GAN,
             "--num_iters", "100000"]  # fmt: skip
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    first = subprocess.Popen([sys.executable, ROOT / "main.py", *flags], **quiet)
    try:
        latest = Path("outputs/FCD/models/latest.pt")
        while not latest.exists():
            assert first.poll() is None
            time.sleep(0.1)
        code, said, _ = call(main, *flags)
        assert first.poll() is None
    finally:
        first.send_signal(signal.SIGTERM)
    assert first.wait(120) == 128 + signal.SIGTERM
    assert code == 2
    assert said.endswith(
        "error: another process is training in outputs/FCD; wait for it, or choose another "
        "--experiment_name\n"
    )
    assert checkpoints.load(latest)["step"] > 1
