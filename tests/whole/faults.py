"""Fill the disk or make it read-only under every long command; run it again, compare.

    python -m tests.whole.faults [--tries 8] [--seed 0] [--only predict …] [--json faults.json]

Each command is started in a process of its own, from the state before it. No file may grow beyond
a random number of bytes, as on a disk that is full, or nothing may be written at all. The command
has to end with exit code 2 and one line that begins with "error:" (1 where it tells one scene after
the other), and without a traceback. Every file that was there before has to be there still,
as it was or as an undisturbed run leaves it. Then it is run again with nothing in its way, and
everything on the disk is compared with what an undisturbed run has left (`tests.whole.crashes`).
"""

import ctypes
import os
import random
import resource
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.whole.crashes import build_parser, copy, differences, each_command, start

# mount(2) and unshare(2)
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18
CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
CODES = {"download": (1, 2), "prepare": (1, 2)}  # they name each scene that fails and go on


def full_disk(limit: int, _: Path) -> None:
    """No file of this process may grow beyond `limit` bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


def read_only(folder: Path) -> None:
    """This process sees `folder` read-only, even as root; OSError where the system forbids that."""
    libc = ctypes.CDLL(None, use_errno=True)

    def check(result: int) -> None:
        if result:
            raise OSError(ctypes.get_errno(), "no mount for this process alone")

    check(libc.unshare(CLONE_NEWNS | (CLONE_NEWUSER if os.geteuid() else 0)))
    path = os.fsencode(folder)
    check(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None))
    check(libc.mount(path, path, None, MS_BIND, None))
    check(libc.mount(b"none", path, None, MS_REMOUNT | MS_BIND | MS_RDONLY, None))


def read_only_is_possible() -> bool:
    """Whether `read_only` works here."""
    with tempfile.TemporaryDirectory() as folder:
        process = os.fork()
        if process:
            return os.waitpid(process, 0)[1] == 0
        try:
            read_only(Path(folder))
        except OSError:
            os._exit(1)
        os._exit(0)


def contents(folder: Path) -> dict[Path, bytes]:
    """Every file below `folder` but the curves, which grow."""
    names = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {name: (folder / name).read_bytes() for name in names if name.parts[0] != "runs"}


def try_fault(name: str, root: Path, fault: Callable[[Path], None]) -> list[str]:
    """Run a command with `fault`, and again without; return what is wrong, in words."""
    work, before, after, log = (root / part for part in ("work", "before", "after", "fault.log"))
    copy(before, work)
    log.write_text("")
    started = start(name, work, log, fault)
    code, said = os.waitstatus_to_exitcode(started.wait()), started.said()
    told = []
    if code and code not in CODES.get(name, (2,)):
        told.append(f"exit code {code}: {said[-300:]}")
    if "Traceback" in said:
        told.append(f"a traceback: {said[-600:]}")
    if code == 2 and not said.rstrip().rpartition("\n")[2].startswith("error: "):
        told.append(f"last line: {said[-300:]}")
    there, whole, now = contents(before), contents(after), contents(work)
    told += [f"{p} was damaged" for p in there if now.get(p) not in (there[p], whole.get(p))]
    start(name, work, log).finish()
    return told + differences(after, work)


def try_command(name: str, root: Path, tries: int, generator: random.Random) -> dict[str, Any]:
    """Disturb one command; leave `root`/work as an undisturbed run leaves it."""
    work, before, after, log = (root / part for part in ("work", "before", "after", f"{name}.log"))
    copy(work, before)
    start(name, work, log).finish()
    copy(work, after)
    faults: dict[str, Callable[[Path], None]] = {}
    if tries:
        old = contents(before)
        new = [len(content) for path, content in contents(after).items() if path not in old]
        for _ in range(tries):
            limit = round(max(new, default=1000) ** generator.random())
            faults[f"disk full beyond {limit} bytes"] = partial(full_disk, limit)
        if read_only_is_possible():
            faults["read-only"] = read_only
    failures = []
    for what, fault in faults.items():
        if told := try_fault(name, root, fault):
            failures.append(f"{what}: {'; '.join(told[:5])}")
    copy(after, work)
    return {
        "command": name,
        "injected": len(faults),
        "handled": len(faults) - len(failures),
        "failures": failures,
    }


def run(arguments: list[str] | None = None) -> int:
    """The command line; exit code 1 if a fault was not handled."""
    parser = build_parser("python -m tests.whole.faults", __doc__)
    parser.add_argument("--tries", type=int, default=8)
    flags = parser.parse_args(arguments)
    rows = each_command(
        try_command, flags.tries, flags, lambda row: f"{row['handled']}/{row['injected']} handled"
    )
    return int(any(row["failures"] for row in rows))


if __name__ == "__main__":
    sys.exit(run())
