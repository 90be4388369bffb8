import contextlib
from pathlib import Path

import numpy as np
import pytest

from fcd.landsat import archives
from fcd.landsat.archives import ArchiveError
from tests.download.shipped import (
    BARREN,
    HOSTILE,
    NESTED,
    contents,
    member,
    scene_files,
    scene_members,
    tar,
    tree,
)


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
