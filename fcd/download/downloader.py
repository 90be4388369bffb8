"""Fetch scenes of the Biome data set, unpack them and put them in place, each whole or not at all.

Below the output folder::

    <Biome>/<scene>/<scene>_B1.TIF …   scenes, complete from the moment they appear
    archives/<scene>.tar.gz            archives kept on request
    .download/                         partial files and unpacking; readers skip hidden folders
"""

import os
import shutil
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from tqdm import tqdm

from fcd.download.fetch import Fetcher, Stopped, size
from fcd.errors import UserError
from fcd.files import locked
from fcd.landsat import archives, biome
from fcd.landsat.bands import BANDS
from fcd.landsat.finding import files_below
from fcd.landsat.scenes import find_scenes

PARTS = (*(f"{band}.TIF" for band in BANDS), "MTL.txt", "fixedmask.img", "fixedmask.hdr")
# An archive may unpack to this many times what the scene's size lets expect: the archive of
# LC81490122013218LGN00 holds its files twice, in a .tar inside it.
_MARGIN = 3
_bytes_bar = partial(tqdm, unit="B", unit_scale=True, leave=False, disable=None)


@dataclass(frozen=True)
class Source:
    """Where the archives come from: USGS (both None), a mirror's address, or a local folder."""

    address: str | None = None
    folder: Path | None = None

    @classmethod
    def parse(cls, base_url: str | None) -> "Source":
        """Read `--base_url`: http(s) address, file:// address, folder, or None for USGS."""
        if base_url is None:
            return cls()
        parts = urlsplit(base_url)
        if parts.scheme in ("http", "https") and parts.netloc:
            return cls(address=base_url.rstrip("/"))
        folder = Path(url2pathname(parts.path) if parts.scheme == "file" else base_url)
        if not folder.is_dir():
            raise UserError(
                f"--base_url {base_url}: no such folder; give an http(s):// address or a folder "
                "that holds <scene>.tar.gz"
            )
        return cls(folder=folder)

    def url(self, entry: biome.Entry) -> str:
        """Address of the scene's archive."""
        return f"{self.address}/{entry.scene}.tar.gz" if self.address else entry.url


def select(biomes: list[str] | None, scenes: list[str] | None) -> list[biome.Entry]:
    """Return the scenes of the list that are in `biomes` and in `scenes` (None: all).

    Raises `UserError` if a name is unknown or nothing is left.
    """
    for flag, names, known, hint in (
        ("--biomes", biomes, biome.BIOMES, f"give some of {', '.join(biome.BIOMES)}"),
        ("--scenes", scenes, biome.biomes(), "the ids are in fcd/landsat/landsat8_biome.csv"),
    ):
        if unknown := [name for name in names or () if name not in known]:
            raise UserError(f"{flag} {' '.join(unknown)}: not in the data set; {hint}")
    chosen = [
        entry
        for entry in biome.entries()
        if (biomes is None or entry.biome in biomes) and (scenes is None or entry.scene in scenes)
    ]
    if not chosen:
        raise UserError("--biomes and --scenes: no scene is in both; give only one of them")
    return chosen


def defect(scene: str, folder: Path) -> str | None:
    """Say what keeps the scene in `folder` from being complete; None if nothing does."""
    missing = [part for part in PARTS if not (folder / f"{scene}_{part}").is_file()]
    if missing:
        return f"{', '.join(missing)} missing"
    try:
        for found in find_scenes(folder):
            if found.name == scene:
                found.check(need_truth=True)
    except UserError as error:
        return str(error)
    return None


def download(
    *,
    output_dir: Path,
    biomes: list[str] | None,
    scenes: list[str] | None,
    base_url: str | None,
    keep_archives: bool,
    num_workers: int,
    timeout: float,
    retries: int,
) -> int:
    """Bring the scenes that `select` finds into `output_dir`, from what `Source.parse` reads.

    Returns the exit code, 0: all are there, 1: some failed, 130: stopped by Ctrl-C or SIGTERM.
    """
    entries, source = select(biomes, scenes), Source.parse(base_url)
    fetcher = Fetcher(timeout=timeout, retries=retries, stop=threading.Event())
    downloader = Downloader(
        output_dir, source, fetcher, keep_archives=keep_archives, num_workers=num_workers
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        failures = downloader.download(entries)
    except KeyboardInterrupt:
        print("stopped; run the same command again to go on", file=sys.stderr)
        return 130
    print(f"{len(entries) - len(failures)} of {len(entries)} scenes are in {output_dir}")
    if not failures:
        return 0
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
    return 1


@dataclass(frozen=True)
class Downloader:
    """Brings scenes into `output_dir`; raises `UserError` if that cannot be written to."""

    output_dir: Path
    source: Source
    fetcher: Fetcher
    keep_archives: bool = False
    num_workers: int = 2

    def __post_init__(self) -> None:
        try:
            self._work.mkdir(parents=True, exist_ok=True)
            with suppress(BlockingIOError), locked(self._work):
                pass
        except OSError as error:
            raise UserError(
                f"--output_dir {self.output_dir}: cannot be written to ({error.strerror}); "
                "give a folder you may write to"
            ) from error

    @property
    def _work(self) -> Path:
        return self.output_dir / ".download"

    @property
    def _kept(self) -> Path:
        return self.output_dir / "archives"

    def download(self, entries: list[biome.Entry]) -> dict[str, str]:
        """Bring those of `entries` that are not complete; return scene id -> reason of failures.

        Raises `UserError` if another download runs there or the disk is too small. What was
        interrupted (Ctrl-C) is resumed by another call.
        """
        try:
            with locked(self._work):
                folders = self._folders(entries)
                complete = {s for s, folder in folders.items() if not defect(s, folder)}
                print(f"{len(complete)} of {len(entries)} scenes are already complete")
                pending = [entry for entry in entries if entry.scene not in complete]
                self._check_space(pending)
                return self._install_all(pending, folders)
        except BlockingIOError as error:
            raise UserError(
                f"--output_dir {self.output_dir}: another download runs there; wait for it to end"
            ) from error

    def _folders(self, entries: list[biome.Entry]) -> dict[str, Path]:
        """Scene id -> the folder that holds files of the scene, wherever below the output."""
        files = {path.name: path.parent for path in files_below(self.output_dir)}
        return {
            entry.scene: files[name]
            for entry in entries
            for part in PARTS
            if (name := f"{entry.scene}_{part}") in files
        }

    def _check_space(self, pending: list[biome.Entry]) -> None:
        sizes = [self._expected(entry) for entry in pending]
        fetched = sorted((archive for archive, _ in sizes), reverse=True)
        if not self.keep_archives:  # then only those being worked on are there at a time
            fetched = fetched[: self.num_workers]
        needed = sum(fetched) + sum(unpacked for _, unpacked in sizes)
        free = shutil.disk_usage(self.output_dir).free
        if needed > free:
            raise UserError(
                f"--output_dir {self.output_dir}: {len(pending)} scenes need about "
                f"{needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; give a larger disk, or "
                "fewer scenes with --biomes or --scenes"
            )

    def _expected(self, entry: biome.Entry) -> tuple[int, int]:
        """Bytes still to be fetched and bytes unpacked, estimated."""
        name = f"{entry.scene}.tar.gz"
        if self.source.folder is not None:
            return 0, size(self.source.folder / name) * entry.unpacked_bytes // entry.archive_bytes
        places = (self._kept / name, self._work / name, self._work / f"{name}.part")
        return max(0, entry.archive_bytes - sum(map(size, places))), entry.unpacked_bytes

    def _install_all(self, pending: list[biome.Entry], folders: dict[str, Path]) -> dict[str, str]:
        failures = {}
        bar = tqdm(total=len(pending), desc="scenes", unit="scene", disable=None)
        with bar, ThreadPoolExecutor(self.num_workers) as pool:
            jobs = {pool.submit(self._install, e, folders.get(e.scene)): e.scene for e in pending}
            try:
                for job in as_completed(jobs):
                    result = "complete"
                    try:
                        job.result()
                    except (UserError, OSError) as error:
                        failures[jobs[job]] = str(error)
                        result = f"failed: {error}"
                    bar.write(f"{jobs[job]} {result}")
                    bar.update()
            except BaseException:  # Ctrl-C, or a bug in a worker: end the others, then go on up
                self.fetcher.stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return failures

    def _install(self, entry: biome.Entry, folder: Path | None) -> None:
        """Bring one scene, into `folder` if an incomplete copy of it is there."""
        staging = self._work / entry.scene
        shutil.rmtree(staging, ignore_errors=True)
        try:
            archive = self._obtain(entry)
            staging.mkdir()
            try:
                self._unpack(archive, staging, entry)
            except archives.ArchiveError:
                if self.source.folder is None:  # do not take it for a good one next time
                    archive.unlink()
                raise
            _publish(staging, folder or self.output_dir / entry.biome / entry.scene)
            if archive.parent != self._work:
                return  # one in a folder of the user's stays as it is
            if self.keep_archives:
                self._kept.mkdir(exist_ok=True)
                os.replace(archive, self._kept / archive.name)
            else:
                archive.unlink()
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _obtain(self, entry: biome.Entry) -> Path:
        """Return the path of the scene's archive, fetched if need be."""
        name = f"{entry.scene}.tar.gz"
        for folder in (self.source.folder,) if self.source.folder else (self._kept, self._work):
            path = folder / name
            if path.is_file():
                return path
        if self.source.folder:
            raise UserError(f"no {name} in {self.source.folder}")
        with _bytes_bar(desc=f"{entry.scene} fetching", total=entry.archive_bytes) as bar:

            def progress(there: int, total: int | None) -> None:
                bar.total = total or bar.total
                bar.update(there - bar.n)

            url, limit = self.source.url(entry), _MARGIN * entry.unpacked_bytes
            self.fetcher.fetch(url, path, max_bytes=limit, md5=entry.md5, progress=progress)
        return path

    def _unpack(self, archive: Path, staging: Path, entry: biome.Entry) -> None:
        with _bytes_bar(desc=f"{entry.scene} unpacking", total=entry.unpacked_bytes) as bar:

            def progress(count: int) -> None:
                if self.fetcher.stop.is_set():
                    raise Stopped
                bar.update(count)

            limit = _MARGIN * entry.unpacked_bytes
            archives.unpack(archive, staging, limit=limit, on_bytes=progress)
        if problem := defect(entry.scene, staging):
            raise archives.ArchiveError(f"{archive.name} does not hold the whole scene: {problem}")


def _publish(staging: Path, folder: Path) -> None:
    """Make the unpacked files appear in `folder`; other files there are left alone."""
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        os.rename(staging, folder)
        return
    names = sorted(path.name for path in staging.iterdir())
    for name in names:  # first out, then in: the scene is never half old and half new
        (folder / name).unlink(missing_ok=True)
    for name in names:
        os.replace(staging / name, folder / name)
