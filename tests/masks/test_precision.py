"""float32, bfloat16 and int8: what masks are made in, and what has to agree."""

import json
import shutil
import time
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
import tifffile
import torch

import supervised_main
from data_loader import training_samples
from fcd.errors import UserError
from fcd.landsat.bands import BANDS, in_files
from fcd.masks import precision, quantisation
from fcd.masks.precision import Asked, Job, in_precision, timed
from fcd.masks.quantisation import Samples, check_agreement, quantised, reduces_range
from fcd.masks.scoring import ArrayScene, Tiles, sampled
from fcd.patches.normalisation import Normalization
from fcd.patches.sources import PreparedPatches
from fcd.synthetic.scene import draw_scene
from solver import load_solver
from tests.conftest import ROOT
from tests.landsat.test_products import ONE, write
from tests.tiny import gan, unet

FIRST, NEAR, ORT, INT8 = (
    ("float32", "pytorch"), ("bfloat16", "pytorch"), ("float32", "onnx"), ("int8", "onnx")
)  # fmt: skip


# --- int8 --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def starter(tmp_path_factory):
    """The scorer of a copy of trained weights, a drawn scene for it, and a float32 ONNX file."""
    pytest.importorskip("onnxruntime", reason="the optional libraries of int8 are missing")
    folder = tmp_path_factory.mktemp("int8")
    weights = shutil.copy(ROOT / "weights/starter.pt", folder / "best.pt")
    scorer = load_solver(weights, "cpu").scorer()
    drawn = draw_scene("Wetlands", 192, 77, index=0, cover=0.4, variety="wide")
    names = in_files(scorer.normalization.bands)
    bands = [BANDS.index(name) for name in names]
    scene = ArrayScene(drawn.dn[bands], names, sun_elevation=drawn.sun_elevation)
    plain = folder / "plain.onnx"
    quantisation.write_onnx(plain, scorer.module, scorer.multiple, {})
    return SimpleNamespace(scorer=scorer, scene=scene, plain=plain)


@pytest.fixture
def written_once(starter, monkeypatch):
    """Spare each test the seconds in which PyTorch's network becomes the same ONNX file."""
    monkeypatch.setattr(
        quantisation, "write_onnx", lambda path, *_: shutil.copy(starter.plain, path)
    )


def tiles_of(starter, change=lambda number, x: x):
    def draw(count):
        tiles = Tiles.of(starter.scorer)
        found = sampled(starter.scorer, starter.scene, tiles, min(count, 25) * tiles.size**2)
        for number, (x, valid) in enumerate(islice(found, count)):
            yield change(number, x), valid, None

    return Samples(draw, "tiles", of_training=False)


def never(count):
    raise AssertionError("drawn again")
    yield


def int8_weights(path):
    onnx = pytest.importorskip("onnx")
    return [
        onnx.numpy_helper.to_array(value)
        for value in onnx.load(path).graph.initializer
        if value.data_type == onnx.TensorProto.INT8 and len(value.dims) == 4
    ]


def test_masks_in_int8_are_those_in_float32_but_for_half_a_percent(
    starter, written_once, tmp_path, monkeypatch
):
    onnxruntime = pytest.importorskip("onnxruntime")
    monkeypatch.setattr(quantisation, "reduces_range", lambda: True)
    score, digest = quantised(starter.scorer, tiles_of(starter), 0.4, tmp_path)
    (path,) = tmp_path.iterdir()
    assert path.name == "best.int8.onnx"
    assert path.stat().st_size < 0.3 * starter.plain.stat().st_size
    weights = int8_weights(path)
    assert len(weights) == sum(
        isinstance(m, torch.nn.Conv2d) for m in starter.scorer.network.modules()
    )
    assert max(np.abs(values.astype(int)).max() for values in weights) == 64

    x = torch.stack([x for x, _, _ in tiles_of(starter).draw(16)])
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (direct,) = session.run(None, {"x": x.numpy()})
    np.testing.assert_array_equal(score(x).numpy(), direct)
    with torch.inference_mode():
        exact = starter.scorer.score(x).numpy()
    assert 1e-4 < np.abs(direct - exact).max() < 0.5
    assert 0.05 < (exact > 0.4).mean() < 0.95
    assert ((direct > 0.4) != (exact > 0.4)).mean() <= 0.005

    # Used again as it is; another threshold, processor, or damage makes it anew.
    again = Samples(never, "others", of_training=False)
    assert quantised(starter.scorer, again, 0.4, tmp_path)[1] == digest
    with pytest.raises(AssertionError, match="drawn again"):
        quantised(starter.scorer, again, 0.5, tmp_path)
    monkeypatch.setattr(quantisation, "reduces_range", lambda: False)
    other = quantised(starter.scorer, tiles_of(starter), 0.4, tmp_path)[1]
    assert other != digest
    weights = int8_weights(path)
    assert max(np.abs(values.astype(int)).max() for values in weights) >= 127
    whole = path.read_bytes()
    changed = bytearray(whole)
    changed[whole.index(weights[5].tobytes()) + 9] ^= 1
    for damaged in (whole[: len(whole) // 2], bytes(changed)):
        path.write_bytes(damaged)
        with pytest.raises(AssertionError, match="drawn again"):
            quantised(starter.scorer, again, 0.4, tmp_path)


def test_calibrated_on_training_patches_it_lies_beside_the_checkpoint(
    starter, written_once, tmp_path, monkeypatch
):
    patches = Samples(tiles_of(starter).draw, "3 training patches", of_training=True)
    beside = starter.scorer.checkpoint.with_name("best.int8.onnx")
    _, digest = quantised(starter.scorer, patches, 0.4, tmp_path)
    assert beside.exists()
    assert not list(tmp_path.iterdir())
    # What is calibrated so serves where no patches are at hand, other patches make another.
    scenes = Samples(never, "tiles", of_training=False)
    assert quantised(starter.scorer, scenes, 0.4, tmp_path)[1] == digest
    with pytest.raises(AssertionError, match="drawn again"):
        quantised(starter.scorer, Samples(never, "others", True), 0.4, tmp_path)
    # Where the checkpoint lies may be read-only.
    beside.unlink()
    beside.mkdir()
    assert quantised(starter.scorer, patches, 0.4, tmp_path)[1] == digest
    assert [path.name for path in tmp_path.iterdir()] == ["best.int8.onnx"]
    beside.rmdir()


def test_it_is_calibrated_on_pieces_of_scenes_as_large_as_its_patches(in_tmp):
    scorer = unet("U").scorer()
    scene = ArrayScene(np.random.default_rng(0).integers(1, 30_000, (10, 96, 128), np.uint16))
    job = Job(Path("out"), lambda: iter([scene]), 1)
    drawn = list(precision._samples(scorer, Tiles.of(scorer, 64), job).draw(9))
    assert {tuple(x.shape) for x, *_ in drawn} == {(10, 32, 32)}
    assert len(drawn) == 9


def test_int8_that_is_calibrated_badly_is_refused(starter, written_once, tmp_path):
    """Each ninth tile, which is held back, is as it was, the others hold next to nothing."""
    forged = tiles_of(starter, lambda number, x: x if number % 9 == 0 else x * 0.01 - 0.9)
    with pytest.raises(UserError, match=r"held-back tiles its masks differ .* in \d+\.\d\d% of"):
        quantised(starter.scorer, forged, 0.4, tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="there are no two tiles or training patches to calibrate"):
        quantised(starter.scorer, Samples(lambda _: iter(()), "", False), 0.4, tmp_path)


def test_half_a_percent_of_pixels_or_a_fifth_of_a_point_of_f1():
    """A tile of 1000 pixels, of which int8 calls some cloud that are clear in float32."""
    valid, x = np.ones((10, 100), bool), torch.zeros(7, 10, 100)
    exact = torch.zeros(1, 10, 100)
    exact[0, :2] = 1  # 200 cloud

    def scored(wrong):
        near = exact.clone()
        near[0, 5, :wrong] = 1
        return lambda _: near

    scorer = SimpleNamespace(score=lambda _: exact, checkpoint=Path("w.pt"))
    check_agreement(scorer, scored(5), [(x, valid, None)], 0.5)
    with pytest.raises(UserError, match=r"differ .* in 0\.60% of the pixels .* by 0\.00 points"):
        check_agreement(scorer, scored(6), [(x, valid, None)], 0.5)
    # Truth as in float32: F1 of clear 2·798/(798+800), of cloud 2·200/(202+200): 0.31 points less.
    codes = 1 + (exact[0].numpy() > 0.5).astype(np.uint8)
    loss = 1 - (2 * 798 / 1598 + 2 * 200 / 402) / 2
    with pytest.raises(UserError, match=rf"0\.20% of the pixels .* by {100 * loss:.2f} points"):
        check_agreement(scorer, scored(2), [(x, valid, codes)], 0.5)
    check_agreement(scorer, scored(1), [(x, valid, codes)], 0.5)
    # Nodata does not count.
    check_agreement(scorer, scored(6), [(x, valid & (np.arange(100) > 5), codes)], 0.5)


@pytest.mark.parametrize(
    ("machine", "capabilities", "expected"),
    [
        ("x86_64", {"avx2": True}, True),
        ("AMD64", {"avx512_f": True, "avx512_vnni": False}, True),
        ("x86_64", {"avx512_vnni": True}, False),
        ("x86_64", {"avx_vnni": True}, False),
        ("aarch64", {}, False),
    ],
)
def test_weights_take_seven_bits_where_the_processor_lacks_vnni(
    machine, capabilities, expected, monkeypatch
):
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert reduces_range(capabilities) is expected
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert reduces_range() is expected


def test_a_generator_is_refused_by_name(in_tmp):
    with pytest.raises(UserError, match=r"int8 is for U-Nets: .* by the difference map of a gener"):
        Asked("int8").check(gan("FCD").scorer())


def test_training_patches_are_drawn_as_the_network_sees_them(image_dir):
    normalization = Normalization.paper(10)
    samples = training_samples(PreparedPatches(image_dir), normalization)
    assert samples.of_training
    assert samples.told.startswith("10 training patches ")
    assert samples.told.endswith(f" of {image_dir}")
    drawn = list(samples.draw(512))
    assert len(drawn) == 10
    folders = sorted((image_dir / "train" / "clear").iterdir()) + sorted(
        (image_dir / "train" / "cloudy").iterdir()
    )
    for folder, (x, valid, codes) in zip(folders, drawn, strict=True):
        dn = tifffile.imread(folder / "image.tif").transpose(2, 0, 1)
        np.testing.assert_allclose(x.numpy(), 2 * (dn / 65535) - 1, atol=1e-6)
        assert valid.all()
        assert (codes == tifffile.imread(folder / "mask.tif")).all()
    fewer = [x for x, *_ in samples.draw(4)]
    assert all(torch.equal(x, y) for x, (y, *_) in zip(fewer, samples.draw(4), strict=True))


# --- which -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ((None, None, False, "auto"), ("auto", None)),
        ((None, None, True, "auto"), ("bfloat16", None)),
        ((None, None, "auto", "float32"), ("auto", None)),
        (("float32", None, "auto", "float32"), ("float32", None)),
        ((None, "onnx", "auto", "float32"), ("float32", "onnx")),
        ((None, "onnx", False, "auto"), ("float32", "onnx")),
        (("auto", "onnx", False, "float32"), ("auto", "onnx")),
        (("bfloat16", None, True, "auto"), ("bfloat16", None)),
        (("int8", None, True, "auto"), "--amp True is --precision bfloat16, not int8: give one"),
        (("auto", None, True, "auto"), "--amp True is --precision bfloat16, not auto: give one"),
        (("bfloat16", "onnx", False, "auto"), "--runtime onnx computes in float32 or int8"),
        (("int8", "pytorch", False, "auto"), "--precision int8 is computed by ONNX Runtime: leave"),
    ],
)
def test_what_flags_say_together(flags, expected):
    if isinstance(expected, str):
        with pytest.raises(UserError, match=expected):
            Asked.of(*flags)
    else:
        assert Asked.of(*flags) == Asked(*expected)


def test_ways_are_timed_by_turns_and_the_hopeless_is_dropped():
    calls = []

    def way(name, seconds):
        def score(x):
            calls.append((name, tuple(x.shape)))
            time.sleep(seconds * x[:, 0].numel() / 1024)
            return x[:, 0]

        return score

    x = torch.rand(3, 2, 32, 32)
    scores = {FIRST: way("f", 0.02), NEAR: way("n", 0.002), INT8: way("slow", 0.4)}
    took = timed(scores, x, 16, 0.5)
    assert list(took) == [FIRST, NEAR]
    assert 5 < took[FIRST][0] / took[NEAR][0] < 12
    assert took[FIRST][0] >= 0.02 / 1024
    np.testing.assert_array_equal(took[NEAR][1], x[:, 0].numpy())
    assert {shape for name, shape in calls if name == "slow"} == {(1, 2, 16, 16)}
    rounds = [name for name, shape in calls if shape == (3, 2, 32, 32)]
    assert rounds == ["f", "n"] * (len(rounds) // 2)
    # Of tiles that take longer than there is time, as many as there is time for.
    assert len(timed({FIRST: way("f", 0.02)}, x, 16, 0.05)[FIRST][1]) < 3


@pytest.fixture
def measuring(tmp_path, monkeypatch):
    """A U-Net and a scene worth measuring; a function: rates by way and the share that differs."""
    solver = unet("U")
    solver.ready_to_score()
    scorer, tiles = solver.scorer(), Tiles.of(solver.scorer())
    scene = ArrayScene(np.random.default_rng(0).integers(1, 30_000, (10, 96, 128), np.uint16))
    opened, budgets = [], []

    def choose(rates, runtime=None, threshold=0.5, count=1):
        def forged(scores, x, multiple, budget):
            opened.append(list(scores))
            budgets.append(budget)
            values = np.zeros(x[:, 0].shape, np.float32)
            took = {}
            for way in scores:
                rate, differ = rates.get(way, (1.0, 0.0))
                near = values.copy().ravel()
                near[: round(differ * near.size)] = 1
                took[way] = (1.0 / rate, near.reshape(values.shape))
            return took

        monkeypatch.setattr(precision, "timed", forged)
        job = Job(tmp_path / "out", lambda: iter([scene]), count)
        asked = Asked("auto", runtime)
        return in_precision(scorer, asked, tiles, threshold, job).way

    monkeypatch.setattr(precision, "SMALL", 0)
    monkeypatch.setattr(precision, "onnx_score", lambda module, _: module.score)
    monkeypatch.setattr(precision, "quantised", lambda scorer, *_: (scorer.score, "abc"))
    kept = tmp_path / "out/precision.json"
    return SimpleNamespace(choose=choose, opened=opened, budgets=budgets, kept=kept)


def test_the_fastest_that_agrees_is_taken_and_kept(measuring, capsys):
    rates = {NEAR: (3.0, 0.006), ORT: (1.2, 0.0), INT8: (2.0, 0.004)}
    way = measuring.choose(rates)
    assert (way.precision, way.runtime, way.tag) == ("int8", "onnx", "int8 abc")
    assert way.why == "auto: 2.00 times as fast as float32, 0.40% of pixels differ"
    assert capsys.readouterr().out == f"precision: int8 ({way.why})\n"
    assert measuring.opened == [[FIRST], [FIRST, NEAR, ORT, INT8]]
    # Typed again it goes on with it, whatever would be measured now; weights and all that the masks
    # depend on decide what "again" is.
    measuring.opened.clear()
    assert measuring.choose({NEAR: (9.0, 0.0)}) == way
    assert measuring.opened == []
    assert measuring.choose({NEAR: (9.0, 0.0)}, threshold=0.6).precision == "bfloat16"
    assert measuring.choose({}) == way
    assert len(json.loads(measuring.kept.read_text())["choices"]) == 2
    measuring.kept.write_text('{"choices": [3]}')
    with pytest.raises(UserError, match=r"precision\.json holds no choice of precision; remove it"):
        measuring.choose({})


def test_float32_stays_unless_something_agrees_and_is_faster(measuring):
    way = measuring.choose({NEAR: (0.1, 0.0), ORT: (1.04, 0.0), INT8: (3.0, 0.0051)})
    assert (way.precision, way.runtime, way.tag) == ("float32", "pytorch", "float32")
    told = "bfloat16 0.10 times, by ONNX Runtime 1.04 times, int8 3.00 times"
    assert way.why == f"auto: nothing else agrees and is faster: {told}"


def test_a_runtime_that_is_asked_for_narrows_the_choice(measuring):
    rates = {INT8: (2.0, 0.0), NEAR: (3.0, 0.0)}
    assert measuring.choose(rates, "onnx").precision == "int8"
    assert measuring.opened == [[ORT], [ORT, INT8]]
    assert measuring.choose(rates, "pytorch").precision == "bfloat16"


def test_small_jobs_take_float32_at_once(measuring, monkeypatch):
    monkeypatch.setattr(precision, "SMALL", 96 * 128 + 1)
    way = measuring.choose({NEAR: (9.0, 0.0)})
    assert (way.precision, way.why) == ("float32", "auto: too few pixels to measure")
    assert measuring.opened == []
    monkeypatch.setattr(precision, "SMALL", 96 * 128)
    # Half an overlap of 16 in tiles of 32: four times the pixels, a second each.
    monkeypatch.setattr(precision, "WORTH_MEASURING", 4 * 96 * 128 + 1)
    way = measuring.choose({NEAR: (9.0, 0.0)}, threshold=0.1)
    assert (way.precision, way.why) == ("float32", "auto: too little work to measure")
    monkeypatch.setattr(precision, "WORTH_MEASURING", 4 * 96 * 128)
    monkeypatch.setattr(precision, "WORTH_PREPARING", 4 * 96 * 128 + 1)
    assert measuring.choose({}, threshold=0.2).precision == "float32"
    assert measuring.opened[-1] == [FIRST, NEAR]


def test_measuring_takes_a_tenth_of_the_work_at_most(measuring):
    # Half an overlap of 16 in tiles of 32: four times the pixels, in 9.8 and in 98 seconds.
    for threshold, rate, expected in ((0.5, 5_000, 0.98304), (0.6, 500, 2.5)):
        measuring.choose({FIRST: (rate, 0.0), NEAR: (2 * rate, 0.0)}, threshold=threshold)
        look, budget = measuring.budgets[-2:]
        assert (look, budget) == (0.5, pytest.approx(expected))


def test_what_was_not_measured_holds_for_no_more_pixels(measuring, monkeypatch):
    monkeypatch.setattr(precision, "SMALL", 2 * 96 * 128)
    small = measuring.choose({NEAR: (9.0, 0.0)})
    assert (small.precision, small.why) == ("float32", "auto: too few pixels to measure")
    # What is small by another yardstick would be measured now, but is kept.
    monkeypatch.setattr(precision, "SMALL", 0)
    assert measuring.choose({NEAR: (9.0, 0.0)}) == small
    assert measuring.choose({NEAR: (9.0, 0.0)}, count=2).precision == "bfloat16"
    # What is measured holds for any number of pixels, in place of what was not.
    assert measuring.choose({}, count=3).precision == "bfloat16"
    assert measuring.choose({}).precision == "bfloat16"
    (kept,) = json.loads(measuring.kept.read_text())["choices"]
    assert kept["enough_for"] is None


def test_nothing_is_kept_of_scenes_that_cannot_be_read(measuring, monkeypatch):
    def opened(self):
        raise UserError("damaged")

    with monkeypatch.context() as patched:
        patched.setattr(ArrayScene, "open", opened)
        patched.setattr(precision, "SMALL", 1)
        assert measuring.choose({}).why == "auto: too few pixels to measure"
    with monkeypatch.context() as patched:  # their size is known, and nothing else
        patched.setattr(precision, "_tiles", lambda *_: iter(()))
        assert measuring.choose({}).why == "auto: no tile to measure on"
    assert not measuring.kept.exists()
    assert measuring.choose({NEAR: (9.0, 0.0)}).precision == "bfloat16"


def test_tiles_are_spread_over_the_scene(in_tmp):
    scorer = unet("U").scorer()
    dn = np.arange(1, 10 * 80 * 100 + 1, dtype=np.uint16).reshape(10, 80, 100)
    dn[3, 50:] = 0
    tiles = Tiles.of(scorer, 32)
    found = list(sampled(scorer, ArrayScene(dn), tiles, 4 * 32**2))
    # Two rows and two columns, at a third and two thirds of what is left of 80 and 100 pixels.
    places = [(row, column) for row in (16, 32) for column in (23, 45)]
    assert len(found) == 4
    for (row, column), (x, valid) in zip(places, found, strict=True):
        part = dn[:, row : row + 32, column : column + 32].astype(np.float64)
        seen = (part != 0).all(axis=0)
        assert (valid == seen).all()
        expected = np.where(part == 0, -1, 2 * part / 65535 - 1)
        np.testing.assert_allclose(x.numpy(), expected, atol=3e-5)
    assert not list(sampled(scorer, ArrayScene(dn[:, :20]), tiles, 100))
    assert not list(sampled(scorer, ArrayScene(dn * 0), tiles, 100))
    (one,) = sampled(scorer, ArrayScene(dn[:, :40, :50]), Tiles.of(scorer, 64), 1)
    assert one[1].shape == (32, 32)


def test_masks_say_their_precision_and_another_makes_them_anew(in_tmp, call):
    unet("FCD+").save("best")
    write(in_tmp_folder := Path("scene"))
    predict = ["--mode", "predict", "--scenes", in_tmp_folder, "--device", "cpu"]

    def masked(*flags):
        code, err, out = call(supervised_main, *predict, *flags)
        assert code == 0, err
        with rasterio.open(f"masks/{ONE}_mask.tif") as dataset:
            tags = dataset.tags()
        summary = Path("masks/summary.csv").read_text().splitlines()
        row = dict(zip(*(line.split(",") for line in summary), strict=True))
        told = tags.get("FCD_PRECISION_WHY")
        return tags["FCD_PRECISION"], told, row["precision"], "1 scenes masked" in out

    small = "auto: too few pixels to measure"
    auto = ("float32", small, f"float32 ({small})")
    assert masked() == (*auto, True)
    assert masked() == (*auto, False)
    assert masked("--precision", "float32") == (*auto, False)  # which it is, whoever has chosen it
    assert masked("--precision", "bfloat16") == ("bfloat16", None, "bfloat16", True)
    assert masked("--amp", "True") == ("bfloat16", None, "bfloat16", False)
    assert masked() == (*auto, True)
    code, err, _ = call(supervised_main, *predict, "--amp", "True", "--precision", "int8")
    assert (code, err.count("\n")) == (2, 1)
    assert "--amp True is --precision bfloat16, not int8: give one" in err
