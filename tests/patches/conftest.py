"""What tests of patches share."""

import pytest

from fcd.landsat.scenes import find_scenes
from tests.conftest import draw, write_scene


@pytest.fixture
def scene(tmp_path):
    dn, truth = draw(50, 70, 5)
    write_scene(tmp_path / "scenes" / "Water" / "S1", "S1", dn, truth)
    return find_scenes(tmp_path / "scenes")[0], dn, truth
