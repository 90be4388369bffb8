"""What becomes of the DN of patches by the suns of their scenes, before networks see them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fcd.landsat.bands import SUN, in_files
from fcd.landsat.radiometry import Radiometry, with_sun
from fcd.patches.normalisation import TOA, Kind
from fcd.patches.sources import Source


@dataclass(frozen=True)
class Suns:
    """Standard DN of patches, and the height of the sun behind their bands; or neither."""

    toa: bool = False
    known: bool = False
    of_patches: dict[Path, Radiometry] = field(default_factory=dict)

    @classmethod
    def of(cls, source: Source, patches: Sequence[Path], kind: Kind, toa: bool) -> "Suns":
        """Those of the `patches` of `source`.

        kind: what the patches become; with the band `SUN` the sun is behind the others. toa:
        whether DN become standard DN (`fcd.landsat.radiometry`). Raises `UserError` or `SceneError`
        if they are no DN of Landsat or one does not say its sun.
        """
        known = SUN in kind.bands
        if toa:
            kind.require_landsat(f"--normalize {TOA}", "--normalize stretch")
        if known:
            kind.require_landsat(f"the band {SUN}", "bands of files alone")
        return cls(toa, known, source.radiometries(list(patches), in_files(kind.bands)))

    def change(self, patch: Path, dn: np.ndarray) -> np.ndarray:
        """The DN (C, h, w) of `patch` as networks learn them, with `known` (C + 1, h, w)."""
        dn = self.of_patches[patch].standard(dn) if self.toa else dn
        return with_sun(dn, self.of_patches[patch].elevation) if self.known else dn
