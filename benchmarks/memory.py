"""Memory of this process. Nothing but Python, as the environments of peers have nothing of ours."""

import resource
from pathlib import Path

MIB = 1 << 20


def peak_mib() -> float:
    """Peak memory (resident) of this process in MiB."""
    path = Path("/proc/self/status")
    if path.exists():
        (kib,) = (line.split()[1] for line in path.read_text().splitlines() if "VmHWM" in line)
        return int(kib) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MIB  # bytes on macOS
