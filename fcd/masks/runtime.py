"""Scores computed by ONNX Runtime in place of PyTorch."""

from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fcd.errors import UserError
from fcd.files import replacing
from fcd.masks.tiling import Score
from fcd.patches.normalisation import FILL

Runtime = Literal["pytorch", "onnx"]
PYTORCH: Runtime = "pytorch"
ONNX: Runtime = "onnx"
OPSET = 18  # what PyTorch's operators are translated to without conversion; ONNX 1.13, 2022
OUTPUT = "score"
TOLERANCE = 1e-4  # largest difference of a score between PyTorch and ONNX Runtime


class Scored(nn.Module):
    """`score` with the network that it uses, as one module.

    Args:
        network: what `score` uses, in evaluation mode afterwards.
        score: (N, C, H, W) in [-1, 1] -> (N, H, W).
        num_channels: C.
    """

    input = "x"
    """The name of the argument in ONNX."""

    def __init__(self, network: nn.Module, score: Score, num_channels: int) -> None:
        super().__init__()
        self.network, self.score, self.num_channels = network, score, num_channels
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) float32 in [-1, 1] -> (N, H, W)."""
        return self.score(x)

    def example(self, batch: int, height: int, width: int) -> Tensor:
        """Seeded input (batch, C, height, width) with fill in a corner of one band."""
        generator = torch.Generator().manual_seed(height)
        x = 2 * torch.rand((batch, self.num_channels, height, width), generator=generator) - 1
        x[:, 0, : height // 4, : width // 4] = FILL
        return x


def onnx_score(module: Scored, multiple: int) -> Score:
    """The same as `module`, by ONNX Runtime on the CPU.

    For batches whose sides are multiples of `multiple`. Raises the errors of `write_onnx`.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder, "network.onnx")
        write_onnx(path, module, multiple, {})
        return load_score(path)


def write_onnx(path: Path, module: Scored, multiple: int, properties: dict[str, str]) -> float:
    """Write `module` to `path`; return the largest difference of a score to PyTorch's.

    The file takes any batch, and any height and width that are multiples of `multiple`. It is
    run by ONNX Runtime at several sizes before it gets its name. `properties` become its
    metadata. Raises `UserError` if a library is missing or the scores differ by more than
    `TOLERANCE`.
    """
    onnx = libraries()[0]
    batch, height, width = (torch.export.Dim(name) for name in ("batch", "height", "width"))
    shapes = ({0: batch, 2: multiple * height, 3: multiple * width},)
    with torch.no_grad():
        program = torch.onnx.export(
            module,
            (module.example(2, 2 * multiple, 3 * multiple),),
            dynamo=True,
            dynamic_shapes=shapes,
            opset_version=OPSET,
            input_names=[module.input],
            output_names=[OUTPUT],
            verbose=False,
        )
    assert program is not None, "what dynamo=True returns"
    model = program.model_proto
    onnx.helper.set_model_props(model, properties)
    with replacing(path) as temporary:
        onnx.save(model, temporary)
        score = load_score(temporary)
        sizes = [(1, 4, 4), (2, 2, 3), (3, 3, 2)]
        batches = [module.example(n, multiple * h, multiple * w) for n, h, w in sizes]
        difference = max(_difference(score, module, batch) for batch in batches)
        if not difference <= TOLERANCE:
            raise UserError(
                f"{path.name} is not written: ONNX Runtime's scores differ from PyTorch's by "
                f"{difference:.2g}, more than {TOLERANCE:.0e}; try other versions of onnx, "
                "onnxscript and onnxruntime"
            )
    return difference


def load_score(path: Path) -> Score:
    """What an exported file computes, by ONNX Runtime on the CPU in PyTorch's number of threads.

    Raises `UserError` without the library.
    """
    onnxruntime = libraries()[1]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (argument,) = session.get_inputs()

    def score(x: Tensor) -> Tensor:
        return torch.from_numpy(session.run([OUTPUT], {argument.name: x.numpy()})[0])

    return score


def libraries() -> tuple[Any, Any]:
    """The modules onnx and onnxruntime, or `UserError`; PyTorch itself needs onnxscript."""
    try:
        modules = [import_module(name) for name in ("onnxscript", "onnx", "onnxruntime")]
    except ImportError as error:
        raise UserError(
            f"ONNX needs libraries that are not installed ({error}): "
            "pip install onnx onnxscript onnxruntime"
        ) from error
    return modules[1], modules[2]


@torch.no_grad()
def _difference(score: Score, module: Scored, batch: Tensor) -> float:
    return float((score(batch) - module(batch)).abs().max())
