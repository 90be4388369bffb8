"""The 96 scenes of the Landsat-8 Biome data set, twelve of each biome, as `PAGE` lists them."""

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

BIOMES = ("Barren", "Forest", "GrassCrops", "Shrubland", "SnowIce", "Urban", "Water", "Wetlands")
PAGE = "https://www.usgs.gov/landsat-missions/landsat-8-cloud-cover-assessment-validation-data"
DOI = "https://doi.org/10.5066/F7251GDH"

# Bytes a scene unpacks to, per pixel of a 30 m band: ten of these and the quality band of two
# bytes each, B8 with four times the pixels, the manual mask of one byte.
_BYTES_PER_PIXEL = 11 * 2 + 4 * 2 + 1


@dataclass(frozen=True)
class Entry:
    """One scene of the list."""

    biome: str
    scene: str
    width: int  # of a 30 m band, in pixels
    height: int
    bytes: int | None  # of the archive, as seen in 2018: an estimate, no check of a download
    url: str
    md5: str | None  # of the archive, None where it is not known

    @property
    def unpacked_bytes(self) -> int:
        """Size of the unpacked scene, estimated from its pixels (true to a few per cent)."""
        return _BYTES_PER_PIXEL * self.width * self.height

    @property
    def archive_bytes(self) -> int:
        """Size of the archive: that of 2018, else half of what it unpacks to."""
        return self.bytes or self.unpacked_bytes // 2


@cache
def entries() -> tuple[Entry, ...]:
    """All 96 scenes, sorted by biome and scene."""
    text = (files("fcd.landsat") / "landsat8_biome.csv").read_text(encoding="utf-8")
    return tuple(
        Entry(biome, scene, int(width), int(height), int(size) if size else None, url, md5 or None)
        for biome, scene, width, height, size, url, md5 in list(csv.reader(text.splitlines()))[1:]
    )


@cache
def biomes() -> dict[str, str]:
    """Scene id -> biome, for the 96 scenes."""
    return {entry.scene: entry.biome for entry in entries()}
