"""Networks trained on masks or image labels: FCD+, fully supervised, pre-training, CAM family."""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from data_loader import (
    PatchDataset,
    summaries,
    training_normalization,
    validation_set,
)
from fcd.cli import modes, options
from fcd.cli.options import Parser, RunFolder, boolean, fraction, non_negative, positive, run
from fcd.errors import UserError
from fcd.files import from_plain
from fcd.masks.cam import CHANNEL_WEIGHTS
from fcd.patches import generated
from fcd.patches.supervision import Supervision
from fcd.processes import joined
from solver import (
    ENCODERS,
    NETWORKS,
    Run,
    SupervisedSolver,
    SupervisedTraining,
    Task,
)

TRAINING = SupervisedTraining()  # the paper's defaults


def build_parser() -> Parser:
    """The command line."""
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--mode",
        choices=["train", "test", "predict", "export"],
        default="train",
        help="train: train on patches; test: score the test scenes against their truth, "
        "or their QA bands if they were prepared with --labels qa; "
        "predict: masks of any --scenes; "
        "export: write models/<checkpoint>.onnx, which takes DN and returns the U-Net's "
        "probability of cloud",
    )
    parser.add_argument(
        "--batch_size",
        type=positive,
        default=TRAINING.batch_size,
        help="patches per training step, of all processes together; tiles that a process scores "
        "at a time in the other modes",
    )
    options.add_run_flags(parser)

    group = parser.add_argument_group("network (modes after training read it from the checkpoint)")
    group.add_argument(
        "--network",
        choices=NETWORKS,
        default="unet",
        help="unet: masks; resnet50, ucam: classifiers trained on image-level labels alone, "
        "scored by class activation maps",
    )
    group.add_argument(
        "--encoder",
        choices=ENCODERS,
        default="resnet34",
        help="encoder of the U-Net",
    )
    group.add_argument(
        "--imagenet",
        type=boolean,
        default=False,
        metavar="BOOL",
        help="begin --network resnet50 with ImageNet weights (torchvision downloads them)",
    )
    group.add_argument(
        "--classifier_head",
        type=boolean,
        default=False,
        metavar="BOOL",
        help="also learn the image-level label (FCD+)",
    )
    group.add_argument(
        "--model_weights",
        type=Path,
        default=None,
        help="train: begin with the weights of this checkpoint (fine-tuning); other modes: use it "
        "instead of the run's own",
    )
    group.add_argument(
        "--encoder_weights",
        type=Path,
        default=None,
        help="begin with the encoder of this checkpoint (of --train_encoder_only)",
    )

    group = parser.add_argument_group("training")
    group.add_argument(
        "--train_mask_file",
        default="mask.tif",
        metavar="NAME",
        help="mask to train on: mask.tif (pixel labels) or generated_mask.tif",
    )
    group.add_argument(
        "--train_encoder_only",
        type=boolean,
        default=False,
        metavar="BOOL",
        help="pre-train the encoder on the image-level labels alone",
    )
    group.add_argument(
        "--freeze_encoder",
        type=boolean,
        default=False,
        metavar="BOOL",
        help="keep the encoder as it is, weights and batch-norm statistics",
    )
    group.add_argument(
        "--keep_ratio",
        type=fraction,
        default=1.0,
        help="share of the training patches used, always the same ones",
    )
    group.add_argument(
        "--n_epochs",
        type=positive,
        default=TRAINING.n_epochs,
        help="passes over the training patches",
    )
    group.add_argument(
        "--lr",
        type=non_negative,
        default=TRAINING.lr,
        help="learning rate of Adam; times 0.1 when validation F1 stalls",
    )

    group = parser.add_argument_group("masks")
    group.add_argument(
        "--cam_method",
        choices=list(CHANNEL_WEIGHTS),
        default="cam",
        help="class activation map of --network resnet50 or ucam",
    )
    options.add_threshold_flags(
        group,
        "of the score: f1 (best macro F1 on masks of cloudy training patches: uses pixel labels), "
        "otsu (no pixel label) or a number in [0, 1]; None: 0.5 for a U-Net, f1 for the others; in "
        "--mode predict the one chosen before",
    )
    options.add_prediction_flags(parser)
    parser.set_defaults(experiment_name="FCD+")
    return parser


def main() -> int:
    """Run the command line; return the exit code."""
    flags = build_parser().parse_args()
    if flags.mode == "train" and flags.train_encoder_only and flags.freeze_encoder:
        raise UserError(
            "--train_encoder_only True with --freeze_encoder True leaves nothing to train"
        )
    for name in ("freeze_encoder", "encoder_weights", "train_encoder_only", "classifier_head"):
        if flags.network != "unet" and getattr(flags, name):
            raise UserError(f"--network {flags.network} does not go with --{name}")
    if flags.imagenet and flags.network != "resnet50":
        raise UserError(f"--imagenet True is for --network resnet50, not {flags.network}")
    folder = RunFolder(flags.experiment_name)
    device = options.device(flags.device)
    with joined(device) as processes:
        used = Run(
            folder,
            device,
            flags.seed,
            flags.num_workers,
            flags.log_step,
            flags.profile,
            processes,
            options.compiles_in_mode(flags, device),
        )
        return MODES[flags.mode](flags, used)


def train(flags: argparse.Namespace, used: Run) -> int:
    """`--mode train`."""
    labels_only = flags.train_encoder_only or flags.network != "unet"
    mask_file = None if labels_only else flags.train_mask_file
    source = options.patch_source(flags)
    train_set = PatchDataset(source, "train", mask_file, flags.keep_ratio, skip_bad=flags.skip_bad)
    select = "image" if mask_file is None else flags.select
    val_set, select = validation_set(train_set, select, flags.skip_bad)
    _check_batches(used.processes.per_process(flags.batch_size), flags, train_set)
    if train_set.image_size % SupervisedSolver.tile_multiple:
        raise UserError(
            f"the patches in {flags.image_dir} are {train_set.image_size} pixels wide; the U-Net "
            f"needs a multiple of {SupervisedSolver.tile_multiple}"
        )
    task = Task(
        flags.network,
        "label" if mask_file is None else "mask",
        flags.encoder,
        flags.network == "unet" and (flags.classifier_head or flags.train_encoder_only),
    )
    settings = SupervisedTraining(
        batch_size=flags.batch_size,
        n_epochs=flags.n_epochs,
        lr=flags.lr,
        freeze_encoder=flags.freeze_encoder,
        balance=flags.balance,
        select=select,
        amp=flags.amp,
    )
    solver = SupervisedSolver(
        used, task, train_set.image_size, training_normalization(flags.normalize, train_set)
    )
    solver.use_rgb(options.rgb_bands(flags, train_set.num_channels))
    if flags.imagenet:
        solver.start_from_imagenet()
    if flags.encoder_weights:
        solver.start_from(flags.encoder_weights, encoder_only=True, nodata=source.nodata)
    if flags.model_weights:
        solver.start_from(flags.model_weights, encoder_only=False, nodata=source.nodata)
    masks = None
    if mask_file not in (None, "mask.tif"):
        seen = generated.mask_provenance(flags.image_dir, mask_file)
        masks = from_plain(Supervision, seen, generated.provenance_path(flags.image_dir, mask_file))
    solver.add_labels(train_set, masks)
    return options.carry_out(
        lambda: solver.train(settings, train_set, val_set),
        used.folder,
        vars(flags),
        summaries(train_set, val_set),
        used.device,
        used.processes,
    )


def _check_batches(per_process: int, flags: argparse.Namespace, train_set: PatchDataset) -> None:
    """Raise `UserError` if batch norm would see a single value: one patch, features 1×1."""
    alone = min(per_process, len(train_set)) == 1 and not flags.freeze_encoder
    if alone and flags.network != "resnet50" and train_set.image_size <= 32:
        raise UserError(
            f"--batch_size {flags.batch_size} with {len(train_set)} training patches of "
            f"{train_set.image_size} pixels: batch norm needs at least two in the batch of a "
            "process; give a larger --batch_size or --keep_ratio"
        )


def test(flags: argparse.Namespace, used: Run) -> int:
    """`--mode test`."""
    solver = _trained(flags, used)
    return modes.test(flags, used.folder, solver, modes.chosen_threshold)


def predict(flags: argparse.Namespace, used: Run) -> int:
    """`--mode predict`."""
    paths, solver = modes.scene_paths(flags), _trained(flags, used)
    return modes.predict(flags, paths, solver, modes.chosen_threshold, used.processes)


def export(flags: argparse.Namespace, used: Run) -> int:
    """`--mode export`, on the CPU."""
    solver = _trained(flags, replace(used, device=torch.device("cpu")))
    solver.check_exportable()
    threshold = modes.chosen_threshold(flags, solver)["threshold"]
    solver.export(used.folder.onnx(flags.checkpoint), threshold)
    return 0


def _trained(flags: argparse.Namespace, used: Run) -> SupervisedSolver:
    solver = SupervisedSolver.load(used, modes.weights(flags, used.folder))
    if solver.task.network != "unet":
        solver.use_cam(flags.cam_method)
    solver.use_rgb(options.rgb_bands(flags, solver.normalization.num_channels))
    return solver


MODES = {"train": train, "test": test, "predict": predict, "export": export}


if __name__ == "__main__":
    run(main)
