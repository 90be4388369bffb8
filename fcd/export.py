"""A trained network as one ONNX file that takes DN and returns cloud scores.

The normalisation is inside, so that a program which knows nothing of this one can run it.
"""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fcd.errors import UserError
from fcd.files import replacing
from fcd.transforms import Normalization

OPSET = 18  # what PyTorch's operators are translated to without conversion; ONNX 1.13, 2022
INPUT, OUTPUT = "dn", "score"
TOLERANCE = 1e-4  # largest difference of a score between PyTorch and ONNX Runtime


class DNScore(nn.Module):
    """DN (N, C, H, W) float32 -> cloud score (N, H, W) float32 in [0, 1], as `fcd.tiling`.

    A pixel of which any band holds the nodata value scores 0.

    Args:
        network: what `score` uses, in evaluation mode afterwards.
        score: (N, C, H, W) in [-1, 1] -> (N, H, W).
        normalization: DN -> [-1, 1].
    """

    def __init__(
        self, network: nn.Module, score: Callable[[Tensor], Tensor], normalization: Normalization
    ) -> None:
        super().__init__()
        self.network, self.score, self.normalization = network, score, normalization
        self.eval()

    def forward(self, dn: Tensor) -> Tensor:
        """(N, C, H, W) float32 DN -> (N, H, W) float32 in [0, 1]."""
        valid = ~self.normalization.is_nodata(dn).any(dim=1)
        return self.score(self.normalization.normalize(dn)).clamp(0.0, 1.0) * valid


def write_onnx(path: Path, module: DNScore, multiple: int, properties: dict[str, str]) -> float:
    """Write `module` to `path`; return the largest difference of a score to PyTorch's.

    The file takes any batch, and any height and width that are multiples of `multiple`. It is
    run by ONNX Runtime at several sizes before it gets its name. `properties` become its
    metadata. Raises `UserError` if a library is missing or the scores differ by more than
    `TOLERANCE`.
    """
    onnx = _libraries()[0]
    batch, height, width = (torch.export.Dim(name) for name in ("batch", "height", "width"))
    shapes = ({0: batch, 2: multiple * height, 3: multiple * width},)
    with torch.no_grad():
        program = torch.onnx.export(
            module,
            (_dn(module, 2, 2 * multiple, 3 * multiple),),
            dynamo=True,
            dynamic_shapes=shapes,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            verbose=False,
        )
    model = program.model_proto
    onnx.helper.set_model_props(model, properties)
    with replacing(path) as temporary:
        onnx.save(model, temporary)
        session = load_session(temporary)
        sizes = [(1, 4, 4), (2, 2, 3), (3, 3, 2)]
        batches = [_dn(module, n, multiple * h, multiple * w) for n, h, w in sizes]
        difference = max(_difference(session, module, dn) for dn in batches)
        if not difference <= TOLERANCE:
            raise UserError(
                f"{path} is not written: ONNX Runtime's scores differ from PyTorch's by "
                f"{difference:.2g}, more than {TOLERANCE:.0e}; try other versions of onnx, "
                "onnxscript and onnxruntime"
            )
    return difference


def load_session(path: Path) -> Any:
    """ONNX Runtime's session of an exported file, on the CPU; `UserError` without the library."""
    return _libraries()[1].InferenceSession(path, providers=["CPUExecutionProvider"])


def _libraries() -> tuple:
    """The modules onnx and onnxruntime; PyTorch itself needs onnxscript."""
    try:
        modules = [import_module(name) for name in ("onnxscript", "onnx", "onnxruntime")]
    except ImportError as error:
        raise UserError(
            f"ONNX export needs libraries that are not installed ({error}): "
            "pip install onnx onnxscript onnxruntime"
        ) from error
    return modules[1], modules[2]


def _dn(module: DNScore, batch: int, height: int, width: int) -> Tensor:
    """Seeded DN (batch, C, height, width) float32 with nodata in a corner of one band."""
    generator = torch.Generator().manual_seed(height)
    normalization = module.normalization
    size = (batch, normalization.num_channels, height, width)
    dn = normalization.denormalize(2 * torch.rand(size, generator=generator) - 1)
    if normalization.nodata is not None:
        dn[:, 0, : height // 4, : width // 4] = normalization.nodata
    return dn


def _difference(session: Any, module: DNScore, dn: Tensor) -> float:
    with torch.no_grad():
        expected = module(dn).numpy()
    (score,) = session.run([OUTPUT], {INPUT: dn.numpy()})
    return float(np.abs(score - expected).max())
