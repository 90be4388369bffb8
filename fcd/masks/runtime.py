"""Networks as ONNX files, and scores computed by ONNX Runtime in place of PyTorch."""

from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fcd.errors import UserError
from fcd.files import replacing
from fcd.masks.tiling import Score
from fcd.patches.normalisation import FILL, Normalization

Runtime = Literal["pytorch", "onnx"]
PYTORCH: Runtime = "pytorch"
ONNX: Runtime = "onnx"
OPSET = 18  # what PyTorch's operators are translated to without conversion; ONNX 1.13, 2022
OUTPUT = "score"
TOLERANCE = 1e-4  # largest difference of a score between PyTorch and ONNX Runtime


class Scored(nn.Module):
    """`score`, (N, C, H, W) in [-1, 1] -> (N, H, W), and the network it uses as one module.

    `num_channels` is C. The network is in evaluation mode afterwards.
    """

    input = "x"  # the name of the argument in ONNX

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


class DNScore(Scored):
    """DN (N, C, H, W) float32 -> cloud score (N, H, W) float32 in [0, 1], as `fcd.masks.tiling`.

    For programs that know nothing of this one: the normalisation is inside, and a pixel of which
    any band holds the nodata value scores 0.
    """

    input = "dn"

    def __init__(self, network: nn.Module, score: Score, normalization: Normalization) -> None:
        super().__init__(network, score, normalization.num_channels)
        self.normalization = normalization

    def forward(self, dn: Tensor) -> Tensor:
        """(N, C, H, W) float32 DN -> (N, H, W) float32 in [0, 1]."""
        valid = ~self.normalization.is_nodata(dn).any(dim=1)
        return self.score(self.normalization.normalize(dn)).clamp(0.0, 1.0) * valid

    def example(self, batch: int, height: int, width: int) -> Tensor:
        """Seeded DN (batch, C, height, width) float32 with nodata in a corner of one band."""
        return self.normalization.denormalize(super().example(batch, height, width))


def onnx_score(module: Scored, multiple: int) -> Score:
    """The same as `module`, by ONNX Runtime on the CPU; see `write_onnx` for what it takes."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "network.onnx")
        write_onnx(path, module, multiple, {})
        return load_score(path)


def write_onnx(path: Path, module: Scored, multiple: int, properties: dict[str, str]) -> float:
    """Write `module` to `path`; return the largest difference of a score to PyTorch's.

    The file takes any batch, and any height and width that are multiples of `multiple`;
    `properties` become its metadata. ONNX Runtime runs it at several sizes before it gets its name.
    Raises `UserError` if a library is missing or the scores differ by more than `TOLERANCE`.
    """
    onnx = libraries()[0]
    batch, height, width = (torch.export.Dim(name) for name in ("batch", "height", "width"))
    # Scenes are scored in inference mode, whose tensors cannot be traced.
    with torch.inference_mode(False), torch.no_grad():
        program = torch.onnx.export(
            module,
            (module.example(2, 2 * multiple, 3 * multiple),),
            dynamo=True,
            dynamic_shapes=({0: batch, 2: multiple * height, 3: multiple * width},),
            opset_version=OPSET,
            input_names=[module.input],
            output_names=[OUTPUT],
            verbose=False,
        )
    assert program is not None, "what dynamo=True returns"
    _free_convolutions(program.model)
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


def _free_convolutions(model: Any) -> None:
    """Let what asks a convolution for its size ask the batch norm behind it, which has the same.

    ONNX Runtime folds a batch norm into the convolution before it only if nobody else uses that.
    """
    for node in model.graph:
        if node.op_type == "BatchNormalization":
            for user, index in tuple(node.inputs[0].uses()):
                if user.op_type == "Shape":
                    user.replace_input_with(index, node.outputs[0])
    model.graph.sort()


def load_score(path: Path) -> Score:
    """What an exported file computes, on the CPU in PyTorch's number of threads."""
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
        _, onnx, onnxruntime = map(import_module, ("onnxscript", "onnx", "onnxruntime"))
    except ImportError as error:
        raise UserError(
            f"ONNX needs libraries that are not installed ({error}): "
            "pip install onnx onnxscript onnxruntime"
        ) from error
    return onnx, onnxruntime


@torch.no_grad()
def _difference(score: Score, module: Scored, batch: Tensor) -> float:
    return float((score(batch) - module(batch)).abs().max())
