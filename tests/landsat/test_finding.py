"""Which files make a scene: what people have beside, below and in place of its own files."""

import bz2
import gzip
import json
import shutil
import tarfile
import zipfile

import numpy as np
import pytest
import rasterio
from rasterio.crs import CRS
from rasterio.transform import Affine

from fcd.errors import SceneError, UserError
from fcd.landsat.archives import members
from fcd.landsat.bands import BANDS
from fcd.landsat.finding import scenes_in
from fcd.landsat.mtl import parse_mtl
from fcd.landsat.products import expand, scene_from
from fcd.landsat.rasters import WRITTEN_BY, Grid
from fcd.landsat.scenes import find_scenes
from tests.conftest import write_tif
from tests.landsat.test_products import NINE, TWO, bands_of, mtl, pack, write

OTHER = TWO.replace("20220813", "20220829")
APPLE_DOUBLE = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        " + bytes(100)


def same(path, dn):
    scene = scene_from(str(path))
    return scene.name == TWO and bool((bands_of(scene) == dn).all())


def without_mtl(folder, name=TWO):
    (folder / f"{name}_MTL.txt").unlink()
    return folder


def test_what_macos_leaves_is_passed_over(tmp_path):
    folder = tmp_path / "Forest" / "s"
    dn = write(folder, TWO)
    for file in list(folder.iterdir()):
        (folder / f"._{file.name}").write_bytes(APPLE_DOUBLE)
        double = tmp_path / "Forest" / "__MACOSX" / "s" / f"._{file.name}"
        double.parent.mkdir(parents=True, exist_ok=True)
        double.write_bytes(APPLE_DOUBLE)
    (tmp_path / ".DS_Store").write_bytes(b"x")
    tar = pack(folder, tmp_path / "x.tar", "w")
    for path in (folder, folder / f"{TWO}_MTL.txt", tmp_path / "Forest", tar):
        assert same(path, dn)
    assert not any(member.name.startswith(".") for member in members(tar))
    (found,) = find_scenes(tmp_path)
    assert (found.name, found.biome) == (TWO, "Forest")
    assert (bands_of(found) == dn).all()


@pytest.mark.parametrize("packed", [False, True])
def test_the_bands_beside_the_mtl_file_count(tmp_path, packed):
    dn = write(tmp_path / "s", TWO)
    write(tmp_path / "s" / "clip_", TWO, 5)
    without_mtl(tmp_path / "s" / "clip_")
    for band in ("B2", "B3", "B4"):
        (tmp_path / "s" / "toa").mkdir(exist_ok=True)
        name = f"{TWO}_{band}.TIF"
        shutil.copy(tmp_path / "s" / "clip_" / name, tmp_path / "s" / "toa" / name)
    path = tmp_path / "s"
    if packed:
        path = tmp_path / "s.tar"
        with tarfile.open(path, "w") as archive:
            archive.add(tmp_path / "s", "s")
    assert same(path, dn)
    assert not packed or len(expand([str(path)])) == 1


def test_without_an_mtl_file_the_nearest_bands_count_and_never_a_mixture(tmp_path):
    dn = write(tmp_path / "s", TWO)
    write(tmp_path / "s" / "deep" / "er", TWO, 5)
    for folder in ("s", "s/deep/er"):
        without_mtl(tmp_path / folder)
    assert same(tmp_path / "s", dn)
    (tmp_path / "s" / f"{TWO}_B5.TIF").unlink()
    with pytest.raises(SceneError, match="missing band B5"):
        scene_from(str(tmp_path / "s")).check()


def test_bands_that_lie_apart_are_one_scene(tmp_path):
    dn = write(tmp_path / "s", TWO)
    (tmp_path / "s" / "more").mkdir()
    for band in ("B2", "B3"):
        name = f"{TWO}_{band}.TIF"
        (tmp_path / "s" / name).rename(tmp_path / "s" / "more" / name)
    assert same(tmp_path / "s", dn)


def test_where_nothing_decides_both_paths_are_named(tmp_path):
    for place in "ab":
        write(tmp_path / "s" / place, TWO)
        without_mtl(tmp_path / "s" / place)
    with pytest.raises(SceneError, match=r"a/.*_B1\.TIF and .*b/.*_B1\.TIF claim to be the same"):
        scene_from(str(tmp_path / "s"))
    assert expand([str(tmp_path / "s")]) == [str(tmp_path / "s")]
    with pytest.raises(UserError, match=r"is there twice: .*a/.*_B1\.TIF and .*b/.*_B1\.TIF"):
        find_scenes(tmp_path)
    write(tmp_path / "t", TWO)
    shutil.copy(tmp_path / "t" / f"{TWO}_B4.TIF", tmp_path / "t" / f"{TWO}_B4.tiff")
    with pytest.raises(SceneError, match=r"_B4\.TIF and .*_B4\.tiff claim"):
        scene_from(str(tmp_path / "t"))


def test_what_was_made_from_a_scene_is_none_of_its_own(tmp_path):
    dn = write(tmp_path / "Forest" / "s", TWO)
    folder = tmp_path / "Forest" / "s"
    for band in ("B4", "B5"):
        shutil.copy(folder / f"{TWO}_{band}.TIF", folder / f"{TWO}_toa_{band}.TIF")
    assert same(folder, dn)
    assert same(folder / f"{TWO}_MTL.txt", dn)
    assert [scene.name for scene in find_scenes(tmp_path)] == [TWO]


def test_an_mtl_file_names_one_scene_whatever_lies_beside_it(tmp_path):
    expected = {name: write(tmp_path, name, seed) for seed, name in enumerate((TWO, f"{TWO}_2"))}
    for name, dn in expected.items():
        path = tmp_path / f"{name}_MTL.txt"
        path.write_text(mtl(TWO))
        scene = scene_from(str(path))
        assert (bands_of(scene) == dn).all()
        assert scene.name == name  # though both MTL files are those of one product
        first = scene_from(str(path), ("1",), bands="_B1")
        assert (bands_of(first)[0] == dn[0]).all()
        band = scene_from(str(tmp_path / f"{name}_B3.TIF"))
        assert (bands_of(band) == dn).all()
    with pytest.raises(SceneError, match="holds 2 scenes"):
        scene_from(str(tmp_path))
    paths = [str(tmp_path / f"{name}_MTL.txt") for name in expected]
    assert expand([str(tmp_path)]) == sorted(paths)


def test_level_1_counts_beside_level_2(tmp_path):
    dn = write(tmp_path / "s", TWO)
    second = TWO.replace("L1TP", "L2SP")
    (tmp_path / "s" / f"{second}_MTL.txt").write_text(mtl(second, level="L2SP"))
    for part in ("SR_B1", "SR_B2", "ST_B10", "QA_PIXEL"):
        shutil.copy(tmp_path / "s" / f"{TWO}_B7.TIF", tmp_path / "s" / f"{second}_{part}.TIF")
    assert same(tmp_path / "s", dn)
    assert expand([str(tmp_path / "s")]) == [str(tmp_path / "s")]
    with pytest.raises(SceneError, match="is of level Level-2"):
        scene_from(str(tmp_path / "s" / f"{second}_MTL.txt"))
    surface = scene_from(str(tmp_path / "s"), ("1", "2"), bands="SR_B1,SR_B2")
    assert (bands_of(surface) == dn[[6, 6]]).all()
    # Of another day it is a scene of its own, and refused.
    for file in list((tmp_path / "s").glob(f"{second}*")):
        file.rename(file.with_name(file.name.replace("20220813", "20220829")))
    assert len(expand([str(tmp_path / "s")])) == 2


def test_a_folder_stands_for_its_archives_scenes_and_stacks(tmp_path):
    for name in (TWO, OTHER):
        write(tmp_path / "scenes" / name, name)
        pack(tmp_path / "scenes" / name, tmp_path / f"{name}.tar", "w")
        write_tif(tmp_path / "stacks" / f"{name}.tif", np.ones((3, 8, 8), np.uint8))
    (tmp_path / "archives").mkdir()
    for name in (TWO, OTHER):
        (tmp_path / f"{name}.tar").rename(tmp_path / "archives" / f"{name}.tar")
    (tmp_path / "archives" / "more.zip").write_bytes(b"PK\x03\x04")
    (tmp_path / "archives" / "readme.pdf").touch()
    names = sorted((TWO, OTHER))

    def below(folder):
        return [
            path.removeprefix(f"{tmp_path / folder}/") for path in expand([str(tmp_path / folder)])
        ]

    assert below("scenes") == names
    assert below("archives") == [*(f"{name}.tar" for name in names), "more.zip"]
    assert below("stacks") == [f"{name}.tif" for name in names]
    write_tif(tmp_path / "one" / "x.tif", np.ones((3, 8, 8), np.uint8))
    write_tif(tmp_path / "one" / "x_mask.tif", np.ones((1, 8, 8), np.uint8))
    (tmp_path / "one" / "login.tif").write_text("<html>")  # is named, and fails
    assert below("one") == ["login.tif", "x.tif"]
    write_tif(tmp_path / "scenes" / names[0] / "preview.tif", np.ones((3, 8, 8), np.uint8))
    assert below("scenes") == names
    shutil.copytree(tmp_path / "scenes" / names[0], tmp_path / "one" / names[0])
    assert below("one") == [names[0], "login.tif", "x.tif"]  # one scene beside stacks
    shutil.rmtree(tmp_path / "one")
    assert len(expand([str(tmp_path)])) == 7
    with rasterio.open(tmp_path / "stacks" / f"{TWO}.tif", "r+") as dataset:
        dataset.update_tags(**{WRITTEN_BY: "1"})
    assert expand([str(tmp_path / "stacks" / "*.tif")]) == [
        str(tmp_path / "stacks" / f"{OTHER}.tif")
    ]
    (tmp_path / "stacks" / f"{OTHER}.tif").unlink()
    for own in (tmp_path / "stacks" / f"{TWO}.tif", tmp_path / "stacks"):
        with pytest.raises(UserError, match="only files that an earlier run has written"):
            expand([str(own)])


def test_two_areas_of_one_product_with_their_mtl_files_are_two_scenes(tmp_path):
    for seed, place in enumerate(("north", "south")):
        write(tmp_path / place, TWO, seed)
    assert expand([str(tmp_path)]) == [str(tmp_path / "north"), str(tmp_path / "south")]


@pytest.mark.parametrize(
    ("name", "mode", "message"),
    [
        ("x.tar.gz", "w", None),
        ("x.tgz", "w", None),
        ("x.tar", "w:gz", None),
        ("x.download", "w:gz", None),
        ("x.tar", "w:bz2", "is packed by bzip2, whatever its name says; unpack it"),
        ("x.tar.gz", "w:xz", "is packed by xz"),
    ],
)
def test_an_archive_is_what_its_first_bytes_say(tmp_path, name, mode, message):
    dn = write(tmp_path / "s", TWO)
    path = pack(tmp_path / "s", tmp_path / name, mode, "./")
    if message is None:
        assert same(path, dn)
    else:
        with pytest.raises(SceneError, match=message) as refused:
            scene_from(str(path))
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE html><html><head><title>Sign In</title>", "is a web page saved under the"),
        (b"\n<HTML>", "is a web page saved under the"),
        (b"PK\x03\x04rest", "is damaged or no archive"),
        (gzip.compress(b"no tar", mtime=0), "is damaged or no archive"),
        (bz2.compress(b"no tar"), "is packed by bzip2"),
        (b"", "is damaged or no archive"),
    ],
)
def test_what_is_no_archive_is_told_as_what_it_is(tmp_path, content, message):
    for name in ("x.tar", "x.tar.gz"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SceneError, match=message):
            scene_from(str(tmp_path / name))


@pytest.mark.parametrize("how", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_file_is_read_where_it_is(tmp_path, how):
    dn = write(tmp_path / "s", TWO)
    for name in ("x{1}.zip", "x.tar"):
        with zipfile.ZipFile(tmp_path / name, "w", how) as archive:
            for file in sorted((tmp_path / "s").iterdir()):
                archive.write(file, f"my scene/{file.name}")
                archive.writestr(f"__MACOSX/my scene/._{file.name}", b"no file of its own")
        assert same(tmp_path / name, dn)
        assert scene_from(str(tmp_path / name)).name == TWO


def test_what_a_zip_file_cannot_be_read_for_is_told(tmp_path):
    with zipfile.ZipFile(tmp_path / "bulk.zip", "w") as archive:
        archive.writestr(f"{TWO}.tar", b"of the bulk download")
    with pytest.raises(SceneError, match=rf"holds archives \({TWO}.tar\); unpack it and give"):
        scene_from(str(tmp_path / "bulk.zip"))
    path = tmp_path / "secret.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{TWO}_B1.TIF", b"secret")
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1  # flag of the directory's entry: encrypted
    path.write_bytes(data)
    with pytest.raises(SceneError, match="with a password; unpack it"):
        scene_from(str(path))


def as_json(fields):
    return json.dumps({"LANDSAT_METADATA_FILE": {"A": fields, "B": dict.fromkeys(fields, "late")}})


def as_xml(fields):
    inner = "".join(f"<{key}>{value}</{key}>" for key, value in fields.items())
    late = "".join(f"<{key}>late</{key}>" for key in fields)
    text = f"<LANDSAT_METADATA_FILE><A>{inner}</A><B>{late}</B></LANDSAT_METADATA_FILE>"
    return f"<?xml version='1.0' encoding='UTF-8'?>\n<!-- of USGS -->{text}"


@pytest.mark.parametrize(("form", "written"), [("json", as_json), ("xml", as_xml)])
def test_metadata_in_other_forms_say_the_same(tmp_path, form, written):
    dn = write(tmp_path / "s", TWO)
    fields = parse_mtl(tmp_path / "s" / f"{TWO}_MTL.txt")
    assert fields["LANDSAT_PRODUCT_ID"] == TWO
    path = tmp_path / "s" / f"{TWO}_MTL.{form}"
    path.write_text(written(fields))
    assert parse_mtl(path) == fields
    without_mtl(tmp_path / "s")
    assert same(path, dn)
    assert same(tmp_path / "s", dn)
    path.write_text(written(fields | {"SPACECRAFT_ID": "LANDSAT_7"}))
    with pytest.raises(SceneError, match="taken by LANDSAT_7"):
        scene_from(str(path))
    for damaged in ("", "{", "[]", "<a>", "<a/>", "<!DOCTYPE a><a/>", '{"a": 1}'):
        path.write_text(damaged)
        with pytest.raises(SceneError, match=r"is no Landsat metadata .*; give the scene's _MTL"):
            parse_mtl(path)


def test_a_text_that_editors_have_saved(tmp_path):
    write(tmp_path / "s", TWO)
    path = tmp_path / "s" / f"{TWO}_MTL.txt"
    fields, text = parse_mtl(path), path.read_text()
    for saved in (
        b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode(),
        text.encode("utf-16"),
        text.replace("  ", "\t").replace(" = ", "=").encode(),
        text.replace("END\n", "END  \n\n\n").encode(),
    ):
        path.write_bytes(saved)
        assert parse_mtl(path) == fields
    for content in (b"\xef\xbb\xbfs\r\n", b'"s"\r\n', "s\r\n".encode("utf-16")):
        (tmp_path / "list.txt").write_bytes(content)
        assert expand([str(tmp_path / "list.txt")]) == [str(tmp_path / "s")]
    for file in (tmp_path / "list.txt", path):
        file.write_bytes(b"\xd0\xcf\x11\xe0")
    workbook = r"cannot be read: it is a workbook \(xls\), which has to be saved as CSV"
    with pytest.raises(UserError, match=workbook):
        expand([str(tmp_path / "list.txt")])
    with pytest.raises(SceneError, match=workbook):
        parse_mtl(path)


def test_bands_with_zeros_and_other_endings(tmp_path):
    dn = write(tmp_path / "s", TWO)
    for file in list((tmp_path / "s").glob("*.TIF")):
        file.rename(file.with_suffix(".tiff"))
    assert same(tmp_path / "s", dn)
    for band in BANDS[:8]:
        file = tmp_path / "s" / f"{TWO}_{band}.tiff"
        file.rename(file.with_name(file.name.replace("_B", "_B0")))
    with pytest.raises(
        SceneError, match=r"files end in B01 and so on; .* give --bands (.*)"
    ) as told:
        scene_from(str(tmp_path / "s"))
    scene = scene_from(str(tmp_path / "s"), BANDS, bands=str(told.value).rpartition(" ")[2])
    assert (bands_of(scene) == dn).all()


def test_sidecars_are_no_part_of_a_scene(tmp_path):
    dn = write(tmp_path / "s", TWO)
    for name in ("B1.TIF.aux.xml", "B1.TIF.ovr", "B1.tfw", "ANG.txt", "stac.json", "B1.txt"):
        (tmp_path / "s" / f"{TWO}_{name}").write_bytes(b"x")
    (found,) = scenes_in((tmp_path / "s").iterdir())
    assert {*found.files} == {*BANDS, "MTL", "QA_PIXEL"}
    assert same(tmp_path / f"s/{TWO}_MTL.txt", dn)


def test_a_name_of_any_bytes_is_read_or_refused_in_one_line(tmp_path):
    folder = tmp_path / "Größe, 日本"
    dn = write(folder, TWO)
    assert same(folder, dn)
    assert same(pack(folder, tmp_path / "Größe, 日本.tar", "w"), dn)
    odd = tmp_path / "\udcfc"
    folder.rename(odd)
    with pytest.raises(SceneError, match="its name is no UTF-8; rename it"):
        scene_from(str(odd)).check()


def test_the_ground_size_of_pixels(tmp_path):
    def size(crs, *transform):
        return Grid(100, 100, crs and CRS.from_user_input(crs), Affine(*transform)).pixel_size

    assert size("EPSG:32616", 30, 0, 452_475, 0, -30, 3_408_645) == 30
    assert size("EPSG:32616", 15, 0, 452_475, 0, -15, 3_408_645) == 15
    degrees = 10 / 111_195
    assert size("EPSG:4326", degrees * 2, 0, 10, 0, -degrees, 60) == 10  # cos 60° = 1/2
    assert size("EPSG:3857", 60, 0, 0, 0, -60, 8_399_738) == 30  # 60° N
    assert size("EPSG:2263", 100, 0, 980_000, 0, -100, 200_000) == 30  # feet
    assert size("EPSG:32616", 21.2132, 21.2132, 452_475, 21.2132, -21.2132, 3_408_645) == 30
    west = 6_378_137 * np.pi - 50 * 60 - 10  # the middle pixel lies across 180°
    assert size("EPSG:3857", 60, 0, west, 0, -60, 8_399_738) == 30
    assert size(None, 30, 0, 0, 0, -30, 0) is None


def test_a_scene_of_one_sensor_is_told_as_such_without_metadata(tmp_path):
    name = TWO.replace("LC08", "LO08")
    write(tmp_path / "s", name)
    for part in ("MTL.txt", "B10.TIF", "B11.TIF"):
        (tmp_path / "s" / f"{name}_{part}").unlink()
    with pytest.raises(SceneError, match=r"missing band B10, B11 \(OLI alone\)"):
        find_scenes(tmp_path)[0].check()
    with pytest.raises(SceneError, match="was taken by OLI alone and has no band B10, B11"):
        scene_from(str(tmp_path / "s"))
    (tmp_path / "s" / f"{name}_B3.TIF").unlink()
    with pytest.raises(SceneError, match=r"missing band B3, B10, B11$"):
        find_scenes(tmp_path)[0].check()


def test_links_to_folders_are_followed_and_loops_end(tmp_path):
    dn = write(tmp_path / "data" / "Forest" / "real", TWO)
    write(tmp_path / "disk" / "far", OTHER, 1)
    write(tmp_path / "data" / ".store" / "kept", NINE, 2)
    for link, target in {
        "Alpine": tmp_path / "disk",  # elsewhere
        "Barren": tmp_path / "data" / "Forest",  # there by itself: counts once, under its own name
        "Urban": tmp_path / "data" / ".store" / "kept",
        "Forest/self": tmp_path / "data" / "Forest",
        "Forest/up": tmp_path,
        "gone": tmp_path / "nothing",
    }.items():
        (tmp_path / "data" / link).symlink_to(target)
    (tmp_path / "disk" / "back").symlink_to(tmp_path / "data")
    found = {scene.name: scene for scene in find_scenes(tmp_path / "data")}
    groups = {name: scene.biome for name, scene in found.items()}
    assert groups == {TWO: "Forest", OTHER: "Alpine", NINE: "Urban"}
    assert (bands_of(found[TWO]) == dn).all()
    expected = [str(tmp_path / "data" / place) for place in ("Alpine/far", "Forest/real", "Urban")]
    assert expand([str(tmp_path / "data")]) == expected
    assert same(tmp_path / "data" / "Forest", dn)
