import numpy as np
import pytest
import torch

from fcd.errors import UserError
from fcd.landsat import labels


def test_truth_codes_become_patch_codes():
    truth = np.array([[0, 64, 128, 192, 255]], np.uint8)
    assert labels.patch_from_truth(truth).tolist() == [[0, 1, 1, 2, 2]]


def test_unknown_code_is_named():
    with pytest.raises(UserError, match=r"x\.img: code 7 "):
        labels.patch_from_truth(np.array([[7, 128]], np.uint8), "x.img")


def test_tif_codes_there_and_back():
    mask = np.array([[0, 1, 2]], np.uint8)
    assert labels.tif_from_patch(mask).tolist() == [[0, 128, 255]]
    assert (labels.patch_from_tif(labels.tif_from_patch(mask)) == mask).all()


def test_threshold_is_exceeded_not_reached():
    score = np.array([[0.2, 0.2001, 0.9]])
    mask = labels.patch_from_score(score, np.array([[True, True, False]]), 0.2)
    assert mask.tolist() == [[labels.CLEAR, labels.CLOUD, labels.INVALID]]


def test_loss_target_leaves_invalid_pixels_out():
    target = labels.target_from_patch(torch.tensor([[[0, 1, 2]]], dtype=torch.uint8))
    assert target.tolist() == [[[-1, 0, 1]]]
    logits = torch.tensor([[[[9.0, 0.0, 0.0]], [[-9.0, 0.0, 0.0]]]])
    loss = torch.nn.functional.cross_entropy(logits, target, ignore_index=labels.IGNORE_INDEX)
    assert loss.item() == pytest.approx(np.log(2))


def test_cloud_share_counts_valid_pixels_only():
    assert labels.cloud_share(np.array([0, 0, 1, 2, 2, 2])) == pytest.approx(0.75)
    assert labels.cloud_share(np.zeros(4)) == 0
