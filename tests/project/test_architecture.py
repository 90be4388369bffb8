"""Every module of the program is where it belongs and imports what it may (tests/project/house)."""

import pytest

from tests.conftest import ROOT
from tests.project import house


@pytest.mark.parametrize("rule", house.RULES, ids=lambda rule: rule.__name__)
def test_the_house_is_in_order(rule):
    if found := list(rule(ROOT)):
        pytest.fail("\n".join([f"{len(found)} faults:", *found]), pytrace=False)


# --- do the rules see what they are to see? ----------------------------------------------------


@pytest.fixture
def forged(tmp_path):
    """A house in order, in a folder named `fcd`; `forged(place, text)` writes a module of it."""
    root = tmp_path / "fcd"

    def write(place, text="", *, listed=True):
        path = root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        room = path.parent / "__init__.py"
        if listed and path.parent.parent == root / "fcd" and path != room:
            room.write_text(room.read_text().replace('x"', f'x {path.stem}, x"'))
        return root

    for name in [*house.ENTRIES, *house.LEVELS]:
        write(f"{name}.py")
    for name in ["__init__", *house.GROUND]:
        write(f"fcd/{name}.py", '__version__ = "1"\n' if name == "__init__" else "")
    for room in house.ROOMS:
        write(f"fcd/{room}/__init__.py", '"""x"""\n')
    write("fcd/cut.py", "from fcd.cli import x\n\nx.run()\n")
    write("fcd/cli/x.py", "import argparse\n")
    return write


def faults(root):
    return [fault for rule in house.RULES for fault in rule(root)]


def test_a_house_in_order_has_no_fault(forged):
    forged("main.py", "import solver, data_loader\nfrom fcd.cli import x\nfrom fcd import errors\n")
    forged("download_landsat8_biome.py", "from fcd.download.a import b\n")
    forged("fcd/download/a.py", "from fcd import __version__\nfrom ..landsat import b\n")
    forged("fcd/landsat/b.py", "from . import c\nimport fcd.errors\n")
    forged("fcd/landsat/c.py", "import numpy, argcomplete\n")
    forged("fcd/files.py", "from fcd.errors import UserError\n")
    assert faults(forged("fcd/report/d.py", "import fcd.masks.e as e\n\nfrom fcd import pictures\n"
                         "if e:\n    import fcd.training.f\n")) == [
        "fcd/report/d.py:1 imports fcd.masks.e, which is no module of the program",
        "fcd/report/d.py:5 imports fcd.training.f, which is no module of the program",
    ]  # fmt: skip
    forged("fcd/masks/e.py")
    assert faults(forged("fcd/training/f.py")) == []


@pytest.mark.parametrize(
    ("place", "text", "fault"),
    [
        ("fcd/landsat/a.py", "import fcd.patches.z", "fcd.patches.z: landsat → patches"),
        ("fcd/landsat/a.py", "from fcd.patches import z", "fcd.patches.z: landsat → patches"),
        ("fcd/landsat/a.py", "from fcd.patches.z import y", "fcd.patches.z: landsat → patches"),
        ("fcd/landsat/a.py", "from fcd import cli", "fcd.cli: landsat → cli"),
        ("fcd/landsat/a.py", "from ..patches.z import y", "fcd.patches.z: landsat → patches"),
        ("fcd/landsat/a.py", "from .. import patches", "fcd.patches: landsat → patches"),
        ("fcd/errors.py", "from fcd.landsat import *", "fcd.landsat: ground → landsat"),
        ("fcd/training/a.py", "import fcd.masks", "fcd.masks: training → masks"),
        ("fcd/masks/a.py", "import fcd.training", "fcd.training: masks → training"),
        ("fcd/masks/a.py", "import fcd.report", "fcd.report: masks → report"),
        ("fcd/report/a.py", "from fcd.synthetic import z", "fcd.synthetic: report → synthetic"),
        ("fcd/download/a.py", "import fcd.synthetic", "fcd.synthetic: download → synthetic"),
        ("fcd/synthetic/__main__.py", "import fcd.landsat", "fcd.landsat: doors → landsat"),
        ("fcd/masks/a.py", "import model", "model: masks → top level"),
        ("fcd/cli/a.py", "from solver import Solver", "solver: cli → top level"),
        ("solver.py", "import fcd.synthetic", "fcd.synthetic: top → synthetic"),
        ("main.py", "import fcd.download", "fcd.download: top → download"),
        ("model.py", "import data_loader", "data_loader: model → data_loader"),
        ("data_loader.py", "import solver", "solver: data_loader → solver"),
        ("supervised_main.py", "import main", "main: nothing imports an entry script"),
        ("fcd/cli/a.py", "import fcd.cut", "fcd.cut: nothing imports a door"),
    ],
)
@pytest.mark.parametrize(
    "where",
    ["{}", "\ndef f():\n    {}", "if TYPE_CHECKING:\n    {}", "class C:\n    try:\n        {}\n"
     "    except ImportError:\n        pass"],
    ids=["above", "in a function", "for types", "in a class"],
)  # fmt: skip
def test_a_wrong_arrow_is_found_wherever_it_stands(forged, place, text, fault, where):
    forged("fcd/patches/z.py", "y = 1\n")
    root = forged(place, where.format(text), listed="__" not in place)
    line = where[: where.index("{")].count("\n") + 1
    assert [found for found in faults(root) if "→" in found or "nothing imports" in found] == [
        f"{place}:{line} imports {fault}"
    ]


def test_what_only_the_tests_and_benchmarks_know_is_not_imported(forged):
    assert faults(forged("solver.py", "from tests.conftest import draw\n")) == [
        "solver.py:1 imports tests.conftest, which is no module of the program"
    ]


def test_cycles_are_found(forged):
    forged("fcd/masks/a.py", "from fcd.masks import b\n")
    forged("fcd/masks/b.py", "def f():\n    import fcd.masks.c\n")
    forged("fcd/masks/c.py", "from fcd.masks.a import x\n")
    forged("fcd/files.py", "import fcd.errors\n")
    assert faults(forged("fcd/errors.py", "from fcd.files import x\n")) == [
        "a cycle: fcd.errors → fcd.files → fcd.errors",
        "a cycle: fcd.masks.a → fcd.masks.b → fcd.masks.c → fcd.masks.a",
    ]


@pytest.mark.parametrize(
    ("place", "fault"),
    [
        ("fcd/tools.py", "none of the six modules of the ground floor"),
        ("fcd/utils/__init__.py", "utils is none of the eight rooms"),
        ("fcd/utils/a.py", "utils is none of the eight rooms"),
        ("fcd/masks/deeper/a.py", "a folder within a room"),
        ("helpers.py", "no module of the top level"),
    ],
)
def test_a_module_in_the_wrong_place_is_found(forged, place, fault):
    assert faults(forged(place, listed=False)) == [f"{place}: {fault}"]


def test_a_door_that_does_more_than_forward_is_found(forged):
    text = "from fcd.cli import x\n\n\ndef main():\n    pass\n"
    assert faults(forged("fcd/cut.py", text)) == [
        "fcd/cut.py: a door only calls what is in fcd/cli"
    ]


def test_a_missing_room_and_a_missing_module_are_found(forged):
    root = forged("fcd/masks/__init__.py")
    (root / "fcd/masks/__init__.py").unlink()
    (root / "fcd/metrics.py").unlink()
    (root / "model.py").unlink()
    assert faults(root) == [
        "fcd/masks/__init__.py: is missing",
        "fcd/metrics.py: is missing",
        "model.py: is missing",
    ]


@pytest.mark.parametrize("text", ['"""x"""\nimport os\n', "", "x = 1\n"])
def test_a_room_that_says_more_or_less_than_one_docstring_is_found(forged, text):
    assert faults(forged("fcd/masks/__init__.py", text)) == [
        "fcd/masks/__init__.py: more, or less, than one docstring"
    ]


def test_a_module_that_its_room_does_not_name_is_found(forged):
    forged("fcd/masks/tiling.py")
    forged("fcd/masks/__init__.py", '"""Scores (`tiles.py`) of tilings: cam.py, export."""\n')
    forged("fcd/masks/export.py", listed=False)
    forged("fcd/masks/cam.py", listed=False)
    assert faults(forged("fcd/masks/tiles.py", listed=False)) == [
        "fcd/masks/__init__.py: does not name tiling.py"
    ]


def test_what_is_too_large_is_found(forged):
    function = "def f():\n" + "    x = 1\n" * 59
    assert faults(forged("fcd/masks/a.py", function + "\n" * 390)) == []
    assert faults(forged("fcd/masks/a.py", function + "\n" * 391)) == [
        "fcd/masks/a.py: 451 lines, more than 450"
    ]
    assert faults(forged("main.py", "\n" * 201)) == [
        "fcd/masks/a.py: 451 lines, more than 450", "main.py: 201 lines, more than 200"
    ]  # fmt: skip
    forged("main.py", "\n" * 200)
    forged("fcd/masks/a.py", "class C:\n    async def f():\n" + "        x = 1\n" * 60)
    assert faults(forged("solver.py", "\n" * 700)) == [
        "fcd/masks/a.py:2 C.f: 61 lines, more than 60"
    ]
    forged("fcd/masks/a.py", "class C:\n" + "    x = 1\n" * 300)
    assert faults(forged("solver.py", "\n" * 701)) == [
        "fcd/masks/a.py:1 C: 301 lines, more than 300", "solver.py: 701 lines, more than 700"
    ]  # fmt: skip


def test_a_function_that_is_too_long_is_found(forged):
    root = forged("model.py", "class FCDSolver:\n    def train(self):\n" + "        x = 1\n" * 60)
    assert faults(root) == ["model.py:2 FCDSolver.train: 61 lines, more than 60"]


@pytest.mark.parametrize("parser", ["argparse", "jsonargparse.typing", "simple_parsing"])
def test_a_command_line_that_is_read_elsewhere_is_found(forged, parser):
    assert faults(forged("fcd/report/a.py", f"def f():\n    from {parser} import x\n")) == [
        f"fcd/report/a.py:2 imports {parser}: only fcd/cli reads command lines"
    ]
