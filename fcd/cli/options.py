"""Command-line parts the entry scripts share: flag types, shared flags, errors, run folders."""

import argparse
import errno
import math
import platform
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

import torch

from fcd.errors import READER_ENDED, UserError
from fcd.files import locked, read_json, write_json
from fcd.interruption import Stopped
from fcd.landsat.bands import band_numbers
from fcd.landsat.rasters import nodata_value
from fcd.landsat.sparcs import SPARCS
from fcd.masks.export import PYTORCH, RUNTIMES
from fcd.masks.prediction import SCORES
from fcd.patches.imagery import NO_NODATA, RasterPatches
from fcd.patches.prepared import PreparedPatches
from fcd.processes import Processes, failing, local_rank

PREPARED, OWN = "L8Biome", "Patches"  # of --dataset; a third is SPARCS
DEFAULT_IMAGE_DIR = "data/L8Biome"
DEFAULT_SCENE_DIR = "data/landsat8-biome"

# Flags that say how a run is carried out, not what it computes: they may differ on resume.
_EXECUTION_FLAGS = {
    "mode",
    "config",
    "device",
    "num_workers",
    "overwrite",
    "log_step",
    "profile",
    "compile",
    "rgb",
    "sample_step",
    "threshold",
    "threshold_patches",
    "num_pictures",
    "checkpoint",
    "tile_size",
    "overlap",
    "runtime",
    "skip_bad",
    "scenes",
    "output_dir",
    "bands",
    "write_score",
    "test_split",
    "method",
    "orig_image_dir",
    "cam_method",
}


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line with exit code 2, and help shows defaults."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", argparse.ArgumentDefaultsHelpFormatter)
        super().__init__(allow_abbrev=False, **kwargs)

    def parse_args(self, args: Sequence[str] | None = None) -> argparse.Namespace:  # type: ignore[override]
        """Parse `args` (None: the command line); those of a --config come before them."""
        args = _with_numbers_joined(sys.argv[1:] if args is None else args)
        flags = super().parse_args(args)
        if getattr(flags, "config", None) is None:
            return flags
        stored = _with_numbers_joined(_stored_arguments(flags.config))
        return super().parse_args([*stored, *args])

    def error(self, message: str) -> NoReturn:
        """Print `message` in one line and exit with code 2."""
        with failing() as first:
            if first:
                line = f"error: {message} (all flags: python {self.prog} --help)\n"
                self._print_message(line, sys.stderr)
        self.exit(2)


def _with_numbers_joined(args: Sequence[str]) -> list[str]:
    """`args` with ``--flag -1e20`` written ``--flag=-1e20``.

    Before Python 3.14 argparse takes a negative number with an exponent for a flag.
    """
    joined: list[str] = []
    for text in args:
        if joined and re.fullmatch(r"--\w+", joined[-1]) and _is_negative_number(text):
            joined[-1] += f"={text}"
        else:
            joined.append(text)
    return joined


def _is_negative_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text.startswith("-")


def _stored_arguments(path: Path) -> list[str]:
    """The flags in a run's config.json as a command line; `UserError` if it is no such file."""
    config = read_json(path)
    flags = _flags(config, path)
    # What --overwrite removes must be asked for on the command line.
    kept = {n: v for n, v in flags.items() if v is not None and n not in ("config", "overwrite")}
    return [
        text
        for name, value in kept.items()
        for text in (f"--{name}", *map(str, value if isinstance(value, list) else [value]))
    ]


def _flags(config: dict[str, Any], path: Path) -> dict[str, Any]:
    flags = config.get("flags")
    if not isinstance(flags, dict):
        raise UserError(f"{path} holds no flags; give the config.json of a run")
    return flags


def run(main: Callable[[], int | None]) -> NoReturn:
    """Run an entry script: a `UserError` becomes one line on stderr and exit code 2.

    So do what the system refuses (a full disk, a folder that is read-only) and the end of a process
    that reads patches.
    SIGTERM ends it like an error does, so that no half-written file stays; training loops
    answer it themselves. Of several processes only the first to fail says why.
    """
    signal.signal(signal.SIGTERM, lambda signum, _: sys.exit(128 + signum))
    try:
        code = main()
    except UserError as error:
        with failing() as first:
            if first:
                # A loader process hands its error on inside a traceback, as its last line.
                line = str(error).rstrip().rpartition(f"{type(error).__name__}: ")[2]
                print(f"error: {line}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        with failing() as first:
            if first:
                print("stopped; run the same command again to go on", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        line = _from_outside(error)
        if line is not None and hasattr(signal, "SIGCHLD"):
            # There PyTorch tells of readers that have ended: not once more while all is taken down.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        with failing() as first:
            if first and line is None:
                raise
            if first:
                print(f"error: {line}", file=sys.stderr)
        sys.exit(1 if line is None else 2)
    sys.exit(code or 0)


def _from_outside(error: Exception) -> str | None:
    """An error that is the system's and not the program's, in one line; None for others."""
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}; what was written before is kept"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"nothing more can be written ({error.strerror}); what was written before is kept"
    if isinstance(error, RuntimeError) and str(error).startswith(READER_ENDED):
        return (
            f"a process that reads patches has ended ({_first_line(error)}), mostly for "
            "lack of memory: lower --num_workers; what was written before is kept"
        )
    return None


def boolean(text: str) -> bool:
    """`True` or `False` in any case; anything else is refused."""
    values = {"true": True, "false": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")
    return values[text.lower()]


def positive(text: str) -> int:
    """A whole number of at least 1."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


def natural(text: str) -> int:
    """A whole number of at least 0."""
    return 0 if text.strip() == "0" else positive(text)


def fraction(text: str) -> float:
    """A number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not in [0, 1]")
    return value


def non_negative(text: str) -> float:
    """A finite number of at least 0."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number of at least 0")
    return value


def threshold(text: str) -> str | float:
    """`f1`, `otsu` or a number from 0 to 1."""
    return text if text in ("f1", "otsu") else fraction(text)


def nodata(text: str) -> float | str:
    """A finite number, or `none`."""
    if text == NO_NODATA:
        return text
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor none") from None
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text} is not finite (NaN always is nodata)")
    return nodata_value(value)


def device(name: str) -> torch.device:
    """`auto` (CUDA, else MPS, else CPU) or a torch device name; checked to be there.

    Each of the processes that torchrun starts on a machine takes one CUDA device, or the CPU.
    """
    local = local_rank()
    if name == "auto":
        if torch.cuda.is_available():
            name = "cuda"
        else:
            name = "mps" if torch.backends.mps.is_available() and local is None else "cpu"
    if local is not None and name != "cpu":
        if name != "cuda":
            raise UserError(
                f"--device {name} cannot be shared by several processes; give --device cuda, of "
                "which each takes its own, or --device cpu"
            )
        devices = torch.cuda.device_count()
        if 0 < devices <= local:
            raise UserError(
                f"torchrun started more processes on this machine than it has CUDA devices "
                f"({devices}); give --nproc_per_node {devices}"
            )
        name = f"cuda:{local}"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = _first_line(error)
        raise UserError(f"--device {name} cannot be used ({reason}); try --device cpu") from error
    found = torch.device(name)
    if found.type == "cuda":
        _set_up_cuda(found)
    return found


def _set_up_cuda(device: torch.device) -> None:
    """Make `device` the one that is meant where none is named, and compute in TF32."""
    if device.index is not None:
        torch.cuda.set_device(device)  # memory is pinned for this one
    # A mantissa of 10 bits in products, sums in float32: cuDNN's default for convolutions.
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def compiles_in_mode(flags: argparse.Namespace, device: torch.device) -> bool:
    """Whether networks are to be compiled; see `compiles`. Some modes have none to speed up."""
    return compiles(flags.compile and flags.mode not in ("export", "cfmask"), device)


def compiles(asked: bool, device: torch.device) -> bool:
    """`asked`, the value of --compile; `UserError` if True and PyTorch cannot compile here."""
    if asked:
        try:
            torch.compile(torch.neg)(torch.zeros(1, device=device))
        except RuntimeError as error:
            raise UserError(
                f"--compile True cannot be used on {device} ({_first_line(error)}); "
                "install what it misses (on a CPU a C++ compiler) or leave it out"
            ) from error
    return asked


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that every training and prediction command has."""
    group = parser.add_argument_group("run")
    group.add_argument(
        "--experiment_name",
        default="FCD",
        help="the run lives in outputs/NAME and runs/NAME, with + written Plus",
    )
    group.add_argument(
        "--config",
        type=Path,
        default=None,
        metavar="FILE",
        help="config.json of an earlier run: its flags, except those given beside this one",
    )
    group.add_argument(
        "--device",
        default="auto",
        help="auto (CUDA, else MPS, else CPU), cpu, cuda, cuda:1, mps; "
        "with torchrun auto, cpu or cuda: each process takes its own CUDA device",
    )
    group.add_argument("--seed", type=natural, default=0, help="seed of weights and batches")
    group.add_argument(
        "--num_workers",
        type=natural,
        default=4,
        help="processes that read patches, for each that computes",
    )
    group.add_argument(
        "--overwrite",
        type=boolean,
        default=False,
        metavar="BOOL",
        help="train: begin anew even if the run folder holds a checkpoint; predict: mask scenes "
        "anew that are masked already",
    )
    group.add_argument(
        "--checkpoint",
        choices=["best", "latest"],
        default="best",
        help="which checkpoint the modes after training use",
    )
    group.add_argument(
        "--method",
        default=None,
        help="name of the method in tables, shared by runs that differ by seed; "
        "None: the experiment's name",
    )
    group.add_argument(
        "--amp",
        type=boolean,
        default=False,
        metavar="BOOL",
        help="train and score in bfloat16 where that is safe: faster on GPUs and on processors "
        "with AMX, slower on others, up to ten times on those without bfloat16; scores differ by "
        "about 0.01, so a threshold is chosen anew",
    )
    group.add_argument(
        "--compile",
        type=boolean,
        default=False,
        metavar="BOOL",
        help="compile the generator, or the network that learns masks, for this device "
        "(torch.compile): takes minutes at the start, and a C++ compiler on CPUs; see "
        "docs/performance.md",
    )
    group.add_argument("--log_step", type=positive, default=10, help="steps between log entries")
    group.add_argument(
        "--profile",
        type=natural,
        default=0,
        metavar="STEPS",
        help="training: profile this many steps, the first three left out; the trace goes to "
        "runs/NAME for TensorBoard, the costliest operations are printed",
    )

    group.add_argument(
        "--select",
        choices=["pixel", "image"],
        default="pixel",
        help="choose the best checkpoint by macro F1 on the validation masks, as the paper (uses "
        "pixel labels), or on the validation patches' image-level labels",
    )

    group = parser.add_argument_group("data")
    group.add_argument(
        "--dataset",
        choices=[PREPARED, OWN, SPARCS],
        default=PREPARED,
        help=f"{PREPARED}: patches of prepare_landsat8_biome.py; {OWN}: any imagery, "
        f"{{train,val,test}}/{{clear,cloudy}}/*.tif below --image_dir; {SPARCS}: for --mode test "
        "alone, the scenes below --orig_image_dir",
    )
    group.add_argument(
        "--image_dir", "--l8biome_image_dir", default=DEFAULT_IMAGE_DIR, help="folder of patches"
    )
    group.add_argument(
        "--orig_image_dir",
        "--data_path",
        default=DEFAULT_SCENE_DIR,
        help=f"whole scenes, <biome>/<scene>/…; with --dataset {SPARCS} <scene>_data.tif",
    )
    group.add_argument(
        "--nodata",
        type=nodata,
        default=None,
        metavar="VALUE",
        help=f"what marks nodata in patches of --dataset {OWN} and in scenes: a number or "
        f"{NO_NODATA}; None: what the files say, or that of training; NaN always does",
    )
    group.add_argument(
        "--rgb",
        default=None,
        metavar="R,G,B",
        help="numbers, from 1, of the bands that pictures show as red, green and blue; None: 4,3,2 "
        "of Landsat, 1,2,3 of three bands, 3,2,1 of more; kept in the checkpoint",
    )
    group.add_argument(
        "--normalize",
        choices=["paper", "stretch"],
        default="paper",
        help="paper: DN / 65535, of uint8 / 255, of float32 each band from its least to its "
        "greatest value; stretch: each band from its 0.1 to 99.9 percentile in the training "
        "patches; a run that begins with other weights takes theirs",
    )
    group.add_argument(
        "--balance",
        type=boolean,
        default=False,
        metavar="BOOL",
        help="draw clear and cloudy patches equally often in training",
    )

    group.add_argument(
        "--skip_bad",
        type=boolean,
        default=False,
        metavar="BOOL",
        help="read every patch before the first step and leave out those that are damaged or "
        "unlike most (listed in config.json); False: stop at the first one and name it",
    )

    group = parser.add_argument_group("whole scenes")
    group.add_argument(
        "--test_split",
        choices=["train", "val", "test"],
        default="test",
        help="scenes that --mode test scores; the scores of other splits are no test of anything "
        "learned or chosen on them",
    )
    group.add_argument(
        "--tile_size",
        type=positive,
        default=None,
        help="side of the tiles a scene is scored in, pixels; None: that of the training patches",
    )
    group.add_argument(
        "--overlap",
        type=natural,
        default=None,
        help="pixels by which tiles overlap and are blended; None: 32, at most half a tile",
    )
    group.add_argument(
        "--runtime",
        choices=RUNTIMES,
        default=PYTORCH,
        help="what computes the scores of scenes; onnx: ONNX Runtime, on the CPU, after half a "
        "minute or less of preparation; the masks are the same, see docs/performance.md",
    )


def add_threshold_flags(group: argparse._ArgumentGroup, help: str) -> None:
    """Add the flags that say how the threshold of the score is chosen."""
    group.add_argument("--threshold", type=threshold, default=None, help=help)
    group.add_argument(
        "--threshold_patches",
        type=positive,
        default=10_000,
        help="at most this many patches to choose the threshold from",
    )


def add_prediction_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `--mode predict`."""
    group = parser.add_argument_group("prediction (--mode predict)")
    group.add_argument(
        "--scenes",
        nargs="+",
        metavar="PATH",
        default=None,
        help="scene folders, .tar or .tar.gz archives, MTL files, GeoTIFFs, globs, or text files "
        "with a path a line",
    )
    group.add_argument(
        "--output_dir", type=Path, default=Path("masks"), help="folder of masks and summary.csv"
    )
    group.add_argument(
        "--bands",
        default=None,
        help="how to read what is no Landsat Level-1 scene; of a GeoTIFF the bands in the order "
        "of training, such as 1-7,9-11; of a folder or archive the ends of the files' names, "
        "such as SR_B1,SR_B2",
    )
    group.add_argument(
        "--write_score",
        choices=SCORES,
        default="none",
        help="write the score beside the mask: uint8 (0 nodata, 1 to 255 for 0 to 1) or float32",
    )


def patch_source(flags: argparse.Namespace) -> PreparedPatches | RasterPatches:
    """Where `--dataset` and `--image_dir` say that patches are."""
    root = Path(flags.image_dir)
    if flags.dataset == OWN:
        return RasterPatches(root, flags.nodata)
    if flags.dataset == SPARCS:
        raise UserError(f"--dataset {SPARCS} has no patches: it is for --mode test")
    if flags.mode == "train" and flags.nodata is not None:
        raise UserError(
            f"--nodata {flags.nodata} is for --dataset {OWN}; DN 0 is that of {PREPARED}"
        )
    return PreparedPatches(root)


def rgb_bands(flags: argparse.Namespace, num_channels: int) -> tuple[int, ...] | None:
    """The bands of `--rgb`, counted from 0, or None; `UserError` if there are no such."""
    if flags.rgb is None:
        return None
    numbers = band_numbers(flags.rgb, "--rgb", distinct=False)
    if len(numbers) != 3 or max(numbers) > num_channels:
        raise UserError(
            f"--rgb {flags.rgb}: three band numbers from 1 to {num_channels} are expected, such "
            "as 3,2,1"
        )
    return tuple(number - 1 for number in numbers)


@dataclass(frozen=True)
class RunFolder:
    """Where a run keeps its files. `FCD+` lives in `outputs/FCDPlus` and `runs/FCDPlus`."""

    experiment: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w+ .=,@-]{1,100}", self.experiment) or self.experiment[0] in ". ":
            raise UserError(
                f"--experiment_name {self.experiment!r}: use 1 to 100 letters, digits and "
                "+ - _ . = , @, not beginning with a dot"
            )

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.experiment.replace("+", "Plus")

    @property
    def root(self) -> Path:
        """`outputs/<name>`."""
        return Path("outputs", self.name)

    @property
    def models(self) -> Path:
        """Checkpoints: `latest.pt`, the one before it `previous.pt`, and `best.pt`."""
        return self.root / "models"

    def checkpoint(self, name: str) -> Path:
        """The checkpoint `name`: best, latest or previous."""
        return self.models / f"{name}.pt"

    def resumable(self) -> list[Path]:
        """The checkpoints a stopped training can go on from, the newest first."""
        paths = (self.checkpoint(name) for name in ("latest", "previous"))
        return [path for path in paths if path.exists()]

    def onnx(self, name: str) -> Path:
        """The checkpoint `name` as an ONNX file."""
        return self.models / f"{name}.onnx"

    @property
    def samples(self) -> Path:
        """Sample pictures."""
        return self.root / "samples"

    @property
    def results(self) -> Path:
        """Masks, metrics and the report."""
        return self.root / "results"

    @property
    def logs(self) -> Path:
        """TensorBoard event files."""
        return Path("runs", self.name)


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
    commit = git_commit()
    return {
        "flags": flags,
        "commit": commit,
        "versions": {"python": platform.python_version()}
        | {package: metadata.version(package) for package in packages},
        "device": str(used_device)
        + (f" ({torch.cuda.get_device_name(used_device)})" if used_device.type == "cuda" else ""),
        "processes": processes,
    }


def start_run(
    folder: RunFolder,
    flags: dict[str, Any],
    data: dict[str, Any],
    used_device: torch.device,
    processes: Processes,
) -> None:
    """Write `config.json` before the first step of a training run.

    data: what is trained on, by split (`PatchDataset.summary`).

    A run that is continued keeps the config.json it began with, to which `continued` adds
    commit, versions, device and processes if they are others now. With `flags["overwrite"]` what an
    earlier run left is removed. Otherwise raises `UserError` if the folder holds checkpoints of
    a run with other settings or patches. The first of the `processes` does it, the others wait.
    """
    if processes.first:
        _start_run(folder, _plain(flags), data, used_device, processes.count)
    processes.wait()


def _start_run(
    folder: RunFolder,
    flags: dict[str, Any],
    data: dict[str, Any],
    used_device: torch.device,
    processes: int,
) -> None:
    path = folder.root / "config.json"
    described = describe(flags, used_device, processes) | {"data": data}
    if flags["overwrite"]:
        for left in (folder.models, folder.samples, folder.results, folder.logs):
            shutil.rmtree(left, ignore_errors=True)
    elif path.exists() and folder.resumable():
        config = read_json(path)
        before = _flags(config, path)
        changed = [
            f"--{name} {before.get(name)} then, {value} now"
            for name, value in flags.items()
            if name not in _EXECUTION_FLAGS and before.get(name) != value
        ]
        if changed:
            raise UserError(
                f"{folder.root} holds a run with other settings ({'; '.join(changed)}); choose "
                "another --experiment_name, or --overwrite True to train it anew"
            )
        then = config.get("data", data)  # runs of earlier versions do not say
        continued = config.get("continued", [])
        if not isinstance(continued, list) or not all(isinstance(c, dict) for c in continued):
            raise UserError(f"{path} is damaged (continued); --overwrite True trains anew")
        if then != data:
            raise UserError(
                f"{folder.root} was trained on other patches ({_in_words(then)} then, "
                f"{_in_words(data)} now); bring them back, or choose another --experiment_name"
            )
        now = {name: v for name, v in described.items() if name not in ("flags", "data")}
        last = [config, *continued][-1]
        if any(last.get(name) != value for name, value in now.items()):
            config["continued"] = [*continued, now]
            write_json(path, config)
        return
    write_json(path, described)


def _in_words(data: Any) -> str:
    """How many patches of each split; `data` comes from a file."""
    splits = data.items() if isinstance(data, dict) else ()
    counts = [(s, part.get("patches")) for s, part in splits if isinstance(part, dict)]
    return ", ".join(f"{split} {count}" for split, count in counts) or "unknown"


def run_config(folder: RunFolder, checkpoint: Path | None, flags: dict[str, Any]) -> dict[str, Any]:
    """What a report says of a run: the config of `checkpoint`, if any, and the test's flags."""
    path = checkpoint.resolve().parent.parent / "config.json" if checkpoint else None
    return {
        "experiment_name": folder.experiment,
        "trained": read_json(path) if path and path.exists() else None,
        "tested": _plain(flags),
    }


def carry_out(
    train: Callable[[], None],
    folder: RunFolder,
    flags: dict[str, Any],
    data: dict[str, Any],
    used_device: torch.device,
    processes: Processes,
) -> int:
    """Write `config.json` (see `start_run`), call `train`, say how it ended; return the exit code.

    Raises `UserError` if another run is training in this folder.
    """
    try:
        with _held(folder.root) if processes.first else nullcontext():
            start_run(folder, flags, data, used_device, processes)
            train()
    except Stopped as stop:
        if processes.first:
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


def _plain(flags: dict[str, Any]) -> dict[str, Any]:
    """Flags as JSON holds them."""
    return {name: str(v) if isinstance(v, Path) else v for name, v in flags.items()}
