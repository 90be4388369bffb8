"""Distributions of the bands, real against drawn, on numbers worked out by hand."""

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine

from benchmarks import spectra
from fcd.errors import UserError
from fcd.synthetic.layout import write_data_set


def test_distances_of_shifted_and_of_equal_pixels():
    drawn = np.random.default_rng(0).integers(9000, 12000, (4000, 8)).astype(np.uint16)
    real = drawn.copy()
    real[:, 0] += 100  # B2: each pixel moves by 100
    real[:1000, 7] = 20_000  # B10: a quarter lies outside
    table = spectra.distances(real, drawn)
    assert table.loc["B2", "distance"] == pytest.approx(100)
    assert table.loc["B3"].tolist() == pytest.approx([0, 0.99], abs=2e-3)
    assert table.loc["B10", "inside"] == pytest.approx(0.75 * 0.99, abs=0.01)
    # (B3 - B4) / (B3 + B4) of the light above DN 5000.
    one = spectra.features(np.full((1, 8), 8000) + np.array([0, 0, 3000, 0, 0, 0, 0, 0]))
    assert one.loc[0, "B3:B4"] == pytest.approx((3000 - 6000) / 9000)


def test_neighbours_tell_classes_that_lie_apart_and_only_these():
    rng = np.random.default_rng(0)

    def pixels(centre):
        return rng.normal(centre, 300, (200, 8)).astype(np.uint16)

    drawn = {"clear": pixels(8000), "cloud": pixels(20_000)}
    assert spectra.by_neighbours({"clear": pixels(8000), "cloud": pixels(20_000)}, drawn) == 1
    # All that is real is called clear: F1 of 2/3 for one class and 0 for the other.
    lost = spectra.by_neighbours({"clear": pixels(8000), "cloud": pixels(8000)}, drawn)
    assert lost == pytest.approx(1 / 3)


def test_patches_and_scenes_are_read_and_drawn(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (tmp_path / "real" / folder).mkdir(parents=True)
    form = {"driver": "GTiff", "height": 16, "width": 16, "transform": Affine.scale(30)}
    dn = rng.integers(5000, 20_000, (8, 16, 16)).astype(np.uint16)
    with rasterio.open(
        tmp_path / "real/images/a.tif", "w", count=8, dtype="uint16", **form
    ) as file:
        file.write(dn[::-1])
        file.descriptions = spectra.COMPARED[::-1]
    mask = np.full((1, 16, 16), 128, np.uint8)
    mask[:, :4] = 192
    with rasterio.open(tmp_path / "real/masks/a.tif", "w", count=1, dtype="uint8", **form) as file:
        file.write(mask)
    found = spectra.sample([tmp_path / "real"], 1000)
    assert [len(found[kind]) for kind in ("clear", "cloud")] == [192, 64]
    assert sorted(found["cloud"][:, 0]) == sorted(dn[0, :4].ravel())  # B2, by its name
    write_data_set(tmp_path / "drawn", 1, 64, 0, "wide")
    table = spectra.main(
        ["--real", str(tmp_path / "real"), "--drawn", str(tmp_path / "drawn"), "--pixels", "50",
         "--output", str(tmp_path / "s.svg")]
    )  # fmt: skip
    assert list(table.columns) == [("drawn", "distance"), ("drawn", "inside")]
    assert len(table) == 2 * 13
    assert "macro F1" in capsys.readouterr().out
    assert (tmp_path / "s.svg").read_text().lstrip().startswith("<?xml")
    with rasterio.open(tmp_path / "real/images/a.tif", "r+") as file:
        file.descriptions = (None,) * 8
    with pytest.raises(UserError, match="no band described as B10, B2"):
        spectra.sample([tmp_path / "real"], 10)
