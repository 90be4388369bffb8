"""ONNX files, run by ONNX Runtime, against the networks they were written from."""

import json
import sys
from functools import cache

import numpy as np
import pytest
import rasterio
import torch

import main
import supervised_main
from fcd.errors import UserError
from fcd.masks import runtime as export
from fcd.masks.precision import Asked, Job, in_precision
from fcd.masks.scoring import ArrayScene, Tiles, strips
from fcd.masks.tiling import score_strips
from fcd.patches.normalisation import Normalization
from fcd.training.losses import difference_map
from fcd.training.run import RunFolder
from model import Generator, build_unet
from solver import FCDSolver, GANSize, Run, SupervisedSolver, Task
from tests.landsat.test_products import write

onnx = pytest.importorskip("onnx", reason="the optional libraries of --mode export are missing")
pytest.importorskip("onnxscript", reason="the optional libraries of --mode export are missing")
runtime = pytest.importorskip("onnxruntime", reason="the optional libraries of export are missing")

LOW, HIGH = (tuple(float(first + band) for band in range(10)) for first in (5000, 20000))
STRETCH = Normalization("stretch", LOW, HIGH)
CPU = torch.device("cpu")


def run(path, dn):
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["score"], {"dn": dn})[0]


def dn_of(size, seed=0):
    """DN of the stretch's range and beyond it, and a fill corner in one band."""
    dn = np.random.default_rng(seed).integers(1, 30_000, size).astype(np.float32)
    dn[:, 7, :5, :9] = 0
    return dn


def generator():
    torch.manual_seed(0)
    network = Generator(conv_dim=4, repeat_num=1)
    return network, lambda x: difference_map(network, x), 4


def unet():
    torch.manual_seed(0)
    network = build_unet(10, "slim18", True).eval()
    return network, lambda x: network(x)[0].softmax(dim=1)[:, 1], 32


def gan_solver(device=CPU, **flags):
    return FCDSolver(Run(RunFolder("FCD"), device, **flags), GANSize(4, 1, 4, 3), 32, STRETCH)


def unet_solver():
    task = Task(encoder="slim18", classifier_head=True)
    return SupervisedSolver(Run(RunFolder("FCD+"), CPU), task, 32, STRETCH)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A function of a builder -> its file, and how far its scores are said to be; written once."""

    @cache
    def of(build):
        network, score, multiple = build()
        path = tmp_path_factory.mktemp("export") / "a" / "net.onnx"
        module = export.DNScore(network, score, STRETCH)
        return path, export.write_onnx(path, module, multiple, {"bands": "B1,B2"})

    return of


@pytest.mark.parametrize("build", [generator, unet])
def test_scores_are_those_of_pytorch_at_any_batch_and_size(written, build):
    _, score, _ = build()
    path, said = written(build)
    for size in [(1, 10, 64, 64), (3, 10, 32, 96)]:
        dn = dn_of(size)
        with torch.no_grad():
            expected = score(STRETCH.normalize(torch.from_numpy(dn))).numpy()
        expected[:, :5, :9] = 0
        scores = run(path, dn)
        assert scores.shape == (size[0], *size[2:])
        assert np.abs(scores - expected).max() < 1e-5
        assert expected.std() > 1e-3
    assert said < 1e-5
    model = onnx.load(path)
    onnx.checker.check_model(model)
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [18]
    assert [path.name for path in path.parent.iterdir()] == ["net.onnx"]


def test_a_scene_scored_by_the_file_is_the_scene_scored_by_tiling(written):
    """One tile of the raster, fill included, through both."""
    _, score, _ = generator()
    path, _ = written(generator)
    dn = dn_of((1, 10, 32, 32))
    with torch.no_grad():
        strips = list(
            score_strips(lambda start, stop: dn[0, :, start:stop].astype(np.uint16), 32, 32, score,
                         STRETCH, CPU, tile=32, overlap=0, batch_size=1)
        )  # fmt: skip
    tiled = np.concatenate([strip.score for strip in strips])
    assert np.abs(run(path, dn)[0] - tiled).max() < 1e-5
    assert (tiled[:5, :9] == 0).all()
    assert (tiled[5:] > 0).all()


def test_a_file_that_disagrees_is_not_written(tmp_path, monkeypatch):
    network = torch.nn.Conv2d(10, 1, 1)
    module = export.DNScore(network, lambda x: network(x)[:, 0], STRETCH)
    monkeypatch.setattr(export, "TOLERANCE", 0.0)
    monkeypatch.setattr(export, "_difference", lambda *_: 2e-4)
    with pytest.raises(UserError, match=r"scores differ from PyTorch's by 0\.0002"):
        export.write_onnx(tmp_path / "net.onnx", module, 4, {})
    assert not list(tmp_path.iterdir())


def test_the_commands_write_files_that_explain_themselves(tmp_path, in_tmp, call):
    fcd = gan_solver()
    fcd.save("best")
    code, _, out = call(main, "--mode", "export", "--threshold", "0.25")
    assert code == 0
    assert "exported: outputs/FCD/models/best.onnx, cloud above a score of 0.25" in out
    path = tmp_path / "outputs/FCD/models/best.onnx"
    meta = runtime.InferenceSession(path).get_modelmeta().custom_metadata_map
    assert meta["model"] == "FCD: difference map"
    assert meta["threshold"] == "0.25"
    assert meta["bands"] == "B1,B2,B3,B4,B5,B6,B7,B9,B10,B11"
    assert json.loads(meta["normalization"]) == STRETCH.state()
    assert (meta["image_size"], meta["multiple"]) == ("32", "4")
    assert meta["weights"] == fcd.fingerprint()
    assert len(meta["fcd_commit"]) == 40 or meta["fcd_commit"] == "unknown"
    dn = dn_of((2, 10, 32, 32))
    with torch.no_grad():
        expected = fcd.score(STRETCH.normalize(torch.from_numpy(dn))).numpy()
    assert np.abs(run(path, dn) - expected)[:, 5:].max() < 1e-5


@pytest.mark.slow
def test_the_command_writes_that_of_a_unet(tmp_path, in_tmp, call):
    unet_solver().save("latest")
    assert call(supervised_main, "--mode", "export", "--checkpoint", "latest")[0] == 0
    path = tmp_path / "outputs/FCDPlus/models/latest.onnx"
    meta = runtime.InferenceSession(path).get_modelmeta().custom_metadata_map
    assert (meta["model"], meta["threshold"]) == ("FCD+: probability", "0.5")
    assert run(path, dn_of((1, 10, 64, 32))).shape == (1, 64, 32)


def test_a_scene_scores_the_same_in_both_runtimes(tmp_path):
    """Batches of four tiles and of one, sides that are no multiple of a tile, fill."""
    solver = gan_solver()
    for network in solver.networks.values():
        network.eval()
    scene = ArrayScene(dn_of((1, 10, 50, 75))[0].astype(np.uint16))
    tiles, job = Tiles.of(solver.scorer(), 32, 8, 4), Job(tmp_path, lambda: iter([scene]), 1)
    ours, theirs = (
        list(strips(in_precision(solver.scorer(), asked, tiles, 0.5, job), scene, tiles))
        for asked in (Asked("float32", "onnx"), Asked("float32", "pytorch"))
    )
    assert [strip.row for strip in ours] == [strip.row for strip in theirs]
    score, expected = (np.concatenate([strip.score for strip in part]) for part in (ours, theirs))
    assert score.shape == (50, 75)
    assert 0 < np.abs(score - expected).max() < 1e-5  # another library has computed it
    assert expected.std() > 1e-3
    assert (score[:5, :9] == 0).all()


def test_a_scene_is_predicted_by_onnx_runtime(tmp_path, in_tmp, call):
    unet_solver().save("best")
    write(tmp_path / "scene")
    masks = []
    for runtime in ("pytorch", "onnx"):
        code, err, _ = call(
            supervised_main, "--mode", "predict", "--scenes", "scene", "--threshold", "0.5",
            "--runtime", runtime, "--device", "cpu", "--output_dir", runtime,
        )  # fmt: skip
        assert code == 0, err
        (path,) = (tmp_path / runtime).glob("*_mask.tif")
        with rasterio.open(path) as dataset:
            masks.append(dataset.read(1))
    assert np.mean(masks[0] != masks[1]) < 1e-3
    assert len(np.unique(masks[0])) > 1


def test_what_onnx_runtime_cannot_do_is_one_line(tmp_path, in_tmp, call):
    gan_solver().save("best")
    write(tmp_path / "scene")
    predict = ["--mode", "predict", "--scenes", "scene", "--threshold", "0.1", "--device", "cpu"]
    code, err, _ = call(main, *predict, "--runtime", "onnx", "--amp", "True")
    assert (code, err) == (2, "error: --runtime onnx computes in float32: leave --amp out\n")
    assert not (tmp_path / "masks").exists()
    with pytest.raises(UserError, match="--runtime onnx scores on the CPU: add --device cpu"):
        Asked("float32", "onnx").check(gan_solver(device=torch.device("meta")).scorer())
    with pytest.raises(UserError, match="compiles the network itself: leave --compile out"):
        Asked("float32", "onnx").check(gan_solver(compile=True).scorer())


def test_class_activation_maps_are_refused(in_tmp, call):
    task = Task("ucam", "label", "resnet18")
    solver = SupervisedSolver(Run(RunFolder("C"), CPU), task, 32, STRETCH)
    with pytest.raises(UserError, match="is a ucam: as ONNX there are U-Nets"):
        Asked("float32", "onnx").check(solver.scorer())
    solver.save("best")
    code, err, _ = call(supervised_main, "--mode", "export", "--experiment_name", "C")
    assert (code, err.count("\n")) == (2, 1)
    assert "best.pt is a ucam: as ONNX there are U-Nets, but no class activation maps" in err


def test_a_missing_library_is_one_line(tmp_path, in_tmp, call, monkeypatch):
    gan_solver().save("best")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    code, err, _ = call(main, "--mode", "export", "--threshold", "0.25")
    assert (code, err.count("\n")) == (2, 1)
    assert "pip install onnx onnxscript onnxruntime" in err
    assert not (tmp_path / "outputs/FCD/models/best.onnx").exists()
