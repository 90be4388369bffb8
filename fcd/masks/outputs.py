"""What is written of a scene: the files of mask and score, and whether they are there."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from math import nan
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rasterio.errors import RasterioIOError

from fcd import pictures
from fcd.errors import SceneError
from fcd.landsat import labels
from fcd.landsat.rasters import WRITTEN_BY, Grid, check_all_there, opened, raster_writer
from fcd.masks import stac_item
from fcd.masks.postprocessing import AS_SCORED, PostProcessing

COLOURS = {
    labels.TIF_NODATA: (0, 0, 0, 0),  # transparent
    labels.TIF_CLEAR: (*pictures.MASK_COLOURS["clear"], 255),
    labels.TIF_CLOUD: (*pictures.MASK_COLOURS["cloud"], 255),
    labels.TIF_SHADOW: (*pictures.FINISHED_COLOURS["shadow"], 255),
    labels.TIF_BUFFER: (*pictures.FINISHED_COLOURS["buffer"], 255),
}
Scores = Literal["none", "uint8", "float32"]
"""How the score is written beside the mask: not at all; 0 nodata, 1 to 255 for 0 to 1; NaN nodata,
0 to 1."""
Contents = Literal["mask", "mask,score"]
"""The bands of the file of a mask: it alone, or also the score as uint8, 1 to 255 for 0 to 1."""
_OWN = "FCD_"  # what tags of this project begin with
TOLD = ("FCD_PIXEL_SIZE", "FCD_PRECISION_WHY")  # tags of what no setting asks for
_SCORE_IN_BYTES = (1 / 254, -1 / 254)  # scale and offset that undo 1 to 255


@dataclass(frozen=True)
class Outputs:
    """What is written of a scene beside its mask, and what is done to that."""

    write_score: Scores = "none"
    write_bands: Contents = "mask"
    stac: bool = False
    postprocessing: PostProcessing = AS_SCORED

    def tags(self, method: dict[str, str]) -> dict[str, str]:
        """Those of a mask that is made by a method with the tags `method`."""
        return method | {
            "FCD_CONTENTS": self.write_bands,
            "FCD_POSTPROCESSING": self.postprocessing.told,
            "FCD_CODES": "0 nodata, 64 shadow, 128 clear, 254 cloud buffer, 255 cloud",
        }

    def are_there(self, name: str, method: dict[str, str], folder: Path) -> bool:
        """Whether those of the scene `name` are in `folder`, made by a method with these tags."""
        files = {"mask": "uint8"} | (
            {} if self.write_score == "none" else {"score": self.write_score}
        )
        if self.stac and not stac_item.path_of(folder / f"{name}_mask.tif").exists():
            return False
        tags = self.tags(method)
        return all(
            has_tags(folder / f"{name}_{kind}.tif", tags, dtype) for kind, dtype in files.items()
        )

    def check_ours(self, name: str, folder: Path) -> None:
        """Raise `SceneError` if a file of that name is there that this project has not written."""
        for kind in ("mask", "score"):
            path = folder / f"{name}_{kind}.tif"
            with suppress(RasterioIOError), opened(path) as dataset:
                if WRITTEN_BY not in dataset.tags():
                    raise SceneError(
                        f"{path} is there and was not written by this program, which would replace "
                        "it; give another --output_dir"
                    )


OUTPUTS = Outputs()


@contextmanager
def mask_files(
    mask: Path,
    score: Path,
    grid: Grid,
    tags: dict[str, str],
    scores: Scores,
    contents: Contents = "mask",
    *,
    as_cog: bool = False,
) -> Iterator[Callable[..., None]]:
    """What writes rows of a mask and, unless `scores` is `none`, of its score to these files.

    It takes the first row, patch codes (h, W), score (h, W) in [0, 1] or None, and, perhaps, where
    the mask is left open though there is a score, (h, W) bool. contents: bands of `mask`. The
    files appear when they are whole, the mask last: where it is, the score is too. Raises
    `OutputError` if they cannot be written.
    """
    writer = partial(raster_writer, grid=grid, tags=tags, cloud_optimised=as_cog)
    with ExitStack() as stack:
        both = contents == "mask,score"
        of_bands: dict[str, Any] = {"colormap": COLOURS}
        if both:
            scale, offset = _SCORE_IN_BYTES
            of_bands = {"names": contents.split(","), "scale": (1, scale), "offset": (0, offset)}
        mask_tif = stack.enter_context(
            writer(mask, dtype="uint8", nodata=labels.TIF_NODATA, **of_bands)
        )
        if scores != "none":
            # What is in bytes, scale and offset in the file undo.
            whole = scores == "uint8"
            nodata, scale, offset = (0, *_SCORE_IN_BYTES) if whole else (nan, 1, 0)
            score_tif = stack.enter_context(
                writer(score, dtype=scores, nodata=nodata, scale=scale, offset=offset)
            )

        def write(
            row: int,
            codes: np.ndarray,
            values: np.ndarray | None,
            left_open: np.ndarray | bool = False,
        ) -> None:
            window = ((row, row + len(codes)), (0, grid.width))
            mask = np.where(left_open, labels.INVALID, codes)
            mask_tif.write(labels.tif_from_patch(mask), 1, window=window)
            if values is None or not (both or scores != "none"):
                return
            valid, in_bytes = codes != labels.INVALID, np.rint(values * 254) + 1
            if both:
                mask_tif.write(np.where(valid, in_bytes, 0).astype(np.uint8), 2, window=window)
            if scores != "none":
                values = np.where(valid, in_bytes if whole else values, nodata).astype(scores)
                score_tif.write(values, 1, window=window)

        yield write


def has_tags(path: Path, tags: dict[str, str], dtype: str | None = None) -> bool:
    """Whether the raster `path` is there, whole, made as `tags` say (and holds `dtype`).

    So a tag that a setting adds makes another file of it, whether it is here or there.
    """
    if not path.exists():
        return False
    try:
        check_all_there(path)
        with opened(path) as dataset:
            made = {k: v for k, v in dataset.tags().items() if k.startswith(_OWN) and k not in TOLD}
            return made == tags and dtype in (None, *dataset.dtypes)
    except OSError:
        return False  # damaged: to be made again
