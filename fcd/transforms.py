"""DN to network input and back: the only home of normalisation and augmentation."""

import math
import operator
from dataclasses import asdict, dataclass

import numpy as np
import torch

from fcd.distributed import Part
from fcd.errors import UserError

DN_MAX = 65535  # uint16
MAX_BANDS = 1000  # of a checkpoint that is believed
FILL = -1.0  # what a fill pixel becomes, exactly
# The smallest value a valid pixel can take, that of DN 1 in `paper` normalisation: a dark
# valid pixel must stay distinct from fill, which the generator leaves untouched.
VALID_MIN = 2 / DN_MAX - 1


@dataclass(frozen=True)
class Normalization:
    """Linear map of each band from [low, high] in DN to [-1, 1]; `nodata` becomes exactly -1.

    In floating-point sources NaN and infinity are nodata, too.

    ``paper``: DN / 65535, then (x - 0.5) / 0.5, the same for every band.
    ``stretch``: low and high are the 0.1 and 99.9 percentiles of the band in the training
    split; thin cloud, a tenth of the DN range, then takes a far larger share of [-1, 1].
    Values outside [low, high] are clipped.
    """

    kind: str
    low: tuple[float, ...]
    high: tuple[float, ...]
    nodata: float = 0

    @classmethod
    def paper(cls, num_channels: int) -> "Normalization":
        """The paper's normalisation for `num_channels` uint16 bands."""
        return cls("paper", (0.0,) * num_channels, (float(DN_MAX),) * num_channels)

    @classmethod
    def stretch(cls, dn_counts: np.ndarray) -> "Normalization":
        """Per-band stretch from `dn_counts` (C, 65536): how often each DN occurs; 0 is fill."""
        low, high = [], []
        for band, counts in enumerate(dn_counts):
            share = np.cumsum(counts[1:]) / max(counts[1:].sum(), 1)
            low.append(float(np.searchsorted(share, 0.001) + 1))
            high.append(float(np.searchsorted(share, 0.999) + 1))
            if high[-1] <= low[-1]:
                raise UserError(
                    f"band {band + 1} of the training patches holds one value only; "
                    "--normalize stretch needs bands that vary"
                )
        return cls("stretch", tuple(low), tuple(high))

    @classmethod
    def from_state(cls, state: dict) -> "Normalization":
        """Undo `state`; TypeError, KeyError or ValueError if it is none."""
        low, high = (tuple(map(float, state[name])) for name in ("low", "high"))
        if not 0 < len(low) == len(high) <= MAX_BANDS:
            raise ValueError(f"normalization of {len(low)} and {len(high)} bands")
        numbers = (*low, *high, float(state["nodata"]))
        if not all(map(math.isfinite, numbers)) or not all(map(operator.lt, low, high)):
            raise ValueError("normalization whose bounds are none")
        return cls(str(state["kind"]), low, high, state["nodata"])

    def state(self) -> dict:
        """Plain values for a checkpoint or a JSON file."""
        return {**asdict(self), "low": list(self.low), "high": list(self.high)}

    @property
    def num_channels(self) -> int:
        """Number of bands."""
        return len(self.low)

    def _bounds(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        bounds = torch.tensor([self.low, self.high], dtype=torch.float32, device=like.device)
        low, high = bounds.view(2, 1, -1, 1, 1)
        return low, high

    def normalize(self, dn: torch.Tensor) -> torch.Tensor:
        """DN (N, C, H, W), any number type -> float32 in [-1, 1] on the same device."""
        floating, x = dn.is_floating_point(), dn.to(torch.float32, copy=True)
        low, high = self._bounds(x)
        nodata = x == self.nodata
        if floating:
            nodata |= ~x.isfinite()
        # In place: what is computed here waits for memory.
        x.sub_(low).mul_(2 / (high - low)).sub_(1).clamp_(VALID_MIN, 1.0)
        return x.masked_fill_(nodata, FILL)

    def is_valid(self, dn: np.ndarray) -> np.ndarray:
        """Where no band of `dn` (C, ...) is nodata: (...) bool."""
        valid = dn != self.nodata
        if np.issubdtype(dn.dtype, np.floating):
            valid &= np.isfinite(dn)
        return valid.all(axis=0)

    def denormalize(self, x: torch.Tensor) -> torch.Tensor:
        """Network values (N, C, H, W) in [-1, 1] -> DN as float32; fill becomes `nodata`."""
        low, high = self._bounds(x)
        return ((x + 1) / 2 * (high - low) + low).masked_fill(x == FILL, self.nodata)


def to_device(dn: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Move DN to `device`: as they are, or as float32 to MPS, which has no uint16."""
    dn = dn.float() if device.type == "mps" else dn
    return dn.to(device, non_blocking=True)


def random_horizontal_flip(
    generator: torch.Generator, *batches: torch.Tensor, part: Part | None = None
) -> tuple[torch.Tensor, ...]:
    """Flip each sample left-right with probability 1/2, all `batches` (N, …, W) alike.

    part: which part of a batch they are, if not the whole.
    """
    flip = (part or Part(len(batches[0]))).uniform(generator) < 0.5
    return tuple(
        torch.where(flip.view(-1, *[1] * (batch.dim() - 1)).to(batch.device), batch.flip(-1), batch)
        for batch in batches
    )
