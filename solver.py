"""Training, thresholds, mask generation and evaluation."""

import hashlib
import json
import math
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader, Subset
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

import fcd
from data_loader import (
    PatchDataset,
    Source,
    StepBatches,
    as_source,
    batches_per_epoch,
    get_loader,
    threshold_choice,
)
from fcd import metrics, pictures
from fcd.cli import options
from fcd.cli.options import RunFolder, git_commit
from fcd.errors import UserError
from fcd.files import from_plain, read_json, write_json
from fcd.interruption import Interruption, Stopped
from fcd.landsat import labels
from fcd.landsat.reference import NAMES, QA, TRUTH
from fcd.landsat.scenes import Scene, SceneReader, band_names, default_rgb
from fcd.masks.cam import cam_score
from fcd.masks.export import ONNX, PYTORCH, DNScore, Scored, libraries, onnx_score, write_onnx
from fcd.masks.generated import alike, mask_tifs, together
from fcd.masks.prediction import ArrayScene, Prediction, Predictor, has_tags
from fcd.masks.tiling import Score, Strip, score_strips
from fcd.patches import prepared
from fcd.patches.imagery import NO_NODATA
from fcd.patches.normalisation import FILL, Normalization, to_device
from fcd.patches.supervision import UNKNOWN, Supervision
from fcd.processes import ALONE, Part, Processes
from fcd.report.evaluation import Evaluation, evaluate
from fcd.training import checkpoints
from fcd.training.augmentation import Augmentation
from fcd.training.losses import (
    LossWeights,
    Parts,
    detached,
    difference_map,
    discriminator_loss,
    generator_loss,
    label_loss,
    learning_rate_factor,
    segmentation_loss,
    translate,
)
from fcd.training.profiling import profiled
from model import Discriminator, Generator, build_resnet50, build_ucam, build_unet

THRESHOLD_SEED = 42
SELECTIONS = {
    "pixel": "best macro F1 on the validation masks",
    "image": "best macro F1 on the validation patches' image-level labels",
}
QA_SELECTION = "best macro F1 on the validation patches' QA bands"  # `pixel`, without manual masks
# The networks' zero padding writes a frame of about this many pixels into the scores of a tile.
FRAME = 32
MAX_IMAGE_SIZE = 16_384  # of a checkpoint that is believed, pixels
# What checkpoints of earlier versions lack, and what stands in for it (`Solver.restore`).
ADDED_LATER = {"rgb"}

# --- what the solvers share ------------------------------------------------------------------


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


@dataclass(frozen=True)
class Choice:
    """How a checkpoint was chosen, in words, and how many pixel labels that took."""

    by: str
    pixel_labels: int


@dataclass(frozen=True)
class Tiles:
    """How whole scenes are scored: tile side, overlap (pixels) and tiles per batch."""

    size: int
    overlap: int
    batch_size: int
    amp: bool = False
    """Whether the networks compute in bfloat16 where that is safe."""
    nodata: float | str | None = None
    """Of all scenes, whatever their files say; None: what they say, "none": no value."""
    runtime: str = PYTORCH
    """What computes the scores, of `fcd.masks.export.RUNTIMES`."""


class Solver:
    """Device, run folder, checkpoints, randomness, logging and scene scoring of a run.

    A subclass says what its networks are (`networks`, `state`, `restore`), how a pixel is
    scored (`score`) and what labels that has cost (`supervision`); thresholds, tiling, writing
    and evaluation exist once, here.
    """

    normalization: Normalization
    image_size: int
    tile_multiple: int  # tile sides the networks can take, pixels
    score_name: str  # what `score` is
    rgb: tuple[int, ...]  # red, green and blue among the bands, from 0
    natural_threshold: float | None = None  # of a score that is a probability
    learns_by_validation = False  # whether the learning rate follows the validation scores

    def __init__(self, run: Run) -> None:
        self.run = run
        self.device = run.device
        self.step = 0
        self.best = -math.inf
        self.choice = Choice("last step", 0)
        self._asked_rgb: tuple[int, ...] | None = None
        self.source = run.folder.checkpoint("best")  # the checkpoint the weights are from

    # What a subclass defines:

    def networks(self) -> dict[str, nn.Module]:
        """The networks by the name they have in a checkpoint."""
        raise NotImplementedError

    def score(self, x: Tensor) -> Tensor:
        """(N, C, h, w) float32 in [-1, 1] -> (N, h, w) cloud score in [0, 1]."""
        raise NotImplementedError

    def supervision(self, threshold: dict[str, Any]) -> Supervision:
        """What labels this run has seen, all choices and `threshold` (a record) included."""
        raise NotImplementedError

    def scoring_network(self) -> nn.Module:
        """The one of `networks` that `score` uses."""
        raise NotImplementedError

    def image_score(self, x: Tensor) -> Tensor:
        """(N, C, h, w) float32 in [-1, 1] -> (N,) how cloudy each patch is, in [0, 1]."""
        return self.score(x).mean(dim=(1, 2))

    def check_exportable(self) -> None:
        """Raise `UserError` if `score` cannot be written as ONNX."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {
            "step": self.step,
            "best": self.best,
            "choice": asdict(self.choice),
            "image_size": self.image_size,
            "normalization": self.normalization.state(),
            "rgb": list(self.rgb),
            **{name: network.state_dict() for name, network in self.networks().items()},
        }

    # Training:

    def randomness(self, step: int) -> torch.Generator:
        """Seed dropout and return the generator of step `step`: from seed and step alone.

        The generator is the same in all processes, each of which has dropout of its own.
        """
        seed = self.run.seed * 1_000_003 + step
        # The CPU's generator keeps 32 bits of its seed: neighbours must differ in those.
        torch.manual_seed(seed + self.run.processes.rank * 2_654_435_761)
        return torch.Generator().manual_seed(seed)

    def batches(
        self,
        dataset: PatchDataset,
        batch_size: int,
        stop: int,
        balance: bool,
        augment: str = "none",
    ) -> Iterator[tuple[dict, Part]]:
        """The batches from the step after `self.step` to step `stop`: this process's part of each.

        `all_labels` (size, 1) are the labels of the whole batch. augment: how the samples are
        changed, of `fcd.training.augmentation.AUGMENTATIONS`.
        """
        run, all_labels = self.run, dataset.labels
        if run.processes.count > 1:
            run.processes.require_equal("training patches", dataset.summary()["fingerprint"])
        order = StepBatches(
            all_labels, batch_size, run.seed, self.step, stop, balance, run.processes
        )
        augmentation = None if augment == "none" else Augmentation(augment, run.seed)
        loader = self._loader(dataset, batch_size, order, augmentation)

        def parts() -> Iterator[tuple[dict, Part]]:
            for batch, indices in zip(loader, order.whole(), strict=True):
                part = run.processes.part(len(indices), batch_size)
                yield batch | {"all_labels": all_labels[indices, None]}, part

        if run.profile and run.processes.first:
            return profiled(parts(), run.profile, run.folder.logs)
        return parts()

    def _loader(
        self,
        dataset: PatchDataset | Subset,
        batch_size: int,
        batches: StepBatches | None = None,
        augmentation: Augmentation | None = None,
    ) -> DataLoader:
        """Batches of `dataset`, read by the processes of `num_workers`; see `get_loader`."""
        return get_loader(
            dataset,
            batch_size,
            self.run.num_workers,
            batches=batches,
            augmentation=augmentation,
            pin_memory=self.device.type == "cuda",
        )

    def inputs(self, batch: dict) -> Tensor:
        """Images of a batch as network input, normalised on the device."""
        return self.normalization.normalize(to_device(batch["image"], self.device).contiguous())

    def autocast(self, amp: bool) -> torch.autocast:
        """With `amp` the networks compute in bfloat16 where that is safe."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=amp)

    def check_finite(self, parts: Parts) -> None:
        """Raise `UserError` if a loss part or a weight is not finite."""
        finite = {name: torch.isfinite(value) for name, value in parts.items()} | {
            f"weights of {name}": torch.stack(
                [torch.isfinite(p).all() for p in network.parameters()]
            ).all()
            for name, network in self.networks().items()
        }
        # One question: a device is waited for until it has answered.
        answers = torch.stack(list(finite.values())).tolist()
        if bad := [name for name, answer in zip(finite, answers, strict=True) if not answer]:
            raise UserError(
                f"step {self.step}: {', '.join(bad)} is not finite; the last good checkpoint in "
                f"{self.run.folder.models} is kept. Try a smaller learning rate in a new run"
            )

    def save(self, *names: str) -> None:
        """Write the checkpoints `names` (latest, best); the first process does."""
        if not self.run.processes.first:
            return
        state = self.state()
        for name in names:
            earlier = self.run.folder.checkpoint("previous") if name == "latest" else None
            checkpoints.save(self.run.folder.checkpoint(name), state, earlier)

    def save_best(self, choice: Choice) -> None:
        """Write `best.pt`, which says how it was chosen; `latest.pt` is not chosen at all."""
        if not self.run.processes.first:
            return
        state = self.state() | {"choice": asdict(choice)}
        checkpoints.save(self.run.folder.checkpoint("best"), state)

    def resume(self) -> bool:
        """Continue from `latest.pt` if there is one; if it is damaged, from the one before.

        Raises `UserError` if all there are are damaged or of another kind.
        """
        damage: checkpoints.DamagedCheckpoint | None = None
        for path in self.run.folder.resumable():
            try:
                state = checkpoints.load(path, tuple({*self.state()} - ADDED_LATER))
            except checkpoints.DamagedCheckpoint as error:
                print(f"{error}; going back to the checkpoint before", file=sys.stderr)
                damage = error
            else:
                with _another_kind(path):
                    self.restore(state, path)
                return True
        if damage:
            raise UserError(f"{damage}, and so is any before; --overwrite True trains anew")
        return False

    def restore(self, state: dict[str, Any], source: Path) -> None:
        """Take over everything `state`, the checkpoint `source`, holds."""
        self.source = source
        for name, network in self.networks().items():
            checkpoints.load_weights(network, state[name], source)
        self.step, self.best = int(state["step"]), float(state["best"])
        self.choice = from_plain(Choice, state["choice"], source)
        self.normalization = Normalization.from_state(state["normalization"])
        rgb = _rgb(state, self.normalization.num_channels)
        self.rgb = self._asked_rgb or rgb

    def use_rgb(self, bands: tuple[int, ...] | None) -> None:
        """Show `bands`, from 0, as red, green and blue; None: those of the checkpoint."""
        self._asked_rgb = bands
        self.rgb = bands or self.rgb

    def check_equal(self) -> None:
        """Raise `UserError` if the processes do not have the same weights."""
        if self.run.processes.count > 1:
            state = f"step {self.step}, {self.fingerprint()}"
            self.run.processes.require_equal("weights", state)

    def synchronize(self) -> None:
        """Average what the processes' batch norm has gathered, and check that all else is equal."""
        for network in self.networks().values():
            self.run.processes.average_statistics(network)
        self.check_equal()

    @contextmanager
    def loop(
        self, stop: int, unit: str
    ) -> Iterator[tuple[tqdm, "SummaryWriter | _NoLog", Interruption]]:
        """Progress bar, TensorBoard log and stop signals of a training loop."""
        self.check_equal()
        first = self.run.processes.first
        with (
            Interruption() as interruption,
            self._log() as log,
            tqdm(
                initial=self.step, total=stop, unit=unit, dynamic_ncols=True, disable=not first
            ) as bar,
        ):
            yield bar, log, interruption

    def _log(self) -> "SummaryWriter | _NoLog":
        if not self.run.processes.first:
            return _NoLog()
        # What an earlier start has logged of steps that are now done again is not shown.
        return SummaryWriter(str(self.run.folder.logs), purge_step=self.step + 1)

    def log_parts(
        self, log: SummaryWriter, bar: tqdm, parts: Parts, lr: float, shown: tuple[str, ...]
    ) -> None:
        """Log the loss parts and the learning rate; put the parts `shown` beside the bar.

        parts: this process's share of each.
        """
        parts = self.run.processes.sum_parts(parts)
        self.check_finite(parts)
        values = dict(zip(parts, torch.stack(list(parts.values())).tolist(), strict=True))
        for name, value in (values | {"lr": lr}).items():
            log.add_scalar(name, value, self.step)
        known = {name: f"{values[name]:.3f}" for name in shown if name in values}
        bar.set_postfix(known, refresh=False)

    def keep_best(self, log: SummaryWriter, cells: np.ndarray, select: str, reference: str) -> None:
        """Log the scores of the validation confusion `cells`, save latest, and best if it is.

        reference: what the validation masks come from, `fcd.landsat.reference.TRUTH` or `QA`.
        """
        scores = metrics.scores(cells)
        f1 = scores["macro"]["f1"]
        for name, value in [
            ("accuracy", scores["accuracy"]),
            ("f1", f1),
            ("iou", scores["macro"]["iou"]),
        ]:
            log.add_scalar(f"val/{name}", value, self.step)
        is_best = f1 > self.best
        self.best = max(f1, self.best)
        tqdm.write(
            f"step {self.step}: validation accuracy {scores['accuracy']:.3f}, "
            f"macro F1 {f1:.3f} (best {self.best:.3f})"
        )
        choice = Choice(SELECTIONS[select], int(cells.sum()) if select == "pixel" else 0)
        if select == "pixel" and reference == QA:
            choice = Choice(QA_SELECTION, 0)
        if is_best:
            self.save_best(choice)
        if self.learns_by_validation:
            self.choice = replace(choice, by=f"last step, learning rate by {choice.by}")
        self.save("latest")

    def stop_if_asked(self, interruption: Interruption) -> None:
        """Save and raise `Stopped` if Ctrl-C or SIGTERM came, to whichever process."""
        signum = self.run.processes.largest(interruption.signum or 0)
        if signum:
            self.check_finite({})
            self.synchronize()
            self.save("latest")
            raise Stopped(
                signum,
                f"stopped after step {self.step}, saved {self.run.folder.checkpoint('latest')}; "
                "run the same command again (without --overwrite True) to go on",
            )

    def fingerprint(self) -> str:
        """Twelve hex digits that tell these weights and this normalisation from others."""
        digest = hashlib.sha256(repr(self.normalization).encode())
        for network in self.networks().values():
            for value in network.state_dict().values():
                digest.update(value.cpu().numpy().tobytes())
        return digest.hexdigest()[:12]

    # Scores of patches and scenes:

    def tiles(
        self,
        size: int | None = None,
        overlap: int | None = None,
        batch_size: int = 16,
        amp: bool = False,
        nodata: float | str | None = None,
        runtime: str = PYTORCH,
    ) -> Tiles:
        """How to score scenes; by default in tiles of the training patches' size.

        Raises `UserError` if the networks cannot take the tiles, or not in this `runtime`.
        """
        size = size or self.image_size
        overlap = min(FRAME, size // 2) if overlap is None else overlap
        if size % self.tile_multiple:
            raise UserError(f"--tile_size {size} is no multiple of {self.tile_multiple}")
        if overlap > size // 2:
            raise UserError(f"--overlap {overlap} exceeds half the tile ({size // 2} pixels)")
        if runtime == ONNX:
            self._check_runtime(amp)
        return Tiles(size, overlap, batch_size, amp, nodata, runtime)

    def _check_runtime(self, amp: bool) -> None:
        """Raise `UserError` if ONNX Runtime cannot score."""
        if self.device.type != "cpu":
            raise UserError(f"--runtime {ONNX} scores on the CPU: add --device cpu")
        if amp:
            raise UserError(f"--runtime {ONNX} computes in float32: leave --amp out")
        if self.run.compile:
            raise UserError(f"--runtime {ONNX} compiles the network itself: leave --compile out")
        self.check_exportable()
        libraries()

    @cached_property
    def _onnx_score(self) -> Score:
        """`score` by ONNX Runtime, with the weights as they are when it is first asked for."""
        num_channels = self.normalization.num_channels
        with torch.inference_mode(False):
            module = Scored(self.scoring_network(), self.score, num_channels)
            return onnx_score(module, self.tile_multiple)

    @torch.inference_mode()
    def patch_histogram(
        self, dataset: PatchDataset | Subset, batch_size: int, amp: bool = False
    ) -> np.ndarray:
        """`fcd.metrics.histogram` (2, BINS) of the scores of all patches against their masks.

        Patches without masks count as clear where they have data. batch_size: of each process;
        amp: whether the networks compute in bfloat16 where that is safe.
        """
        counts = np.zeros((2, metrics.BINS), np.int64)
        for batch in tqdm(
            self._loader(self._own(dataset), batch_size),
            "scoring patches",
            leave=False,
            dynamic_ncols=True,
            disable=not self.run.processes.first,
        ):
            x = self.inputs(batch)
            with self.autocast(amp):
                score = self.score(x)
            score = score.float().cpu().numpy()
            if "mask" in batch:
                mask = batch["mask"]
            else:
                mask = torch.where((x == FILL).any(dim=1), labels.INVALID, labels.CLEAR).cpu()
            counts += metrics.histogram(mask.numpy(), score)
        return self.run.processes.sum_counts(counts)

    def _own(self, dataset: PatchDataset | Subset) -> PatchDataset | Subset:
        """The patches of `dataset` that this process scores."""
        processes = self.run.processes
        own = processes.share(range(len(dataset)))
        return dataset if processes.count == 1 else Subset(dataset, own)

    @torch.inference_mode()
    def image_histogram(self, dataset: PatchDataset, batch_size: int) -> np.ndarray:
        """Histogram (2, BINS) of the patches' image scores against their image-level labels."""
        codes = np.array([labels.CLEAR, labels.CLOUD])
        counts = np.zeros((2, metrics.BINS), np.int64)
        for batch in self._loader(self._own(dataset), batch_size):
            score = self.image_score(self.inputs(batch)).float().cpu().numpy()
            counts += metrics.histogram(codes[batch["label"][:, 0].long().numpy()], score)
        return self.run.processes.sum_counts(counts)

    def validate(
        self, dataset: PatchDataset, batch_size: int, select: str, threshold: float | None
    ) -> tuple[np.ndarray, float]:
        """Confusion (2, 2) of the pixels or of the patches, and the threshold it belongs to.

        batch_size: of all processes; select: `pixel` or `image`; threshold: None takes the one
        with the best macro F1. Raises `UserError` if no pixel counts.
        """
        count = self.patch_histogram if select == "pixel" else self.image_histogram
        counts = count(dataset, self.run.processes.per_process(batch_size))
        _require_pixels(counts, "validation")
        if threshold is None:
            threshold, _ = metrics.best_threshold(counts)
        cells = metrics.confusion_by_threshold(counts)
        return cells[round(threshold * metrics.BINS)], threshold

    def choose_threshold(
        self,
        choice: str | float | None,
        source: Source | Path | str,
        sample: int,
        batch_size: int,
        skip_bad: bool = False,
        amp: bool = False,
    ) -> dict[str, Any]:
        """The threshold of the score, and how many pixel labels it took.

        source: the patches; a path is a folder of prepare_landsat8_biome.py.
        choice: `f1` (the paper's: best macro F1 on the masks of at most `sample` seeded cloudy
        training patches; those of QA bands count as no pixel label), `otsu` (Otsu's on the same
        patches, without any mask), or a number in [0, 1]; None: `natural_threshold`, without one
        see `data_loader.threshold_choice`. amp: whether it is for scores computed in bfloat16.
        The result is kept in results/threshold.json and used again while checkpoint and choice
        stay the same.
        """
        path = self.run.folder.results / "threshold.json"
        source = as_source(source)
        if choice is None:
            choice = self.natural_threshold
        if choice is None:
            choice = threshold_choice(source)
        asked = {
            "choice": choice,
            "score": self.score_name,
            "weights": self.fingerprint(),
            "checkpoint": asdict(self.choice),
            "image_dir": str(source.root.resolve()),
            "reference": source.reference,
            "nodata": source.nodata,
            "sample": sample,
            "amp": amp,
        }
        known = _threshold_record(path) if self.run.processes.first else None
        known = self.run.processes.broadcast(known)
        if known and all(known.get(name) == value for name, value in asked.items()):
            return known
        record = asked | {"pixel_labels": 0}
        if isinstance(choice, float):
            record |= metrics.fixed_threshold(choice)
        else:
            cloudy = PatchDataset(
                source,
                "train",
                "mask.tif",
                only_cloudy=True,
                skip_bad=skip_bad,
                masks_optional=choice == "otsu",
            )
            order = np.random.default_rng(THRESHOLD_SEED).permutation(len(cloudy))[:sample]
            chosen = Subset(cloudy, sorted(order.tolist()))
            counts = self.patch_histogram(chosen, batch_size, amp)
            _require_pixels(counts, "cloudy training")
            where = f"the scores of {len(order)} cloudy training patches"
            if choice == "otsu":
                value = metrics.otsu_threshold(counts.sum(axis=0))
                record |= {"threshold": value, "chosen_by": f"Otsu on {where}"}
            else:
                value, f1 = metrics.best_threshold(counts)
                manual = cloudy.reference == TRUTH
                against = "pixel labels" if manual else "scenes' QA bands"
                record |= {
                    "threshold": value,
                    "chosen_by": f"best macro F1 on {where}, against their {against}",
                    "macro_f1": f1,
                    "pixel_labels": int(counts.sum()) if manual else 0,
                }
        if self.run.processes.first:
            write_json(path, record)
        return record

    @torch.inference_mode()
    def strips(self, scene: Scene | ArrayScene, tiles: Tiles) -> Iterator[Strip]:
        """Score a whole scene; see `fcd.masks.tiling.score_strips`."""

        def by_pytorch(x: Tensor) -> Tensor:
            with self.autocast(tiles.amp):
                return self.score(x)

        score = self._onnx_score if tiles.runtime == ONNX else by_pytorch
        with scene.open() as reader:
            height, width = reader.grid.height, reader.grid.width
            normalization = self._normalization_of(reader, f"scene {scene.key}", tiles)
            silent = not self.run.processes.first
            with tqdm(total=height, desc=scene.key, unit="row", leave=False, disable=silent) as bar:
                for strip in score_strips(
                    reader.bands,
                    height,
                    width,
                    score,
                    normalization,
                    self.device,
                    tile=tiles.size,
                    overlap=tiles.overlap,
                    batch_size=tiles.batch_size,
                ):
                    yield strip
                    bar.update(strip.score.shape[-2])

    def _normalization_of(
        self, reader: SceneReader | ArrayScene, name: str, tiles: Tiles
    ) -> Normalization:
        return _read_as(self.normalization, reader.dtype, reader.nodata, tiles.nodata, name)

    def predictions(
        self, scene: Scene | ArrayScene, tiles: Tiles, threshold: float
    ) -> Iterator[Prediction]:
        """Score a scene and threshold the score."""
        for strip in self.strips(scene, tiles):
            mask = labels.patch_from_score(strip.score, strip.valid, threshold)
            yield Prediction(strip.row, strip.dn[list(self.rgb)], mask, strip.score)

    def predictor(self, threshold: float | None = None, tiles: Tiles | None = None) -> Predictor:
        """What `fcd.masks.prediction.predict_scenes` needs.

        threshold: None takes `known_threshold`; tiles: None takes those of `tiles`.
        """
        tiles = tiles or self.tiles()
        value = self.known_threshold(tiles.amp)["threshold"] if threshold is None else threshold
        tags = {
            "FCD_VERSION": fcd.__version__,
            "FCD_EXPERIMENT": self.run.folder.experiment,
            "FCD_SCORE": self.score_name,
            "FCD_WEIGHTS": self.fingerprint(),
            "FCD_THRESHOLD": repr(value),
            # How many tiles are scored at a time does not matter.
            "FCD_TILES": f"{tiles.size} pixels, overlap {tiles.overlap}" + ", bf16" * tiles.amp,
        }
        if tiles.nodata is not None:
            tags["FCD_NODATA"] = str(tiles.nodata)
        return Predictor(
            self.normalization.num_channels,
            value,
            tags,
            lambda scene: self.predictions(scene, tiles, value),
        )

    def known_threshold(self, amp: bool = False) -> dict[str, Any]:
        """The record of the threshold chosen for these weights before, or of a probability's, 0.5.

        amp: whether it is for scores computed in bfloat16, which differ by more than many a
        threshold of FCD. Raises `UserError` if there is neither, or it was chosen on others.
        """
        mine, of_others = (self.score_name, self.fingerprint()), None
        for folder in (self.run.folder.results, self.source.parent.parent / "results"):
            path = folder / "threshold.json"
            known = _threshold_record(path) or {}
            if (known.get("score"), known.get("weights")) != mine:
                continue
            if known["amp"] == amp or not isinstance(known.get("choice"), str):
                return known
            of_others = path
        if of_others:
            raise UserError(
                f"{of_others} holds a threshold chosen with --amp {not amp}, which changes the "
                f"scores: run --mode test or generate_masks with --amp {amp} first, or give a "
                "number with --threshold"
            )
        if self.natural_threshold is None:
            raise UserError(
                f"no threshold is known for these weights of {self.run.folder.experiment}: run "
                "--mode test or generate_masks first, or give a number with --threshold"
            )
        return metrics.fixed_threshold(self.natural_threshold)

    def test(
        self,
        scenes: list[Scene],
        tiles: Tiles,
        threshold: dict[str, Any],
        method: str,
        config: dict[str, Any],
        reference: str = TRUTH,
        results: Path | None = None,
    ) -> None:
        """Score `scenes`, threshold the scores by the record `threshold`, `evaluate` the masks.

        reference: what they are compared with, `fcd.landsat.reference.TRUTH` or `QA`. results: the
        folder to write to; None is that of the run.
        """
        value, supervision = threshold["threshold"], self.supervision(threshold)
        results = results or self.run.folder.results
        evaluation = Evaluation(results, method, value, supervision, reference)
        evaluate(
            scenes,
            lambda scene: self.predictions(scene, tiles, value),
            evaluation,
            config,
            self.run.processes,
        )

    # Export:

    def export(self, path: Path, threshold: float) -> None:
        """Write `score` as an ONNX file that takes DN, and say how well it agrees.

        The first process does; the networks are on the CPU. `threshold` and what else a user of
        the file has to know go into its metadata. See `fcd.masks.export.write_onnx`.
        """
        if not self.run.processes.first:
            return
        properties = {
            "model": f"{self.run.folder.experiment}: {self.score_name}",
            "threshold": repr(threshold),
            "bands": ",".join(band_names(self.normalization.num_channels)),
            "dtype": self.normalization.dtype,
            "normalization": json.dumps(self.normalization.state()),
            "image_size": str(self.image_size),
            "multiple": str(self.tile_multiple),
            "weights": self.fingerprint(),
            "fcd_version": fcd.__version__,
            "fcd_commit": git_commit() or "unknown",
        }
        module = DNScore(self.scoring_network(), self.score, self.normalization)
        difference = write_onnx(path, module, self.tile_multiple, properties)
        print(
            f"exported: {path}, cloud above a score of {threshold:.4g}; "
            f"largest difference to PyTorch {difference:.1e}"
        )


def _read_as(
    learned: Normalization,
    dtype: str,
    marked: float | tuple[float | None, ...] | None,
    asked: float | str | None,
    name: str,
) -> Normalization:
    """`Normalization.of`, but that `asked`, of --nodata, counts for more than what files mark."""
    if asked is None:
        return learned.of(dtype, marked, name)
    nodata = None if asked == NO_NODATA else asked
    return replace(learned.of(dtype, None, name), nodata=nodata)


def _threshold_record(path: Path) -> dict[str, Any] | None:
    """What results/threshold.json holds, or None; `UserError` if that is no threshold."""
    if not path.exists():
        return None
    # Earlier versions chose on scores in float32, whatever --amp said.
    record = {"amp": False} | read_json(path)
    value, cost = record.get("threshold"), record.get("pixel_labels")
    fits = isinstance(value, int | float) and 0 <= value <= 1 and isinstance(cost, int)
    if not fits or not isinstance(record.get("chosen_by"), str):
        raise UserError(f"{path} holds no threshold; remove it, and it is chosen again")
    return record


def _require_pixels(counts: np.ndarray, which: str) -> None:
    if not counts.any():
        raise UserError(
            f"the {which} patches hold no pixel that is valid in image and mask; check the codes "
            "of their masks"
        )


class _NoLog(nullcontext):
    """The TensorBoard log of a process that writes none."""

    def __enter__(self) -> "_NoLog":
        return self

    def add_scalar(self, *_: Any) -> None:
        """Nothing."""

    def add_image(self, *_: Any, **__: Any) -> None:
        """Nothing."""


# --- Fixed-Point GAN ---------------------------------------------------------------------------


@dataclass(frozen=True)
class GANSize:
    """Sizes of the two networks; stored in the checkpoint."""

    g_conv_dim: int = 64
    g_repeat_num: int = 6
    d_conv_dim: int = 64
    d_repeat_num: int = 6


@dataclass(frozen=True)
class GANTraining:
    """Settings of Fixed-Point GAN training; the defaults are the paper's."""

    batch_size: int = 16
    num_iters: int = 200_000
    num_iters_decay: int = 100_000
    g_lr: float = 1e-4
    d_lr: float = 1e-4
    beta1: float = 0.5
    beta2: float = 0.999
    n_critic: int = 5
    weights: LossWeights = field(default_factory=LossWeights)
    same_domain: bool = True
    balance: bool = False
    augment: str = "flip"
    select: str = "pixel"
    amp: bool = False
    sample_step: int = 1000
    model_save_step: int = 10_000


class FCDSolver(Solver):
    """Fixed-Point GAN: trained on image-level labels, scores pixels by the difference map."""

    tile_multiple = 4
    score_name = "difference map"

    def __init__(
        self, run: Run, size: GANSize, image_size: int, normalization: Normalization
    ) -> None:
        super().__init__(run)
        self.size, self.image_size, self.normalization = size, image_size, normalization
        self.rgb = default_rgb(normalization.num_channels)
        self.image_labels = 0  # seen in training
        self.labels_from = NAMES[TRUTH]
        torch.manual_seed(run.seed)
        generator, discriminator = _gan(size, image_size, normalization.num_channels)
        self.G, self.D = generator.to(self.device), discriminator.to(self.device)
        if run.compile:
            # Not D: what is compiled has no gradient of a gradient, which its penalty needs.
            self.G.compile()
        self.g_optimizer = self.d_optimizer = None

    @classmethod
    def load(cls, run: Run, path: Path) -> "FCDSolver":
        """The solver of a trained run, from its checkpoint alone."""
        state = checkpoints.load(path, ("G", "D"))
        with _another_kind(path):
            state = _described(state)
        with _another_kind(path):
            normalization = Normalization.from_state(state["normalization"])
            size, side = from_plain(GANSize, state["size"], path), _side(state["image_size"])
            if asdict(size) != _sizes(state["G"], state["D"]):
                raise ValueError(f"its weights are not those of {size}")
            with torch.device("meta"):  # a forged size must not fill the memory
                built = _gan(size, side, normalization.num_channels)
            for network, name in zip(built, ("G", "D"), strict=True):
                for key, value in network.state_dict().items():
                    if state[name][key].shape != value.shape:
                        raise ValueError(f"{key} of {name} is not that of {size}")
            solver = cls(run, size, side, normalization)
            solver.restore(state, path)
        return solver

    def networks(self) -> dict[str, nn.Module]:
        """Generator and discriminator."""
        return {"G": self.G, "D": self.D}

    def scoring_network(self) -> nn.Module:
        """The generator."""
        return self.G

    def score(self, x: Tensor) -> Tensor:
        """The difference map."""
        return difference_map(self.G, x)

    def state(self) -> dict[str, Any]:
        """See `Solver.state`."""
        state = super().state() | {
            "size": asdict(self.size),
            "image_labels": self.image_labels,
            "labels_from": self.labels_from,
        }
        if self.g_optimizer is not None:
            state["g_optimizer"] = self.g_optimizer.state_dict()
            state["d_optimizer"] = self.d_optimizer.state_dict()
        return state

    def restore(self, state: dict[str, Any], source: Path) -> None:
        """See `Solver.restore`."""
        super().restore(state, source)
        self.image_labels = state["image_labels"]
        # Checkpoints from before this entry were trained on labels from manual masks.
        self.labels_from = state.get("labels_from", NAMES[TRUTH])
        if self.g_optimizer is not None:
            self.g_optimizer.load_state_dict(state["g_optimizer"])
            self.d_optimizer.load_state_dict(state["d_optimizer"])

    def train(
        self, settings: GANTraining, train_set: PatchDataset, val_set: PatchDataset | None
    ) -> None:
        """Train to `settings.num_iters` steps, continuing from `latest.pt` if there is one.

        The best checkpoint is the one with the best macro F1 on the validation masks
        (`settings.select` "pixel", the paper's protocol: it uses pixel labels) or on the
        validation patches' image-level labels ("image"); without `val_set` it is the last one.
        Raises `Stopped` on Ctrl-C or SIGTERM, `UserError` if a loss is no longer finite.
        """
        self.start_optimizers(settings)
        self.image_labels, self.labels_from = len(train_set), train_set.labels_from
        self.resume()
        shown = self._sample_patches(val_set or train_set)
        batches = self.batches(
            train_set, settings.batch_size, settings.num_iters, settings.balance, settings.augment
        )
        parts: Parts = {}
        processes = self.run.processes
        with self.loop(settings.num_iters, "step") as (bar, log, interruption):
            for batch, part in batches:
                self.step += 1
                generator = self.randomness(self.step)
                x_real = self.inputs(batch)
                c_org = batch["label"].to(self.device, non_blocking=True)
                order = torch.randperm(part.size, generator=generator)[part.rows]
                c_trg = batch["all_labels"][order].to(self.device, non_blocking=True)
                alpha = part.uniform(generator, 1, 1, 1).to(self.device, non_blocking=True)
                self._set_learning_rate(settings)
                parts |= self.learn(settings, x_real, c_org, c_trg, alpha, part.weight)

                bar.update()
                if self.step % self.run.log_step == 0:
                    lr = self.g_optimizer.param_groups[0]["lr"]
                    self.log_parts(log, bar, parts, lr, ("D/loss_cls", "G/loss_cls", "G/loss_id"))
                if self.step % settings.sample_step == 0 and processes.first:
                    self._show(log, shown)
                if self.step % settings.model_save_step == 0 or self.step == settings.num_iters:
                    self.check_finite(parts)
                    self.synchronize()
                    self._validate_and_save(log, val_set, settings.batch_size, settings.select)
                self.stop_if_asked(interruption)

    def start_optimizers(self, settings: GANTraining) -> None:
        """Make the optimisers that `learn` uses."""
        betas = (settings.beta1, settings.beta2)
        # One fused kernel over all parameters: a quarter less time a step than one by one.
        self.g_optimizer = Adam(self.G.parameters(), settings.g_lr, betas, fused=True)
        self.d_optimizer = Adam(self.D.parameters(), settings.d_lr, betas, fused=True)

    def learn(
        self,
        settings: GANTraining,
        x_real: Tensor,
        c_org: Tensor,
        c_trg: Tensor,
        alpha: Tensor,
        weight: float = 1.0,
    ) -> Parts:
        """Step `self.step`: of the discriminator, and every `n_critic`-th time of the generator.

        x_real (N, C, S, S) in [-1, 1]; c_org, c_trg (N, 1); alpha (N, 1, 1, 1), see
        `discriminator_loss`. weight: the share of these samples in the batch of all processes.
        Returns the loss parts times `weight`.
        """
        generators_turn = self.step % settings.n_critic == 0
        targets = [c_trg, c_org] if generators_turn and settings.same_domain else [c_trg]
        with self.autocast(settings.amp):
            # The generator stays as it is until its own step, which goes on from here.
            with torch.set_grad_enabled(generators_turn):
                translated = translate(self.G, x_real, targets)
            x_fake = translated[: len(x_real)].detach()
            d_loss, d_parts = discriminator_loss(
                self.D, x_real, x_fake, c_org, alpha, settings.weights
            )
        self.d_optimizer.zero_grad()
        (d_loss * weight).backward()
        self.run.processes.sum_gradients(self.D.parameters())
        self.d_optimizer.step()
        parts = detached(d_parts, weight)
        if not generators_turn:
            return parts

        with self.autocast(settings.amp):
            g_loss, g_parts = generator_loss(
                self.G, self.D, x_real, translated, c_org, targets, settings.weights
            )
        self.g_optimizer.zero_grad()
        (g_loss * weight).backward(inputs=list(self.G.parameters()))
        self.run.processes.sum_gradients(self.G.parameters())
        self.g_optimizer.step()
        return parts | detached(g_parts, weight)

    def _set_learning_rate(self, settings: GANTraining) -> None:
        factor = learning_rate_factor(self.step, settings.num_iters, settings.num_iters_decay)
        self.g_optimizer.param_groups[0]["lr"] = settings.g_lr * factor
        self.d_optimizer.param_groups[0]["lr"] = settings.d_lr * factor

    def _validate_and_save(
        self, log: SummaryWriter, val_set: PatchDataset | None, batch_size: int, select: str
    ) -> None:
        if val_set is None:
            self.save("latest", "best")
            return
        cells, threshold = self.validate(val_set, batch_size, select, None)
        log.add_scalar("val/threshold", threshold, self.step)
        self.keep_best(log, cells, select, val_set.reference)

    # Pictures:

    def _sample_patches(self, dataset: PatchDataset, count: int = 8) -> dict:
        """A fixed batch for pictures, spread over the data set (clear to cloudy)."""
        index = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int)
        return next(iter(get_loader(Subset(dataset, index.tolist()), count, 0)))

    @torch.inference_mode()
    def translations(self, batch: dict) -> np.ndarray:
        """One row a patch: input, to clear, difference map, to cloudy, truth; RGB uint8."""
        x = self.inputs(batch)
        domain = x.new_ones(len(x), 1)
        clear, cloudy = self.G(x, domain * labels.LABEL_CLEAR), self.G(x, domain)
        difference = self.score(x).cpu().numpy()
        upper = max(float(np.quantile(difference, 0.99)), 1e-6)
        rows = []
        dn = [
            self.normalization.denormalize(t)[:, list(self.rgb)].cpu().numpy()
            for t in (x, clear, cloudy)
        ]
        valid = (x != FILL).all(dim=1).cpu().numpy()
        for index, values in enumerate(difference):
            # One stretch for the three, so that their colours can be compared.
            images = np.concatenate([image[index] for image in dn], axis=-1)
            strip = pictures.stretch_rgb(images, np.tile(valid[index], 3))
            source, to_clear, to_cloudy = np.split(strip, 3, axis=1)
            cells = [source, to_clear, pictures.colour_score(values, upper), to_cloudy]
            if "mask" in batch:
                cells.append(pictures.colour_mask(batch["mask"][index].numpy()))
            rows.append(np.hstack(cells))
        return np.vstack(rows)

    def _show(self, log: SummaryWriter, batch: dict) -> None:
        picture = self.translations(batch)
        log.add_image("translations", picture, self.step, dataformats="HWC")
        pictures.write_png(self.run.folder.samples / f"{self.step:06d}.png", picture)

    def visualize(self, dataset: PatchDataset, count: int) -> Path:
        """Write the translations of `count` patches to samples/translations.png."""
        path = self.run.folder.samples / "translations.png"
        if self.run.processes.first:
            pictures.write_png(path, self.translations(self._sample_patches(dataset, count)))
        return path

    # Threshold and masks:

    def generate_masks(
        self, scenes: list[Scene], tiles: Tiles, threshold_record: dict[str, Any]
    ) -> Path:
        """Write `<biome>_<scene>_{difference,mask}.tif` of each scene; return their folder.

        What labels the masks have cost is written beside them.

        difference: float32 in [0, 1], NaN nodata; mask: 0 nodata, 128 clear, 255 cloud. A
        scene whose masks are there already, from this checkpoint and threshold, is skipped.
        Each process masks its share of the scenes; small ones that are alike share batches.
        """
        processes = self.run.processes
        folder = self.run.folder.results / "tifs"
        threshold = threshold_record["threshold"]
        if processes.first:
            write_json(folder / prepared.PROVENANCE, asdict(self.supervision(threshold_record)))
        tags = self.predictor(threshold, tiles).tags
        bar = tqdm(
            processes.share(scenes),
            "generating masks",
            unit="scene",
            dynamic_ncols=True,
            disable=not processes.first,
        )
        todo = (scene for scene in bar if not has_tags(prepared.mask_tif(folder, scene), tags))
        for group in alike(todo, tiles.size):
            with ExitStack() as stack:
                tifs = [stack.enter_context(mask_tifs(folder, *pair, tags)) for pair in group]
                for strip in self.strips(together([scene for scene, _ in group]), tiles):
                    shape = (len(group), -1, strip.score.shape[-1])
                    scores, valid = strip.score.reshape(shape), strip.valid.reshape(shape)
                    masks = labels.patch_from_score(scores, valid, threshold)
                    scores = np.where(valid, scores, np.float32(np.nan))
                    window = ((strip.row, strip.row + scores.shape[1]), (0, scores.shape[2]))
                    for (mask_tif, difference_tif), mask, score in zip(
                        tifs, masks, scores, strict=True
                    ):
                        mask_tif.write(labels.tif_from_patch(mask), 1, window=window)
                        difference_tif.write(score, 1, window=window)
        processes.wait()
        return folder

    def supervision(self, threshold: dict[str, Any]) -> Supervision:
        """See `Solver.supervision`."""
        return Supervision(
            image_labels=self.image_labels,
            pixel_labels=0,
            threshold_chosen_by=threshold["chosen_by"],
            threshold_pixel_labels=threshold["pixel_labels"],
            checkpoint_chosen_by=self.choice.by,
            checkpoint_pixel_labels=self.choice.pixel_labels,
            labels_from=self.labels_from,
        )


def _gan(size: GANSize, image_size: int, num_channels: int) -> tuple[Generator, Discriminator]:
    return (
        Generator(size.g_conv_dim, 1, size.g_repeat_num, num_channels),
        Discriminator(image_size, size.d_conv_dim, 1, size.d_repeat_num, num_channels),
    )


def _rgb(state: dict[str, Any], num_channels: int) -> tuple[int, ...]:
    """The bands that pictures show; ValueError or TypeError if `state` holds no such."""
    rgb = tuple(map(int, state.get("rgb", default_rgb(num_channels))))
    if len(rgb) != 3 or not all(0 <= band < num_channels for band in rgb):
        raise ValueError(f"rgb {rgb} of {num_channels} bands")
    return rgb


@contextmanager
def _another_kind(path: Path) -> Iterator[None]:
    """Missing or unknown entries of a checkpoint, in one line."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise UserError(
            f"{path} is a checkpoint of another kind or version ({error}); train anew"
        ) from error


def _side(image_size: Any) -> int:
    """The side of a checkpoint's patches; ValueError if it is no size."""
    if not isinstance(image_size, int) or not 1 <= image_size <= MAX_IMAGE_SIZE:
        raise ValueError(f"image_size is {image_size!r}")
    return image_size


def _sizes(g: dict[str, Tensor], d: dict[str, Tensor]) -> dict[str, int]:
    """The fields of `GANSize` that the weights have."""
    return {
        "g_conv_dim": len(g["main.0.weight"]),
        "g_repeat_num": sum(name.endswith(".main.0.weight") for name in g),
        "d_conv_dim": len(d["main.0.weight"]),
        "d_repeat_num": sum(n.startswith("main.") and n.endswith(".weight") for n in d),
    }


def _described(state: dict[str, Any]) -> dict[str, Any]:
    """A GAN checkpoint; one of the authors' code, which holds `G` and `D` alone, is completed.

    The sizes follow from the shapes of the weights; the normalisation is the paper's.
    """
    if "size" in state:
        return state
    g, d = state["G"], state["D"]
    size = _sizes(g, d)
    return {
        "G": g,
        "D": d,
        "size": size,
        "image_size": d["conv2.weight"].shape[-1] * 2 ** size["d_repeat_num"],
        "normalization": Normalization.paper(d["main.0.weight"].shape[1]).state(),
        "step": 0,
        "best": -math.inf,
        "choice": asdict(Choice(UNKNOWN, 0)),
        "image_labels": 0,
    }


# --- supervised networks -------------------------------------------------------------------


NETWORKS, TARGETS = ("unet", "resnet50", "ucam"), ("mask", "label")
ENCODERS = ("resnet18", "resnet34", "resnet50")


@dataclass(frozen=True)
class Task:
    """A network and what it learns; stored in the checkpoint.

    network: `unet`; `resnet50` or `ucam`, classifiers for class activation maps.
    target: `mask` (pixels) or `label` (image-level labels alone).
    encoder: of the U-Nets. classifier_head: a U-Net that learns the image-level label too.
    """

    network: str = "unet"
    target: str = "mask"
    encoder: str = "resnet34"
    classifier_head: bool = False

    def __post_init__(self) -> None:
        known = ((self.network, NETWORKS), (self.target, TARGETS), (self.encoder, ENCODERS))
        for value, values in known:
            if value not in values:
                raise ValueError(f"{value!r} is none of {', '.join(values)}")

    def build(self, num_channels: int) -> nn.Module:
        """The network, with random weights."""
        if self.network == "resnet50":
            return build_resnet50(num_channels)
        if self.network == "ucam":
            return build_ucam(num_channels, self.encoder)
        return build_unet(num_channels, self.encoder, self.classifier_head)


@dataclass(frozen=True)
class SupervisedTraining:
    """Settings of supervised training; the defaults are those of FCD+."""

    batch_size: int = 64
    n_epochs: int = 10
    lr: float = 1e-4
    freeze_encoder: bool = False
    balance: bool = False
    augment: str = "flip"
    select: str = "pixel"
    amp: bool = False
    plateau_factor: float = 0.1
    plateau_patience: int = 3


class SupervisedSolver(Solver):
    """A network trained on masks or image labels: FCD+, fully supervised, Pre, the CAM family."""

    tile_multiple = 32
    learns_by_validation = True

    def __init__(self, run: Run, task: Task, image_size: int, normalization: Normalization) -> None:
        super().__init__(run)
        self.task, self.image_size, self.normalization = task, image_size, normalization
        self.rgb = default_rgb(normalization.num_channels)
        self.cam_method = "cam"
        self.score_name = "probability" if task.network == "unet" else self.cam_method
        self.natural_threshold = 0.5 if task.network == "unet" else None
        # The labels trained on, and the choices of the runs this one builds on, to which
        # `supervision` adds its own.
        self.seen = Supervision(0, 0, "", 0, "", 0, labels_from="")
        torch.manual_seed(run.seed)
        self.network = task.build(normalization.num_channels).to(self.device)
        if run.compile:
            self.network.compile()
        self.optimizer: Adam | None = None
        self.scheduler: ReduceLROnPlateau | None = None

    @classmethod
    def load(cls, run: Run, path: Path) -> "SupervisedSolver":
        """The solver of a trained run, from its checkpoint alone."""
        state = checkpoints.load(path, ("network", "task", "image_size", "normalization"))
        with _another_kind(path):
            normalization = Normalization.from_state(state["normalization"])
            task = from_plain(Task, state["task"], path)
            solver = cls(run, task, _side(state["image_size"]), normalization)
            solver.restore(state, path)
        solver.ready_to_score()
        return solver

    def networks(self) -> dict[str, nn.Module]:
        """The one network."""
        return {"network": self.network}

    def scoring_network(self) -> nn.Module:
        """The one network."""
        return self.network

    def score(self, x: Tensor) -> Tensor:
        """Softmax probability of cloud of a U-Net; class activation map of a classifier."""
        if self.task.network != "unet":
            return cam_score(self.cam_method, self.network, x)
        return self._masks(x)[0].float().softmax(dim=1)[:, labels.LABEL_CLOUDY]

    def check_exportable(self) -> None:
        """See `Solver.check_exportable`."""
        if self.task.network != "unet":
            raise UserError(
                f"{self.source} is a {self.task.network}: as ONNX there are U-Nets, but no class "
                "activation maps, most of which take gradients"
            )

    def image_score(self, x: Tensor) -> Tensor:
        """Probability that a patch is cloudy, or the mean score if labels are not learned."""
        if self.task.target == "label":
            return self._image_logit(x).sigmoid()[:, 0]
        return super().image_score(x)

    def ready_to_score(self) -> None:
        """Evaluation mode, and the layout of memory in which a U-Net scores fastest.

        In training it gains little, and the optimisers of older checkpoints have the other.
        """
        self.network.eval().to(memory_format=torch.channels_last)

    def _masks(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """U-Net: logits (N, 2, H, W), and the image logit (N, 1) if there is a head for it."""
        output = self.network(x)
        return output if self.task.classifier_head else (output, None)

    def _image_logit(self, x: Tensor) -> Tensor:
        """Logit (N, 1) of cloudy against clear, without the decoder of a U-Net."""
        if self.task.network == "unet":
            return self.network.classification_head(self.network.encoder(x)[-1])
        clear, cloudy = self.network(x).chunk(2, dim=1)
        return cloudy - clear

    def state(self) -> dict[str, Any]:
        """See `Solver.state`."""
        state = super().state() | {
            "task": asdict(self.task),
            "supervision": asdict(self.seen),
        }
        if self.optimizer is not None:
            state["optimizer"] = self.optimizer.state_dict()
            state["scheduler"] = self.scheduler.state_dict()
        return state

    def restore(self, state: dict[str, Any], source: Path) -> None:
        """See `Solver.restore`."""
        super().restore(state, source)
        self.seen = from_plain(Supervision, state["supervision"], source)
        if self.optimizer is not None:
            self.optimizer.load_state_dict(state["optimizer"])
            self.scheduler.load_state_dict(state["scheduler"])

    def start_from(
        self, path: Path | str, *, encoder_only: bool, nodata: float | str | None = None
    ) -> None:
        """Begin with the weights and values of another run, and inherit what labels it has seen.

        nodata: what counts as nodata whatever that run says, "none" for no value; None: the same.
        """
        state = checkpoints.load(path, ("network", "normalization", "supervision", "choice"))
        weights, network = state["network"], self.network
        if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights):
            raise UserError(f"{path} is a checkpoint of another kind: its network has no names")
        if encoder_only:
            prefix, network = "encoder.", self.network.encoder
            weights = {
                name.removeprefix(prefix): value
                for name, value in weights.items()
                if name.startswith(prefix)
            }
        elif not self.task.classifier_head:
            head = "classification_head."
            weights = {n: value for n, value in weights.items() if not n.startswith(head)}
        checkpoints.load_weights(network, weights, path)
        own = self.normalization
        with _another_kind(path):
            learned = Normalization.from_state(state["normalization"])
        self.normalization = _read_as(learned, own.dtype, own.nodata, nodata, "the training set")
        choice = from_plain(Choice, state["choice"], path)
        seen = from_plain(Supervision, state["supervision"], path)
        self.seen = seen.with_checkpoint(f"weights: {choice.by}", choice.pixel_labels)

    def use_cam(self, method: str) -> None:
        """Score by the class activation map `method`."""
        self.cam_method = self.score_name = method

    def start_from_imagenet(self) -> None:
        """Begin with the ImageNet weights of the ResNet-50; see `model.build_resnet50`."""
        weights = build_resnet50(self.normalization.num_channels, "imagenet").state_dict()
        self.network.load_state_dict(weights)

    def supervision(self, threshold: dict[str, Any]) -> Supervision:
        """See `Solver.supervision`."""
        seen = self.seen.with_checkpoint(self.choice.by, self.choice.pixel_labels)
        return seen.with_threshold(threshold["chosen_by"], threshold["pixel_labels"])

    def add_labels(self, train_set: PatchDataset, masks: Supervision | None) -> None:
        """Count the labels of `train_set`; `masks`: what generated masks have cost, if it has some.

        Manual masks are counted pixel by pixel.
        """
        seen = self.seen.with_source(train_set.labels_from)
        if self.task.target == "label" or self.task.classifier_head:
            seen = seen.with_image_labels(len(train_set))
        if masks:
            seen = seen.with_masks(masks)
        elif self.task.target == "mask" and train_set.reference == TRUTH:
            seen = seen.with_pixel_labels(train_set.labelled_pixels())
        self.seen = seen

    def train(
        self, settings: SupervisedTraining, train_set: PatchDataset, val_set: PatchDataset | None
    ) -> None:
        """Train `settings.n_epochs` epochs, continuing from `latest.pt` if there is one.

        After each epoch the macro F1 on `val_set` chooses the best checkpoint and lowers the
        learning rate on a plateau: of the pixels, or of the image labels if the target is
        `label` or `settings.select` is "image". Without `val_set` the last epoch is the best.

        With several processes batch norm takes the statistics of each process's part of a
        batch; all else is as with one process.
        """
        self.start_optimizer(settings)
        self.resume()
        per_epoch = batches_per_epoch(len(train_set), settings.batch_size)
        stop = settings.n_epochs * per_epoch
        batches = self.batches(
            train_set, settings.batch_size, stop, settings.balance, settings.augment
        )
        with self.loop(stop, "step") as (bar, log, interruption):
            for batch, part in batches:
                self.step += 1
                self.randomness(self.step)
                mask = batch["mask"] if self.task.target == "mask" else None
                mask = mask if mask is None else mask.to(self.device, non_blocking=True)
                label = batch["label"].to(self.device, non_blocking=True)
                parts = self.learn(settings, self.inputs(batch), mask, label, part)

                bar.update()
                if self.step % self.run.log_step == 0:
                    lr = self.optimizer.param_groups[0]["lr"]
                    self.log_parts(log, bar, parts, lr, tuple(parts))
                if self.step % per_epoch == 0:
                    self.check_finite(parts)
                    self.synchronize()
                    self._validate_and_save(log, settings, val_set)
                self.stop_if_asked(interruption)
        self.network.eval()

    def start_optimizer(self, settings: SupervisedTraining) -> None:
        """Make the optimiser that `learn` uses, of what is to be trained, and its schedule."""
        if settings.freeze_encoder:
            self.network.encoder.requires_grad_(False)
        trained = [p for p in self.network.parameters() if p.requires_grad]
        self.optimizer = Adam(trained, settings.lr, fused=True)  # see FCDSolver.start_optimizers
        self.scheduler = ReduceLROnPlateau(
            self.optimizer, "max", settings.plateau_factor, settings.plateau_patience
        )

    def learn(
        self,
        settings: SupervisedTraining,
        x: Tensor,
        mask: Tensor | None,
        label: Tensor,
        part: Part,
    ) -> Parts:
        """One step on this process's part of a batch.

        x (N, C, H, W) in [-1, 1]; mask (N, H, W) patch codes, None if labels are the target; label
        (N, 1). Returns the loss parts times `part.weight`.
        """
        self._training_mode(settings)
        with self.autocast(settings.amp):
            loss, parts = self._loss(x, mask, label, part)
        self.optimizer.zero_grad()
        (loss * part.weight).backward()
        self.run.processes.sum_gradients(self.optimizer.param_groups[0]["params"])
        self.optimizer.step()
        return detached(parts, part.weight)

    def _training_mode(self, settings: SupervisedTraining) -> None:
        self.network.train()
        if settings.freeze_encoder:
            self.network.encoder.eval()  # frozen means the batch-norm statistics too

    def _loss(
        self, x: Tensor, mask: Tensor | None, label: Tensor, part: Part
    ) -> tuple[Tensor, Parts]:
        """Loss of this part of a batch; times `part.weight`, summed, it is the batch's."""
        if mask is None:
            loss = label_loss(self._image_logit(x), label)
            return loss, {"train/loss_label": loss}
        logits, image_logit = self._masks(x)
        return segmentation_loss(logits, mask, image_logit, label, self._pixels(mask, part))

    def _pixels(self, mask: Tensor, part: Part) -> Tensor | None:
        """What to divide the loss of this part's pixels by: it is weighted as the samples are.

        The whole batch's loss is a mean over its valid pixels, of which a part may have more or
        less than its share.
        """
        if self.run.processes.count == 1:
            return None
        own = (mask != labels.INVALID).sum() * (part.weight > 0)
        return self.run.processes.sum(own).clamp(min=1) * (part.weight or 1)

    def _validate_and_save(
        self, log: SummaryWriter, settings: SupervisedTraining, val_set: PatchDataset | None
    ) -> None:
        if val_set is None:
            self.save("latest", "best")
            return
        self.network.eval()
        select = "image" if self.task.target == "label" else settings.select
        # Probabilities have their threshold; the mean score of a patch has to find one.
        natural = self.task.target == "label" or select == "pixel"
        cells, _ = self.validate(val_set, settings.batch_size, select, 0.5 if natural else None)
        # The schedule must be in the checkpoint that `keep_best` writes.
        self.scheduler.step(metrics.scores(cells)["macro"]["f1"])
        self.keep_best(log, cells, select, val_set.reference)


def load_solver(checkpoint: Path | str, device: str = "auto") -> FCDSolver | SupervisedSolver:
    """The solver of a trained run, whichever it is, from its checkpoint alone.

    checkpoint: `outputs/<name>/models/best.pt` or a copy of it. Raises `UserError` if it is none.
    """
    path = Path(checkpoint)
    place = path.resolve()
    name = (
        place.parents[1].name.replace("Plus", "+") if place.parent.name == "models" else path.stem
    )
    run = Run(RunFolder(name), options.device(device))
    state = checkpoints.load(path)
    kind = FCDSolver if "G" in state else SupervisedSolver
    return kind.load(run, path)
