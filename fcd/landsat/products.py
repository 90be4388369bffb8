"""Scenes to predict: what a user names. What metadata say counts, never the name of a folder."""

import glob
import os
import re
import tarfile
from collections.abc import Sequence
from pathlib import Path

from rasterio.errors import RasterioIOError

from fcd.errors import SceneError, UserError
from fcd.landsat.archives import DAMAGE, Member
from fcd.landsat.bands import BANDS, band_numbers
from fcd.landsat.rasters import opened
from fcd.landsat.scenes import SCENE_FILE, Band, Scene, parse_mtl

ARCHIVES = (".tar", ".tar.gz", ".tgz")
RASTERS = (".tif", ".tiff", ".vrt")
# Level-1 products; what comes after L1 tells how well a scene is placed.
_LEVEL_1 = re.compile(r"L1(T|GT|GS|TP|G)?", re.I)
# Not Landsat 8 and 9 with both sensors: LC08_L1TP_…, LC09_…; before the collections LC8….
_OTHER_LANDSAT = re.compile(r"(?!LC0?[89])L[CTEMO]0?\d", re.I)
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


def scene_from(path: str, num_channels: int, bands: str | None = None) -> Scene:
    """The scene at `path`, for a network of `num_channels` bands.

    - A folder, anywhere below which one scene's bands lie; a `.tar` or `.tar.gz`, read where it
      is (a compressed one from the start for each band); an MTL file, beside its scene. Landsat 8
      and 9 Level-1, of any collection, unless `bands` lists the ends of the bands' file names in
      the order of training, such as ``SR_B1,SR_B2``: level and sensor are then not judged.
    - A GeoTIFF with `num_channels` bands, or with the bands whose numbers `bands` gives, such as
      ``1-7,9-11``. It may be without a position.

    Raises `SceneError` if it is none of these; the files are checked by `Scene.check`.
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
        return _raster(place, num_channels, bands)
    else:
        raise SceneError(
            f"{path} is neither a scene folder nor an archive ({', '.join(ARCHIVES)}), an MTL "
            f"file or a raster ({', '.join(RASTERS)})"
        )
    if bands:
        return _named_bands(path, files, num_channels, bands)
    return _landsat(path, files, num_channels)


def _members(path: Path) -> list[Member]:
    try:
        with tarfile.open(path) as archive:
            return [Member(path, member.name) for member in archive if member.isfile()]
    except (OSError, *DAMAGE) as error:
        raise SceneError(f"{path} is damaged or no archive ({error}); get it again") from error


def _landsat(path: str, files: Sequence[Path | Member], num_channels: int) -> Scene:
    if num_channels != len(BANDS):
        raise SceneError(
            f"{path}: the network takes {num_channels} bands, a Landsat scene has {len(BANDS)}; "
            "say which by --bands"
        )
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
    _judge(path, name, metadata)
    name = metadata.get("LANDSAT_PRODUCT_ID") or metadata.get("LANDSAT_SCENE_ID") or name
    return Scene(_as_file_name(name), "", Path(path), parts)


def _judge(path: str, name: str, metadata: dict[str, str]) -> None:
    """Raise `SceneError` unless this is Landsat 8 or 9, Level-1, with both sensors."""
    level = metadata.get("PROCESSING_LEVEL") or metadata.get("DATA_TYPE")
    if level is not None and not _LEVEL_1.fullmatch(level):
        raise _other_level(path, level)
    craft, sensor = metadata.get("SPACECRAFT_ID"), metadata.get("SENSOR_ID")
    if craft is None and _OTHER_LANDSAT.match(name):
        craft = name.partition("_")[0]
    if craft is not None and craft.upper() not in ("LANDSAT_8", "LANDSAT_9"):
        raise SceneError(
            f"{path} was taken by {craft}; the networks take Landsat 8 and 9, unless --bands "
            "says how to read it"
        )
    if sensor is not None and sensor.upper() != "OLI_TIRS":
        raise SceneError(
            f"{path} was taken by {sensor} alone; the networks take bands of OLI and TIRS"
        )


def _other_level(path: str, level: str) -> SceneError:
    return SceneError(
        f"{path} is of level {level}, whose values are no digital numbers of Level-1; get the "
        "Level-1 product, or say by --bands how to read this one"
    )


def _named_bands(path: str, files: Sequence[Path | Member], num_channels: int, bands: str) -> Scene:
    """The files whose names end as `bands` says, in that order."""
    endings = [ending.strip() for ending in bands.split(",")]
    if len(endings) != num_channels:
        raise SceneError(
            f"--bands {bands} names {len(endings)} bands, the network takes {num_channels}"
        )
    chosen: dict[str, Path | Member] = {}
    rasters = [file for file in files if file.name.lower().endswith(RASTERS)]
    for ending in endings:
        fits = [f for f in rasters if f.name.lower().rpartition(".")[0].endswith(ending.lower())]
        if len(fits) != 1:
            found = ", ".join(file.name for file in fits[:3]) or "none"
            raise SceneError(
                f"--bands: {len(fits)} files of {path} end in {ending} ({found}), one should"
            )
        chosen[ending] = fits[0]
    first = chosen[endings[0]].name
    name = first[: first.lower().rindex(endings[0].lower())].rstrip("_-. ") or Path(path).name
    return Scene(_as_file_name(name), "", Path(path), chosen, tuple(endings))


def _raster(path: Path, num_channels: int, bands: str | None) -> Scene:
    try:
        with opened(path) as dataset:
            count = dataset.count
    except RasterioIOError as error:
        raise SceneError(f"{path} cannot be read: {error}") from error
    numbers = band_numbers(bands, "--bands") if bands else list(range(1, count + 1))
    if len(numbers) != num_channels:
        raise SceneError(
            f"{path} has {len(numbers)} bands{' by --bands' * bool(bands)}, the network takes "
            f"{num_channels}; say which by --bands, such as 1-7,9-11"
        )
    if max(numbers) > count:
        raise SceneError(f"--bands {bands}: {path} has {count} bands")
    files = {str(number): Band(path, number) for number in numbers}
    return Scene(_as_file_name(path.stem), "", path.parent, files, tuple(files))


def _as_file_name(name: str) -> str:
    """`name` without what could lead into another folder."""
    return re.sub(r"[^\w.+=,@ -]", "_", name).lstrip(".") or "scene"
