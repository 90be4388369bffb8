"""All rows through the scripts, at a size that says nothing about quality."""

import csv
import fcntl
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fcd.synthetic.layout import write_data_set
from tests.conftest import ROOT

ROWS = {
    "QA band", "FCD", "FCD, no pixel label", "StarGAN", "CAM", "Grad-CAM", "Grad-CAM++", "U-CAM",
    "FCD+", "FCD+, no pixel label", "FCD+1%", "Supervised", "Pre", "Pre1%", "Rand1%"
}  # fmt: skip
# Without one pixel label, and with a threshold and a checkpoint that are not chosen by one.
LABEL_FREE = {"QA band", "FCD, no pixel label", "FCD+, no pixel label"}
BENCHMARK = {
    "FCD", "FCD+", "FCD+1%", "Supervised", "CAM", "U-CAM", "Drawn scenes alone",
    "Drawn, then FCD+", "Second round",
}  # fmt: skip
PIXEL_LABELS = {"FCD+1%", "Supervised"}
TINY = [
    "--jobs", "2", "--seeds", "0", "--device", "cpu",
    "--gan", "--num_iters 4 --num_iters_decay 2 --model_save_step 4 --g_conv_dim 4 "
    "--g_repeat_num 1 --d_conv_dim 4",
    "--unet", "--n_epochs 1 --batch_size 256",
]  # fmt: skip


def start(folder, arguments, script="reproduce_paper.sh"):
    """A script in an environment that is active already, from a folder that is not ours."""
    environment = os.environ | {
        "VIRTUAL_ENV": sys.prefix,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    if script == "reproduce_paper.sh":
        arguments = ["--demo", *arguments]
    return subprocess.Popen(
        ["bash", ROOT / "scripts" / script, "--dir", folder / "rows", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def draw_scenes(folder):
    """Smaller ones than the demo's, where the script finds them: 1 % are two patches."""
    write_data_set(folder / "scenes", 6, 100, seed=5)
    arguments = ["--data_path", "scenes", "--output_dir", "patches", "--patch_size", "32"]
    command = [sys.executable, ROOT / "prepare_landsat8_biome.py", *arguments]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    (folder / "patches/complete").touch()


def finish(process):
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return output


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """The folder of a table that was stopped once on its way."""
    folder = tmp_path_factory.mktemp("elsewhere")
    draw_scenes(folder / "rows")
    stopped = start(folder, TINY)
    config = folder / "rows/outputs/FCD-0/config.json"
    while not config.exists():
        assert stopped.poll() is None, stopped.communicate()[0]
        time.sleep(0.2)
    stopped.send_signal(signal.SIGTERM)
    stopped.communicate()  # ends when the last process that writes to it has ended
    assert stopped.returncode == 130
    finish(start(folder, TINY))
    return folder / "rows"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_row_is_filled(rows):
    with (rows / "outputs/comparison/table.csv").open(newline="") as stream:
        overall = [row for row in csv.DictReader(stream) if row["scope"] == "Overall"]
    assert {row["method"] for row in overall} == ROWS
    for row in overall:
        assert row["runs"] == "1"
        assert 0 < float(row["accuracy_mean"]) <= 1
        chosen = {
            row[f"{choice}_chosen_with_pixel_labels"] for choice in ("threshold", "checkpoint")
        }
        free = row["pixel_labels"] == "0" and chosen == {"no"}
        assert free == (row["method"] in LABEL_FREE), row


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_typed_again_it_only_makes_the_table(rows):
    before = {path: path.stat().st_mtime_ns for path in rows.glob("outputs/*-0/*/*.*")}
    finish(start(rows.parent, TINY))
    assert {path: path.stat().st_mtime_ns for path in rows.glob("outputs/*-0/*/*.*")} == before
    assert "FCD-0 is tested already" in (rows / "logs/fcd-0.log").read_text()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_row_that_fails_is_named_and_the_others_go_on(tmp_path):
    wrong = ["--gan", "--g_conv_dim none", "--unet", "--n_epochs none"]
    draw_scenes(tmp_path / "rows")
    process = start(tmp_path, [*TINY[:6], *wrong])
    output, _ = process.communicate()
    assert process.returncode == 1
    named = [line for line in output.splitlines() if line.startswith("error: ")]
    assert sum("'none' is no whole number" in line for line in named) == 3
    assert "type the command again" in named[-1]
    assert (tmp_path / "rows/outputs/QA/results/metrics.json").exists()


@pytest.fixture
def stub(tmp_path):
    """Scripts with a `python` that writes down what it was asked, and of packs a threshold."""
    (tmp_path / "python").write_text(
        f'#!/bin/sh\necho "$@" >>"{tmp_path}/asked"\n'
        "name=$(echo \"$@\" | sed -n 's/.*--mode pack.*--experiment_name \\([^ ]*\\).*/\\1/p')\n"
        'run=outputs/$(echo "$name" | sed s/+/Plus/)\n'
        '[ -z "$name" ] || { mkdir -p "$run/results" "$run/models" &&\n'
        'touch "$run/results/threshold.json" "$run/models/best-packed.pt"; }\n'
    )
    (tmp_path / "python").chmod(0o755)

    def run(script, *arguments):
        environment = {"VIRTUAL_ENV": "any", "PATH": f"{tmp_path}:/usr/bin:/bin"}
        return subprocess.run(
            ["bash", ROOT / "scripts" / script, *arguments, "--dir", tmp_path],
            env=environment, cwd=tmp_path, capture_output=True, text=True,
        )  # fmt: skip

    return run


def commands(tmp_path):
    """What the scripts of `stub` asked of python, line by line."""
    return (tmp_path / "asked").read_text().replace(f"{ROOT}/", "").splitlines()


@pytest.mark.parametrize("script", ["reproduce_paper.sh", "run_fcd.sh"])
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--seed", "3"], 'error: --seed is different in each run: the scripts give it (seeds: '
         '--seeds "0 1 2")'),
        (["--method=X"], "error: --method=X is different in each run: the scripts give it (seeds: "
         '--seeds "0 1 2")'),
        (["--demo", "--image_dir", "p"], "error: --demo draws its own scenes; leave "
         "--orig_image_dir and --image_dir out"),
    ],
)  # fmt: skip
def test_flags_that_would_mix_up_the_rows_are_refused(stub, tmp_path, script, flags, message):
    done = stub(script, *flags)
    assert (done.returncode, done.stderr) == (2, f"{message}\n")
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("jobs", ["0", "x", "-1"])
def test_a_number_of_jobs_that_is_none_is_refused(stub, jobs):
    done = stub("reproduce_paper.sh", "--jobs", jobs)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"--jobs {jobs} is no number of rows" in done.stderr


def test_rows_are_not_carried_out_twice_at_the_same_time(stub, tmp_path):
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "done").write_text("fcd-0\n")
    with (logs / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = stub("reproduce_paper.sh")
    message = f"error: {tmp_path}: this command is running here already"
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith(message)
    assert (logs / "done").read_text() == "fcd-0\n"


def test_help_tells_the_flags_of_the_script_and_of_all_rows(stub):
    done = stub("reproduce_paper.sh", "--help")
    assert done.returncode == 0
    for flag in ("--jobs N", "--demo", "--seeds", "--dir DIR", "--gan", "--image_dir DIR"):
        assert flag in done.stdout
    assert "shellcheck" not in done.stdout


def test_full_size_is_the_papers_and_data_elsewhere_reach_every_command(stub, tmp_path):
    done = stub("run_fcdplus.sh", "--seeds", "0 7", "--orig_image_dir", "s", "--image_dir", "p",
                "--device", "cuda:1")  # fmt: skip
    assert done.returncode == 0, done.stderr
    asked = (tmp_path / "asked").read_text().splitlines()
    commands = [line.replace(f"{ROOT}/", "") for line in asked if line.startswith(str(ROOT))]
    scenes, patches = f"{tmp_path}/s", f"{tmp_path}/p"
    data = f"--orig_image_dir {scenes} --image_dir {patches}"
    assert commands[:4] == [
        f"main.py --mode train {data} --experiment_name FCD-0 --seed 0 --device cuda:1",
        f"main.py --mode generate_masks {data} --batch_size 64 --experiment_name FCD-0 "
        "--device cuda:1",
        f"prepare_landsat8_biome.py --data_path {scenes} --output_dir {patches} "
        "--generated_masks outputs/FCD-0/results/tifs --generated_mask_file generated_mask_0.tif",
        f"supervised_main.py --mode train {data} --experiment_name FCD+-0 --seed 0 "
        "--train_mask_file generated_mask_0.tif --classifier_head True --device cuda:1",
    ]
    assert sum("--seed 7" in line for line in commands) == 4
    assert any(
        "FCD+1Pct-7 --seed 7 --lr 1e-5 --keep_ratio 0.01 --freeze_encoder True" in line
        for line in commands
    )


# --- the benchmark of real pixels --------------------------------------------------------------


@pytest.fixture
def crops(tmp_path):
    """As much of a folder of crops as the script itself looks at."""
    (tmp_path / "crops").mkdir()
    (tmp_path / "crops/patches.csv").write_text("patch,biome,scene\n")
    return tmp_path / "crops"


def test_every_row_of_the_benchmark_is_trained_and_tested_in_each_fold(stub, tmp_path, crops):
    done = stub("real_biome.sh", crops, "--folds", "2", "--seeds", "0 7", "--device", "cuda:1")
    assert done.returncode == 0, done.stderr
    lines = commands(tmp_path)
    asked = [line for line in lines if re.match(r"-m fcd|(supervised_)?main\.py", line)]
    assert asked[0] == f"-m fcd.folds {crops} --output_dir folds --folds 2"
    assert asked[1] == (
        "-m fcd.cut --csv folds/fold-0.csv --output_dir patches/32-fold0 --patch_size 32 "
        "--stride 32 --clear_below 0.005 --cloudy_above 0.1"
    )
    tests = [line for line in asked if "--mode test" in line]
    found = [re.search(r"fold(\d)-s(\d) --method (.*?)( --|$)", line).groups() for line in tests]
    assert sorted(groups[:3] for groups in found) == sorted(
        (fold, seed, row) for fold in "01" for seed in "07" for row in BENCHMARK
    )
    # What parts the labels of a fold's scenes is asked of the network that has not seen them.
    packs = [line for line in asked if "--mode pack" in line]
    assert len(packs) == 2 * 2 * 3
    for line in packs:
        assert re.search(r"--image_dir patches/64-held(\d) .*fold\1-s\d --threshold image", line)
    trainings = [line for line in asked if "--mode train" in line]
    assert len(trainings) == 2 + 2 * 2 * 8
    # Seeds may be trained at the same time, on patches that they share.
    masked = [line for line in asked if "--generated_mask_file" in line or "--train_mask" in line]
    assert len(masked) == 2 * 2 * 5
    for line in masked:
        assert re.search(r"-fold\d-s(\d) .*_mask_file (generated|second)_\1_mask\.tif", line)
    teachers = [line for line in asked if "Teacher" in line]
    assert len(teachers) == 2 * 2
    for line in teachers:
        seed = re.search(r"Teacher-fold\d-s(\d)", line)[1]
        assert f"--model_weights outputs/Drawn-s{seed}/models/best.pt" in line
    # What has learned drawn scenes knows the sun, and so does what begins with it.
    for line in trainings:
        knows = "--drawn True" in line or "--rehearse" in line
        assert knows == bool(re.search(r"--train_bands \S*,SUN ?", line))
    for line in (*trainings, *tests):
        assert line.count("--device cuda:1") == 1
        experiment = re.search(r"--experiment_name \S+fold(\d)", line)
        if experiment:  # learns from, and is tested on, the patches of its own fold
            assert f"-fold{experiment[1]} " in re.search(r"--image_dir (\S+ )", line)[1]
    compared = asked[-1].split()
    assert len([word for word in compared if word.startswith("outputs/")]) == 37  # and the output
    assert f"--crops {crops}/patches.csv --base FCD+ " in asked[-1]


def test_starter_weights_learn_drawn_scenes_and_real_labels_choose_their_threshold(
    stub, tmp_path, crops
):
    done = stub("starter_weights.sh", crops, "--device", "cuda:1")
    assert done.returncode == 0, done.stderr
    asked = commands(tmp_path)
    trainings = [line for line in asked if "--mode train" in line]
    packs = [line for line in asked if "--mode pack" in line]
    named = zip(trainings, packs, ("starter-thermal", "starter"), strict=True)
    for (training, pack, name), bands in zip(
        named, ("B2-B7,B9,B10,SUN", "B2-B7,B9,SUN"), strict=True
    ):
        assert "--image_dir patches/drawn " in training
        assert "--drawn True" in training
        assert f"--train_bands {bands} " in training
        assert f"--experiment_name {name} " in training
        assert "--image_dir patches/64-all " in pack
        assert f"--experiment_name {name} --threshold image" in pack
    assert all(line.count("--device cuda:1") == 1 for line in (*trainings, *packs))
    found = {path.name for path in (tmp_path / "weights").iterdir()}
    assert found == {"starter-thermal.pt", "starter.pt"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["crops", "--demo"], "error: --demo does not go with scripts/real_biome.sh"),
        (["absent"], "error: absent: a folder with images/, masks/ and patches.csv is expected"),
        ([], "error: no folder given: a folder with images/"),
        (["crops", "--seed", "1"], "error: --seed is different in each run"),
    ],
)
def test_what_the_benchmark_cannot_take_is_refused(stub, tmp_path, crops, flags, message):
    done = stub("real_biome.sh", *flags)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith(message)
    assert not (tmp_path / "asked").exists()


WAYS = {"f1", "clear", "clear:99.5", "clear:99", "otsu", "four flips", "last weights"}


def test_what_pays_is_tested_on_one_training_of_each_seed(stub, tmp_path):
    (tmp_path / "patches").mkdir()
    done = stub("what_pays.sh", "--seeds", "0 7")
    assert done.returncode == 0, done.stderr
    asked = commands(tmp_path)
    tests = [line for line in asked if line.startswith("main.py --mode test")]
    way = r"FCD-s(\d)\S* --method FCD, (.*?) --model"
    found = [re.search(way, line).groups() for line in tests]
    assert sorted(found) == sorted((seed, way) for seed in "07" for way in WAYS)
    for line, (seed, _) in zip(tests, found, strict=True):
        assert f" --model_weights outputs/FCD-s{seed}/models/" in line
    trainings = [line for line in asked if "--mode train" in line]
    assert [line.split()[0] for line in trainings] == ["main.py"] * 2 + ["supervised_main.py"] * 4
    tables = [line for line in asked if line.startswith("-m fcd.comparison")]
    assert tables[0].endswith("--base FCD, f1 --output_dir outputs/what-pays")
    assert asked[-1].endswith("--base FCD+, plain --output_dir outputs/what-pays-plus")


def test_what_pays_on_real_pixels_takes_the_folds_of_the_benchmark(stub, tmp_path, crops):
    done = stub("what_pays.sh", crops)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f'real_biome.sh {crops} --rows FCD --seeds "0" makes it' in done.stderr
    for run in (
        "FCD-fold0-s0",
        "FCD-fold1-s0",
        "FCD-fold1-s0-otsu",
        "FCD-fold1-s3",
        "FCD64-fold0-s0",
    ):
        (tmp_path / "outputs" / run).mkdir(parents=True)
    done = stub("what_pays.sh", crops)
    assert done.returncode == 0, done.stderr
    asked = commands(tmp_path)
    tests = [line for line in asked if "--mode test" in line]
    assert len(tests) == 3 * len(WAYS)
    for line in tests:
        side, fold = re.search(r"--image_dir patches/(32|64)-fold(\d) ", line).groups()
        run = f"{'FCD' if side == '32' else 'FCD64'}-fold{fold}-s0"
        assert re.search(rf"--model_weights outputs/{run}/models/\w+\.pt ", line)
    tables = [line for line in asked if line.startswith("-m fcd.comparison")]
    for table, name in zip(tables, ("what-pays", "what-pays-64"), strict=True):
        assert f"--base FCD, clear --output_dir outputs/{name} --crops" in table


def test_what_pays_by_qa_bands_is_tested_on_the_masks(stub, tmp_path):
    for name in ("patches", "qa"):
        (tmp_path / name).mkdir()
    done = stub("what_pays.sh", "--qa", "--seeds", "0 7")
    assert done.returncode == 0, done.stderr
    asked = commands(tmp_path)
    (cut,) = (line for line in asked if "--labels" in line)
    assert cut.endswith("--output_dir qa --patch_size 32 --labels qa")
    used = [re.findall(r"--image_dir (\w+)", line)[-1] for line in asked if "--mode t" in line]
    choices = [way for way in WAYS if " " not in way]
    assert used == ["qa", *["qa", "patches"] * len(choices)] * 2
    chosen = [line for line in asked if "--mode test" in line and "--threshold known" not in line]
    tested = [line for line in asked if "--threshold known" in line]
    for choice, test in zip(chosen, tested, strict=True):
        run, way = re.search(r"--experiment_name (\S+) --threshold (\S+)", choice).groups()
        assert f"--experiment_name {run}-{way.replace(':', '-')} --method FCD, {way} " in test
        assert test.endswith(f" --model_weights outputs/{run}/models/best.pt")
    assert asked[-1].endswith("--base FCD, f1 --output_dir outputs/what-pays-qa")


def test_further_rows_are_fcd_of_other_patches_and_inputs(stub, tmp_path, crops):
    rows = {"FCD": (32, "stretch"), "FCD64": (64, "stretch"), "TOA": (32, "toa")}
    rows["Paper"] = (32, "paper")
    done = stub("real_biome.sh", crops, "--folds", "2", "--rows", " ".join(rows))
    assert done.returncode == 0, done.stderr
    asked = commands(tmp_path)
    trainings = [line for line in asked if "--mode train" in line]
    assert len(trainings) == 2 * len(rows)
    for line in trainings:
        name, fold = re.search(r"--experiment_name (\w+)-fold(\d)-s0", line).groups()
        side, normalization = rows[name]
        assert f"--image_dir patches/{side}-fold{fold} " in line
        for flag, value in (("image_size", side), ("normalize", normalization)):
            assert re.findall(rf"--{flag} (\w+)", line)[-1] == str(value)
    assert "--base FCD --output_dir outputs/comparison" in asked[-1]


def test_runs_of_other_folds_are_not_taken_for_these(stub, tmp_path, crops):
    assert stub("real_biome.sh", crops).returncode == 0
    done = stub("real_biome.sh", crops, "--folds", "2")
    told = f"error: {tmp_path} holds 3 folds of {crops}, not 2 folds of {crops}; give another --dir"
    assert (done.returncode, done.stderr) == (2, f"{told}\n")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_benchmark_fills_every_row(tmp_path):
    """On crops of drawn scenes, which also stand for those that the script would draw."""
    write_data_set(tmp_path / "scenes", 1, 128, seed=3)
    crop = ["--data_path", "scenes", "--output_dir", "crops", "--bands", "B2-B7,B9,B10"]
    cut = ["--csv", "folds/all.csv", "--output_dir", "rows/patches/drawn", "--patch_size", "64"]
    for module, *flags in (
        ("fcd.crops", *crop, "--size", "96"),
        ("fcd.folds", "crops", "--output_dir", "folds"),
        ("fcd.cut", *cut, "--stride", "32", "--cloudy_above", "0.1"),
    ):
        command = [sys.executable, "-m", module, *flags]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    (tmp_path / "rows/patches/drawn/complete").touch()
    arguments = [tmp_path / "crops", "--folds", "2", *TINY[2:]]
    finish(start(tmp_path, arguments, "real_biome.sh"))
    table = tmp_path / "rows/outputs/comparison/table.csv"
    with table.open(newline="") as stream:
        overall = [row for row in csv.DictReader(stream) if row["scope"] == "Overall"]
    rows = {row["method"]: row for row in overall}
    assert rows.keys() == BENCHMARK
    for name, row in rows.items():
        assert row["runs"] == "1 × 2 folds"
        low, mean, high = (float(row[f"accuracy_{bound}"]) for bound in ("low", "mean", "high"))
        assert 0 <= low <= mean <= high <= 1
        assert (row["pixel_labels"] == "0") == (name not in PIXEL_LABELS), row
        assert row["threshold_chosen_with_pixel_labels"] == "no"
        assert row["checkpoint_chosen_with_pixel_labels"] == "no"
    finish(start(tmp_path, arguments, "real_biome.sh"))  # everything is there already


def test_licences_of_what_requirements_name_are_stated_and_permissive():
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/licences.py"], capture_output=True, text=True, check=True
    )
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines()[2:]]
    licences = {name.lower().replace("_", "-"): licence for name, _, licence in rows}
    named = re.findall(r"^([\w-]+)[>=]=", (ROOT / "requirements.txt").read_text(), re.M)
    assert len(named) > 15
    for name in named:
        assert re.search("MIT|BSD|Apache|HPND|MPL|PSF|Python Software", licences[name]), name
