import numpy as np
import pytest
import torch

from fcd.masks.tiling import score_strips
from fcd.patches.normalisation import Normalization

CPU = torch.device("cpu")


def scored(dn, score, tile=16, overlap=4, batch_size=3):
    reads = []

    def read(start, stop):
        reads.append(stop - start)
        return dn[:, start:stop]

    strips = list(
        score_strips(
            read, *dn.shape[1:], score, Normalization.paper(len(dn)), CPU,
            tile=tile, overlap=overlap, batch_size=batch_size,
        )
    )  # fmt: skip
    assert [s.row for s in strips] == np.cumsum([0] + [len(s.score) for s in strips])[:-1].tolist()
    assert max(reads) <= tile
    return (
        np.concatenate([s.score for s in strips]),
        np.concatenate([s.valid for s in strips]),
        np.concatenate([s.dn for s in strips], axis=1),
    )


@pytest.mark.parametrize("shape", [(16, 16), (1, 1), (5, 70), (53, 37), (64, 12), (47, 100)])
@pytest.mark.parametrize(("tile", "overlap"), [(16, 4), (16, 0), (16, 8), (32, 7)])
def test_a_score_that_returns_its_input_is_stitched_back(shape, tile, overlap):
    dn = np.random.default_rng(1).integers(1, 65536, (2, *shape)).astype(np.uint16)
    score, valid, read = scored(dn, lambda x: (x[:, 0] + 1) / 2, tile, overlap)
    assert score.shape == shape
    assert np.abs(score - dn[0] / 65535).max() < 1e-6
    assert valid.all()
    assert (read == dn).all()


def test_fill_in_any_band_is_not_valid_and_scores_zero():
    dn = np.full((2, 40, 40), 9, np.uint16)
    dn[1, 10:20, 5:30] = 0
    score, valid, _ = scored(dn, lambda x: torch.ones(len(x), *x.shape[2:]))
    assert (valid == (dn != 0).all(axis=0)).all()
    assert np.allclose(score, valid)


def test_rasters_scored_together_have_the_scores_of_each_alone():
    rng = np.random.default_rng(2)
    dn = rng.integers(1, 65536, (5, 2, 20, 37)).astype(np.uint16)
    dn[1], dn[3, 1, :9, 5:30] = 0, 0
    sizes = []

    def score(x):
        sizes.append(len(x))
        return (x[:, 0] + x.mean(dim=(1, 2, 3))[:, None, None] + 2) / 4

    strips = list(
        score_strips(
            lambda start, stop: dn[..., start:stop, :], 20, 37, score, Normalization.paper(2), CPU,
            tile=16, overlap=4, batch_size=7,
        )
    )  # fmt: skip
    assert sizes == [7, 7, 2] * 2  # four columns of tiles in two rows, of four rasters
    for number, raster in enumerate(dn):
        values, valid, read = scored(raster, score)
        assert (np.concatenate([s.valid[number] for s in strips]) == valid).all()
        assert (np.concatenate([s.dn[number] for s in strips], axis=1) == read).all()
        together = np.concatenate([s.score[number] for s in strips])
        np.testing.assert_allclose(together, values, atol=1e-6)


def test_empty_tiles_are_not_scored():
    dn = np.zeros((1, 64, 64), np.uint16)
    dn[0, 60, 60] = 5
    seen = []

    def score(x):
        seen.append(len(x))
        return x[:, 0] * 0

    scored(dn, score, overlap=0)
    assert sum(seen) == 1


def test_blending_removes_the_seam_of_tile_statistics():
    """A score that depends on the tile's own mean jumps at tile borders unless blended."""
    dn = np.tile(np.linspace(1, 60000, 96).astype(np.uint16), (1, 96, 1))

    def score(x):
        return (x[:, 0].mean(dim=(1, 2), keepdim=True) + 1).div(2).expand_as(x[:, 0])

    jumps = {
        overlap: np.abs(np.diff(scored(dn, score, 32, overlap)[0], axis=1)).max()
        for overlap in (0, 16)
    }
    assert jumps[16] < jumps[0] / 8


def test_overlap_of_more_than_half_a_tile_is_refused():
    with pytest.raises(ValueError, match="overlap"):
        scored(np.ones((1, 4, 4), np.uint16), lambda x: x[:, 0], 16, 9)


def test_columns_of_tiles_share_what_is_normalised(monkeypatch):
    """Of a row of tiles each pixel is normalised once, in however many of them it is."""
    pixels, normalize = [], Normalization.normalize

    def counted(self, x):
        pixels.append(x[:, 0].numel())
        return normalize(self, x)

    monkeypatch.setattr(Normalization, "normalize", counted)
    scored(np.ones((2, 16, 56), np.uint16), lambda x: x[:, 0] * 0, overlap=8)
    # Eight columns of tiles 16 wide, 8 apart, from column -8 on, in three rows of them.
    assert pixels == [16 * (7 * 8 + 16)] * 3
