import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine

from fcd.landsat.rasters import raster_writer
from fcd.landsat.scenes import find_scenes
from tests.conftest import draw, write_scene


def test_a_raster_appears_whole_or_not_at_all(tmp_path):
    write_scene(tmp_path / "s" / "Water" / "S1", "S1", *draw(50, 70, 0))
    grid = find_scenes(tmp_path / "s")[0].grid()
    values = np.random.default_rng(0).random((50, 70), np.float32)
    out = tmp_path / "out" / "x.tif"

    def write(fail):
        with raster_writer(out, grid, dtype="float32", nodata=np.nan, tags={"A": "b"}) as tif:
            tif.write(values, 1)
            if fail:
                raise KeyError

    with pytest.raises(KeyError):
        write(fail=True)
    assert list((tmp_path / "out").iterdir()) == []
    write(fail=False)
    with rasterio.open(out) as dataset:
        assert (dataset.read(1) == values).all()
        assert dataset.crs.to_epsg() == 32616
        assert dataset.transform == Affine(30, 0, 452_475, 0, -30, 3_408_645)
        assert dataset.tags()["A"] == "b"
