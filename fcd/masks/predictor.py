"""What masks scenes: a trained method with everything chosen, and the tags that say so."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import fcd
from fcd.landsat.bands import in_files
from fcd.landsat.rasters import WRITTEN_BY
from fcd.landsat.scenes import Scene
from fcd.masks.scoring import PLAIN, ArrayScene, Prediction, Scorer, Tiles, Way, predictions
from fcd.patches.normalisation import as_nodata, in_words


@dataclass(frozen=True)
class Predictor:
    """A trained method with everything chosen: scorer, tiles, threshold."""

    bands: tuple[str, ...]
    threshold: float
    tags: dict[str, str]  # what the masks are made with, for their metadata
    predict: Callable[[Scene | ArrayScene], Iterator[Prediction]]
    weights: str = ""  # the file they are from
    dtype: str = "uint16"  # of the DN
    pixel_size: float | None = None  # of training, metres; None: unknown
    way: Way = PLAIN  # how scores are computed
    knows_sun: bool = False  # whether the height of the sun is one of the network's bands
    sun_elevation: float | None = None  # of scenes that do not say, degrees


def predictor_of(scorer: Scorer, tiles: Tiles, threshold: float) -> Predictor:
    """What masks scenes by the score of `scorer`, cloud above `threshold`."""
    tags = {
        WRITTEN_BY: fcd.__version__,
        "FCD_EXPERIMENT": scorer.experiment,
        "FCD_SCORE": scorer.name,
        "FCD_WEIGHTS": scorer.fingerprint,
        "FCD_BANDS": ",".join(scorer.normalization.bands),
        "FCD_THRESHOLD": repr(threshold),
        # How many tiles are scored at a time does not matter.
        "FCD_TILES": f"{tiles.size} pixels, overlap {tiles.overlap}",
        "FCD_PRECISION": scorer.way.tag,
    }
    if tiles.nodata is not None:
        tags["FCD_NODATA"] = in_words(as_nodata(tiles.nodata))
    if tiles.sun_elevation is not None and scorer.normalization.needs_sun:
        tags["FCD_SUN_ELEVATION"] = str(tiles.sun_elevation)
    return Predictor(
        in_files(scorer.normalization.bands),
        threshold,
        tags,
        lambda scene: predictions(scorer, scene, tiles, threshold),
        scorer.checkpoint.name,
        scorer.normalization.dtype,
        scorer.normalization.pixel_size,
        scorer.way,
        scorer.normalization.knows_sun,
        tiles.sun_elevation,
    )
