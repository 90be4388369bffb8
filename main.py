"""Fixed-Point GAN for cloud detection: train, generate masks, test, look at translations."""

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
from fcd.cli.options import Parser, RunFolder, boolean, non_negative, positive, run
from fcd.errors import UserError
from fcd.landsat import qa
from fcd.landsat.reference import QA
from fcd.landsat.scenes import find_scenes
from fcd.masks import qa as qa_masks
from fcd.patches import records
from fcd.patches.supervision import Supervision
from fcd.processes import joined
from fcd.report.evaluation import Evaluation, evaluate
from fcd.training.losses import LossWeights
from solver import FCDSolver, GANSize, GANTraining, Run

SIZE, TRAINING = GANSize(), GANTraining()  # the paper's defaults


def build_parser() -> Parser:
    """The command line."""
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--mode",
        choices=["train", "generate_masks", "test", "predict", "visualize", "cfmask", "export"],
        default="train",
        help="train: train on image-level labels; generate_masks: masks of the training scenes; "
        "test: score the test scenes against their truth, or their QA bands if they were prepared "
        "with --labels qa; predict: masks of any --scenes; "
        "visualize: pictures of translations; "
        "cfmask: score the scenes' own quality band; "
        "export: write models/<checkpoint>.onnx, which takes DN and returns the difference map",
    )
    parser.add_argument(
        "--image_size", type=positive, default=128, help="side of the patches in pixels"
    )
    parser.add_argument(
        "--batch_size",
        type=positive,
        default=TRAINING.batch_size,
        help="patches per training step, of all processes together; tiles that a process scores "
        "at a time in the other modes",
    )
    options.add_run_flags(parser)

    group = parser.add_argument_group(
        "networks (modes after training read them from the checkpoint)"
    )
    group.add_argument(
        "--g_conv_dim",
        type=positive,
        default=SIZE.g_conv_dim,
        help="filters in the first layer of the generator",
    )
    group.add_argument(
        "--d_conv_dim",
        type=positive,
        default=SIZE.d_conv_dim,
        help="filters in the first layer of the discriminator",
    )
    group.add_argument(
        "--g_repeat_num",
        type=positive,
        default=SIZE.g_repeat_num,
        help="residual blocks in the generator",
    )
    group.add_argument(
        "--d_repeat_num",
        type=positive,
        default=SIZE.d_repeat_num,
        help="stride-2 layers in the discriminator",
    )

    group = parser.add_argument_group("training")
    weights = TRAINING.weights
    for name, default, what in [
        ("cls", weights.cls, "domain classification"),
        ("rec", weights.rec, "reconstruction"),
        ("gp", weights.gp, "the gradient penalty"),
        ("id", weights.id, "identity"),
    ]:
        group.add_argument(
            f"--lambda_{name}",
            type=non_negative,
            default=default,
            help=f"weight of the loss of {what}",
        )
    group.add_argument(
        "--same_domain",
        type=boolean,
        default=True,
        metavar="BOOL",
        help="the same-domain half of the generator's loss; False is StarGAN",
    )
    group.add_argument(
        "--num_iters",
        type=positive,
        default=TRAINING.num_iters,
        help="training steps (of the discriminator)",
    )
    group.add_argument(
        "--num_iters_decay",
        type=options.natural,
        default=TRAINING.num_iters_decay,
        help="last steps, over which the learning rates fall linearly to 0",
    )
    group.add_argument(
        "--n_critic",
        type=positive,
        default=TRAINING.n_critic,
        help="discriminator steps per generator step",
    )
    group.add_argument(
        "--g_lr", type=non_negative, default=TRAINING.g_lr, help="learning rate of the generator"
    )
    group.add_argument(
        "--d_lr",
        type=non_negative,
        default=TRAINING.d_lr,
        help="learning rate of the discriminator",
    )
    group.add_argument("--beta1", type=options.fraction, default=TRAINING.beta1, help="Adam's β1")
    group.add_argument("--beta2", type=options.fraction, default=TRAINING.beta2, help="Adam's β2")
    group.add_argument(
        "--sample_step",
        type=positive,
        default=TRAINING.sample_step,
        help="steps between sample pictures",
    )
    group.add_argument(
        "--model_save_step",
        type=positive,
        default=TRAINING.model_save_step,
        help="steps between validations and checkpoints",
    )

    group = parser.add_argument_group("masks")
    options.add_threshold_flags(
        group,
        "of the difference map: f1 (best macro F1 on masks of cloudy training patches, as "
        "the paper: uses pixel labels), otsu (no pixel label) or a number in [0, 1]; None: f1, "
        "without masks otsu; in --mode predict the one chosen before",
    )
    group.add_argument(
        "--model_weights",
        type=Path,
        default=None,
        help="the modes after training use this checkpoint instead of the run's own",
    )
    group.add_argument(
        "--num_pictures", type=positive, default=16, help="patches that --mode visualize shows"
    )
    options.add_prediction_flags(parser)
    return parser


def main() -> int:
    """Run the command line; return the exit code."""
    flags = build_parser().parse_args()
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
    used.processes.per_process(flags.batch_size)
    source = options.patch_source(flags)
    train_set = PatchDataset(source, "train", skip_bad=flags.skip_bad)
    val_set, select = validation_set(train_set, flags.select, flags.skip_bad)
    if train_set.image_size != flags.image_size:
        raise UserError(
            f"--image_size {flags.image_size}: the patches in {flags.image_dir} are "
            f"{train_set.image_size} pixels wide; give that size or prepare them anew"
        )
    size = GANSize(flags.g_conv_dim, flags.g_repeat_num, flags.d_conv_dim, flags.d_repeat_num)
    settings = GANTraining(
        batch_size=flags.batch_size,
        num_iters=flags.num_iters,
        num_iters_decay=min(flags.num_iters_decay, flags.num_iters),
        g_lr=flags.g_lr,
        d_lr=flags.d_lr,
        beta1=flags.beta1,
        beta2=flags.beta2,
        n_critic=flags.n_critic,
        weights=LossWeights(flags.lambda_cls, flags.lambda_rec, flags.lambda_gp, flags.lambda_id),
        same_domain=flags.same_domain,
        balance=flags.balance,
        select=select,
        amp=flags.amp,
        sample_step=flags.sample_step,
        model_save_step=flags.model_save_step,
    )
    normalization = training_normalization(flags.normalize, train_set)
    try:
        solver = FCDSolver(used, size, flags.image_size, normalization)
    except ValueError as error:
        raise UserError(f"{error}; change --image_size or --d_repeat_num") from error
    solver.use_rgb(options.rgb_bands(flags, train_set.num_channels))
    return options.carry_out(
        lambda: solver.train(settings, train_set, val_set),
        used.folder,
        vars(flags),
        summaries(train_set, val_set),
        used.device,
        used.processes,
    )


def generate_masks(flags: argparse.Namespace, used: Run) -> int:
    """`--mode generate_masks`."""
    source = options.patch_source(flags)
    solver = _trained(flags, used)
    tiles = modes.tiles(flags, solver)
    scenes = source.scenes("train", flags.orig_image_dir, masked=False)
    threshold = _threshold(flags, solver)
    tifs = solver.generate_masks(scenes, tiles, threshold)
    if flags.dataset == options.OWN and used.processes.first:
        source.add_generated_masks(tifs, scenes)
    print(f"masks of {len(scenes)} training scenes: {tifs}")
    return 0


def test(flags: argparse.Namespace, used: Run) -> int:
    """`--mode test`."""
    solver = _trained(flags, used)
    return modes.test(flags, used.folder, solver, _threshold)


def predict(flags: argparse.Namespace, used: Run) -> int:
    """`--mode predict`."""
    paths, solver = modes.scene_paths(flags), _trained(flags, used)
    return modes.predict(flags, paths, solver, _threshold, used.processes)


def _trained(flags: argparse.Namespace, used: Run) -> FCDSolver:
    solver = FCDSolver.load(used, modes.weights(flags, used.folder))
    solver.use_rgb(options.rgb_bands(flags, solver.normalization.num_channels))
    return solver


def _threshold(flags: argparse.Namespace, solver: FCDSolver) -> dict:
    threshold = modes.chosen_threshold(flags, solver)
    print(f"threshold {threshold['threshold']:.4f}: {threshold['chosen_by']}")
    return threshold


def visualize(flags: argparse.Namespace, used: Run) -> int:
    """`--mode visualize`."""
    solver = _trained(flags, used)
    source = options.patch_source(flags)
    dataset = PatchDataset(
        source, "train", "mask.tif", skip_bad=flags.skip_bad, masks_optional=True
    )
    print(f"pictures: {solver.visualize(dataset, flags.num_pictures)}")
    return 0


def export(flags: argparse.Namespace, used: Run) -> int:
    """`--mode export`, on the CPU."""
    solver = _trained(flags, replace(used, device=torch.device("cpu")))
    threshold = _threshold(flags, solver)["threshold"]
    solver.export(used.folder.onnx(flags.checkpoint), threshold)
    return 0


def score_qa_bands(flags: argparse.Namespace, used: Run) -> int:
    """`--mode cfmask`: no network; the masks come with the scenes."""
    if flags.dataset != options.PREPARED:
        raise UserError(f"--mode cfmask needs QA bands, which --dataset {flags.dataset} has not")
    if records.reference_of(flags.image_dir) == QA:
        raise UserError(
            f"--mode cfmask: the scenes of {flags.image_dir} were prepared with --labels qa, so "
            "their QA bands would be compared with themselves; it takes manual masks"
        )
    if used.folder.checkpoint("latest").exists():
        raise UserError(
            f"{used.folder.root} holds a trained network, whose evaluation --mode cfmask would "
            "replace; give --experiment_name QA"
        )
    scenes = records.scenes_of_split(
        find_scenes(flags.orig_image_dir), flags.image_dir, flags.test_split
    )
    names = {qa.method_name(qa.collection_of(scene)) for scene in scenes}
    supervision = Supervision(0, 0, "none needed", 0, "none needed", 0)
    evaluation = Evaluation(
        used.folder.results, flags.method or " and ".join(sorted(names)), None, supervision
    )
    config = options.run_config(used.folder, None, vars(flags))
    evaluate(scenes, qa_masks.predictions, evaluation, config, used.processes)
    return 0


MODES = {
    "train": train,
    "generate_masks": generate_masks,
    "test": test,
    "predict": predict,
    "visualize": visualize,
    "cfmask": score_qa_bands,
    "export": export,
}

if __name__ == "__main__":
    run(main)
