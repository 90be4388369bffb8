"""Networks trained on masks or image labels: FCD+, fully supervised, pre-training, CAM family."""

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from data_loader import (
    PatchDataset,
    summaries,
    training_normalization,
    training_samples,
    validation_set,
)
from fcd.cli import entry, modes
from fcd.cli.parser import MAY_CHANGE, Flag, parse
from fcd.cli.run_folder import carry_out
from fcd.cli.settings import UNIT, CommandSettings, RunSettings, SupervisedTraining
from fcd.errors import UserError
from fcd.masks.cam import Method
from fcd.patches import generated
from fcd.patches.store import TRUTH_MASK
from fcd.patches.supervision import DRAWN
from fcd.training import augmentation
from fcd.training.run import Run
from model import Encoder, Network, Task
from solver import SupervisedSolver


@dataclass(frozen=True)
class NetworkSettings:
    """Network (modes after training read it from the checkpoint)."""

    network: Annotated[
        Network,
        "unet: masks; resnet50, ucam: classifiers trained on image-level labels alone, scored by "
        "class activation maps",
    ] = "unet"
    encoder: Annotated[
        Encoder, "encoder of the U-Net; slim18: ResNet-18 without its last stage, a narrow decoder"
    ] = "resnet34"
    imagenet: Annotated[
        bool, "begin --network resnet50 with ImageNet weights (torchvision downloads them)"
    ] = False
    classifier_head: Annotated[bool, "also learn the image-level label (FCD+)"] = False
    encoder_weights: Annotated[
        Path | None, "begin with the encoder of this checkpoint (of --train_encoder_only)"
    ] = None
    train_encoder_only: Annotated[bool, "pre-train the encoder on image-level labels alone"] = False
    cam_method: Annotated[
        Method, MAY_CHANGE, "class activation map of --network resnet50 or ucam"
    ] = "cam"


@dataclass(frozen=True)
class Settings(CommandSettings):
    """Networks trained on masks or image labels: FCD+, fully supervised, pre-training, CAM."""

    mode: Annotated[
        Literal["train", "generate_masks", "test", "predict", "export", "pack"],
        MAY_CHANGE,
        "train: train on patches; generate_masks: masks of the training scenes, for another round "
        "of training; test: score the test scenes against their truth, or their QA "
        "bands if they were prepared with --labels qa; predict: masks of any --scenes; "
        "export: write models/<checkpoint>.onnx, which takes DN and returns the U-Net's "
        "probability of cloud; pack: write models/<checkpoint>-packed.pt, the U-Net alone in half "
        "precision, with its threshold, to be passed on as --model_weights",
    ] = "train"
    train_mask_file: Annotated[
        str, Flag(metavar="NAME"), "mask to learn: mask.tif (pixel labels) or generated_mask.tif"
    ] = TRUTH_MASK
    drawn: Annotated[
        bool,
        "the patches are of drawn scenes (python -m fcd.synthetic): what is learned from them "
        "counts as no label",
    ] = False
    rehearse: Annotated[
        Path | None,
        Flag(metavar="DIR"),
        "patches of drawn scenes, in the form of --image_dir: some are learned along, so that what "
        "they have taught --model_weights is not forgotten",
    ] = None
    keep_ratio: Annotated[
        float, UNIT, "share of the training patches used, always the same ones"
    ] = 1.0
    least_cloud: Annotated[
        float,
        UNIT,
        "learn nothing from the mask of a cloudy patch in which a smaller share is cloud: it "
        "contradicts the label (0: learn every mask)",
    ] = 0.0
    run: RunSettings = field(default_factory=lambda: RunSettings(experiment_name="FCD+"))
    training: SupervisedTraining = field(default_factory=SupervisedTraining)
    net: NetworkSettings = field(default_factory=NetworkSettings)


def check(settings: Settings) -> None:
    """Raise `UserError` if settings contradict one another."""
    net, training = settings.net, settings.training
    if settings.mode == "train" and net.train_encoder_only and training.freeze_encoder:
        raise UserError(
            "--train_encoder_only True with --freeze_encoder True leaves nothing to train"
        )
    of_unets = {
        "freeze_encoder": training.freeze_encoder,
        "encoder_weights": net.encoder_weights,
        "train_encoder_only": net.train_encoder_only,
        "classifier_head": net.classifier_head,
    }
    for name, value in of_unets.items():
        if net.network != "unet" and value:
            raise UserError(f"--network {net.network} does not go with --{name}")
    if net.imagenet and net.network != "resnet50":
        raise UserError(f"--imagenet True is for --network resnet50, not {net.network}")


def train(settings: Settings, run: Run) -> int:
    """`--mode train`."""
    data, net, training = settings.data, settings.net, settings.training
    labels_only = net.train_encoder_only or net.network != "unet"
    mask_file = None if labels_only else settings.train_mask_file
    source, ratio = data.patches("train"), settings.keep_ratio
    more: dict[str, Any] = {"skip_bad": data.skip_bad, "least_cloud": settings.least_cloud}
    more |= {"bands": data.learned_bands(), "toa": data.toa}
    train_set = PatchDataset(source, "train", mask_file, ratio, **more)
    if settings.rehearse:
        along = replace(data, image_dir=str(settings.rehearse)).patches("train")
        train_set.rehearse(along, data.skip_bad)
    asked = "image" if labels_only else training.select
    val_set, select = validation_set(train_set, asked, data.skip_bad)
    if val_set is None and training.lr_schedule == "plateau":
        raise UserError(
            "--lr_schedule plateau waits for the F1 of validation patches, and there is no val "
            "split: leave it out, the rate then falls along a cosine"
        )
    _check_batches(run.processes.per_process(training.batch_size), settings, train_set)
    if train_set.image_size % SupervisedSolver.tile_multiple:
        raise UserError(
            f"the patches in {data.image_dir} are {train_set.image_size} pixels wide; the U-Net "
            f"needs a multiple of {SupervisedSolver.tile_multiple}"
        )
    augmentation.check(training.augment, train_set.kind)
    target = "label" if labels_only else "mask"
    head = net.network == "unet" and (net.classifier_head or net.train_encoder_only)
    task = Task(net.network, target, net.encoder, head)
    normalization = training_normalization(data.normalize, train_set)
    solver = SupervisedSolver(run, task, train_set.image_size, normalization)
    solver.use_rgb(data.rgb_bands(train_set.num_channels))
    if net.imagenet:
        solver.start_from_imagenet()
    weights = modes.weights_of(settings, run, normalization.bands)
    for path, encoder_only in ((net.encoder_weights, True), (weights, False)):
        if path:
            solver.start_from(path, encoder_only=encoder_only, nodata=source.nodata)
    if not settings.drawn:
        learned = None  # or what labels the masks have cost, if they are generated ones
        if mask_file not in (None, TRUTH_MASK):
            learned = generated.mask_provenance(data.image_dir, str(mask_file))
        solver.add_labels(train_set, learned)
    if settings.drawn or settings.rehearse:
        solver.seen = solver.seen.with_source(DRAWN)
    learn = partial(solver.train, replace(training, select=select), train_set, val_set)
    return carry_out(learn, run, settings, summaries(train_set, val_set))


def _check_batches(per_process: int, settings: Settings, train_set: PatchDataset) -> None:
    """Raise `UserError` if batch norm would see a single value: one patch, features 1×1."""
    alone = min(per_process, len(train_set)) == 1 and not settings.training.freeze_encoder
    if alone and settings.net.network != "resnet50" and train_set.image_size <= 32:
        raise UserError(
            f"--batch_size {settings.training.batch_size} with {len(train_set)} training patches "
            f"of {train_set.image_size} pixels: batch norm needs at least two in the batch of a "
            "process; give a larger --batch_size or --keep_ratio"
        )


def trained(settings: Settings, run: Run) -> SupervisedSolver:
    """The solver of the checkpoint that `settings` name."""
    solver = modes.prepared(settings, run, SupervisedSolver)
    for one in (solver, *solver.companions):
        one.use_cam(settings.net.cam_method)
    return solver


MODES: dict[str, modes.Mode[Settings]] = {
    "train": train,
    "pack": partial(modes.pack, load=trained),
    **modes.after_training(trained, training_samples),
}


def main() -> int:
    """Run the command line; return the exit code."""
    settings = parse(Settings)
    check(settings)
    return modes.carry_out(settings, MODES)


if __name__ == "__main__":
    entry.run(main)
