import hashlib
import time
from email.utils import formatdate
from types import SimpleNamespace

import pytest

from fcd.download import fetch
from fcd.download.fetch import FetchError, Stopped
from tests.download.server import faults, fetch_one, fetcher, header
from tests.download.shipped import BARREN, FOREST, contents, tree


@pytest.mark.parametrize(
    "misbehaviour",
    [
        [],
        ["redirect"],
        ["cut"],
        ["cut", "cut", "cut", "cut", "cut", "cut"],  # more than `retries`, but each with progress
        ["cut", "no range"],
        ["cut", "wrong range"],
        ["too long"],
        ["unknown length"],
        ["503 0", "429 0"],
        ["cut", "503 0"],
    ],
    ids=", ".join,
)
def test_fetch_ends_with_the_whole_file(server, tmp_path, payloads, misbehaviour):
    faults(server, *misbehaviour)
    fetch_one(server, tmp_path / "a.tar.gz")
    assert contents(tmp_path) == {"a.tar.gz": payloads[BARREN]}


def test_cut_connection_is_resumed_not_repeated(server, tmp_path, payloads):
    faults(server, "cut")
    seen = []
    fetch_one(server, tmp_path / "a.tar.gz", progress=lambda *there: seen.append(there))
    half = len(payloads[BARREN]) // 2
    assert header(server, "Range") == [None, f"bytes={half}-"]
    assert header(server, "If-Range") == [None, '"v1"']
    assert seen == sorted(seen)
    assert seen[-1] == (len(payloads[BARREN]), len(payloads[BARREN]))


def test_partial_file_of_an_earlier_run_is_continued(server, tmp_path, payloads):
    (tmp_path / "a.tar.gz.part").write_bytes(payloads[BARREN][:1000])
    fetch_one(server, tmp_path / "a.tar.gz")
    assert header(server, "Range") == ["bytes=1000-"]
    assert contents(tmp_path) == {"a.tar.gz": payloads[BARREN]}


def test_complete_partial_file_only_lacks_its_name(server, tmp_path, payloads):
    (tmp_path / "a.tar.gz.part").write_bytes(payloads[BARREN])
    fetch_one(server, tmp_path / "a.tar.gz")
    assert contents(tmp_path) == {"a.tar.gz": payloads[BARREN]}


def test_file_that_changed_on_the_server_is_begun_anew(server, tmp_path, payloads):
    faults(server, "cut", "404")
    with pytest.raises(FetchError, match="404"):
        fetch_one(server, tmp_path / "a.tar.gz")
    server.payloads[BARREN], server.etag = payloads[FOREST], '"v2"'
    fetch_one(server, tmp_path / "a.tar.gz")
    assert header(server, "If-Range")[-1] == '"v1"'
    assert contents(tmp_path) == {"a.tar.gz": payloads[FOREST]}


@pytest.mark.parametrize(
    ("misbehaviour", "message", "requests"),
    [
        (["404"], "404 Not Found", 1),
        (["html"], r"no archive but something else \(text/html\)", 1),
        (["503 0"] * 9, "503 Service Unavailable", 4),
        (["cut no range"] * 9, r"the connection was cut \(attempts without progress: 4; ", 4),
    ],
)
def test_fetch_gives_up_with_a_reason(server, tmp_path, misbehaviour, message, requests):
    faults(server, *misbehaviour)
    with pytest.raises(FetchError, match=message):
        fetch_one(server, tmp_path / "a.tar.gz")
    assert len(server.requests) == requests
    assert not (tmp_path / "a.tar.gz").exists()


def test_stalling_server_is_given_up_and_resumed(server, tmp_path, payloads):
    faults(server, "stall")
    fetch_one(server, tmp_path / "a.tar.gz", settings=fetcher(timeout=0.2))
    assert header(server, "Range") == [None, f"bytes={fetch._CHUNK}-"]
    assert contents(tmp_path) == {"a.tar.gz": payloads[BARREN]}


def test_endless_answer_is_cut_off(server, tmp_path):
    for fault in ("", "unknown length"):
        faults(server, fault)
        with pytest.raises(FetchError, match="bytes"):
            fetch_one(server, tmp_path / "a.tar.gz", max_bytes=70_000)
        assert tree(tmp_path) in ([], ["a.tar.gz.part.validator"])


def test_checksum(server, tmp_path, payloads):
    md5 = hashlib.md5(payloads[BARREN], usedforsecurity=False).hexdigest()
    faults(server, "flip")
    fetch_one(server, tmp_path / "a.tar.gz", md5=md5)
    assert len(server.requests) == 2
    assert contents(tmp_path) == {"a.tar.gz": payloads[BARREN]}
    with pytest.raises(FetchError, match=f"the checksum is {md5}, not 0"):
        fetch_one(server, tmp_path / "b.tar.gz", md5="0" * 32)
    assert tree(tmp_path) == ["a.tar.gz", "b.tar.gz.part.validator"]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("17", 17), (100, 100), (-100, 0), ("soon", 0), ("", 0)],
)
def test_retry_after(value, seconds):
    if isinstance(value, int):  # a date, so many seconds from now
        value = formatdate(time.time() + value, usegmt=True)
    response = SimpleNamespace(headers={"Retry-After": value})
    assert fetch._retry_after(response) == pytest.approx(seconds, abs=5)


def test_retry_after_is_waited_for(server, tmp_path):
    faults(server, "503 1")
    began = time.monotonic()
    fetch_one(server, tmp_path / "a.tar.gz")
    assert time.monotonic() - began >= 1


def test_stop_keeps_the_partial_file(server, tmp_path, payloads):
    settings = fetcher()
    with pytest.raises(Stopped):
        fetch_one(
            server, tmp_path / "a.tar.gz", settings=settings,
            progress=lambda *_: settings.stop.set(),
        )  # fmt: skip
    part = (tmp_path / "a.tar.gz.part").read_bytes()
    assert part
    assert payloads[BARREN].startswith(part)


def test_dead_server_costs_the_retries_only_once(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    settings = fetcher(retries=2)
    for attempts in (3, 1):
        with pytest.raises(FetchError, match=f"no connection .*progress: {attempts};"):
            settings.fetch("http://127.0.0.1:9/a", tmp_path / "a", max_bytes=1)
