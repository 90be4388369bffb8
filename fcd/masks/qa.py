"""The scene's own quality band as a mask: the rule-based baseline."""

from collections.abc import Iterator

from fcd.landsat import labels
from fcd.landsat.bands import FILL_DN, RGB_BANDS
from fcd.landsat.reference import collection_of, mask_from_qa
from fcd.landsat.scenes import Scene
from fcd.masks.scoring import Prediction


def predictions(scene: Scene, rows: int = 512) -> Iterator[Prediction]:
    """The mask of the scene's own quality band, `rows` rows at a time."""
    collection = collection_of(scene)
    with scene.open() as reader:
        for row in range(0, reader.grid.height, rows):
            stop = min(row + rows, reader.grid.height)
            dn = reader.bands(row, stop)
            mask = mask_from_qa(reader.qa(row, stop), collection)
            mask[(dn == FILL_DN).any(axis=0)] = labels.INVALID
            yield Prediction(row, dn[list(RGB_BANDS)], mask, None)
