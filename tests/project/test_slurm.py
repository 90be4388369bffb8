"""The batch script, with stand-ins for the cluster's commands that say what they were given."""

import os
import shutil
import subprocess

import pytest

from tests.conftest import ROOT

SCRIPT = ROOT / "scripts/slurm/train.sbatch"


@pytest.fixture
def cluster(tmp_path):
    for name, does in [
        ("scontrol", '[ "$*" = "show hostnames n[7-8]" ] && printf "n7\\nn8\\n"'),
        ("srun", 'printf "%s\\n" "$SRUN_CPUS_PER_TASK $TORCH_ELASTIC_SHUTDOWN_TIMEOUT" "$@"'),
        ("torchrun", "exit 1"),
    ]:
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    return {
        "PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_NODELIST": "n[7-8]", "SLURM_NNODES": "2",
        "SLURM_GPUS_ON_NODE": "4", "SLURM_JOB_ID": "123456", "SLURM_CPUS_PER_TASK": "32",
    }  # fmt: skip


def submit(environment, *arguments):
    return subprocess.run(
        ["bash", SCRIPT, *arguments], env=environment, capture_output=True, text=True
    )


def test_torchrun_gets_machines_gpus_meeting_point_and_arguments(cluster):
    done = submit(cluster, "main.py", "--experiment_name", "a b")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "32 270", "--kill-on-bad-exit=1",
        "torchrun", "--nnodes=2", "--nproc_per_node=4", "--rdzv_backend=c10d",
        "--rdzv_id=123456", "--rdzv_endpoint=n7:23456", "main.py", "--experiment_name", "a b",
    ]  # fmt: skip


def test_what_is_missing_is_said(cluster):
    assert submit(cluster).returncode == 2
    without = submit(cluster | {"PATH": "/usr/bin:/bin"}, "main.py")
    assert (without.returncode, without.stderr.count("\n")) == (2, 1)
    assert "activate the environment" in without.stderr


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
def test_shellcheck_is_content():
    subprocess.run(["shellcheck", SCRIPT], check=True, env=os.environ)
