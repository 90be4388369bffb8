"""A trained network as an ONNX file for other programs.

The file takes DN and returns cloud scores. The normalisation is inside, so that a program which
knows nothing of this one can run it.
"""

import json
from pathlib import Path

from torch import Tensor, nn

import fcd
from fcd.landsat.bands import band_names
from fcd.masks.runtime import Scored, write_onnx
from fcd.masks.scoring import Scorer
from fcd.masks.tiling import Score
from fcd.patches.normalisation import Normalization


class DNScore(Scored):
    """DN (N, C, H, W) float32 -> cloud score (N, H, W) float32 in [0, 1], as `fcd.masks.tiling`.

    A pixel of which any band holds the nodata value scores 0.

    Args:
        network, score: see `Scored`.
        normalization: DN -> [-1, 1].
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


def export(scorer: Scorer, path: Path, threshold: float, commit: str | None) -> None:
    """Write the score as an ONNX file that takes DN, and say how well it agrees.

    The first process does; the network is on the CPU. `threshold`, the `commit` of this code and
    what else a user of the file has to know go into its metadata. See `write_onnx`.
    """
    if not scorer.processes.first:
        return
    normalization = scorer.normalization
    properties = {
        "model": f"{scorer.experiment}: {scorer.name}",
        "threshold": repr(threshold),
        "bands": ",".join(band_names(normalization.num_channels)),
        "dtype": normalization.dtype,
        "normalization": json.dumps(normalization.state()),
        "image_size": str(scorer.image_size),
        "multiple": str(scorer.multiple),
        "weights": scorer.fingerprint,
        "fcd_version": fcd.__version__,
        "fcd_commit": commit or "unknown",
    }
    module = DNScore(scorer.network, scorer.score, normalization)
    difference = write_onnx(path, module, scorer.multiple, properties)
    print(
        f"exported: {path}, cloud above a score of {threshold:.4g}; "
        f"largest difference to PyTorch {difference:.1e}"
    )
