"""What the commands of both networks do, whatever was trained: start, test, predict, export."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, redirect_stdout, suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from typing_extensions import Self

from fcd.cli.entry import compiles, use_device
from fcd.cli.parser import settings_of
from fcd.cli.prediction import PredictionSettings
from fcd.cli.run_folder import git_commit, run_config
from fcd.cli.settings import KNOWN, CommandSettings
from fcd.errors import UserError
from fcd.files import sweep, write_json
from fcd.landsat.products import expand, scene_from
from fcd.landsat.reference import TRUTH
from fcd.landsat.scenes import Scene
from fcd.landsat.sparcs import SPARCS, find_sparcs
from fcd.masks import scoring, thresholds
from fcd.masks.fleet import fleet
from fcd.masks.generated import generate_masks
from fcd.masks.precision import AUTO, BFLOAT16, FLOAT32, Asked, Job, in_precision
from fcd.masks.prediction import HERE, made_writable, predict_scenes
from fcd.masks.predictor import Predictor, predictor_of
from fcd.masks.quantisation import Samples
from fcd.masks.scoring import Scorer, Tiles, Views
from fcd.patches import generated
from fcd.patches.normalisation import Normalization
from fcd.patches.sources import RasterPatches, Source
from fcd.patches.supervision import Supervision
from fcd.processes import Processes, joined
from fcd.report.evaluation import Evaluation, evaluate
from fcd.training import checkpoints
from fcd.training.run import Run, RunFolder

STARTER_NAME = "starter"
STARTER = Path(__file__).parents[2] / "weights"  # beside the commands
S = TypeVar("S", bound=CommandSettings)


class Trained(Protocol):
    """What is needed of a `solver.Solver`."""

    scoring: str  # the name of the network that scores, unless it has an average
    normalization: Normalization
    views: Views
    companions: Sequence[Any]

    @classmethod
    def load(cls, run: Run, path: Path) -> Self:
        """That of the checkpoint `path`."""

    def use_rgb(self, bands: tuple[int, ...] | None) -> None:
        """Show these bands as red, green and blue."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds."""

    def scorer(self) -> Scorer:
        """The score and all that has to be known of it."""

    def supervision(self, threshold: thresholds.Record) -> Supervision:
        """What labels it has cost."""

    def choose_threshold(self, *asked: Any, **more: Any) -> thresholds.Record:
        """See `solver.Solver.choose_threshold`."""


L = TypeVar("L", bound=Trained)
Mode = Callable[[S, Run], int]
Load = Callable[[S, Run], Trained]
Patches = Callable[[Source, Normalization], Samples]
"""The training patches of a source as a network with this normalisation takes them."""


def carry_out(settings: S, modes: Mapping[str, Mode[S]]) -> int:
    """Carry out the mode that `settings` name, on their device; return the exit code.

    Raises `UserError` for a setting of prediction in another mode, which would not heed it.
    """
    _check_prediction(settings)
    # Some modes have no network to speed up, and where a cluster works this process does not.
    idle = settings.mode == "predict" and settings.prediction.cluster is not None
    device = use_device("cpu" if idle else settings.run.device)
    compiled = settings.run.compile and settings.mode not in ("export", "cfmask") and not idle
    with joined(device) as processes:
        return modes[settings.mode](settings, _run(settings, device, processes, compiled))


def _check_prediction(settings: CommandSettings) -> None:
    if settings.mode == "predict":
        return
    defaults = settings_of(PredictionSettings)
    given = settings_of(PredictionSettings, settings.prediction)
    for (_, name, _, default), (_, _, _, value) in zip(defaults, given, strict=True):
        if value != default:
            learned = "; --train_bands names those to learn from" if name == "bands" else ""
            raise UserError(f"--{name} is for --mode predict, not for {settings.mode}{learned}")


def _run(
    settings: CommandSettings, device: torch.device, processes: Processes, compiled: bool
) -> Run:
    asked = settings.run
    how = (asked.seed, asked.num_workers, asked.log_step, asked.profile, processes)
    return Run(RunFolder(asked.experiment_name), device, *how, compiles(compiled, device))


def all_weights(settings: CommandSettings, run: Run) -> list[Path]:
    """The checkpoints to use: that or those of `--model_weights`, else the run's own.

    Raises `UserError` if a folder holds none.
    """
    asked = settings.run.model_weights
    if asked is None:
        return [run.folder.checkpoint(settings.run.checkpoint)]
    folder = STARTER if str(asked) == STARTER_NAME else asked
    if folder is asked and not folder.is_dir():
        return [asked]
    if not (found := sorted(folder.glob("*.pt"))):
        raise UserError(
            f"--model_weights {asked}: {folder} holds no checkpoint (*.pt); name one that there is"
        )
    return found


def weights(settings: CommandSettings, run: Run) -> Path:
    """The one checkpoint to use; `UserError` if there are several."""
    found = all_weights(settings, run)
    if len(found) > 1:
        raise UserError(
            f"--model_weights {settings.run.model_weights} holds {len(found)} checkpoints; --mode "
            f"{settings.mode} takes one of them: {', '.join(map(str, found))}"
        )
    return found[0]


def weights_of(settings: CommandSettings, run: Run, bands: tuple[str, ...]) -> Path | None:
    """What a training begins with: of several checkpoints that of the `bands` of the patches.

    None if no `--model_weights` are given; `UserError` if none of several is of these bands.
    """
    if settings.run.model_weights is None:
        return None
    found = all_weights(settings, run)
    if len(found) == 1:
        return found[0]
    of: dict[tuple[str, ...], Path] = {}
    for path in found:
        state = checkpoints.load(path, ("normalization",))
        with checkpoints.another_kind(path):
            of[Normalization.from_state(state["normalization"]).bands] = path
    if bands not in of:
        raise UserError(
            f"--model_weights {settings.run.model_weights} holds weights of the bands "
            f"{' and '.join(map(','.join, of))}, the training patches have {','.join(bands)}; "
            "give one of these as --train_bands, or cut them so"
        )
    return of[bands]


def prepared(settings: CommandSettings, run: Run, kind: type[L]) -> L:
    """The network of `kind` in the checkpoint that `settings` name, to score as they say."""
    asked = settings.whole_scenes
    solver = kind.load(run, weights(settings, run))
    solver.use_rgb(settings.data.rgb_bands(solver.normalization.num_channels))
    solver.views = asked.views
    solver.companions = [kind.load(run, path) for path in asked.mean_with or ()]
    return solver


def tiles(settings: CommandSettings, scorer: Scorer) -> Tiles:
    """How scenes are scored; `UserError` if they cannot be."""
    asked, batch_size = settings.whole_scenes, settings.training.batch_size
    nodata, sun = settings.data.asked_nodata, settings.data.sun_elevation
    precision_of(settings).check(scorer)
    return Tiles.of(scorer, asked.tile_size, asked.overlap, batch_size, nodata, sun)


def precision_of(settings: CommandSettings) -> Asked:
    """In what precision scenes are to be scored; `UserError` if flags contradict one another."""
    asked = settings.whole_scenes
    # What is fast here need not be so where workers are.
    measured = settings.mode == "predict" and settings.prediction.cluster is None
    default = AUTO if measured else FLOAT32
    return Asked.of(asked.precision, asked.runtime, settings.training.amp, default)


def in_asked_precision(
    settings: CommandSettings,
    scorer: Scorer,
    tiles: Tiles,
    threshold: float,
    job: Job,
    patches: Patches | None = None,
) -> Scorer:
    """`scorer` in the precision of `settings`; see `in_precision`.

    patches: what draws those of --image_dir, if the network can be calibrated on any.
    """
    if patches and settings.data.dataset != SPARCS:
        source = settings.data.patches(settings.mode)
        job = replace(job, patches=partial(patches, source, scorer.normalization))
    return in_precision(scorer, precision_of(settings), tiles, threshold, job)


def chosen_threshold(settings: CommandSettings, solver: Trained) -> thresholds.Record:
    """The record of the threshold of `solver`, chosen as `--threshold` says, and said aloud.

    On a data set that nothing may be chosen on it is the number given or the one chosen before;
    `UserError` if the flag asks for another choice.
    """
    asked, training = settings.whole_scenes, settings.training
    amp = _in_bfloat16(settings)
    if asked.threshold == KNOWN:
        record = thresholds.known(solver.scorer(), amp)
    elif settings.data.dataset != SPARCS:
        record = solver.choose_threshold(
            asked.threshold,
            settings.data.patches(settings.mode),
            asked.threshold_patches,
            training.batch_size,
            settings.data.skip_bad,
            amp,
        )
    elif asked.threshold is None:
        record = thresholds.known(solver.scorer(), amp)
    elif isinstance(asked.threshold, str):
        raise UserError(
            f"--threshold {asked.threshold}: on --dataset {SPARCS} nothing is chosen; leave it "
            "out to take the threshold chosen before, or give a number"
        )
    else:
        record = thresholds.fixed(asked.threshold)
    print(f"threshold {record['threshold']:.4f}: {record['chosen_by']}")
    return record


def mask_training_scenes(settings: S, run: Run, load: Load[S]) -> int:
    """`--mode generate_masks`: masks to train on; return the exit code.

    What labels they have cost is written beside them.
    """
    asked, data = settings.generation, settings.data
    source, folder = data.patches(settings.mode), run.folder.results / "tifs"
    generated.check_name(asked.generated_mask_file)
    if isinstance(source, RasterPatches):
        source.check_mask_file(asked.generated_mask_file)
    solver = load(settings, run)
    scorer = solver.scorer()
    used_tiles = tiles(settings, scorer)
    scenes = source.scenes("train", data.orig_image_dir, masked=False)
    scenes = _taken_by(scorer, scenes, data.sun_elevation)
    record = chosen_threshold(settings, solver)
    threshold = record["threshold"]
    seen = solver.supervision(record)
    if isinstance(source, RasterPatches):  # their labels make masks of clear patches clear
        seen = seen.with_source(source.labels_from).with_image_labels(len(scenes))
    if run.processes.first:
        write_json(folder / generated.PROVENANCE, asdict(seen))
    job = Job(folder, lambda: iter(scenes), len(scenes))
    scorer = in_asked_precision(settings, scorer, used_tiles, threshold, job)
    unsure = (asked.unsure_from, asked.unsure_to)
    overwrite = settings.run.overwrite
    generate_masks(scorer, scenes, used_tiles, threshold, folder, unsure, overwrite)
    if isinstance(source, RasterPatches) and run.processes.first:
        source.add_generated_masks(folder, scenes, asked.generated_mask_file)
    print(f"masks of {len(scenes)} training scenes: {folder}")
    return 0


def test(settings: S, run: Run, load: Load[S], patches: Patches | None) -> int:
    """`--mode test`: compare masks of the scenes with their reference; return the exit code."""
    solver = load(settings, run)
    scorer, data = solver.scorer(), settings.data
    used_tiles = tiles(settings, scorer)
    if data.dataset == SPARCS:
        if data.mask_codes:
            raise UserError(f"--mask_codes {data.mask_codes}: --dataset {SPARCS} has its own codes")
        scenes, reference = find_sparcs(data.orig_image_dir), TRUTH
        results = run.folder.results / SPARCS
    else:
        source, split = data.patches(settings.mode), settings.whole_scenes.test_split
        scenes = source.scenes(split, data.orig_image_dir, masked=True)
        reference, results = source.reference, run.folder.results
    scenes = _taken_by(scorer, scenes, data.sun_elevation)
    config = run_config(run.folder, weights(settings, run), settings)
    method = settings.run.method or settings.run.experiment_name
    record = chosen_threshold(settings, solver)  # last, because it may take long
    threshold = record["threshold"]
    job = Job(results, lambda: iter(scenes), len(scenes))
    scorer = in_asked_precision(settings, scorer, used_tiles, threshold, job, patches)
    evaluate(
        scenes,
        lambda scene: scoring.predictions(scorer, scene, used_tiles, threshold),
        Evaluation(results, method, threshold, solver.supervision(record), reference),
        config | {"precision": scorer.way.told},
        run.processes,
    )
    return 0


def predict(settings: S, run: Run, load: Load[S], patches: Patches | None) -> int:
    """`--mode predict`: mask the scenes of `--scenes`; return the exit code.

    A threshold is chosen only if `--threshold` says how; else it is the one chosen before. Of
    several weights each scene takes those whose bands it has, the most.
    """
    asked, given = settings.prediction, settings.whole_scenes.threshold
    if not asked.scenes:
        raise UserError("--mode predict needs --scenes PATH …: folders, archives or GeoTIFFs")
    if asked.cluster is not None and run.processes.count > 1:
        raise UserError("--cluster has workers of its own: leave torchrun out")
    paths = expand(asked.scenes)
    predictors = predictors_of(settings, run, load, patches, paths)
    with ExitStack() as stack:
        where = HERE
        if asked.cluster is not None:
            # What was chosen is known from here on, and which scenes there are is the workers'
            # affair one by one.
            chosen = KNOWN if isinstance(given, str) else given
            told = replace(
                settings,
                whole_scenes=replace(settings.whole_scenes, threshold=chosen),
                prediction=replace(asked, scenes=None),
            )
            build = partial(_on_a_worker, told, load)
            stack.callback(sweep, asked.output_dir)  # what workers leave that are ended
            workers = fleet(asked.cluster, build, asked.attempts, asked.cluster_options)
            where = stack.enter_context(workers)
        failed = predict_scenes(
            paths,
            predictors,
            asked.output_dir,
            bands=asked.bands,
            write_score=asked.write_score,
            write_bands=asked.write_bands,
            stac=asked.stac,
            postprocessing=asked.postprocessing,
            overwrite=settings.run.overwrite,
            allow_pixel_size=asked.allow_pixel_size,
            processes=run.processes,
            where=where,
        )
    return int(failed > 0)


def predictors_of(
    settings: S, run: Run, load: Load[S], patches: Patches | None, paths: Sequence[str]
) -> list[Predictor]:
    """What masks the scenes at `paths`, of each of the checkpoints to use."""
    asked, predictors = settings.prediction, []
    for path in all_weights(settings, run):
        one = replace(settings, run=replace(settings.run, model_weights=path))
        solver = load(one, run)
        scorer = solver.scorer()
        used_tiles = tiles(settings, scorer)
        threshold = _threshold(one, solver, scorer)
        scenes = partial(_scenes_of, paths, scorer, asked.bands)
        job = Job(made_writable(asked.output_dir), scenes, len(paths))
        scorer = in_asked_precision(one, scorer, used_tiles, threshold, job, patches)
        predictors.append(predictor_of(scorer, used_tiles, threshold))
    return predictors


def _threshold(settings: CommandSettings, solver: Trained, scorer: Scorer) -> float:
    """The number that --threshold is, that chosen as it says, or the one chosen before."""
    given = settings.whole_scenes.threshold
    if isinstance(given, str):
        return chosen_threshold(settings, solver)["threshold"]
    if given is not None:
        return given
    return thresholds.known(scorer, _in_bfloat16(settings))["threshold"]


def _in_bfloat16(settings: CommandSettings) -> bool:
    """Whether the scores that a threshold is for are; what is exported computes in float32."""
    return settings.mode != "export" and precision_of(settings).precision == BFLOAT16


def _taken_by(scorer: Scorer, scenes: Sequence[Scene], sun: float | None) -> list[Scene]:
    """`scenes`, read in the bands of `scorer`; that some do not say its sun is told."""
    taken = [scene.taking(scorer.normalization.bands) for scene in scenes]
    knows = scorer.normalization.knows_sun
    if unknown := [scene for scene in taken if knows and scene.elevation(sun) is None]:
        print(
            f"{len(unknown)} of {len(taken)} do not say how high the sun stood, such as "
            f"{unknown[0].where}: masked as under any, which is worse (--sun_elevation)"
        )
    return taken


def _scenes_of(paths: Sequence[str], scorer: Scorer, bands: str | None) -> Iterator[Scene]:
    """The scenes at `paths` that there are and that have the bands of the network."""
    for path in paths:
        with suppress(UserError):
            yield scene_from(path, scorer.normalization.bands, bands)


def _on_a_worker(settings: S, load: Load[S], name: object) -> list[Predictor]:
    """`predictors_of` in the worker `name` of a cluster, on its own device."""
    device = settings.run.device
    if device in ("auto", "cuda") and isinstance(name, int) and torch.cuda.device_count() > 1:
        device = f"cuda:{name % torch.cuda.device_count()}"  # workers of one machine
    # What is said and written once is the command's affair.
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        run = _run(settings, use_device(device), Processes(rank=1), settings.run.compile)
        return predictors_of(settings, run, load, None, ())


def export(settings: S, run: Run, load: Load[S]) -> int:
    """`--mode export`, on the CPU; return the exit code."""
    solver = load(settings, replace(run, device=torch.device("cpu")))
    scorer = solver.scorer()
    scorer.check_exportable()
    if scorer.normalization.needs_sun:
        raise UserError(
            f"--mode export: {scorer.checkpoint} takes the sun's elevation, and an ONNX file of DN "
            "knows none; --runtime onnx scores scenes with it"
        )
    path = run.folder.models / f"{settings.run.checkpoint}.onnx"
    scoring.export(scorer, path, chosen_threshold(settings, solver)["threshold"], git_commit())
    return 0


def pack(settings: S, run: Run, load: Load[S]) -> int:
    """`--mode pack`: the checkpoint as small weights for others; return the exit code."""
    solver = load(settings, replace(run, device=torch.device("cpu")))
    solver.scorer().check_exportable()
    path = run.folder.models / f"{settings.run.checkpoint}-packed.pt"
    record = chosen_threshold(settings, solver)
    checkpoints.save(path, checkpoints.packed(solver.state(), solver.scoring, record))
    print(f"packed: {path}, {path.stat().st_size / 1e6:.1f} MB")
    return 0


def after_training(load: Load[S], patches: Patches | None = None) -> dict[str, Mode[S]]:
    """The modes of a network that `load` loads and that may be calibrated on `patches`, by name."""
    return {
        "generate_masks": partial(mask_training_scenes, load=load),
        "test": partial(test, load=load, patches=patches),
        "predict": partial(predict, load=load, patches=patches),
        "export": partial(export, load=load),
    }
