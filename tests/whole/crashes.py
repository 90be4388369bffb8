"""Kill every long command at random moments, run it again, compare with an undisturbed run.

    python -m tests.whole.crashes [--kills 20] [--seed 0] [--only train_fcd …] [--json crashes.json]

Each command is started in a process of its own, from the state before it. At a random moment
between its start and its usual end it gets SIGKILL (or, every fifth time each, SIGTERM or
SIGINT). Then it is run again, and everything on the disk is compared with what one undisturbed
run has left: files byte by byte, checkpoints tensor by tensor, curves value by value.
"""

import argparse
import csv
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import Any

import torch
from tqdm import tqdm

import download_landsat8_biome
import main
import prepare_landsat8_biome
import supervised_main
from fcd.cli import entry
from fcd.landsat import biome
from fcd.landsat.scenes import find_scenes
from fcd.synthetic.layout import write_data_set
from tests.tiny import equal, scalars

DATA = "--image_dir patches --orig_image_dir scenes --num_workers 0 --device cpu"
GAN = (
    "--image_size 32 --g_conv_dim 8 --g_repeat_num 1 --d_conv_dim 8 --d_repeat_num 3 "
    "--num_iters 60 --num_iters_decay 20 --n_critic 2 --sample_step 20 --model_save_step 10"
)
UNET = "--encoder resnet18 --n_epochs 2 --batch_size 16 --log_step 1"
# name -> module, command line; each needs what those before it have left.
COMMANDS: dict[str, tuple[Any, str]] = {
    "download": (
        download_landsat8_biome,
        "--output_dir fetched --base_url archives --scenes {scenes} --retries 0",
    ),
    "prepare": (
        prepare_landsat8_biome,
        "--data_path scenes --output_dir patches --patch_size 32",
    ),
    "train_fcd": (main, f"--mode train {DATA} {GAN} --experiment_name FCD"),
    "generate_masks": (main, f"--mode generate_masks {DATA} --experiment_name FCD"),
    "add_masks": (
        prepare_landsat8_biome,
        "--data_path scenes --output_dir patches --generated_masks outputs/FCD/results/tifs",
    ),
    "train_fcdplus": (
        supervised_main,
        f"--mode train {DATA} {UNET} --train_mask_file generated_mask.tif --classifier_head True "
        "--experiment_name FCD+",
    ),
    "test": (supervised_main, f"--mode test {DATA} --experiment_name FCD+"),
    "predict": (
        supervised_main,
        "--mode predict --experiment_name FCD+ --device cpu --scenes scenes/*/* --output_dir masks",
    ),
}
SCENES = [entry.scene for entry in biome.entries() if entry.biome == "Barren"][:4]
SIGNALS = [signal.SIGKILL] * 3 + [signal.SIGTERM, signal.SIGINT]


def draw(folder: Path) -> None:
    """Scenes, and archives of some for the downloader, as USGS ships them."""
    write_data_set(folder / "scenes", 6, 70, seed=5)
    (folder / "archives").mkdir()
    sources = find_scenes(folder / "scenes")
    for name, source in zip(SCENES, sources, strict=False):
        with tarfile.open(folder / "archives" / f"{name}.tar.gz", "w:gz") as archive:
            for path in sorted(source.folder.iterdir()):
                archive.add(path, f"BC/{name}/{path.name.replace(source.name, name)}")
            for part in ("B8.TIF", "MTL.txt", "BQA.TIF"):
                if f"{source.name}_{part}" not in {path.name for path in source.folder.iterdir()}:
                    content = (source.folder / f"{source.name}_B1.TIF").read_bytes()
                    member = tarfile.TarInfo(f"BC/{name}/{name}_{part}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))


@dataclass
class Started:
    """A command that runs: the id of its process and group, and what writes its log."""

    process: int
    log: Path
    writer: subprocess.Popen

    def wait(self) -> int:
        """Wait for the process; return its status as waitpid does."""
        return os.waitpid(self.process, 0)[1]

    def close_log(self) -> None:
        """Wait for the log to be whole; when nothing of the command is left."""
        self.writer.wait(60)

    def said(self) -> str:
        """All it has printed; to be asked when nothing of it is left."""
        self.close_log()
        return self.log.read_text(errors="replace")

    def finish(self) -> None:
        """Wait for a command that is to succeed."""
        if status := self.wait():
            raise RuntimeError(f"exit status {status}; {self.log}:\n{self.said()[-2000:]}")
        self.close_log()


def start(
    name: str, folder: Path, log: Path, fault: Callable[[Path], None] = lambda _: None
) -> Started:
    """Run a command in a forked process group: everything is imported already.

    fault: called with `folder` in the new process before the command.
    """
    module, line = COMMANDS[name]
    arguments = line.format(scenes=" ".join(SCENES)).split()
    # Through a pipe: a limit on the size of the command's files is none on what it says.
    writer = subprocess.Popen(
        ["tee", "-a", log], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
    )
    process = os.fork()
    if process:
        writer.stdin.close()
        return Started(process, log, writer)
    os.setsid()
    tqdm.set_lock(RLock())  # not the one of all processes, which one that was killed may hold
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.default_int_handler if signum == signal.SIGINT else 0)
    os.dup2(writer.stdin.fileno(), 1)
    os.dup2(writer.stdin.fileno(), 2)
    os.close(writer.stdin.fileno())
    fault(folder)
    os.chdir(folder)
    sys.argv = [f"{module.__name__}.py", *arguments]
    sys.modules["__main__"] = module  # what processes that it starts import
    try:
        entry.run(module.main)
    except SystemExit as stop:
        sys.stdout.flush()
        os._exit(int(stop.code or 0))
    except BaseException:  # the process ends here: say why in the log
        sys.excepthook(*sys.exc_info())
    os._exit(1)


def orphans(group: int, patience: float = 10) -> bool:
    """Whether processes of a killed command are still there after a while; they are ended."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.05)
    os.killpg(group, signal.SIGKILL)
    return True


def differences(expected: Path, found: Path) -> list[str]:
    """What is not the same in two folders, in words."""
    names = {p.relative_to(root) for root in (expected, found) for p in root.rglob("*")}
    told = []
    for name in sorted(names):
        a, b = expected / name, found / name
        if not a.exists() or not b.exists():
            # TensorBoard begins a new file with each start, and a damaged end may stay.
            if name.parts[0] != "runs":
                told.append(f"{name} is only {'expected' if a.exists() else 'found'}")
        elif a.is_file() and (compare := _comparison(name)) and not compare(a, b):
            told.append(f"{name} differs")
    if _curves(expected / "runs") != _curves(found / "runs"):
        told.append("the curves differ")
    return told


def _comparison(name: Path) -> Callable[[Path, Path], bool] | None:
    if name.parts[0] == "runs":
        return None  # compared by value
    if name.name == "previous.pt":
        return None  # the checkpoint before the last: after Ctrl-C that of the stop
    if name.suffix == ".pt":
        return lambda a, b: equal(torch.load(a), torch.load(b))
    if name.name == "summary.csv":
        return lambda a, b: _without_seconds(a) == _without_seconds(b)
    return lambda a, b: a.read_bytes() == b.read_bytes()


def _without_seconds(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(stream)]


def _curves(folder: Path) -> dict[tuple[str, str], Any]:
    return {
        (run.name, tag): curve for run in folder.glob("*") for tag, curve in scalars(run).items()
    }


def copy(source: Path, target: Path) -> None:
    """Make `target` a copy of `source`."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)


def try_command(name: str, root: Path, kills: int, generator: random.Random) -> dict[str, Any]:
    """Kill one command `kills` times; leave `root`/work as an undisturbed run leaves it."""
    work, before, after, log = (root / part for part in ("work", "before", "after", f"{name}.log"))
    copy(work, before)
    began = time.monotonic()
    start(name, work, log).finish()
    usual = time.monotonic() - began
    copy(work, after)
    failures, landed, left = [], 0, 0
    for number in range(kills):
        copy(before, work)
        signum = SIGNALS[number % len(SIGNALS)]
        moment = generator.uniform(0, usual)
        started = start(name, work, log)
        time.sleep(moment)
        done, _ = os.waitpid(started.process, os.WNOHANG)
        if not done:
            landed += 1
            os.kill(started.process, signum)
            started.wait()
            left += orphans(started.process)
            started.close_log()
        start(name, work, log).finish()
        told = differences(after, work)
        if told:
            failures.append(
                f"{signal.Signals(signum).name} after {moment:.2f} s: {'; '.join(told[:5])}"
            )
    copy(after, work)
    return {
        "command": name,
        "seconds": round(usual, 2),
        "tried": kills,
        "landed": landed,
        "survived": kills - len(failures),
        "orphans": left,
        "failures": failures,
    }


def each_command(
    attempt: Callable[[str, Path, int, random.Random], dict[str, Any]],
    tries: int,
    flags: argparse.Namespace,
    said: Callable[[dict[str, Any]], str],
) -> list[dict[str, Any]]:
    """Rows of `attempt`, `tries` times for each of the commands asked for; printed by `said`."""
    # A forked process may not use its parent's threads; what it starts goes by the variable.
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        draw(root / "work")
        names = list(COMMANDS)
        for name in names[: 1 + max(map(names.index, flags.only))]:
            count = tries if name in flags.only else 0
            rows.append(attempt(name, root, count, random.Random(f"{flags.seed} {name}")))
            told = [f"{name:15} {said(rows[-1])}", *rows[-1]["failures"]]
            print(*told, sep="\n    ", flush=True)
    if flags.json:
        flags.json.write_text(json.dumps(rows, indent=2) + "\n")
    return rows


def build_parser(prog: str, description: str) -> argparse.ArgumentParser:
    """The flags that `each_command` goes by."""
    parser = argparse.ArgumentParser(prog=prog, description=description)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=list(COMMANDS), default=list(COMMANDS))
    parser.add_argument("--json", type=Path)
    return parser


def run(arguments: list[str] | None = None) -> int:
    """The command line; exit code 1 if a command did not survive."""
    parser = build_parser("python -m tests.whole.crashes", __doc__)
    parser.add_argument("--kills", type=int, default=20)
    flags = parser.parse_args(arguments)
    rows = each_command(
        try_command,
        flags.kills,
        flags,
        lambda row: (
            f"{row['survived']}/{row['tried']} survived ({row['landed']} hit it running, "
            f"{row['orphans']} left processes behind)"
        ),
    )
    return int(any(row["failures"] or row["orphans"] for row in rows))


if __name__ == "__main__":
    sys.exit(run())
