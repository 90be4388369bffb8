"""Thresholds and checkpoints that take no pixel label, and what they are chosen from."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from data_loader import PatchDataset
from fcd import metrics
from fcd.errors import UserError
from fcd.files import read_json, write_json
from fcd.landsat import labels
from fcd.masks import thresholds
from fcd.masks.prediction import predict_array
from fcd.masks.scoring import Tiles, Views
from fcd.patches import store
from fcd.patches.normalisation import Normalization
from fcd.patches.sources import PreparedPatches
from tests.tiny import gan, unet

pytestmark = pytest.mark.usefixtures("in_tmp")


def scores(solver, dataset):
    """The scores of all pixels that have data, and the images' labels beside them."""
    found = []
    for sample in dataset:
        x = solver.inputs({"image": sample["image"][None]})
        with torch.inference_mode():
            score = solver.score(x)[0].numpy()
        found.append((score, ~(x[0] == -1).any(dim=0).numpy(), sample["label"].item()))
    return found


@pytest.mark.parametrize(("choice", "percent"), [("clear", 99.9), ("clear:80", 80)])
def test_clear_is_the_percentile_of_the_scores_of_clear_patches(image_dir, choice, percent):
    solver, source = gan("FCD"), PreparedPatches(image_dir)
    record = solver.choose_threshold(choice, source, 100, 4)
    of_clear = np.concatenate(
        [score[valid] for score, valid, label in scores(solver, PatchDataset(source, "train"))
         if label == 0]
    )  # fmt: skip
    expected = np.quantile(of_clear, percent / 100, method="inverted_cdf")
    assert record["threshold"] == pytest.approx(expected, abs=1.1e-4)
    assert record["pixel_labels"] == 0
    assert record["chosen_by"] == f"{percent} percentile of the scores of 5 clear training patches"
    assert solver.supervision(record).threshold_pixel_labels == 0
    # Masks are never opened for it.
    for mask in image_dir.rglob("mask.tif"):
        mask.write_bytes(b"no mask")
    (solver.run.folder.results / "threshold.json").unlink()
    assert solver.choose_threshold(choice, source, 100, 4) == record


def test_other_masks_or_patches_make_another_threshold(image_dir):
    """Which is not read again from what was chosen on those of before."""
    solver, source = gan("FCD"), PreparedPatches(image_dir)

    def chosen(choice):
        return solver.choose_threshold(choice, source, 100, 4)

    before = chosen("f1")
    assert chosen("f1") == before
    path = solver.run.folder.results / "threshold.json"
    write_json(path, before | {"threshold": 0.123})
    assert chosen("f1")["threshold"] == 0.123  # nothing has changed: it is not chosen again
    for mask in (image_dir / "train" / "cloudy").glob("*/mask.tif"):
        store.write(mask, 3 - store.read(mask, 2))  # clear to cloud and back
    assert chosen("f1")["threshold"] != 0.123

    before = chosen("clear")
    write_json(path, before | {"threshold": 0.123})
    for mask in (image_dir / "train" / "cloudy").glob("*/mask.tif"):
        store.write(mask, 3 - store.read(mask, 2))
    assert chosen("clear")["threshold"] == 0.123  # no mask counts
    shutil.rmtree(next((image_dir / "train" / "clear").iterdir()))
    again = chosen("clear")
    assert again["threshold"] != 0.123
    assert again["chosen_by"] == "99.9 percentile of the scores of 4 clear training patches"


def test_image_parts_the_labels_of_held_out_patches(image_dir):
    solver, source = gan("FCD"), PreparedPatches(image_dir)
    for split, folder in (("val", image_dir / "val"), ("train", image_dir / "train")):
        record = solver.choose_threshold("image", source, 100, 4)
        of_all = scores(solver, PatchDataset(source, split))
        truth = [label for *_, label in of_all]

        def called(threshold, of_all=of_all):
            return tuple((score > threshold).mean() > 0.05 for score, _, _ in of_all)

        ways = {called(threshold) for threshold in np.linspace(0, 1, 2001)}
        best = max(f1_score(truth, way, average="macro") for way in ways)
        reached = f1_score(truth, called(record["threshold"]), average="macro")
        assert reached == pytest.approx(best)
        assert record["macro_f1"] == pytest.approx(best)
        assert record["pixel_labels"] == 0
        assert record["chosen_by"] == (
            f"best macro F1 on the scores of {len(truth)} labelled patches, against their "
            "image-level labels"
        )
        shutil.rmtree(folder, ignore_errors=True)
        (solver.run.folder.results / "threshold.json").unlink()


def test_pooled_patches_give_the_threshold_of_all_together():
    """Of an outlier's patches and others: those of more patches count, not the mean of both."""
    rng = np.random.default_rng(0)
    parts, paths = [], []
    for number, (clear, cloudy, size) in enumerate(
        [(0.1, 0.5, 60), (0.8, 0.95, 6), (0.2, 0.6, 60)]
    ):
        score = np.concatenate([rng.normal(clear, 0.1, size), rng.normal(cloudy, 0.1, size)])
        score, truth = score.clip(0, 1), np.repeat([metrics.CLEAR, metrics.CLOUD], size)
        parts.append((score, truth == metrics.CLOUD))
        counts = metrics.histogram(truth, score)
        solver, measured = gan(f"FCD{number}"), (counts, len(score))
        asked = {"reference": "truth", "amp": False}
        thresholds.choose(solver.scorer(), "image", asked, lambda measured=measured: measured)
        paths.append(solver.run.folder.results / "threshold.json")
    score, truth = (np.concatenate(both) for both in zip(*parts, strict=True))

    def f1(threshold):
        return f1_score(truth, score > threshold, average="macro")

    found = thresholds.pooled(paths)
    assert f1(found) == pytest.approx(max(map(f1, np.linspace(0, 1, 2001))), abs=1e-3)
    alone = [thresholds.pooled([path]) for path in paths]
    assert f1(found) > f1(np.mean(alone)) + 0.01
    record = read_json(paths[0])
    write_json(paths[0], {name: value for name, value in record.items() if name != "counts"})
    with pytest.raises(UserError, match=r"holds no threshold chosen by --threshold image with its"):
        thresholds.pooled(paths)
    counts = metrics.histogram(np.where(parts[0][1], metrics.CLOUD, metrics.CLEAR), parts[0][0])
    asked = {"reference": "truth", "amp": False}
    chosen = thresholds.choose(gan("FCD0").scorer(), "image", asked, lambda: (counts, 120))
    assert chosen == record == read_json(paths[0])


def test_patches_are_told_apart_by_the_share_above_the_threshold_of_clear_ones(image_dir):
    solver, dataset = gan("FCD"), PatchDataset(image_dir, "val", "mask.tif")
    of_all = scores(solver, dataset)
    of_clear = np.concatenate([score[valid] for score, valid, label in of_all if label == 0])
    threshold = np.quantile(of_clear, thresholds.CLEAR_SHARE)
    x = torch.cat([solver.inputs({"image": sample["image"][None]}) for sample in dataset])
    with torch.inference_mode():
        found = solver.image_score(dataset, 4)(x)
    expected = [(score > threshold).mean() for score, _, _ in of_all]
    assert found.tolist() == pytest.approx(expected, abs=0.01)
    assert max(expected) > 0


def test_pixels_without_data_do_not_count_for_a_patch():
    """Of the first patch what has data is cloud, of the second it is clear; the third has none."""
    x, score = torch.zeros(3, 2, 10, 10), torch.zeros(3, 10, 10)
    x[0, 1, 1:], score[0, 0] = -1, 0.9
    x[1, :, 2:], score[1, 2:] = -1, 0.8
    x[2], score[2] = -1, 0.7
    np.testing.assert_allclose(thresholds.of_patches(x, score), [0.9, 0, 0])
    judged, _ = thresholds.judged("image", lambda _: score)
    np.testing.assert_allclose(judged(x), [0.9, 0, 0])
    rng = torch.Generator().manual_seed(0)
    score = torch.rand(3, 10, 10, generator=rng)
    seen = [score[0, 0].numpy(), score[1, :2].numpy().ravel()]
    np.testing.assert_allclose(judged(x)[:2], [np.quantile(s, 0.95) for s in seen], rtol=1e-6)
    means = [s.mean() for s in seen]
    np.testing.assert_allclose(thresholds.of_patches(x, score)[:2], means, rtol=1e-6)
    shares = [(s > 0.5).mean() for s in seen]
    np.testing.assert_allclose(thresholds.of_patches(x, score > 0.5)[:2], shares, rtol=1e-6)


def test_of_equally_good_checkpoints_the_later_is_kept(image_dir, monkeypatch):
    solver, dataset = gan("FCD"), PatchDataset(image_dir, "val", "mask.tif")
    settings = type("Settings", (), {"select": "image", "batch_size": 4})
    perfect = np.array([[4, 0], [0, 4]])
    monkeypatch.setattr(solver, "validate", lambda *_: (perfect, 0.5))
    log = type("Log", (), {"add_scalar": lambda *_: None})()
    for step in (1, 2):
        solver.step = step
        solver.validate_and_save(log, settings, dataset)
    assert torch.load(solver.run.folder.checkpoint("best"), weights_only=True)["step"] == 2


@pytest.mark.parametrize(("tta", "views"), [("none", 1), ("flip", 4), ("d4", 8)])
def test_views_are_turned_back_before_they_are_averaged(tta, views):
    x = torch.rand(2, 3, 8, 8)
    seen = []

    def score(x):  # of a place and not of a value: what is not turned back would smear it
        seen.append(x)
        return x[:, 0]

    torch.testing.assert_close(Views(tta).of(score)(x), x[:, 0])
    assert len(seen) == views
    assert len({view.numpy().tobytes() for view in seen}) == views
    # By hand: a score that knows left from right becomes the mean over the views.
    ramp = torch.arange(8.0).expand(2, 8, 8)
    expected = ramp if tta == "none" else torch.full((2, 8, 8), 3.5)
    torch.testing.assert_close(Views(tta).of(lambda x: ramp.to(x))(x), expected)


def test_a_threshold_belongs_to_the_views_its_scores_are_averaged_over(image_dir):
    solver = gan("FCD")
    plain = solver.choose_threshold("clear", image_dir, 100, 4)
    solver.views = Views("flip")
    assert solver.scorer().name == "difference map, mean of flips"
    with pytest.raises(UserError, match="no threshold is known"):
        thresholds.known(solver.scorer())
    assert solver.choose_threshold("clear", image_dir, 100, 4) != plain
    assert thresholds.known(solver.scorer())["score"] == "difference map, mean of flips"


def test_the_mean_of_scores_is_of_the_same_pixels(image_dir):
    """Two networks, each with its own normalisation: their scores one by one, averaged by hand."""
    first, second = gan("FCD"), gan("other")
    second.normalization = Normalization(
        "stretch", (1000.0,) * 10, (60000.0,) * 10, (0, 5), bands=first.normalization.bands
    )
    for network in second.networks.values():
        for weight in network.parameters():
            weight.data.mul_(-1.5)
    dn = np.random.default_rng(1).integers(2000, 50000, (10, 40, 50)).astype(np.uint16)
    dn[3, 5, 7] = 0  # nodata in one band
    alone = [predict_array(dn, solver.predictor(0.5)) for solver in (first, second)]
    first.companions = [second]
    mask, score = predict_array(dn, first.predictor(0.5))
    expected = np.mean([score for _, score in alone], axis=0)
    np.testing.assert_allclose(score, expected, atol=2e-5)
    assert not np.allclose(alone[0][1], alone[1][1], atol=1e-3, equal_nan=True)
    assert (mask == 0).sum() == np.isnan(score).sum() == 1
    scorer = first.scorer()
    assert scorer.name == "mean of 2 scores (difference map)"
    assert scorer.fingerprint not in (first.fingerprint(), second.fingerprint())
    first.views = Views("flip")
    assert first.scorer().name == "mean of 2 scores (difference map), mean of flips"
    with pytest.raises(UserError, match="mean of several networks' scores is computed by PyTorch"):
        first.scorer().check_exportable()


def test_a_threshold_belongs_to_the_mean_it_is_chosen_for(image_dir):
    solver = gan("FCD")
    plain = solver.choose_threshold("clear", image_dir, 100, 4)
    solver.companions = [gan("other")]
    solver.companions[0].G.main[0].weight.data.mul_(2)
    with pytest.raises(UserError, match="no threshold is known"):
        thresholds.known(solver.scorer())
    assert solver.choose_threshold("clear", image_dir, 100, 4) != plain


def test_scores_of_other_bands_are_not_averaged():
    solver, other = gan("FCD"), gan("other")
    other.normalization = replace(other.normalization, dtype="uint8")
    solver.companions = [other]
    with pytest.raises(
        UserError,
        match=r"--mean_with .*best.pt is the difference map of B1,.* in uint8, .* in uint16",
    ):
        solver.scorer()


def test_clear_training_patches_without_data_are_refused(image_dir, monkeypatch):
    solver = gan("FCD")
    nothing = np.full((4, 32, 32), labels.INVALID, np.uint8)
    monkeypatch.setattr(thresholds, "mask_of", lambda batch, x: nothing[: len(x)])
    with pytest.raises(UserError, match="the clear training patches hold no pixel that is valid"):
        solver.choose_threshold("clear", image_dir, 100, 4)


def test_what_happens_at_the_border_of_a_tile_is_cut_off(image_dir):
    def score(x):  # a convolution, whose zero padding shows
        return torch.nn.functional.conv2d(x, torch.full((1, 3, 9, 9), 1 / 243), padding=4)[:, 0]

    x = torch.ones(2, 3, 32, 32)
    assert score(x).min() < 0.5
    torch.testing.assert_close(Views(context=4).of(score)(x), x[:, 0])
    torch.testing.assert_close(Views("flip", 4).of(score)(x), x[:, 0])
    solver = gan("FCD")
    solver.views = Views("flip", 6)
    assert solver.scorer().name == "difference map, mean of flips, context 6"
    Tiles.of(solver.scorer())
    for context, size in ((5, None), (32, None), (8, 8)):
        solver.views = Views(context=context)
        with pytest.raises(UserError, match=f"--context {context}: for tiles of .* multiple of 4"):
            Tiles.of(solver.scorer(), size)


@pytest.mark.parametrize(
    ("side", "expected"),
    # As many pixels at a time: 20 tiles of 128 are 5 of 256.
    [(32, (32, 16, 20)), (64, (64, 16, 20)), (128, (256, 16, 5)), (256, (256, 16, 20))],
)
def test_tiles_by_default(side, expected):
    network = replace(unet("U").scorer(), image_size=side)
    tiles = Tiles.of(network, batch_size=20)
    assert (tiles.size, tiles.overlap, tiles.batch_size) == expected
    # A generator keeps to the patches it was trained on; what is asked for is taken as it is.
    tiles = Tiles.of(replace(network, natural_threshold=None), batch_size=20)
    assert (tiles.size, tiles.overlap, tiles.batch_size) == (side, min(32, side // 2), 20)
    tiles = Tiles.of(network, 128, 40, batch_size=20)
    assert (tiles.size, tiles.overlap, tiles.batch_size) == (128, 40, 20)
