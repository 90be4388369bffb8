"""How a command ends: what a person reads on stderr, and the exit code."""

import errno
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from fcd.errors import READER_ENDED, UserError, first_line
from fcd.processes import failing


def run(main: Callable[[], int | None]) -> NoReturn:
    """Run an entry script: a `UserError` becomes one line on stderr and exit code 2.

    So do what the system refuses (a full disk, a folder that is read-only) and the end of a process
    that reads patches.
    SIGTERM ends it like an error does, so that no half-written file stays; training loops
    answer it themselves. Of several processes only the first to fail says why.
    """
    signal.signal(signal.SIGTERM, lambda signum, _: sys.exit(128 + signum))
    try:
        code = main()
    except UserError as error:
        with failing() as first:
            if first:
                # A loader process hands its error on inside a traceback, as its last line.
                said = str(error).rstrip().rpartition(f"{type(error).__name__}: ")[2]
                print(f"error: {said}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        with failing() as first:
            if first:
                print("stopped; run the same command again to go on", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        line = _from_outside(error)
        if line is not None and hasattr(signal, "SIGCHLD"):
            # There PyTorch tells of readers that have ended: not once more while all is taken down.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        with failing() as first:
            if first and line is None:
                raise
            if first:
                print(f"error: {line}", file=sys.stderr)
        sys.exit(1 if line is None else 2)
    sys.exit(code or 0)


def _from_outside(error: Exception) -> str | None:
    """An error that is the system's and not the program's, in one line; None for others."""
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}; what was written before is kept"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"nothing more can be written ({error.strerror}); what was written before is kept"
    if isinstance(error, RuntimeError) and str(error).startswith(READER_ENDED):
        return (
            f"a process that reads patches has ended ({first_line(error)}), mostly for "
            "lack of memory: lower --num_workers; what was written before is kept"
        )
    return None
