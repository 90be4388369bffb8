"""The device a command computes on."""

import torch

from fcd.errors import UserError, first_line
from fcd.processes import local_rank


def use_device(name: str) -> torch.device:
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
        reason = first_line(error)
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
