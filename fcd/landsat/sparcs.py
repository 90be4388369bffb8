"""The 80 scenes of the SPARCS data set, 1000×1000 pixels each: truth that no network here saw.

USGS ships ``<scene>_data.tif`` and ``<scene>_mask.png`` (doi 10.5066/F7FB5146), the authors
``<scene>_labels.tif`` as the mask (Hughes & Kennedy 2019, doi 10.3390/rs11212591). The data are,
says their readme, the ten bands in order, as pre-collection DN, uint16.
"""

from pathlib import Path

from fcd.errors import UserError
from fcd.landsat import labels
from fcd.landsat.bands import BANDS
from fcd.landsat.finding import files_below
from fcd.landsat.scenes import Band, File, Scene

SPARCS = "L8Sparcs"
DATA, MASKS = "_data.tif", ("_mask.png", "_labels.tif")


def find_sparcs(root: Path | str) -> list[Scene]:
    """All SPARCS scenes below `root`, sorted by name.

    Raises `UserError` if there are none, one lacks its mask or is there twice.
    """
    scenes: dict[str, Scene] = {}
    for path in (path for path in files_below(Path(root)) if path.name.endswith(DATA)):
        name = path.name.removesuffix(DATA)
        if name in scenes:
            raise UserError(f"{path}: scene {name} is there twice; remove one")
        beside = (path.with_name(f"{name}{ending}") for ending in MASKS)
        mask = next((file for file in beside if file.exists()), None)
        if mask is None:
            raise UserError(f"{path} has no mask {name}{' or '.join(MASKS)} beside it")
        files: dict[str, File] = {band: Band(path, number) for number, band in enumerate(BANDS, 1)}
        files["FIXEDMASK"] = mask
        scenes[name] = Scene(
            name, SPARCS, path.parent, files, decode_truth=labels.patch_from_sparcs
        )
    if not scenes:
        raise UserError(f"no SPARCS scene below {root}: expected files such as <scene>{DATA}")
    return list(scenes.values())
