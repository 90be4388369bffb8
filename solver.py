"""Training of the Fixed-Point GAN and of the supervised networks, and the scorers they become."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm
from typing_extensions import Self

from data_loader import (
    PatchDataset,
    as_source,
    cloudy_patches,
    get_loader,
    threshold_choice,
    training_batches,
)
from fcd import metrics, pictures
from fcd.cli.device import use_device
from fcd.cli.settings import GANTraining, SupervisedTraining, TrainingSettings
from fcd.files import from_plain
from fcd.interruption import Interruption
from fcd.landsat import labels
from fcd.landsat.bands import default_rgb
from fcd.landsat.reference import NAMES, TRUTH
from fcd.masks import thresholds
from fcd.masks.cam import Method, cam_score
from fcd.masks.prediction import Predictor, predictor_of
from fcd.masks.scoring import Scorer, Tiles
from fcd.patches.normalisation import Normalization, to_device
from fcd.patches.sources import Source
from fcd.patches.supervision import Supervision
from fcd.processes import Part
from fcd.training import checkpoints, losses
from fcd.training.batches import batches_per_epoch
from fcd.training.checkpoints import Choice, Select, another_kind, image_side, rgb_of
from fcd.training.loop import Log, log_parts, seed_step, training_loop
from fcd.training.losses import Parts, detached, difference_map
from fcd.training.profiling import profiled
from fcd.training.resumable import Resumable
from fcd.training.run import Run, RunFolder
from fcd.training.samples import translations
from model import GANSize, Task, build_resnet50, completed


class Solver(Resumable):
    """The frame of a run: device, folder, checkpoints, randomness, log, stop.

    A subclass has `networks`, by the name they have in a checkpoint, of which `network` is the one
    that scores; it says how a pixel is scored (`score`) and how the networks learn (`train`).
    """

    network: nn.Module
    needs: tuple[str, ...]  # entries of a checkpoint
    seen: Supervision  # the labels trained on, and the choices of runs this one builds on
    tile_multiple: int  # tile sides the networks can take, pixels
    score_name: str  # what `score` is
    natural_threshold: float | None = None  # of a score that is a probability
    not_exportable = ""  # what is scored by, if it cannot be written as ONNX, in words

    def __init__(self, run: Run, image_size: int, normalization: Normalization) -> None:
        super().__init__(run)
        self.device, self.image_size, self.normalization = run.device, image_size, normalization
        self.rgb = default_rgb(normalization.num_channels)
        self._asked_rgb: tuple[int, ...] | None = None
        pin = run.device.type == "cuda"
        self._reading: dict[str, Any] = {"num_workers": run.num_workers, "pin_memory": pin}
        torch.manual_seed(run.seed)

    # What a subclass defines:

    def score(self, x: Tensor) -> Tensor:
        """(N, C, h, w) float32 in [-1, 1] -> (N, h, w) cloud score in [0, 1]."""
        raise NotImplementedError

    @classmethod
    def described(cls, run: Run, state: dict[str, Any], path: Path) -> Self:
        """A solver of the networks that `state`, the checkpoint `path`, is of."""
        raise NotImplementedError

    def validation(self, settings: Any) -> tuple[Select, float | None]:
        """What validation counts, `pixel` or `image`, and the threshold; None: the best one."""
        raise NotImplementedError

    def ready_to_score(self) -> None:
        """After training, and after loading: evaluation mode, where it matters."""

    def image_score(self, x: Tensor) -> Tensor:
        """(N, C, h, w) float32 in [-1, 1] -> (N,) how cloudy each patch is, in [0, 1]."""
        return self.score(x).mean(dim=(1, 2))

    def state(self) -> dict[str, Any]:
        """See `Resumable.state`."""
        return super().state() | {
            "image_size": self.image_size,
            "normalization": self.normalization.state(),
            "rgb": list(self.rgb),
        }

    def restore(self, state: dict[str, Any], source: Path) -> None:
        """See `Resumable.restore`."""
        super().restore(state, source)
        self.normalization = Normalization.from_state(state["normalization"])
        rgb = rgb_of(state, self.normalization.num_channels)
        self.rgb = self._asked_rgb or rgb

    def fingerprint(self) -> str:
        """Twelve hex digits that tell these weights and this normalisation from others."""
        return self.digest(repr(self.normalization))

    @classmethod
    def load(cls, run: Run, path: Path) -> Self:
        """The solver of a trained run, from its checkpoint alone."""
        state = checkpoints.load(path, cls.needs)
        with another_kind(path):
            solver = cls.described(run, state, path)
            solver.restore(state, path)
        solver.ready_to_score()
        return solver

    # What others take from a run:

    def scorer(self) -> Scorer:
        """The score with the weights as they are, and all that has to be known of it."""
        results = (self.run.folder.results, self.source.parent.parent / "results")
        return Scorer(
            experiment=self.run.folder.experiment,
            name=self.score_name,
            score=self.score,
            network=self.network,
            normalization=self.normalization,
            rgb=self.rgb,
            image_size=self.image_size,
            multiple=self.tile_multiple,
            device=self.device,
            identify=self.fingerprint,
            results=results,
            natural_threshold=self.natural_threshold,
            not_exportable=self.not_exportable and f"{self.source} is {self.not_exportable}",
            compiled=self.run.compile,
            processes=self.run.processes,
        )

    def predictor(self, threshold: float | None = None, tiles: Tiles | None = None) -> Predictor:
        """What `fcd.masks.prediction.predict_scenes` needs.

        threshold: None takes the one chosen for these weights before; tiles: None those of
        `Tiles.of`.
        """
        scorer = self.scorer()
        tiles = tiles or Tiles.of(scorer)
        if threshold is None:
            threshold = thresholds.known(scorer, tiles.amp)["threshold"]
        return predictor_of(scorer, tiles, threshold)

    def choose_threshold(
        self,
        choice: str | float | None,
        source: Source | Path | str,
        sample: int,
        batch_size: int,
        skip_bad: bool = False,
        amp: bool = False,
    ) -> thresholds.Record:
        """`fcd.masks.thresholds.choose` on at most `sample` cloudy training patches of `source`.

        choice: None takes `natural_threshold`, without one see `data_loader.threshold_choice`.
        amp: whether it is for scores computed in bfloat16.
        """
        source = as_source(source)
        choice = self.natural_threshold if choice is None else choice
        choice = threshold_choice(source) if choice is None else choice

        def cloudy() -> tuple[DataLoader, int]:
            otsu = choice == "otsu"
            found = cloudy_patches(source, skip_bad=skip_bad, masks_optional=otsu)
            chosen = Subset(found, thresholds.sample(len(found), sample))
            return self._own_batches(chosen, batch_size), len(chosen)

        asked = {
            "checkpoint": asdict(self.choice),
            "image_dir": str(source.root.resolve()),
            "reference": source.reference,
            "nodata": source.nodata,
            "sample": sample,
            "amp": amp,
        }
        return thresholds.choose(self.scorer(), choice, asked, cloudy)

    def supervision(self, threshold: thresholds.Record) -> Supervision:
        """What labels this run has seen, all choices and `threshold` included."""
        seen = self.seen.with_checkpoint(self.choice.by, self.choice.pixel_labels)
        return seen.with_threshold(threshold["chosen_by"], threshold["pixel_labels"])

    # Batches:

    def batches(
        self, dataset: PatchDataset, settings: TrainingSettings, stop: int
    ) -> Iterator[tuple[dict, Part]]:
        """See `data_loader.training_batches`; from the step after `self.step` to step `stop`."""
        run, processes = self.run, self.run.processes
        if processes.count > 1:
            processes.require_equal("training patches", dataset.summary()["fingerprint"])
        steps = (self.step, stop)
        batches = training_batches(dataset, settings, run.seed, steps, processes, **self._reading)
        if run.profile and processes.first:
            return profiled(batches, run.profile, run.folder.logs)
        return batches

    def _own_batches(self, dataset: PatchDataset | Subset, batch_size: int) -> DataLoader:
        """Batches of the patches of `dataset` that this process scores."""
        processes = self.run.processes
        if processes.count > 1:
            dataset = Subset(dataset, processes.share(range(len(dataset))))
        return get_loader(dataset, batch_size, **self._reading)

    def inputs(self, batch: dict) -> Tensor:
        """Images of a batch as network input, normalised on the device."""
        return self.normalization.normalize(to_device(batch["image"], self.device).contiguous())

    def autocast(self, amp: bool) -> torch.autocast:
        """With `amp` the networks compute in bfloat16 where that is safe."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=amp)

    # The loop:

    def loop(self, stop: int) -> AbstractContextManager[tuple[tqdm, Log, Interruption]]:
        """See `training_loop`."""
        self.check_equal()
        return training_loop(self.step, stop, self.run.folder.logs, self.run.processes)

    def log_parts(
        self, log: Log, bar: tqdm, parts: Parts, lr: float, shown: tuple[str, ...]
    ) -> None:
        """Log the loss parts, of which `parts` is this process's share; see `loop.log_parts`."""
        parts = self.run.processes.sum_parts(parts)
        self.check_finite(parts)
        log_parts(self.step, parts, lr, shown, log, bar)

    def validate(
        self, dataset: PatchDataset, batch_size: int, select: Select, threshold: float | None
    ) -> tuple[np.ndarray, float]:
        """Confusion (2, 2) of the pixels or of the patches, and the threshold it belongs to.

        batch_size: of all processes; select: `pixel` or `image`; threshold: None takes the one
        with the best macro F1. Raises `UserError` if no pixel counts.
        """
        pixel, processes = select == "pixel", self.run.processes
        counts = thresholds.histogram(
            self._own_batches(dataset, processes.per_process(batch_size)),
            self.inputs,
            self.score if pixel else self.image_score,
            thresholds.mask_of if pixel else thresholds.label_of,
            processes,
        )
        thresholds.require_pixels(counts, "validation")
        if threshold is None:
            threshold, _ = metrics.best_threshold(counts)
        cells = metrics.confusion_by_threshold(counts)
        return cells[round(threshold * metrics.BINS)], threshold

    def validate_and_save(self, log: Log, settings: Any, val_set: PatchDataset | None) -> None:
        """Log the validation scores; save latest, and best if it is or nothing can choose it."""
        if val_set is None:
            self.save("latest", "best")
            return
        select, threshold = self.validation(settings)
        cells, threshold = self.validate(val_set, settings.batch_size, select, threshold)
        scores = metrics.scores(cells)
        f1 = scores["macro"]["f1"]
        said = {"accuracy": scores["accuracy"], "f1": f1, "iou": scores["macro"]["iou"]}
        for name, value in (said | {"threshold": threshold}).items():
            log.add_scalar(f"val/{name}", value, self.step)
        is_best = f1 > self.best
        self.best = max(f1, self.best)
        tqdm.write(
            f"step {self.step}: validation accuracy {scores['accuracy']:.3f}, "
            f"macro F1 {f1:.3f} (best {self.best:.3f})"
        )
        choice = Choice.of(select, val_set.reference, int(cells.sum()))
        if schedule := self.optimizers.get("scheduler"):
            schedule.step(f1)  # before it is saved
        if is_best:
            self.save("best", choice=choice)
        if schedule:
            self.choice = replace(choice, by=f"last step, learning rate by {choice.by}")
        self.save("latest")  # which is not chosen at all

    def use_rgb(self, bands: tuple[int, ...] | None) -> None:
        """Show `bands`, from 0, as red, green and blue; None: those of the checkpoint."""
        self._asked_rgb = bands
        self.rgb = bands or self.rgb


class FCDSolver(Solver):
    """Fixed-Point GAN: trained on image-level labels, scores pixels by the difference map."""

    tile_multiple = 4
    score_name = "difference map"
    needs = ("G", "D")

    def __init__(
        self, run: Run, size: GANSize, image_size: int, normalization: Normalization
    ) -> None:
        super().__init__(run, image_size, normalization)
        self.size, self.seen = size, Supervision.none(NAMES[TRUTH])
        generator, discriminator = size.build(image_size, normalization.num_channels)
        self.G, self.D = generator.to(self.device), discriminator.to(self.device)
        self.networks, self.network = {"G": self.G, "D": self.D}, self.G
        if run.compile:
            # Not D: what is compiled has no gradient of a gradient, which its penalty needs.
            self.G.compile()

    @classmethod
    def described(cls, run: Run, state: dict[str, Any], path: Path) -> Self:
        """See `Solver.described`."""
        state |= completed(state)
        normalization = Normalization.from_state(state["normalization"])
        size, side = from_plain(GANSize, state["size"], path), image_side(state)
        size.check(state, side, normalization.num_channels)
        return cls(run, size, side, normalization)

    def score(self, x: Tensor) -> Tensor:
        """The difference map."""
        return difference_map(self.G, x)

    def state(self) -> dict[str, Any]:
        """See `Solver.state`."""
        return super().state() | {
            "size": asdict(self.size),
            "image_labels": self.seen.image_labels,
            "labels_from": self.seen.labels_from,
        }

    def restore(self, state: dict[str, Any], source: Path) -> None:
        """See `Solver.restore`."""
        super().restore(state, source)
        # Checkpoints from before this entry were trained on labels from manual masks.
        source_of_labels = state.get("labels_from", NAMES[TRUTH])
        self.seen = Supervision.none(source_of_labels).with_image_labels(state["image_labels"])

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
        self.seen = Supervision.none(train_set.labels_from).with_image_labels(len(train_set))
        self.resume()
        shown = self._sample_patches(val_set or train_set)
        batches = self.batches(train_set, settings, settings.num_iters)
        parts: Parts = {}
        with self.loop(settings.num_iters) as (bar, log, interruption):
            for batch, part in batches:
                self.step += 1
                generator = seed_step(self.run.seed, self.step, self.run.processes.rank)
                x_real = self.inputs(batch)
                c_org = batch["label"].to(self.device, non_blocking=True)
                order = torch.randperm(part.size, generator=generator)[part.rows]
                c_trg = batch["all_labels"][order].to(self.device, non_blocking=True)
                alpha = part.uniform(generator, 1, 1, 1).to(self.device, non_blocking=True)
                self._set_learning_rate(settings)
                parts |= self.learn(settings, x_real, c_org, c_trg, alpha, part.weight)

                bar.update()
                if self.step % self.run.log_step == 0:
                    lr = self.optimizers["g_optimizer"].param_groups[0]["lr"]
                    self.log_parts(log, bar, parts, lr, ("D/loss_cls", "G/loss_cls", "G/loss_id"))
                if self.step % settings.sample_step == 0 and self.run.processes.first:
                    self._show(log, shown)
                if self.step % settings.model_save_step == 0 or self.step == settings.num_iters:
                    self.check_finite(parts)
                    self.synchronize()
                    self.validate_and_save(log, settings, val_set)
                self.stop_if_asked(interruption)

    def start_optimizers(self, settings: GANTraining) -> None:
        """Make the optimisers that `learn` uses."""
        betas = (settings.beta1, settings.beta2)
        # One fused kernel over all parameters: a quarter less time a step than one by one.
        self.optimizers = {
            "g_optimizer": Adam(self.G.parameters(), settings.g_lr, betas, fused=True),
            "d_optimizer": Adam(self.D.parameters(), settings.d_lr, betas, fused=True),
        }

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
                translated = losses.translate(self.G, x_real, targets)
            x_fake = translated[: len(x_real)].detach()
            d_loss, d_parts = losses.discriminator_loss(
                self.D, x_real, x_fake, c_org, alpha, settings.weights
            )
        self.update(self.optimizers["d_optimizer"], d_loss, weight, list(self.D.parameters()))
        parts = detached(d_parts, weight)
        if not generators_turn:
            return parts

        with self.autocast(settings.amp):
            g_loss, g_parts = losses.generator_loss(
                self.G, self.D, x_real, translated, c_org, targets, settings.weights
            )
        self.update(self.optimizers["g_optimizer"], g_loss, weight, list(self.G.parameters()))
        return parts | detached(g_parts, weight)

    def _set_learning_rate(self, settings: GANTraining) -> None:
        decay = min(settings.num_iters_decay, settings.num_iters)
        factor = losses.learning_rate_factor(self.step, settings.num_iters, decay)
        self.optimizers["g_optimizer"].param_groups[0]["lr"] = settings.g_lr * factor
        self.optimizers["d_optimizer"].param_groups[0]["lr"] = settings.d_lr * factor

    def validation(self, settings: GANTraining) -> tuple[Select, float | None]:
        """See `Solver.validation`."""
        return settings.select, None

    def _sample_patches(self, dataset: PatchDataset, count: int = 8) -> dict:
        """A fixed batch for pictures, spread over the data set (clear to cloudy)."""
        index = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int)
        return next(iter(get_loader(Subset(dataset, index.tolist()), count, 0)))

    def _translations(self, batch: dict) -> np.ndarray:
        masks = batch["mask"].numpy() if "mask" in batch else None
        return translations(self.G, self.inputs(batch), masks, self.normalization, self.rgb)

    def _show(self, log: Log, batch: dict) -> None:
        picture = self._translations(batch)
        log.add_image("translations", picture, self.step, dataformats="HWC")
        pictures.write_png(self.run.folder.samples / f"{self.step:06d}.png", picture)

    def visualize(self, dataset: PatchDataset, count: int) -> Path:
        """Write the translations of `count` patches to samples/translations.png."""
        path = self.run.folder.samples / "translations.png"
        if self.run.processes.first:
            pictures.write_png(path, self._translations(self._sample_patches(dataset, count)))
        return path


class SupervisedSolver(Solver):
    """A network trained on masks or image labels: FCD+, fully supervised, Pre, the CAM family."""

    network: Any  # of segmentation-models-pytorch, or a `model.PooledClassifier`
    tile_multiple = 32
    needs = ("network", "task", "image_size", "normalization")

    def __init__(self, run: Run, task: Task, image_size: int, normalization: Normalization) -> None:
        super().__init__(run, image_size, normalization)
        self.task = task
        self.cam_method: Method = "cam"
        self.score_name = "probability" if task.network == "unet" else self.cam_method
        self.natural_threshold = 0.5 if task.network == "unet" else None
        if task.network != "unet":
            self.not_exportable = (
                f"a {task.network}: as ONNX there are U-Nets, but no class activation maps, most "
                "of which take gradients"
            )
        self.seen = Supervision.none("")
        self.network = task.build(normalization.num_channels).to(self.device)
        self.networks = {"network": self.network}
        if run.compile:
            self.network.compile()

    @classmethod
    def described(cls, run: Run, state: dict[str, Any], path: Path) -> Self:
        """See `Solver.described`."""
        normalization = Normalization.from_state(state["normalization"])
        task = from_plain(Task, state["task"], path)
        return cls(run, task, image_side(state), normalization)

    def score(self, x: Tensor) -> Tensor:
        """Softmax probability of cloud of a U-Net; class activation map of a classifier."""
        if self.task.network != "unet":
            return cam_score(self.cam_method, self.network, x)
        return self._masks(x)[0].float().softmax(dim=1)[:, labels.LABEL_CLOUDY]

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
        return super().state() | {
            "task": asdict(self.task),
            "supervision": asdict(self.seen),
        }

    def restore(self, state: dict[str, Any], source: Path) -> None:
        """See `Solver.restore`."""
        super().restore(state, source)
        self.seen = from_plain(Supervision, state["supervision"], source)

    def start_from(
        self, path: Path | str, *, encoder_only: bool, nodata: float | str | None = None
    ) -> None:
        """Begin with the weights and values of another run, and inherit what labels it has seen.

        nodata: what counts as nodata whatever that run says, "none" for no value; None: the same.
        """
        state = checkpoints.load(path, ("network", "normalization", "supervision", "choice"))
        without = () if self.task.classifier_head else ("classification_head.",)
        network = self.network.encoder if encoder_only else self.network
        part = "encoder." if encoder_only else ""
        weights = checkpoints.part_of(state["network"], part, without, path)
        checkpoints.load_weights(network, weights, path)
        with another_kind(path):
            learned = Normalization.from_state(state["normalization"])
        own = self.normalization
        self.normalization = learned.of(own.dtype, own.nodata, "the training set", nodata)
        choice = from_plain(Choice, state["choice"], path)
        seen = from_plain(Supervision, state["supervision"], path)
        self.seen = seen.with_checkpoint(f"weights: {choice.by}", choice.pixel_labels)

    def use_cam(self, method: Method) -> None:
        """Score by the class activation map `method`, if the network is scored by one."""
        if self.task.network != "unet":
            self.cam_method = self.score_name = method

    def start_from_imagenet(self) -> None:
        """Begin with the ImageNet weights of the ResNet-50; see `model.build_resnet50`."""
        weights = build_resnet50(self.normalization.num_channels, "imagenet").state_dict()
        self.network.load_state_dict(weights)

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
        self.start_optimizers(settings)
        self.resume()
        per_epoch = batches_per_epoch(len(train_set), settings.batch_size)
        stop = settings.n_epochs * per_epoch
        batches = self.batches(train_set, settings, stop)
        with self.loop(stop) as (bar, log, interruption):
            for batch, part in batches:
                self.step += 1
                seed_step(self.run.seed, self.step, self.run.processes.rank)
                label = batch["label"].to(self.device, non_blocking=True)
                mask = batch["mask"].to(self.device) if self.task.target == "mask" else None
                parts = self.learn(settings, self.inputs(batch), mask, label, part)

                bar.update()
                if self.step % self.run.log_step == 0:
                    lr = self.optimizers["optimizer"].param_groups[0]["lr"]
                    self.log_parts(log, bar, parts, lr, tuple(parts))
                if self.step % per_epoch == 0:
                    self.check_finite(parts)
                    self.synchronize()
                    self.validate_and_save(log, settings, val_set)
                self.stop_if_asked(interruption)
        self.network.eval()

    def start_optimizers(self, settings: SupervisedTraining) -> None:
        """Make the optimiser that `learn` uses, of what is to be trained, and its schedule."""
        if settings.freeze_encoder:
            self.network.encoder.requires_grad_(False)
        trained = [p for p in self.network.parameters() if p.requires_grad]
        optimizer = Adam(trained, settings.lr, fused=True)  # see FCDSolver.start_optimizers
        schedule = ReduceLROnPlateau(
            optimizer, "max", settings.plateau_factor, settings.plateau_patience
        )
        self.optimizers = {"optimizer": optimizer, "scheduler": schedule}

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
        self.network.train()
        if settings.freeze_encoder:
            self.network.encoder.eval()  # frozen means the batch-norm statistics too
        with self.autocast(settings.amp):
            loss, parts = self._loss(x, mask, label, part)
        optimizer = self.optimizers["optimizer"]
        self.update(optimizer, loss, part.weight, optimizer.param_groups[0]["params"])
        return detached(parts, part.weight)

    def _loss(
        self, x: Tensor, mask: Tensor | None, label: Tensor, part: Part
    ) -> tuple[Tensor, Parts]:
        """Loss of this part of a batch; times `part.weight`, summed, it is the batch's."""
        if mask is None:
            loss = losses.label_loss(self._image_logit(x), label)
            return loss, {"train/loss_label": loss}
        logits, image_logit = self._masks(x)
        return losses.segmentation_loss(logits, mask, image_logit, label, self._pixels(mask, part))

    def _pixels(self, mask: Tensor, part: Part) -> Tensor | None:
        """What to divide the loss of this part's pixels by: it is weighted as the samples are.

        The whole batch's loss is a mean over its valid pixels, of which a part may have more or
        less than its share.
        """
        if self.run.processes.count == 1:
            return None
        own = (mask != labels.INVALID).sum() * (part.weight > 0)
        return self.run.processes.sum(own).clamp(min=1) * (part.weight or 1)

    def validation(self, settings: SupervisedTraining) -> tuple[Select, float | None]:
        """See `Solver.validation`."""
        self.network.eval()
        select: Select = "image" if self.task.target == "label" else settings.select
        # Probabilities have their threshold; the mean score of a patch has to find one.
        natural = self.task.target == "label" or select == "pixel"
        return select, 0.5 if natural else None


def load_solver(checkpoint: Path | str, device: str = "auto") -> FCDSolver | SupervisedSolver:
    """The solver of a trained run, whichever it is, from its checkpoint alone.

    checkpoint: `outputs/<name>/models/best.pt` or a copy of it. Raises `UserError` if it is none.
    """
    path = Path(checkpoint)
    place = path.resolve()
    name = (
        place.parents[1].name.replace("Plus", "+") if place.parent.name == "models" else path.stem
    )
    run = Run(RunFolder(name), use_device(device))
    state = checkpoints.load(path)
    kind = FCDSolver if "G" in state else SupervisedSolver
    return kind.load(run, path)
