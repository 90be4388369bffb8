"""Scenes of any size for the benchmarks, quickly: a drawn one, mirrored over and over."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from rasterio.shutil import copy

from fcd.synthetic import layout
from fcd.synthetic.scene import draw_scene

SIDE = 512  # of what is drawn, pixels


def write_scene(root: Path, height: int, width: int, number: int = 0) -> Path:
    """Write a scene of `height` x `width` pixels below `root`; return its folder."""
    drawn = draw_scene("Forest", SIDE, 0, index=number)
    pad = ((0, max(0, height - SIDE)), (0, max(0, width - SIDE)))

    def enlarged(values: np.ndarray) -> np.ndarray:
        return np.pad(values, pad, "symmetric")[:height, :width]

    large = replace(
        drawn,
        dn=np.stack([enlarged(band) for band in drawn.dn]),
        truth=enlarged(drawn.truth),
        qa=enlarged(drawn.qa),
        grid=replace(drawn.grid, height=height, width=width),
    )
    return layout.write_scene(large, root / drawn.biome / drawn.name)


def unpack(folder: Path) -> None:
    """Rewrite the tifs of a scene uncompressed, a strip a row, as Level-1 scenes were before 2020.

    The 96 Biome scenes are such: about 182 GB for 6.2 billion pixels of 30 m are 29 bytes a pixel,
    and ten bands, the panchromatic one, the QA band and the mask need 31 without compression.
    """
    for path in sorted(folder.glob("*.TIF")):
        plain = path.with_suffix(".plain")
        copy(path, plain, driver="GTiff", compress="NONE", blockysize=1)
        plain.replace(path)
