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


def test_codes_that_a_user_names():
    mask = np.array([[0, 255, 7]], np.uint8)
    decode = labels.truth_decoder("0=clear, 255=cloud,7=nodata")
    assert decode(mask, "x").tolist() == [[labels.CLEAR, labels.CLOUD, labels.INVALID]]
    with pytest.raises(UserError, match=r"x: code 7 is none of \[0, 255\].*--mask_codes"):
        labels.truth_decoder("0=clear,255=cloud")(mask, "x")
    assert labels.truth_decoder(None) is labels.patch_from_truth


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0=clear", "a code for clear and one for cloud are needed"),
        ("0=clear,256=cloud", "'256=cloud' is no code from 0 to 255"),
        ("0=clear,x=cloud", "'x=cloud' is no code"),
        ("0=clear,1=snow", "'1=snow' is no code"),
        ("0=clear,0=cloud", "0 has two meanings"),
        ("", "'' is no code"),
    ],
)
def test_codes_that_say_nothing(text, message):
    with pytest.raises(UserError, match=message) as told:
        labels.truth_decoder(text)
    assert str(told.value).startswith(f"--mask_codes {text}: ")


def test_masks_without_a_clear_pixel():
    clear, cloud, nothing = (np.full((2, 2), code, np.uint8) for code in (1, 2, 0))
    read = []
    labels.require_clear((read.append(n) or m for n, m in enumerate([cloud, clear, cloud])), "x")
    assert read == [0, 1]
    labels.require_clear([nothing], "x")  # said elsewhere
    with pytest.raises(UserError, match=r"^x: no pixel .* 128 for clear.* 0=clear,255=cloud"):
        labels.require_clear([nothing, cloud], "x")
