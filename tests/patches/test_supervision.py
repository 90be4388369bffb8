"""Labels counted by hand along a chain of runs."""

from dataclasses import replace

from fcd.patches.supervision import Supervision

NOTHING = Supervision(0, 0, "", 0, "", 0, labels_from="")
FCD = Supervision(300, 0, "best F1", 1000, "best validation F1", 2000)


def test_weights_that_saw_manual_masks_are_not_forgotten():
    seen = Supervision(9, 99, "0.5, fixed", 0, "", 0)
    for source in ("QA bands", "QA bands", "manual masks"):
        seen = seen.with_source(source)
    assert seen.labels_from == "manual masks and QA bands"


def test_generated_masks_cost_what_their_run_has_cost():
    plus = NOTHING.with_source("QA bands").with_image_labels(200).with_masks(FCD)
    assert plus == Supervision(
        300, 0, "training masks: best F1", 1000, "training masks: best validation F1", 2000,
        labels_from="QA bands and manual masks",
    )  # fmt: skip
    tested = plus.with_checkpoint("best validation F1", 30).with_threshold("0.5, fixed", 4)
    assert tested.checkpoint_chosen_by == "training masks: best validation F1; best validation F1"
    fine_tuned = replace(FCD, threshold_chosen_by="weights' masks: F1").with_masks(FCD)
    assert fine_tuned.threshold_chosen_by == "weights' masks: F1; training masks: best F1"
    assert fine_tuned.threshold_pixel_labels == 2000
    assert tested.threshold_chosen_by == "0.5, fixed; training masks: best F1"
    assert (tested.checkpoint_pixel_labels, tested.threshold_pixel_labels) == (2030, 1004)


def test_the_same_image_labels_count_once_and_pixel_labels_each_time():
    seen = FCD.with_image_labels(3).with_pixel_labels(50).with_pixel_labels(50)
    assert (seen.image_labels, seen.pixel_labels) == (300, 100)
    assert NOTHING.with_checkpoint("weights: last step", 0).checkpoint_chosen_by == (
        "weights: last step"
    )


def test_a_mean_of_scores_has_cost_what_all_its_runs_have():
    drawn = replace(NOTHING, pixel_labels=700, labels_from="manual masks")
    both = FCD.with_run(drawn).with_run(replace(FCD, image_labels=310))
    assert (both.image_labels, both.pixel_labels) == (310, 700)
    assert (both.threshold_pixel_labels, both.checkpoint_pixel_labels) == (2000, 4000)
    assert both.labels_from == "manual masks"
