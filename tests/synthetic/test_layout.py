"""Drawn scenes as files: as in L8 Biome, whole or absent."""

import re
import warnings

import numpy as np
import pytest
import rasterio
from rasterio.errors import NotGeoreferencedWarning

from fcd.cli import commands, entry
from fcd.errors import UserError
from fcd.landsat import biome
from fcd.landsat.bands import BANDS
from fcd.landsat.scenes import find_scenes
from fcd.synthetic import layout
from fcd.synthetic.scene import draw_scene

B5, B10 = (BANDS.index(band) for band in ("B5", "B10"))


def draw(biome="Forest", size=128, seed=3, **options):
    return draw_scene(biome, size, seed, **options)


def test_files_read_back_as_drawn(tmp_path):
    scene = draw("Water", (70, 90), footprint=True)
    folder = layout.write_scene(scene, tmp_path / "Water" / scene.name)
    for band, values in (*zip(BANDS, scene.dn, strict=True), ("BQA", scene.qa)):
        with rasterio.open(folder / f"{scene.name}_{band}.TIF") as dataset:
            assert (dataset.dtypes, dataset.nodata) == (("uint16",), None)
            assert dataset.crs.to_epsg() == 32616
            assert dataset.res == (30.0, 30.0)
            np.testing.assert_array_equal(dataset.read(1), values)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(folder / f"{scene.name}_fixedmask.img") as dataset:
            assert (dataset.driver, dataset.dtypes, dataset.crs) == ("ENVI", ("uint8",), None)
            np.testing.assert_array_equal(dataset.read(1), scene.truth)
    assert "map info" not in (folder / f"{scene.name}_fixedmask.hdr").read_text()
    assert len(list(folder.iterdir())) == 10 + 1 + 2 + 1


def test_mtl_gives_reflectance_and_temperature_back(tmp_path):
    scene = draw("Forest", cover=0.0)
    folder = layout.write_scene(scene, tmp_path / scene.name)
    text = (folder / f"{scene.name}_MTL.txt").read_text()
    fields = dict(re.findall(r"^\s*(\w+) = (.+)$", text, re.M))
    assert fields["SPACECRAFT_ID"] == '"LANDSAT_8"'
    assert fields["LANDSAT_SCENE_ID"] == f'"{scene.name}"'
    assert fields["CLOUD_COVER"] == "0.00"
    assert text.count("  GROUP = ") == text.count("  END_GROUP = ")
    get = {name: float(fields[name]) for name in fields if re.match(r"RA|REF.*_BAND|K|SUN", name)}
    radiance = get["RADIANCE_MULT_BAND_10"] * scene.dn[B10] + get["RADIANCE_ADD_BAND_10"]
    kelvin = get["K2_CONSTANT_BAND_10"] / np.log(get["K1_CONSTANT_BAND_10"] / radiance + 1)
    assert 275 < np.median(kelvin) < 305
    scaled = get["REFLECTANCE_MULT_BAND_5"] * scene.dn[B5] + get["REFLECTANCE_ADD_BAND_5"]
    reflectance = np.median(scaled) / np.sin(np.radians(get["SUN_ELEVATION"]))
    assert 0.15 < reflectance < 0.45  # near infrared of vegetation


def test_data_set_is_found_skipped_and_unique(tmp_path):
    folders = layout.write_data_set(tmp_path, 2, 64, 5)
    assert folders == sorted(folders)
    found = find_scenes(tmp_path)
    assert [scene.folder for scene in found] == folders
    assert {scene.biome for scene in found} == set(biome.BIOMES)
    assert all(re.fullmatch(r"LC8\d{13}LGN00", scene.name) for scene in found)
    assert not {scene.name for scene in found} & set(biome.biomes())
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert layout.write_data_set(tmp_path, 2, 64, 5) == folders
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(UserError, match="64x64 pixels, not 80x80"):
        layout.write_data_set(tmp_path, 2, 80, 5)
    with pytest.raises(UserError, match="was not drawn with --variety wide: give another --outp"):
        layout.write_data_set(tmp_path, 2, 64, 5, "wide")


def test_images_are_plain(tmp_path):
    with pytest.raises(UserError, match="--variety wide: --images draws plain ones"):
        commands.draw(["--images", "2", "--variety", "wide", "--output_dir", str(tmp_path / "own")])
    assert not (tmp_path / "own").exists()


def test_a_scene_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(layout, "_write_metadata", fail)
    with pytest.raises(OSError, match="disk full"):
        layout.write_scene(draw(), tmp_path / "scene")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flags", [("--size", "20"), ("--scenes_per_biome", "0"), ("--seed", "-1")])
def test_command_line_refuses_in_one_line(tmp_path, flags, capsys):
    with pytest.raises(SystemExit) as stopped:
        entry.run(lambda: commands.draw(["--output_dir", str(tmp_path / "x"), *flags]))
    said = capsys.readouterr().err
    assert stopped.value.code == 2
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert not (tmp_path / "x").exists()
