"""Archives as USGS ships them, small ones, and hostile ones."""

import io
import tarfile

import numpy as np
import rasterio
from rasterio.transform import Affine

from fcd.landsat import biome

BARREN, FOREST = ("LC80420082013220LGN00", "LC80160502014041LGN00")
NESTED = "LC81490122013218LGN00"
ENTRIES = {entry.scene: entry for entry in biome.entries()}


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


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


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
