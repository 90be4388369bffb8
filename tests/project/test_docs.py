"""README and docs/: their commands are understood, their links lead somewhere."""

import ast
import importlib
import importlib.util
import re
import shlex
import subprocess
import sys

import pytest

import download_landsat8_biome
import main
import prepare_landsat8_biome
import supervised_main
from fcd.cli.commands import Compare, Crop, Cut, Draw, Fold
from fcd.cli.parser import parse
from tests.conftest import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SCRIPTS = {
    module.__name__: module
    for module in (main, supervised_main, prepare_landsat8_biome, download_landsat8_biome)
}
MODULES = {
    "fcd.comparison": Compare,
    "fcd.crops": Crop,
    "fcd.cut": Cut,
    "fcd.folds": Fold,
    "fcd.synthetic": Draw,
}
FENCE = re.compile(r"^```\w*\n(.*?)^```", re.M | re.S)
BENCHMARKS = [
    f"benchmarks.{path.stem}"
    for path in sorted((ROOT / "benchmarks").glob("*.py"))
    if re.search(r"^class Settings\b.*^def main\b", path.read_text(encoding="utf-8"), re.M | re.S)
]


def commands(pattern):
    """What `pattern` finds in each line of code, and in code within a line that has arguments.

    Continued lines are joined.
    """
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        blocks = re.findall(FENCE, text)
        within = re.findall(r"`([^`\n]+)`", re.sub(FENCE, "", text))
        blocks += [code for code in within if re.match(r"python (-m )?[\w.]+ \S", code)]
        for block in blocks:
            for match in re.finditer(pattern, re.sub(r"\\\n\s*", "", block), re.M):
                found.append(pytest.param(*match.groups(), id=f"{page.name}: {match[0][:60]}"))
    return found


@pytest.mark.parametrize(
    ("script", "arguments"), commands(rf"^\$? ?python ({'|'.join(SCRIPTS)})\.py *([^#\n]*)")
)
def test_commands_are_understood(script, arguments):
    assert parse(SCRIPTS[script].Settings, shlex.split(arguments))


@pytest.mark.parametrize(
    ("module", "arguments"),
    commands(rf"^(?:for .*do )?python -m ({'|'.join([*MODULES, *BENCHMARKS])})\b *([^#\n]*)"),
)
def test_commands_of_modules_are_understood(module, arguments):
    settings = MODULES.get(module) or importlib.import_module(module).Settings
    assert parse(settings, shlex.split(arguments))


@pytest.mark.parametrize("module", commands(r"^(?:for .*do )?python -m ([\w.]+)"))
def test_modules_of_commands_are_there(module):
    assert importlib.util.find_spec(module), module


@pytest.mark.parametrize("script", commands(r"\bbash (scripts/\S+\.sh)"))
def test_scripts_of_commands_are_there(script):
    assert (ROOT / script).is_file()


def anchors(page):
    """What GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_lead_somewhere(page):
    text = re.sub(FENCE, "", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), target
        if anchor:
            assert anchor in anchors(linked), target


def test_every_page_can_be_reached_from_the_readme():
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for page in PAGES[1:]:
        assert f"{page.name})" in text or f"{page.name}#" in text, page


def test_the_readmes_map_is_whole():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme.count("\n") <= 160
    places = re.findall(r"^(\S+)", readme.split("## Map")[1].split("```")[1], re.M)
    rooms = [f"fcd/{path.parent.name}/" for path in (ROOT / "fcd").glob("*/__init__.py")]
    for place in [path.name for path in ROOT.glob("*.py")] + rooms:
        assert places.count(place) == 1, place
    for place in places:
        assert list(ROOT.glob(place)), place


NAMED = re.compile(
    r"\b(?:fcd|tests|scripts|benchmarks)(?:/[\w.*<>-]+)+|\b(?:fcd|benchmarks|tests)(?:\.\w+)+"
)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "docs/demo.ipynb"], ids=lambda page: page.name)
def test_files_and_modules_that_a_page_names_are_there(page):
    for named in NAMED.findall(page.read_text(encoding="utf-8")):
        if "/" in named:
            path = re.sub(r"<\w+>", "*", named).rstrip(".")
            assert list(ROOT.glob(path)), named
        elif not module_exists(named):
            module, _, attribute = named.rpartition(".")
            assert module_exists(module), named
            assert hasattr(importlib.import_module(module), attribute), named


def module_exists(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def test_the_pages_build_as_a_site(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site" / "predict" / "index.html").read_text(encoding="utf-8")
    assert "<h1" in page
    assert "seam.png" in page
    assert not re.search(r'<(?:script|link|img)[^>]+(?:src|href)="(?:https?:)?//', page), "offline"


NINE = """\
conda env create -f environment.yml && conda activate fcd
python download_landsat8_biome.py
python prepare_landsat8_biome.py
python main.py --mode train --dataset L8Biome --image_size 128 --batch_size 16 --experiment_name FCD
tensorboard --logdir=runs
python main.py --mode generate_masks --batch_size 64 --experiment_name FCD
python prepare_landsat8_biome.py --generated_masks outputs/FCD/results/tifs
python supervised_main.py --mode train --batch_size 64 --train_mask_file generated_mask.tif --classifier_head True --experiment_name FCD+
python supervised_main.py --mode train --batch_size 64 --keep_ratio 0.01 --lr 1e-5 --freeze_encoder True --model_weights outputs/FCDPlus/models/best.pt --experiment_name FCD+1Pct
"""  # noqa: E501


def test_the_readme_shows_the_nine_commands_verbatim():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert [line for line in NINE.splitlines() if line not in lines] == []


# --- troubleshooting -----------------------------------------------------------------------


def errors(trees):
    """What our own errors are called: `UserError`, what derives from it, and what becomes one."""
    names = {"UserError", "_TryAgain", "OSError", "ArgumentTypeError"}
    bases = {
        node.name: {getattr(base, "id", None) for base in node.bases}
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    while more := {name for name, of in bases.items() if of & names} - names:
        names |= more
    return names


def fixed_parts(node):
    """The longest fixed part of a string; of each of those that `+`, `*` or `if` join."""
    if isinstance(node, ast.BinOp):
        return fixed_parts(node.left) + fixed_parts(node.right)
    if isinstance(node, ast.IfExp):
        return fixed_parts(node.body) + fixed_parts(node.orelse)
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    constants = [part.value for part in parts if isinstance(part, ast.Constant)]
    longest = max((text for text in constants if isinstance(text, str)), key=len, default="")
    return [part] if (part := longest.strip(" ;:,()'")) else []


def messages():
    """The longest fixed parts of each message of our own errors, and where it is raised."""
    paths = sorted([*ROOT.glob("*.py"), *(ROOT / "fcd").rglob("*.py")])
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in paths}
    names, found = errors(trees.values()), []
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            if getattr(node.func, "id", getattr(node.func, "attr", None)) in names:
                place = f"{path.name}:{node.lineno}"
                found += [pytest.param(part, id=place) for part in fixed_parts(node.args[0])]
    return found


@pytest.mark.parametrize("fragment", messages())
def test_every_error_message_is_in_troubleshooting(fragment):
    page = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
    assert " ".join(fragment.split()) in " ".join(page.split()), fragment
