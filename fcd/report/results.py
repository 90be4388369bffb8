"""What metrics.json holds of one run, in the names and words that both pages use."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcd.landsat.reference import NAMES, QA, TRUTH
from fcd.patches.supervision import UNKNOWN

if TYPE_CHECKING:
    import pandas as pd

PICTURES = {
    "image": "Image (red, green, blue)",
    "truth": "Truth",
    "score": "Cloud score",
    "mask": "Mask",
    "error": "Errors",
}
FIGURES = {
    "accuracy": "Accuracy",
    "macro_f1": "Macro F1",
    "cloud_iou": "Cloud IoU",
    "cloud_precision": "Cloud precision",
    "cloud_recall": "Cloud recall",
    "cloud_f1": "Cloud F1",
    "clear_f1": "Clear F1",
    "pixels": "Pixels",
}


def picture_path(results_dir: Path | str, scene_key: str, name: str) -> Path:
    """Where picture `name` (of `PICTURES`) of a scene lies."""
    return Path(results_dir) / "pictures" / f"{scene_key}_{name}.png"


def score_range(threshold: float) -> float:
    """Where the colours of the score map end: twice the threshold, at most 1.

    Cloud and clear then meet in the middle of the colours, and scenes can be compared.
    """
    return min(2 * threshold, 1.0) or 1.0


def number(value: float | None, digits: int = 1) -> str:
    """A share in [0, 1] as per cent; a dash if it is not defined (None or NaN)."""
    return "–" if value is None or value != value else f"{100 * value:.{digits}f}"


def flat(scores: dict[str, Any]) -> dict[str, Any]:
    """Nested `fcd.metrics.scores` -> one level: ``accuracy``, ``macro_f1``, ``cloud_iou``, …"""
    result = {}
    for name, value in scores.items():
        if isinstance(value, dict):
            result.update({f"{name}_{figure}": number for figure, number in value.items()})
        else:
            result[name] = value
    return result


def score_table(results: dict[str, Any]) -> "pd.DataFrame":
    """The rows of metrics.csv: the whole, every biome, every scene, and all their figures.

    Columns scope ("overall", "biome" or "scene"), name, biome, and those of `flat`: shares in
    [0, 1], NaN where not defined, and the count of pixels.
    """
    import pandas as pd

    rows = [{"scope": "overall", "name": "all", "biome": "", **flat(results["overall"])}]
    for biome, scores in results["biomes"].items():
        rows.append({"scope": "biome", "name": biome, "biome": biome, **flat(scores)})
    for key, scores in results["scenes"].items():
        rows.append({"scope": "scene", "name": key, **flat(scores)})
    table = pd.DataFrame(rows)
    shares = table.columns.difference(["scope", "name", "biome", "pixels"])
    return table.astype(dict.fromkeys(shares, float))


def _reference(results: dict[str, Any]) -> str:
    # Results from before there was a choice were compared with manual masks.
    return results.get("reference", NAMES[TRUTH])


def reference_notes(runs: Sequence[dict[str, Any]]) -> list[str]:
    """What has to be said of the masks that `runs` (metrics.json) were compared with."""
    references = {_reference(results) for results in runs}
    if references == {NAMES[TRUTH]}:
        return []
    if len(references) > 1:
        return ["The runs were compared with different masks: their figures cannot be compared."]
    return [
        "The reference is the scenes' own QA bands, not a manual truth: the figures say how well "
        "the masks agree with what the QA bands call cloud, not how accurate they are."
    ]


def reference_caption(results: dict[str, Any]) -> str:
    """What the picture of the reference is called."""
    return "QA band" if _reference(results) == NAMES[QA] else PICTURES["truth"]


def supervision_note(supervision: dict[str, Any]) -> str:
    """One plain sentence: which pixel labels the run owes its figures to."""
    trained = supervision["pixel_labels"]
    chosen = {
        name: count
        for name in ("threshold", "checkpoint")
        if (count := supervision[f"{name}_pixel_labels"])
    }
    if UNKNOWN in supervision["checkpoint_chosen_by"]:
        return "The weights come from elsewhere: what labels they and their choice cost is unknown."
    if not trained and not chosen:
        source = supervision.get("labels_from", "")
        if NAMES[QA] in source:
            return (
                "No pixel was labelled by hand: labels, also those of any choice after training, "
                f"come from {source}."
            )
        return "No pixel label was used, neither in training nor for any choice after it."
    uses = [f"{trained:,} labelled pixels were trained on"] if trained else []
    uses += [f"the {name} was chosen with {n:,} labelled pixels" for name, n in chosen.items()]
    sentence = "; ".join(uses) + "."
    if not trained:
        sentence += (
            " This is not image-level supervision alone, though no weight saw a pixel label."
        )
    return sentence[0].upper() + sentence[1:]
