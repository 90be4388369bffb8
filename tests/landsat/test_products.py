"""What `--scenes` can name, each read back by value; what is refused, in one line."""

import gzip
import os
import shutil
import tarfile

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine

from fcd.errors import SceneError, UserError
from fcd.landsat.bands import BANDS, RGB_NAMES, band_names
from fcd.landsat.products import expand, scene_from
from fcd.landsat.radiometry import Radiometry
from fcd.landsat.reference import Collection, collection_of
from fcd.landsat.scenes import find_scenes
from tests.conftest import REAL, draw, write_scene, write_tif

PRE, ONE = "LC80200392015216LGN00", "LC08_L1TP_016037_20170813_20170814_01_T1"
TWO, NINE = (f"{craft}_L1TP_016037_20220813_20220814_02_T1" for craft in ("LC08", "LC09"))


def mtl(product, craft="LANDSAT_8", sensor="OLI_TIRS", level="L1TP"):
    """Metadata as they came with each generation of products."""
    if "_02_" in product:
        head, kind = "LANDSAT_METADATA_FILE", "PROCESSING_LEVEL"
    else:
        head, kind = "L1_METADATA_FILE", "DATA_TYPE"
    lines = [f"GROUP = {head}", "  GROUP = PRODUCT_CONTENTS"]
    if "_" in product:
        lines += [f'    LANDSAT_PRODUCT_ID = "{product}"']
        lines += [f"    COLLECTION_NUMBER = {product.split('_')[5]}"]
    else:
        lines += [f'    LANDSAT_SCENE_ID = "{product}"']
    lines += [
        f'    {kind} = "{level}"',
        f'    SPACECRAFT_ID = "{craft}"',
        f'    SENSOR_ID = "{sensor}"',
        "  END_GROUP = PRODUCT_CONTENTS",
    ]
    return "\n".join([*lines, f"END_GROUP = {head}", "END", ""])


def write(folder, name=ONE, seed=0, **metadata):
    """A scene with its MTL file and without a manual mask; return its DN."""
    dn, truth = draw(40, 30, seed)
    write_scene(folder, name, dn, truth, np.full((40, 30), 2720, np.uint16))
    (folder / f"{name}_fixedmask.img").unlink()
    (folder / f"{name}_fixedmask.hdr").unlink()
    if "_02_" in name:
        (folder / f"{name}_BQA.TIF").rename(folder / f"{name}_QA_PIXEL.TIF")
    (folder / f"{name}_MTL.txt").write_text(mtl(name, **metadata))
    return dn


def pack(folder, path, mode, prefix=""):
    with tarfile.open(path, mode) as archive:
        for file in sorted(folder.iterdir()):
            archive.add(file, prefix + file.name)
    return path


def bands_of(scene):
    scene.check()
    with scene.open() as reader:
        # In strips, as prediction does.
        return np.concatenate([reader.bands(0, 25), reader.bands(25, None)], axis=1)


@pytest.mark.parametrize("name", [PRE, ONE, TWO, NINE])
def test_folder_archive_and_mtl_are_the_same_scene(tmp_path, name):
    folder = tmp_path / "in a folder" / "BC" / name
    craft = "LANDSAT_9" if name == NINE else "LANDSAT_8"
    dn = write(folder, name, level="L1T" if name == PRE else "L1TP", craft=craft)
    # GDAL remembers what an archive holds by its path, size and second: no path comes twice.
    paths = [
        tmp_path / "in a folder",
        pack(folder, tmp_path / f"{name}.tar", "w"),
        pack(folder, tmp_path / f"{name}.tar.gz", "w:gz"),
        pack(folder, tmp_path / f"as tar . does {name}.tar", "w", "./"),
        folder / f"{name}_MTL.txt",
    ]
    expected = {PRE: Collection.PRE, ONE: Collection.ONE}.get(name, Collection.TWO)
    for path in paths:
        scene = scene_from(str(path))
        assert scene.name == scene.key == name
        assert (bands_of(scene) == dn).all()
        assert collection_of(scene) == expected
        with scene.open() as reader:
            assert (reader.qa() == 2720).all()
            assert reader.grid.crs.to_epsg() == 32616
            assert reader.grid.transform == Affine(30, 0, 452_475, 0, -30, 3_408_645)


def test_without_metadata_the_file_names_tell(tmp_path):
    dn = write(tmp_path / "x", ONE)
    (tmp_path / "x" / f"{ONE}_MTL.txt").unlink()
    assert (bands_of(scene_from(str(tmp_path / "x"))) == dn).all()
    write(tmp_path / "y", "LE07_L1TP_016037_20170813_20170814_01_T1")
    next((tmp_path / "y").glob("*_MTL.txt")).unlink()
    with pytest.raises(SceneError, match="taken by LE07; the networks take Landsat 8 and 9"):
        scene_from(str(tmp_path / "y"))


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"level": "L2SP"}, "is of level L2SP, whose values are no digital numbers"),
        ({"craft": "LANDSAT_7", "sensor": "ETM"}, "taken by LANDSAT_7"),
        ({"craft": "SENTINEL_2"}, "taken by SENTINEL_2"),
        ({"sensor": "OLI"}, "taken by OLI alone"),
    ],
)
def test_the_metadata_count_and_not_the_names(tmp_path, metadata, message):
    write(tmp_path / "LC08_L1TP_fine", TWO, **metadata)
    with pytest.raises(SceneError, match=message) as refused:
        scene_from(str(tmp_path / "LC08_L1TP_fine"))
    assert "\n" not in str(refused.value)


def test_surface_reflectance_is_refused_unless_bands_say_how_to_read_it(tmp_path):
    dn = write(tmp_path / "s", TWO, level="L2SP")
    for band in BANDS:
        name = f"{TWO}_{band}.TIF"
        (tmp_path / "s" / name).rename(tmp_path / "s" / name.replace("_B", "_SR_B"))
    with pytest.raises(SceneError, match="Level-2"):
        scene_from(str(tmp_path / "s"))
    scene = scene_from(str(tmp_path / "s"), band_names(3), bands="SR_B4,SR_B3,SR_B2")
    assert scene.name == TWO
    assert (bands_of(scene) == dn[[3, 2, 1]]).all()
    mtl_file = tmp_path / "s" / f"{TWO}_MTL.txt"  # says how high the sun stood, all the same
    first, *others = mtl_file.read_text().splitlines()
    mtl_file.write_text("\n".join([first, "SUN_ELEVATION = 41.5", *others]))
    assert scene.elevation(20.0) == 41.5
    with scene.open() as reader:  # and not what its values are
        assert reader.radiometry(RGB_NAMES, None) == Radiometry.under("41.5", RGB_NAMES, "")
    with pytest.raises(SceneError, match="names 2 bands, the network takes 3"):
        scene_from(str(tmp_path / "s"), band_names(3), bands="SR_B4,SR_B3")
    with pytest.raises(SceneError, match=r"0 files of .* end in SR_B12 \(none\)"):
        scene_from(str(tmp_path / "s"), band_names(1), bands="SR_B12")


def test_two_scenes_in_a_folder(tmp_path):
    write(tmp_path / "two" / "a", ONE)
    write(tmp_path / "two" / "b", TWO)
    with pytest.raises(SceneError, match=f"holds 2 scenes .{ONE}, {TWO}.; give one each"):
        scene_from(str(tmp_path / "two"))


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_an_archive_that_stops_midway(tmp_path, mode):
    write(tmp_path / "s")
    path = pack(tmp_path / "s", tmp_path / ("x.tar" + ".gz" * (mode == "w:gz")), mode)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(SceneError, match=r"x\.tar.* is damaged|missing band"):
        scene_from(str(path)).check()


def test_a_band_is_missing_or_elsewhere_or_nowhere(tmp_path):
    for damage in ("missing", "elsewhere", "nowhere"):
        write(tmp_path / damage)
    (tmp_path / "missing" / f"{ONE}_B5.TIF").unlink()
    with pytest.raises(SceneError, match="missing band B5"):
        scene_from(str(tmp_path / "missing")).check()
    with rasterio.open(tmp_path / "elsewhere" / f"{ONE}_B5.TIF", "r+") as dataset:
        dataset.transform = Affine(30, 0, 452_490, 0, -30, 3_408_645)
    with pytest.raises(SceneError, match=f"{ONE}_B5.TIF lies on another grid than {ONE}_B1.TIF"):
        scene_from(str(tmp_path / "elsewhere")).check()
    for band in BANDS:
        path = tmp_path / "nowhere" / f"{ONE}_{band}.TIF"
        with rasterio.open(path) as dataset:
            pixels = dataset.read()
        profile = {"driver": "GTiff", "height": 40, "width": 30, "count": 1, "dtype": "uint16"}
        path.unlink()
        with (
            pytest.warns(rasterio.errors.NotGeoreferencedWarning),
            rasterio.open(path, "w", **profile) as dataset,
        ):
            dataset.write(pixels)
    with pytest.raises(SceneError, match=f"{ONE}_B1.TIF has no CRS"):
        scene_from(str(tmp_path / "nowhere")).check()


def test_bands_that_hold_no_dn(tmp_path):
    write(tmp_path / "s")
    path = tmp_path / "s" / f"{ONE}_B3.TIF"
    with rasterio.open(path) as dataset:
        profile, pixels = dataset.profile | {"dtype": "float32"}, dataset.read()
    with rasterio.open(path, "w", **profile) as dataset:
        dataset.write((pixels / 65535).astype(np.float32))
    with pytest.raises(SceneError, match=f"{ONE}_B3.TIF holds float32, Level-1 DN are uint16"):
        scene_from(str(tmp_path / "s")).check()


def _without_time(member):
    return member.replace(mtime=0, deep=False)


def test_an_archive_with_any_byte_changed_is_refused_in_one_line_or_read(tmp_path):
    write_scene(tmp_path / "s", "LC80010012014001LGN00", *draw(20, 20, 0))
    path = tmp_path / "s.tar.gz"
    with gzip.GzipFile(path, "w", mtime=0) as stream, tarfile.open(fileobj=stream, mode="w") as tar:
        tar.add(tmp_path / "s", "s", filter=_without_time)  # or the bytes would be others each time
    whole, refused = path.read_bytes(), 0
    for place in range(10, len(whole) - 8, 31):  # between the head and the end of the gzip file
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x5A]) + whole[place + 1 :])
        try:
            scene_from(str(path))
        except SceneError:
            refused += 1
    assert refused > 10


def test_a_manual_mask_that_nobody_asks_for_may_be_damaged(tmp_path):
    write(tmp_path / "s")
    (tmp_path / "s" / f"{ONE}_fixedmask.img").write_bytes(b"no mask")
    scene = scene_from(str(tmp_path / "s"))
    assert scene.check().height == 40
    with pytest.raises(SceneError, match=r"fixedmask\.img cannot be read"):
        scene.check(need_truth=True)


def write_raster(path, pixels, **profile):
    profile |= {"driver": "GTiff", "count": len(pixels), "dtype": pixels.dtype}
    profile |= {"height": pixels.shape[1], "width": pixels.shape[2]}
    place = {"crs": "EPSG:32616", "transform": Affine(10, 0, 500, 0, -10, 900)}
    with rasterio.open(path, "w", **profile, **place) as dataset:
        dataset.write(pixels)
    return str(path)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("interleave", ["band", "pixel"])
def test_a_raster_with_several_bands(tmp_path, dtype, interleave, capsys):
    pixels = np.random.default_rng(0).integers(0, 255, (4, 40, 30)).astype(dtype)
    path = write_raster(tmp_path / "my image.tif", pixels, interleave=interleave)
    scene = scene_from(path, band_names(4))
    assert scene.name == "my image"
    assert bands_of(scene).dtype == dtype
    assert (bands_of(scene) == pixels).all()
    told = f"warning: {path}: band 4 is alpha, and is read as one of the 4 that the network takes; "
    assert (told in capsys.readouterr().err) == (dtype == "uint8")
    assert (bands_of(scene_from(path, band_names(3), bands="4,1-2")) == pixels[[3, 0, 1]]).all()
    if dtype == "uint8":  # whose fourth band GDAL calls alpha: not for a network of four
        without = bands_of(scene_from(path, band_names(3)))
        assert np.array_equal(np.isnan(without), (pixels[3:] == 0).repeat(3, 0))
        with pytest.raises(UserError, match=r"\(band 4 is alpha\) has 3 bands, "):
            scene_from(path, band_names(2))


def test_files_of_bands_have_their_own_type_and_nodata(tmp_path):
    for name, dtype, nodata in [("r", "uint8", 0), ("g", "uint8", None), ("b", "uint16", 7)]:
        pixels = np.ones((1, 40, 30), dtype)
        write_raster(tmp_path / f"s_{name}.tif", pixels, nodata=nodata)

    def read(bands):
        with scene_from(str(tmp_path), band_names(len(bands.split(","))), bands).open() as reader:
            return reader.marked, reader.dtype

    assert read("_r,_r") == ((0, 0), "uint8")
    assert read("_r,_g") == ((0, None), "uint8")
    with pytest.raises(
        SceneError, match=r"s_b\.tif holds uint16, s_g\.tif uint8; all bands"
    ) as told:
        read("_g,_r,_b")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("channels", "bands", "message"),
    [
        (3, None, "has 4 bands, the network takes 3 bands; say which by --bands"),
        (4, "1-3", "has 3 bands by --bands, the network takes 4"),
        (3, "3-5", "has 4 bands"),
        (2, "1,x", "'x' is neither a band number nor a range"),
        (2, "0-1", "'0-1' is neither a band number nor a range"),
        (2, "1,1", "names a band twice"),
    ],
)
def test_bands_that_do_not_fit(tmp_path, channels, bands, message):
    path = write_raster(tmp_path / "x.tif", np.ones((4, 8, 8), np.uint16))
    with pytest.raises(UserError, match=message):
        scene_from(path, band_names(channels), bands)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.tif", b"no tif", "cannot be read"),
        ("x.tar", b"no tar", "is damaged or no archive"),
        ("x.jp2k", b"", "is neither a scene folder nor an archive"),
        ("x_MTL.txt", b"GROUP", "is no Landsat metadata"),
    ],
)
def test_files_that_are_no_scene(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        scene_from(str(tmp_path / name))


def test_a_network_for_other_imagery_does_not_take_a_landsat_scene(tmp_path):
    write(tmp_path / "s")
    with pytest.raises(SceneError, match="the network takes 3 bands, a Landsat scene has 10"):
        scene_from(str(tmp_path / "s"), band_names(3))


def test_a_name_leads_into_no_other_folder(tmp_path):
    write(tmp_path / "s", TWO)
    path = tmp_path / "s" / f"{TWO}_MTL.txt"
    path.write_text(path.read_text().replace(f'"{TWO}"', '"../../etc/x"'))
    assert os.sep not in scene_from(str(tmp_path / "s")).name
    assert not scene_from(str(tmp_path / "s")).name.startswith(".")


def test_expand(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b.tif", "a.tif", "lists/c.tif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "lists" / "list.txt").write_text("# mine\n\nc.tif\n../b.tif\n")
    (tmp_path / "S_MTL.txt").touch()
    assert expand(["*.tif", "b.tif", "S_MTL.txt"]) == ["a.tif", "b.tif", "S_MTL.txt"]
    assert expand(["lists/list.txt"]) == ["lists/c.tif", "lists/../b.tif"]
    (tmp_path / "[odd].tif").touch()
    assert expand(["[odd].tif"]) == ["[odd].tif"]


def test_what_came_with_a_scene_is_none_where_the_shell_names_all_its_files(tmp_path):
    dn = write(tmp_path / "s", TWO)
    for name in ("ANG.txt", "SAA.TIF", "QA_RADSAT.TIF", "thumb_large.jpeg", "B1.TIF.aux.xml"):
        (tmp_path / "s" / f"{TWO}_{name}").write_text("GROUP = FILE_HEADER\n")
    (tmp_path / "s" / "other_ANG.txt").touch()
    (tmp_path / "s" / f"{TWO}_stack.tif").touch()
    mine = {f"{TWO}_{part}" for part in ("MTL.txt", "QA_PIXEL.TIF", *(f"{b}.TIF" for b in BANDS))}
    others = {"other_ANG.txt", f"{TWO}_stack.tif"}  # said by lines of their own
    for asked in (sorted(map(str, (tmp_path / "s").iterdir())), [str(tmp_path / "s" / "*")]):
        found = expand(asked)
        assert {os.path.basename(path) for path in found} == mine | others
        (path,) = (path for path in found if path.endswith("_MTL.txt"))
        assert (bands_of(scene_from(path)) == dn).all()
    with pytest.raises(SceneError, match=r"ANG\.txt is neither a scene folder nor an archive"):
        scene_from(str(tmp_path / "s" / f"{TWO}_ANG.txt"))


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["no*.tif"], r"--scenes no\*\.tif: there is no such file"),
        (["absent"], "--scenes absent: there is no such file"),
        (["bad.txt"], "bad.txt line 2: gone.tif: there is no such file"),
        (["empty.txt"], "--scenes empty.txt lists no scene"),
        (["none.txt"], "--scenes none.txt cannot be read"),
    ],
)
def test_expand_names_what_is_not_there(tmp_path, monkeypatch, paths, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.txt").write_text("# x\ngone.tif\n")
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(UserError, match=message):
        expand(paths)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real pixels are not there")
def test_real_scenes(tmp_path):
    (known,) = find_scenes(REAL / "biome_layout")
    shutil.copytree(known.folder, tmp_path / "x")
    from_folder = scene_from(str(tmp_path / "x"))
    from_archive = scene_from(str(pack(known.folder, tmp_path / "x.tar", "w")))
    assert from_folder.name == from_archive.name == known.name
    assert collection_of(from_archive) == Collection.PRE
    with known.open() as a, from_folder.open() as b, from_archive.open() as c:
        assert (a.bands() == b.bands()).all()
        assert (a.bands() == c.bands()).all()
    (folder,) = (REAL / "collection1").iterdir()
    scene = scene_from(str(folder))
    assert scene.name == "LC08_L1TP_016037_20170813_20170814_01_RT"
    assert collection_of(scene) == Collection.ONE
    with scene.open() as reader:
        fill = (reader.bands() == 0).any(axis=0).mean()
    assert 0.29 < fill < 0.33


def test_a_band_that_hides_pixels_and_is_not_marked_so_is_told(tmp_path, capsys):
    pixels = np.full((4, 8, 8), 7, np.uint16)
    pixels[3], pixels[3, :, 4:] = 65535, 0
    write_tif(tmp_path / "x.tif", pixels)
    for _ in range(2):  # as in prediction: looked at, then masked
        scene_from(str(tmp_path / "x.tif"), ("1", "2", "3"), "1-3")
    told = capsys.readouterr().err
    assert told.count("band 4 looks like an alpha band and is not marked") == 1
    with pytest.raises(UserError, match=r"\(band 4 looks like alpha, but .*\) has 4 bands, the"):
        scene_from(str(tmp_path / "x.tif"), ("1", "2", "3"))
    # Other bands are no alpha bands, nor is one that is read or marked.
    scene_from(str(tmp_path / "x.tif"), ("1", "2", "3"), "2-4")
    with rasterio.open(tmp_path / "x.tif", "r+") as dataset:
        dataset.set_band_description(4, "alpha")
    scene_from(str(tmp_path / "x.tif"), ("1", "2", "3"), "1-3")
    assert not capsys.readouterr().err
