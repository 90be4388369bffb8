import multiprocessing
import os
import shutil
import signal
import subprocess
import threading
from dataclasses import asdict

import numpy as np
import pytest
import tifffile
import torch
from torch.utils.data import DataLoader

from data_loader import (
    PatchDataset,
    get_loader,
    training_normalization,
    validation_set,
)
from fcd.errors import UserError
from fcd.files import write_json
from fcd.landsat.reference import QA
from fcd.patches import cutting
from fcd.patches.cutting import Cutting
from fcd.patches.normalisation import dn_counts
from fcd.patches.sources import PreparedPatches
from fcd.processes import ALONE, Processes
from fcd.training.augmentation import Augmentation
from fcd.training.batches import StepBatches, batches_per_epoch
from tests.conftest import write_patches


@pytest.fixture
def image_dir(tmp_path):
    """Ten clear and six cloudy patches of 8×8 pixels; the DN tell which patch it is."""
    for number in range(16):
        kind = "clear" if number < 10 else "cloudy"
        folder = tmp_path / "train" / kind / f"S_{number:05d}_00000"
        folder.mkdir(parents=True)
        image = np.full((8, 8, 10), 100 + number, np.uint16)
        image[..., 3] = 60_000
        tifffile.imwrite(folder / "image.tif", image, photometric="minisblack")
        mask = np.full((8, 8), 1, np.uint8)
        mask[:2] = 2 if kind == "cloudy" else 0
        tifffile.imwrite(folder / "mask.tif", mask, photometric="minisblack")
    return tmp_path


def test_batch_contract(image_dir):
    dataset = PatchDataset(image_dir, "train", "mask.tif")
    batch = next(iter(get_loader(dataset, 16, 0)))
    assert batch["image"].shape == (16, 10, 8, 8)
    assert batch["image"].dtype == torch.uint16
    assert batch["image"][3, 3].float().unique().tolist() == [60_000]
    assert batch["image"][3, 0].float().unique().tolist() == [103]
    assert batch["label"].shape == (16, 1)
    assert batch["label"].dtype == torch.float32
    assert batch["label"].flatten().tolist() == [0.0] * 10 + [1.0] * 6
    assert batch["mask"].shape == (16, 8, 8)
    assert batch["name"][0] == "S_00000_00000"
    assert (dataset.image_size, dataset.num_channels) == (8, 10)
    assert dataset.labelled_pixels() == 10 * 48 + 6 * 64


def test_keep_ratio_keeps_the_same_patches_and_one_label_alone_works(image_dir):
    kept = [PatchDataset(image_dir, "train", keep_ratio=0.25).patches for _ in range(2)]
    assert kept[0] == kept[1]
    assert len(kept[0]) == 4
    more = PatchDataset(image_dir, "train", keep_ratio=0.5).patches
    assert set(kept[0]) < set(more)
    assert len(PatchDataset(image_dir, "train", keep_ratio=0.001)) == 1
    assert PatchDataset(image_dir, "train", only="cloudy").labels.tolist() == [1.0] * 6
    assert PatchDataset(image_dir, "train", only="clear").labels.tolist() == [0.0] * 10


def test_a_mask_that_contradicts_its_label_teaches_nothing(image_dir):
    folder = image_dir / "train" / "cloudy" / "S_00010_00000"
    mask = np.full((8, 8), 1, np.uint8)
    mask[0, :6] = 2  # 9 % cloud; the other cloudy masks hold 25 %
    tifffile.imwrite(folder / "mask.tif", mask, photometric="minisblack")
    masks = [s["mask"] for s in PatchDataset(image_dir, "train", "mask.tif", least_cloud=0.1)]
    as_they_are = [s["mask"] for s in PatchDataset(image_dir, "train", "mask.tif")]
    assert (masks[10] == 0).all()
    assert (as_they_are[10] == torch.from_numpy(mask)).all()
    others = [*range(10), *range(11, 16)]
    assert all((masks[n] == as_they_are[n]).all() for n in others)


def test_drawn_patches_are_learned_along_and_counted_apart(tmp_path):
    own = PatchDataset(write_patches(tmp_path / "p", 3, 0), "train", "mask.tif")
    before, counted = own.summary(), own.labelled_pixels()
    source = PreparedPatches(write_patches(tmp_path / "drawn", 20, 0, ragged=True))
    every = {sample["name"]: sample for sample in PatchDataset(source, "train", "mask.tif")}
    own.rehearse(source)
    assert (len(own), len(own.patches), own.labelled_pixels()) == (15, 3, counted)
    along = [own[index] for index in range(3, 15)]
    assert len({sample["name"] for sample in along}) == 12
    for sample in along:
        assert (sample["mask"] == every[sample["name"]]["mask"]).all()
    assert own.labels[:3].tolist() == [0, 0, 1]
    assert own.labels[3:].tolist() == [sample["label"].item() for sample in along]
    drawn = own.along.summary()
    assert (own.summary(), drawn["patches"]) == (before | {"drawn": drawn}, 12)
    labels = PatchDataset(tmp_path / "p", "train")
    labels.rehearse(source)
    assert labels.along.summary() == drawn
    assert all(sample.keys() == {"image", "label", "name"} for sample in labels)


def test_drawn_patches_must_be_like_the_others(tmp_path, image_dir):
    own = PatchDataset(write_patches(tmp_path / "p", 4, 0), "train", "mask.tif")
    with pytest.raises(UserError, match=r": the drawn patches have .*; they must be alike"):
        own.rehearse(PreparedPatches(image_dir))


def test_bands_are_learned_by_name_in_the_order_asked_for(tmp_path):
    image_dir = write_patches(tmp_path / "p", 4, 2)
    whole = PatchDataset(image_dir, "train", "mask.tif")
    some = PatchDataset(image_dir, "train", "mask.tif", bands=("B9", "B2"))
    assert some.kind.bands == ("B9", "B2")
    for index in (0, len(whole) - 1):
        assert (some[index]["image"] == whole[index]["image"][[7, 1]]).all()
    assert validation_set(some, "pixel")[0].kind == some.kind
    normalization = training_normalization("stretch", some)
    assert normalization.bands == ("B9", "B2")
    of_all = training_normalization("stretch", whole)
    assert normalization.low == (of_all.low[7], of_all.low[1])


def drawn(*arguments, **others):
    """Which patches the batches of `StepBatches` hold."""
    batches = StepBatches(*arguments, **others)
    return [[place.patch for place in places] for places in batches]


def test_batches_depend_on_seed_and_step_alone(image_dir):
    labels = PatchDataset(image_dir, "train").labels
    whole = drawn(labels, 6, 0, 0, 9, balance=False)
    assert drawn(labels, 6, 0, 4, 9, balance=False) == whole[4:]
    for epoch in range(3):
        seen = [i for batch in whole[3 * epoch : 3 * epoch + 3] for i in batch]
        assert sorted(seen) == list(range(16))
    assert whole[:3] != whole[3:6]
    assert drawn(labels, 6, 1, 0, 9, balance=False) != whole


def test_balance_draws_both_classes_equally_often():
    labels = torch.tensor([0.0] * 90 + [1.0] * 10)
    patches = [index for batch in drawn(labels, 50, 0, 0, 100, balance=True) for index in batch]
    assert 0.45 < labels[patches].mean() < 0.55


def test_dn_counts(image_dir):
    images = (sample["image"].numpy() for sample in PatchDataset(image_dir, "train"))
    counts = dn_counts(images, "uint16")
    assert counts.shape == (10, 65536)
    assert counts[3, 60_000] == 16 * 64
    assert counts[0, 100:116].tolist() == [64] * 16


def test_missing_masks_and_empty_folders_are_named(image_dir):
    with pytest.raises(UserError, match=r"S_00000_00000 has no generated_mask\.tif \(16 of 16"):
        PatchDataset(image_dir, "train", "generated_mask.tif")
    with pytest.raises(UserError, match=r"val.clear holds no patches"):
        PatchDataset(image_dir, "val")


def test_the_records_of_the_scenes_are_read_once(image_dir, monkeypatch):
    shutil.copytree(image_dir / "train", image_dir / "val")
    names = [f"Water_S{number}.json" for number in range(3)]
    for name in names:
        record = {"biome": "Water", "scene": name, "split": "train", "cloud_share": 0.5}
        record |= {"cutting": asdict(Cutting(reference=QA)), "clear": [], "cloudy": []}
        write_json(image_dir / "scenes" / name, record)
    read, original = [], cutting.read_json
    monkeypatch.setattr(cutting, "read_json", lambda path: read.append(path.name) or original(path))
    val_set, _ = validation_set(PatchDataset(image_dir, "train", "mask.tif"), "pixel")
    assert (val_set.reference, val_set.labels_from) == (QA, "QA bands")
    assert read == names


def test_a_damaged_patch_is_named(image_dir):
    path = image_dir / "train" / "clear" / "S_00003_00000" / "image.tif"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(UserError, match="S_00003_00000"):
        PatchDataset(image_dir, "train")[3]


@pytest.mark.parametrize("dtype", ["int16", "uint32", "float64"])
def test_a_type_that_no_network_takes_is_named(image_dir, dtype):
    for path in image_dir.glob("train/*/*/image.tif"):
        tifffile.imwrite(path, tifffile.imread(path).astype(dtype), photometric="minisblack")
    with pytest.raises(
        UserError,
        match=rf"S_00000_00000.image\.tif holds {dtype}; patches hold uint8, uint16, float32: pre",
    ):
        training_normalization("paper", PatchDataset(image_dir, "train"))


@pytest.fixture
def told_apart(tmp_path):
    """Patches in which each pixel has another DN, of which the mask is made."""
    for number in range(13):
        kind = "clear" if number % 2 else "cloudy"
        folder = tmp_path / "train" / kind / f"S_{number:05d}_00000"
        folder.mkdir(parents=True)
        dn = np.arange(64).reshape(8, 8) + 64 * number
        image = np.stack([dn, dn], axis=-1).astype(np.uint16)
        tifffile.imwrite(folder / "image.tif", image, photometric="minisblack")
        mask = (dn % 3).astype(np.uint8)
        tifffile.imwrite(folder / "mask.tif", mask, photometric="minisblack")
    return PatchDataset(tmp_path, "train", "mask.tif")


@pytest.mark.parametrize("kind", ["flip", "d4"])
def test_where_a_run_is_resumed_how_many_read_and_how_many_compute_changes_no_sample(
    told_apart, kind
):
    def batches(start=0, workers=0, processes=ALONE):
        order = StepBatches(told_apart.labels, 6, 7, start, 6, False, processes)
        change = Augmentation(kind, 7)
        return list(get_loader(told_apart, 6, workers, batches=order, augmentation=change))

    def same(found, expected):
        for batch, other in zip(found, expected, strict=True):
            assert batch["name"] == other["name"]
            assert all(torch.equal(batch[key], other[key]) for key in ("image", "mask", "label"))

    whole = batches()
    assert [len(batch["name"]) for batch in whole] == [6, 7] * 3
    same(batches(workers=2), whole)
    same(batches(start=3), whole[3:])
    for rank in range(2):
        rows = [{key: values[rank::2] for key, values in batch.items()} for batch in whole]
        same(batches(processes=Processes(rank, 2)), rows)


@pytest.mark.parametrize("kind", ["flip", "d4", None])
def test_image_and_mask_are_changed_alike_and_nothing_is_lost(told_apart, kind):
    order = StepBatches(told_apart.labels, 6, 7, 0, 6, False)
    change = kind and Augmentation(kind, 7)
    as_they_are = {sample["name"]: sample for sample in told_apart}
    changed = 0
    for batch in get_loader(told_apart, 6, 0, batches=order, augmentation=change):
        assert batch["image"].dtype == torch.uint16
        # The bands of a pixel lie together, as the device transposes them.
        assert batch["image"].permute(0, 2, 3, 1).is_contiguous()
        dn = batch["image"].int()
        assert torch.equal(dn[:, 0] % 3, batch["mask"].int())
        for name, image, label in zip(batch["name"], dn, batch["label"], strict=True):
            original = as_they_are[name]
            assert label == original["label"]
            assert sorted(image.flatten()) == sorted(original["image"].int().flatten())
            changed += not torch.equal(image, original["image"].int())
    assert changed == 0 if kind is None else 10 < changed < 39


def test_a_single_patch_left_over_joins_the_batch_before():
    labels = torch.zeros(9)
    batches = drawn(labels, 4, 0, 0, 4, balance=False)
    assert [len(batch) for batch in batches] == [4, 5, 4, 5]
    assert sorted(batches[0] + batches[1]) == list(range(9))
    assert [batches_per_epoch(n, 4) for n in (1, 3, 4, 5, 6, 8, 9, 10)] == [1, 1, 1, 1, 2, 2, 2, 3]


def _begun(image_dir):
    """The batches after the first, and the process that loads them."""
    before = set(multiprocessing.active_children())  # of other tests
    batches = iter(get_loader(PatchDataset(image_dir, "train"), 4, 1))
    next(batches)
    (loader,) = set(multiprocessing.active_children()) - before
    return batches, loader


def test_a_loader_obeys_its_own_process_alone(image_dir):
    torch.set_num_threads(torch.get_num_threads() + 2)  # a loader then has threads from the start
    batches, loader = _begun(image_dir)
    # As torchrun and batch systems do, which ask every process to end.
    for signum in (signal.SIGTERM, signal.SIGINT):
        subprocess.run(["bash", "-c", f"kill -{int(signum)} {loader.pid}"], check=True)
    assert len(list(batches)) == 3
    batches, loader = _begun(image_dir)
    loader.terminate()
    loader.join(20)
    assert loader.exitcode == 0


@pytest.mark.parametrize(
    "met", [ConnectionResetError(), RuntimeError("Pin memory thread exited unexpectedly")]
)
def test_a_loader_killed_while_it_hands_a_batch_over_is_told_once(image_dir, monkeypatch, met):
    """As PyTorch tells it, which raises when the signal comes, wherever this process is then."""

    def killed(_):
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGCHLD)).start()
        raise met
        yield

    def tells(*_):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

    monkeypatch.setattr(DataLoader, "__iter__", killed)
    signal.signal(signal.SIGCHLD, tells)
    with pytest.raises(RuntimeError, match="pid 7"):
        next(iter(get_loader(PatchDataset(image_dir, "train"), 4, 0)))


def test_what_else_goes_wrong_in_reading_is_not_called_a_killed_loader(image_dir, monkeypatch):
    def out_of_memory(_):
        raise torch.OutOfMemoryError("CUDA out of memory")
        yield

    monkeypatch.setattr(DataLoader, "__iter__", out_of_memory)
    with pytest.raises(torch.OutOfMemoryError):
        next(iter(get_loader(PatchDataset(image_dir, "train"), 4, 0)))
