"""What both entry scripts do after training, whatever network was trained."""

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from fcd.cli.options import RunFolder, patch_source, run_config
from fcd.errors import UserError
from fcd.landsat.products import expand
from fcd.landsat.reference import TRUTH
from fcd.landsat.sparcs import SPARCS, find_sparcs
from fcd.masks.prediction import Predictor, predict_scenes
from fcd.metrics import fixed_threshold
from fcd.processes import Processes


class Trained(Protocol):
    """What is needed of a `solver.Solver`."""

    tiles: Callable[..., Any]
    known_threshold: Callable[..., dict[str, Any]]
    choose_threshold: Callable[..., dict[str, Any]]
    predictor: Callable[..., Predictor]
    test: Callable[..., None]


def weights(flags: Namespace, folder: RunFolder) -> Path:
    """The checkpoint to use: that of `--model_weights`, else the run's own."""
    return flags.model_weights or folder.checkpoint(flags.checkpoint)


def tiles(flags: Namespace, solver: Trained) -> Any:
    """How `solver` scores scenes (`solver.Tiles`)."""
    return solver.tiles(
        flags.tile_size, flags.overlap, flags.batch_size, flags.amp, flags.nodata, flags.runtime
    )


def chosen_threshold(flags: Namespace, solver: Trained) -> dict[str, Any]:
    """The record of the threshold of `solver`, chosen as `--threshold` says.

    On a data set that nothing may be chosen on it is the number given or the one chosen before;
    `UserError` if the flag asks for another choice.
    """
    amp = flags.amp and flags.mode != "export"  # what is exported computes in float32
    if flags.dataset != SPARCS:
        return solver.choose_threshold(
            flags.threshold,
            patch_source(flags),
            flags.threshold_patches,
            flags.batch_size,
            flags.skip_bad,
            amp,
        )
    if flags.threshold is None:
        return solver.known_threshold(amp)
    if isinstance(flags.threshold, str):
        raise UserError(
            f"--threshold {flags.threshold}: on --dataset {SPARCS} nothing is chosen; leave it "
            "out to take the threshold chosen before, or give a number"
        )
    return fixed_threshold(flags.threshold)


Choose = Callable[[Namespace, Any], dict[str, Any]]
"""What chooses the threshold: `chosen_threshold`, or a function that also says it."""


def test(flags: Namespace, folder: RunFolder, solver: Trained, choose: Choose) -> int:
    """`--mode test`: compare masks of the scenes with their reference; return the exit code.

    The threshold is chosen last, because that may take long.
    """
    used_tiles = tiles(flags, solver)
    if flags.dataset == SPARCS:
        scenes, reference = find_sparcs(flags.orig_image_dir), TRUTH
        results = folder.results / SPARCS
    else:
        source = patch_source(flags)
        scenes = source.scenes(flags.test_split, flags.orig_image_dir, masked=True)
        reference, results = source.reference, folder.results
    config = run_config(folder, weights(flags, folder), vars(flags))
    method = flags.method or flags.experiment_name
    solver.test(scenes, used_tiles, choose(flags, solver), method, config, reference, results)
    return 0


def scene_paths(flags: Namespace) -> list[str]:
    """What `--scenes` names; `UserError` if nothing, or if something is not there."""
    if not flags.scenes:
        raise UserError("--mode predict needs --scenes PATH …: folders, archives or GeoTIFFs")
    return expand(flags.scenes)


def predict(
    flags: Namespace,
    paths: list[str],
    solver: Trained,
    choose: Choose,
    processes: Processes,
) -> int:
    """`--mode predict`: mask the scenes `paths`, shared among `processes`; return the exit code.

    A threshold is chosen only if `--threshold` says how; else it is the one chosen before.
    """
    used_tiles = tiles(flags, solver)
    threshold = flags.threshold
    if threshold in ("f1", "otsu"):
        threshold = choose(flags, solver)["threshold"]
    failed = predict_scenes(
        paths,
        solver.predictor(threshold, used_tiles),
        flags.output_dir,
        bands=flags.bands,
        write_score=flags.write_score,
        overwrite=flags.overwrite,
        processes=processes,
    )
    return int(failed > 0)
