"""What --mode predict takes: scenes, what is written of them, and who masks them."""

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from annotated_types import Ge

from fcd.cli.parser import MAY_CHANGE, Flag, number
from fcd.masks.fleet import ADDRESSES, LOCAL, SLURM
from fcd.masks.outputs import Contents, Scores
from fcd.masks.postprocessing import PostProcessing


def cluster_from(text: str) -> str:
    """`local:N`, the address of a scheduler, or `slurm`."""
    kind, _, count = text.partition(":")
    if kind == LOCAL:
        number(int, [Ge(1)], count)
    elif text != SLURM and not text.startswith(ADDRESSES):
        raise argparse.ArgumentTypeError(f"{text!r} is none of local:N, tcp://host:port, slurm")
    return text


@dataclass(frozen=True)
class PredictionSettings:
    """Prediction (--mode predict)."""

    scenes: Annotated[
        list[str] | None,
        Flag(metavar="PATH"),
        MAY_CHANGE,
        "scene folders, .tar, .tar.gz or .zip archives, MTL files, GeoTIFFs, folders of such, "
        "globs, or text files with a path a line",
    ] = None
    output_dir: Annotated[Path, MAY_CHANGE, "folder of masks and summary.csv"] = Path("masks")
    bands: Annotated[
        str | None,
        MAY_CHANGE,
        "how to read what is no Landsat Level-1 scene and does not name its bands as training did; "
        "of a GeoTIFF the bands in the order of training, such as 1-7,9-11; of a folder or archive "
        "the ends of the files' names, such as SR_B1,SR_B2",
    ] = None
    allow_pixel_size: Annotated[
        bool, MAY_CHANGE, "do not warn of scenes whose pixels have another size than in training"
    ] = False
    write_score: Annotated[
        Scores, MAY_CHANGE, "score beside the mask: uint8 (0 nodata, 1 to 255 for 0 to 1), float32"
    ] = "none"
    write_bands: Annotated[
        Contents,
        MAY_CHANGE,
        "bands of the mask's file; mask,score: the score, as uint8, in the same file",
    ] = "mask"
    stac: Annotated[
        bool, MAY_CHANGE, "write a STAC item beside each mask (needs the library pystac)"
    ] = False
    postprocessing: PostProcessing = field(default_factory=PostProcessing)
    cluster: Annotated[
        str | None,
        cluster_from,
        MAY_CHANGE,
        "workers of dask that mask the scenes: local:N (processes of this machine), "
        "tcp://host:port (of a scheduler) or slurm; None: this process",
    ] = None
    cluster_options: Annotated[
        Path | None,
        Flag(metavar="FILE"),
        MAY_CHANGE,
        "YAML with the arguments of dask_jobqueue.SLURMCluster, and jobs: how many",
    ] = None
    attempts: Annotated[
        int,
        Ge(1),
        MAY_CHANGE,
        "how many workers of --cluster may die of a scene before it counts as failed",
    ] = 3
