"""The settings that commands share: what a field declares is its flag, check and config entry.

Those of one command alone stand with it; what the losses, the networks and the cutting take is
declared where it is computed.
"""

import argparse
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Interval

from fcd.cli.parser import MAY_CHANGE, Flag, number
from fcd.cli.prediction import PredictionSettings
from fcd.errors import UserError
from fcd.landsat.bands import band_numbers, listed_bands
from fcd.landsat.labels import MEANINGS
from fcd.landsat.radiometry import LOWEST_SUN
from fcd.landsat.rasters import nodata_value
from fcd.landsat.sparcs import SPARCS
from fcd.masks.precision import Choice
from fcd.masks.runtime import Runtime
from fcd.masks.scoring import Tta, Views
from fcd.masks.thresholds import CLEAR
from fcd.patches.generated import GENERATED_MASK
from fcd.patches.normalisation import TOA
from fcd.patches.sources import PreparedPatches, RasterPatches, Source
from fcd.training.amp import AUTO, Amp
from fcd.training.augmentation import Kind
from fcd.training.checkpoints import Select
from fcd.training.losses import LossWeights

DataSet = Literal["L8Biome", "Patches", "L8Sparcs"]
PREPARED: DataSet = "L8Biome"
OWN: DataSet = "Patches"
IMAGE_DIR, SCENE_DIR = "data/L8Biome", "data/landsat8-biome"
Split = Literal["train", "val", "test"]
UNIT, BELOW_ONE = Interval(ge=0, le=1), Interval(ge=0, lt=1)
NO_NODATA = "none"
CHOICES, KNOWN = ("f1", CLEAR, "image", "otsu"), "known"  # of a threshold
# Settings of several commands, sentence and all.
PatchSize = Annotated[int, Ge(1), "patch side in pixels"]
Stride = Annotated[
    int | None, Ge(1), "distance of patches in pixels; None: the patch size, no overlap"
]
GeneratedMaskFile = Annotated[
    str,
    Flag(metavar="NAME"),
    MAY_CHANGE,
    f"name of the generated mask that each training patch gets (--dataset {OWN}: "
    "<patch>_NAME); what learns it has it as --train_mask_file",
]
MaskCodes = Annotated[
    str | None,
    Flag(metavar="CODES"),
    f"what the codes of truth masks mean ({', '.join(MEANINGS)}), such as 0=clear,255=cloud; None: "
    "0 nodata, 64 and 128 clear, 192 and 255 cloud",
]
BatchSize = Annotated[
    int, Ge(1), "patches per step, of all processes together; tiles that a process scores at a time"
]


def threshold_from(text: str) -> str | float:
    """`f1`, `clear`, `clear:PERCENT`, `image`, `otsu`, `known` or a number from 0 to 1."""
    name, _, percent = text.partition(":")
    if name == CLEAR and percent:
        number(float, [Interval(ge=0, le=100)], percent)
        return text
    return text if text in (*CHOICES, KNOWN) else number(float, [UNIT], text)


def amp_from(text: str) -> Amp:
    """`True`, `False` or `auto`, in any case."""
    values: dict[str, Amp] = {"true": True, "false": False, "auto": AUTO}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"{text!r} is neither True, False nor auto")
    return values[text.lower()]


AmpFlag = Annotated[Amp, amp_from, Flag(metavar="BOOL|auto")]


def nodata_from(text: str) -> float | str:
    """A finite number, or `none`."""
    if text == NO_NODATA:
        return text
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor none") from None
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text} is not finite (NaN always is nodata)")
    return nodata_value(value)


@dataclass(frozen=True)
class RunSettings:
    """Run."""

    experiment_name: Annotated[str, "the run is in outputs/NAME and runs/NAME, + as Plus"] = "FCD"
    config: Annotated[
        Path | None,
        Flag(metavar="FILE"),
        MAY_CHANGE,
        "config.json of an earlier run: its flags, except those given beside this one",
    ] = None
    device: Annotated[
        str,
        MAY_CHANGE,
        "auto (CUDA, else MPS, else CPU), cpu, cuda, cuda:1, mps; with torchrun auto, cpu or cuda: "
        "each process takes its own CUDA device",
    ] = "auto"
    seed: Annotated[int, Ge(0), "seed of weights, batches and augmentation"] = 0
    num_workers: Annotated[
        int, Ge(0), MAY_CHANGE, "processes that read, for each that computes"
    ] = 4
    overwrite: Annotated[
        bool,
        MAY_CHANGE,
        "train: begin anew even if the run folder holds a checkpoint; predict, generate_masks: "
        "mask scenes anew that are masked already",
    ] = False
    checkpoint: Annotated[
        Literal["best", "latest"], MAY_CHANGE, "which checkpoint the modes after training use"
    ] = "best"
    method: Annotated[
        str | None,
        MAY_CHANGE,
        "name of the method in tables, shared by runs that differ by seed; None: the experiment's "
        "name",
    ] = None
    compile: Annotated[
        bool,
        MAY_CHANGE,
        "compile the generator, or the network that learns masks, for this device (torch.compile): "
        "takes minutes, and on CPUs a C++ compiler; see docs/performance.md",
    ] = False
    log_step: Annotated[int, Ge(1), MAY_CHANGE, "steps between log entries"] = 10
    profile: Annotated[
        int,
        Ge(0),
        Flag(metavar="STEPS"),
        MAY_CHANGE,
        "profile so many training steps after the first three: a trace for TensorBoard in "
        "runs/NAME, the costliest operations printed",
    ] = 0
    model_weights: Annotated[
        Path | None,
        "checkpoint that the modes after training use instead of the run's own; supervised_main.py "
        "--mode train begins with its weights (fine-tuning). A folder of several, or starter (that "
        "of this project): predict takes for each scene, train for the patches, those of its bands",
    ] = None


@dataclass(frozen=True)
class DataSettings:
    """Data."""

    dataset: Annotated[
        DataSet,
        f"{PREPARED}: patches of prepare_landsat8_biome.py; {OWN}: any imagery, "
        f"{{train,val,test}}/{{clear,cloudy}}/*.tif below --image_dir; {SPARCS}: for --mode test "
        "alone, the scenes below --orig_image_dir",
    ] = PREPARED
    image_dir: Annotated[str, Flag("--l8biome_image_dir"), "folder of patches"] = IMAGE_DIR
    train_bands: Annotated[
        str | None,
        Flag(metavar="BANDS"),
        "bands to learn from, by name, such as B2-B7,B9; behind them SUN, the sine of the sun's "
        "elevation (supervised_main.py); None: all that the patches have",
    ] = None
    orig_image_dir: Annotated[
        str, Flag("--data_path"), MAY_CHANGE, "scenes, <biome>/<scene>/…; SPARCS: <scene>_data.tif"
    ] = SCENE_DIR
    nodata: Annotated[
        list[float | str] | None,
        nodata_from,
        Flag(metavar="VALUE"),
        f"what marks nodata in patches of --dataset {OWN} and in scenes: numbers, or {NO_NODATA}; "
        "None: what the files say, and that of training; NaN, masks in files and DN 0 of Landsat "
        "always do",
    ] = None
    mask_codes: MaskCodes = None
    sun_elevation: Annotated[
        float | None,
        Interval(ge=LOWEST_SUN, le=90),
        Flag(metavar="DEGREES"),
        f"for --normalize {TOA} and the band SUN: of patches of --dataset {OWN} and of scenes that "
        "have neither an MTL file nor the tag SUN_ELEVATION nor a list that says it; and for "
        "--shadow",
    ] = None
    rgb: Annotated[
        str | None,
        Flag(metavar="R,G,B"),
        MAY_CHANGE,
        "bands, from 1, that pictures show as red, green and blue; None: B4,B3,B2 of Landsat, "
        "1,2,3 of three bands, 3,2,1 of more; kept in the checkpoint",
    ] = None
    normalize: Annotated[
        Literal["paper", "stretch", "root", "toa"],
        "paper: DN / 65535, of uint8 / 255, of float32 each band from its least to its greatest "
        "value; stretch: each band from its 0.1 to 99.9 percentile in the training patches; "
        "root: the square root of that in all but thermal bands; toa: stretch of reflectance "
        "(Landsat) at the top of the atmosphere, the sun's elevation taken out, and of radiance of "
        "thermal bands; a run that begins with other weights takes theirs",
    ] = "paper"
    skip_bad: Annotated[
        bool,
        MAY_CHANGE,
        "read every patch before the first step and leave out those that are damaged or unlike "
        "most (listed in config.json); False: stop at the first one and name it",
    ] = False

    def patches(self, mode: str) -> Source:
        """Where the patches are that `--mode` `mode` reads."""
        root = Path(self.image_dir)
        if self.dataset == OWN:
            return RasterPatches(root, self.asked_nodata, self.sun_elevation, self.mask_codes)
        if self.dataset == SPARCS:
            raise UserError(f"--dataset {SPARCS} has no patches: it is for --mode test")
        if mode == "train" and self.nodata is not None:
            raise UserError(
                f"--nodata {' '.join(map(str, self.nodata))} is for --dataset {OWN}; DN 0 is that "
                f"of {PREPARED}"
            )
        return PreparedPatches(root, self.mask_codes)

    @property
    def asked_nodata(self) -> tuple[float, ...] | None:
        """The values of `--nodata`; `UserError` if it is none and a value."""
        if self.nodata is None:
            return None
        values = tuple(value for value in self.nodata if not isinstance(value, str))
        if values and len(values) < len(self.nodata):
            raise UserError(
                f"--nodata {' '.join(map(str, self.nodata))}: give {NO_NODATA} alone, or values"
            )
        return values

    @property
    def toa(self) -> bool:
        """Whether networks learn reflectance."""
        return self.normalize == TOA

    def learned_bands(self) -> tuple[str, ...] | None:
        """The names that `--train_bands` lists, or None; `UserError` if they are none."""
        return (
            listed_bands(self.train_bands, "--train_bands", sun=True) if self.train_bands else None
        )

    def rgb_bands(self, num_channels: int) -> tuple[int, ...] | None:
        """The bands of `--rgb`, counted from 0, or None; `UserError` if there are no such."""
        if self.rgb is None:
            return None
        numbers = band_numbers(self.rgb, "--rgb", distinct=False)
        if len(numbers) != 3 or max(numbers) > num_channels:
            raise UserError(
                f"--rgb {self.rgb}: three band numbers from 1 to {num_channels} are expected, such "
                "as 3,2,1"
            )
        return tuple(number - 1 for number in numbers)


@dataclass(frozen=True)
class TrainingSettings:
    """Training."""

    batch_size: BatchSize = 16
    augment: Annotated[
        Kind,
        "what is done to training patches; flip: mirrored left to right or not, as the paper; d4: "
        "turned and mirrored, all eight symmetries; randomise: d4, and Landsat-8 DN as under "
        "another sun, air and sensor; none: nothing",
    ] = "flip"
    balance: Annotated[bool, "draw clear and cloudy patches equally often in training"] = False
    ema: Annotated[
        float,
        UNIT,
        "score, validate and choose by a moving average of the weights, whose half-life is this "
        "share of the training steps (0.02 to 0.05; 0.5 to keep some of --model_weights); 0: by "
        "the weights themselves",
    ] = 0.0
    select: Annotated[
        Select,
        "choose the best checkpoint by macro F1 on the validation masks, as the paper (uses pixel "
        "labels), or on the validation patches' image-level labels",
    ] = "pixel"
    amp: Annotated[
        AmpFlag,
        "train and score (--precision) in bfloat16 where that is safe: twice as fast on some "
        "processors, a tenth as fast on those without bfloat16; auto: measured in the first step, "
        "for the networks that are faster so; scores differ by about 0.01, so a threshold is "
        "chosen anew",
    ] = False


@dataclass(frozen=True)
class GANTraining(TrainingSettings):
    """Training of the Fixed-Point GAN; the defaults are the paper's."""

    num_iters: Annotated[int, Ge(1), "training steps (of the discriminator)"] = 200_000
    num_iters_decay: Annotated[
        int, Ge(0), "last steps, over which the learning rates fall linearly to 0"
    ] = 100_000
    n_critic: Annotated[int, Ge(1), "discriminator steps per generator step"] = 5
    g_lr: Annotated[float, Ge(0), "learning rate of the generator"] = 1e-4
    d_lr: Annotated[float, Ge(0), "learning rate of the discriminator"] = 1e-4
    beta1: Annotated[float, BELOW_ONE, "Adam's β1"] = 0.5
    beta2: Annotated[float, BELOW_ONE, "Adam's β2"] = 0.999
    same_domain: Annotated[bool, "same-domain half of the generator's loss; False: StarGAN"] = True
    sample_step: Annotated[int, Ge(1), MAY_CHANGE, "steps between sample pictures"] = 1000
    model_save_step: Annotated[int, Ge(1), "steps between validations and checkpoints"] = 10_000
    weights: LossWeights = field(default_factory=LossWeights)


@dataclass(frozen=True)
class SupervisedTraining(TrainingSettings):
    """Training of the supervised networks; the defaults are those of FCD+."""

    batch_size: BatchSize = 64
    n_epochs: Annotated[int, Ge(1), "passes over the training patches"] = 10
    lr: Annotated[float, Ge(0), "learning rate of Adam"] = 1e-4
    lr_schedule: Annotated[
        Literal["plateau", "cosine", "constant"] | None,
        "how the learning rate falls: plateau (when validation F1 stalls), cosine (all along, to "
        "0) or constant (not at all); None: plateau, without a val split cosine",
    ] = None
    plateau_factor: Annotated[
        float, BELOW_ONE, "what the learning rate is multiplied by when validation F1 stalls"
    ] = 0.1
    plateau_patience: Annotated[
        int, Ge(0), "epochs without a better validation F1 before the learning rate falls"
    ] = 3
    freeze_encoder: Annotated[bool, "keep the encoder's weights and batch-norm statistics"] = False


@dataclass(frozen=True)
class SceneSettings:
    """Whole scenes."""

    test_split: Annotated[
        Split,
        MAY_CHANGE,
        "scenes that --mode test scores; the scores of other splits are no test of anything "
        "learned or chosen on them",
    ] = "test"
    tile_size: Annotated[
        int | None,
        Ge(1),
        MAY_CHANGE,
        "side of a scene's tiles, pixels; None: that of the patches, of a U-Net's of 128 to "
        "255 pixels 256 (and as many pixels a batch)",
    ] = None
    overlap: Annotated[
        int | None,
        Ge(0),
        MAY_CHANGE,
        "pixels blended between tiles; None: 32, of a U-Net 16, and at most half a tile",
    ] = None
    mean_with: Annotated[
        list[Path] | None,
        Flag(metavar="CHECKPOINT"),
        MAY_CHANGE,
        "further weights of the same kind and bands, such as those of other seeds: scenes are "
        "scored by the mean of all",
    ] = None
    tta: Annotated[
        Tta,
        MAY_CHANGE,
        "average the score of each tile over it and its mirror images (flip, 4 views) or all "
        "symmetries of a square (d4, 8 views), which takes as many times as long",
    ] = "none"
    context: Annotated[
        int,
        Ge(0),
        MAY_CHANGE,
        "pixels by which each tile is continued on all sides, by reflection, while it is scored: "
        "what the networks' zero padding does at its border is then cut off; 20 are enough, for "
        "tiles of 32 pixels five times as long",
    ] = 0
    precision: Annotated[
        Choice | None,
        MAY_CHANGE,
        "what scenes are scored in; auto: measured on tiles of the first scene, the fastest whose "
        "masks agree with those in float32; float32; bfloat16: what --amp True takes; int8: U-Nets "
        "by ONNX Runtime; None: as --amp and --runtime say, else auto in --mode predict without "
        "--cluster and float32 in others",
    ] = None
    runtime: Annotated[
        Runtime | None,
        MAY_CHANGE,
        "what scores scenes; onnx: ONNX Runtime, on the CPU, after up to half a minute of "
        "preparation, in float32, in which the masks are the same, or in int8; None: what "
        "--precision takes",
    ] = None
    threshold: Annotated[
        str | float | None,
        threshold_from,
        MAY_CHANGE,
        "of the score: f1 (best macro F1 on masks of cloudy training patches, as the paper: uses "
        "pixel labels), clear (what 99.9 % of the pixels of clear training patches do not exceed; "
        "clear:99.5: 99.5 %; no pixel label), image (best macro F1 on the image-level labels of "
        "the val patches, else of the training patches, of which one is cloudy if more than 5 % of "
        "it are: no pixel label), otsu (no pixel label), known (the one chosen before) or a number "
        "in [0, 1]; None: 0.5 for a U-Net, f1 for the others, without manual masks clear; in "
        "--mode predict known",
    ] = None
    threshold_patches: Annotated[
        int, Ge(1), MAY_CHANGE, "at most this many patches to choose the threshold from"
    ] = 10_000

    @property
    def views(self) -> Views:
        """How tiles are looked at."""
        return Views(self.tta, self.context)


@dataclass(frozen=True)
class GenerationSettings:
    """Masks of training scenes (--mode generate_masks)."""

    unsure_from: Annotated[
        float,
        UNIT,
        MAY_CHANGE,
        "pixels whose score is between this and --unsure_to, in thresholds, are left open (0): "
        "nothing is learned of them; 0.8 and 1.15 leave the rims of FCD's clouds",
    ] = 1.0
    unsure_to: Annotated[float, Ge(1), MAY_CHANGE, "see --unsure_from"] = 1.0
    generated_mask_file: GeneratedMaskFile = GENERATED_MASK


@dataclass(frozen=True)
class CommandSettings:
    """Settings that both networks' commands have; each adds its own."""

    mode: str = "train"
    run: RunSettings = field(default_factory=RunSettings)
    data: DataSettings = field(default_factory=DataSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    whole_scenes: SceneSettings = field(default_factory=SceneSettings)
    generation: GenerationSettings = field(default_factory=GenerationSettings)
    prediction: PredictionSettings = field(default_factory=PredictionSettings)
