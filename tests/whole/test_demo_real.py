import subprocess

import pytest

from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no scene given"),
        (["--device", "cpu"], "no scene given"),
        (["absent"], "absent is no folder of a scene"),
    ],
)
def test_what_is_no_scene_is_refused_before_anything_is_written(tmp_path, arguments, message):
    done = subprocess.run(
        ["bash", ROOT / "scripts" / "demo_real.sh", *arguments],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert message in done.stderr
    assert not list(tmp_path.iterdir())
