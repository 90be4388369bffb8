"""Generated masks of scenes onto their patches, and what labels such masks have cost."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from rasterio.errors import RasterioIOError
from rasterio.windows import Window

from fcd import metrics
from fcd.errors import SceneError, UserError
from fcd.files import digest, file_digest, from_plain, read_json, replacing, write_json
from fcd.landsat import labels
from fcd.landsat.bands import FILL_DN
from fcd.landsat.rasters import Grid, opened
from fcd.landsat.reference import QA
from fcd.landsat.scenes import Scene
from fcd.patches import store
from fcd.patches.cutting import Record, cutting_of, parallel, patch_position, read_record
from fcd.patches.normalisation import known
from fcd.patches.supervision import Supervision

GENERATED_MASK = "generated_mask.tif"
_WHICH = "which"  # what tells generated masks apart, beside what they have cost
PROVENANCE = "supervision.json"  # in a folder of generated masks: what labels they have cost


def mask_tif(folder: Path | str, scene: Scene) -> Path:
    """Where the generated mask of a scene is: ``<biome>_<scene>_mask.tif``."""
    return Path(folder, f"{scene.key}_mask.tif")


def check_name(name: str) -> None:
    """Raise `UserError` if generated masks of that name would replace those of the patches."""
    if name == store.TRUTH_MASK:
        raise UserError(
            f"--generated_mask_file {name} would replace the patches' own masks; give another name"
        )


def add_masks(scenes: list[Scene], masks: Path, image_dir: Path, name: str, workers: int) -> None:
    """Cut the generated masks onto the patches of all training scenes.

    Raises `UserError` before any work if nothing is prepared or a mask is missing, or the name is
    that of the patches' own masks.
    """
    check_name(name)
    records = [(scene, read_record(image_dir, scene)) for scene in scenes]
    wanted = [(scene, record) for scene, record in records if record and record["split"] == "train"]
    if not wanted:
        raise UserError(
            f"{image_dir} holds no training patches of the scenes given; run "
            "python prepare_landsat8_biome.py without --generated_masks first"
        )
    if missing := [path for scene, _ in wanted if not (path := mask_tif(masks, scene)).exists()]:
        raise UserError(
            f"{missing[0]} is missing ({len(missing)} of {len(wanted)} masks); run "
            "python main.py --mode generate_masks first, or give its folder to --generated_masks"
        )
    jobs = {
        scene.name: partial(add_generated_masks, scene, record, masks, image_dir, name)
        for scene, record in wanted
    }
    counts = np.zeros((2, 2), np.int64)
    with recorded(image_dir, name, masks):
        for _, result in parallel(jobs, workers, "adding masks"):
            if isinstance(result, SceneError):
                raise result
            counts += result
    scores = metrics.scores(counts)
    accuracy, f1 = (
        "-" if figure is None else f"{figure:.3f}"
        for figure in (scores["accuracy"], scores["macro"]["f1"])
    )
    print(
        f"wrote {name} into {sum(len(r['clear']) + len(r['cloudy']) for _, r in wanted)} patches; "
        f"against their mask.tif (for information only): accuracy {accuracy}, macro F1 {f1}"
    )


def add_generated_masks(
    scene: Scene, record: Record, masks: Path, image_dir: Path, name: str = GENERATED_MASK
) -> np.ndarray:
    """Cut a generated scene mask onto the scene's patches, as `name` beside their image.tif.

    A patch labelled clear becomes all clear, whatever was left open: the label already says so.
    Pixels invalid in a manual mask stay invalid; those a QA band says nothing about, such as the
    rims of clouds in Collection 2, become what the generated mask says. Returns the confusion
    (2, 2) against mask.tif.
    Raises `UserError` if the mask cannot be read or has another size than the scene or lies
    elsewhere.
    """
    path, cutting = mask_tif(masks, scene), cutting_of(record)
    counts = np.zeros((2, 2), np.int64)
    try:
        with opened(path) as dataset:
            found, grid = Grid.of(dataset), replace(scene, bands=cutting.band_names).grid()
            if dataset.shape != (grid.height, grid.width) or found.is_elsewhere(grid):
                raise UserError(
                    f"{path} is {found.told}, scene {scene.name} {grid.told}; generate the masks "
                    "again"
                )
            for label, folder in enumerate(labels.CLASS_FOLDERS):
                for patch in record[folder]:
                    patch_dir = image_dir / record["split"] / folder / patch
                    truth = store.read(patch_dir / store.TRUTH_MASK, 2)
                    row, column = patch_position(patch)
                    tif = dataset.read(1, window=Window(column, row, cutting.size, cutting.size))
                    mask = labels.patch_from_tif(tif, str(path))
                    if label == labels.LABEL_CLEAR:
                        mask[:] = labels.CLEAR
                    if cutting.reference == QA:
                        dn = store.read(patch_dir / store.IMAGE, 3)
                        invalid = ~known(dn, FILL_DN).all(axis=-1)
                    else:
                        invalid = truth == labels.INVALID
                    mask[invalid] = labels.INVALID
                    with replacing(patch_dir / name) as temporary:
                        store.write(temporary, mask)
                    counts += metrics.confusion(truth, mask)
    except RasterioIOError as error:
        raise UserError(
            f"{path} cannot be read ({error}); run main.py --mode generate_masks first"
        ) from error
    return counts


def _provenance_path(image_dir: Path | str, name: str) -> Path:
    return Path(image_dir, Path(name).with_suffix(".json").name)


@contextmanager
def recorded(image_dir: Path, name: str, masks: Path) -> Iterator[None]:
    """While the masks `name` of the patches are replaced by those in the folder `masks`.

    What these have cost, and which they are, is written when all are there; what earlier ones have
    is gone before.
    Raises `UserError` if the folder does not say what its masks have cost.
    """
    if not (path := masks / PROVENANCE).exists():
        raise UserError(
            f"{path} is missing, so it is unknown what labels these masks have cost; copy it "
            "along with the masks, or run python main.py --mode generate_masks again"
        )
    costs = read_json(path)
    _provenance_path(image_dir, name).unlink(missing_ok=True)
    yield
    each = [f"{path.name} {file_digest(path)}\n" for path in sorted(masks.glob("*_mask.tif"))]
    write_json(_provenance_path(image_dir, name), costs | {_WHICH: digest("".join(each))})


def mask_provenance(image_dir: Path | str, name: str) -> Supervision:
    """What labels the masks `name` of the patches have cost; `UserError` if nothing says so."""
    path = _provenance_path(image_dir, name)
    if not path.exists():
        raise UserError(
            f"{path} is missing, so it is unknown what labels {name} has cost; run "
            "python prepare_landsat8_biome.py --generated_masks DIR"
        )
    costs = {key: value for key, value in read_json(path).items() if key != _WHICH}
    return from_plain(Supervision, costs, path)


def which_masks(image_dir: Path | str, name: str) -> str | None:
    """Digits that other masks `name` would change; None where earlier versions did not say."""
    path = _provenance_path(image_dir, name)
    return read_json(path).get(_WHICH) if path.exists() else None
