"""DN to network input and back: the only home of normalisation, and of what is measured for it."""

import math
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import reduce
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch

from fcd.errors import SceneError, UserError
from fcd.landsat.bands import (
    BANDS,
    FILL_DN,
    PIXEL_SIZE,
    SUN,
    THERMAL,
    are_named,
    band_names,
    described,
    is_landsat,
)  # fmt: skip
from fcd.landsat.radiometry import DN_MAX, SUN_STEPS
from fcd.landsat.rasters import nodata_value

DTYPES = ("uint8", "uint16", "float32")  # what DN, or the values of other imagery, can be
MAX_BANDS = 1000  # of a checkpoint that is believed
FILL = -1.0  # what a fill pixel becomes, exactly
# The smallest value a valid pixel can take, that of DN 1 in `paper` normalisation: a dark
# valid pixel must stay distinct from fill, which the generator leaves untouched.
VALID_MIN = 2 / DN_MAX - 1
ROOT = "root"
TOA = "toa"  # the kind of `Normalization` that takes standard DN
BINS = 65536  # of the range of a float32 band, to find its percentiles
# Of a float32 band, the range of all other values, up to which a gap beside one value is an outlier
# that rules the range: these others would share a quarter of [-1, 1].
RULED = 3

Nodata: TypeAlias = float | tuple[float, ...] | None
"""A value, or several, that count in all bands; None: no value."""
Values = TypeVar("Values", torch.Tensor, np.ndarray)


def as_nodata(values: Iterable[float]) -> Nodata:
    """Values that mean nothing, as one of them, all or None."""
    found = tuple(dict.fromkeys(values))
    return found if len(found) > 1 else next(iter(found), None)


def values_of(nodata: Nodata) -> tuple[float, ...]:
    """The values that `nodata` is."""
    return nodata if isinstance(nodata, tuple) else () if nodata is None else (nodata,)


def in_words(nodata: Nodata) -> str:
    """The values as a user would give them to --nodata."""
    # As short as float32 allows, and read back as the same value.
    values = (v if isinstance(v, int) else np.float32(v) for v in values_of(nodata))
    return " ".join(map(str, values)) or "none"


@dataclass(frozen=True)
class Kind:
    """What all patches of a data set have in common. nodata: None if no value marks it.

    pixel_size: side of a pixel on the ground, metres; None if it is unknown or differs, as it may.
    """

    bands: tuple[str, ...]
    image_size: int
    dtype: str
    nodata: Nodata
    pixel_size: float | None = field(default=None, compare=False)

    def __str__(self) -> str:
        nodata = "no nodata" if self.nodata is None else f"nodata {in_words(self.nodata)}"
        size = f"{self.image_size}x{self.image_size} pixels"
        return f"{described(self.bands)} of {self.dtype}, {size}, {nodata}"

    @property
    def num_channels(self) -> int:
        """Number of bands."""
        return len(self.bands)

    def require_landsat(self, asked: str, instead: str) -> None:
        """Raise `UserError` unless these are DN of Landsat-8, which the flag `asked` takes."""
        if not is_landsat(self.bands, self.dtype) or self.nodata not in (None, FILL_DN):
            raise UserError(
                f"{asked} needs DN of Landsat-8 (uint16, nodata {FILL_DN}, bands named as "
                f"{', '.join(BANDS)}); there are {self}: give {instead}"
            )


@dataclass(frozen=True)
class Normalization:
    """Map of each band from [low, high] in DN to [-1, 1]; values beyond are clipped.

    It is linear but for ``root``. Nodata becomes exactly -1; in floating-point sources NaN and
    infinity are nodata, too.

    ``paper``: DN / 65535, then (x - 0.5) / 0.5, the same for every band; of uint8 DN / 255, of
    float32 each band from the least to the greatest value in the training split.
    ``stretch``: from the 0.1 to the 99.9 percentile of the band in the training split; thin
    cloud, a tenth of the DN range, then takes a far larger share of [-1, 1].
    ``root``: the same, and the square root of it in bands of light: haze and cirrus, which are
    faint in light units, then differ from clear ground as much as bright clouds do.
    ``toa``: as ``stretch`` of standard DN (`fcd.landsat.radiometry`), which is what then is mapped.
    The band ``SUN`` is mapped from a sun on the horizon to one overhead.

    dtype: of `DTYPES`. bands: their names, by default those of `band_names`. pixel_size: see
    `Kind`. These three are not part of `repr`, which tells trained weights apart, those of earlier
    versions too.
    """

    kind: str
    low: tuple[float, ...]
    high: tuple[float, ...]
    nodata: Nodata = 0
    dtype: str = field(default="uint16", repr=False)
    bands: tuple[str, ...] = field(default=(), repr=False)
    pixel_size: float | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.bands:
            object.__setattr__(self, "bands", band_names(self.num_channels))

    @classmethod
    def paper(
        cls,
        num_channels: int,
        dtype: str = "uint16",
        nodata: Nodata = 0,
        bands: tuple[str, ...] = (),
    ) -> "Normalization":
        """The paper's for `num_channels` bands of integers: by the type's range."""
        greatest = float(np.iinfo(dtype).max)
        low, high = (0.0,) * num_channels, (greatest,) * num_channels
        return cls("paper", low, high, nodata, dtype, bands)

    @classmethod
    def stretch(
        cls,
        counts: np.ndarray,
        values: np.ndarray | None = None,
        nodata: Nodata = 0,
        dtype: str = "uint16",
        bands: tuple[str, ...] = (),
    ) -> "Normalization":
        """Per-band stretch from how often, `counts` (C, V), each of `values` (C, V) occurs.

        values: ascending; None for 0, 1, 2, … V - 1. Those that are `nodata` do not count.
        """
        low, high = [], []
        for band, occur in enumerate(counts):
            value = np.arange(len(occur)) if values is None else values[band]
            share = np.cumsum(np.where(np.isin(value, values_of(nodata)), 0, occur))
            percentiles = np.searchsorted(share / max(share[-1], 1), (0.001, 0.999))
            first, last = value[percentiles.clip(max=len(value) - 1)]
            if bands and bands[band] == SUN:  # few scenes have few suns
                first, last = 0, SUN_STEPS
            low.append(float(first))
            high.append(float(last))
        return cls("stretch", tuple(low), tuple(high), nodata, dtype, bands).varying()

    def varying(self) -> "Normalization":
        """Itself, or `UserError` if a band has no range."""
        for band, low, high in zip(self.bands, self.low, self.high, strict=True):
            if not low < high:
                raise UserError(
                    f"band {band} of the training patches holds one value only, or nodata alone; "
                    "its range cannot be measured: take the band out"
                )
        return self

    @classmethod
    def from_state(cls, state: dict) -> "Normalization":
        """Undo `state`; TypeError, KeyError or ValueError if it is none."""
        low, high = (tuple(map(float, state[name])) for name in ("low", "high"))
        if not 0 < len(low) == len(high) <= MAX_BANDS:
            raise ValueError(f"normalization of {len(low)} and {len(high)} bands")
        nodata, dtype = state["nodata"], str(state.get("dtype", "uint16"))
        bands = tuple(map(str, state.get("bands", band_names(len(low)))))
        if not len(bands) == len(low) == len({*bands}):
            raise ValueError(f"normalization of {len(low)} bands named {', '.join(bands)[:100]}")
        nodata = as_nodata(nodata if isinstance(nodata, list | tuple) else values_of(nodata))
        numbers = (*low, *high, *map(float, values_of(nodata)))
        if not all(map(math.isfinite, numbers)) or not all(map(operator.lt, low, high)):
            raise ValueError("normalization whose bounds are none")
        if dtype not in DTYPES:
            raise ValueError(f"normalization of {dtype}")
        # Earlier versions have not written down that of Landsat.
        of_landsat = PIXEL_SIZE if is_landsat(bands, dtype) else None
        pixel_size = state.get("pixel_size", of_landsat)
        if pixel_size is not None and not 0 < float(pixel_size) < math.inf:
            raise ValueError(f"pixels of {pixel_size} m")
        return cls(str(state["kind"]), low, high, nodata, dtype, bands, pixel_size)

    def state(self) -> dict:
        """Plain values for a checkpoint or a JSON file."""
        lists = {name: list(getattr(self, name)) for name in ("low", "high", "bands")}
        return asdict(self) | lists

    @property
    def num_channels(self) -> int:
        """Number of bands."""
        return len(self.low)

    def _rooted(self, like: torch.Tensor) -> torch.Tensor:
        """The bands whose square root is taken, (C, 1, 1) bool."""
        rooted = [self.kind == ROOT and band not in (*THERMAL, SUN) for band in self.bands]
        return to_device(torch.tensor(rooted), like.device).view(-1, 1, 1)

    @property
    def is_toa(self) -> bool:
        """Whether what is mapped are standard DN, reflectance and radiance."""
        return self.kind == TOA

    @property
    def knows_sun(self) -> bool:
        """Whether the height of the sun is one of the bands."""
        return SUN in self.bands

    @property
    def needs_sun(self) -> bool:
        """Whether what is mapped depends on the sun of its scene."""
        return self.is_toa or self.knows_sun

    def of(
        self,
        dtype: str,
        marked: Sequence[float | None],
        name: str,
        asked: Sequence[float] | None = None,
    ) -> "Normalization":
        """The map of the raster `name`, whose pixels are `dtype` and whose bands mark `marked`.

        A file that marks none is read like the training patches, and what all its bands mark counts
        beside their value (what single ones do, `fcd.landsat.rasters.blanked` takes out); `asked`
        (--nodata) for more than all that. DN 0 of Landsat always counts. Raises `SceneError` for
        another type than the training patches have, or if no value is that of theirs.
        """
        if dtype != self.dtype:
            raise SceneError(
                f"{name} holds {dtype}, the network was trained on {self.dtype}: its values would "
                "mean something else; convert it to the values of training"
            )
        fill = [FILL_DN] if is_landsat(self.bands, dtype) else []
        if asked is not None:
            return replace(self, nodata=as_nodata([*fill, *asked]))
        own = (*fill, *values_of(self.nodata))
        values = [value for value in marked if value is not None]
        if own and values and not {*own} & {*values}:
            both = as_nodata([*own, *values])
            raise SceneError(
                f"{name} marks {in_words(as_nodata(values))} as nodata, the training patches "
                f"have {in_words(as_nodata(own))}; say by --nodata which count, such as --nodata "
                f"{in_words(both)}"
            )
        common = values if len({*marked}) == 1 else []
        return replace(self, nodata=as_nodata([*own, *common]))

    def for_training(
        self, own: "Normalization", source: object, asked: Sequence[float] | None
    ) -> "Normalization":
        """The map that the weights `source` have learned with, for patches whose own is `own`.

        asked: see `of`. Raises `UserError` if the patches have other bands, or in another order, or
        are reflectance and those of the weights were not.
        """
        if are_named(self.bands) and are_named(own.bands) and self.bands != own.bands:
            raise UserError(
                f"{source} was trained on {described(self.bands)}, the training patches have "
                f"{described(own.bands)}; name those of the weights by --train_bands"
            )
        if self.is_toa != own.is_toa:
            learned, flag = ("reflectance", f"give --normalize {TOA}")
            if own.is_toa:
                learned, flag = ("DN", f"leave --normalize {TOA} out")
            raise UserError(
                f"{source} was trained on {learned}, the patches are read otherwise; {flag}"
            )
        values = values_of(own.nodata)
        learned_on = self.of(own.dtype, values or [None], "the training set", asked)
        return replace(learned_on, pixel_size=own.pixel_size or self.pixel_size)

    def is_nodata(self, dn: Values, *, integers: bool = False) -> Values:
        """Where `dn`, of any shape, hold no data; `integers`: they were, so none is NaN."""
        values: Any = dn
        where: list[Any] = [values == value for value in values_of(self.nodata)]
        if not integers:
            finite: Any = torch.isfinite(dn) if isinstance(dn, torch.Tensor) else np.isfinite(dn)
            where.append(~finite)
        return reduce(operator.or_, where) if where else values != values

    def _bounds(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        bounds = torch.tensor([self.low, self.high], dtype=torch.float32)
        # Made on a device, they would be waited for at every step, and all that is before them.
        low, high = to_device(bounds, like.device).view(2, 1, -1, 1, 1)
        return low, high

    def normalize(self, dn: torch.Tensor) -> torch.Tensor:
        """DN (N, C, H, W), any number type -> float32 in [-1, 1] on the same device."""
        x = dn.to(torch.float32, copy=True)
        low, high = self._bounds(x)
        nodata = self.is_nodata(x, integers=not dn.is_floating_point())
        # In place: what is computed here waits for memory.
        x.sub_(low).mul_(2 / (high - low))
        if self.kind == ROOT:
            x = torch.where(self._rooted(x), (2 * x).clamp_(min=0).sqrt_(), x)
        x.sub_(1).clamp_(VALID_MIN, 1.0)
        return x.masked_fill_(nodata, FILL)

    def is_valid(self, dn: np.ndarray) -> np.ndarray:
        """Where no band of `dn` (…, C, H, W) is nodata: (…, H, W) bool."""
        nodata = self.is_nodata(dn, integers=np.issubdtype(dn.dtype, np.integer))
        return np.logical_not(nodata.any(axis=-3))

    def denormalize(self, x: torch.Tensor) -> torch.Tensor:
        """Network values (N, C, H, W) in [-1, 1] -> DN as float32; fill becomes `nodata` or NaN."""
        low, high = self._bounds(x)
        nodata = next(iter(values_of(self.nodata)), math.nan)
        share = (x + 1) / 2
        if self.kind == ROOT:
            share = torch.where(self._rooted(x), share.square(), share)
        dn = share * (high - low) + low
        return torch.where(x == FILL, nodata, dn)


def to_device(dn: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Move DN to `device`: as they are, or as float32 to MPS, which has no uint16."""
    dn = dn.float() if device.type == "mps" else dn
    return dn.to(device, non_blocking=True)


def normalization(
    kind: str, data: Kind, images: Callable[[], Iterable[np.ndarray]]
) -> Normalization:
    """As `kind` says, from what patches hold if more than their type's range counts.

    images: gives the patches (C, H, W) one by one, the same ones at each call; of `toa` standard
    DN.
    """
    found = _measured(kind, data, images)
    return replace(found, pixel_size=data.pixel_size)


def _measured(kind: str, data: Kind, images: Callable[[], Iterable[np.ndarray]]) -> Normalization:
    alike: dict[str, Any] = {"nodata": data.nodata, "dtype": data.dtype, "bands": data.bands}
    if data.dtype == "float32":
        low, high = map(tuple, value_ranges(images(), data).tolist())
        measured = Normalization("paper", low, high, **alike).varying()
        if kind == "paper":
            return measured
        stretch = Normalization.stretch(*binned_counts(images(), measured), **alike)
        return replace(stretch, kind=kind)
    if kind == "paper":
        return Normalization.paper(data.num_channels, **alike)
    return replace(Normalization.stretch(dn_counts(images(), data.dtype), **alike), kind=kind)


def dn_counts(images: Iterable[np.ndarray], dtype: str) -> np.ndarray:
    """How often each DN of an integer type occurs per band, (C, 256 or 65536) int64.

    images: of that type, or float32 with NaN where there is nothing.
    """
    counts, size = np.zeros((), np.int64), np.iinfo(dtype).max + 1
    for image in images:
        bands = [band[np.isfinite(band)].astype(dtype, copy=False) for band in image]
        counts = counts + np.stack([np.bincount(band, minlength=size) for band in bands])
    return counts


def value_ranges(images: Iterable[np.ndarray], data: Kind) -> np.ndarray:
    """Least and greatest value of each band of float32 patches, (2, C); if none, inf and -inf.

    Raises `UserError` if a band holds a value so far from all others that it rules the range
    (`RULED`), which is what nodata does that no file marks.
    """
    ends = [_Ends.of(image, known(image, data.nodata)) for image in images]
    # Ends are of the values, and of these times -1: greatest ones are least ones then.
    low, high = (reduce(_Ends.with_, (pair[end] for pair in ends)) for end in (0, 1))
    with np.errstate(invalid="ignore", over="ignore"):
        between = -high.second - low.second
        ruled = [(end.second - end.first > RULED * between) & (between > 0) for end in (low, high)]
    for band, name in enumerate(data.bands):
        ends_of = [end for end, rules in zip((low, high), ruled, strict=True) if rules[band]]
        if not ends_of:
            continue
        values = [nodata_value((1 if e is low else -1) * float(e.first[band])) for e in ends_of]
        share = sum(end.count[band] for end in ends_of) / low.total[band]
        raise UserError(
            f"band {name} of the training patches is {in_words(as_nodata(values))} in "
            f"{100 * share:.2g} % of its pixels, {low.second[band]:.4g} to "
            f"{-high.second[band]:.4g} in all others: nodata that is not marked would rule its "
            f"range; give --nodata {in_words(as_nodata([*values_of(data.nodata), *values]))}"
        )
    return np.stack([low.first, -high.first])


@dataclass(frozen=True)
class _Ends:
    """The least value of each band, the least but that, how often the first and all occur: (C,)."""

    first: np.ndarray
    second: np.ndarray
    count: np.ndarray
    total: np.ndarray

    @classmethod
    def of(cls, image: np.ndarray, there: np.ndarray) -> "tuple[_Ends, _Ends]":
        """Those of the pixels (C, H, W) that are `there`, and of these times -1."""

        def ends(values: np.ndarray) -> _Ends:
            first = values.min(axis=(1, 2), where=there, initial=np.inf)
            others = there & (values != first[:, None, None])
            second = values.min(axis=(1, 2), where=others, initial=np.inf)
            total, rest = (np.count_nonzero(where, axis=(1, 2)) for where in (there, others))
            return cls(first, second, total - rest, total)

        return ends(image), ends(-image)

    def with_(self, other: "_Ends") -> "_Ends":
        """Those of the values of both."""
        both = np.stack([self.first, self.second, other.first, other.second])
        first = both.min(axis=0)
        second = both.min(axis=0, where=both != first, initial=np.inf)
        count = self.count * (self.first == first) + other.count * (other.first == first)
        return _Ends(first, second, count, self.total + other.total)


def binned_counts(
    images: Iterable[np.ndarray], measured: Normalization
) -> tuple[np.ndarray, np.ndarray]:
    """How often values fall into bins of the ranges `measured`, and their middles: (C, BINS)."""
    edges = np.linspace(measured.low, measured.high, BINS + 1, axis=1)
    counts = np.zeros((), np.int64)
    for image in images:
        bands = zip(image, known(image, measured.nodata), edges, strict=True)
        counts = counts + np.stack([np.histogram(b[there], e)[0] for b, there, e in bands])
    return counts, (edges[:, :-1] + edges[:, 1:]) / 2


def known(image: np.ndarray, nodata: Nodata) -> np.ndarray:
    """Where values of an image are finite and not `nodata`, bool of its shape."""
    return reduce(
        operator.and_, (image != value for value in values_of(nodata)), np.isfinite(image)
    )
