"""Processes that read patches: they end when the one that trains says so, and their end is told."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from torch.utils.data import DataLoader

from fcd.errors import READER_ENDED

_SAYS_WHO = hasattr(signal, "sigwaitinfo")  # macOS does not say who sent a signal


def obey_parent_alone(_: int) -> None:
    """What each of them begins with."""
    # Ctrl-C, and SIGTERM from torchrun or a batch system, reach all processes; the training loop
    # alone decides when to stop. A loader ends when that loop's process asks it to.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if _SAYS_WHO:  # SIGTERM is blocked, see `Loader`
        threading.Thread(target=_obey_parent, args=(os.getppid(),), daemon=True).start()
    else:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _obey_parent(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


@contextmanager
def _sigterm_blocked() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Loader(DataLoader):
    """Tells the end of one of its processes always as PyTorch mostly does."""

    def __iter__(self) -> Iterator[dict]:  # type: ignore[override]
        try:
            # Before its processes start, or threads that they have from the start would not.
            with _sigterm_blocked() if _SAYS_WHO else nullcontext():
                batches = super().__iter__()
            yield from batches
        except (ConnectionError, EOFError, FileNotFoundError, RuntimeError) as error:
            # With pinned memory a thread meets the error, and PyTorch tells the end of the thread.
            if isinstance(error, RuntimeError) and not str(error).startswith("Pin memory"):
                raise
            # It was killed while it handed a batch over. Patches raise `DamagedPatch` instead.
            # The signal that makes PyTorch tell it comes in a moment; later it would come out
            # in the midst of what is done after an error.
            time.sleep(1)
            raise RuntimeError(f"{READER_ENDED}: {type(error).__name__}") from error
