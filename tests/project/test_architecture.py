"""Imports point one way: entry -> solver -> {model, data_loader} -> fcd; fcd never upward."""

import ast

import pytest

from tests.conftest import ROOT

LEVELS = {"model": 1, "data_loader": 1, "solver": 2}
ENTRIES = {
    "main", "supervised_main", "download_landsat8_biome", "prepare_landsat8_biome"
}  # fmt: skip
MODULES = sorted([*ROOT.glob("*.py"), *(ROOT / "fcd").rglob("*.py")])


def imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.split(".")[0]


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_imports_point_one_way(path):
    level = 0 if path.is_relative_to(ROOT / "fcd") else LEVELS.get(path.stem, 3)
    for name in imported(path):
        assert name not in ENTRIES, f"{path.name} imports the entry script {name}"
        assert LEVELS.get(name, -1) < max(level, 1), f"{path.name} imports {name}"


def test_top_level_is_the_one_promised():
    found = {path.name for path in ROOT.glob("*.py")}
    assert found == {f"{name}.py" for name in ENTRIES | set(LEVELS)}


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_no_namespace_below_the_entry_scripts(path):
    if path.stem not in ENTRIES | {"options", "modes"} and "__main__" not in path.read_text():
        assert "argparse" not in set(imported(path))
