"""The files of patches, read and written fast, against tifffile and GDAL."""

import sys
import zlib

import numpy as np
import pytest
import rasterio
import tifffile
from rasterio.errors import NotGeoreferencedWarning

from fcd.patches import store
from fcd.patches.store import DamagedPatch, PatchReader


@pytest.fixture
def arrays():
    """Three images that differ in pixels alone, one of the same size all in one value, a mask."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 65536, (8, 12, 10)).astype(np.uint16) for _ in range(3)]
    return [*images, np.full((8, 12, 10), 7, np.uint16), rng.integers(0, 3, (8, 12)).astype("u1")]


def test_what_is_written_is_what_tifffile_writes(tmp_path, arrays):
    for array in arrays:
        store.write(tmp_path / "ours.tif", array)
        tifffile.imwrite(
            tmp_path / "theirs.tif",
            array,
            photometric="minisblack",
            planarconfig="contig" if array.ndim == 3 else None,
            metadata={"crc32": f"{zlib.crc32(array):08x}"},
        )
        assert (tmp_path / "ours.tif").read_bytes() == (tmp_path / "theirs.tif").read_bytes()
    store.write(tmp_path / "turned.tif", arrays[0].transpose(1, 0, 2))
    assert (tifffile.imread(tmp_path / "turned.tif") == arrays[0].transpose(1, 0, 2)).all()


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize(
    "how",
    [{}, {"byteorder": ">"}, {"compression": "zlib"}, {"tile": (16, 16)}, {"rowsperstrip": 2},
     {"planarconfig": "separate"}, {"bigtiff": True}, {"software": "x" * 13}],
    ids=str,
)  # fmt: skip
def test_tifs_of_others_are_read_as_tifffile_reads_them(tmp_path, arrays, how):
    read, parsed = PatchReader(), 0
    for number, array in enumerate(arrays):
        path = tmp_path / f"{number}.tif"
        if how.get("planarconfig") and array.ndim == 3:
            array = np.ascontiguousarray(array.transpose(2, 0, 1))
        elif how.get("planarconfig"):
            continue
        tifffile.imwrite(path, array, photometric="minisblack", **how)
        for _ in range(2):
            ours = read(path, array.ndim)
            assert ours.dtype == array.dtype
            assert (ours == array).all()
            assert ours.flags.writeable
            parsed += 1
    assert parsed >= 8


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_gdal_and_tifs_of_several_pages(tmp_path, arrays):
    read = PatchReader()
    profile = {"driver": "GTiff", "height": 8, "width": 12, "count": 10, "dtype": "uint16"}
    for number, array in enumerate(arrays[:3]):
        path = tmp_path / f"{number}.tif"
        with (
            pytest.warns(NotGeoreferencedWarning),
            rasterio.open(path, "w", **profile, interleave="pixel") as dataset,
        ):
            dataset.write(array.transpose(2, 0, 1))
        assert (read(path, 3) == array).all()
        tifffile.imwrite(path, arrays[4], photometric="minisblack")
        tifffile.imwrite(path, array[..., 0], photometric="minisblack", append=True)
        assert (read(path, 2) == tifffile.imread(path)).all()


def test_files_of_one_length_are_not_taken_for_one_another(tmp_path):
    """Eight rows of four pixels are as long as four rows of eight."""
    read = PatchReader()
    for shape in ((8, 4, 10), (4, 8, 10), (8, 4, 10)):
        array = np.random.default_rng(0).integers(0, 99, shape).astype(np.uint16)
        tifffile.imwrite(tmp_path / "a.tif", array, photometric="minisblack", metadata=None)
        assert read(tmp_path / "a.tif", 3).shape == shape


def test_the_other_byte_order_is_no_layout_even_if_the_first_pixels_do_not_tell(tmp_path):
    read, other = PatchReader(), ">" if sys.byteorder == "little" else "<"
    for value in (0, 1):
        array = np.full((4, 4, 3), value, np.uint16)
        tifffile.imwrite(
            tmp_path / "a.tif",
            array,
            byteorder=other,
            photometric="minisblack",
            planarconfig="contig",
        )
        assert (read(tmp_path / "a.tif", 3) == value).all()


def test_only_the_first_of_its_kind_is_parsed(tmp_path, arrays, monkeypatch):
    read = PatchReader()
    for number, array in enumerate(arrays):
        store.write(tmp_path / f"{number}.tif", array)
    read(tmp_path / "0.tif", 3)
    monkeypatch.setattr(tifffile, "TiffFile", None)
    for number in (1, 2, 3):
        assert (read(tmp_path / f"{number}.tif", 3) == arrays[number]).all()
    with pytest.raises(DamagedPatch, match="not callable"):
        read(tmp_path / "4.tif", 2)


def test_a_flipped_bit_is_noticed_without_parsing(tmp_path, arrays, monkeypatch):
    read, path = PatchReader(), tmp_path / "a.tif"
    store.write(path, arrays[0])
    read(path, 3)
    content = bytearray(path.read_bytes())
    content[-5] ^= 4
    path.write_bytes(content)
    monkeypatch.setattr(tifffile, "TiffFile", None)
    with pytest.raises(DamagedPatch, match=r"a\.tif is damaged \(its pixels differ"):
        read(path, 3)


@pytest.mark.parametrize("length", [0, 60, 320, 500])
def test_a_file_cut_off_is_an_error(tmp_path, arrays, length):
    read, path = PatchReader(), tmp_path / "a.tif"
    store.write(path, arrays[0])
    read(path, 3)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(DamagedPatch):
        read(path, 3)
