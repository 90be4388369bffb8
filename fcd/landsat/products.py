"""Scenes to predict: what a user names. What metadata say counts, never the name of a folder."""

import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from rasterio.errors import RasterioIOError

from fcd.errors import MissingBand, SceneError, UserError
from fcd.files import decoded
from fcd.landsat.archives import ARCHIVES, kind_of, members
from fcd.landsat.bands import BANDS, SENSORS, are_named, in_files, taken_by
from fcd.landsat.finding import MTL, SCENE_FILE, Found, Whole, files_below, scenes_in
from fcd.landsat.mtl import FORMS, parse_mtl
from fcd.landsat.rasters import is_written_by_us, opened
from fcd.landsat.scenes import Scene
from fcd.landsat.stacks import is_stack, stack_from

# Endings of what is told apart by its first bytes, of which not all can be read.
_PACKED = (*ARCHIVES, ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
RASTERS = (".tif", ".tiff", ".vrt")
# Level-1 products; what comes after L1 tells how well a scene is placed.
_LEVEL_1 = re.compile(r"L1(T|GT|GS|TP|G)?", re.I)
_METADATA = ("_mtl.txt", "_ang.txt")  # no lists of paths
# What USGS ships beside the bands of a scene, behind its name.
_SIDECAR = re.compile(r"ANG\.txt|(S[AZ]A|QA_RADSAT)\.tiff?|.*\.(jpe?g|png|json|xml)", re.I)
_BETWEEN = "_-. "  # what stands between the name of a scene and that of a band


def expand(paths: Sequence[str]) -> list[str]:
    """The scenes that `--scenes` names, a path each: globs filled in, lists read, nothing twice.

    A text file (not metadata of a scene) lists paths, one a line, relative to its own folder, and
    comments that begin with #. A folder of archives, of scenes or of GeoTIFFs stands for each of
    them. What this project has written is left out, and what came with a scene that is named, too.
    Raises `UserError` for what is not there.
    """
    found: dict[str, None] = {}
    for path in paths:
        listed = path.lower().endswith(".txt") and not path.lower().endswith(_METADATA)
        matching = _listed(Path(path)) if listed else _matching(path, f"--scenes {path}")
        found |= dict.fromkeys(matching)
    scenes = dict.fromkeys(scene for path in _without_sidecars(found) for scene in _within(path))
    if not scenes:
        raise UserError(
            f"--scenes {' '.join(paths)}: only files that an earlier run has written; name scenes"
        )
    return list(scenes)


def _listed(path: Path) -> list[str]:
    try:
        lines = decoded(path.read_bytes()).splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"--scenes {path} cannot be read: {error}") from error
    found: list[str] = []
    for number, line in enumerate(lines, 1):
        # As the system's paths are, whatever the locale.
        name = os.fsdecode(line.strip().strip('"').encode("utf-8", "surrogatepass"))
        if name and not name.startswith("#"):
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


def _without_sidecars(paths: Iterable[str]) -> list[str]:
    """`paths` without what came with a scene of which another path is a part, as in `folder/*`."""
    split = {path: os.path.split(path) for path in paths}
    parts = {path: SCENE_FILE.fullmatch(name) for path, (_, name) in split.items()}
    scenes = {(split[path][0], match["scene"]) for path, match in parts.items() if match}

    def is_sidecar(folder: str, name: str) -> bool:
        cuts = (cut.start() for cut in re.finditer("_", name))
        return any(
            (folder, name[:cut]) in scenes and _SIDECAR.fullmatch(name, cut + 1) for cut in cuts
        )

    return [path for path, place in split.items() if parts[path] or not is_sidecar(*place)]


def _within(path: str) -> Iterator[str]:
    """The path itself or, of a folder of several scenes, one for each; none if we wrote it."""
    if not os.path.isdir(path):
        if not (path.lower().endswith(RASTERS) and is_written_by_us(path)):
            yield path
        return
    files = list(files_below(Path(path)))
    packed = [str(file) for file in files if file.name.lower().endswith(_PACKED)]
    found = [one for one in scenes_in(files) if one.has_bands]
    rasters = [file for file in files if file.name.lower().endswith(RASTERS)]
    inside = Counter(place for one in found for place in (one.folder, *one.folder.parents))
    folders = {one.folder for one in found}  # what lies there, too, belongs to the scene
    stacks = [str(file) for file in rasters if not folders & {*file.parents} and is_stack(file)]
    if not found and not packed:
        if not rasters or not all(map(is_written_by_us, rasters)):
            yield from stacks or [path]
    elif len(found) == 1 and not packed and not stacks:
        yield path
    else:
        paths = [_path_of(one, alone=inside[one.folder] == 1) for one in found]
        yield from sorted([*packed, *paths, *stacks])


def _path_of(one: Found, alone: bool) -> str:
    """What names a scene in a folder: its own folder if it is alone there."""
    if alone:
        return str(one.folder)
    return str(one.files.get(MTL) or next(iter(one.files.values())))


def scene_from(path: str, needed: Sequence[str] = BANDS, bands: str | None = None) -> Scene:
    """The scene at `path`, read in the bands `needed` by a network.

    - A folder, anywhere below which one scene's bands lie (`fcd.landsat.finding`); a tar archive,
      plain or in gzip, or a zip file, read where it is (what is compressed from the start for each
      band); an MTL file, which names exactly the scene of its name, beside it, as a band's file
      without an MTL file does. Landsat 8 and 9 Level-1, of any collection, unless `bands` lists the
      ends of the bands' file names in the order of training, such as ``SR_B1,SR_B2``: level and
      sensor are then not judged. Bands `needed` that are none of Landsat are themselves the ends
      of names, behind a ``_``.
    - A GeoTIFF whose bands have names, `needed` among them (`fcd.landsat.bands.named`); without
      names, as many as `needed`; or whatever it holds, if `bands` gives the numbers of those to
      read, such as ``1-7,9-11``. It may be without a position.

    Raises `MissingBand` if it lacks a band, `SceneError` if it is none of these; the files are
    checked by `Scene.check`.
    """
    place, lower, needed = Path(path), path.lower(), in_files(needed)
    files: Sequence[Whole]
    prefix: str | None = None
    if not place.exists():
        raise SceneError(f"{path}: there is no such file or folder")
    part = SCENE_FILE.fullmatch(place.name)
    if place.is_dir():
        files = list(files_below(place))
    elif part and (part["text"] or (not bands and _is_one_band(place, needed))):
        files, prefix = _beside(place, part["scene"]), part["scene"]
    elif lower.endswith(RASTERS):
        return stack_from(place, needed, bands, as_file_name(place.stem))
    elif lower.endswith(ARCHIVES) or kind_of(place):
        files = members(place)
    else:
        raise SceneError(
            f"{path} is neither a scene folder nor an archive ({', '.join(ARCHIVES)}), an MTL "
            f"file or a raster ({', '.join(RASTERS)})"
        )
    if bands:
        return _named_bands(path, files, needed, [end.strip() for end in bands.split(",")], prefix)
    if are_named(needed) and not {*needed} <= {*BANDS}:
        return _named_bands(path, files, needed, [f"_{band}" for band in needed], prefix)
    return _landsat(path, files, needed, prefix)


def _beside(place: Path, prefix: str) -> list[Whole]:
    """The files beside `place` whose names begin so; of MTL files it alone, if it is one."""
    named = [file for file in sorted(place.parent.iterdir()) if file.name.startswith(prefix)]
    forms = {place.with_name(f"{place.stem}{form}") for form in FORMS} - {place}
    return [file for file in named if file not in forms]


def _is_one_band(path: Path, needed: Sequence[str]) -> bool:
    """Whether a file is one band of a Landsat scene, of which more are needed."""
    try:
        with opened(path) as dataset:
            return dataset.count == 1 < len(needed) and {*needed} <= {*BANDS}
    except RasterioIOError:
        return False


def _landsat(
    path: str, files: Sequence[Whole], needed: Sequence[str], prefix: str | None = None
) -> Scene:
    """The one Landsat scene among `files`, or that whose files' names begin with `prefix`."""
    found = [one for one in scenes_in(files) if prefix in (None, one.name)]
    found = [one for one in found if one.has_bands or MTL in one.files]
    if not found:
        raise SceneError(
            f"{path}: no band of a Landsat scene in it, such as <scene>_B1.TIF; --bands reads "
            "files of other names, and a file of several bands is given itself, unpacked"
        )
    if len(found) > 1:
        raise SceneError(
            f"{path} holds {len(found)} scenes ({', '.join(sorted(one.name for one in found))}); "
            "give one each, by its own folder or its MTL file"
        )
    ((one),) = found
    if one.clash:
        raise SceneError(
            f"{path}: {' and '.join(map(str, one.clash))} claim to be the same band; give the "
            "folder of one of them"
        )
    if one.is_level_2:
        raise _other_level(path, f"Level-2 ({next(iter(one.files.values())).name})")
    _refuse_zeros(path, one, needed)
    metadata = parse_mtl(one.files[MTL]) if MTL in one.files else {}
    _judge(path, one.name, metadata, needed)
    name = metadata.get("LANDSAT_PRODUCT_ID") or metadata.get("LANDSAT_SCENE_ID") or one.name
    name = one.name if one.name.startswith(name) else name  # <product>_north: a part of it
    return Scene(as_file_name(name), "", Path(path), one.files).taking(needed)


def _refuse_zeros(path: str, one: Found, needed: Sequence[str]) -> None:
    """Raise `SceneError` if the bands are `B01` and so on, which those of Sentinel-2 are, too."""
    padded = {band: f"B{int(band[1:]):02}" for band in needed if band in BANDS}
    if {*padded} <= {*one.files} or not {*padded.values()} <= {*one.files}:
        return
    raise SceneError(
        f"{path}: its files end in {padded[needed[0]]} and so on; if they are bands of Landsat, "
        f"give --bands {','.join(padded.values())}"
    )


def _judge(path: str, name: str, metadata: dict[str, str], needed: Sequence[str]) -> None:
    """Raise `SceneError` unless this is Landsat 8 or 9, Level-1, by the sensors of `needed`."""
    level = metadata.get("PROCESSING_LEVEL") or metadata.get("DATA_TYPE")
    if level is not None and not _LEVEL_1.fullmatch(level):
        raise _other_level(path, level)
    craft, sensor = metadata.get("SPACECRAFT_ID"), metadata.get("SENSOR_ID")
    if craft is None and (told := taken_by(name)):
        craft, sensor = told[0], sensor or told[1]
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
    path: str,
    files: Sequence[Whole],
    needed: Sequence[str],
    endings: Sequence[str],
    prefix: str | None = None,
) -> Scene:
    """The files whose names end in `endings`, in the order of `needed`, after `prefix` alone."""
    if len(endings) != len(needed):
        raise MissingBand(
            f"--bands {','.join(endings)} names {len(endings)} bands, the network takes "
            f"{len(needed)}"
        )
    chosen: dict[str, Whole] = {}
    stems = {f: f.name.rpartition(".")[0] for f in files if f.name.lower().endswith(RASTERS)}
    for band, ending in zip(needed, endings, strict=True):
        before = {
            file: stem[: len(stem) - len(ending)].rstrip(_BETWEEN)
            for file, stem in stems.items()
            if stem.lower().endswith(ending.lower())
        }
        fits = [file for file, start in before.items() if prefix in (None, start)]
        if len(fits) != 1:
            found = ", ".join(map(str, fits[:3])) or "none"
            raise MissingBand(
                f"{len(fits)} files of {path} end in {ending} ({found}), one should; --bands names "
                "the ends"
            )
        chosen[band] = fits[0]
    metadata = [one.files[MTL] for one in scenes_in(files) if MTL in one.files]
    if len(metadata) == 1:
        chosen[MTL] = metadata[0]  # says how high the sun stood, whatever the bands hold
    first = chosen[needed[0]].name
    name = first[: first.lower().rindex(endings[0].lower())].rstrip(_BETWEEN) or Path(path).name
    return Scene(as_file_name(name), "", Path(path), chosen, tuple(needed), level_1=False)


def as_file_name(name: str) -> str:
    """`name` without what could lead into another folder."""
    return re.sub(r"[^\w.+=,@ -]", "_", name).lstrip(".") or "scene"
