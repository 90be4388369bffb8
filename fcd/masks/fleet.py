"""Scenes masked by the workers of a dask cluster, on this machine or on many.

dask hands the scenes out and notices the death of a worker. What is ours is to blame the right one:
a scene counts as begun when a worker has said so to the scheduler, before it touches the scene. So
one that has waited in a worker that died is innocent, and one that ends its workers, which no
worker lives to tell, is known.
"""

import os
import platform
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from itertools import islice
from multiprocessing import resource_tracker
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar
from uuid import uuid4

from tqdm import tqdm

from fcd.errors import FleetError, SceneError, UserError, first_line
from fcd.landsat.scenes import Scene
from fcd.masks.outputs import Outputs
from fcd.masks.prediction import Here, predict_scene
from fcd.masks.predictor import Predictor
from fcd.masks.summary import Row

LOCAL, SLURM = "local", "slurm"
ADDRESSES = ("tcp://", "tls://")
ROOT = Path(__file__).parents[2]
MOST = 1024  # scenes that this process waits for at a time, a thread each
PATIENCE = 5.0  # seconds after which it looks for workers that have come, or are missing
_LOADING = Lock()
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Job:
    """What a worker is told once for all scenes."""

    name: str
    folder: Path  # which relative paths start from
    predictors: bytes  # (number of the worker) -> predictors, as cloudpickle writes it
    attempts: int


class Fleet(Here):
    """The workers of a cluster; `predict_scenes` has them mask its scenes."""

    def __init__(self, client: Any, job: Job, refill: Callable[[], None] = lambda: None) -> None:
        self.client, self._job, self._refill = client, job, refill

    def each(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[list[R]]:
        """What `function` returns for each of `items`, in threads that wait for the workers."""
        rest = iter(items)
        running: set[Future[R]] = set()
        with ThreadPoolExecutor(MOST) as pool:
            try:
                while True:
                    self._refill()
                    # The next scene of each is looked at while it works on another.
                    wanted = 2 * max(1, sum(self.client.nthreads().values()))
                    more = islice(rest, max(0, wanted - len(running)))
                    running |= {pool.submit(function, item) for item in more}
                    if not running:
                        break
                    done, running = wait(running, PATIENCE, FIRST_COMPLETED)
                    yield [future.result() for future in done]
                self.client.set_metadata([self._job.name], {})
            except BaseException:
                self.client.close()  # or the threads would wait on
                raise

    def mask(
        self,
        scene: Scene,
        predictor: Predictor,
        output_dir: Path,
        outputs: Outputs,
        warn: Callable[[str], object],
    ) -> Row:
        """See `predict_scene`; also raises `SceneError` if workers die of the scene."""
        distributed = _library("distributed")
        while True:
            task = (self._job, scene, predictor.tags, output_dir, outputs)
            try:
                outcome, warnings = self.client.submit(_mask, *task, pure=False).result()
            except distributed.KilledWorker:
                tqdm.write(f"a worker has ended; {scene.where} goes to another", file=sys.stderr)
                continue  # until the next one sees that it was begun often enough
            except ImportError as error:
                raise FleetError(
                    f"a worker cannot import this program ({error}); start the workers in the same "
                    f"environment, with PYTHONPATH={ROOT}"
                ) from error
            if outcome is None:
                continue
            for text in warnings:
                warn(text)
            if isinstance(outcome, UserError):
                raise outcome
            return outcome


@contextmanager
def fleet(
    cluster: str,
    predictors: Callable[[Any], Sequence[Predictor]],
    attempts: int = 3,
    options: Path | None = None,
) -> Iterator[Fleet]:
    """The workers of `cluster`: `local:N`, `tcp://host:port` of a scheduler, or `slurm`.

    predictors: what each worker calls once, with its name, of `local:N` from 0 to N - 1. attempts:
    how often a scene is begun. options: YAML file with arguments of dask_jobqueue.SLURMCluster, and
    `jobs`, how many. Raises `FleetError` if there is no such cluster.
    """
    if options and cluster != SLURM:
        raise FleetError(f"--cluster_options {options}: only --cluster {SLURM} takes them")
    distributed = _library("distributed")
    pickled = import_module("cloudpickle").dumps(predictors)
    job = Job(f"fcd-{uuid4().hex}", Path.cwd(), pickled, attempts)
    with ExitStack() as stack:
        try:
            if cluster.startswith(ADDRESSES):
                place, refill = cluster, lambda: None
            elif cluster == SLURM:
                place, refill = stack.enter_context(_slurm(options))
            else:
                place, refill = stack.enter_context(_local(int(cluster.removeprefix(f"{LOCAL}:"))))
            client = stack.enter_context(distributed.Client(place, set_as_default=False))
        except (OSError, RuntimeError, TypeError, ValueError) as error:
            raise FleetError(f"--cluster {cluster} cannot be used: {first_line(error)}") from error
        print(f"{cluster}: {len(client.nthreads())} workers are there")
        yield Fleet(client, job, refill)


Cluster = tuple[Any, Callable[[], None]]  # of dask's, and what replaces its missing workers


@contextmanager
def _local(count: int) -> Iterator[Cluster]:
    """`count` processes of this machine, which share its cores."""
    dask, distributed = _library("dask"), _library("distributed")
    own = {
        "distributed.nanny.pre-spawn-environ.OMP_NUM_THREADS": max(
            1, dask.system.CPU_COUNT // count
        ),
        # To import PyTorch takes longer than dask waits for a worker that starts again.
        "distributed.deploy.lost-worker-timeout": "2 minutes",
    }
    with dask.config.set(own):
        # Ctrl-C is for this process alone, which then ends the workers. What is blocked is
        # inherited; but to start the tracker, as the first worker else does, unblocks it.
        resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            cluster = distributed.LocalCluster(
                n_workers=count,
                threads_per_worker=1,
                dashboard_address="127.0.0.1:0",
                silence_logs="CRITICAL",
                scheduler_kwargs={"allowed_failures": 0},
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        with _closed_in_the_end(cluster):
            yield cluster, lambda: cluster.scale(count)


@contextmanager
def _slurm(options: Path | None) -> Iterator[Cluster]:
    """Jobs of a Slurm cluster, each of which starts workers; one that ends is replaced."""
    jobqueue, yaml = _library("dask_jobqueue"), _library("yaml")
    try:
        asked = yaml.safe_load(options.read_text(encoding="utf-8")) if options else {}
        jobs = asked.pop("jobs", 1)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, AttributeError) as error:
        raise FleetError(
            f"--cluster_options {options} cannot be read ({first_line(error)}); it holds lines "
            "such as cores: 8"
        ) from error
    if not shutil.which("sbatch"):
        raise FleetError("--cluster slurm: there is no sbatch; run it where jobs are submitted")
    asked = {"processes": 1, **asked}
    threads = max(1, int(asked.get("cores", 1)) // int(asked["processes"]))
    prologue = [
        *asked.get("job_script_prologue", []),
        f"export OMP_NUM_THREADS={threads} PYTHONPATH={shlex.quote(str(ROOT))}:$PYTHONPATH",
    ]
    # A process masks one scene at a time; of two numbers of threads the last one counts.
    one = [*asked.get("worker_extra_args", []), "--nthreads", "1"]
    own: dict[str, Any] = {"job_script_prologue": prologue, "worker_extra_args": one}
    scheduler = {"allowed_failures": 0, "dashboard_address": ":0"}
    own["scheduler_options"] = scheduler | asked.get("scheduler_options", {})
    cluster = jobqueue.SLURMCluster(**asked | own)
    with _closed_in_the_end(cluster):
        yield cluster, lambda: cluster.scale(jobs=jobs)


@contextmanager
def _closed_in_the_end(cluster: Any) -> Iterator[None]:
    try:
        yield
    finally:
        # Where workers are slow to end dask gives up waiting; they end with this process anyway.
        with suppress(TimeoutError):
            cluster.close()


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise FleetError(
            f"--cluster needs a library that is not installed ({error}): "
            "pip install distributed dask-jobqueue"
        ) from error


# --- on a worker --------------------------------------------------------------------------------


def _mask(
    job: Job, scene: Scene, tags: dict[str, str], output_dir: Path, outputs: Outputs
) -> tuple[Row | UserError | None, list[str]]:
    """`predict_scene`, or what is wrong with the scene; None: something else, which may pass.

    And what it warns of.
    """
    scheduler, where = _library("distributed").get_client(), [job.name, scene.name]
    begun, host = scheduler.get_metadata(where, []), platform.node()
    warnings: list[str] = []
    if len(begun) >= job.attempts:
        told = f"{scene.where}: no worker could mask it, --attempts {len(begun)}"
        return SceneError(f"{told}: {'; '.join(begun)}"), warnings
    scheduler.set_metadata(where, [*begun, f"one on {host} was killed, or ran out of memory"])
    outcome: Row | UserError | None = None
    try:
        predictor = _predictor(job, tags)
        outcome = predict_scene(scene, predictor, output_dir, outputs, warnings.append)
    except UserError as error:
        # Its text alone travels: exceptions of GDAL, which are its cause, cannot be unpickled.
        outcome = type(error)(*error.args)
    except Exception as error:
        begun = [*begun, f"one on {host} said {first_line(error)}"]
    scheduler.set_metadata(where, begun)
    return outcome, warnings


def _predictor(job: Job, tags: dict[str, str]) -> Predictor:
    """The one that writes `tags` into its masks, as the command has said."""
    with _LOADING:
        predictors = _predictors(job)
    for predictor in predictors:
        if predictor.tags == tags:
            return predictor
    raise FleetError(
        f"worker {platform.node()} has other weights, threshold or code than this command; check "
        "that all machines see the same files"
    )


@lru_cache(maxsize=1)
def _predictors(job: Job) -> Sequence[Predictor]:
    here = platform.node()
    try:
        os.chdir(job.folder)
        build = import_module("cloudpickle").loads(job.predictors)
        return build(_library("distributed").get_worker().name)
    except OSError as error:
        raise FleetError(
            f"worker {here} does not see the folder {job.folder} ({error.strerror}); run the "
            "command where all machines see it"
        ) from error
    except UserError as error:
        raise FleetError(f"worker {here}: {error}") from error
