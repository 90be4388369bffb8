"""A run: where it keeps its files, how it is carried out, what of it a checkpoint holds."""

import hashlib
import math
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fcd.errors import UserError
from fcd.files import from_plain
from fcd.interruption import Interruption, Stopped
from fcd.processes import ALONE, Processes
from fcd.training import amp, averaging, checkpoints
from fcd.training.checkpoints import Choice
from fcd.training.losses import Parts

# What checkpoints of earlier versions lack, and what stands in for it where it is read.
ADDED_LATER = {"rgb", "in_bfloat16"}


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
    def root(self) -> Path:
        """The folder of all but the curves."""
        return Path("outputs", self.experiment.replace("+", "Plus"))

    @property
    def models(self) -> Path:
        """Checkpoints: `latest.pt`, the one before it `previous.pt`, and `best.pt`."""
        return self.root / "models"

    def checkpoint(self, name: str) -> Path:
        """The checkpoint `name`: best, latest or previous."""
        return self.models / f"{name}.pt"

    def resumable(self) -> list[Path]:
        """The checkpoints a stopped training can go on from, the newest first."""
        paths = map(self.checkpoint, ("latest", "previous"))
        return [path for path in paths if path.exists()]

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
        return Path("runs", self.root.name)


@dataclass(frozen=True)
class Run:
    """How a run is carried out."""

    folder: RunFolder
    device: torch.device
    seed: int = 0
    num_workers: int = 0
    log_step: int = 10
    profile: int = 0  # training steps to profile
    processes: Processes = ALONE
    compile: bool = False  # whether networks are compiled, the first time they compute


class Resumable:
    """Networks and optimisers that go into a checkpoint and come out of it, on any machine.

    A subclass adds its own to `state` and `restore`.
    """

    networks: dict[str, Any]  # modules, by the name they have in a checkpoint
    scoring: str  # the name of the one that scores, unless it has an average

    def __init__(self, run: Run) -> None:
        self.run = run
        self.step = 0
        self.best = -math.inf
        self.choice = Choice("last step", 0)
        self.began_trained = False  # with the weights of another run
        self.optimizers: dict[str, Any] = {}  # and the schedule, by their names in a checkpoint
        self.source = run.folder.checkpoint("best")  # the checkpoint the weights are from
        self.in_bfloat16: list[str] | None = None  # networks that train so; None: not chosen yet

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds: plain values and tensors by name."""
        return {
            "step": self.step,
            "best": self.best,
            "choice": asdict(self.choice),
            "in_bfloat16": self.in_bfloat16,
            **{name: it.state_dict() for name, it in (self.networks | self.optimizers).items()},
        }

    def restore(self, state: dict[str, Any], source: Path) -> None:
        """Take over everything `state`, the checkpoint `source`, holds."""
        self.source = source
        for name, network in self.networks.items():
            checkpoints.load_weights(network, state[name], source)
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state[name])
        self.step, self.best = int(state["step"]), float(state["best"])
        self.choice = from_plain(Choice, state["choice"], source)
        self.in_bfloat16 = state.get("in_bfloat16")

    @property
    def network(self) -> Any:
        """The network that scores: the average of `scoring`, if there is one, else itself."""
        return self.networks.get(averaging.name_of(self.scoring), self.networks[self.scoring])

    def add_average(self) -> None:
        """Score by the average of the network from now on, which is as it is now."""
        average = averaging.copy_of(self.networks[self.scoring])
        if self.run.compile:
            average.compile()
        self.networks[averaging.name_of(self.scoring)] = average

    def update_average(self, half_life: float) -> None:
        """Move the average to the weights as they are after this step; half_life: in steps."""
        weight = averaging.weight_of_new(self.step, half_life, ramp_up=not self.began_trained)
        averaging.follow(self.network, self.networks[self.scoring], weight)

    def autocast(self, enabled: bool) -> torch.autocast:
        """If `enabled`, the networks compute in bfloat16 where that is safe."""
        return torch.autocast(self.run.device.type, torch.bfloat16, enabled=enabled)

    def training(self, asked: amp.Amp, **inputs: tuple[Tensor, ...]) -> torch.autocast:
        """Autocast of a training step, whose networks take such `inputs`.

        Which of them compute in bfloat16 is chosen in the first step, and kept in the checkpoints.
        """
        if self.in_bfloat16 is None:
            first = self.run.processes.first
            found = amp.chosen(asked, self.networks, inputs) if first else None
            self.in_bfloat16 = self.run.processes.broadcast(found)
        return self.autocast(bool(self.in_bfloat16))

    def computing(self, name: str) -> Callable[..., Any]:
        """The network `name` as it trains: in bfloat16, under autocast, or in float32 even so."""
        network = self.networks[name]
        return network if name in (self.in_bfloat16 or ()) else partial(amp.in_float32, network)

    def digest(self, text: str) -> str:
        """Twelve hex digits that tell these weights, with `text`, from others."""
        digest = hashlib.sha256(text.encode())
        for network in self.networks.values():
            for value in network.state_dict().values():
                digest.update(value.cpu().numpy().tobytes())
        return digest.hexdigest()[:12]

    def save(self, *names: str, choice: Choice | None = None) -> None:
        """Write the checkpoints `names` (latest, best); the first process does.

        choice: how it was chosen, if not as the run itself.
        """
        if not self.run.processes.first:
            return
        state = self.state() | ({"choice": asdict(choice)} if choice else {})
        for name in names:
            earlier = self.run.folder.checkpoint("previous") if name == "latest" else None
            checkpoints.save(self.run.folder.checkpoint(name), state, earlier)

    def resume(self) -> bool:
        """Continue from `latest.pt` if there is one; if it is damaged, from the one before.

        Raises `UserError` if all there are are damaged or of another kind.
        """
        needs = tuple({*self.state()} - ADDED_LATER)
        if found := checkpoints.newest(self.run.folder.resumable(), needs):
            with checkpoints.another_kind(found[0]):
                self.restore(found[1], found[0])
        return found is not None

    def update(
        self, optimizer: Optimizer, loss: Tensor, weight: float, parameters: list[nn.Parameter]
    ) -> None:
        """One step of `optimizer` along the gradient that the whole batch's loss has.

        loss: the mean over this process's part of the batch, whose share is `weight`.
        """
        optimizer.zero_grad()
        (loss * weight).backward(inputs=parameters)
        self.run.processes.sum_gradients(parameters)
        optimizer.step()

    def check_finite(self, parts: Parts) -> None:
        """Raise `UserError` if a loss part or a weight is not finite."""
        finite = {name: torch.isfinite(value) for name, value in parts.items()}
        for name, network in self.networks.items():
            weights = [torch.isfinite(p).all() for p in network.parameters()]
            finite[f"weights of {name}"] = torch.stack(weights).all()
        # One question: a device is waited for until it has answered.
        answers = torch.stack(list(finite.values())).tolist()
        if bad := [name for name, answer in zip(finite, answers, strict=True) if not answer]:
            raise UserError(
                f"step {self.step}: {', '.join(bad)} is not finite; the last good checkpoint in "
                f"{self.run.folder.models} is kept. Try a smaller learning rate in a new run"
            )

    def check_equal(self) -> None:
        """Raise `UserError` if the processes do not have the same weights."""
        if self.run.processes.count > 1:
            state = f"step {self.step}, {self.digest('')}"
            self.run.processes.require_equal("weights", state)

    def synchronize(self) -> None:
        """Average what the processes' batch norm has gathered, and check that all else is equal."""
        for network in self.networks.values():
            self.run.processes.average_statistics(network)
        self.check_equal()

    def stop_if_asked(self, interruption: Interruption) -> None:
        """Save and raise `Stopped` if Ctrl-C or SIGTERM came, to whichever process."""
        if signum := self.run.processes.largest(interruption.signum or 0):
            self.check_finite({})
            self.synchronize()
            self.save("latest")
            raise Stopped(
                signum,
                f"stopped after step {self.step}, saved {self.run.folder.checkpoint('latest')}; "
                "run the same command again (without --overwrite True) to go on",
            )
