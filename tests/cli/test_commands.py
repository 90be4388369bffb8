"""Bad input: one clear line on stderr, exit code 2, nothing written. And the README's words."""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
import tifffile
import torch

import main
import prepare_landsat8_biome
import supervised_main
from fcd.cli import entry
from fcd.cli.parser import boolean, build_parser, flat, parse
from fcd.cli.run_folder import describe
from fcd.cli.settings import nodata_from
from fcd.errors import UserError
from fcd.landsat.scenes import find_scenes
from fcd.patches import cutting
from fcd.training.run import RunFolder
from tests.conftest import draw, write_scene
from tests.whole import distributed_worker as worker

pytestmark = pytest.mark.usefixtures("in_tmp")


def make_patches(root, size=32, classes=("clear", "cloudy"), splits=("train", "val")):
    for split in splits:
        for name in classes:
            folder = root / split / name / "S_00000_00000"
            folder.mkdir(parents=True)
            values = np.random.default_rng(0).integers(1, 60_000, (size, size, 10))
            tifffile.imwrite(
                folder / "image.tif", values.astype(np.uint16), photometric="minisblack"
            )
            mask = np.full((size, size), 1 + (name == "cloudy"), np.uint8)
            tifffile.imwrite(folder / "mask.tif", mask, photometric="minisblack")


TINY = ["--image_size", "32", "--d_repeat_num", "3", "--g_conv_dim", "4", "--d_conv_dim", "4",
        "--g_repeat_num", "1", "--num_workers", "0", "--device", "cpu"]  # fmt: skip


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        (main, ["--mode", "fly"], "invalid choice: 'fly'"),
        (main, ["--same_domain", "yes"], "'yes' is neither True nor False"),
        (main, ["--batch_size", "0"], "0 is not at least 1"),
        (main, ["--batch_size", "x"], "'x' is no whole number"),
        (main, ["--g_lr", "nan"], "nan is not a finite number"),
        (main, ["--g_lr", "-1e-3"], "-1e-3 is not a finite number of at least 0"),
        (main, ["--nodata", "-inf"], "-inf is not finite"),
        (main, ["--threshold", "2"], r"2 is not in \[0, 1\]"),
        (main, ["--threshold", "clear:101"], r"101 is not in \[0, 100\]"),
        (main, ["--threshold", "clear:"], "'clear:' is no number"),
        (main, ["--model_weights", "x.pt"], "--model_weights x.pt: FCD is trained from nothing"),
        (main, ["--beta1", "1"], "1 is not at least 0 and below 1"),
        (supervised_main, ["--plateau_factor", "1"], "1 is not at least 0 and below 1"),
        (main, ["--image_dir", "absent"], r"absent.train.clear holds no patches"),
        (main, ["--device", "abacus"], "--device abacus cannot be used"),
        (main, ["--experiment_name", "../x"], "--experiment_name '../x'"),
        (main, ["--experiment_name", ""], "--experiment_name ''"),
        (main, ["--experiment_name", "/tmp/x"], "--experiment_name '/tmp/x'"),
        (main, ["--experiment_name", "a" * 101], "--experiment_name 'aaa"),
        (main, ["--mode", "generate_masks"], r"outputs.FCD.models.best\.pt does not exist"),
        (supervised_main, ["--mode", "test"], r"outputs.FCDPlus.models.best\.pt does not exist"),
        (supervised_main, ["--classifier_head", "1"], "'1' is neither True nor False"),
        (supervised_main, ["--image_dir", "absent"], "holds no patches"),
        (supervised_main, ["--bands", "1-7"], "--bands is for --mode predict, not for train; --tr"),
        (main, ["--mode", "test", "--shadow", "True"], "--shadow is for --mode predict, not for t"),
        (
            supervised_main,
            ["--train_encoder_only", "True", "--freeze_encoder", "True"],
            "leaves nothing to train",
        ),
        (prepare_landsat8_biome, ["--data_path", "absent"], "absent is no folder"),
    ],
)  # fmt: skip
def test_bad_flags(call, tmp_path, module, arguments, message):
    code, err, _ = call(module, *arguments)
    assert code == 2
    assert re.search(message, err), err
    assert err.count("\n") == 1
    assert err.startswith("error: ")
    assert list(tmp_path.iterdir()) == []


def test_paths_of_a_list_are_written_down_as_text():
    given = parse(supervised_main.Settings, ["--mean_with", "a.pt", "b.pt"])
    assert json.loads(json.dumps(flat(given)))["mean_with"] == ["a.pt", "b.pt"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--image_size", "64"], "--image_size 64: the patches in p are 32 pixels wide"),
        (["--d_repeat_num", "6"], "image size 32 is no multiple of 64"),
    ],
)
def test_image_size_the_discriminator_cannot_take(call, tmp_path, arguments, message):
    make_patches(tmp_path / "p")
    code, err, _ = call(main, "--image_dir", "p", *TINY, *arguments)
    assert (code, err.count("\n")) == (2, 1)
    assert message in err
    assert not (tmp_path / "outputs").exists()


def test_an_empty_class_folder(call, tmp_path):
    make_patches(tmp_path / "p", classes=("cloudy",))
    code, err, _ = call(main, "--image_dir", "p", *TINY)
    assert code == 2
    assert re.search(r"p.train.clear holds no patches", err)


def test_a_missing_generated_mask(call, tmp_path):
    make_patches(tmp_path / "p")
    code, err, _ = call(
        supervised_main, "--image_dir", "p", "--train_mask_file", "generated_mask.tif"
    )
    assert code == 2
    assert "S_00000_00000 has no generated_mask.tif (2 of 2 patches" in err


def test_generated_masks_that_are_not_there(call, tmp_path):
    write_scene(tmp_path / "scenes" / "Water" / "S1", "S1", *draw(40, 40, 0))
    common = ["--data_path", "scenes", "--output_dir", "p", "--patch_size", "16"]
    code, err, _ = call(prepare_landsat8_biome, *common, "--generated_masks", "nowhere")
    assert code == 2
    assert "run python prepare_landsat8_biome.py without --generated_masks first" in err
    assert call(prepare_landsat8_biome, *common)[0] == 0
    code, err, _ = call(prepare_landsat8_biome, *common, "--generated_masks", "nowhere")
    assert code == 2
    assert re.search(r"nowhere.Water_S1_mask\.tif is missing \(1 of 1 masks\)", err)


def test_checkpoints_that_are_none_or_of_another_kind(call, tmp_path):
    models = tmp_path / "outputs" / "FCD" / "models"
    models.mkdir(parents=True)
    (models / "best.pt").write_bytes(b"PK not really")
    code, err, _ = call(main, "--mode", "test")
    assert code == 2
    assert "best.pt is no checkpoint or is damaged" in err
    torch.save({"network": {}}, models / "best.pt")
    code, err, _ = call(main, "--mode", "test")
    assert code == 2
    assert "holds no G, D: it is a checkpoint of another kind" in err


def test_a_run_of_other_settings_is_not_continued(call, tmp_path):
    make_patches(tmp_path / "p")
    train = ["--image_dir", "p", *TINY, "--num_iters", "2", "--num_iters_decay", "1"]
    assert call(main, *train)[0] == 0
    config = (tmp_path / "outputs" / "FCD" / "config.json").read_text()
    code, err, _ = call(main, *train, "--g_lr", "0.5")
    assert code == 2
    assert "--g_lr 0.0001 then, 0.5 now" in err
    assert (tmp_path / "outputs" / "FCD" / "config.json").read_text() == config
    assert call(main, *train, "--g_lr", "0.5", "--overwrite", "True")[0] == 0
    assert call(main, *train, "--num_iters", "3")[0] == 2


def test_a_checkpoint_of_another_shape(call, tmp_path):
    make_patches(tmp_path / "p")
    train = ["--image_dir", "p", "--num_workers", "0", "--n_epochs", "1", "--encoder", "slim18"]
    assert call(supervised_main, *train)[0] == 0
    weights = tmp_path / "outputs" / "FCDPlus" / "models" / "best.pt"
    code, err, _ = call(
        supervised_main, *train[:-2], "--encoder", "resnet34", "--model_weights", weights,
        "--experiment_name", "other",
    )  # fmt: skip
    assert code == 2
    assert "is from a network of another shape" in err
    assert not (tmp_path / "outputs" / "other").exists()


def test_incomplete_scenes_are_named_and_the_others_cut(call, tmp_path):
    for name in ("S1", "S2", "S3"):
        write_scene(tmp_path / "scenes" / "Water" / name, name, *draw(40, 40, 0))
    (tmp_path / "scenes" / "Water" / "S2" / "S2_B7.TIF").unlink()
    common = ["--data_path", "scenes", "--output_dir", "p", "--patch_size", "16"]
    code, err, _ = call(prepare_landsat8_biome, *common)
    assert code == 1
    assert "scene S2 in" in err
    assert "missing band B7" in err
    records = {path.stem for path in (tmp_path / "p" / "scenes").glob("*.json")}
    assert records == {"Water_S1", "Water_S3"}
    write_scene(tmp_path / "scenes" / "Water" / "S2", "S2", *draw(40, 40, 0))
    code, err, _ = call(prepare_landsat8_biome, *common)
    assert code == 0
    code, err, _ = call(prepare_landsat8_biome, *common[:-1], "20")
    assert code == 2
    assert "holds patches of S1 cut otherwise" in err


def test_a_scene_the_split_does_not_know(call, tmp_path):
    write_scene(tmp_path / "scenes" / "Water" / "S1", "S1", *draw(40, 40, 0))
    (tmp_path / "mine.csv").write_text("scene,split\nS9,train\n")
    code, err, _ = call(
        prepare_landsat8_biome, "--data_path", "scenes", "--output_dir", "p",
        "--split_file", "mine.csv",
    )  # fmt: skip
    assert code == 2
    assert "mine.csv does not say where scene S1 belongs" in err


def test_run_folder_of_a_plus():
    folder = RunFolder("FCD+1Pct")
    assert str(folder.models) == "outputs/FCDPlus1Pct/models"
    assert str(folder.logs) == "runs/FCDPlus1Pct"
    with pytest.raises(UserError):
        RunFolder(".hidden")


def test_booleans_in_any_case():
    assert [boolean(text) for text in ("True", "false", "TRUE")] == [True, False, True]


@pytest.mark.parametrize("module", [main, supervised_main, prepare_landsat8_biome])
def test_help_documents_every_flag(module):
    for action in build_parser(module.Settings)._actions:
        assert action.help, action.option_strings


def test_a_split_file_is_kept_whole_and_absent_scenes_are_named(call, tmp_path):
    write_scene(tmp_path / "scenes" / "Water" / "S1", "S1", *draw(40, 40, 0))
    (tmp_path / "mine.csv").write_text("scene,split\nS1,test\nS9,train\n")
    common = ["--data_path", "scenes", "--output_dir", "p", "--patch_size", "16"]
    assert call(prepare_landsat8_biome, *common, "--split_file", "mine.csv")[0] == 0
    assert call(prepare_landsat8_biome, *common)[0] == 0
    assert (tmp_path / "p" / "split.csv").read_text() == (tmp_path / "mine.csv").read_text()

    (found,) = cutting.scenes_of_split(find_scenes("scenes"), "p", "test")
    assert found.name == "S1"
    with pytest.raises(UserError, match="p has no prepared train scene"):
        cutting.scenes_of_split(find_scenes("scenes"), "p", "train")
    with pytest.raises(UserError, match=r"1 of the 1 test scenes of p are not below .* S1"):
        cutting.scenes_of_split([], "p", "test")


def test_a_split_that_does_not_fit_leaves_the_earlier_one(call, tmp_path):
    write_scene(tmp_path / "scenes" / "Water" / "S1", "S1", *draw(40, 40, 0))
    common = ["--data_path", "scenes", "--output_dir", "p", "--patch_size", "16"]
    assert call(prepare_landsat8_biome, *common)[0] == 0
    before = (tmp_path / "p" / "split.csv").read_text()
    (tmp_path / "mine.csv").write_text("scene,split\nS1,val\n")
    code, err, _ = call(prepare_landsat8_biome, *common, "--split_file", "mine.csv")
    assert code == 2
    assert "cut otherwise" in err
    assert (tmp_path / "p" / "split.csv").read_text() == before


@pytest.mark.parametrize("stratify", ["biome", "cloud"])
def test_a_truth_of_unknown_codes_spoils_its_scene_alone(call, tmp_path, stratify):
    for name in ("S1", "S2"):
        write_scene(tmp_path / "scenes" / "Water" / name, name, *draw(40, 40, 0))
    np.full((40, 40), 7, np.uint8).tofile(tmp_path / "scenes/Water/S2/S2_fixedmask.img")
    common = ["--data_path", "scenes", "--output_dir", "p", "--patch_size", "16"]
    code, err, _ = call(prepare_landsat8_biome, *common, "--stratify", stratify)
    assert code == 1
    assert "S2_fixedmask.img: code 7 is none of" in err
    assert [path.stem for path in (tmp_path / "p" / "scenes").glob("*.json")] == ["Water_S1"]


def test_a_damaged_patch_found_by_a_loader_process_is_one_line(call, tmp_path):
    make_patches(tmp_path / "p")
    damaged = tmp_path / "p" / "train" / "cloudy" / "S_00000_00000" / "image.tif"
    damaged.write_bytes(damaged.read_bytes()[:500])
    code, err, _ = call(main, "--image_dir", "p", *TINY, "--num_workers", "1", "--num_iters", "2")
    assert code == 2
    assert re.search(r"error: .*S_00000_00000.image\.tif is damaged", err)


def test_no_git_is_no_error(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert describe({}, torch.device("cpu"))["commit"] is None


def test_ctrl_c_is_no_traceback(capsys):
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stopped:
        entry.run(interrupted)
    assert stopped.value.code == 130
    assert capsys.readouterr().err.count("\n") == 1


def test_the_end_of_a_reader_is_told_once(capsys):
    """PyTorch raises from its handler of SIGCHLD, also while the loader is taken down."""

    def dead():
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

    before = signal.signal(signal.SIGCHLD, lambda *_: dead())
    try:
        with pytest.raises(SystemExit) as stopped:
            entry.run(dead)
        assert signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert stopped.value.code == 2
    assert capsys.readouterr().err.count("a process that reads patches has ended") == 1


def weights(experiment):
    return torch.load(f"outputs/{experiment}/models/latest.pt", weights_only=True)["G"]


def test_a_config_is_enough_to_run_again_to_the_same_weights(call, tmp_path):
    make_patches(tmp_path / "p")
    settings = ["--image_dir", "p", "--num_iters", 4, "--n_critic", 2, "--seed", 5, "--g_lr", 3e-3]
    assert call(main, *TINY, *settings, "--experiment_name", "A")[0] == 0
    config = ["--config", "outputs/A/config.json"]
    assert call(main, *config, "--experiment_name", "B")[0] == 0
    assert call(main, *config, "--experiment_name", "C", "--seed", 6)[0] == 0
    a, b, c = (weights(name) for name in "ABC")
    assert all(torch.equal(value, b[name]) for name, value in a.items())
    assert not all(torch.equal(value, c[name]) for name, value in a.items())


def test_a_config_does_not_remove_a_run_again(call, tmp_path):
    make_patches(tmp_path / "p")
    settings = ["--image_dir", "p", "--num_iters", 2, "--overwrite", "True"]
    assert call(main, *TINY, *settings)[0] == 0
    before = (tmp_path / "outputs/FCD/models/latest.pt").stat().st_mtime_ns
    assert call(main, "--config", "outputs/FCD/config.json")[0] == 0
    assert (tmp_path / "outputs/FCD/models/latest.pt").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", "cannot be read: it holds no JSON object"),
        ("{}", "holds no flags"),
        ("{", "cannot be read"),
        ('{"flags": {"batch_size": -3}}', "-3 is not at least 1"),
        ('{"flags": {"rm": "x"}}', "unrecognized arguments: --rm x"),
    ],
)
def test_a_config_is_checked_like_a_command_line(call, tmp_path, content, message):
    (tmp_path / "c.json").write_text(content)
    code, error, _ = call(main, "--config", "c.json")
    assert code == 2
    assert re.fullmatch(f"error: .*{message}.*\n", error)


@pytest.mark.parametrize("text", ["-1e20", "-3.4028235e+38", "-.5E3", "-9999", "-0.5"])
def test_a_negative_number_may_have_an_exponent(tmp_path, text):
    parsed = parse(main.Settings, ["--nodata", text, "--seed", "3"])
    assert parsed.data.nodata == [nodata_from(text)]
    (tmp_path / "c.json").write_text(f'{{"flags": {{"nodata": {text.replace("-.", "-0.")}}}}}')
    assert parse(main.Settings, ["--config", "c.json"]).data.nodata == [nodata_from(text)]


def test_two_runs_in_one_folder_are_refused(call, tmp_path):
    make_patches(tmp_path / "p")
    (tmp_path / "outputs/FCD").mkdir(parents=True)
    with open(tmp_path / "outputs/FCD/.lock", "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        code, error, _ = call(main, *TINY, "--image_dir", "p", "--num_iters", 2)
    assert (code, error) == (
        2,
        "error: another process is training in outputs/FCD; wait for it, or choose another "
        "--experiment_name\n",
    )
    assert call(main, *TINY, "--image_dir", "p", "--num_iters", 2)[0] == 0


@pytest.mark.parametrize(
    ("module", "flags"),
    [(main, TINY), (supervised_main, ["--encoder", "slim18", "--n_epochs", "1", "--device", "cpu",
                                      "--num_workers", "0"])],
    ids=["gan", "unet"],
)  # fmt: skip
def test_validation_without_a_valid_pixel_is_one_line(tmp_path, call, module, flags):
    worker.make_data(tmp_path)
    for mask in tmp_path.glob("p/val/*/*/mask.tif"):
        tifffile.imwrite(mask, np.zeros((32, 32), np.uint8), photometric="minisblack")
    train = [*flags, "--image_dir", "p", "--batch_size", "4"]
    if module is main:
        train += ["--num_iters", "1", "--num_iters_decay", "0", "--n_critic", "1"]
    code, error, _ = call(module, "--mode", "train", *train)
    assert code == 2
    assert error.splitlines()[-1] == (
        "error: the validation patches hold no pixel that is valid in image and mask; check the "
        "codes of their masks"
    )


@pytest.mark.slow
def test_compiling_needs_a_compiler(tmp_path):
    env = {"CXX": "/nowhere/g++", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, main.__file__, "--compile", "True", "--device", "cpu"],
        env=os.environ | env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.rpartition("error: ")[2].startswith("--compile True cannot be used on cpu")
    assert "C++ compiler" in done.stderr
