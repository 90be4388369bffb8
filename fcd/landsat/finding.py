"""Which files make a scene: by their names and by where they lie, whatever else is beside them.

- `<scene>_<part>.TIF` is a band of <scene>, its quality band or mask; `<scene>_MTL.txt` says of
  what kind it is. Nothing else counts.
- Hidden files are passed over, and what macOS leaves beside real ones.
- Of two files that claim the same part the one whose folder holds the MTL file counts, else the one
  in the nearest folder; the other's folder then gives nothing. Folders beside one another with
  an MTL file each hold a scene each. Where that does not decide, it stays open (`Found.clash`).
- What was made from a scene that is there is none of its own: a file that bears its name and more
  (`<scene>_toa_B4.TIF`) and has no MTL file, and the Level-2 product of a Level-1 scene.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath
from typing import TypeAlias

from fcd.files import is_hidden
from fcd.landsat.archives import Member
from fcd.landsat.bands import BANDS
from fcd.landsat.mtl import FORMS

MTL = "MTL"
_BAND = r"(?:S[RT]_)?B\d+"
SCENE_FILE = re.compile(
    rf"(?P<scene>.+?)_(?:(?P<raster>{_BAND}|BQA|QA_PIXEL|V[AZ]A|fixedmask)\.(?:tiff?|img)"
    r"|(?P<text>MTL)\.(?:txt|json|xml))",
    re.I,
)
_LEVEL_2 = re.compile(r"_L2S[PR]_", re.I)
# Sensor, path, row and day, which the products of one scene have in common.
_ACQUISITION = re.compile(r"(L\w\d\d)_\w{4}_(\d{6}_\d{8})_")

Whole: TypeAlias = Path | Member
"""A file of its own."""
_Claims: TypeAlias = dict[str, list[Whole]]
"""By part, the files that claim to be it."""


@dataclass(frozen=True)
class Found:
    """The files of one scene by part: B1, BQA, MTL, FIXEDMASK; of Level-2 SR_B1, ST_B10."""

    name: str  # with which their names begin
    files: dict[str, Whole]
    clash: tuple[Whole, Whole] | None = None  # two that claim to be the same part

    @cached_property
    def is_level_2(self) -> bool:
        """Whether its bands are none of Level-1, by their names."""
        surface = any(part[:3] in ("SR_", "ST_") for part in self.files)
        return bool(_LEVEL_2.search(self.name)) or (surface and not {*self.files} & {*BANDS})

    @cached_property
    def has_bands(self) -> bool:
        """Whether it is more than metadata, quality and masks."""
        return any(re.fullmatch(_BAND, part) for part in self.files)

    @cached_property
    def folder(self) -> PurePath:
        """The one that all of its files lie in, or below."""
        parents = {file.parent for file in self.files.values()}
        return type(next(iter(parents)))(os.path.commonpath(parents))


def files_below(root: Path) -> Iterator[Path]:
    """All files below `root`, sorted within each folder, but hidden ones and in hidden folders.

    Links to folders are followed, after all folders that are there themselves. A folder that is
    reached twice counts once; a link to one that it lies in leads nowhere.
    """
    seen: set[Path] = set()
    places = [root]
    for place in places:  # which grow
        for folder, subfolders, names in os.walk(place):
            real = Path(folder).resolve()
            if real in seen:
                subfolders.clear()
                continue
            seen.add(real)
            subfolders[:] = sorted(name for name in subfolders if not is_hidden(name))
            links = (Path(folder, name) for name in subfolders if Path(folder, name).is_symlink())
            places += [link for link in links if not real.is_relative_to(link.resolve())]
            yield from (Path(folder, name) for name in sorted(names) if not is_hidden(name))


def scenes_in(files: Iterable[Whole]) -> list[Found]:
    """The scenes that `files` make, in the order of their first ones."""
    places: dict[str, dict[PurePath, _Claims]] = {}
    for file in files:
        if match := SCENE_FILE.fullmatch(file.name):
            part = (match["raster"] or match["text"]).upper()
            claims = places.setdefault(match["scene"], {}).setdefault(file.parent, {})
            claims.setdefault(part, []).append(file)
    found = [one for name, folders in places.items() for one in _settled(name, folders)]
    return _originals(found)


def _settled(name: str, folders: dict[PurePath, _Claims]) -> Iterator[Found]:
    """The scene, or scenes, of files of one name in several folders."""
    count = Counter(part for claims in folders.values() for part in claims if part != MTL)
    rivals = [place for place, claims in folders.items() if any(count[p] > 1 for p in claims)]
    homes = _homes(rivals, folders)
    rest = sorted((p for p in folders if p not in rivals), key=lambda place: len(place.parts))
    each_its_own = len(homes) > 1 and MTL in folders[homes[0]]
    for chosen in [[home] for home in homes] if each_its_own else [[*homes, *rest]]:
        claims: _Claims = {}
        for place in chosen:
            for part, claimants in folders[place].items():
                claims.setdefault(part, []).extend(claimants)
        claims[MTL] = sorted(claims.get(MTL, ()), key=lambda file: FORMS.index(_suffix(file)))[:1]
        files = {part: claimants[0] for part, claimants in claims.items() if claimants}
        clashes = ((first, second) for first, second, *_ in filter(_several, claims.values()))
        yield Found(name, files, next(clashes, None))


def _several(claimants: list[Whole]) -> bool:
    return len(claimants) > 1


def _suffix(file: Whole) -> str:
    return PurePath(file.name).suffix.lower()


def _homes(rivals: list[PurePath], folders: dict[PurePath, _Claims]) -> list[PurePath]:
    """Those of the folders with the same parts that count: one, unless it is not decided."""
    if told := [place for place in rivals if MTL in folders[place]]:
        return [place for place in told if not {*place.parents} & {*told}]
    nearest = min((len(place.parts) for place in rivals), default=0)
    return [place for place in rivals if len(place.parts) == nearest]


def _originals(found: list[Found]) -> list[Found]:
    """Those that were not made from another of them."""
    level_1 = [one for one in found if one.has_bands and not one.is_level_2]
    acquired = {_acquisition(one.name) for one in level_1}
    # By folder, as a look from each at all others takes hours where there are a year's scenes.
    told: dict[PurePath, list[str]] = {}
    for one in level_1:
        if MTL in one.files:
            told.setdefault(one.folder, []).append(one.name)

    def is_made(one: Found) -> bool:
        if one.is_level_2:
            return _acquisition(one.name) in acquired
        places = () if MTL in one.files else (one.folder, *one.folder.parents)
        return any(_bears(one.name, name) for place in places for name in told.get(place, ()))

    return [one for one in found if not is_made(one)]


def _bears(name: str, other: str) -> bool:
    """Whether `name` is that of what was made from the scene `other`."""
    return other in name and f"_{_words(other)}_" in f"_{_words(name)}_"


def _acquisition(name: str) -> str:
    match = _ACQUISITION.match(name)
    return " ".join(match.groups()) if match else name


def _words(name: str) -> str:
    return re.sub(r"[-. ]", "_", name)
