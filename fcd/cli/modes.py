"""What the commands of both networks do, whatever was trained: start, test, predict, export."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol, TypeVar

import torch

from fcd.cli.device import compiles, use_device
from fcd.cli.run_folder import git_commit, run_config
from fcd.cli.settings import CommandSettings
from fcd.errors import UserError
from fcd.landsat.products import expand
from fcd.landsat.reference import TRUTH
from fcd.landsat.sparcs import SPARCS, find_sparcs
from fcd.masks import thresholds
from fcd.masks.export import export as write_onnx
from fcd.masks.prediction import predict_scenes, predictor_of
from fcd.masks.scoring import Scorer, Tiles, predictions
from fcd.patches.sources import Source
from fcd.patches.supervision import Supervision
from fcd.processes import joined
from fcd.report.evaluation import Evaluation, evaluate
from fcd.training.run import Run, RunFolder

S = TypeVar("S", bound=CommandSettings)


class Trained(Protocol):
    """What is needed of a `solver.Solver`."""

    def scorer(self) -> Scorer:
        """The score and all that has to be known of it."""

    def supervision(self, threshold: thresholds.Record) -> Supervision:
        """What labels it has cost."""

    def choose_threshold(
        self,
        choice: str | float | None,
        source: Source,
        sample: int,
        batch_size: int,
        skip_bad: bool,
        amp: bool,
    ) -> thresholds.Record:
        """The threshold of the score, from the patches of `source`."""


def carry_out(settings: S, modes: Mapping[str, Callable[[S, Run], int]]) -> int:
    """Carry out the mode that `settings` name, on their device; return the exit code."""
    folder = RunFolder(settings.run.experiment_name)
    device = use_device(settings.run.device)
    with joined(device) as processes:
        # Some modes have no network to speed up.
        compiled = settings.run.compile and settings.mode not in ("export", "cfmask")
        run = Run(
            folder,
            device,
            settings.run.seed,
            settings.run.num_workers,
            settings.run.log_step,
            settings.run.profile,
            processes,
            compiles(compiled, device),
        )
        return modes[settings.mode](settings, run)


def weights(settings: CommandSettings, run: Run) -> Path:
    """The checkpoint to use: that of `--model_weights`, else the run's own."""
    return settings.run.model_weights or run.folder.checkpoint(settings.run.checkpoint)


def tiles(settings: CommandSettings, scorer: Scorer) -> Tiles:
    """How scenes are scored; `UserError` if they cannot be."""
    asked, training = settings.whole_scenes, settings.training
    return Tiles.of(
        scorer,
        asked.tile_size,
        asked.overlap,
        training.batch_size,
        training.amp,
        settings.data.nodata,
        asked.runtime,
    )


def chosen_threshold(settings: CommandSettings, solver: Trained) -> thresholds.Record:
    """The record of the threshold of `solver`, chosen as `--threshold` says, and said aloud.

    On a data set that nothing may be chosen on it is the number given or the one chosen before;
    `UserError` if the flag asks for another choice.
    """
    asked, amp = settings.whole_scenes.threshold, settings.training.amp
    amp = amp and settings.mode != "export"  # what is exported computes in float32
    if settings.data.dataset != SPARCS:
        record = solver.choose_threshold(
            asked,
            settings.data.patches(settings.mode),
            settings.whole_scenes.threshold_patches,
            settings.training.batch_size,
            settings.data.skip_bad,
            amp,
        )
    elif asked is None:
        record = thresholds.known(solver.scorer(), amp)
    elif isinstance(asked, str):
        raise UserError(
            f"--threshold {asked}: on --dataset {SPARCS} nothing is chosen; leave it "
            "out to take the threshold chosen before, or give a number"
        )
    else:
        record = thresholds.fixed(asked)
    print(f"threshold {record['threshold']:.4f}: {record['chosen_by']}")
    return record


def test(settings: S, run: Run, load: Callable[[S, Run], Trained]) -> int:
    """`--mode test`: compare masks of the scenes with their reference; return the exit code.

    The threshold is chosen last, because that may take long.
    """
    solver = load(settings, run)
    scorer = solver.scorer()
    used_tiles, data = tiles(settings, scorer), settings.data
    if data.dataset == SPARCS:
        scenes, reference = find_sparcs(data.orig_image_dir), TRUTH
        results = run.folder.results / SPARCS
    else:
        source = data.patches(settings.mode)
        split = settings.whole_scenes.test_split
        scenes = source.scenes(split, data.orig_image_dir, masked=True)
        reference, results = source.reference, run.folder.results
    config = run_config(run.folder, weights(settings, run), settings)
    method = settings.run.method or settings.run.experiment_name
    record = chosen_threshold(settings, solver)
    threshold = record["threshold"]
    evaluate(
        scenes,
        lambda scene: predictions(scorer, scene, used_tiles, threshold),
        Evaluation(results, method, threshold, solver.supervision(record), reference),
        config,
        run.processes,
    )
    return 0


def predict(settings: S, run: Run, load: Callable[[S, Run], Trained]) -> int:
    """`--mode predict`: mask the scenes of `--scenes`; return the exit code.

    A threshold is chosen only if `--threshold` says how; else it is the one chosen before.
    """
    asked = settings.prediction
    if not asked.scenes:
        raise UserError("--mode predict needs --scenes PATH …: folders, archives or GeoTIFFs")
    paths = expand(asked.scenes)
    solver = load(settings, run)
    scorer = solver.scorer()
    used_tiles, threshold = tiles(settings, scorer), settings.whole_scenes.threshold
    if isinstance(threshold, str):
        threshold = chosen_threshold(settings, solver)["threshold"]
    if threshold is None:
        threshold = thresholds.known(scorer, used_tiles.amp)["threshold"]
    failed = predict_scenes(
        paths,
        predictor_of(scorer, used_tiles, threshold),
        asked.output_dir,
        bands=asked.bands,
        write_score=asked.write_score,
        overwrite=settings.run.overwrite,
        processes=run.processes,
    )
    return int(failed > 0)


def export(settings: S, run: Run, load: Callable[[S, Run], Trained]) -> int:
    """`--mode export`, on the CPU; return the exit code."""
    solver = load(settings, replace(run, device=torch.device("cpu")))
    scorer = solver.scorer()
    scorer.check_exportable()
    threshold = chosen_threshold(settings, solver)["threshold"]
    write_onnx(scorer, run.folder.onnx(settings.run.checkpoint), threshold, git_commit())
    return 0


AFTER_TRAINING: dict[str, Callable[..., int]] = {"test": test, "predict": predict, "export": export}
