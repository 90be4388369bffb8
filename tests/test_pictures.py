import io

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_erosion

from fcd import pictures
from fcd.landsat.labels import CLEAR, CLOUD, INVALID


def lightness(rgb):
    """CIE L* of sRGB (n, 3) uint8, from the definition in IEC 61966-2-1 and CIE 15."""
    shade = rgb / 255
    linear = np.where(shade <= 0.04045, shade / 12.92, ((shade + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    return 116 * np.cbrt(luminance) - 16


class TestShrunk:
    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
    @pytest.mark.parametrize(("step", "rows"), [(1, 7), (3, 1), (3, 5), (4, 64), (20, 6)])
    def test_means_of_the_valid_pixels_of_blocks_whatever_the_strips(self, dtype, step, rows):
        rng = np.random.default_rng(0)
        values = rng.integers(1, 250, (3, 23, 17)).astype(dtype)
        valid = rng.random((23, 17)) < 0.6
        valid[:4, :4] = False
        if dtype == np.float32:
            values[:, ~valid] = np.nan
        shrunk = pictures.Shrunk(step)
        for row in range(0, 23, rows):
            shrunk.add(values[:, row : row + rows], valid[row : row + rows])
        result = shrunk.result()
        assert result.dtype == np.float32
        assert result.shape == (3, -(-23 // step), -(-17 // step))
        for band, row, column in np.ndindex(result.shape):
            block = np.s_[row * step : (row + 1) * step, column * step : (column + 1) * step]
            known = values[band][block][valid[block]].astype(float)
            assert result[band, row, column] == pytest.approx(known.mean() if len(known) else 0)

    def test_a_single_layer_keeps_its_dimensions(self):
        shrunk = pictures.Shrunk(2)
        shrunk.add(np.array([[0.25, 0.75], [0.5, 0.5]], np.float32), np.ones((2, 2), bool))
        assert shrunk.result().tolist() == [[0.5]]


class TestOutlineCloud:
    def test_the_border_of_cloud_changes_and_nothing_else(self):
        rng = np.random.default_rng(1)
        rgb = rng.integers(0, 200, (50, 40, 3)).astype(np.uint8)
        before = rgb.copy()
        mask = np.full((50, 40), CLEAR, np.uint8)
        mask[10:30, 5:25] = CLOUD
        mask[15:20, 10:20] = INVALID  # a hole
        mask[40:, 30:] = CLOUD  # goes on beyond the picture
        mask[5, 35] = CLOUD
        outlined = pictures.outline_cloud(rgb, mask)
        cloud = mask == CLOUD
        border = cloud & ~binary_erosion(cloud, border_value=1)
        assert border.sum() == 2 * 20 + 2 * 18 + 2 * 10 + 2 * 5 + 10 + 9 + 1
        assert (outlined[border] == pictures.OUTLINE_COLOUR).all()
        np.testing.assert_array_equal(outlined[~border], before[~border])
        np.testing.assert_array_equal(rgb, before)

    @pytest.mark.parametrize("code", [INVALID, CLEAR, CLOUD])
    def test_one_code_alone_has_no_outline(self, code):
        rgb = np.zeros((4, 5, 3), np.uint8)
        assert not pictures.outline_cloud(rgb, np.full((4, 5), code, np.uint8)).any()


class TestStretchRgb:
    def test_dark_to_black_bright_to_white_fill_to_grey(self):
        dn = np.tile(np.linspace(5000, 25000, 1000, dtype=np.uint16).reshape(1, 20, 50), (3, 1, 1))
        dn[:, 0, 0] = 0
        rgb = pictures.stretch_rgb(dn, (dn > 0).all(axis=0))
        assert rgb.shape == (20, 50, 3)
        assert rgb.dtype == np.uint8
        assert tuple(rgb[0, 0]) == pictures.NODATA_COLOUR
        assert rgb[0, 1].max() == 0
        assert rgb[-1, -1].min() == 255

    def test_haze_is_taken_off_and_white_stays_white(self):
        ground = np.random.default_rng(0).integers(0, 20000, (30, 30))
        dn = np.stack([ground + 5000, ground + 7000, ground + 9000]).astype(np.uint16)
        rgb = pictures.stretch_rgb(dn).astype(int)
        assert np.ptp(rgb, axis=-1).max() <= 1

    @pytest.mark.parametrize("value", [0, 9000])
    def test_constant_image_has_a_colour(self, value):
        assert pictures.stretch_rgb(np.full((3, 4, 5), value, np.uint16)).shape == (4, 5, 3)


class TestColourScore:
    def test_ends_and_middle_of_the_range(self):
        rgb = pictures.colour_score(np.array([[0, 0.05, 0.1, 0.9]]), 0.1)
        first, middle, last = (pictures.SCORE_COLOURS[index] for index in (0, 4, 8))
        assert [tuple(pixel) for pixel in rgb[0]] == [first, middle, last, last]

    def test_colours_are_those_of_matplotlib(self):
        viridis = pytest.importorskip("matplotlib").colormaps["viridis"]
        score = np.linspace(0, 0.2, 100).reshape(10, 10)
        expected = viridis(score / 0.2)[..., :3] * 255
        assert np.abs(pictures.colour_score(score, 0.2) - expected).max() < 4  # of 256 a neighbour

    def test_lightness_rises_evenly(self):
        ramp = pictures.colour_score(np.linspace(0, 1, 17)[None], 1)[0]
        steps = np.diff(lightness(ramp))
        assert steps.min() > 0.7 * steps.mean()
        assert steps.max() < 1.3 * steps.mean()

    def test_invalid_is_grey(self):
        rgb = pictures.colour_score(np.zeros((1, 2)), 1, np.array([[True, False]]))
        assert tuple(rgb[0, 1]) == pictures.NODATA_COLOUR


def test_colour_mask():
    rgb = pictures.colour_mask(np.array([[INVALID, CLEAR, CLOUD]], np.uint8))
    expected = [pictures.MASK_COLOURS[name] for name in ("no data", "clear", "cloud")]
    assert [tuple(pixel) for pixel in rgb[0]] == expected


def test_colour_errors():
    pairs = {
        (CLOUD, CLOUD): "cloud, found",
        (CLEAR, CLEAR): "clear, found",
        (CLEAR, CLOUD): "false alarm",
        (CLOUD, CLEAR): "miss",
        (INVALID, CLOUD): "no data",
        (CLOUD, INVALID): "no data",
    }
    truth, prediction = (np.array([codes], np.uint8) for codes in zip(*pairs, strict=True))
    rgb = pictures.colour_errors(truth, prediction)
    assert [tuple(p) for p in rgb[0]] == [pictures.ERROR_COLOURS[name] for name in pairs.values()]


@pytest.mark.parametrize("view", [np.s_[:, ::-1], np.s_[::2, ::3]])
def test_another_decoder_reads_the_colours_of_a_view(view):
    rgb = np.random.default_rng(0).integers(0, 256, (7, 9, 3), np.uint8)[view]
    with Image.open(io.BytesIO(pictures.encode_png(rgb))) as image:
        assert image.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(image), rgb)


def test_written_png_reads_back(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (7, 9, 3), np.uint8)
    pictures.write_png(tmp_path / "new" / "a.png", rgb)
    with Image.open(tmp_path / "new" / "a.png") as image:
        np.testing.assert_array_equal(np.asarray(image), rgb)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]
