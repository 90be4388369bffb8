"""What is done to finished masks: small clouds, buffer, shadow. Nothing is scored with it.

All is off unless it is asked for.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated

import cv2
import numpy as np
from annotated_types import Ge, Interval

from fcd.errors import MissingBand, SceneError
from fcd.landsat.rasters import Grid
from fcd.landsat.scenes import Scene
from fcd.masks import shadows
from fcd.metrics import BUFFER, CLEAR, CLOUD, SHADOW

_ROWS = 1024  # that are worked on at a time
_VIEW_STEP = 64  # pixels


@dataclass(frozen=True)
class PostProcessing:
    """Finished masks (--mode predict); off while masks are scored."""

    min_cloud: Annotated[
        int, Ge(0), "clouds of fewer pixels than this, with corners touching, become clear"
    ] = 0
    cloud_buffer: Annotated[
        int, Ge(0), "clear pixels that are no further than this from a cloud get the code 254"
    ] = 0
    shadow: Annotated[
        bool,
        "seek the clouds' shadows, code 64, by the place of the sun, in scenes with B5: see "
        "docs/shadow.md",
    ] = False
    shadow_buffer: Annotated[
        int, Ge(0), "clear pixels that are no further than this from a shadow become shadow, too"
    ] = 3
    sun_azimuth: Annotated[
        float | None,
        Interval(ge=0, le=360),
        "for --shadow of scenes that have neither an MTL file nor the tag SUN_AZIMUTH: degrees, "
        "clockwise from north",
    ] = None

    @property
    def told(self) -> str:
        """What is done, for the tags of a mask."""
        done = [f"min_cloud {self.min_cloud}"] * (self.min_cloud > 1)
        done += [f"cloud_buffer {self.cloud_buffer}"] * (self.cloud_buffer > 0)
        done += [f"shadow_buffer {self.shadow_buffer}"] * self.shadow
        if self.shadow and self.sun_azimuth is not None:
            done.append(f"sun_azimuth {self.sun_azimuth} where the scene has none")
        return ", ".join(done) or "none"

    def finishing(
        self, scene: Scene, sun_elevation: float | None = None
    ) -> Callable[[np.ndarray], None]:
        """What changes the finished mask of `scene`, (H, W) uint8 patch codes, in its place.

        Shadow is sought of the clouds that are left, and of these without their buffer; what is
        both within the buffer and in shadow is shadow. sun_elevation: in degrees, where the scene
        does not say. Raises `SceneError` if shadows cannot be sought, before anything is masked.
        """
        sun = sun_elevation, self.sun_azimuth
        shadow_of = shadow_finder(scene, *sun) if self.shadow else None

        def finish(mask: np.ndarray) -> None:
            if self.min_cloud > 1:
                _drop_small(mask, self.min_cloud)
            shadow = shadow_of(mask) if shadow_of else None
            if self.cloud_buffer:
                _grow(mask, mask == CLOUD, self.cloud_buffer, BUFFER, (CLEAR,))
            if shadow is not None:
                _grow(mask, shadow, self.shadow_buffer, SHADOW, (CLEAR, BUFFER))

        return finish


AS_SCORED = PostProcessing()  # nothing is done


def _windows(height: int, around: int) -> Iterator[tuple[slice, slice]]:
    """Some rows and `around` more on both sides, and which of these the former are."""
    for row in range(0, height, _ROWS):
        first, last = max(row - around, 0), min(row + _ROWS, height)
        yield slice(first, min(last + around, height)), slice(row - first, last - first)


def _drop_small(mask: np.ndarray, least: int) -> None:
    """Make clouds of fewer than `least` pixels clear."""
    # What goes on beyond so many rows is larger.
    small = []
    for window, own in _windows(len(mask), least):
        cloud = (mask[window] == CLOUD).view(np.uint8)
        _, number, figures, _ = cv2.connectedComponentsWithStats(cloud, connectivity=8)
        few = figures[:, cv2.CC_STAT_AREA] < least
        few[0] = False  # what is no cloud
        small.append(few[number[own]])
    mask[np.concatenate(small)] = CLEAR


def _grow(
    mask: np.ndarray, what: np.ndarray, pixels: int, code: int, over: tuple[int, ...]
) -> None:
    """Write `code` within a disc about each pixel of `what` where `mask` holds a code of `over`."""
    for window, own in _windows(len(mask), pixels):
        part = what[window]
        if not part.any():
            continue
        away = cv2.distanceTransform((~part).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        rows = mask[window][own]
        # Distances are roots of whole numbers, computed in float32.
        rows[(away[own] <= pixels + 1e-3) & np.isin(rows, over)] = code


# --- shadow ------------------------------------------------------------------------------------


def shadow_finder(
    scene: Scene, elevation: float | None, azimuth: float | None
) -> Callable[[np.ndarray], np.ndarray]:
    """What tells of a mask, (H, W) uint8 patch codes, where its clouds' shadows lie, (H, W) bool.

    elevation, azimuth: of the sun in degrees, where the scene does not say. Raises `SceneError` if
    nothing says, the scene has no position or its bands are no DN of Landsat.
    """
    wanted = (shadows.NIR, shadows.SWIR, shadows.THERMAL)
    bands = tuple(band for band in wanted if band in scene.files)
    if shadows.NIR not in bands:
        raise MissingBand(
            f"{scene.where}: --shadow needs the near infrared, {shadows.NIR}, and there is no band "
            "of that name; leave --shadow out"
        )
    scene = replace(scene, bands=bands)
    with scene.open() as reader:
        if reader.dtype != "uint16":
            raise SceneError(
                f"{scene.where}: --shadow takes DN of Landsat, uint16, not {reader.dtype}; leave "
                "--shadow out"
            )
        sun = reader.sun(elevation, azimuth)
        geometry = geometry_of(reader.grid, sun, reader.view(_VIEW_STEP), scene.where)
        radiometry = reader.radiometry(bands, sun[0])

    def shadow_of(mask: np.ndarray) -> np.ndarray:
        with scene.open() as reader:
            return shadows.find(
                mask,
                lambda start, stop: radiometry.standard(reader.bands(start, stop)),
                bands,
                geometry,
            )

    return shadow_of


def geometry_of(
    grid: Grid,
    sun: tuple[float, float],
    view: tuple[np.ndarray, np.ndarray] | None,
    told: str,
) -> shadows.Geometry:
    """How shadows fall on `grid`.

    sun: elevation and azimuth in degrees. view: zenith and azimuth of the sensor in degrees, (h, w)
    each, on a coarse grid. Raises `SceneError`, which begins with `told`, if `grid` has no place.
    """
    pixels = _pixels_per_metre(grid, told)
    return shadows.Geometry(
        tuple((-pixels @ shadows.toward(*sun)).tolist()),
        None
        if view is None
        else np.einsum("pm,mhw->phw", pixels, shadows.toward(90 - view[0], view[1])),
    )


def _pixels_per_metre(grid: Grid, told: str) -> np.ndarray:
    """(2, 2): metres east and north at the middle of `grid` -> rows and columns."""
    if (ground := grid.ground) is None:
        raise SceneError(
            f"{told}: it has no position, by which its north and the size of its pixels are known; "
            "leave --shadow out, or give it one, such as by gdal_translate -a_srs -a_ullr"
        )
    return np.linalg.inv(ground)[::-1]
