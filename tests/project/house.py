"""The house: where each module lives, what it may import, how large it may be.

Every rule is a function (root of a checkout) -> faults, a line each, that name the file, the line
and what is wrong. `root` may be a forged tree, which is how the rules themselves are tested.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

GROUND = {"errors", "files", "interruption", "metrics", "pictures", "processes"}
STANDS_ON = {
    "ground": {"ground"},
    "landsat": {"ground", "landsat"},
    "patches": {"ground", "landsat", "patches"},
    "synthetic": {"ground", "landsat", "patches", "synthetic"},
    "download": {"ground", "landsat", "patches", "download"},
    "training": {"ground", "landsat", "patches", "training"},
    "masks": {"ground", "landsat", "patches", "masks"},
    "report": {"ground", "landsat", "patches", "training", "masks", "report"},
    "cli": {
        "ground", "landsat", "patches", "synthetic", "download", "training", "masks", "report",
        "cli",
    },
    "doors": {"cli"},
    "top": {"ground", "landsat", "patches", "training", "masks", "report", "cli"},
}  # fmt: skip
ROOMS = set(STANDS_ON) - {"ground", "doors", "top"}
# `python -m fcd.comparison` and the like: they call what is in fcd/cli, and nobody imports them.
DOORS = {
    "fcd.comparison", "fcd.crops", "fcd.cut", "fcd.folds", "fcd.synthetic.__main__"
}  # fmt: skip
# The top level among itself: a module stands on those of a lower level; nothing on the entries.
LEVELS = {"model": 1, "data_loader": 1, "solver": 2}
ENTRIES = {
    "main", "supervised_main", "download_landsat8_biome", "prepare_landsat8_biome"
}  # fmt: skip
OUTSIDE = {"tests", "benchmarks", "scripts"}
PARSERS = {"argparse", "jsonargparse", "simple_parsing"}

MODULE_LINES = {"solver": 700, "main": 200, "supervised_main": 200}  # others: 450
CLASS_LINES = 300
FUNCTION_LINES = 60


@dataclass(frozen=True)
class Module:
    """A module of the program: `name` is what an import says, `place` its path below the root."""

    name: str
    place: Path
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        """What the module says."""
        return ast.parse(self.text)

    @property
    def room(self) -> str:
        """Its room: one of `STANDS_ON`, or the name of what is no room."""
        if self.place.parts[0] != "fcd":
            return "top"
        if self.name in DOORS:
            return "doors"
        if len(self.place.parts) > 2:
            return self.place.parts[1]
        return "ground"

    @property
    def is_init(self) -> bool:
        """Whether it is the `__init__` of a folder."""
        return self.place.name == "__init__.py"


def modules(root: Path) -> dict[str, Module]:
    """The modules of the top level and of fcd/ by name."""
    found = {}
    for path in sorted([*root.glob("*.py"), *(root / "fcd").rglob("*.py")]):
        place = path.relative_to(root)
        parts = place.with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = Module(name, place, path.read_text(encoding="utf-8"))
    return found


def imported(module: Module, known: dict[str, Module]) -> Iterator[tuple[int, str]]:
    """(line, name) of each import, wherever it stands: of a module of ours its whole name.

    `from fcd.landsat import labels` is an import of fcd.landsat.labels if there is such a module.
    """
    package = module.name.split(".") if module.is_init else module.name.split(".")[:-1]
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                yield node.lineno, inner if inner in known else source


def edges(root: Path) -> Iterator[tuple[Module, int, Module]]:
    """(importer, line, imported) of every import between two modules of ours."""
    known = modules(root)
    for module in known.values():
        for line, name in imported(module, known):
            if name in known and name != module.name:
                yield module, line, known[name]


# --- rules -------------------------------------------------------------------------------------


def arrows(root: Path) -> Iterator[str]:
    """Every import is in the table."""
    for module, line, other in edges(root):
        where = f"{module.place}:{line} imports {other.name}: "
        allowed = set(STANDS_ON.get(module.room, ()))
        if module.name == "download_landsat8_biome":
            allowed.add("download")
        if other.room == "doors":
            yield f"{where}nothing imports a door"
        elif other.room == "top":
            if other.name in ENTRIES:
                yield f"{where}nothing imports an entry script"
            elif module.room != "top":
                yield f"{where}{module.room} → top level"
            elif LEVELS.get(module.name, 3) <= LEVELS.get(other.name, 0):
                yield f"{where}{module.name} → {other.name}"
        elif other.name != "fcd" and other.room not in allowed:
            yield f"{where}{module.room} → {other.room}"


def strangers(root: Path) -> Iterator[str]:
    """The program imports neither tests nor benchmarks, and every name of ours exists."""
    known = modules(root)
    for module in known.values():
        for line, name in imported(module, known):
            first = name.split(".")[0]
            if first in OUTSIDE or (first == "fcd" and name not in known):
                yield f"{module.place}:{line} imports {name}, which is no module of the program"


def cycles(root: Path) -> Iterator[str]:
    """No two modules of a room, of the ground floor or of the top level need one another."""
    within: dict[str, set[str]] = {}
    for module, _, other in edges(root):
        if module.room == other.room and not other.is_init:
            within.setdefault(module.name, set()).add(other.name)
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> Iterator[str]:
        if name in path:
            yield "a cycle: " + " → ".join([*path[path.index(name) :], name])
        elif name not in done:
            for other in sorted(within.get(name, ())):
                yield from walk(other, [*path, name])
            done.add(name)

    for name in sorted(within):
        yield from walk(name, [])


def places(root: Path) -> Iterator[str]:
    """The eight rooms, the six modules of the ground floor, the doors, and nothing else."""
    for module in modules(root).values():
        parts = module.place.parts
        if parts[0] != "fcd":
            if module.name not in ENTRIES | set(LEVELS):
                yield f"{module.place}: no module of the top level"
        elif module.room == "doors":
            if not _only_forwards(module):
                yield f"{module.place}: a door only calls what is in fcd/cli"
        elif len(parts) == 2:
            if not module.is_init and module.place.stem not in GROUND:
                yield f"{module.place}: none of the six modules of the ground floor"
        elif parts[1] not in ROOMS:
            yield f"{module.place}: {parts[1]} is none of the eight rooms"
        elif len(parts) > 3:
            yield f"{module.place}: a folder within a room"
    wanted = [f"{name}.py" for name in ENTRIES | set(LEVELS)]
    wanted += [f"fcd/{name}.py" for name in GROUND] + [f"fcd/{name}/__init__.py" for name in ROOMS]
    for place in sorted(wanted):
        if not (root / place).is_file():
            yield f"{place}: is missing"


def _only_forwards(module: Module) -> bool:
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.For, ast.While)
    return len(module.text.splitlines()) <= 12 and not any(
        isinstance(node, definitions) for node in ast.walk(module.tree)
    )


def docstrings(root: Path) -> Iterator[str]:
    """A room's __init__ is one docstring, which names each module of the room."""
    known = modules(root)
    for module in known.values():
        if not module.is_init or module.room not in ROOMS:
            continue
        said = ast.get_docstring(module.tree)
        if said is None or len(module.tree.body) != 1:
            yield f"{module.place}: more, or less, than one docstring"
        words = set((said or "").replace("`", " ").replace(",", " ").replace(":", " ").split())
        words |= {word.strip(".();").removesuffix(".py") for word in words}
        for other in known.values():
            beside = other.place.parent == module.place.parent
            inside = beside and not other.is_init and other.room != "doors"
            if inside and other.place.stem not in words:
                yield f"{module.place}: does not name {other.place.name}"


def sizes(root: Path) -> Iterator[str]:
    """No module, class or function is larger than can be read."""
    for module in modules(root).values():
        lines = len(module.text.splitlines())
        if lines > (most := MODULE_LINES.get(module.name, 450)):
            yield f"{module.place}: {lines} lines, more than {most}"
        yield from _sizes_within(module, module.tree, "")


def _sizes_within(module: Module, parent: ast.AST, outer: str) -> Iterator[str]:
    for node in ast.iter_child_nodes(parent):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield from _sizes_within(module, node, outer)
            continue
        name = f"{outer}.{node.name}".lstrip(".")
        lines = (node.end_lineno or node.lineno) - node.lineno + 1
        most = CLASS_LINES if isinstance(node, ast.ClassDef) else FUNCTION_LINES
        if lines > most:
            yield f"{module.place}:{node.lineno} {name}: {lines} lines, more than {most}"
        yield from _sizes_within(module, node, name)


def parsers(root: Path) -> Iterator[str]:
    """Command lines are read in fcd/cli alone."""
    known = modules(root)
    for module in known.values():
        for line, name in imported(module, known):
            if name.split(".")[0] in PARSERS and module.room != "cli":
                yield f"{module.place}:{line} imports {name}: only fcd/cli reads command lines"


RULES = (arrows, strangers, cycles, places, docstrings, sizes, parsers)
