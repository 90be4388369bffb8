import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

import download_landsat8_biome
from fcd.download import downloader, fetch
from fcd.download.downloader import Downloader, Source
from fcd.errors import UserError
from fcd.files import locked
from fcd.landsat import archives, biome
from fcd.landsat.scenes import find_scenes
from tests.conftest import ROOT
from tests.download.server import faults, fetcher, header
from tests.download.shipped import (
    BARREN,
    ENTRIES,
    FOREST,
    HOSTILE,
    contents,
    scene_files,
    scene_members,
    tar,
    tree,
)


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
