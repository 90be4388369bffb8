"""Landsat-8/9 scenes, found below a folder and read window by window."""

import math
import os
from collections import ChainMap, Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

import numpy as np
import rasterio
from rasterio.errors import RasterioIOError
from rasterio.windows import Window

from fcd.errors import MissingBand, SceneError, UserError
from fcd.landsat import biome, labels
from fcd.landsat.archives import Member
from fcd.landsat.bands import (
    BANDS,
    FILL_DN,
    SENSORS,
    described,
    in_files,
    is_landsat,
    positions,
    taken_by,
)  # fmt: skip
from fcd.landsat.finding import files_below, scenes_in
from fcd.landsat.mtl import parse_mtl
from fcd.landsat.radiometry import (
    SUN_AZIMUTH,
    SUN_ELEVATION,
    Radiometry,
    sun_azimuth,
    sun_elevation,
)
from fcd.landsat.rasters import Grid, blanked, hidden_in, nodata_of, opened, plain
from fcd.landsat.sun import position, told

MAX_SIDE = 65_535  # pixels; a Landsat scene has 8,000
_ROWS = 512  # that are read at a time
QA_PARTS = ("BQA", "QA_PIXEL")


@dataclass(frozen=True)
class Band(os.PathLike):
    """One band of a raster with several; `number` counts from 1."""

    path: Path
    number: int

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"band {self.number} of {self.path.name}"

    def __fspath__(self) -> str:
        return os.fspath(self.path)


File: TypeAlias = Path | Band | Member


@dataclass(frozen=True)
class Scene:
    """The files of one scene; none is opened before `check`, `grid`, `metadata` or `open`."""

    name: str
    biome: str
    folder: Path
    files: Mapping[str, File] = field(hash=False)  # by part: B1, BQA, MTL, FIXEDMASK
    bands: tuple[str, ...] = BANDS  # the parts a network is given, in order
    level_1: bool = True  # whether its bands hold DN of Landsat, uint16 with a position
    # Codes of the manual mask and their source -> patch codes.
    decode_truth: Callable[[np.ndarray, str], np.ndarray] = labels.patch_from_truth

    @property
    def key(self) -> str:
        """``<biome>_<scene>``, or the name alone: how outputs of this scene are named."""
        return f"{self.biome}_{self.name}" if self.biome else self.name

    @property
    def where(self) -> str:
        """How messages about it begin."""
        return f"scene {self.name} in {self.folder}"

    @property
    def truth(self) -> File | None:
        """The manual mask ``_fixedmask.img``, or None."""
        return self.files.get("FIXEDMASK")

    @property
    def qa(self) -> File | None:
        """The quality band (BQA or QA_PIXEL), or None."""
        return next((self.files[part] for part in QA_PARTS if part in self.files), None)

    def taking(self, bands: Sequence[str]) -> "Scene":
        """The same scene, read in the `bands` of a network and in its order.

        `SUN` is none of its bands. Raises `MissingBand` if it has no such bands; the files are
        looked for by `check`.
        """
        bands = in_files(bands)
        if self.level_1:
            if unknown := [band for band in bands if band not in BANDS]:
                raise MissingBand(
                    f"{self.where}: the network takes {described(bands)}, a Landsat scene has "
                    f"{len(BANDS)} ({', '.join(BANDS)}), no {unknown[0]}; say which by --bands"
                )
            return replace(self, bands=bands)
        chosen = [self.bands[place] for place in positions(bands, self.bands, self.where)]
        others = {part: file for part, file in self.files.items() if part not in self.bands}
        files = {band: self.files[part] for band, part in zip(bands, chosen, strict=True)}
        return replace(self, bands=bands, files=others | files)

    def elevation(self, asked: float | None) -> float | None:
        """Of its sun in degrees; see `SceneReader.elevation`."""
        with self.open() as reader:
            return reader.elevation(asked)

    def require_pixels(self, cure: str) -> None:
        """Raise `MissingBand`, which ends with `cure`, if a band holds fill alone, others not."""
        if filled := self._filled():
            raise MissingBand(
                f"{self.where}: band {', '.join(filled)} is fill in every pixel, so no pixel has "
                f"all bands; {cure}"
            )

    def _filled(self) -> list[str]:
        """The bands that hold fill alone, DN 0 everywhere, if others do not.

        So TIRS is shipped where it was switched off.
        """
        found = np.zeros(len(self.bands), bool)
        with self.open() as reader:
            for row in range(0, reader.grid.height, _ROWS):
                dn = reader.bands(row, min(row + _ROWS, reader.grid.height))
                found |= (dn != FILL_DN).any(axis=(1, 2))
                if found.all():
                    return []
        empty = [band for band, there in zip(self.bands, found, strict=True) if not there]
        return empty if found.any() else []

    def metadata(self) -> dict[str, str]:
        """The fields of its MTL file, none if there is none; `SceneError` if it is damaged."""
        file = self.files.get("MTL")
        return {} if file is None or isinstance(file, Band) else parse_mtl(file)

    def check(self, *, need_truth: bool = False, need_qa: bool = False) -> Grid:
        """Return the grid of the scene, or raise `SceneError` with everything that is wrong."""
        problems: list[str] = []
        grids: dict[str, Grid] = {}
        if missing := [band for band in self.bands if band not in self.files]:
            _, sensor = taken_by(self.name) or (None, None)
            alone = sensor and not {*missing} & {*SENSORS[sensor]}
            problems.append(
                f"missing band {', '.join(missing)}" + f" ({sensor} alone)" * bool(alone)
            )
        if need_truth and self.truth is None:
            problems.append(f"missing {self.name}_fixedmask.img")
        if need_qa and self.qa is None:
            problems.append(f"missing quality band {self.name}_BQA.TIF or {self.name}_QA_PIXEL.TIF")
        for part in (*self.bands, *["FIXEDMASK"] * need_truth, *QA_PARTS * need_qa):
            if file := self.files.get(part):
                try:
                    with opened(file) as dataset:
                        grids[part] = Grid.of(dataset)
                        problems += self._unusable(part, dataset)
                except OSError as error:  # RasterioIOError is one
                    problems.append(f"{file.name} cannot be read ({error})")
        problems += self._misfits(grids)
        if problems:
            kind = MissingBand if missing and len(problems) == 1 else SceneError
            raise kind(f"{self.where}: {'; '.join(problems)}")
        return grids[self.bands[0]]

    def _unusable(self, part: str, dataset: rasterio.DatasetReader) -> Iterator[str]:
        """What pixels cannot be used, in words."""
        file, name, dtype = self.files[part], self.files[part].name, dataset.dtypes[0]
        if part == "FIXEDMASK":
            fits = dtype == "uint8"
        elif part in QA_PARTS:
            fits = dtype in ("uint8", "uint16")
        elif self.level_1:
            fits = dtype == "uint16"
        else:
            fits = not dtype.startswith("complex")
        if not fits:
            yield f"{name} holds {dtype}" + ", Level-1 DN are uint16" * (
                self.level_1 and part in self.bands
            )
        size = file.stat().st_size if isinstance(file, Path) else math.inf
        if dataset.driver == "ENVI" and size < math.prod(dataset.shape):
            yield f"{name} is cut off"  # GDAL would read fill
        if max(dataset.shape) > MAX_SIDE:
            yield f"{name} is larger than {MAX_SIDE:,} pixels"

    def _misfits(self, grids: dict[str, Grid]) -> Iterator[str]:
        """Files that lie elsewhere than the first, or nowhere, or are of another size, in words."""
        places = {part: grid for part, grid in grids.items() if part != "FIXEDMASK"}
        for first, grid in list(places.items())[:1]:
            name = self.files[first].name
            if grid.crs is None and self.level_1:
                yield f"{name} has no CRS"
                break
            for part, place in grids.items():  # of masks some have no position
                if not grid.is_at(place) if part in places else grid.is_elsewhere(place):
                    yield f"{self.files[part].name} lies on another grid than {name}"
        sizes = {part: f"{grid.width}x{grid.height}" for part, grid in grids.items()}
        for usual, _ in Counter(sizes.values()).most_common(1):
            for part, size in sizes.items():
                if size != usual:
                    yield f"{self.files[part].name} is {size} pixels, the others are {usual}"

    def grid(self) -> Grid:
        """Size, CRS and transform, taken from the first band (the .img may have no position)."""
        with self.open() as reader:
            return reader.grid

    @contextmanager
    def open(self) -> Iterator["SceneReader"]:
        """Open the scene for windowed reading."""
        with ExitStack() as stack:
            yield SceneReader(self, stack)


class SceneReader:
    """Windowed access to an open scene; files are opened when first needed."""

    def __init__(self, scene: Scene, stack: ExitStack) -> None:
        self._scene, self._stack = scene, stack
        self._datasets: dict[str, rasterio.DatasetReader] = {}
        self.grid = Grid.of(self._dataset(scene.bands[0]))

    @cached_property
    def dtype(self) -> str:
        """The type of the bands' pixels; `SceneError` names two bands that differ."""
        files, parts = self._scene.files, self._scene.bands
        dtypes = [self._dataset(part).dtypes[self._number(part) - 1] for part in parts]
        for part, dtype in zip(parts, dtypes, strict=True):
            if dtype != dtypes[0]:
                raise SceneError(
                    f"{self._scene.where}: {files[part].name} holds {dtype}, "
                    f"{files[parts[0]].name} {dtypes[0]}; all bands must be of one type, that of "
                    "training: convert them, such as by gdal_translate -ot"
                )
        return dtypes[0]

    @property
    def marked(self) -> tuple[float | None, ...]:
        """The value that is nodata in each band, as `bands` returns it; None: no value."""
        if is_landsat(self._scene.bands, self.dtype):
            return (FILL_DN,) * len(self._scene.bands)
        return self._marks

    @cached_property
    def _marks(self) -> tuple[float | None, ...]:
        """What the file of each band marks as nodata."""
        parts = self._scene.bands
        return tuple(nodata_of(self._dataset(part), self._number(part)) for part in parts)

    @cached_property
    def _by_file(self) -> dict[str, list[str]]:
        """The bands, together those of one file."""
        parts_of: dict[str, list[str]] = {}
        for part in self._scene.bands:
            parts_of.setdefault(os.fspath(self._scene.files[part]), []).append(part)
        return parts_of

    def radiometry(self, bands: Sequence[str], sun_elevation: float | None) -> Radiometry:
        """By its MTL file; without one by what `elevation` goes by, but not by its name.

        bands: what its bands are called by Landsat. Raises `SceneError` if nothing says.
        """
        if self._scene.level_1 and (fields := self._scene.metadata()):
            return Radiometry.of(fields, bands, str(self._scene.files["MTL"]))
        sun = self._told.get(SUN_ELEVATION) or sun_elevation
        return Radiometry.under(sun, bands, self._scene.where)

    def sun(self, elevation: float | None, azimuth: float | None) -> tuple[float, float]:
        """Elevation and azimuth of the sun in degrees.

        By what `fcd.landsat.sun.told` says, else these, else its name; `SceneError` if none does.
        """
        where = self._scene.where
        height, direction = self._position(elevation, azimuth)
        if height is None or direction is None:
            raise SceneError(
                f"{where}: nothing says where the sun stood, neither an MTL file nor the tags "
                f"{SUN_ELEVATION} and {SUN_AZIMUTH}; give --sun_elevation and --sun_azimuth, in "
                "degrees, or leave --shadow out"
            )
        return sun_elevation(str(height), where), sun_azimuth(str(direction), where)

    def elevation(self, asked: float | None) -> float | None:
        """Of the sun, degrees: by what `sun` goes by, else `asked`, else by its name, or None."""
        height, _ = self._position(asked, None)
        return None if height is None else sun_elevation(str(height), self._scene.where)

    @cached_property
    def _told(self) -> dict[str, str]:
        """See `fcd.landsat.sun.told`."""
        first = self._dataset(self._scene.bands[0])
        return told(self._scene.metadata(), first.tags(), Path(first.name))

    def _position(self, *asked: float | None) -> tuple[str | float | None, ...]:
        """By the name of its first file, whatever the scene is called beside others."""
        return position(self._told, asked, Path(self._dataset(self._scene.bands[0]).name).stem)

    def view(self, step: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Zenith and azimuth of the sensor in degrees, every `step`-th row and column, if known.

        Collection 2 ships them as hundredths of a degree, 0 where there is fill.
        """
        if not {"VZA", "VAA"} <= {*self._scene.files}:
            return None
        zenith, azimuth = (self._read(part, 0, None, step) / 100 for part in ("VZA", "VAA"))
        return zenith, azimuth

    def _number(self, part: str) -> int:
        """Which band of its file it is, from 1."""
        file = self._scene.files[part]
        return file.number if isinstance(file, Band) else 1

    def _dataset(self, part: str) -> rasterio.DatasetReader:
        file = self._scene.files.get(part)
        if file is None:
            raise SceneError(f"{self._scene.where}: no {part} file")
        path = os.fspath(file)
        if path not in self._datasets:
            try:
                self._datasets[path] = opened(path)
            except RasterioIOError as error:
                raise SceneError(f"{file} cannot be read: {error}") from error
            # Not entered as a context, which would tie it to the thread that opens it.
            self._stack.callback(self._datasets[path].close)
        return self._datasets[path]

    def _read(self, part: str, start: int, stop: int | None, step: int) -> np.ndarray:
        dataset, where = self._dataset(part), self._rows(start, stop, step)
        with self._whole(part):
            return dataset.read(self._number(part), window=where[0], out_shape=where[1])

    def _rows(self, start: int, stop: int | None, step: int) -> tuple[Window, tuple[int, int]]:
        """Window and shape of what is read."""
        height, width = self.grid.height, self.grid.width
        stop = height if stop is None else stop
        shape = (max(1, (stop - start) // step), max(1, width // step))
        return Window(0, start, width, stop - start), shape

    @contextmanager
    def _whole(self, part: str) -> Iterator[None]:
        """Say of a file whose pixels cannot be read that it is damaged."""
        try:
            yield
        except RasterioIOError as error:
            raise SceneError(
                f"{self._scene.files[part]} is damaged ({error.__cause__ or error}); download the "
                "scene again"
            ) from error

    def _hidden(self, start: int, stop: int | None, step: int) -> np.ndarray | None:
        """What masks and alpha bands of the bands' files hide, (C, h, w) bool; None if nothing."""
        where = self._rows(start, stop, step)
        found: dict[str, np.ndarray | None] = {}
        for parts in self._by_file.values():
            with self._whole(parts[0]):
                hidden = hidden_in(self._dataset(parts[0]), list(map(self._number, parts)), *where)
            found |= dict.fromkeys(parts, hidden)
        if all(hidden is None for hidden in found.values()):
            return None
        nothing = np.zeros(where[1], bool)
        masks = (found[part] for part in self._scene.bands)
        return np.stack([nothing if mask is None else mask for mask in masks])

    # Each method reads the rows `start` to `stop` (all by default) in full width, or every
    # `step`-th row and column of them.

    def bands(
        self,
        start: int = 0,
        stop: int | None = None,
        step: int = 1,
        asked: Sequence[float] | None = None,
    ) -> np.ndarray:
        """The bands as (C, h, w) in the files' type: of Landsat (C, h, w) uint16 DN, 0 is fill.

        Of other imagery it is float32 where a mask, an alpha band or what one band's file marks
        leaves gaps, which are NaN (`fcd.landsat.rasters.blanked`, also for `asked`).
        """
        parts = self._scene.bands

        def read(of_file: list[str]) -> dict[str, np.ndarray]:
            return {part: self._read(part, start, stop, step) for part in of_file}

        # Decompressing takes longer than a GPU's scores. A file is never read by two at a time.
        with ThreadPoolExecutor() as pool:
            found = ChainMap(*pool.map(read, self._by_file.values()))
        pixels = np.stack([found[part] for part in parts])
        hidden = self._hidden(start, stop, step)
        return plain(blanked(pixels, parts, hidden, self._marks, asked))

    def qa(self, start: int = 0, stop: int | None = None, step: int = 1) -> np.ndarray:
        """The quality band as (h, w) uint16 bit fields (`fcd.landsat.reference.BITS`)."""
        part = QA_PARTS[0] if QA_PARTS[0] in self._scene.files else QA_PARTS[1]
        return self._read(part, start, stop, step)

    def codes(self, start: int = 0, stop: int | None = None, step: int = 1) -> np.ndarray:
        """The manual mask as (h, w) uint8 in its own codes."""
        return self._read("FIXEDMASK", start, stop, step)

    def truth(self, start: int = 0, stop: int | None = None, step: int = 1) -> np.ndarray:
        """The manual mask as (h, w) uint8 patch codes: 0 invalid, 1 clear, 2 cloud."""
        codes = self.codes(start, stop, step)
        return self._scene.decode_truth(codes, str(self._scene.truth))


def find_scenes(
    root: Path | str,
    decode_truth: Callable[[np.ndarray, str], np.ndarray] = labels.patch_from_truth,
) -> list[Scene]:
    """All scenes below `root`, sorted by biome and name; folders between do not matter.

    The biome of others than the 96 is the first folder below `root`. decode_truth: of `Scene`.
    Raises `UserError` if `root` is no folder, holds no scene or holds one twice.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"{root} is no folder; give the folder that holds <biome>/<scene>/…")
    scenes: dict[str, Scene] = {}
    for found in scenes_in(files_below(root)):
        name, folder = found.name, Path(found.folder)
        if found.is_level_2 or not found.files.keys() & {*BANDS, "FIXEDMASK"}:
            continue
        if found.clash or name in scenes:
            first, other = found.clash or (scenes[name].folder, folder)
            raise UserError(f"scene {name} is there twice: {first} and {other}; remove one")
        first_part = folder.relative_to(root).parts[:1]
        place = first_part[0] if first_part not in ((), (name,)) else "Unknown"
        group = biome.biomes().get(name, place)
        scenes[name] = Scene(name, group, folder, found.files, decode_truth=decode_truth)
    if not scenes:
        raise UserError(
            f"no scene below {root}: expected files such as <biome>/<scene>/<scene>_B1.TIF"
        )
    return sorted(scenes.values(), key=lambda scene: (scene.biome, scene.name))
