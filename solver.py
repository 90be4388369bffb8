"""Training of the Fixed-Point GAN and of the supervised networks, and the scorers they become."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Adam
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import Subset
from tqdm import tqdm
from typing_extensions import Self

from data_loader import (
    PatchDataset,
    as_source,
    get_loader,
    threshold_choice,
    threshold_patches,
    training_batches,
)
from fcd import metrics, pictures
from fcd.cli.entry import use_device
from fcd.cli.settings import GANTraining, SupervisedTraining, TrainingSettings
from fcd.files import from_plain
from fcd.landsat import labels
from fcd.landsat.bands import default_rgb
from fcd.landsat.reference import NAMES, TRUTH
from fcd.masks import thresholds
from fcd.masks.cam import Method, cam_score
from fcd.masks.predictor import Predictor, predictor_of
from fcd.masks.scoring import Scorer, Tiles, Views, mean_of
from fcd.patches.normalisation import Normalization, to_device
from fcd.patches.sources import Source, read_how
from fcd.patches.supervision import Supervision
from fcd.processes import Part
from fcd.training import averaging, checkpoints, losses
from fcd.training.batches import batches_per_epoch
from fcd.training.checkpoints import Choice, Select, another_kind, image_side, rgb_of
from fcd.training.loop import Log, log_validation, seed_step, training_loop, translations
from fcd.training.losses import Parts, detached, difference_map
from fcd.training.profiling import profiled
from fcd.training.run import Resumable, Run, RunFolder
from model import GANSize, Task, build_resnet50, completed


class Solver(Resumable):
    """The frame of a run: device, folder, checkpoints, the loop, randomness, log, stop.

    A subclass says how a pixel is scored (`score`) and how the networks learn (`step_on`).
    """

    needs: tuple[str, ...]  # entries of a checkpoint
    seen: Supervision  # the labels trained on, and the choices of runs this one builds on
    tile_multiple: int  # tile sides the networks can take, pixels
    score_name: str  # what `score` is
    natural_threshold: float | None = None  # of a score that is a probability
    not_exportable = ""  # what is scored by, if it cannot be written as ONNX, in words
    shown: tuple[str, ...]  # the loss parts beside the bar
    views = Views()  # how others get tiles looked at; validation does without
    companions: Sequence[Self] = ()  # whose scores are averaged with its own, for others too

    def __init__(self, run: Run, image_size: int, normalization: Normalization) -> None:
        super().__init__(run)
        self.device, self.image_size, self.normalization = run.device, image_size, normalization
        self.rgb = default_rgb(normalization.bands)
        self._asked_rgb: tuple[int, ...] | None = None
        self.stored_threshold: thresholds.Record | None = None  # of weights that are passed on
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

    def start(
        self, settings: Any, train_set: PatchDataset, val_set: PatchDataset | None
    ) -> tuple[int, int]:
        """Make ready to train; return the steps of the run, and those between validations."""
        raise NotImplementedError

    def step_on(self, settings: Any, batch: dict, part: Part, generator: torch.Generator) -> Parts:
        """Learn from this process's `part` of a batch; return its share of the loss parts."""
        raise NotImplementedError

    def show(self, settings: Any, log: Log) -> None:
        """Log pictures, if it is time."""

    def validation(self, settings: Any) -> tuple[Select, float | None]:
        """What validation counts, `pixel` or `image`, and the threshold; None: the best one."""
        return settings.select, None

    def ready_to_score(self) -> None:
        """After loading: evaluation mode, where it matters."""

    def image_score(self, dataset: PatchDataset, batch_size: int) -> Callable[[Tensor], Tensor]:
        """(N, C, h, w) float32 in [-1, 1] -> (N,) how cloudy each patch is, in [0, 1].

        dataset: the patches that are to be told apart, `batch_size` of them in each process.
        """
        return lambda x: thresholds.of_patches(x, self.score(x))

    # Checkpoints:

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
        self.rgb = self._asked_rgb or rgb_of(state, self.normalization.bands)
        self.stored_threshold = state.get("threshold")

    def fingerprint(self) -> str:
        """Twelve hex digits that tell these weights and this normalisation from others."""
        return self.digest(repr(self.normalization))

    @classmethod
    def load(cls, run: Run, path: Path) -> Self:
        """The solver of a trained run, from its checkpoint alone."""
        state = checkpoints.load(path, cls.needs)
        with another_kind(path):
            solver = cls.described(run, state, path)
            if averaging.name_of(cls.scoring) in state:
                solver.add_average()
            solver.restore(state, path)
        solver.ready_to_score()
        return solver

    def use_rgb(self, bands: tuple[int, ...] | None) -> None:
        """Show `bands`, from 0, as red, green and blue; None: those of the checkpoint."""
        self._asked_rgb = bands
        self.rgb = bands or self.rgb

    # What others take from a run:

    def scorer(self) -> Scorer:
        """The score with the weights as they are, and all that has to be known of it."""
        folder = self.run.folder
        alone = Scorer(
            experiment=folder.experiment,
            name=self.score_name,
            score=self.score,
            network=self.network,
            normalization=self.normalization,
            rgb=self.rgb,
            image_size=self.image_size,
            multiple=self.tile_multiple,
            device=self.device,
            identify=self.fingerprint,
            checkpoint=self.source,
            results=(folder.results, self.source.parent.parent / "results"),
            natural_threshold=self.natural_threshold,
            stored_threshold=self.stored_threshold,
            not_exportable=self.not_exportable and f"{self.source} is {self.not_exportable}",
            compiled=self.run.compile,
            processes=self.run.processes,
        )
        return mean_of(alone, [one.scorer() for one in self.companions]).viewed(self.views)

    def predictor(self, threshold: float | None = None, tiles: Tiles | None = None) -> Predictor:
        """What `predict_scenes` needs; by default with the threshold chosen for these weights."""
        scorer = self.scorer()
        chosen = thresholds.known(scorer)["threshold"] if threshold is None else threshold
        return predictor_of(scorer, tiles or Tiles.of(scorer), chosen)

    def choose_threshold(
        self,
        choice: str | float | None,
        source: Source | Path | str,
        sample: int,
        batch_size: int,
        skip_bad: bool = False,
        amp: bool = False,
    ) -> thresholds.Record:
        """`fcd.masks.thresholds.choose` on at most `sample` training patches of `source`.

        choice: None takes `natural_threshold`, without one see `data_loader.threshold_choice`.
        amp: whether it is for scores computed in bfloat16.
        """
        source = as_source(source)
        scorer, natural = self.scorer(), self.natural_threshold
        choice = choice if choice is not None else natural or threshold_choice(source)

        def measured() -> tuple[np.ndarray, int]:
            like = {"bands": self.normalization.bands, "toa": self.normalization.is_toa}
            found = threshold_patches(source, str(choice), skip_bad=skip_bad, **like)
            chosen = Subset(found, thresholds.sample(len(found), sample))
            score = self.autocast(amp)(scorer.score)
            how = thresholds.judged(str(choice), score)
            return self._histogram(chosen, batch_size, *how), len(chosen)

        asked = {
            "checkpoint": asdict(self.choice),
            "image_dir": str(source.root.resolve()),
            "reference": source.reference,
            "files": thresholds.stamp(source, choice),
            **read_how(source),
            "sample": sample,
            "amp": amp,
        }
        return thresholds.choose(scorer, choice, asked, measured)

    def supervision(self, threshold: thresholds.Record | None = None) -> Supervision:
        """What labels this run has seen, all choices and `threshold`, if any, included."""
        seen = self.seen.with_checkpoint(self.choice.by, self.choice.pixel_labels)
        seen = reduce(Supervision.with_run, (c.supervision() for c in self.companions), seen)
        chosen = threshold or {"chosen_by": "", "pixel_labels": 0}
        return seen.with_threshold(chosen["chosen_by"], chosen["pixel_labels"])

    # Batches:

    def batches(
        self, dataset: PatchDataset, settings: TrainingSettings, stop: int
    ) -> Iterator[tuple[dict, Part]]:
        """See `data_loader.training_batches`; from the step after `self.step` to step `stop`."""
        run, processes, steps = self.run, self.run.processes, (self.step, stop)
        if processes.count > 1:
            processes.require_equal("training patches", dataset.summary()["fingerprint"])
        batches = training_batches(dataset, settings, run.seed, steps, processes, **self._reading)
        if run.profile and processes.first:
            return profiled(batches, run.profile, run.folder.logs)
        return batches

    def inputs(self, batch: dict) -> Tensor:
        """Images of a batch as network input, normalised on the device."""
        return self.normalization.normalize(to_device(batch["image"], self.device).contiguous())

    def _histogram(
        self,
        dataset: PatchDataset | Subset,
        batch_size: int,
        score: Callable[[Tensor], Tensor],
        truth: Callable[[dict, Tensor], np.ndarray],
    ) -> np.ndarray:
        """`thresholds.histogram` of all patches, which the processes share."""
        processes = self.run.processes
        if processes.count > 1:
            dataset = Subset(dataset, processes.share(range(len(dataset))))
        batches = get_loader(dataset, batch_size, **self._reading)
        return thresholds.histogram(batches, self.inputs, score, truth, processes)

    # The loop:

    def train(self, settings: Any, train_set: PatchDataset, val_set: PatchDataset | None) -> None:
        """Train to the last step, continuing from `latest.pt` if there is one.

        The best checkpoint is the one with the best macro F1 on the validation masks
        (`settings.select` "pixel", the paper's protocol: it uses pixel labels) or on the validation
        patches' image-level labels ("image", and where they are the target); without `val_set` it
        is the last one. With several processes batch norm takes the statistics of each process's
        part of a batch; all else is as with one. Raises `Stopped` on Ctrl-C or SIGTERM, `UserError`
        if a loss is no longer finite.
        """
        stop, every = self.start(settings, train_set, val_set)
        if settings.ema:
            self.add_average()
        self.resume()
        batches = self.batches(train_set, settings, stop)
        parts: Parts = {}
        self.check_equal()
        run = self.run
        with training_loop(self.step, stop, run.folder.logs, run.processes) as (bar, log, asked):
            for batch, part in batches:
                self.step += 1
                generator = seed_step(run.seed, self.step, run.processes.rank)
                parts |= self.step_on(settings, batch, part, generator)
                if settings.ema:
                    self.update_average(settings.ema * stop)
                bar.update()
                if self.step % run.log_step == 0:
                    self.log_parts(log, bar, parts)
                self.show(settings, log)
                if self.step % every == 0 or self.step == stop:
                    self.check_finite(parts)
                    self.synchronize()
                    self.validate_and_save(log, settings, val_set)
                self.stop_if_asked(asked)
        self.network.eval()

    def log_parts(self, log: Log, bar: tqdm, parts: Parts) -> None:
        """Log the loss parts, of which `parts` is this process's share, and the learning rate."""
        parts = self.run.processes.sum_parts(parts)
        self.check_finite(parts)
        values = dict(zip(parts, torch.stack(list(parts.values())).tolist(), strict=True))
        lr = next(iter(self.optimizers.values())).param_groups[0]["lr"]
        for name, value in (values | {"lr": lr}).items():
            log.add_scalar(name, value, self.step)
        shown = {name: f"{values[name]:.3f}" for name in self.shown if name in values}
        bar.set_postfix(shown, refresh=False)

    def validate(
        self, dataset: PatchDataset, batch_size: int, select: Select, threshold: float | None
    ) -> tuple[np.ndarray, float]:
        """Confusion (2, 2) of the pixels or of the patches, and the threshold it belongs to.

        batch_size: of all processes; select: `pixel` or `image`; threshold: None takes the one
        with the best macro F1. Raises `UserError` if no pixel counts.
        """
        pixel, per_process = select == "pixel", self.run.processes.per_process(batch_size)
        score = self.score if pixel else self.image_score(dataset, per_process)
        truth = thresholds.mask_of if pixel else thresholds.label_of
        counts = self._histogram(dataset, per_process, score, truth)
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
        f1 = (scores := metrics.scores(cells))["macro"]["f1"]
        is_best = f1 >= self.best  # of equal ones the later: patches are few, and soon told apart
        self.best = max(f1, self.best)
        log_validation(log, self.step, scores, threshold, self.best)
        choice = Choice.of(select, val_set.reference, int(cells.sum()))
        if schedule := self.optimizers.get("scheduler"):
            schedule.step(f1)  # before it is saved
        if is_best:
            self.save("best", choice=choice)
        if schedule:
            self.choice = replace(choice, by=f"last step, learning rate by {choice.by}")
        self.save("latest")  # which is not chosen at all


class FCDSolver(Solver):
    """Fixed-Point GAN: trained on image-level labels, scores pixels by the difference map."""

    scoring, tile_multiple = "G", 4
    score_name = "difference map"
    needs = ("G", "D")
    shown = ("D/loss_cls", "G/loss_cls", "G/loss_id")

    def __init__(
        self, run: Run, size: GANSize, image_size: int, normalization: Normalization
    ) -> None:
        super().__init__(run, image_size, normalization)
        self.size, self.seen = size, Supervision.none(NAMES[TRUTH])
        generator, discriminator = size.build(image_size, normalization.num_channels)
        self.G, self.D = generator.to(self.device), discriminator.to(self.device)
        self.networks = {"G": self.G, "D": self.D}
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
        return difference_map(self.network, x)

    def image_score(self, dataset: PatchDataset, batch_size: int) -> Callable[[Tensor], Tensor]:
        """See `Solver.image_score`: the share of cloud by the threshold `clear` on `dataset`."""
        clear = Subset(dataset, torch.nonzero(dataset.labels == labels.LABEL_CLEAR)[:, 0].tolist())
        counts = self._histogram(clear, batch_size, self.score, thresholds.valid_of)
        thresholds.require_pixels(counts, "clear validation")
        threshold = thresholds.clear_threshold(counts)
        return lambda x: thresholds.of_patches(x, self.score(x) > threshold)

    def state(self) -> dict[str, Any]:
        """See `Solver.state`."""
        seen = {"image_labels": self.seen.image_labels, "labels_from": self.seen.labels_from}
        return super().state() | {"size": asdict(self.size)} | seen

    def restore(self, state: dict[str, Any], source: Path) -> None:
        """See `Solver.restore`."""
        super().restore(state, source)
        # Checkpoints from before this entry were trained on labels from manual masks.
        source_of_labels = state.get("labels_from", NAMES[TRUTH])
        self.seen = Supervision.none(source_of_labels).with_image_labels(state["image_labels"])

    def start(
        self, settings: GANTraining, train_set: PatchDataset, val_set: PatchDataset | None
    ) -> tuple[int, int]:
        """See `Solver.start`."""
        self.start_optimizers(settings)
        self.seen = Supervision.none(train_set.labels_from).with_image_labels(
            len(train_set.patches)
        )
        self._to_show = self._sample_patches(val_set or train_set)
        return settings.num_iters, settings.model_save_step

    def start_optimizers(self, settings: GANTraining) -> None:
        """Make the optimisers that `learn` uses."""
        betas = (settings.beta1, settings.beta2)
        # One fused kernel over all parameters: a quarter less time a step than one by one.
        self.optimizers = {
            "g_optimizer": Adam(self.G.parameters(), settings.g_lr, betas, fused=True),
            "d_optimizer": Adam(self.D.parameters(), settings.d_lr, betas, fused=True),
        }

    def step_on(
        self, settings: GANTraining, batch: dict, part: Part, generator: torch.Generator
    ) -> Parts:
        """See `Solver.step_on`: target domains are the labels of the batch in another order."""
        x_real = self.inputs(batch)
        c_org = batch["label"].to(self.device, non_blocking=True)
        order = torch.randperm(part.size, generator=generator)[part.rows]
        c_trg = batch["all_labels"][order].to(self.device, non_blocking=True)
        alpha = part.uniform(generator, 1, 1, 1).to(self.device, non_blocking=True)
        decay = min(settings.num_iters_decay, settings.num_iters)
        factor = losses.learning_rate_factor(self.step, settings.num_iters, decay)
        for name, lr in (("g_optimizer", settings.g_lr), ("d_optimizer", settings.d_lr)):
            self.optimizers[name].param_groups[0]["lr"] = lr * factor
        return self.learn(settings, x_real, c_org, c_trg, alpha, part.weight)

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
        autocast = self.training(settings.amp, G=(x_real, c_org), D=(x_real,))
        G, D = self.computing("G"), self.computing("D")
        with autocast:
            # The generator stays as it is until its own step, which goes on from here.
            with torch.set_grad_enabled(generators_turn):
                translated = losses.translate(G, x_real, targets)
            x_fake = translated[: len(x_real)].detach()
            d_loss, d_parts = losses.discriminator_loss(
                D, x_real, x_fake, c_org, alpha, settings.weights
            )
        self.update(self.optimizers["d_optimizer"], d_loss, weight, list(self.D.parameters()))
        parts = detached(d_parts, weight)
        if not generators_turn:
            return parts

        with autocast:
            g_loss, g_parts = losses.generator_loss(
                G, D, x_real, translated, c_org, targets, settings.weights
            )
        self.update(self.optimizers["g_optimizer"], g_loss, weight, list(self.G.parameters()))
        return parts | detached(g_parts, weight)

    def show(self, settings: GANTraining, log: Log) -> None:
        """See `Solver.show`: translations, to a file too."""
        if self.step % settings.sample_step == 0 and self.run.processes.first:
            picture = self._translations(self._to_show)
            log.add_image("translations", picture, self.step, dataformats="HWC")
            pictures.write_png(self.run.folder.samples / f"{self.step:06d}.png", picture)

    def visualize(self, dataset: PatchDataset, count: int) -> Path:
        """Write the translations of `count` patches to samples/translations.png."""
        path = self.run.folder.samples / "translations.png"
        if self.run.processes.first:
            pictures.write_png(path, self._translations(self._sample_patches(dataset, count)))
        return path

    def _sample_patches(self, dataset: PatchDataset, count: int = 8) -> dict:
        """A fixed batch for pictures, spread over the data set (clear to cloudy)."""
        index = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int)
        return next(iter(get_loader(Subset(dataset, index.tolist()), count, 0)))

    def _translations(self, batch: dict) -> np.ndarray:
        masks = batch["mask"].numpy() if "mask" in batch else None
        return translations(self.network, self.inputs(batch), masks, self.normalization, self.rgb)


class SupervisedSolver(Solver):
    """A network trained on masks or image labels: FCD+, fully supervised, Pre, the CAM family."""

    scoring, tile_multiple = "network", 32
    needs = ("network", "task", "image_size", "normalization")
    shown = ("train/loss_mask", "train/loss_label")

    def __init__(self, run: Run, task: Task, image_size: int, normalization: Normalization) -> None:
        super().__init__(run, image_size, normalization)
        self.task, self.seen = task, Supervision.none("")
        self.cam_method: Method = "cam"
        self.score_name, self.natural_threshold = "probability", 0.5
        if task.network != "unet":
            self.score_name, self.natural_threshold = self.cam_method, None
            self.not_exportable = (
                f"a {task.network}: as ONNX there are U-Nets, but no class activation maps, most "
                "of which take gradients"
            )
        # Of segmentation-models-pytorch, or a `model.PooledClassifier`.
        self.networks = {"network": task.build(normalization.num_channels).to(self.device)}
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
        return self._masks(self.network, x)[0].float().softmax(dim=1)[:, labels.LABEL_CLOUDY]

    def image_score(self, dataset: PatchDataset, batch_size: int) -> Callable[[Tensor], Tensor]:
        """Probability that a patch is cloudy, or the mean score if labels are not learned."""
        if self.task.target == "label":
            return lambda x: self._image_logit(self.network, x).sigmoid()[:, 0]
        return super().image_score(dataset, batch_size)

    def ready_to_score(self) -> None:
        """Evaluation mode, and the layout of memory in which a U-Net scores fastest.

        In training it gains little, and the optimisers of older checkpoints have the other.
        """
        self.network.eval().to(memory_format=torch.channels_last)

    def use_cam(self, method: Method) -> None:
        """Score by the class activation map `method`, if the network is scored by one."""
        if self.task.network != "unet":
            self.cam_method = self.score_name = method

    def _masks(self, network: Any, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """U-Net: logits (N, 2, H, W), and the image logit (N, 1) if there is a head for it."""
        output = network(x)
        return output if self.task.classifier_head else (output, None)

    def _image_logit(self, network: Any, x: Tensor) -> Tensor:
        """Logit (N, 1) of cloudy against clear, without the decoder of a U-Net."""
        if self.task.network == "unet":
            return network.classification_head(network.encoder(x)[-1])
        clear, cloudy = network(x).chunk(2, dim=1)
        return cloudy - clear

    def state(self) -> dict[str, Any]:
        """See `Solver.state`."""
        return super().state() | {"task": asdict(self.task), "supervision": asdict(self.seen)}

    def restore(self, state: dict[str, Any], source: Path) -> None:
        """See `Solver.restore`."""
        super().restore(state, source)
        self.seen = from_plain(Supervision, state["supervision"], source)

    def start_from(
        self, path: Path | str, *, encoder_only: bool, nodata: Sequence[float] | None = None
    ) -> None:
        """Begin with the weights and values of another run, and inherit what labels it has seen.

        nodata: values that count as nodata whatever that run says; None: the same.
        """
        state = checkpoints.load(path, ("network", "normalization", "supervision", "choice"))
        without = () if self.task.classifier_head else ("classification_head.",)
        part, self.began_trained = "encoder." if encoder_only else "", not encoder_only
        network = self.network.encoder if encoder_only else self.network
        learned_weights = state.get(averaging.name_of("network"), state["network"])
        weights = checkpoints.part_of(learned_weights, part, without, path)
        checkpoints.load_weights(network, weights, path)
        with another_kind(path):
            learned = Normalization.from_state(state["normalization"])
        self.normalization = learned.for_training(self.normalization, path, nodata)
        choice = from_plain(Choice, state["choice"], path)
        seen = from_plain(Supervision, state["supervision"], path)
        self.seen = seen.with_checkpoint(f"weights: {choice.by}", choice.pixel_labels)

    def start_from_imagenet(self) -> None:
        """Begin with the ImageNet weights of the ResNet-50; see `model.build_resnet50`."""
        weights = build_resnet50(self.normalization.num_channels, "imagenet").state_dict()
        self.network.load_state_dict(weights)

    def add_labels(self, train_set: PatchDataset, masks: Supervision | None) -> None:
        """Count the labels of `train_set`, or `masks`, what its generated masks have cost."""
        seen = self.seen.with_source(train_set.labels_from)
        if self.task.target == "label" or self.task.classifier_head:
            seen = seen.with_image_labels(len(train_set.patches))
        if masks:
            seen = seen.with_masks(masks)
        elif self.task.target == "mask" and train_set.reference == TRUTH:
            seen = seen.with_pixel_labels(train_set.labelled_pixels())
        self.seen = seen

    def start(
        self, settings: SupervisedTraining, train_set: PatchDataset, val_set: PatchDataset | None
    ) -> tuple[int, int]:
        """See `Solver.start`: after each epoch validation chooses the best checkpoint."""
        per_epoch = batches_per_epoch(len(train_set), settings.batch_size)
        stop = settings.n_epochs * per_epoch
        schedule = settings.lr_schedule or ("plateau" if val_set else "cosine")
        self.start_optimizers(settings, schedule)
        self._falls_until = stop if schedule == "cosine" else 0
        return stop, per_epoch

    def start_optimizers(self, settings: SupervisedTraining, schedule: str = "plateau") -> None:
        """Make the optimiser that `learn` uses, of what is to be trained, and its `schedule`."""
        if settings.freeze_encoder:
            self.network.encoder.requires_grad_(False)
        trained = [p for p in self.network.parameters() if p.requires_grad]
        optimizer = Adam(trained, settings.lr, fused=True)  # see FCDSolver.start_optimizers
        self.optimizers = {"optimizer": optimizer}
        if schedule == "plateau":
            plateau = (settings.plateau_factor, settings.plateau_patience)
            self.optimizers["scheduler"] = ReduceLROnPlateau(optimizer, "max", *plateau)

    def step_on(
        self, settings: SupervisedTraining, batch: dict, part: Part, generator: torch.Generator
    ) -> Parts:
        """See `Solver.step_on`."""
        if self._falls_until:
            factor = losses.cosine_factor(self.step, self._falls_until)
            self.optimizers["optimizer"].param_groups[0]["lr"] = settings.lr * factor
        label = batch["label"].to(self.device, non_blocking=True)
        mask = None
        if self.task.target == "mask":
            mask = batch["mask"].to(self.device, non_blocking=True)
        return self.learn(settings, self.inputs(batch), mask, label, part)

    def learn(
        self,
        settings: SupervisedTraining,
        x: Tensor,
        mask: Tensor | None,
        label: Tensor,
        part: Part,
    ) -> Parts:
        """One step on this process's part of a batch; returns the loss parts times `part.weight`.

        x (N, C, H, W) in [-1, 1]; mask (N, H, W) patch codes, None to learn labels; label (N, 1).
        """
        network: Any = self.networks[self.scoring]
        network.train()
        if settings.freeze_encoder:
            network.encoder.eval()  # frozen means the batch-norm statistics too
        pixels = None
        if mask is not None and self.run.processes.count > 1:
            # The batch's loss is a mean over its valid pixels, of which a part may have more or
            # less than its share, while it is weighted as its samples are.
            own = (mask != labels.INVALID).sum() * (part.weight > 0)
            pixels = self.run.processes.sum(own).clamp(min=1) * (part.weight or 1)
        with self.training(settings.amp, **{self.scoring: (x,)}):
            if mask is None:
                loss = losses.label_loss(self._image_logit(network, x), label)
                parts = {"train/loss_label": loss}
            else:
                logits, image_logit = self._masks(network, x)
                loss, parts = losses.segmentation_loss(logits, mask, image_logit, label, pixels)
        optimizer = self.optimizers["optimizer"]
        self.update(optimizer, loss, part.weight, optimizer.param_groups[0]["params"])
        return detached(parts, part.weight)

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
    folder, name = (path := Path(checkpoint)).resolve().parent, path.stem
    if folder.name == "models":
        name = folder.parent.name.replace("Plus", "+")
    run = Run(RunFolder(name), use_device(device))
    kind = FCDSolver if "G" in checkpoints.load(path) else SupervisedSolver
    return kind.load(run, path)
