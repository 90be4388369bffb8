import itertools
import math

import numpy as np
import pytest
import torch

from fcd.errors import UserError
from fcd.landsat.bands import BANDS
from fcd.patches.normalisation import VALID_MIN, Kind, Normalization, normalization


def test_paper_normalisation_by_hand():
    dn = torch.tensor([0, 1, 13107, 65535], dtype=torch.float32).view(1, 1, 2, 2)
    x = Normalization.paper(1).normalize(dn)
    expected = [-1, (1 / 65535 - 0.5) / 0.5, -0.6, 1]
    assert x.flatten().tolist() == pytest.approx(expected, abs=1e-6)
    assert x[0, 0, 0, 0] == -1  # fill exactly
    assert x[0, 0, 0, 1] > -1  # the darkest valid pixel is not fill


def test_uint16_batches_are_normalised():
    dn = torch.from_numpy(np.array([[[[40000]]]], np.uint16))
    assert Normalization.paper(1).normalize(dn).item() == pytest.approx(40000 / 65535 * 2 - 1)


def test_stretch_takes_percentiles_of_valid_pixels():
    rng = np.random.default_rng(0)
    pixels = rng.normal([[20000], [8000]], [[1000], [50]], (2, 100_000)).astype(np.uint16)
    counts = np.stack([np.bincount(band, minlength=65536) for band in pixels])
    counts[:, 0] += 1_000_000  # fill must not matter
    stretch = Normalization.stretch(counts)
    for band, low, high in zip(pixels, stretch.low, stretch.high, strict=True):
        assert low == pytest.approx(np.percentile(band, 0.1), abs=2)
        assert high == pytest.approx(np.percentile(band, 99.9), abs=2)
    dn = torch.tensor([[0.0, 1.0], [stretch.low[0], stretch.high[0]]]).expand(1, 2, 2, 2)
    x = stretch.normalize(dn.clone())
    assert x[0, 0].flatten().tolist() == pytest.approx([-1, VALID_MIN, VALID_MIN, 1], abs=1e-6)
    assert (x == -1).sum() == 2  # fill alone is exactly -1


def test_root_takes_the_square_root_of_all_but_thermal_bands():
    root = Normalization("root", (5000.0, 5000.0), (15000.0, 15000.0), bands=("B9", "B10"))
    dn = torch.tensor([0.0, 4000.0, 5100.0, 7500.0, 15000.0, 20000.0]).view(1, 1, 1, 6)
    x = root.normalize(dn.expand(1, 2, 1, 6))
    share = torch.tensor([0, 0.01, 0.25, 1.0, 1.0])  # of the range, clipped
    assert x[0, 0, 0, 1:].tolist() == pytest.approx((2 * share.sqrt() - 1).tolist(), abs=1e-4)
    assert x[0, 1, 0, 1:].tolist() == pytest.approx((2 * share - 1).tolist(), abs=1e-4)
    assert (x == -1).nonzero()[:, 3].tolist() == [0, 0]  # fill, which is not the dark pixel


def test_stretch_of_a_constant_band_is_refused():
    counts = np.zeros((1, 65536), np.int64)
    counts[0, 500] = 10
    with pytest.raises(UserError, match="band 1 "):
        Normalization.stretch(counts)


@pytest.mark.parametrize(
    "normalization",
    [
        Normalization.paper(2, bands=("B5", "B2")),
        Normalization("stretch", (5000.0, 6000.0), (30000.0, 20000.0)),
        Normalization("root", (5000.0, 6000.0), (30000.0, 20000.0), bands=("B9", "B10")),
    ],
)
def test_denormalise_undoes_normalise_and_state_survives(normalization):
    dn = torch.tensor([0.0, 7000.0, 15000.0, 19999.0]).view(1, 1, 2, 2).repeat(1, 2, 1, 1)
    again = Normalization.from_state(normalization.state())
    assert again == normalization
    assert torch.allclose(again.denormalize(normalization.normalize(dn)), dn, atol=0.05)


def test_what_checkpoints_of_before_hold_is_read_and_told_apart_as_before():
    before = {"kind": "paper", "low": [0.0], "high": [65535.0], "nodata": 0}
    normalization = Normalization.from_state(before)
    assert normalization == Normalization.paper(1)
    assert normalization.bands == ("1",)
    ten = {"kind": "paper", "low": [0.0] * 10, "high": [65535.0] * 10, "nodata": 0}
    assert Normalization.from_state(ten).bands == BANDS
    # The fingerprint of weights, to which thresholds and masks belong, is made with this.
    assert repr(normalization) == (
        "Normalization(kind='paper', low=(0.0,), high=(65535.0,), nodata=0)"
    )
    assert repr(Normalization.paper(1, bands=("B5",))) == repr(normalization)


@pytest.mark.parametrize("bands", [["B2"], ["B2", "B2"], ["B2", "B3", "B4"], 2])
def test_names_that_do_not_fit_the_bands_are_refused(bands):
    with pytest.raises((ValueError, TypeError)):
        Normalization.from_state(Normalization.paper(2).state() | {"bands": bands})


def test_names_of_bands_come_from_the_patches():
    for kind, dtype in itertools.product(("paper", "stretch"), ("uint16", "float32")):
        image = np.arange(18, dtype=dtype).reshape(2, 3, 3)
        data = Kind(("B9", "B2"), 3, dtype, None)
        assert normalization(kind, data, lambda image=image: [image]).bands == ("B9", "B2")


def test_checkpoints_of_earlier_versions_know_the_pixels_of_landsat_alone():
    for learned, expected in ((Normalization.paper(10), 30), (Normalization.paper(3), None)):
        state = learned.state()
        del state["pixel_size"]
        assert Normalization.from_state(state).pixel_size == expected
        for wrong in (0, -1, math.inf, math.nan):
            with pytest.raises(ValueError, match="pixels of"):
                Normalization.from_state(state | {"pixel_size": wrong})
