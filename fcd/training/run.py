"""A run: where it keeps its files, and how it is carried out."""

import re
from dataclasses import dataclass
from pathlib import Path

import torch

from fcd.errors import UserError
from fcd.processes import ALONE, Processes


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


@dataclass(frozen=True)
class Run:
    """How a run is carried out."""

    folder: RunFolder
    device: torch.device
    seed: int = 0
    num_workers: int = 0
    log_step: int = 10
    profile: int = 0
    """Training steps to profile."""
    processes: Processes = ALONE
    compile: bool = False
    """Whether networks are compiled, the first time they compute."""
