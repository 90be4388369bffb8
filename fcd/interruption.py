"""Ctrl-C and SIGTERM as a wish that a loop grants at its next safe point."""

import signal
from types import FrameType


class Stopped(Exception):
    """A run that was asked to stop and has saved its state; run the command again to go on."""

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + signum


class Interruption:
    """While active, SIGINT and SIGTERM set `signum` instead of ending the process at once.

    A second Ctrl-C ends it as usual.
    """

    def __init__(self) -> None:
        self.signum: int | None = None

    def _ask(self, signum: int, _: FrameType | None) -> None:
        self.signum = signum
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def __enter__(self) -> "Interruption":
        self._before = {n: signal.signal(n, self._ask) for n in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
