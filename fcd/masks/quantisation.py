"""U-Nets in int8: calibrated, compared with float32, kept as files that ONNX Runtime runs.

Weights and the values between layers become 8-bit integers, with a scale for each channel of
weights and each tensor of values: these can hold what they have reached on the calibration samples
(static quantisation, QDQ format, MinMax). Resizing stays right in int8 because ours takes the
nearest pixel; transposed convolutions and all else that ONNX Runtime has no integers for stay
float.
"""

import logging
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fcd import metrics
from fcd.errors import OutputError, UserError
from fcd.files import digest, replacing
from fcd.landsat import labels
from fcd.masks.runtime import Scored, libraries, load_score, write_onnx
from fcd.masks.scoring import Scorer
from fcd.masks.tiling import Score

SAMPLES = 576  # at most: 512 to calibrate on, 64 held back
HELD_BACK = 9  # every so manieth sample is held back, to compare float32 and int8 on
BATCH = 4  # samples at a time, which bounds memory
MOST_PIXELS = 0.005  # share of the pixels in which two masks that agree differ, at most
MOST_F1 = 0.002  # by which the macro F1 of two masks that agree differs, at most
SUFFIX = ".int8.onnx"

Sample = tuple[Tensor, np.ndarray, np.ndarray | None]
"""Network input (C, h, w) float32; where it is valid (h, w) bool; patch codes (h, w), if known."""


@dataclass(frozen=True)
class Samples:
    """What a network is calibrated on, and on what its masks are compared.

    draw: so many, always the same ones. told: what they are, in words that stand for them alone.
    of_training: whether they are training patches.
    """

    draw: Callable[[int], Iterator[Sample]]
    told: str
    of_training: bool


def reduces_range(capabilities: Mapping[str, Any] | None = None) -> bool:
    """Whether weights may take 7 bits only.

    On x86 processors without VNNI two products of 8 bits are added in 16, which then overflow
    without a word. capabilities: of the processor, as PyTorch names them; None: of this one.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    if capabilities is None:
        told = getattr(torch.cpu, "get_capabilities", None)  # not in older versions of PyTorch
        capabilities = told() if told else {"avx512_vnni": torch.cpu._is_vnni_supported()}
    return not any(capabilities.get(name) for name in ("avx512_vnni", "avx_vnni", "amx_int8"))


def check_quantisable(scorer: Scorer) -> None:
    """Raise `UserError` if what `scorer` scores by cannot be in int8."""
    scorer.check_exportable()
    if scorer.natural_threshold is None:
        raise UserError(
            f"--precision int8 is for U-Nets: {scorer.checkpoint} scores by the {scorer.name} of a "
            "generator, whose instance norm has to stay float; take bfloat16 or float32"
        )
    libraries()


def quantised(
    scorer: Scorer, samples: Samples, threshold: float, folder: Path
) -> tuple[Score, str]:
    """The score in int8, by ONNX Runtime, and the digest of its network.

    A file of it is used again while weights, score, threshold and, if `samples` are training
    patches, these stay the same. Calibrated on training patches it is written beside the
    checkpoint, or into `folder` if that cannot be; otherwise into `folder`. threshold: of the masks
    that are compared. Raises `UserError` if these differ too much, there are no two samples, or the
    network cannot be in int8.
    """
    check_quantisable(scorer)
    beside = scorer.checkpoint.with_suffix(SUFFIX)
    inside = folder / beside.name
    made_for = {
        "weights": scorer.fingerprint,
        "score": scorer.name,
        "threshold": repr(threshold),
        "reduce_range": str(reduces_range()),
    }
    wanted = made_for | ({"calibration": samples.told} if samples.of_training else {})
    for path in (beside, inside):
        if digest := _digest(path, wanted):
            return load_score(path), digest
    print(f"int8: calibrating {scorer.checkpoint} on {samples.told}, about a minute")
    with TemporaryDirectory() as temporary:
        held_back: list[Sample] = []
        made = Path(temporary, beside.name)
        drawn = _calibrating(samples.draw(SAMPLES), held_back)
        quantise(made, scorer.module, scorer.multiple, drawn)
        score = load_score(made)
        check_agreement(scorer, score, held_back, threshold)
        properties = made_for | {"calibration": samples.told}
        if samples.of_training:
            with suppress(OutputError):
                return score, _write(made, beside, properties)
        return score, _write(made, inside, properties)


def _calibrating(samples: Iterator[Sample], held_back: list[Sample]) -> Iterator[Tensor]:
    """The inputs of the `samples` but for those that go to `held_back`."""
    for number, sample in enumerate(samples):
        if number % HELD_BACK:
            yield sample[0]
        else:
            held_back.append(sample)


def quantise(path: Path, module: Scored, multiple: int, inputs: Iterator[Tensor]) -> None:
    """Write `module` in int8 to `path`, calibrated on `inputs`, each (C, h, w) of one size.

    multiple: see `write_onnx`. Raises `UserError` if there are none, or a library is missing.
    """
    libraries()
    quantization: Any = import_module("onnxruntime.quantization")
    preparation: Any = import_module("onnxruntime.quantization.shape_inference")

    class Reader(quantization.CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = list(islice(inputs, BATCH))
            return {module.input: torch.stack(batch).numpy()} if batch else None

    plain, folded = (path.with_name(f"{kind}.onnx") for kind in ("plain", "folded"))
    write_onnx(plain, module, multiple, {})
    preparation.quant_pre_process(plain, folded, skip_symbolic_shape=True)
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # of scales that have no channels, and of what was done above
    try:
        quantization.quantize_static(
            folded,
            path,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            reduce_range=reduces_range(),
            # Of the pairs of types that the processors multiply this is the fast one.
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod.MinMax,
        )
    except ValueError as error:  # the only thing that it does not find
        raise UserError(
            "--precision int8: there are no two tiles or training patches to calibrate on; give "
            "larger scenes to --scenes, or the folder of patches to --image_dir"
        ) from error
    finally:
        logging.disable(before)


@torch.inference_mode()
def check_agreement(scorer: Scorer, int8: Score, samples: list[Sample], threshold: float) -> None:
    """Raise `UserError` unless masks in int8 agree with those of `scorer` on the `samples`.

    They may differ in `MOST_PIXELS` of the pixels and, where codes are known, by `MOST_F1` in macro
    F1. threshold: of the masks.
    """
    agreement, truth = np.zeros((2, 2), np.int64), np.zeros((2, 2, 2), np.int64)
    for x, valid, codes in samples:
        scores = [score(x[None]).float().cpu().numpy()[0] for score in (scorer.score, int8)]
        masks = [labels.patch_from_score(values, valid, threshold) for values in scores]
        agreement += metrics.confusion(*masks)
        if codes is not None:
            truth += np.stack([metrics.confusion(codes, mask) for mask in masks])
    share = differing(agreement)
    loss = abs(np.diff(metrics.macro_f1(truth))[0]) if truth.any() else 0.0
    if share > MOST_PIXELS or loss > MOST_F1:
        raise UserError(
            f"--precision int8: on held-back tiles its masks differ from those in float32 in "
            f"{share:.2%} of the pixels (at most {MOST_PIXELS:.1%} may) and in macro F1 by "
            f"{100 * loss:.2f} points (at most {100 * MOST_F1:.1f}); score {scorer.checkpoint} in "
            "float32 or bfloat16"
        )


def differing(agreement: np.ndarray) -> float:
    """Share of the pixels in which two masks differ; agreement: their `fcd.metrics.confusion`."""
    pixels = int(agreement.sum())
    return (pixels - int(np.trace(agreement))) / max(1, pixels)


def _write(made: Path, path: Path, properties: dict[str, str]) -> str:
    """Write the network `made` to `path` with `properties`; return its digest."""
    onnx = libraries()[0]
    model = onnx.load(made)
    digest = _digest_of(model)
    onnx.helper.set_model_props(model, properties | {"digest": digest})
    with replacing(path) as temporary:
        onnx.save(model, temporary)
    return digest


def _digest(path: Path, wanted: dict[str, str]) -> str:
    """The digest of the network in the file `path`, if it is whole and has the `wanted` properties.

    Otherwise "": it has to be made.
    """
    if not path.exists():
        return ""
    onnx = libraries()[0]
    try:
        model = onnx.load(path)
    except Exception:  # whatever the reader of protocol buffers finds
        return ""
    properties = {entry.key: entry.value for entry in model.metadata_props}
    digest = _digest_of(model)
    return digest if (wanted | {"digest": digest}).items() <= properties.items() else ""


def _digest_of(model: Any) -> str:
    return digest(model.graph.SerializeToString(deterministic=True))
