"""Download the Landsat-8 Biome data set: 96 scenes of 8 biomes, about 190 GB unpacked.

Run it again after an interruption or a failure: complete scenes are skipped, partial archives
go on where they stopped. Exit code 0: all scenes are there; 1: some failed, listed at the end;
2: a flag cannot be used; 130: stopped by Ctrl-C or SIGTERM.
"""

import signal
import sys
import threading
from pathlib import Path

from fcd.cli.options import DEFAULT_SCENE_DIR, Parser, natural, positive, run
from fcd.download.downloader import Downloader, Source, select
from fcd.download.fetch import Fetcher
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
    entries = select(flags.biomes, flags.scenes)
    source = Source.parse(flags.base_url)
    fetcher = Fetcher(timeout=flags.timeout, retries=flags.retries, stop=threading.Event())
    downloader = Downloader(
        flags.output_dir,
        source,
        fetcher,
        keep_archives=flags.keep_archives,
        num_workers=flags.num_workers,
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        failures = downloader.download(entries)
    except KeyboardInterrupt:
        print("stopped; run the same command again to go on", file=sys.stderr)
        return 130
    print(f"{len(entries) - len(failures)} of {len(entries)} scenes are in {flags.output_dir}")
    if failures:
        report(failures)
    return 1 if failures else 0


def report(failures: dict[str, str]) -> None:
    """Print which scenes failed, why, and what else can be done."""
    print(f"{len(failures)} scenes failed:", file=sys.stderr)
    for scene, reason in sorted(failures.items()):
        print(f"  {scene}: {reason}", file=sys.stderr)
    print(
        "Run the same command again to retry these only. If the addresses no longer answer, see\n"
        f"  {biome.PAGE}\n  {biome.DOI}\n"
        "for where the archives are now, and give that address, or a folder that holds the "
        "<scene>.tar.gz you fetched yourself, as --base_url.",
        file=sys.stderr,
    )


if __name__ == "__main__":
    run(main)
