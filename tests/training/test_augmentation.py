import pickle
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from fcd.training.augmentation import Augmentation
from tests.conftest import ROOT

SIDE = 6
PIXELS = np.arange(1, SIDE**2 + 1).reshape(SIDE, SIDE)  # each another one
# The symmetries of a square, by NumPy: four turns, and those of the mirror image.
SYMMETRIES = [np.rot90(square, turns) for square in (PIXELS, PIXELS[:, ::-1]) for turns in range(4)]


def sample(bands=3, dtype=np.uint16):
    """Image (C, H, W) as prepared patches lie in memory, and mask (H, W)."""
    image = (PIXELS[..., None] + np.arange(bands) % 100).astype(dtype)
    return image.transpose(2, 0, 1), PIXELS.astype(np.uint8)


def which(changed):
    """The number among `SYMMETRIES` of a changed sample, whose bands and mask are all alike."""
    image, mask = changed["image"], changed["mask"]
    (number,) = [n for n, pixels in enumerate(SYMMETRIES) if (pixels == mask).all()]
    assert (image == mask + (np.arange(len(image)) % 100)[:, None, None]).all()
    return number


@pytest.mark.parametrize(("kind", "reached"), [("flip", (0, 4)), ("d4", range(8))])
def test_every_symmetry_is_equally_likely_at_each_step_and_position(kind, reached):
    change, (image, mask) = Augmentation(kind, 3), sample()
    found = np.array([[which(change(step, position, image, mask=mask)) for position in range(30)]
                      for step in range(30)])  # fmt: skip
    share = 1 / len(reached)
    counts = Counter(found.ravel().tolist())
    assert set(counts) == set(reached)
    assert max(abs(n - 900 * share) for n in counts.values()) < 4 * (900 * share) ** 0.5
    for line in (*found, *found.T):  # no step and no position has its own
        assert Counter(line.tolist()).most_common(1)[0][1] < 30 * share + 5 * (30 * share) ** 0.5
    for neighbours in (found[1:] == found[:-1], found[:, 1:] == found[:, :-1]):
        assert neighbours.mean() == pytest.approx(share, abs=0.08)


@pytest.mark.parametrize("kind", ["flip", "d4"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("bands", [1, 2, 10, 128, 129, 1000])
def test_any_number_of_bands_in_any_type(kind, dtype, bands):
    change, (image, mask) = Augmentation(kind, 0), sample(bands, dtype)
    found = set()
    for step in range(12):
        for layout in (image, np.ascontiguousarray(image)):  # of prepared patches and of rasters
            changed = change(step, 0, layout, mask=mask)
            assert changed["image"].shape == (bands, SIDE, SIDE)
            assert changed["image"].dtype == dtype
            assert changed["mask"].dtype == np.uint8
            alone = change(step, 0, layout)
            assert set(alone) == {"image"}
            np.testing.assert_array_equal(alone["image"], changed["image"])
            found.add((step, which(changed)))
    assert len(found) == 12
    np.testing.assert_array_equal(image, sample(bands, dtype)[0])


def test_seed_step_and_position_alone_decide():
    image, mask = sample()
    places = [(step, position) for step in (0, 1, 70_000) for position in range(40)]

    def run(change, order=places):
        found = {place: which(change(*place, image, mask=mask)) for place in order}
        return [found[place] for place in places]

    first = run(Augmentation("d4", 5))
    change = Augmentation("d4", 5)
    assert run(change, places[::-1]) == first
    np.random.seed(1)  # noqa: NPY002
    assert run(change) == first
    assert run(pickle.loads(pickle.dumps(change))) == first
    assert run(Augmentation("d4", 6)) != first


def test_the_library_is_imported_where_it_is_used_and_asks_no_network():
    code = """
import socket, sys, warnings

asked = []

def refuse(*arguments, **_):
    asked.append(arguments)
    raise OSError("no network here")

socket.getaddrinfo = socket.create_connection = socket.socket.connect = refuse
import main, supervised_main, solver
assert not {"albumentations", "albucore"} & set(sys.modules)
from fcd.training.augmentation import Augmentation
Augmentation("flip", 0)
assert "albumentations" in sys.modules and not asked, asked
# It would have, and would have been found out.
warnings.simplefilter("ignore")
from albumentations import check_version
check_version.check_for_updates()
assert asked
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
