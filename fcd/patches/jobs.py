"""Work on many scenes in several processes."""

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import Any

from tqdm import tqdm

from fcd.errors import SceneError, UserError


def parallel(
    jobs: Mapping[str, Callable[[], Any]], workers: int, title: str
) -> Iterator[tuple[str, Any]]:
    """Run `jobs` in `workers` processes; yield name and result or `SceneError` as they end.

    Raises `UserError` if one of the processes is killed.
    """
    context = get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_end_with_parent) as pool:
        names = {pool.submit(job): name for name, job in jobs.items()}
        try:
            for future in tqdm(
                as_completed(names), title, len(names), unit="scene", dynamic_ncols=True
            ):
                error = future.exception()
                if isinstance(error, BrokenProcessPool):
                    raise UserError(
                        f"{title}: a process was killed, mostly for lack of memory; lower "
                        "--num_workers and run the same command again, what is done is kept"
                    ) from error
                if error is not None and not isinstance(error, SceneError):
                    raise error
                yield names[future], error or future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _end_with_parent() -> None:
    """In a worker: end when the process that started it does, however it ends."""

    def wait() -> None:
        if parent := parent_process():
            parent.join()
        os._exit(1)

    Thread(target=wait, daemon=True).start()
