"""Scenes to predict: what a user names. What metadata say counts, never the name of a folder."""

import glob
import os
import re
import tarfile
from collections.abc import Sequence
from pathlib import Path

from rasterio.errors import RasterioIOError

from fcd.errors import MissingBand, SceneError, UserError
from fcd.landsat.archives import DAMAGE, Member
from fcd.landsat.bands import (
    BANDS,
    SENSORS,
    SENTINEL_2,
    are_named,
    band_numbers,
    named,
    positions,
)  # fmt: skip
from fcd.landsat.rasters import alpha_of, names_of, opened, pixel_bands
from fcd.landsat.scenes import SCENE_FILE, Band, Scene, parse_mtl

ARCHIVES = (".tar", ".tar.gz", ".tgz")
RASTERS = (".tif", ".tiff", ".vrt")
# Level-1 products; what comes after L1 tells how well a scene is placed.
_LEVEL_1 = re.compile(r"L1(T|GT|GS|TP|G)?", re.I)
# Landsat, its sensors and its number: LC08_L1TP_…, LO09_…; before the collections LC8….
_LANDSAT = re.compile(r"L(?P<sensor>[CTEMO])0?(?P<number>\d)", re.I)
_SENSOR = {"C": "OLI_TIRS", "O": "OLI", "T": "TIRS"}  # of Landsat 8 and 9
_LEVEL_2 = re.compile(r"_L2S[PR]_|_S[RT]_B\d", re.I)


def expand(paths: Sequence[str]) -> list[str]:
    """The paths that `--scenes` names: globs filled in, lists read, nothing twice.

    A text file (not an MTL file) lists paths, one a line, relative to its own folder, and comments
    that begin with #. Raises `UserError` for what is not there.
    """
    found: dict[str, None] = {}
    for path in paths:
        listed = path.lower().endswith(".txt") and not path.lower().endswith("_mtl.txt")
        matching = _listed(Path(path)) if listed else _matching(path, f"--scenes {path}")
        found |= dict.fromkeys(matching)
    return list(found)


def _listed(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--scenes {path} cannot be read: {error}") from error
    found: list[str] = []
    for number, line in enumerate(lines, 1):
        if (name := line.strip()) and not name.startswith("#"):
            found += _matching(str(path.parent / name), f"{path} line {number}: {name}")
    if not found:
        raise UserError(f"--scenes {path} lists no scene")
    return found


def _matching(path: str, told: str) -> list[str]:
    if os.path.lexists(path):
        return [path]
    found = sorted(glob.glob(path, recursive=True))
    if not found:
        raise UserError(f"{told}: there is no such file or folder")
    return found


def scene_from(path: str, needed: Sequence[str] = BANDS, bands: str | None = None) -> Scene:
    """The scene at `path`, read in the bands `needed` by a network.

    - A folder, anywhere below which one scene's bands lie; a `.tar` or `.tar.gz`, read where it
      is (a compressed one from the start for each band); an MTL file, beside its scene. Landsat 8
      and 9 Level-1, of any collection, unless `bands` lists the ends of the bands' file names in
      the order of training, such as ``SR_B1,SR_B2``: level and sensor are then not judged. Bands
      `needed` that are none of Landsat are themselves the ends of names, behind a ``_``.
    - A GeoTIFF whose bands have names, `needed` among them (`fcd.landsat.bands.named`); without
      names, as many as `needed`; or whatever it holds, if `bands` gives the numbers of those to
      read, such as ``1-7,9-11``. It may be without a position.

    Raises `MissingBand` if it lacks a band, `SceneError` if it is none of these; the files are
    checked by `Scene.check`.
    """
    place, lower = Path(path), path.lower()
    files: Sequence[Path | Member]
    if not place.exists():
        raise SceneError(f"{path}: there is no such file or folder")
    if place.is_dir():
        files = sorted(file for file in place.rglob("*") if file.is_file())
    elif lower.endswith(ARCHIVES):
        files = _members(place)
    elif lower.endswith("_mtl.txt"):
        prefix = place.name[: -len("_MTL.txt")]
        files = [file for file in sorted(place.parent.iterdir()) if file.name.startswith(prefix)]
    elif lower.endswith(RASTERS):
        return _raster(place, needed, bands)
    else:
        raise SceneError(
            f"{path} is neither a scene folder nor an archive ({', '.join(ARCHIVES)}), an MTL "
            f"file or a raster ({', '.join(RASTERS)})"
        )
    if bands:
        return _named_bands(path, files, needed, [end.strip() for end in bands.split(",")])
    if are_named(needed) and not {*needed} <= {*BANDS}:
        return _named_bands(path, files, needed, [f"_{band}" for band in needed])
    return _landsat(path, files, needed)


def _members(path: Path) -> list[Member]:
    try:
        with tarfile.open(path) as archive:
            return [Member(path, member.name) for member in archive if member.isfile()]
    except (OSError, *DAMAGE) as error:
        raise SceneError(f"{path} is damaged or no archive ({error}); get it again") from error


def _landsat(path: str, files: Sequence[Path | Member], needed: Sequence[str]) -> Scene:
    scenes: dict[str, dict[str, Path | Member]] = {}
    for file in files:
        if _LEVEL_2.search(file.name):
            raise _other_level(path, f"Level-2 ({file.name})")
        if match := SCENE_FILE.match(file.name):
            scenes.setdefault(match["scene"], {})[match["part"].upper()] = file
    scenes = {name: parts for name, parts in scenes.items() if {*parts} & {*BANDS, "MTL"}}
    if not scenes:
        raise SceneError(
            f"{path}: no band of a Landsat scene in it, such as <scene>_B1.TIF; --bands reads "
            "files of other names"
        )
    if len(scenes) > 1:
        raise SceneError(
            f"{path} holds {len(scenes)} scenes ({', '.join(sorted(scenes))}); give one each"
        )
    ((name, parts),) = scenes.items()
    metadata = parse_mtl(parts["MTL"]) if "MTL" in parts else {}
    _judge(path, name, metadata, needed)
    name = metadata.get("LANDSAT_PRODUCT_ID") or metadata.get("LANDSAT_SCENE_ID") or name
    return Scene(_as_file_name(name), "", Path(path), parts).taking(needed)


def _judge(path: str, name: str, metadata: dict[str, str], needed: Sequence[str]) -> None:
    """Raise `SceneError` unless this is Landsat 8 or 9, Level-1, by the sensors of `needed`."""
    level = metadata.get("PROCESSING_LEVEL") or metadata.get("DATA_TYPE")
    if level is not None and not _LEVEL_1.fullmatch(level):
        raise _other_level(path, level)
    craft, sensor = metadata.get("SPACECRAFT_ID"), metadata.get("SENSOR_ID")
    if craft is None and (match := _LANDSAT.match(name)):
        known = match["sensor"].upper() in _SENSOR and match["number"] in "89"
        craft = f"LANDSAT_{match['number']}" if known else name.partition("_")[0]
        sensor = sensor or (_SENSOR[match["sensor"].upper()] if known else None)
    if craft is not None and craft.upper() not in ("LANDSAT_8", "LANDSAT_9"):
        raise SceneError(
            f"{path} was taken by {craft}; the networks take Landsat 8 and 9, unless --bands "
            "says how to read it"
        )
    taken = BANDS if sensor is None else SENSORS.get(sensor.upper(), ())
    if missing := [band for band in needed if band in BANDS and band not in taken]:
        raise MissingBand(
            f"{path} was taken by {sensor} alone and has no band {', '.join(missing)}, which the "
            "network takes; one that is trained without can mask it"
        )


def _other_level(path: str, level: str) -> SceneError:
    return SceneError(
        f"{path} is of level {level}, whose values are no digital numbers of Level-1; get the "
        "Level-1 product, or say by --bands how to read this one"
    )


def _named_bands(
    path: str, files: Sequence[Path | Member], needed: Sequence[str], endings: Sequence[str]
) -> Scene:
    """The files whose names end in `endings`, in the order of `needed`."""
    if len(endings) != len(needed):
        raise SceneError(
            f"--bands {','.join(endings)} names {len(endings)} bands, the network takes "
            f"{len(needed)}"
        )
    chosen: dict[str, Path | Member] = {}
    rasters = [file for file in files if file.name.lower().endswith(RASTERS)]
    for band, ending in zip(needed, endings, strict=True):
        fits = [f for f in rasters if f.name.lower().rpartition(".")[0].endswith(ending.lower())]
        if len(fits) != 1:
            found = ", ".join(file.name for file in fits[:3]) or "none"
            raise MissingBand(
                f"{len(fits)} files of {path} end in {ending} ({found}), one should; --bands names "
                "the ends"
            )
        chosen[band] = fits[0]
    first = chosen[needed[0]].name
    name = first[: first.lower().rindex(endings[0].lower())].rstrip("_-. ") or Path(path).name
    return Scene(_as_file_name(name), "", Path(path), chosen, tuple(needed), level_1=False)


def _raster(path: Path, needed: Sequence[str], bands: str | None) -> Scene:
    try:
        with opened(path) as dataset:
            names, pixels, alpha = names_of(dataset), pixel_bands(dataset), alpha_of(dataset)
            count = dataset.count
            if len(needed) == count:  # the network takes the alpha band for one like the others
                names, pixels, alpha = named(dataset.descriptions), dataset.indexes, None
    except RasterioIOError as error:
        raise SceneError(f"{path} cannot be read: {error}") from error
    if bands:
        numbers = band_numbers(bands, "--bands")
        if len(numbers) != len(needed):
            raise SceneError(
                f"{path} has {len(numbers)} bands by --bands, the network takes {len(needed)}"
            )
        if max(numbers) > count:
            raise SceneError(f"--bands {bands}: {path} has {count} bands")
    else:
        if {*needed} <= {*BANDS} and (other := {*SENTINEL_2} & {*names}):
            raise SceneError(
                f"{path} is of Sentinel-2 by its band {min(other)}, the network takes bands of "
                "Landsat, which have the same names; --bands says which to read all the same"
            )
        told = f"{path}" + f" (band {alpha} is alpha)" * (alpha is not None)
        numbers = [pixels[place] for place in positions(needed, names, told)]
    files = {band: Band(path, number) for band, number in zip(needed, numbers, strict=True)}
    name = _as_file_name(path.stem)
    return Scene(name, "", path.parent, files, tuple(needed), level_1=False)


def _as_file_name(name: str) -> str:
    """`name` without what could lead into another folder."""
    return re.sub(r"[^\w.+=,@ -]", "_", name).lstrip(".") or "scene"
