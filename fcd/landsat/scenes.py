"""Find Landsat-8/9 scenes and read them, window by window."""

import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

import numpy as np
import rasterio
from rasterio.crs import CRS
from rasterio.errors import RasterioIOError
from rasterio.transform import Affine
from rasterio.windows import Window

from fcd.errors import SceneError, UserError
from fcd.landsat import biome, labels
from fcd.landsat.archives import Member
from fcd.landsat.bands import BANDS
from fcd.landsat.mtl import parse_mtl
from fcd.landsat.rasters import Grid, nodata_of, opened

MAX_SIDE = 65_535  # pixels; a Landsat scene has 8,000
QA_PARTS = ("BQA", "QA_PIXEL")
SCENE_FILE = re.compile(
    r"^(?P<scene>.+)_(?P<part>B\d+|BQA|QA_PIXEL|MTL|fixedmask)\.(?P<suffix>TIF|img|txt)$", re.I
)


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
    """The files of one scene. Nothing is opened before `check`, `grid` or `open`.

    files: part ("B1", "BQA", "MTL", "FIXEDMASK") -> file. bands: the parts a network is given, in
    order. decode_truth: codes of the manual mask and their source -> patch codes.
    """

    name: str
    biome: str
    folder: Path
    files: Mapping[str, File] = field(hash=False)
    bands: tuple[str, ...] = BANDS
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

    def metadata(self) -> dict[str, str]:
        """The fields of its MTL file, none if there is none; `UserError` if it is damaged."""
        file = self.files.get("MTL")
        return {} if file is None or isinstance(file, Band) else parse_mtl(file)

    def check(self, *, need_truth: bool = False, need_qa: bool = False) -> Grid:
        """Return the grid of the scene, or raise `SceneError` with everything that is wrong."""
        problems, sizes, places = [], {}, {}
        missing = [band for band in self.bands if band not in self.files]
        if missing:
            problems.append(f"missing band {', '.join(missing)}")
        if need_truth and self.truth is None:
            problems.append(f"missing {self.name}_fixedmask.img")
        if need_qa and self.qa is None:
            problems.append(f"missing quality band {self.name}_BQA.TIF or {self.name}_QA_PIXEL.TIF")
        for part in (*self.bands, *["FIXEDMASK"] * need_truth, *QA_PARTS * need_qa):
            if file := self.files.get(part):
                try:
                    with opened(file) as dataset:
                        sizes[part] = dataset.shape
                        places[part] = (dataset.crs, dataset.transform)
                        problems += self._unusable(part, dataset)
                except OSError as error:  # RasterioIOError is one
                    problems.append(f"{file.name} cannot be read ({error})")
        places.pop("FIXEDMASK", None)  # it has no position of its own
        problems += self._misplaced(places)
        for (height, width), _ in Counter(sizes.values()).most_common(1):
            problems += [
                f"{self.files[part].name} is {size[1]}x{size[0]} pixels, the others are "
                f"{width}x{height}"
                for part, size in sizes.items()
                if size != (height, width)
            ]
        if problems:
            raise SceneError(f"{self.where}: {'; '.join(problems)}")
        return self.grid()

    def _unusable(self, part: str, dataset: rasterio.DatasetReader) -> list[str]:
        """What pixels cannot be used, in words."""
        file, name, dtype = self.files[part], self.files[part].name, dataset.dtypes[0]
        told = []
        if part == "FIXEDMASK":
            fits = dtype == "uint8"
        elif part in QA_PARTS:
            fits = dtype in ("uint8", "uint16")
        elif self.bands == BANDS:
            fits = dtype == "uint16"
        else:
            fits = not dtype.startswith("complex")
        if not fits:
            wanted = ", Level-1 DN are uint16" if part in BANDS else ""
            told.append(f"{name} holds {dtype}{wanted}")
        size = file.stat().st_size if isinstance(file, Path) else math.inf
        if dataset.driver == "ENVI" and size < math.prod(dataset.shape):
            told.append(f"{name} is cut off")  # GDAL would read fill
        if max(dataset.shape) > MAX_SIDE:
            told.append(f"{name} is larger than {MAX_SIDE:,} pixels")
        return told

    def _misplaced(self, places: dict[str, tuple[CRS | None, Affine]]) -> list[str]:
        """Bands that lie elsewhere than the first, or nowhere, in words."""
        if not places:
            return []
        first, (crs, transform) = next(iter(places.items()))
        if crs is None and self.bands == BANDS:
            return [f"{self.files[first].name} has no CRS"]
        nearly = 1e-4 * math.hypot(transform.a, transform.d)  # of a pixel
        return [
            f"{self.files[part].name} lies on another grid than {self.files[first].name}"
            for part, place in places.items()
            if place[0] != crs or np.abs(np.subtract(place[1], transform)).max() > nearly
        ]

    def grid(self) -> Grid:
        """Size, CRS and transform, taken from the first band (the .img is not georeferenced)."""
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
        parts = self._scene.bands
        first, *others = [self._dataset(part).dtypes[self._number(part) - 1] for part in parts]
        for part, dtype in zip(parts[1:], others, strict=True):
            if dtype != first:
                files = self._scene.files
                raise SceneError(
                    f"{self._scene.where}: {files[part].name} holds {dtype}, "
                    f"{files[parts[0]].name} {first}; all bands must be of one type, that of "
                    "training: convert them, such as by gdal_translate -ot"
                )
        return first

    @cached_property
    def nodata(self) -> float | tuple[float | None, ...] | None:
        """What the bands' files mark as nodata; of each band if they do not all mark the same."""
        parts = self._scene.bands
        marked = tuple(nodata_of(self._dataset(part), self._number(part)) for part in parts)
        return marked[0] if len(set(marked)) == 1 else marked

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
        dataset, file = self._dataset(part), self._scene.files[part]
        stop = dataset.height if stop is None else stop
        shape = (max(1, (stop - start) // step), max(1, dataset.width // step))
        window = Window(0, start, dataset.width, stop - start)
        try:
            return dataset.read(self._number(part), window=window, out_shape=shape)
        except RasterioIOError as error:
            raise SceneError(
                f"{file} is damaged ({error.__cause__ or error}); download the scene again"
            ) from error

    # Each method reads the rows `start` to `stop` (all by default) in full width, or every
    # `step`-th row and column of them.

    def bands(self, start: int = 0, stop: int | None = None, step: int = 1) -> np.ndarray:
        """The bands as (C, h, w) in the files' type: of Landsat (10, h, w) uint16 DN, 0 is fill."""
        return np.stack([self._read(band, start, stop, step) for band in self._scene.bands])

    def qa(self, start: int = 0, stop: int | None = None, step: int = 1) -> np.ndarray:
        """The quality band as (h, w) uint16 bit fields (see `fcd.landsat.qa`)."""
        part = QA_PARTS[0] if QA_PARTS[0] in self._scene.files else QA_PARTS[1]
        return self._read(part, start, stop, step)

    def truth(self, start: int = 0, stop: int | None = None, step: int = 1) -> np.ndarray:
        """The manual mask as (h, w) uint8 patch codes: 0 invalid, 1 clear, 2 cloud."""
        codes = self._read("FIXEDMASK", start, stop, step)
        try:
            return self._scene.decode_truth(codes, str(self._scene.truth))
        except UserError as error:
            raise SceneError(str(error)) from error


def find_scenes(root: Path | str) -> list[Scene]:
    """All scenes below `root`, sorted by biome and name; folders between do not matter.

    The biome is looked up in the list of the 96 Biome scenes, else it is the first folder
    below `root`. Raises `UserError` if `root` is no folder, holds no scene or holds one twice.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"{root} is no folder; give the folder that holds <biome>/<scene>/…")
    found: dict[tuple[Path, str], dict[str, File]] = {}
    for place, subfolders, names in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(names):
            if match := SCENE_FILE.match(name):
                parts = found.setdefault((Path(place), match["scene"]), {})
                parts[match["part"].upper()] = Path(place, name)
    scenes: dict[str, Scene] = {}
    for (folder, name), files in found.items():
        if not any(part in BANDS or part == "FIXEDMASK" for part in files):
            continue
        if name in scenes:
            raise UserError(
                f"scene {name} is there twice: {scenes[name].folder} and {folder}; remove one"
            )
        scenes[name] = Scene(name, _biome(root, folder, name), folder, files)
    if not scenes:
        raise UserError(
            f"no scene below {root}: expected files such as <biome>/<scene>/<scene>_B1.TIF"
        )
    return sorted(scenes.values(), key=lambda scene: (scene.biome, scene.name))


def _biome(root: Path, folder: Path, name: str) -> str:
    known = biome.biomes().get(name)
    if known:
        return known
    between = folder.relative_to(root).parts
    return between[0] if between and between[0] != name else "Unknown"
