"""One peer masks one scene, in a process of its own, and prints what it took, without its imports.

    PYTHON -m benchmarks.peer PEER ARGUMENTS

`benchmarks.peers` starts it in the environment of the peer, which has nothing of ours: each
function imports what it needs, and returns the work that is timed.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks.memory import peak_mib

Work = Callable[[], Any]


def csmask(array: str, threads: str) -> Work:
    """ukis-csmask on reflectance (H, W, 6) float32 in a .npy."""
    import numpy as np
    from ukis_csmask.mask import CSmask

    image = np.load(array)
    bands = ["blue", "green", "red", "nir", "swir16", "swir22"]
    return lambda: CSmask(image, bands, intra_op_num_threads=int(threads))


def plainly(checkpoint: str, scene: str, mask: str) -> Work:
    """The plain way, file to file, in tiles as large as the patches that overlap by a quarter."""
    from pathlib import Path

    import segmentation_models_pytorch  # noqa: F401  # which a network imports when it is made

    from benchmarks import plain
    from fcd.landsat.scenes import find_scenes
    from fcd.masks.scoring import Tiles
    from solver import load_solver

    def work() -> None:
        solver = load_solver(checkpoint, "cpu")
        tiles = Tiles.of(solver.scorer(), solver.image_size, solver.image_size // 4)
        how = (tiles.size, tiles.overlap, tiles.batch_size, solver.device)
        (only,) = find_scenes(scene)
        plain.mask_scene(only, solver.score, solver.normalization, 0.5, Path(mask), *how)

    return work


def ours(*arguments: str) -> Work:
    """Our command, with these `arguments`."""
    import onnxruntime  # noqa: F401  # these two it imports when it needs them
    import segmentation_models_pytorch  # noqa: F401

    import supervised_main

    sys.argv = ["supervised_main.py", *arguments]
    return supervised_main.main


PEERS: dict[str, Callable[..., Work]] = {"csmask": csmask, "plain": plainly, "ours": ours}


def main(peer: str, *arguments: str) -> None:
    """Do the work of `peer`; print what it took as the last line."""
    work = PEERS[peer](*arguments)
    began, began_cpu = time.perf_counter(), time.process_time()
    work()
    taken = {
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - began_cpu,
        "peak_mib": peak_mib(),
    }
    print(json.dumps(taken))


if __name__ == "__main__":
    main(*sys.argv[1:])
