"""Fixed-Point GAN for cloud detection: train, generate masks, test, look at translations."""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Any, Literal

from annotated_types import Ge

from data_loader import PatchDataset, summaries, training_normalization, validation_set
from fcd.cli import entry, modes
from fcd.cli.parser import MAY_CHANGE, parse
from fcd.cli.run_folder import carry_out, run_config
from fcd.cli.settings import PREPARED, CommandSettings, GANTraining
from fcd.errors import UserError
from fcd.landsat.bands import SUN
from fcd.landsat.reference import QA, collection_of, method_name
from fcd.masks.scoring import qa_predictions
from fcd.patches import cutting
from fcd.patches.store import TRUTH_MASK
from fcd.patches.supervision import Supervision
from fcd.report.evaluation import Evaluation, evaluate
from fcd.training import augmentation
from fcd.training.run import Run
from model import GANSize
from solver import FCDSolver


@dataclass(frozen=True)
class Settings(CommandSettings):
    """Fixed-Point GAN for cloud detection: train, generate masks, test, look at translations."""

    mode: Annotated[
        Literal["train", "generate_masks", "test", "predict", "visualize", "cfmask", "export"],
        MAY_CHANGE,
        "train: train on image-level labels; generate_masks: masks of the training scenes; "
        "test: score the test scenes against their truth, or their QA bands if they were prepared "
        "with --labels qa; predict: masks of any --scenes; visualize: pictures of translations; "
        "cfmask: score the scenes' own quality band; "
        "export: write models/<checkpoint>.onnx, which takes DN and returns the difference map",
    ] = "train"
    image_size: Annotated[int, Ge(1), "side of the patches in pixels"] = 128
    num_pictures: Annotated[int, Ge(1), MAY_CHANGE, "patches that --mode visualize shows"] = 16
    training: GANTraining = field(default_factory=GANTraining)
    size: GANSize = field(default_factory=GANSize)


def train(settings: Settings, run: Run) -> int:
    """`--mode train`."""
    data, training = settings.data, settings.training
    if settings.run.model_weights:
        raise UserError(
            f"--model_weights {settings.run.model_weights}: FCD is trained from nothing; leave it "
            "out (supervised_main.py begins with weights)"
        )
    run.processes.per_process(training.batch_size)
    source = data.patches("train")
    bands = data.learned_bands()
    if SUN in (bands or ()):
        raise UserError(
            f"--train_bands {data.train_bands}: a generator would translate {SUN}, too; leave it "
            "out (supervised_main.py trains networks that know the sun)"
        )
    how: dict[str, Any] = {"skip_bad": data.skip_bad, "bands": bands}
    train_set = PatchDataset(source, "train", **how, toa=data.toa)
    val_set, select = validation_set(train_set, training.select, data.skip_bad)
    if train_set.image_size != settings.image_size:
        raise UserError(
            f"--image_size {settings.image_size}: the patches in {data.image_dir} are "
            f"{train_set.image_size} pixels wide; give that size or prepare them anew"
        )
    augmentation.check(training.augment, train_set.kind)
    normalization = training_normalization(data.normalize, train_set)
    try:
        solver = FCDSolver(run, settings.size, settings.image_size, normalization)
    except ValueError as error:
        raise UserError(f"{error}; change --image_size or --d_repeat_num") from error
    solver.use_rgb(data.rgb_bands(train_set.num_channels))
    learn = partial(solver.train, replace(training, select=select), train_set, val_set)
    return carry_out(learn, run, settings, summaries(train_set, val_set))


def trained(settings: Settings, run: Run) -> FCDSolver:
    """The solver of the checkpoint that `settings` name."""
    return modes.prepared(settings, run, FCDSolver)


def visualize(settings: Settings, run: Run) -> int:
    """`--mode visualize`."""
    solver, data = trained(settings, run), settings.data
    source, skip_bad = data.patches(settings.mode), data.skip_bad
    dataset = PatchDataset(
        source,
        "train",
        TRUTH_MASK,
        skip_bad=skip_bad,
        masks_optional=True,
        bands=solver.normalization.bands,
        toa=solver.normalization.is_toa,
    )
    print(f"pictures: {solver.visualize(dataset, settings.num_pictures)}")
    return 0


def score_qa_bands(settings: Settings, run: Run) -> int:
    """`--mode cfmask`: no network; the masks come with the scenes."""
    data = settings.data
    if data.dataset != PREPARED:
        raise UserError(f"--mode cfmask needs QA bands, which --dataset {data.dataset} has not")
    if cutting.reference_of(data.image_dir) == QA:
        raise UserError(
            f"--mode cfmask: the scenes of {data.image_dir} were prepared with --labels qa, so "
            "their QA bands would be compared with themselves; it takes manual masks"
        )
    if run.folder.checkpoint("latest").exists():
        raise UserError(
            f"{run.folder.root} holds a trained network, whose evaluation --mode cfmask would "
            "replace; give --experiment_name QA"
        )
    split = settings.whole_scenes.test_split
    scenes = data.patches(settings.mode).scenes(split, data.orig_image_dir, masked=True)
    names = {method_name(collection_of(scene)) for scene in scenes}
    method = settings.run.method or " and ".join(sorted(names))
    supervision = Supervision(0, 0, "none needed", 0, "none needed", 0)
    evaluation = Evaluation(run.folder.results, method, None, supervision)
    config = run_config(run.folder, None, settings)
    evaluate(scenes, qa_predictions, evaluation, config, run.processes)
    return 0


MODES: dict[str, modes.Mode[Settings]] = {
    "train": train,
    "visualize": visualize,
    "cfmask": score_qa_bands,
    **modes.after_training(trained),
}


def main() -> int:
    """Run the command line; return the exit code."""
    return modes.carry_out(parse(Settings), MODES)


if __name__ == "__main__":
    entry.run(main)
