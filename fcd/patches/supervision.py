"""What labels a network has cost, counted along the chain of runs that it is built on."""

from dataclasses import dataclass, replace

from fcd.landsat.reference import NAMES, TRUTH

DRAWN = "drawn scenes"
"""In place of where labels are from, of what has cost none."""
UNKNOWN = "unknown"
"""In place of how a checkpoint was chosen that other code has written; its labels are not known."""


@dataclass(frozen=True)
class Supervision:
    """What labels a run has seen, training and every choice after it.

    Choices are told in words, such as "best macro F1 on 128 cloudy training patches". Labels of QA
    bands count as image labels, never as pixel labels.
    """

    image_labels: int  # image-level labels (clear or cloudy) trained on
    pixel_labels: int  # labelled pixels the weights were trained on
    threshold_chosen_by: str
    threshold_pixel_labels: int  # labelled pixels that it was chosen with; 0 if it needed none
    checkpoint_chosen_by: str
    checkpoint_pixel_labels: int  # as of the threshold
    labels_from: str = NAMES[TRUTH]

    @classmethod
    def none(cls, labels_from: str) -> "Supervision":
        """No label yet, and no choice."""
        return cls(0, 0, "", 0, "", 0, labels_from)

    def with_source(self, labels_from: str) -> "Supervision":
        """After labels from one more source."""
        known = filter(None, self.labels_from.split(" and "))
        return replace(self, labels_from=" and ".join(dict.fromkeys([*known, labels_from])))

    def with_image_labels(self, count: int) -> "Supervision":
        """After `count` image-level labels, those of before among them."""
        return replace(self, image_labels=max(self.image_labels, count))

    def with_pixel_labels(self, count: int) -> "Supervision":
        """After `count` more labelled pixels."""
        return replace(self, pixel_labels=self.pixel_labels + count)

    def with_threshold(self, chosen_by: str, pixel_labels: int) -> "Supervision":
        """After the choice of the threshold of the scores."""
        by, cost = _joined(chosen_by, self.threshold_chosen_by), self.threshold_pixel_labels
        return replace(self, threshold_chosen_by=by, threshold_pixel_labels=cost + pixel_labels)

    def with_checkpoint(self, chosen_by: str, pixel_labels: int) -> "Supervision":
        """After one more choice of a checkpoint."""
        by, cost = _joined(self.checkpoint_chosen_by, chosen_by), self.checkpoint_pixel_labels
        return replace(self, checkpoint_chosen_by=by, checkpoint_pixel_labels=cost + pixel_labels)

    def with_masks(self, masks: "Supervision") -> "Supervision":
        """After training on generated masks that have cost `masks`."""
        by = f"training masks: {masks.threshold_chosen_by}"
        seen = replace(
            self.with_source(masks.labels_from),
            threshold_chosen_by=_joined(self.threshold_chosen_by, by),
            threshold_pixel_labels=self.threshold_pixel_labels + masks.threshold_pixel_labels,
        )
        seen = seen.with_image_labels(masks.image_labels).with_pixel_labels(masks.pixel_labels)
        by = f"training masks: {masks.checkpoint_chosen_by}"
        return seen.with_checkpoint(by, masks.checkpoint_pixel_labels)

    def with_run(self, other: "Supervision") -> "Supervision":
        """Together with another run, whose scores are averaged with those of this one."""
        seen = self.with_source(other.labels_from).with_image_labels(other.image_labels)
        seen = seen.with_pixel_labels(other.pixel_labels)
        seen = seen.with_threshold(other.threshold_chosen_by, other.threshold_pixel_labels)
        return seen.with_checkpoint(other.checkpoint_chosen_by, other.checkpoint_pixel_labels)


def _joined(*parts: str) -> str:
    return "; ".join(filter(None, parts))
