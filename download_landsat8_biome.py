"""Download the Landsat-8 Biome data set: 96 scenes of 8 biomes, about 190 GB unpacked.

Run it again after an interruption or a failure: complete scenes are skipped, partial archives
go on where they stopped. Exit code 0: all scenes are there; 1: some failed, listed at the end;
2: a flag cannot be used; 130: stopped by Ctrl-C or SIGTERM.
"""

from pathlib import Path

from fcd.cli.options import DEFAULT_SCENE_DIR, Parser, natural, positive, run
from fcd.download.downloader import download
from fcd.landsat import biome


def build_parser() -> Parser:
    """The command line."""
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--output_dir", type=Path, default=DEFAULT_SCENE_DIR,
        help="folder for <biome>/<scene>/…; give it to the other commands as --data_path",
    )  # fmt: skip
    parser.add_argument(
        "--biomes", nargs="+", metavar="BIOME",
        help=f"only these biomes ({', '.join(biome.BIOMES)}); None: all",
    )  # fmt: skip
    parser.add_argument("--scenes", nargs="+", metavar="ID", help="only these scenes; None: all")
    parser.add_argument(
        "--base_url", metavar="URL",
        help="mirror that holds <scene>.tar.gz: http(s):// address, file:// address or folder; "
        "None: USGS",
    )  # fmt: skip
    parser.add_argument(
        "--keep_archives", action="store_true",
        help="keep the fetched archives in <output_dir>/archives (about 90 GB more)",
    )  # fmt: skip
    parser.add_argument(
        "--num_workers", type=positive, default=2, help="scenes fetched and unpacked at a time"
    )
    parser.add_argument(
        "--timeout", type=positive, default=60,
        help="seconds without an answer or a byte after which an attempt has failed",
    )  # fmt: skip
    parser.add_argument(
        "--retries", type=natural, default=5,
        help="attempts in a row that may fail without progress before a scene is given up",
    )  # fmt: skip
    return parser


def main() -> int:
    """Download what the flags ask for; return the exit code."""
    flags = build_parser().parse_args()
    return download(
        flags.output_dir,
        flags.biomes,
        flags.scenes,
        flags.base_url,
        keep_archives=flags.keep_archives,
        num_workers=flags.num_workers,
        timeout=flags.timeout,
        retries=flags.retries,
    )


if __name__ == "__main__":
    run(main)
