"""What says where the clouds of a scene are: its manual mask, or its own quality (QA) band.

A folder of patches keeps to one of the two, and masks are compared with the same. A QA band is no
truth: it was computed from the scene, it flags bright ground and misses thin cloud.

Each generation of Landsat products packs the QA band differently (`BITS`):

- pre-collection BQA, the generation of L8 Biome: the Level-1 assessment of its day, not CFMask.
  https://landsat.usgs.gov/L8QualityAssessmentBand.php
- Collection 1 BQA: CFMask. https://www.usgs.gov/core-science-systems/nli/landsat/
  landsat-collection-1-level-1-quality-assessment-band
- Collection 2 QA_PIXEL: CFMask. https://www.usgs.gov/core-science-systems/nli/landsat/
  landsat-collection-2-quality-assessment-bands

CFMask: Foga et al. 2017, doi 10.1016/j.rse.2017.03.026.
"""

import re
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import NamedTuple

import numpy as np

from fcd.errors import SceneError
from fcd.files import file_digest
from fcd.landsat import labels
from fcd.landsat.rasters import Grid
from fcd.landsat.scenes import File, Scene, SceneReader

TRUTH, QA = "truth", "qa"
NAMES = {TRUTH: "manual masks", QA: "QA bands"}  # of the sources, in records and reports
# Of a two-bit confidence (not determined, low, medium, high; no, maybe, yes before the collections)
MEDIUM, HIGH = 2, 3


class Collection(Enum):
    """A generation of Landsat products."""

    PRE = "pre-collection"
    ONE = "Collection 1"
    TWO = "Collection 2"


class Field(NamedTuple):
    """A field of the QA band: `width` bits from bit `shift` on; bit 0 is the lowest."""

    shift: int
    width: int = 1

    def read(self, qa: np.ndarray) -> np.ndarray:
        """The values of this field in `qa` (h, w) uint16, of the same shape and type."""
        return (qa >> self.shift) & (2**self.width - 1)


BITS = {
    Collection.PRE: {
        "fill": Field(0), "dropped frame": Field(1), "terrain occlusion": Field(2),
        "water confidence": Field(4, 2), "shadow confidence": Field(6, 2),
        "snow confidence": Field(10, 2), "cirrus confidence": Field(12, 2),
        "cloud confidence": Field(14, 2),
    },
    Collection.ONE: {
        "fill": Field(0), "terrain occlusion": Field(1), "saturation": Field(2, 2),
        "cloud": Field(4), "cloud confidence": Field(5, 2), "shadow confidence": Field(7, 2),
        "snow confidence": Field(9, 2), "cirrus confidence": Field(11, 2),
    },
    Collection.TWO: {
        "fill": Field(0), "dilated cloud": Field(1), "cirrus": Field(2), "cloud": Field(3),
        "shadow": Field(4), "snow": Field(5), "clear": Field(6), "water": Field(7),
        "cloud confidence": Field(8, 2), "shadow confidence": Field(10, 2),
        "snow confidence": Field(12, 2), "cirrus confidence": Field(14, 2),
    },
}  # fmt: skip

_BY_NUMBER = {"01": Collection.ONE, "02": Collection.TWO}  # COLLECTION_NUMBER
# LC08_L1TP_<path, row>_<acquired>_<processed>_<collection>_<tier>; older scenes have no such name.
_PRODUCT_ID = re.compile(r"L\w\d\d_\w{4}_\d{6}_\d{8}_\d{8}_(?P<number>\d\d)_")


def collection_of(scene: Scene) -> Collection:
    """The generation of `scene`: from its metadata, else its name, else its QA file's name.

    Raises `SceneError` if it has no QA band, or of another generation, or damaged metadata.
    """
    metadata = scene.metadata()
    product = _PRODUCT_ID.match(metadata.get("LANDSAT_PRODUCT_ID", scene.name))
    number = metadata.get("COLLECTION_NUMBER") or (product and product["number"])
    if number is None:
        collection = Collection.TWO if "QA_PIXEL" in scene.files else Collection.PRE
    elif number in _BY_NUMBER:
        collection = _BY_NUMBER[number]
    else:
        raise SceneError(f"{scene.where}: collection {number} is unknown, known are 01 and 02")
    part = "QA_PIXEL" if collection is Collection.TWO else "BQA"
    if (qa := scene.qa) is None:
        raise SceneError(f"{scene.where}: no quality band {scene.name}_{part}.TIF")
    if qa != scene.files.get(part):
        raise SceneError(f"{scene.where}: {qa.name} is not the {part} band of {collection.value}")
    return collection


def method_name(collection: Collection) -> str:
    """What a mask of this collection's QA band is called in reports."""
    return "QA band" if collection is Collection.PRE else "CFMask"


def mask_from_qa(qa: np.ndarray, collection: Collection) -> np.ndarray:
    """QA band (h, w) uint16 -> patch codes (h, w) uint8: 0 invalid, 1 clear, 2 cloud.

    Cloud is medium or high confidence of cloud or cirrus in the pre-collection band, and what
    CFMask calls cloud, or cirrus of high confidence, in the later ones. Not determined is clear:
    the band does not say cloud. Fill and dropped frames are invalid, and so is the rim that
    Collection 2 dilates clouds by, where it is no cloud: it is for masking, no statement.
    """
    value = {name: field.read(qa) for name, field in BITS[collection].items()}
    invalid = value["fill"] == 1
    if collection is Collection.PRE:
        cloud = (value["cloud confidence"] >= MEDIUM) | (value["cirrus confidence"] >= MEDIUM)
        invalid |= value["dropped frame"] == 1
    elif collection is Collection.ONE:
        cloud = (value["cloud"] == 1) | (value["cirrus confidence"] == HIGH)
    else:
        cloud = (value["cloud"] == 1) | (value["cirrus"] == 1)
        invalid |= (value["dilated cloud"] == 1) & ~cloud
    codes = np.where(cloud, labels.CLOUD, labels.CLEAR)
    return np.where(invalid, labels.INVALID, codes).astype(np.uint8)


@dataclass(frozen=True)
class Reference:
    """Where the clouds of `scene` are, according to `source`: `TRUTH` or `QA`."""

    scene: Scene
    source: str

    @property
    def file(self) -> File | None:
        """What it is read from, if there is such a file."""
        return self.scene.truth if self.source == TRUTH else self.scene.qa

    def digest(self) -> str:
        """That of the file's contents; empty if there is no file."""
        return file_digest(self.file) if self.file else ""

    def check(self) -> Grid:
        """Return the scene's grid, or raise `SceneError` with everything that is wrong."""
        if self.source == TRUTH:
            return self.scene.check(need_truth=True)
        grid = self.scene.check(need_qa=True)
        _ = self._collection
        return grid

    def mask(
        self, reader: SceneReader, start: int = 0, stop: int | None = None, step: int = 1
    ) -> np.ndarray:
        """The rows `start` to `stop`, or every `step`-th pixel, as (h, w) uint8 patch codes."""
        if self.source == TRUTH:
            return reader.truth(start, stop, step)
        return mask_from_qa(reader.qa(start, stop, step), self._collection)

    @cached_property
    def _collection(self) -> Collection:
        return collection_of(self.scene)
