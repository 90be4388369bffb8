"""In what precision and by which runtime scenes are scored: asked for, or measured and kept.

No table of processors is right: bfloat16 is twice as fast as float32 on one and a tenth as fast on
another. So `auto` times what there is on tiles of the first scene.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from fcd import metrics
from fcd.errors import UserError
from fcd.files import read_json, write_json
from fcd.landsat import labels
from fcd.landsat.scenes import Scene
from fcd.masks.quantisation import (
    MOST_PIXELS,
    Samples,
    check_quantisable,
    differing,
    quantised,
)
from fcd.masks.runtime import ONNX, PYTORCH, Runtime, libraries, onnx_score
from fcd.masks.scoring import PLAIN, Precision, Scorer, Tiles, Way, sampled
from fcd.masks.tiling import Score
from fcd.processes import Processes

AUTO: Literal["auto"] = "auto"
FLOAT32: Precision = "float32"
BFLOAT16: Precision = "bfloat16"
INT8: Precision = "int8"
Choice = Literal["auto", "float32", "bfloat16", "int8"]
_Way = tuple[Precision, Runtime]
_By = Callable[[Precision, Runtime], Scorer]
KEPT = "precision.json"
LOOKED_AT = 4  # scenes from which tiles are taken, at most
MEASURED = 1 << 16  # pixels that are scored to measure
LOOK, BUDGET = 0.5, 2.5  # seconds for a look at float32 alone, and for all ways, at most
SHARE = 0.1  # of the work that is looked ahead to, which all ways may take to be measured
ROUNDS = 7  # at most
HOPELESS = 3.0  # times as slow as float32: not measured any further
GAIN = 1.05  # times as fast as float32 at least, or it is left for nothing
# What pays back: measuring takes seconds, writing and calibrating networks a minute.
SMALL = 4_000_000  # pixels in all, below which float32 is taken unmeasured
WORTH_MEASURING = 6.0  # seconds of work in float32
WORTH_PREPARING = 600.0  # seconds of work in float32 from which ONNX Runtime is measured, too


@dataclass(frozen=True)
class Asked:
    """What was asked for. runtime: None takes any."""

    precision: Choice = "float32"
    runtime: Runtime | None = None

    @classmethod
    def of(
        cls,
        precision: Choice | None,
        runtime: Runtime | None,
        amp: bool | Literal["auto"],
        default: Choice,
    ) -> "Asked":
        """What --precision, --runtime and --amp say together.

        default: what none of them says. Raises `UserError` if they contradict one another.
        """
        if amp == AUTO:
            amp, default = False, AUTO
        if amp and runtime == ONNX:
            raise UserError(f"--runtime {ONNX} computes in float32: leave --amp out")
        if amp and precision not in (None, BFLOAT16):
            raise UserError(f"--amp True is --precision {BFLOAT16}, not {precision}: give one")
        if precision == BFLOAT16 and runtime == ONNX:
            raise UserError(f"--runtime {ONNX} computes in float32 or int8, not in {BFLOAT16}")
        if precision == INT8 and runtime == PYTORCH:
            raise UserError(f"--precision {INT8} is computed by ONNX Runtime: leave --runtime out")
        if precision is None:
            precision = BFLOAT16 if amp else FLOAT32 if runtime else default
        return cls(precision, runtime)

    def check(self, scorer: Scorer) -> None:
        """Raise `UserError` if `scorer` cannot score so."""
        if self.precision == INT8:
            _check_onnx(scorer, f"--precision {INT8}")
            check_quantisable(scorer)
        elif self.runtime == ONNX:
            _check_onnx(scorer, f"--runtime {ONNX}")


def _check_onnx(scorer: Scorer, flag: str) -> None:
    if scorer.device.type != "cpu":
        raise UserError(f"{flag} scores on the CPU: add --device cpu")
    if scorer.compiled:
        raise UserError(f"{flag} compiles the network itself: leave --compile out")
    scorer.check_exportable()
    libraries()


@dataclass(frozen=True)
class Job:
    """What is to be masked.

    folder: where what is chosen is kept. scenes: the first ones, each opened when it is asked for.
    count: how many there are. patches: training patches, so many, if they are at hand; see
    `fcd.masks.quantisation.Samples`.
    """

    folder: Path
    scenes: Callable[[], Iterator[Scene]]
    count: int
    patches: Callable[[], Samples] | None = None


def in_precision(scorer: Scorer, asked: Asked, tiles: Tiles, threshold: float, job: Job) -> Scorer:
    """`scorer` as it was asked for; `auto` measures and says what it takes.

    threshold: of the masks that have to agree. The choice is kept in the folder of `job` and taken
    again while weights, score, threshold and tiles stay the same; one that so few pixels were not
    worth to measure, for no more pixels. Raises `UserError` if it cannot score so.
    """
    by, processes = cache(partial(_scorer, scorer, tiles, threshold, job)), scorer.processes
    if asked.precision != AUTO:
        way = Way(asked.precision, ONNX if asked.precision == INT8 else asked.runtime or PYTORCH)
        return _shared(by, way, processes)
    same = {
        "weights": scorer.fingerprint,
        "score": scorer.name,
        "threshold": threshold,
        "tile_size": tiles.size,
        "asked_runtime": asked.runtime,
        "compiled": scorer.compiled,
    }
    kept = _kept(job, same)
    if kept is None and processes.first:
        kept, enough_for = _measured(scorer, asked, tiles, threshold, job, by)
        if enough_for != 0:
            _keep(job.folder, same, kept, enough_for)
    way = processes.broadcast(kept) or PLAIN
    print(f"precision: {way.told}")
    return _shared(by, way, processes)


def _shared(by: _By, way: Way, processes: Processes) -> Scorer:
    """The scorer of `way`, whose files the first process writes before the others look for them."""
    if processes.first:
        by(way.precision, way.runtime)
    processes.wait()
    scorer = by(way.precision, way.runtime)
    return replace(scorer, way=replace(scorer.way, why=way.why))


def _scorer(
    scorer: Scorer,
    tiles: Tiles,
    threshold: float,
    job: Job,
    precision: Precision,
    runtime: Runtime,
) -> Scorer:
    """`scorer` in this precision by this runtime."""
    way, score = Way(precision, runtime), scorer.score
    if precision == INT8:
        samples = _samples(scorer, tiles, job)
        score, network = quantised(scorer, samples, threshold, job.folder)
        way = replace(way, network=network)
    elif precision == BFLOAT16:
        return in_bfloat16(scorer)
    elif runtime == ONNX:
        score = onnx_score(scorer.module, scorer.multiple)
    return replace(scorer, score=score, way=way)


def in_bfloat16(scorer: Scorer) -> Scorer:
    """`scorer`, computing in bfloat16 where that is safe."""
    score = torch.autocast(scorer.device.type, torch.bfloat16)(scorer.score)
    return replace(scorer, score=score, way=Way(BFLOAT16))


# --- tiles of the scenes ------------------------------------------------------------------------


def _tiles(
    scorer: Scorer, tiles: Tiles, job: Job, scenes: int, count: int
) -> Iterator[tuple[Tensor, np.ndarray]]:
    """See `sampled`: at most `count` tiles of one size, from so many `scenes` if these have enough.

    Else from further ones. What cannot be read is left out: why, is said when it is masked.
    """
    side, each = 0, -(-count // max(1, min(scenes, job.count)))

    def drawn() -> Iterator[tuple[Tensor, np.ndarray]]:
        for scene in islice(job.scenes(), LOOKED_AT):
            with suppress(UserError):
                yield from sampled(scorer, scene, tiles, each * tiles.size**2)

    for x, valid in islice(drawn(), count):
        side = side or len(valid)
        if len(valid) == side:
            yield x, valid


def _samples(scorer: Scorer, tiles: Tiles, job: Job) -> Samples:
    """Training patches if they are at hand and fit, else such from the scenes themselves."""
    if job.patches:
        with suppress(UserError):
            return job.patches()
    tiles = replace(tiles, size=scorer.image_size)  # larger ones would be more pixels than needed

    def draw(count: int) -> Iterator[tuple[Tensor, np.ndarray, None]]:
        return ((x, valid, None) for x, valid in _tiles(scorer, tiles, job, LOOKED_AT, count))

    return Samples(draw, "tiles of the scenes", of_training=False)


# --- measured ------------------------------------------------------------------------------------


@torch.inference_mode()
def _measured(
    scorer: Scorer,
    asked: Asked,
    tiles: Tiles,
    threshold: float,
    job: Job,
    by: _By,
) -> tuple[Way, int | None]:
    """The fastest way whose masks agree with those in float32 on a few tiles, and why.

    And for how many pixels that holds: None for any, 0 if nothing could be read.
    """
    first: _Way = (FLOAT32, asked.runtime or PYTORCH)
    plain = Way(*first)
    if scorer.compiled:
        return replace(plain, why="auto: --compile True"), None
    pixels = _pixels(job)
    if pixels < SMALL:
        return replace(plain, why="auto: too few pixels to measure"), pixels
    found = list(_tiles(scorer, tiles, job, 1, max(1, MEASURED // tiles.size**2)))
    if not found:
        return replace(plain, why="auto: no tile to measure on"), 0
    x = torch.stack([x for x, _ in found]).to(scorer.device)
    valid = np.stack([valid for _, valid in found])
    scores = {first: by(*first).score}
    computed = pixels * (tiles.size / (tiles.size - tiles.overlap)) ** 2
    work = computed * timed(scores, x[:1], scorer.multiple, LOOK)[first][0]
    if work < WORTH_MEASURING:
        return replace(plain, why="auto: too little work to measure"), pixels
    for way in _ways(scorer, asked.runtime, prepared=work >= WORTH_PREPARING):
        with suppress(UserError):  # of a network whose masks in int8 differ
            scores[way] = by(*way).score
    took = timed(scores, x, scorer.multiple, min(BUDGET, SHARE * work))
    masks = {
        way: labels.patch_from_score(values, valid[: len(values)], threshold)
        for way, (_, values) in took.items()
    }
    differ = {way: differing(metrics.confusion(masks[first], mask)) for way, mask in masks.items()}
    rates = {way: took[first][0] / seconds for way, (seconds, _) in took.items()}
    agreeing = [way for way in took if differ[way] <= MOST_PIXELS and rates[way] >= GAIN]
    if not agreeing:
        told = [f"{_name(way)} {rates[way]:.2f} times" for way in took if way != first]
        slow = [_name(way) for way in scores if way not in took]
        tried = ", ".join([*told, *(f"{name} far slower" for name in slow)])
        return replace(plain, why=f"auto: nothing else agrees and is faster: {tried}"), None
    best = max(agreeing, key=rates.__getitem__)
    named = f"{_name(best)} " * (best[0] == FLOAT32)
    gain = f"{named}{rates[best]:.2f} times as fast as float32"
    return Way(*best, f"auto: {gain}, {differ[best]:.2%} of pixels differ"), None


def _pixels(job: Job) -> int:
    """Of all scenes, if they are as large as the first that can be read."""
    for scene in islice(job.scenes(), LOOKED_AT):
        with suppress(UserError), scene.open() as reader:
            return reader.grid.height * reader.grid.width * job.count
    return 0


def _ways(scorer: Scorer, runtime: Runtime | None, *, prepared: bool) -> Iterator[_Way]:
    """What there is beside float32 by PyTorch, or by the `runtime` that is asked for.

    prepared: also what takes a minute before it scores.
    """
    kind = scorer.device.type
    if runtime != ONNX and kind in ("cpu", "cuda"):
        yield BFLOAT16, PYTORCH
    if runtime != PYTORCH and kind == "cpu" and prepared:
        if runtime is None:
            yield FLOAT32, ONNX
        yield INT8, ONNX


def _name(way: _Way) -> str:
    return "by ONNX Runtime" if way == (FLOAT32, ONNX) else way[0]


def timed(
    scores: Mapping[_Way, Score], x: Tensor, multiple: int, budget: float
) -> dict[_Way, tuple[float, np.ndarray]]:
    """Seconds a pixel that each of `scores` takes, by turns, and what it makes of x (N, C, s, s).

    In `budget` seconds: of x as many tiles as these allow. What takes more than `HOPELESS` times as
    long as the first is left out. multiple: of the sides that the networks take.
    """
    began = time.monotonic()
    side = max(multiple, x.shape[-1] // 2 // multiple * multiple)
    part = x[:1, :, :side, :side]

    def taken(score: Score, x: Tensor) -> tuple[float, np.ndarray]:
        start = time.monotonic()
        values = score(x).float().cpu().numpy()
        return (time.monotonic() - start) / values.size, values

    tried: dict[_Way, float] = {}
    for way, score in scores.items():
        taken(score, part)  # what is prepared at the first call
        seconds, _ = taken(score, part)
        if seconds <= HOPELESS * next(iter(tried.values()), seconds):
            tried[way] = seconds
    tile = sum(tried.values()) * x[0, 0].numel()
    left = budget - (time.monotonic() - began)
    batch = x[: max(1, int(left / tile))]
    rounds = min(ROUNDS, max(1, int(left / (tile * len(batch)))))
    made = [{way: taken(scores[way], batch) for way in tried} for _ in range(rounds)]
    return {way: (median(one[way][0] for one in made), made[0][way][1]) for way in tried}


# --- kept ----------------------------------------------------------------------------------------


def _kept(job: Job, same: dict[str, Any]) -> Way | None:
    """The choice kept for `job` that holds for `same`; `UserError` if there is no telling."""
    for entry in _entries(job.folder):
        if same.items() <= entry.items():
            names = ("precision", "runtime", "why", "enough_for")
            told: list[Any] = [entry.get(name) for name in names]
            precision, runtime, why, enough_for = told
            known = precision in get_args(Precision) and runtime in get_args(Runtime)
            if not known or type(enough_for) not in (int, type(None)):
                raise _damaged(job.folder)
            if enough_for is None or _pixels(job) <= enough_for:
                return Way(precision, runtime, str(why))
    return None


def _entries(folder: Path) -> list[dict[str, Any]]:
    path = folder / KEPT
    if not path.exists():
        return []
    entries = read_json(path).get("choices")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise _damaged(folder)
    return entries


def _damaged(folder: Path) -> UserError:
    return UserError(f"{folder / KEPT} holds no choice of precision; remove it, and one is made")


def _keep(folder: Path, same: dict[str, Any], way: Way, enough_for: int | None) -> None:
    others = [entry for entry in _entries(folder) if not same.items() <= entry.items()]
    entry = same | {"precision": way.precision, "runtime": way.runtime, "why": way.why}
    write_json(folder / KEPT, {"choices": [*others, entry | {"enough_for": enough_for}]})
