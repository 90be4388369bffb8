"""Download the Landsat-8 Biome data set: 96 scenes of 8 biomes, about 193 GB unpacked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Ge

from fcd.cli import entry
from fcd.cli.parser import Flag, parse
from fcd.cli.settings import SCENE_DIR
from fcd.download.downloader import download
from fcd.landsat.biome import BIOMES


@dataclass(frozen=True)
class Settings:
    """Download the Landsat-8 Biome data set: 96 scenes of 8 biomes, about 193 GB unpacked.

    Run it again after an interruption or a failure: complete scenes are skipped, partial archives
    go on where they stopped. Exit code 0: all scenes are there; 1: some failed, listed at the end;
    2: a flag cannot be used; 130: stopped by Ctrl-C or SIGTERM.
    """

    output_dir: Annotated[
        Path, "folder for <biome>/<scene>/…; give it to the other commands as --data_path"
    ] = Path(SCENE_DIR)
    biomes: Annotated[
        list[str] | None,
        Flag(metavar="BIOME"),
        f"only these biomes ({', '.join(BIOMES)}); None: all",
    ] = None
    scenes: Annotated[list[str] | None, Flag(metavar="ID"), "only these scenes; None: all"] = None
    base_url: Annotated[
        str | None,
        Flag(metavar="URL"),
        "mirror that holds <scene>.tar.gz: http(s):// address, file:// address or folder; "
        "None: USGS",
    ] = None
    keep_archives: Annotated[
        bool, "keep the fetched archives in <output_dir>/archives (about 96 GB more)"
    ] = False
    num_workers: Annotated[int, Ge(1), "scenes fetched and unpacked at a time"] = 2
    timeout: Annotated[
        int, Ge(1), "seconds without an answer or a byte after which an attempt has failed"
    ] = 60
    retries: Annotated[
        int, Ge(0), "attempts in a row that may fail without progress before a scene is given up"
    ] = 5


def main() -> int:
    """Download what the flags ask for; return the exit code."""
    return download(**vars(parse(Settings)))


if __name__ == "__main__":
    entry.run(main)
