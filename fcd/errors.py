"""The one error a user is meant to read: bad input, said in one line, exit code 2."""

# How the RuntimeError begins by which PyTorch tells the end of a process that reads patches. It
# comes from a signal handler, and so out of whatever the main process is doing.
READER_ENDED = "DataLoader worker"


class UserError(Exception):
    """Input that cannot be used.

    The message is one line that names the file or flag, the value found and the fix; entry scripts
    print it without a traceback and exit with code 2 (`fcd.cli.entry.run`).
    """


class SceneError(UserError):
    """A scene that is incomplete or unreadable; names the scene and what is wrong with it."""


class MissingBand(SceneError):
    """A scene that is sound, but lacks a band that the network takes."""


class FleetError(UserError):
    """Workers of a cluster that cannot mask any scene: no such cluster, other weights or code."""


class OutputError(UserError):
    """A file that cannot be written: a full disk, a folder one may not write to."""


def first_line(error: Exception) -> str:
    """The first line of what an error says, or its kind if it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
