"""What test_distributed.py does with one process and, under torchrun, with several.

`everything` trains, validates, masks and tests in the current folder; `main` joins the
processes, does it, and then checks what a single process cannot show.
"""

import io
import json
import os
import shutil
import sys
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import solver as solver_module
from data_loader import PatchDataset
from fcd.errors import UserError
from fcd.landsat.scenes import find_scenes
from fcd.masks.generated import generate_masks
from fcd.masks.prediction import predict_scenes
from fcd.masks.scoring import Tiles
from fcd.masks.scoring import predictions as scene_predictions
from fcd.patches.normalisation import Normalization
from fcd.processes import Processes, joined
from fcd.report.evaluation import Evaluation, evaluate
from fcd.training.loop import seed_step
from solver import GANTraining, SupervisedTraining
from tests import tiny
from tests.conftest import draw, write_patches, write_scene
from tests.tiny import CPU

# 13 patches: batches of 8 and 5 (parts of 3 and 2), or of 4, 4 and 5; of 6 and 7; of 10 and 3,
# where two samples each are too many and the second process has nothing to do.
BATCH_SIZES = (8, 10)
TRAINING = GANTraining(
    num_iters=4, num_iters_decay=2, g_lr=1e-3, d_lr=1e-3, n_critic=2, sample_step=4,
    model_save_step=4,
)  # fmt: skip
TILES = Tiles(32, 8, 4)


def make_data(root):
    """13 training and 5 validation patches with invalid pixels, 3 scenes."""
    write_patches(root / "p", 13, 5, ragged=True)
    for index in range(3):
        name = f"LC80{index}0120142{index}0LGN00"
        write_scene(root / "scenes" / "Water" / name, name, *draw(50, 70, index))


def gan(name, processes, **run):
    return tiny.gan(name, log_step=1, processes=processes, **run)


def unet(name, processes):
    return tiny.unet(name, processes=processes)


class Plain(torch.optim.SGD):
    """In place of Adam, which would blow up the rounding of gradients that are nearly zero."""

    def __init__(self, parameters, lr, *_, **__):
        super().__init__(parameters, lr)


def everything(processes: Processes) -> None:
    """Train with odd last batches, validate, choose a threshold, mask, test."""
    train, val = PatchDataset("p", "train"), PatchDataset("p", "val", "mask.tif")
    with exact_arithmetic():
        _train(processes, train, val)

    # Untrained: the same weights to the bit, whatever the number of processes.
    solver = gan("scored", processes)
    cells = {
        select: [c.tolist(), t]
        for select in ("pixel", "image")
        for c, t in [solver.validate(val, 4, select, None)]
    }
    record = solver.choose_threshold("f1", Path("p"), 5, 2)
    scenes = find_scenes("scenes")
    scorer, threshold, results = solver.scorer(), record["threshold"], solver.run.folder.results
    generate_masks(scorer, scenes, TILES, threshold, results / "tifs")
    evaluate(
        scenes,
        lambda scene: scene_predictions(scorer, scene, TILES, threshold),
        Evaluation(results, "FCD", threshold, solver.supervision(record)),
        {},
        processes,
    )
    if processes.first:
        Path("cells.json").write_text(json.dumps(cells))


@contextmanager
def exact_arithmetic():
    """Double precision and plain steps: what differs then is no rounding."""
    normalize, cross_entropy = Normalization.normalize, F.binary_cross_entropy_with_logits
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Normalization, "normalize", lambda *a: normalize(*a).double())
        patch.setattr(
            F, "binary_cross_entropy_with_logits", lambda x, y: cross_entropy(x, y.double())
        )
        patch.setattr(solver_module, "Adam", Plain)
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(torch.float32)


def _train(processes, train, val):
    for batch_size in BATCH_SIZES:
        gan(f"gan{batch_size}", processes).train(
            replace(TRAINING, batch_size=batch_size), train, val
        )
        # Batch norm in evaluation mode: its statistics are each process's own in training.
        supervised = unet(f"unet{batch_size}", processes)
        supervised.network.eval().train = lambda *_, network=supervised.network: network
        settings = SupervisedTraining(batch_size=batch_size, n_epochs=1, lr=1e-2)
        supervised.train(settings, PatchDataset("p", "train", "mask.tif"), val)


def predictions(processes):
    """How many failed of three scenes, one that is none, and one that has the name of another.

    The two of one name are masked by different processes. And what was said of it.
    """
    predictor, said = gan("scored", processes).predictor(0.01, TILES), io.StringIO()
    first, second, third = sorted(Path("scenes/Water").iterdir())
    again = Path("again", second.name)
    if processes.first:
        shutil.copytree(second, again)
    processes.wait()
    paths = [str(path) for path in (first, second, third, "gone", again)]
    with redirect_stdout(said):
        failed = predict_scenes(paths, predictor, "masks", processes=processes)
    return failed, said.getvalue()


def main(folder):
    os.chdir(folder)
    torch.set_num_threads(1)
    written, rename = [], os.replace
    os.replace = lambda source, target: (written.append(str(target)), rename(source, target))
    with joined(CPU) as processes:
        everything(processes)
        seen = {"written": [*written], "predicted": predictions(processes)}

        solver = unet("apart", processes)
        generator = seed_step(3, 7, processes.rank)
        seen["generator"] = torch.rand(3, generator=generator).tolist()
        seen["dropout"] = torch.rand(3).tolist()

        statistics = solver.network.encoder.bn1.running_mean
        statistics.fill_(float(processes.rank))
        solver.synchronize()
        seen["averaged"] = statistics.unique().tolist()

        with torch.no_grad():
            next(solver.network.parameters())[0, 0, 0, 0] += 1e-6 * processes.rank
        for name, check in [
            ("apart", solver.synchronize),
            ("patches", lambda: solver.batches(
                PatchDataset("p", "train", keep_ratio=1 - 0.5 * processes.rank),
                SupervisedTraining(), 1)),
        ]:  # fmt: skip
            try:
                check()
            except UserError as error:
                seen[name] = str(error)
        Path(f"seen{processes.rank}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main(sys.argv[1])
