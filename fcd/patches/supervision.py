"""What labels a network has cost, counted along the chain of runs that it is built on."""

from dataclasses import dataclass, replace

from fcd.landsat.reference import NAMES, TRUTH

UNKNOWN = "unknown"
"""In place of how a checkpoint was chosen that other code has written; its labels are not known."""


@dataclass(frozen=True)
class Supervision:
    """What labels a run has seen, training and every choice after it."""

    image_labels: int
    """Image-level labels (clear or cloudy) trained on."""
    pixel_labels: int
    """Labelled pixels the weights were trained on."""
    threshold_chosen_by: str
    """In words, such as "best macro F1 on 128 cloudy training patches"."""
    threshold_pixel_labels: int
    """Labelled pixels that the threshold was chosen with; 0 if it needed none."""
    checkpoint_chosen_by: str
    """In words, such as "best macro F1 on the validation patches"."""
    checkpoint_pixel_labels: int
    """Labelled pixels that the checkpoint was chosen with; 0 if it needed none."""
    labels_from: str = NAMES[TRUTH]
    """What the labels come from; those of QA bands count as image labels, never as pixel labels."""

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
        return replace(
            self,
            threshold_chosen_by=_joined(chosen_by, self.threshold_chosen_by),
            threshold_pixel_labels=self.threshold_pixel_labels + pixel_labels,
        )

    def with_checkpoint(self, chosen_by: str, pixel_labels: int) -> "Supervision":
        """After one more choice of a checkpoint."""
        return replace(
            self,
            checkpoint_chosen_by=_joined(self.checkpoint_chosen_by, chosen_by),
            checkpoint_pixel_labels=self.checkpoint_pixel_labels + pixel_labels,
        )

    def with_masks(self, masks: "Supervision") -> "Supervision":
        """After training on generated masks that have cost `masks`."""
        by, cost = masks.threshold_chosen_by, masks.threshold_pixel_labels
        seen = replace(
            self.with_source(masks.labels_from),
            threshold_chosen_by=_joined(self.threshold_chosen_by, f"training masks: {by}"),
            threshold_pixel_labels=self.threshold_pixel_labels + cost,
        )
        seen = seen.with_image_labels(masks.image_labels).with_pixel_labels(masks.pixel_labels)
        by, cost = masks.checkpoint_chosen_by, masks.checkpoint_pixel_labels
        return seen.with_checkpoint(f"training masks: {by}", cost)


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)
