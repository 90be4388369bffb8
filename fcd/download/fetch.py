"""Fetch one large file over HTTP: resumed where it stopped, checked, retried within bounds.

Not by pooch, which begins a file anew each time and wants checksums, which USGS does not give.
"""

import hashlib
import os
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import requests
import urllib3

from fcd import __version__
from fcd.errors import UserError
from fcd.files import write_text
from fcd.landsat.archives import GZIP_MAGIC

_CHUNK = 1 << 16
_MAX_WAIT = 600  # seconds; a server that asks for more is tried again earlier
_TRY_AGAIN = {408, 429, 500, 502, 503, 504}
# What went wrong, without the libraries' nested object names; the first that fits counts.
_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (requests.ConnectTimeout, "no connection in time"),
    (requests.Timeout, "the server stalled"),
    (urllib3.exceptions.TimeoutError, "the server stalled"),
    (requests.ConnectionError, "no connection to the server"),
    (urllib3.exceptions.HTTPError, "the connection was cut"),
)
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)")

Progress = Callable[[int, int | None], object]  # bytes there, bytes in all if known


class FetchError(UserError):
    """A file that could not be fetched, and why."""


class Stopped(Exception):
    """The stop event was set; the partial file is kept."""


class _TryAgain(Exception):
    """An attempt failed in a way that may pass; `delay` is what the server asks for, seconds."""

    def __init__(self, reason: str, delay: float = 0.0) -> None:
        super().__init__(reason)
        self.delay = delay


@dataclass(kw_only=True)
class Fetcher:
    """Fetches gzip files; safe to use from several threads."""

    timeout: float  # seconds without an answer or a byte after which an attempt has failed
    retries: int  # attempts in a row that may fail without progress
    stop: threading.Event  # when set, `fetch` raises `Stopped` soon
    backoff: float = 1.0  # seconds before the first retry, doubled each time
    _answered: bool = field(default=False, init=False)  # has any server ever answered?
    _given_up: bool = field(default=False, init=False)

    def fetch(
        self,
        url: str,
        path: Path,
        *,
        max_bytes: int,
        md5: str | None = None,
        progress: Progress = lambda *_: None,
    ) -> None:
        """Fetch `url` to `path`, which appears when complete and checked; `<path>.part` is resumed.

        Raises `FetchError`, `Stopped`, or `OSError` if the file cannot be written.
        """
        part = path.with_name(path.name + ".part")
        failures, most = 0, size(part)
        while True:
            try:
                self._attempt(url, part, max_bytes, md5, progress)
                os.replace(part, path)
                _validator_file(part).unlink(missing_ok=True)
                return
            except _TryAgain as error:
                # Progress is what exceeds all earlier attempts: a server that cuts every
                # connection at the same byte is given up.
                failures = 1 if size(part) > most else failures + 1
                most = max(most, size(part))
                # Offline, or a server that is gone: say so once, not after minutes per file.
                hopeless = self._given_up and not self._answered
                if failures > self.retries or hopeless:
                    self._given_up = True
                    raise FetchError(
                        f"{error} (attempts without progress: {failures}; {url})"
                    ) from error
                delay = max(error.delay, self.backoff * 2 ** (failures - 1))
                if self.stop.wait(min(delay, _MAX_WAIT)):
                    raise Stopped from error

    def _attempt(
        self, url: str, part: Path, max_bytes: int, md5: str | None, progress: Progress
    ) -> None:
        try:
            with requests.get(
                url, headers=_headers(part), stream=True, timeout=self.timeout
            ) as response:
                self._answered = True
                start, total = _placing(response, part)
                if total is not None and total > max_bytes:
                    raise FetchError(f"{total:,} bytes, far more than such a file has ({url})")
                if response.status_code != 416:
                    self._receive(response, part, start, max_bytes, lambda n: progress(n, total))
        except tuple(kind for kind, _ in _REASONS) as error:
            raise _TryAgain(
                next(why for kind, why in _REASONS if isinstance(error, kind))
            ) from error
        except requests.RequestException as error:
            raise FetchError(f"{error} ({url})") from error
        _verify(part, total, md5)

    def _receive(
        self,
        response: requests.Response,
        part: Path,
        start: int,
        max_bytes: int,
        progress: Callable[[int], object],
    ) -> None:
        # Raw: a server that labels a .tar.gz "Content-Encoding: gzip" must not have it unpacked.
        chunk = response.raw.read(_CHUNK, decode_content=False)
        if start == 0:
            if not chunk:
                raise _TryAgain("the server sends an empty answer")
            if not GZIP_MAGIC.startswith(chunk[: len(GZIP_MAGIC)]):
                kind = response.headers.get("Content-Type", "no type given")
                raise FetchError(f"no archive but something else ({kind}) at {response.url}")
            _begin(part, response)
        with part.open("ab") as file:
            while chunk:
                if self.stop.is_set():
                    raise Stopped
                start += len(chunk)
                if start > max_bytes:
                    part.unlink()
                    raise FetchError(f"more than {max_bytes:,} bytes and no end ({response.url})")
                file.write(chunk)
                progress(start)
                chunk = response.raw.read(_CHUNK, decode_content=False)


def size(path: Path) -> int:
    """Bytes of a file, 0 if there is none."""
    return path.stat().st_size if path.is_file() else 0


def _validator_file(part: Path) -> Path:
    return part.with_name(part.name + ".validator")


def _headers(part: Path) -> dict[str, str]:
    headers = {"Accept-Encoding": "identity", "User-Agent": f"fcd/{__version__}"}
    if start := size(part):
        headers["Range"] = f"bytes={start}-"
        if _validator_file(part).exists():  # without it the gzip checksum still finds a mixture
            headers["If-Range"] = _validator_file(part).read_text(encoding="latin-1")
    return headers


def _placing(response: requests.Response, part: Path) -> tuple[int, int | None]:
    """Return the byte at which the body goes into the file, and the whole size if known."""
    status, start = response.status_code, size(part)
    if status == 200:
        length = response.headers.get("Content-Length", "")
        return 0, int(length) if length.isdecimal() else None
    if status in (206, 416):
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        begin, total = match.groups() if match else (None, "*")
        # 416 with the size we have: only the renaming was missing.
        if begin == str(start) if status == 206 else total == str(start):
            return start, None if total == "*" else int(total)
        part.unlink(missing_ok=True)
        raise _TryAgain("the server cannot continue the partial file")
    reason = f"the server answers {status} {response.reason}"
    if status in _TRY_AGAIN:
        raise _TryAgain(reason, _retry_after(response))
    raise FetchError(f"{reason} ({response.url})")


def _retry_after(response: requests.Response) -> float:
    """Seconds the server asks to wait (Retry-After: seconds or a date), 0 if it does not."""
    try:
        return urllib3.Retry().parse_retry_after(response.headers.get("Retry-After", "0"))
    except (urllib3.exceptions.InvalidHeader, ValueError, OverflowError):
        return 0.0


def _begin(part: Path, response: requests.Response) -> None:
    """Start the partial file anew, and note which version of the file it will be a part of."""
    part.unlink(missing_ok=True)
    _validator_file(part).unlink(missing_ok=True)
    etag = response.headers.get("ETag", "")
    # A weak ETag must not be used with If-Range (RFC 9110, 13.1.5).
    if validator := etag if etag.startswith('"') else response.headers.get("Last-Modified"):
        write_text(_validator_file(part), validator)


def _verify(part: Path, total: int | None, md5: str | None) -> None:
    if total is not None and size(part) != total:
        raise _TryAgain(f"only {size(part):,} of {total:,} bytes arrived")
    if md5:
        digest = hashlib.md5(usedforsecurity=False)
        with part.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        if (found := digest.hexdigest()) != md5:
            part.unlink(missing_ok=True)
            raise _TryAgain(f"the checksum is {found}, not {md5}")
