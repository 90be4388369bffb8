import numpy as np
import pytest

from fcd.errors import SceneError, UserError
from fcd.landsat.labels import CLEAR, CLOUD, INVALID
from fcd.landsat.mtl import parse_mtl
from fcd.landsat.reference import BITS, Collection, collection_of, mask_from_qa, method_name
from fcd.landsat.scenes import Scene, find_scenes
from tests.conftest import REAL

PRE, ONE, TWO = Collection
PRE_ID, PRODUCT_ID = "LC80200392015216LGN00", "LC08_L1TP_016037_20170813_20170814_{}_T1"


def code(value, collection):
    return mask_from_qa(np.array([[value]], np.uint16), collection).item()


def test_fields_fill_the_band_without_overlap():
    for fields in BITS.values():
        bits = [f.shift + i for f in fields.values() for i in range(f.width)]
        assert len(set(bits)) == len(bits)
        assert max(bits) < 16


@pytest.mark.parametrize(
    ("collection", "bits"),
    [
        (PRE, "fill 0, dropped frame 1, terrain 2, water 4-5, shadow 6-7, snow 10-11, "
              "cirrus 12-13, cloud 14-15"),
        (ONE, "fill 0, terrain 1, saturation 2-3, cloud 4, cloud confidence 5-6, shadow 7-8, "
              "snow 9-10, cirrus 11-12"),
        (TWO, "fill 0, dilated cloud 1, cirrus 2, cloud 3, shadow 4, snow 5, clear 6, water 7, "
              "cloud 8-9, shadow 10-11, snow 12-13, cirrus 14-15"),
    ],
)  # fmt: skip
def test_every_field_is_where_usgs_puts_it(collection, bits):
    """As the pages of USGS list them; names are shortened to their first word."""
    expected = []
    for field in bits.split(", "):
        name, place = field.rsplit(" ", 1)
        first, _, last = place.partition("-")
        expected.append((name.split()[0], int(first), int(last or first) - int(first) + 1))
    found = [(name.split()[0], f.shift, f.width) for name, f in BITS[collection].items()]
    assert sorted(found, key=lambda field: field[1]) == expected


@pytest.mark.parametrize(
    ("collection", "value", "expected"),
    [
        (PRE, 1, INVALID),
        (PRE, 0b10, INVALID),  # dropped frame
        (PRE, 20480, CLEAR),
        (PRE, 53248, CLOUD),
        (PRE, 28672, CLOUD),  # cirrus
        (PRE, 20480 | 0b11 << 10, CLEAR),  # snow
        (PRE, 20480 | 0b11 << 4, CLEAR),  # water
        (ONE, 1, INVALID),
        (ONE, 2720, CLEAR),
        (ONE, 2800, CLOUD),
        (ONE, 6816, CLOUD),  # cirrus
        (ONE, 2752, CLEAR),  # cloud confidence medium: CFMask does not call it cloud
        (ONE, 2976, CLEAR),  # shadow
        (ONE, 3744, CLEAR),  # snow
        (TWO, 1, INVALID),
        (TWO, 21824, CLEAR),
        (TWO, 22280, CLOUD),
        (TWO, 54596, CLOUD),  # cirrus
        (TWO, 21762, INVALID),  # dilated cloud, itself not cloud
        (TWO, 22280 | 0b10, CLOUD),  # dilated cloud that is cloud
        (TWO, 23888, CLEAR),  # shadow
        (TWO, 30048, CLEAR),  # snow
        (TWO, 21952, CLEAR),  # water
    ],
)
def test_values_met_in_scenes(collection, value, expected):
    assert code(value, collection) == expected


@pytest.mark.parametrize("field", ["cloud confidence", "cirrus confidence"])
@pytest.mark.parametrize(
    ("collection", "field_decides"),
    [
        (PRE, {"cloud confidence": [1, 1, 2, 2], "cirrus confidence": [1, 1, 2, 2]}),
        (ONE, {"cloud confidence": [1, 1, 1, 1], "cirrus confidence": [1, 1, 1, 2]}),
        (TWO, {"cloud confidence": [1, 1, 1, 1], "cirrus confidence": [1, 1, 1, 1]}),
    ],
)
def test_every_confidence_value(collection, field_decides, field):
    qa = np.arange(4, dtype=np.uint16)[None] << BITS[collection][field].shift
    assert BITS[collection][field].read(qa).tolist() == [[0, 1, 2, 3]]
    mask = mask_from_qa(qa, collection)
    assert mask.tolist() == [field_decides[field]]
    assert mask.dtype == np.uint8


def test_fill_is_invalid_whatever_else_is_said():
    for collection in Collection:
        assert code(0xFFFF, collection) == INVALID


def test_names_in_reports():
    assert [method_name(c) for c in Collection] == ["QA band", "CFMask", "CFMask"]


def write_mtl(path, *fields):
    lines = ["GROUP = L1_METADATA_FILE", "  GROUP = METADATA_FILE_INFO"]
    lines += [f"    {field}" for field in fields]
    path.write_text("\n".join([*lines, "  END_GROUP = METADATA_FILE_INFO", "END", ""]))
    return path


def test_mtl_is_flat_unquoted_and_the_first_of_a_field_counts(tmp_path):
    path = write_mtl(
        tmp_path / "MTL.txt",
        'ORIGIN = "Image courtesy of = USGS"',
        "SUN_ELEVATION = 61.5",
        "SUN_ELEVATION = 1",
    )
    expected = {"ORIGIN": "Image courtesy of = USGS", "SUN_ELEVATION": "61.5"}
    assert parse_mtl(path) == expected
    path.write_text(path.read_text().rstrip() + "\0\0\0")
    assert parse_mtl(path) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no Landsat metadata"),
        (b"\xff\xd8\xff\x00binary\nGROUP = X\n", "is no text"),
        (b"<html>not found</html>\n", "no Landsat metadata"),
        (b"GROUP = L1_METADATA_FILE\n  ORIGIN = 1\n", "cut off"),
    ],
)
def test_what_is_no_mtl_is_refused(tmp_path, content, message):
    path = tmp_path / "MTL.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        parse_mtl(path)


def test_a_missing_mtl_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"absent\.txt cannot be read"):
        parse_mtl(tmp_path / "absent.txt")


def scene(folder, name, qa, *fields):
    files = {part: folder / f"{name}_{part}.TIF" for part in qa}
    if fields:
        files["MTL"] = write_mtl(folder / f"{name}_MTL.txt", *fields)
    return Scene(name, "Forest", folder, files)


@pytest.mark.parametrize(
    ("name", "qa", "fields", "expected"),
    [
        (PRE_ID, ["BQA"], [f'LANDSAT_SCENE_ID = "{PRE_ID}"'], PRE),
        (PRE_ID, ["BQA"], ["COLLECTION_NUMBER = 01"], ONE),
        (PRE_ID, ["QA_PIXEL"], ["COLLECTION_NUMBER = 02"], TWO),
        (PRE_ID, ["BQA"], [f'LANDSAT_PRODUCT_ID = "{PRODUCT_ID.format("01")}"'], ONE),
        (PRE_ID, ["BQA"], [], PRE),
        (PRODUCT_ID.format("01"), ["BQA"], [], ONE),
        (PRODUCT_ID.format("02"), ["QA_PIXEL"], [], TWO),
        ("renamed", ["QA_PIXEL"], [], TWO),
    ],
)
def test_the_collection_of_a_scene(tmp_path, name, qa, fields, expected):
    assert collection_of(scene(tmp_path, name, qa, *fields)) is expected


@pytest.mark.parametrize(
    ("qa", "fields", "message"),
    [
        ([], [], "no quality band .*_BQA.TIF"),
        (["BQA"], ["COLLECTION_NUMBER = 02"], "BQA.TIF is not the QA_PIXEL band of Collection 2"),
        (["QA_PIXEL"], ["COLLECTION_NUMBER = 01"], "is not the BQA band of Collection 1"),
        (["BQA"], ["COLLECTION_NUMBER = 03"], "collection 03 is unknown"),
    ],
)
def test_scenes_that_contradict_themselves_are_refused(tmp_path, qa, fields, message):
    with pytest.raises(SceneError, match=message):
        collection_of(scene(tmp_path, PRE_ID, qa, *fields))


def real(folder):
    if not (REAL / folder).is_dir():
        pytest.skip(f"the real scene {folder} is not there")
    (found,) = find_scenes(REAL / folder)
    with found.open() as reader:
        return found, reader.qa()


def share(qa, collection, field, value):
    return np.mean(BITS[collection][field].read(qa) == value)


def test_a_real_pre_collection_band():
    found, qa = real("biome_layout")
    assert collection_of(found) is PRE
    shares = [share(qa, PRE, "cloud confidence", value) for value in (1, 2, 3)]
    assert shares == pytest.approx([0.851, 0.088, 0.060], abs=5e-4)
    assert share(qa, PRE, "cirrus confidence", 3) == pytest.approx(0.312, abs=5e-4)
    mask = mask_from_qa(qa, PRE)
    assert np.mean(mask == CLOUD) == pytest.approx(0.335, abs=5e-4)
    # The truth of this crop holds the high confidences of this very band as cloud.
    with found.open() as reader:
        truth = reader.truth()
    assert (mask[truth == CLOUD] == CLOUD).all()
    only_medium = share(qa, PRE, "cloud confidence", 2)
    assert 0 < np.mean(mask[truth == CLEAR] == CLOUD) < only_medium


def test_a_real_collection_1_band():
    found, qa = real("collection1")
    assert collection_of(found) is ONE
    mask = mask_from_qa(qa, ONE)
    assert np.mean(mask == INVALID) == pytest.approx(0.317, abs=5e-4)
    assert share(qa, ONE, "cloud", 1) == pytest.approx(0.182, abs=5e-4)
    assert np.mean(mask == CLOUD) == pytest.approx(0.186, abs=5e-4)  # with cirrus
    # CFMask calls cloud what it is highly confident of, and nothing else.
    high = BITS[ONE]["cloud confidence"].read(qa) == 3
    assert np.array_equal(BITS[ONE]["cloud"].read(qa) == 1, high)
