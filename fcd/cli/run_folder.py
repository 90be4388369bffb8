"""What is written down of a run before its first step, and how it may go on."""

import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from fcd.cli.parser import flags_of, flat, may_change, settings_of
from fcd.errors import UserError
from fcd.files import locked, read_json, write_json
from fcd.interruption import Stopped
from fcd.training.run import Run, RunFolder


def git_commit() -> str | None:
    """The commit of this code; None outside a checkout or without git."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None


def describe(
    flags: dict[str, Any], used_device: torch.device, processes: int = 1
) -> dict[str, Any]:
    """Everything a run is described by: flags, git commit, library versions, device, processes."""
    packages = ("torch", "torchvision", "segmentation-models-pytorch", "rasterio", "numpy")
    versions = {package: metadata.version(package) for package in packages}
    device = str(used_device)
    if used_device.type == "cuda":
        device += f" ({torch.cuda.get_device_name(used_device)})"
    return {
        "flags": flags,
        "commit": git_commit(),
        "versions": {"python": platform.python_version()} | versions,
        "device": device,
        "processes": processes,
    }


def start_run(run: Run, settings: Any, data: dict[str, Any]) -> None:
    """Write `config.json` before the first step of a training run.

    data: what is trained on, by split (`data_loader.PatchDataset.summary`). A run that is
    continued keeps the config.json it began with, to which `continued` adds commit, versions,
    device and processes if they are others now. With `--overwrite True` what an earlier run left is
    removed. Otherwise raises `UserError` if the folder holds checkpoints of a run with other
    settings or patches. The first of the processes does it, the others wait.
    """
    folder, processes = run.folder, run.processes
    if processes.first:
        described = describe(flat(settings), run.device, processes.count) | {"data": data}
        path = folder.root / "config.json"
        if described["flags"]["overwrite"]:
            for left in (folder.models, folder.samples, folder.results, folder.logs):
                shutil.rmtree(left, ignore_errors=True)
        if path.exists() and folder.resumable():
            described = _continued(path, described, type(settings))
        write_json(path, described)
    processes.wait()


def _continued(path: Path, described: dict[str, Any], kind: type) -> dict[str, Any]:
    """What the config.json `path` holds, with what is different as the run goes on.

    kind: of the settings, whose defaults stand in for those that earlier versions did not have.
    Raises `UserError` if the run cannot go on.
    """
    config, data, free = read_json(path), described["data"], may_change(kind)
    before = {name: default for _, name, _, default in settings_of(kind)} | flags_of(config, path)
    changed = [
        f"--{name} {before[name]} then, {value} now"
        for name, value in described["flags"].items()
        if name not in free and before[name] != value
    ]
    if changed:
        raise UserError(
            f"{path.parent} holds a run with other settings ({'; '.join(changed)}); choose "
            "another --experiment_name, or --overwrite True to train it anew"
        )
    continued = config.get("continued", [])
    if not isinstance(continued, list) or not all(isinstance(c, dict) for c in continued):
        raise UserError(f"{path} is damaged (continued); --overwrite True trains anew")
    if (then := config.get("data", data)) != data:  # runs of earlier versions do not say
        raise UserError(
            f"{path.parent} was trained on other patches ({_in_words(then)} then, "
            f"{_in_words(data)} now); bring them back, or choose another --experiment_name"
        )
    now = {name: value for name, value in described.items() if name not in ("flags", "data")}
    last = [config, *continued][-1]
    same = all(last.get(name) == value for name, value in now.items())
    return config if same else config | {"continued": [*continued, now]}


def _in_words(data: Any) -> str:
    """How many patches of each split, and by which masks; `data` comes from a file."""
    splits = data.items() if isinstance(data, dict) else ()
    parts = [(split, part) for split, part in splits if isinstance(part, dict)]

    def told(part: dict[str, Any]) -> str:
        masks = f" with masks {part['masks']}" if "masks" in part else ""
        return f"{part.get('patches')}{masks}"

    return ", ".join(f"{split} {told(part)}" for split, part in parts) or "unknown"


def run_config(folder: RunFolder, checkpoint: Path | None, settings: Any) -> dict[str, Any]:
    """What a report says of a run: the config of `checkpoint`, if any, and the test's flags."""
    path = checkpoint.resolve().parent.parent / "config.json" if checkpoint else None
    trained = read_json(path) if path and path.exists() else None
    return {"experiment_name": folder.experiment, "trained": trained, "tested": flat(settings)}


def carry_out(train: Callable[[], None], run: Run, settings: Any, data: dict[str, Any]) -> int:
    """Write `config.json` (see `start_run`), call `train`, say how it ended; return the exit code.

    Raises `UserError` if another run is training in this folder.
    """
    folder, first = run.folder, run.processes.first
    try:
        with _held(folder.root) if first else nullcontext():
            start_run(run, settings, data)
            train()
    except Stopped as stop:
        if first:
            print(stop, file=sys.stderr)
        return stop.exit_code
    print(
        f"trained: {folder.checkpoint('best')}; curves: tensorboard --logdir={folder.logs.parent}"
    )
    if left_out := sum(len(part["left_out"]) for part in data.values()):
        print(f"{left_out} damaged patches were left out: see data in {folder.root}/config.json")
    return 0


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Keep other trainings out of `folder`; raises `UserError` if there is one."""
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder))
        except BlockingIOError as error:
            raise UserError(
                f"another process is training in {folder}; wait for it, or choose another "
                "--experiment_name"
            ) from error
        yield
