import contextlib
import dataclasses
import hashlib
import io
import os
import re
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections import defaultdict
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine

import download_landsat8_biome
from fcd.download import downloader, fetch
from fcd.download.downloader import Downloader, Source
from fcd.download.fetch import Fetcher, FetchError, Stopped
from fcd.errors import UserError
from fcd.files import locked
from fcd.landsat import archives, biome
from fcd.landsat.archives import ArchiveError
from fcd.landsat.scenes import find_scenes
from tests.conftest import ROOT

BARREN, FOREST = ("LC80420082013220LGN00", "LC80160502014041LGN00")
NESTED = "LC81490122013218LGN00"
ENTRIES = {entry.scene: entry for entry in biome.entries()}


# ---------------------------------------------------------------- archives as USGS ships them


def raster(pixels, driver):
    with rasterio.MemoryFile() as memory:
        height, width = pixels.shape
        with memory.open(
            driver=driver, height=height, width=width, count=1, dtype=pixels.dtype,
            crs="EPSG:32633", transform=Affine(30, 0, 0, 0, -30, 0),
        ) as dataset:  # fmt: skip
            dataset.write(pixels, 1)
        return memory.read()


def scene_files(scene, size=8):
    """File name -> bytes, as in the real archives; noise, so that they do not compress away."""
    rng = np.random.default_rng(int(scene[3:16]))
    files = {}
    for band in range(1, 12):
        side = 2 * size if band == 8 else size
        pixels = rng.integers(1, 65535, (side, side), np.uint16)
        files[f"{scene}_B{band}.TIF"] = raster(pixels, "GTiff")
    files[f"{scene}_BQA.TIF"] = raster(np.full((size, size), 20480, np.uint16), "GTiff")
    files[f"{scene}_MTL.txt"] = b"GROUP = L1_METADATA_FILE\nEND\n"
    files[f"{scene}_fixedmask.img"] = np.full((size, size), 128, np.uint8).tobytes()
    files[f"{scene}_fixedmask.hdr"] = (
        f"ENVI\nsamples = {size}\nlines = {size}\nbands = 1\nheader offset = 0\n"
        "file type = ENVI Standard\ndata type = 1\ninterleave = bsq\nbyte order = 0\n"
    ).encode()
    return files


def member(name, content=b"", **attributes):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in attributes.items():
        setattr(info, key, value)
    return info, content


def tar(members, mode="w:gz"):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def scene_members(scene, files=None):
    yield member("BC/", type=tarfile.DIRTYPE)
    yield member(f"BC/{scene}/", type=tarfile.DIRTYPE)
    for name, content in (files or scene_files(scene)).items():
        yield member(f"BC/{scene}/{name}", content)


@pytest.fixture(scope="module")
def payloads():
    return {scene: tar(scene_members(scene, scene_files(scene, 128))) for scene in (BARREN, FOREST)}


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# ---------------------------------------------------------------- a server that can misbehave


class Handler(BaseHTTPRequestHandler):
    """Serves `server.payloads`; `server.faults[path]` lists what to do wrong next."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.server.requests.append((self.path, dict(self.headers)))
        faults = self.server.faults[self.path]
        fault = faults.pop(0) if faults else ""
        payload = self.server.payloads.get(Path(self.path).name.split(".")[0])
        if payload is None or fault == "404":
            self.send_error(404)
        elif fault.startswith(("429", "503")):
            status, retry_after = fault.split(" ", 1)
            self.answer(int(status), b"later", {"Retry-After": retry_after})
        elif fault == "html":
            self.answer(200, b"<html>moved</html>", {"Content-Type": "text/html"})
        elif fault == "redirect":
            self.answer(302, b"", {"Location": self.path.replace("/mirror", "/elsewhere")})
        else:
            self.send_payload(payload, fault)

    def answer(self, status, body, headers=None, length=None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if length != "unknown":
            self.send_header("Content-Length", str(length or len(body)))
        self.end_headers()
        self.wfile.write(body)

    def send_payload(self, payload, fault):
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(wanted[1]) if wanted else 0
        headers = {"ETag": self.server.etag, "Content-Encoding": "x-gzip"}
        changed = self.headers.get("If-Range", self.server.etag) != self.server.etag
        if not wanted or changed or "no range" in fault:
            status, start = 200, 0
        elif start >= len(payload):
            return self.answer(416, b"", {"Content-Range": f"bytes */{len(payload)}"})
        else:
            status, end = 206, len(payload)
            begin = 0 if "wrong range" in fault else start
            headers["Content-Range"] = f"bytes {begin}-{end - 1}/{end}"
        body, length = payload[start:], None
        if "flip" in fault:
            body = body[:-20] + bytes([body[-20] ^ 1]) + body[-19:]
        if "cut" in fault:
            length, body = len(body), body[: len(body) // 2]
        if "too long" in fault:
            length = len(body) + 1000
        if "unknown length" in fault:
            length = "unknown"
        if "stall" in fault:
            self.answer(status, body[:100_000], headers, len(body))
            return self.server.released.wait(10)
        return self.answer(status, body, headers, length)


@pytest.fixture
def server(payloads, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.payloads, running.etag = dict(payloads), '"v1"'
        running.faults, running.requests = defaultdict(list), []
        running.released = threading.Event()
        running.url = f"http://127.0.0.1:{running.server_port}/mirror"
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield running
        running.released.set()
        running.shutdown()
        thread.join()


def fetcher(timeout=5, retries=3):
    return Fetcher(timeout=timeout, retries=retries, stop=threading.Event(), backoff=0.01)


def fetch_one(server, path, scene=BARREN, settings=None, **options):
    options.setdefault("max_bytes", 10**8)
    (settings or fetcher()).fetch(f"{server.url}/{scene}.tar.gz", path, **options)


def faults(server, *names, scene=BARREN):
    server.faults[f"/mirror/{scene}.tar.gz"].extend(names)


def header(server, name):
    return [headers.get(name) for _, headers in server.requests]


# ---------------------------------------------------------------- fetching one file


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


# ---------------------------------------------------------------- unpacking


def unpack(tmp_path, data, limit=10**7):
    archive, folder = tmp_path / "in" / "scene.tar.gz", tmp_path / "out"
    archive.parent.mkdir()
    folder.mkdir()
    archive.write_bytes(data)
    archives.unpack(archive, folder, limit=limit)
    return folder


def test_unpack_gives_the_files_without_their_folders(tmp_path):
    files = scene_files(BARREN)
    assert contents(unpack(tmp_path, tar(scene_members(BARREN, files)))) == files


def test_nested_archive_is_unpacked(tmp_path):
    files = scene_files(NESTED)
    names = sorted(files)
    inner = tar([member(name, files[name]) for name in names[4:]], mode="w")
    outer = [member(f"BC/{NESTED}/{name}", files[name]) for name in names[:8]]
    folder = unpack(tmp_path, tar([*outer, member(f"BC/{NESTED}/{NESTED}.tar", inner)]))
    assert contents(folder) == files


LINK = {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}
HOSTILE = {
    "parent": [member("../escaped.txt", b"x")],
    "hidden parent": [member("BC/../../escaped.txt", b"x")],
    "absolute": [member("/tmp/escaped.txt", b"x")],
    "backslash": [member("..\\escaped.txt", b"x")],
    "symlink": [member("BC/link", **LINK)],
    "symlink and file through it": [
        member("BC", type=tarfile.SYMTYPE, linkname=".."),
        member("BC/escaped.txt", b"x"),
    ],
    "hardlink": [member("BC/link", type=tarfile.LNKTYPE, linkname="../../etc/passwd")],
    "character device": [member("BC/null", type=tarfile.CHRTYPE, devmajor=1, devminor=3)],
    "block device": [member("BC/disk", type=tarfile.BLKTYPE)],
    "pipe": [member("BC/pipe", type=tarfile.FIFOTYPE)],
    "bomb": [member("BC/a.TIF", bytes(20_000_000))],
    "many small bombs": [member(f"BC/{i}.TIF", bytes(1_000_000)) for i in range(20)],
    "many files": [member(f"BC/{i}.TIF") for i in range(1001)],
    "nested": [member("BC/a.tar", tar([member("../escaped.txt", b"x")], mode="w"))],
    "nested bomb": [member("a.tar", tar([member("b.TIF", bytes(20_000_000))]))],
    "huge header": [member("BC/a.TIF", pax_headers={"comment": "x" * 20_000_000})],
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_archive_writes_nothing_outside(tmp_path, kind):
    data = tar(HOSTILE[kind])
    with pytest.raises(ArchiveError, match=r"scene\.tar\.gz|a\.tar"):
        unpack(tmp_path, data)
    written = sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    assert written <= 10**7
    assert not any(path.is_symlink() for path in (tmp_path / "out").iterdir())
    assert [path for path in tree(tmp_path) if not path.startswith("out")] == ["in/scene.tar.gz"]
    assert not Path("/tmp/escaped.txt").exists()


def test_names_that_are_not_plain_are_left_out(tmp_path):
    odd = [
        member("BC/._LC8_B1.TIF", b"x"),
        member("BC/a\nb", b"x"),
        member("BC/" + "n" * 250, b"x"),
    ]
    assert tree(unpack(tmp_path, tar([*odd, member("BC/good.TIF", b"x")]))) == ["good.TIF"]


def test_damaged_archive_is_found_wherever_the_damage_is(tmp_path):
    data = tar(scene_members(BARREN))
    folder, archive = tmp_path / "out", tmp_path / "scene.tar.gz"
    folder.mkdir()
    rng = np.random.default_rng(0)
    damaged = [data[:end] for end in rng.integers(0, len(data), 40)]
    damaged += [data[:-1], data + tar([member("more", bytes(2_000_000))])]
    for place in rng.integers(10, len(data), 150):  # the gzip header's date and name do not count
        damaged.append(
            data[:place] + bytes([data[place] ^ rng.integers(1, 256)]) + data[place + 1 :]
        )
    for broken in damaged:
        archive.write_bytes(broken)
        with pytest.raises(ArchiveError):
            archives.unpack(archive, folder, limit=10**7)
        for path in folder.iterdir():
            path.unlink()


def test_forged_tar_headers_end_in_our_error_or_in_plain_files(tmp_path):
    plain = tar(scene_members(BARREN), mode="w")
    folder, archive = tmp_path / "out", tmp_path / "scene.tar.gz"
    folder.mkdir()
    rng = np.random.default_rng(1)
    for _ in range(150):
        forged = bytearray(plain)
        start = 512 * rng.integers(0, 3)
        forged[start + rng.integers(0, 512)] = rng.integers(0, 256)
        head = (
            bytes(forged[start : start + 148]) + b" " * 8 + bytes(forged[start + 156 : start + 512])
        )
        forged[start + 148 : start + 156] = b"%06o\0 " % sum(head)  # a checksum that fits
        with archives.gzip.open(archive, "wb", compresslevel=0) as file:
            file.write(forged)
        with contextlib.suppress(ArchiveError):
            archives.unpack(archive, folder, limit=10**7)
        for path in folder.iterdir():
            assert path.is_file()
            path.unlink()
    assert tree(tmp_path) == ["scene.tar.gz"]


# ---------------------------------------------------------------- bringing scenes


@pytest.fixture
def out(tmp_path, monkeypatch):
    # The space check goes by the size of the real scenes, which a test machine need not have.
    usage = SimpleNamespace(free=10**12)
    monkeypatch.setattr(downloader.shutil, "disk_usage", lambda _: usage)
    return tmp_path / "with space and é" / "biome"


def bring(out, base_url, *scenes, **options):
    entries = [ENTRIES[scene] for scene in scenes]
    return Downloader(out, Source.parse(str(base_url)), fetcher(), **options).download(entries)


def local(tmp_path, **archives_by_scene):
    folder = tmp_path / "local"
    folder.mkdir(exist_ok=True)
    for scene, data in archives_by_scene.items():
        (folder / f"{scene}.tar.gz").write_bytes(data)
    return folder


def test_scenes_arrive_byte_for_byte_where_the_reader_finds_them(server, out):
    faults(server, "cut", "503 0")
    assert bring(out, server.url, BARREN, FOREST) == {}
    assert contents(out / "Barren" / BARREN) == scene_files(BARREN, 128)
    assert contents(out / "Forest" / FOREST) == scene_files(FOREST, 128)
    found = find_scenes(out)
    assert [(scene.biome, scene.name) for scene in found] == [
        ("Barren", BARREN),
        ("Forest", FOREST),
    ]
    assert [scene.check(need_truth=True).width for scene in found] == [128, 128]
    assert tree(out / ".download") == [".lock"]
    assert not (out / "archives").exists()


def test_complete_scene_is_skipped_wherever_it_lies(server, out, capsys):
    folder = out / "BC" / BARREN / BARREN
    folder.mkdir(parents=True)
    for name, content in scene_files(BARREN).items():
        (folder / name).write_bytes(content)
    assert bring(out, server.url, BARREN) == {}
    assert server.requests == []
    assert "1 of 1 scenes are already complete" in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["missing", "cut", "no header"])
def test_incomplete_scene_is_completed_in_its_folder(server, out, damage):
    folder = out / "BC" / BARREN
    folder.mkdir(parents=True)
    for name, content in scene_files(BARREN, 128).items():
        (folder / name).write_bytes(content)
    (folder / "notes.txt").write_text("mine")
    if damage == "missing":
        (folder / f"{BARREN}_B4.TIF").unlink()
    elif damage == "cut":
        (folder / f"{BARREN}_B4.TIF").write_bytes(b"II*\0")
    else:
        (folder / f"{BARREN}_fixedmask.hdr").unlink()
    assert bring(out, server.url, BARREN) == {}
    assert contents(folder) == {**scene_files(BARREN, 128), "notes.txt": b"mine"}
    assert not (out / "Barren").exists()


def test_one_failure_does_not_stop_the_others(server, out):
    faults(server, "404")
    failures = bring(out, server.url, BARREN, FOREST)
    assert list(failures) == [BARREN]
    assert "404 Not Found" in failures[BARREN]
    assert tree(out) == sorted(
        [".download/.lock", *(f"Forest/{FOREST}/{name}" for name in scene_files(FOREST))]
    )


def test_damaged_download_is_thrown_away_and_comes_right_next_time(server, out):
    faults(server, "flip")
    assert "is damaged" in bring(out, server.url, BARREN)[BARREN]
    assert tree(out) == [".download/.lock"]
    assert bring(out, server.url, BARREN) == {}
    assert contents(out / "Barren" / BARREN) == scene_files(BARREN, 128)


def test_archive_without_the_whole_scene_is_refused(tmp_path, out):
    files = scene_files(BARREN)
    del files[f"{BARREN}_B10.TIF"]
    folder = local(tmp_path, **{BARREN: tar(scene_members(BARREN, files))})
    assert "does not hold the whole scene: B10.TIF missing" in bring(out, folder, BARREN)[BARREN]
    assert tree(out) == [".download/.lock"]
    assert tree(folder) == [f"{BARREN}.tar.gz"]


@pytest.mark.parametrize("kind", ["parent", "absolute", "symlink", "hardlink", "many files"])
def test_hostile_archive_leaves_nothing(server, out, kind):
    server.payloads[BARREN] = tar([*scene_members(BARREN), *HOSTILE[kind]])
    assert bring(out, server.url, BARREN)[BARREN].startswith(f"{BARREN}.tar.gz holds ")
    assert tree(out.parent) == ["biome/.download/.lock"]


def test_unpacked_size_is_limited_by_the_listed_size(tmp_path, out, monkeypatch):
    small = dataclasses.replace(ENTRIES[BARREN], width=8, height=8, bytes=None)
    monkeypatch.setitem(ENTRIES, BARREN, small)
    folder = local(tmp_path, **{BARREN: tar(scene_members(BARREN, scene_files(BARREN, 64)))})
    assert "unpacks to more than the 5,952 bytes" in bring(out, folder, BARREN)[BARREN]
    assert tree(out) == [".download/.lock"]


def test_keep_archives_and_use_them_again(server, out, payloads):
    assert bring(out, server.url, BARREN, keep_archives=True) == {}
    assert contents(out / "archives") == {f"{BARREN}.tar.gz": payloads[BARREN]}
    (out / "Barren" / BARREN / f"{BARREN}_B2.TIF").unlink()
    assert bring(out, server.url, BARREN) == {}
    assert len(server.requests) == 1
    assert contents(out / "Barren" / BARREN) == scene_files(BARREN, 128)
    assert bring(out, out / "archives", BARREN) == {}  # they serve as --base_url, too


def test_killed_between_fetching_and_unpacking(server, out, payloads):
    work = out / ".download"
    (work / BARREN).mkdir(parents=True)
    (work / BARREN / f"{BARREN}_B1.TIF").write_bytes(b"half")
    (work / f"{BARREN}.tar.gz").write_bytes(payloads[BARREN])
    assert bring(out, server.url, BARREN) == {}
    assert server.requests == []
    assert contents(out / "Barren" / BARREN) == scene_files(BARREN, 128)
    assert tree(work) == [".lock"]


def test_full_disk_while_unpacking_keeps_the_archive(server, out, payloads, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(archives, "_copy_files", full)
    assert "No space left on device" in bring(out, server.url, BARREN)[BARREN]
    assert tree(out) == [".download/.lock", f".download/{BARREN}.tar.gz"]


def test_disk_too_small_is_said_before_any_work(server, out, monkeypatch):
    monkeypatch.setattr(downloader.shutil, "disk_usage", lambda _: SimpleNamespace(free=3 * 10**9))
    with pytest.raises(
        UserError, match=r"--output_dir .* 1 scenes need about 3\.4 GB, 3\.0 GB are"
    ):
        bring(out, server.url, BARREN)
    with pytest.raises(UserError, match=r"2 scenes need about"):
        bring(out, server.url, BARREN, FOREST)
    assert server.requests == []


def test_second_download_into_the_same_folder_is_refused(server, out):
    downloader = Downloader(out, Source(), fetcher())
    with (
        locked(out / ".download"),
        pytest.raises(UserError, match="another download runs there"),
    ):
        downloader.download([ENTRIES[BARREN]])


def test_base_url_forms(tmp_path):
    entry = ENTRIES[BARREN]
    assert Source.parse(None).url(entry) == entry.url
    assert Source.parse("https://a.b/c/").url(entry) == f"https://a.b/c/{BARREN}.tar.gz"
    folder = tmp_path / "a b"
    folder.mkdir()
    assert Source.parse(folder.as_uri()).folder == Source.parse(str(folder)).folder == folder
    with pytest.raises(UserError, match="--base_url ftp://a: no such folder; give an http"):
        Source.parse("ftp://a")


def test_select():
    assert len(downloader.select(None, None)) == 96
    assert {entry.biome for entry in downloader.select(["Urban", "Water"], None)} == {
        "Urban",
        "Water",
    }
    assert [entry.scene for entry in downloader.select(None, [FOREST, BARREN])] == [BARREN, FOREST]
    with pytest.raises(UserError, match="no scene is in both"):
        downloader.select(["Urban"], [BARREN])


# ---------------------------------------------------------------- the command


def run(*flags):
    command = [sys.executable, ROOT / "download_landsat8_biome.py", *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_command_brings_what_it_can_and_lists_the_rest(tmp_path, payloads):
    folder = local(tmp_path, **{BARREN: payloads[BARREN]})
    done = run("--output_dir", tmp_path / "o", "--base_url", folder, "--scenes", BARREN, FOREST)
    assert done.returncode == 1
    assert f"{FOREST}: no {FOREST}.tar.gz in {folder}" in done.stderr
    assert biome.PAGE in done.stderr
    assert biome.DOI in done.stderr
    assert "Traceback" not in done.stderr
    assert "1 of 2 scenes are in" in done.stdout
    assert contents(tmp_path / "o" / "Barren" / BARREN) == scene_files(BARREN, 128)


def test_command_refuses_bad_flags_in_one_line():
    done = run("--scenes", "LC8X")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: --scenes LC8X: not in the data set; ")
    assert done.stderr.count("\n") == 1


def test_output_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        UserError, match=r"--output_dir .*/o: cannot be .* \(Not a directory\); give"
    ):
        Downloader(tmp_path / "file" / "o", Source(), fetcher())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_command_stops_cleanly_and_goes_on(server, out, number, monkeypatch, capsys):
    faults(server, "stall")
    flags = ["--output_dir", str(out), "--base_url", server.url, "--scenes", BARREN]
    monkeypatch.setattr(sys, "argv", ["download", *flags])
    part = out / ".download" / f"{BARREN}.tar.gz.part"

    def interrupt():
        while not part.exists() or part.stat().st_size == 0:
            time.sleep(0.01)
        os.kill(os.getpid(), number)
        stops[0].wait(60)  # the command has noticed; only then does the server answer again
        server.released.set()

    stops = []

    def watched(**settings):
        stops.append(settings["stop"])
        return fetch.Fetcher(**settings)

    monkeypatch.setattr(downloader, "Fetcher", watched)

    threading.Thread(target=interrupt).start()
    # A test run in the background of a shell is born with SIGINT ignored.
    earlier = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert download_landsat8_biome.main() == 130
    finally:
        for signum, handler in earlier.items():
            signal.signal(signum, handler)
    assert "stopped; run the same command again to go on" in capsys.readouterr().err
    kept = part.stat().st_size
    assert 0 < kept < len(server.payloads[BARREN])
    assert bring(out, server.url, BARREN) == {}
    assert header(server, "Range") == [None, f"bytes={kept}-"]
    assert contents(out / "Barren" / BARREN) == scene_files(BARREN, 128)
