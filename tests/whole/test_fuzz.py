"""Malformed input of every kind a user can hand over: only our own errors come out, no hang.

Each test makes a good input, changes its bytes or its values at random (the same ones every time),
and reads it as the commands do. `COUNTS` keeps how many inputs were tried and how many refused;
`python -m tests.whole.reliability` prints them.
"""

import contextlib
import copy
import gzip
import io
import json
import os
import shutil
import tarfile
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import main
from data_loader import PatchDataset
from fcd.cli.parser import parse
from fcd.cli.run_folder import start_run
from fcd.cli.settings import GANTraining
from fcd.errors import UserError
from fcd.landsat import archives
from fcd.landsat.bands import band_names
from fcd.landsat.mtl import parse_mtl
from fcd.landsat.products import expand, scene_from
from fcd.landsat.reference import QA, TRUTH, Collection, Reference, mask_from_qa
from fcd.landsat.scenes import find_scenes
from fcd.masks import thresholds
from fcd.patches import cutting, generated, splits, store
from fcd.patches.normalisation import Normalization
from fcd.report import comparison
from fcd.training import checkpoints
from fcd.training.run import Run, RunFolder
from solver import FCDSolver, GANSize, SupervisedSolver, Task, load_solver
from tests.conftest import draw, write_scene
from tests.landsat.test_products import ONE, TWO, mtl

EXAMPLES = int(os.environ.get("FCD_FUZZ_EXAMPLES", 20))
COUNTS: dict[str, Counter] = {}
CPU = torch.device("cpu")

repeatable = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@contextlib.contextmanager
def only_our_errors(kind):
    """Whatever else comes out fails the test."""
    counts = COUNTS.setdefault(kind, Counter())
    counts["tried"] += 1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UserError:
        counts["refused"] += 1
    counts["handled"] += 1


@st.composite
def damage(draw):
    """A function that changes bytes: cuts, flips, overwrites, inserts, repeats."""
    edits = draw(
        st.lists(
            st.tuples(
                st.sampled_from(["cut", "flip", "write", "insert", "delete", "number"]),
                st.floats(0, 1, exclude_max=True),
                st.binary(min_size=1, max_size=8),
            ),
            min_size=1,
            max_size=6,
        )
    )

    def change(content):
        content = bytearray(content)
        for kind, where, new in edits:
            # Headers are short and matter most: half of the changes go to the first 400 bytes.
            reach = min(len(content), 400) if new[0] % 2 else len(content)
            at = int(where * max(reach, 1))
            if kind == "cut":
                del content[at:]
            elif kind == "flip" and content:
                content[min(at, len(content) - 1)] ^= 1 << new[0] % 8
            elif kind == "write":
                content[at : at + len(new)] = new
            elif kind == "insert":
                content[at:at] = new
            elif kind == "delete":
                del content[at : at + len(new)]
            else:
                content[at : at + 4] = (2 ** (new[0] % 33) - 1).to_bytes(5, "little")[:4]
        return bytes(content)

    return change


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=8),
    st.sampled_from(["../x", "/etc/passwd", "train", "\0", 1 << 40, -1, 0]),
)  # fmt: skip
JUNK = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


@st.composite
def replacement(draw):
    """A function that replaces, removes or adds an entry somewhere in nested dicts and lists."""
    steps = draw(st.lists(st.integers(0, 30), min_size=1, max_size=5))
    what, junk = draw(st.sampled_from(["replace", "remove", "add"])), draw(JUNK)

    def change(value):
        value = copy.deepcopy(value)
        parent, key, here = None, None, value
        for step in steps:
            if isinstance(here, dict | list) and here:
                parent = here
                key = list(here)[step % len(here)] if isinstance(here, dict) else step % len(here)
                here = here[key]
        if parent is None:
            return junk
        if what == "remove":
            del parent[key]
        elif what == "add" and isinstance(parent, dict):
            parent["extra"] = junk
        else:
            parent[key] = junk
        return value

    return change


# --- scenes --------------------------------------------------------------------------------------


def read_scenes(root):
    for scene in find_scenes(root):
        for source in (TRUTH, QA):
            with contextlib.suppress(UserError):
                reference = Reference(scene, source)
                reference.check()
                with scene.open() as reader:
                    dn, mask = reader.bands(), reference.mask(reader)
                assert dn.dtype in (np.uint8, np.uint16)
                assert mask.dtype == np.uint8
                assert mask.max(initial=0) <= 2


@pytest.mark.parametrize("part", ["B1.TIF", "B11.TIF", "BQA.TIF", "fixedmask.img", "fixedmask.hdr"])
def test_bands_masks_and_qa(place, part):
    write_scene(place / "s" / "Water" / "S1", "S1", *draw(24, 20, 0), np.full((24, 20), 2720, "u2"))
    path = place / "s" / "Water" / "S1" / f"S1_{part}"
    good = path.read_bytes()

    @settings(repeatable, max_examples=max(EXAMPLES // 2, 5))  # each is cut, too
    @given(damage())
    def check(change):
        path.write_bytes(change(good))
        with only_our_errors(f"scene: {part}"):
            read_scenes("s")
        with only_our_errors(f"scene: {part}"):
            scene = find_scenes("s")[0]
            cutting.cut_scene(scene, place / "p", "train", cutting.Cutting(8, 8))
        shutil.rmtree(place / "p", ignore_errors=True)

    check()


@pytest.mark.parametrize("dtype", ["int16", "uint32", "float32", "float64", "complex64"])
@pytest.mark.parametrize("part", ["B4", "BQA", "fixedmask"])
def test_files_of_another_number_type(place, part, dtype):
    write_scene(place / "s" / "S1", "S1", *draw(24, 20, 0), np.full((24, 20), 2720, "u2"))
    path = place / "s" / "S1" / f"S1_{part}.{'img' if part == 'fixedmask' else 'TIF'}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(path, "w", driver="GTiff", height=24, width=20, count=1, dtype=dtype,
                           crs="EPSG:32616") as dataset:  # fmt: skip
            dataset.write(np.full((24, 20), 300, dtype), 1)
    source = QA if part == "BQA" else TRUTH
    with pytest.raises(UserError, match=f"S1_{part}.* holds {dtype}"):
        Reference(find_scenes("s")[0], source).check()


@pytest.mark.parametrize("kind", ["path.tif", "folder", "archive.tar", "archive.tar.gz"])
def test_scenes_to_predict(place, kind):
    write_scene(place / "s", ONE, *draw(24, 20, 0), np.full((24, 20), 2720, "u2"))
    (place / "s" / f"{ONE}_MTL.txt").write_text(mtl(ONE))
    if kind.startswith("archive"):
        path = place / kind
        with tarfile.open(path, "w:gz" if kind.endswith("gz") else "w") as archive:
            for file in sorted((place / "s").iterdir()):
                archive.add(file, file.name)
        given_path, good = str(path), path.read_bytes()
    elif kind == "folder":
        path = place / "s" / f"{ONE}_MTL.txt"
        given_path, good = str(place / "s"), path.read_bytes()
    else:
        path = place / "s" / f"{ONE}_B1.TIF"
        given_path, good = str(path), path.read_bytes()

    @repeatable
    @given(damage(), st.sampled_from([None, "1-7,9-11", "B1,B2", "1", "9-1", ",", "B1"]))
    def check(change, bands):
        path.write_bytes(change(good))
        with only_our_errors(f"--scenes {kind}"):
            scene = scene_from(given_path, band_names(1 if kind == "path.tif" else 10), bands)
            scene.check()
            with scene.open() as reader:
                reader.bands()

    check()


@repeatable
@given(st.lists(st.text(max_size=30), max_size=4), damage())
def test_lists_of_scenes(lines, change):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "list.txt")
        path.write_bytes(change("\n".join(lines).encode("utf-8", "replace")))
        with only_our_errors("--scenes list"):
            expand([str(path)])
        for line in lines:
            with only_our_errors("--scenes path"):
                expand([line])
            with only_our_errors("--scenes path"):
                scene_from(line)


@pytest.mark.parametrize("product", [ONE, TWO])
def test_metadata(place, product):
    path = place / f"{product}_MTL.txt"

    @repeatable
    @given(damage())
    def check(change):
        path.write_bytes(change(mtl(product).encode()))
        with only_our_errors("MTL"):
            parse_mtl(path)

    check()


@repeatable
@given(st.lists(st.integers(0, 65535), min_size=1, max_size=50), st.sampled_from(Collection))
def test_every_value_of_a_qa_band_has_a_code(values, collection):
    with only_our_errors("QA value"):
        mask = mask_from_qa(np.array([values], np.uint16), collection)
        assert mask.dtype == np.uint8
        assert mask.max() <= 2


# --- archives ------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [True, False])
def test_archives_of_the_data_set(place, packed):
    """`packed`: damage to the gzip file; else to the tar file in it, whose sums are right."""
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w") as archive:
        for number in range(3):
            member = tarfile.TarInfo(f"BC/S1/S1_B{number + 1}.TIF")
            member.size = 700
            archive.addfile(member, io.BytesIO(bytes(range(100)) * 7))
    good = gzip.compress(inner.getvalue(), mtime=0) if packed else inner.getvalue()

    @repeatable
    @given(damage())
    def check(change):
        changed = change(good) if packed else gzip.compress(change(good), mtime=0)
        (place / "a.tar.gz").write_bytes(changed)
        shutil.rmtree(place / "out", ignore_errors=True)
        (place / "out").mkdir()
        before = {path.name for path in place.iterdir()}
        with only_our_errors("archive"):
            archives.unpack(place / "a.tar.gz", place / "out", limit=10_000)
        assert {path.name for path in place.iterdir()} == before
        assert all(p.is_file() and not p.is_symlink() for p in (place / "out").iterdir())
        assert sum(path.stat().st_size for path in (place / "out").iterdir()) <= 10_000

    check()


# --- patches -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["image.tif", "mask.tif"])
def test_patch_files(place, name):
    for folder, code in (("clear", 1), ("cloudy", 2)):
        patch = place / "p" / "train" / folder / "S1_00000_00000"
        patch.mkdir(parents=True)
        rng = np.random.default_rng(0)
        store.write(patch / "image.tif", rng.integers(0, 65536, (8, 8, 10)).astype("u2"))
        store.write(patch / "mask.tif", np.full((8, 8), code, "u1"))
    path = place / "p" / "train" / "clear" / "S1_00000_00000" / name
    good = path.read_bytes()

    @repeatable
    @given(damage())
    def check(change):
        path.write_bytes(change(good))
        with only_our_errors(f"patch: {name}"):
            sample = PatchDataset("p", "train", "mask.tif")[0]
            assert sample["image"].shape[1:] == sample["mask"].shape
            assert int(sample["mask"].max()) <= 2

    check()


def test_a_changed_patch_never_passes_for_what_was_written(place):
    array = np.random.default_rng(0).integers(0, 65536, (8, 8, 10)).astype(np.uint16)
    store.write(place / "x.tif", array)
    good = (place / "x.tif").read_bytes()
    pixels = good.index(array.tobytes())
    for offset in range(0, array.nbytes, 7):
        changed = bytearray(good)
        changed[pixels + offset] ^= 1 << offset % 8
        (place / "x.tif").write_bytes(changed)
        with pytest.raises(store.DamagedPatch, match="its pixels differ from their checksum"):
            store.read(place / "x.tif", 3)


# --- tables and records --------------------------------------------------------------------------


@repeatable
@given(damage(), st.lists(st.tuples(st.text(max_size=9), st.text(max_size=9)), max_size=4))
def test_split_files(change, rows):
    lines = ["biome,scene,split", "Water,S1,train", "Water,S2,test", *map(",".join, rows)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "split.csv")
        path.write_bytes(change("\n".join(lines).encode("utf-8", "replace")))
        with only_our_errors("split.csv"):
            split = splits.read_split(path)
            assert set(split.values()) <= set(splits.SPLITS)


@repeatable
@given(damage())
def test_published_figures(change):
    header = "method,accuracy,macro_f1,cloud_iou,split,source\n"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "published.csv")
        path.write_bytes(change((header + "A,90.0,80.0,,all 96,doi\n" * 3).encode()))
        with only_our_errors("--published csv"):
            comparison.read_published(path)


def good_records():
    scores = {
        "accuracy": 0.9, "pixels": 100, "macro": {"f1": 0.8, "iou": 0.7},
        "cloud": {"f1": 0.8, "iou": 0.7}, "clear": {"f1": 0.8, "iou": None},
    }  # fmt: skip
    seen = {
        "image_labels": 5, "pixel_labels": 0, "threshold_chosen_by": "x",
        "threshold_pixel_labels": 1, "checkpoint_chosen_by": "y", "checkpoint_pixel_labels": 2,
        "labels_from": "manual masks",
    }  # fmt: skip
    return {
        "metrics.json": {
            "method": "FCD", "experiment": "FCD", "reference": "manual masks", "threshold": 0.5,
            "supervision": seen, "overall": scores, "biomes": {"Water": scores},
            "scenes": {"Water_S1": {"biome": "Water", **scores}}, "thresholds": None,
            "confusion": [[1, 2], [3, 4]],
        },
        "record": {
            "biome": "Water", "scene": "S1", "split": "train", "cloud_share": 0.5,
            "cutting": {"size": 8, "stride": 8, "clear_below": 0.0, "cloudy_above": 0.0,
                        "reference": "truth"},
            "clear": ["S1_00000_00000"], "cloudy": ["S1_00000_00008"],
        },
        "config.json": {
            "flags": {"mode": "train", "g_lr": 0.1, "scenes": ["a"], "overwrite": False},
            "commit": None, "versions": {"torch": "2"}, "device": "cpu", "processes": 1,
            "data": {"train": {"patches": 3, "fingerprint": "ab", "left_out": []}},
            "continued": [{"commit": "a", "versions": {}, "device": "cpu", "processes": 1}],
        },
        "threshold.json": {
            "choice": "f1", "score": "difference map", "weights": "x", "threshold": 0.5,
            "chosen_by": "z", "pixel_labels": 3,
        },
        "supervision.json": seen,
    }  # fmt: skip


def write_changed(path, value, replace, change):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(replace(value) if replace else value, default=str)
    content = text.encode("utf-8", "replace")
    path.write_bytes(change(content) if change else content)


CHANGES = st.one_of(
    st.tuples(replacement(), st.none()), st.tuples(st.none(), damage()),
    st.tuples(replacement(), damage()),
)  # fmt: skip


def test_metrics(place):
    good = good_records()["metrics.json"]
    (place / "a" / "results").mkdir(parents=True)
    (place / "a" / "results" / "metrics.json").write_text(json.dumps(good))

    @repeatable
    @given(CHANGES)
    def check(changes):
        write_changed(place / "b" / "results" / "metrics.json", good, *changes)
        with only_our_errors("metrics.json"):
            runs = [comparison.read_run(place / name) for name in "ab"]
            methods = comparison.group(runs)
            comparison.terminal_table(methods)
            comparison.markdown(comparison.biome_table(methods))
            comparison.warnings(methods)
            comparison.common_scenes(methods)

    check()


def test_records_of_scenes(place):
    write_scene(place / "s" / "Water" / "S1", "S1", *draw(24, 20, 0))
    (scene,) = find_scenes("s")
    path = cutting.record_path(place / "p", scene)

    @repeatable
    @given(CHANGES)
    def check(changes):
        write_changed(path, good_records()["record"], *changes)
        with only_our_errors("scenes/*.json"):
            cutting.reference_of(place / "p")
            cutting.scenes_of_split([scene], place / "p", "train")
            record = cutting.read_record(place / "p", scene)
            cutting.cutting_of(record)
            for name in record["clear"] + record["cloudy"]:
                assert Path(name).name == name
                cutting.patch_position(name)

    check()


@pytest.mark.parametrize("name", ["config.json", "threshold.json", "supervision.json"])
def test_records_of_runs(place, name, capsys):
    good = good_records()[name]
    folder = RunFolder("X")
    path = {"config.json": folder.root, "threshold.json": folder.results}.get(name, place) / name
    settings = main.Settings(training=GANTraining(g_lr=0.1))
    folder.models.mkdir(parents=True)
    (folder.models / "latest.pt").write_bytes(b"")
    solver = small_gan()

    @repeatable
    @given(CHANGES)
    def check(changes):
        write_changed(path, good, *changes)
        with only_our_errors(name):
            if name == "config.json":
                data = good["data"]
                start_run(Run(folder, CPU), settings, data)
        with only_our_errors(name):
            if name == "config.json":
                with contextlib.suppress(SystemExit):  # a line of the parser, exit code 2
                    parse(main.Settings, ["--config", str(path)])
            elif name == "threshold.json":
                thresholds.known(solver.scorer())
                solver.choose_threshold(0.5, place, 1, 1)
            else:
                generated.mask_provenance(place, "supervision.tif")

    check()


# --- checkpoints ---------------------------------------------------------------------------------


def small_gan():
    size = GANSize(g_conv_dim=1, g_repeat_num=1, d_conv_dim=1, d_repeat_num=2)
    return FCDSolver(Run(RunFolder("X"), CPU), size, 8, Normalization.paper(10))


def test_bytes_of_checkpoints(place):
    checkpoints.save(place / "good.pt", small_gan().state())
    good = (place / "good.pt").read_bytes()

    @repeatable
    @given(damage())
    def check(change):
        (place / "x.pt").write_bytes(change(good))
        with only_our_errors("checkpoint: bytes"):
            load_solver(place / "x.pt", "cpu")

    check()


@pytest.mark.parametrize("entry", [None, "G", "size", "normalization", "choice"])
def test_values_of_checkpoints(place, entry):
    """Every entry in turn becomes something else; the sums of the file are right."""
    good = small_gan().state()

    @repeatable
    @given(replacement())
    def check(change):
        state = change(good) if entry is None else good | {entry: change(good[entry])}
        torch.save(state, place / "x.pt")
        with only_our_errors("checkpoint: values"):
            load_solver(place / "x.pt", "cpu")
        with only_our_errors("checkpoint: values"):
            SupervisedSolver.load(Run(RunFolder("X"), CPU), place / "x.pt")

    check()


def test_values_of_a_unets_checkpoint(place):
    """Those around the weights, which take long to write and read."""
    solver = SupervisedSolver(
        Run(RunFolder("X"), CPU), Task("unet", "mask", "slim18"), 32, Normalization.paper(2)
    )
    good = solver.state()
    network = {name: value for name, value in good.items() if name == "network"}
    rest = {name: value for name, value in good.items() if name != "network"}

    @settings(repeatable, max_examples=max(EXAMPLES // 8, 5))
    @given(replacement())
    def check(change):
        changed = change(rest)
        torch.save(changed | network if isinstance(changed, dict) else changed, place / "x.pt")
        with only_our_errors("checkpoint: values"):
            load_solver(place / "x.pt", "cpu")
        with only_our_errors("checkpoint: values"):
            solver.start_from(place / "x.pt", encoder_only=True)

    check()


def test_a_tensor_that_repeats_one_number_without_end_is_refused(place):
    state = small_gan().state()
    state["G"]["main.0.weight"] = torch.zeros(1).expand(1 << 40)
    torch.save(state, place / "x.pt")
    with pytest.raises(UserError, match="its tensors would take"):
        load_solver(place / "x.pt", "cpu")


def test_sizes_that_the_weights_do_not_have_are_refused(place):
    for name, value in (("g_conv_dim", 1 << 20), ("d_repeat_num", 40), ("g_repeat_num", 10**9)):
        state = small_gan().state()
        state["size"][name] = value
        torch.save(state, place / "x.pt")
        with pytest.raises(UserError, match="its weights are not those of"):
            load_solver(place / "x.pt", "cpu")
    state = small_gan().state()
    state["image_size"] = 1 << 30
    torch.save(state, place / "x.pt")
    with pytest.raises(UserError, match="image_size is"):
        load_solver(place / "x.pt", "cpu")
