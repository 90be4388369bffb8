"""How a command begins and ends: its device, what a person reads on stderr, the exit code."""

import errno
import io
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

import torch

from fcd.errors import READER_ENDED, UserError, first_line
from fcd.processes import failing, local_rank


def use_device(name: str) -> torch.device:
    """`auto` (CUDA, else MPS, else CPU) or a torch device name; checked to be there.

    Each of the processes that torchrun starts on a machine takes one CUDA device, or the CPU.
    """
    local = local_rank()
    if name == "auto" and torch.cuda.is_available():
        name = "cuda"
    elif name == "auto":
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
        reason = first_line(error)
        raise UserError(f"--device {name} cannot be used ({reason}); try --device cpu") from error
    device = torch.device(name)
    if device.type == "cuda":
        if device.index is not None:
            torch.cuda.set_device(device)  # memory is pinned for this one
        # A mantissa of 10 bits in products, sums in float32: cuDNN's default for convolutions.
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
    return device


def compiles(asked: bool, device: torch.device) -> bool:
    """`asked`, the value of --compile; `UserError` if True and PyTorch cannot compile here."""
    if asked:
        try:
            torch.compile(torch.neg)(torch.zeros(1, device=device))
        except RuntimeError as error:
            raise UserError(
                f"--compile True cannot be used on {device} ({first_line(error)}); "
                "install what it misses (on a CPU a C++ compiler) or leave it out"
            ) from error
    return asked


def run(main: Callable[[], int | None]) -> NoReturn:
    """Run an entry script: a `UserError` becomes one line on stderr and exit code 2.

    So do what the system refuses (a full disk, a folder that is read-only) and the end of a process
    that reads patches. SIGTERM ends it like an error does, so that no half-written file stays;
    training loops answer it themselves. Of several processes only the first to fail says why.
    """
    signal.signal(signal.SIGTERM, lambda signum, _: sys.exit(128 + signum))
    if isinstance(sys.stdout, io.TextIOWrapper):  # a path may be what the locale cannot say
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = main()
    except UserError as error:
        # A loader process hands its error on inside a traceback, as its last line.
        _end(f"error: {str(error).rstrip().rpartition(f'{type(error).__name__}: ')[2]}", 2)
    except KeyboardInterrupt:
        _end("stopped; run the same command again to go on", 128 + signal.SIGINT)
    except Exception as error:
        line = _from_outside(error)
        if line is None:
            with failing() as first:
                if first:
                    raise
            sys.exit(1)
        if hasattr(signal, "SIGCHLD"):
            # There PyTorch tells of readers that have ended: not once more while all is taken down.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _end(f"error: {line}", 2)
    sys.exit(code or 0)


def _end(line: str, code: int) -> NoReturn:
    """Exit with `code`; the first process to fail says why."""
    with failing() as first:
        if first:
            print(line, file=sys.stderr)
    sys.exit(code)


def _from_outside(error: Exception) -> str | None:
    """An error that is the system's and not the program's, in one line; None for others."""
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}; what was written before is kept"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"nothing more can be written ({error.strerror}); what was written before is kept"
    if isinstance(error, RuntimeError) and str(error).startswith(READER_ENDED):
        return (
            f"a process that reads patches has ended ({first_line(error)}), mostly for "
            "lack of memory: lower --num_workers; what was written before is kept"
        )
    return None
