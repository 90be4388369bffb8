"""What says where the clouds of a scene are: its manual mask, or its own quality (QA) band.

Patches get their labels from one of the two, and masks are compared with the same one; a folder
of patches keeps to one. A QA band is no truth: it was computed from the scene, it flags bright
ground and misses thin cloud. What was learned or measured with it is named after it.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fcd.errors import SceneError, UserError
from fcd.landsat import qa
from fcd.landsat.rasters import Grid
from fcd.landsat.scenes import Scene, SceneReader

TRUTH, QA = "truth", "qa"
NAMES = {TRUTH: "manual masks", QA: "QA bands"}  # of the sources, in records and reports


@dataclass(frozen=True)
class Reference:
    """Where the clouds of `scene` are, according to `source`: `TRUTH` or `QA`."""

    scene: Scene
    source: str

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
        """The rows `start` to `stop` as (h, w) uint8 patch codes, or every `step`-th pixel.

        0 invalid, 1 clear, 2 cloud. Of a QA band: `fcd.landsat.qa.mask_from_qa`.
        """
        if self.source == TRUTH:
            return reader.truth(start, stop, step)
        return qa.mask_from_qa(reader.qa(start, stop, step), self._collection)

    @cached_property
    def _collection(self) -> qa.Collection:
        try:
            return qa.collection_of(self.scene)
        except UserError as error:  # metadata that cannot be read spoil this scene alone
            raise SceneError(str(error)) from error
