"""Joint distributions of the bands of clear and of cloudy pixels: real scenes against drawn ones.

    python -m benchmarks.spectra --real PATCHES SCENES --drawn PLAIN WIDE --output docs/spectra.svg

Prints, for each drawn folder: of each band and each pair of neighbouring reflective bands the
Wasserstein distance to the real pixels, and the share of these that lie between the percentiles
0.5 and 99.5 of the drawn ones; and how many real pixels are called right by most of their
nearest drawn ones, which is what a network without texture could learn.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from annotated_types import Ge
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from scipy.spatial import KDTree
from scipy.stats import wasserstein_distance
from sklearn.metrics import f1_score

from fcd.cli import entry
from fcd.cli.parser import parse
from fcd.errors import UserError
from fcd.landsat import labels
from fcd.landsat.bands import BANDS
from fcd.landsat.rasters import opened
from fcd.landsat.reference import QA, TRUTH, Reference
from fcd.landsat.scenes import find_scenes
from fcd.training.randomisation import DARK_DN

CLASSES = {"clear": labels.CLEAR, "cloud": labels.CLOUD}
COMPARED = ("B2", "B3", "B4", "B5", "B6", "B7", "B9", "B10")  # what all folders have
PAIRS = (("B2", "B3"), ("B3", "B4"), ("B4", "B5"), ("B5", "B6"), ("B6", "B7"))
SHOWN = (("B2", "B6"), ("B4", "B5"), ("B2", "B10"), ("B9", "B10"))
RANGE = (0.5, 99.5)  # percentiles
NEIGHBOURS, MOST_KNOWN = 15, 4000  # of these of each class
COLOURS = ("#5b6570", "#c25500", "#0072b2", "#00795a")  # real, then the drawn


@dataclass(frozen=True)
class Settings:
    """Joint distributions of the bands of clear and cloudy pixels: real against drawn scenes."""

    real: Annotated[
        list[Path], "folders of scenes (manual masks, else QA bands), or with images/ and masks/"
    ]
    drawn: Annotated[list[Path], "folders of drawn scenes, such as of python -m fcd.synthetic"]
    pixels: Annotated[int, Ge(1), "at most so many of each class of a scene"] = 400
    output: Annotated[Path | None, "SVG to write"] = None


def _from_patches(folder: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for path in sorted((folder / "images").glob("*.tif")):
        with opened(path) as image, opened(folder / "masks" / path.name) as mask:
            if missing := set(COMPARED) - set(image.descriptions):
                raise UserError(f"{path} has no band described as {', '.join(sorted(missing))}")
            numbers = [image.descriptions.index(band) + 1 for band in COMPARED]
            yield image.read(numbers), labels.patch_from_truth(mask.read(1), str(path))


def _from_scenes(folder: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    numbers = [BANDS.index(band) for band in COMPARED]
    for scene in find_scenes(folder):
        with scene.open() as reader:
            reference = Reference(scene, TRUTH if scene.truth else QA)
            yield reader.bands()[numbers], reference.mask(reader)


def sample(folders: Sequence[Path], count: int) -> dict[str, np.ndarray]:
    """Valid pixels (n, 8) uint16 of `COMPARED` by class: at most `count` of each of a scene."""
    rng, found = np.random.default_rng(0), {name: [] for name in CLASSES}
    for folder in folders:
        patches = (folder / "images").is_dir()
        for dn, mask in (_from_patches if patches else _from_scenes)(folder):
            valid = (dn > 0).all(axis=0)
            for name, code in CLASSES.items():
                there = np.flatnonzero((mask == code) & valid)
                taken = rng.choice(there, min(count, len(there)), replace=False)
                found[name].append(dn.reshape(len(dn), -1)[:, taken].T)
    return {name: np.concatenate(parts) for name, parts in found.items()}


def features(pixels: np.ndarray) -> pd.DataFrame:
    """DN by band, and (a - b) / (a + b) of the light of pairs of bands in [-1, 1]."""
    table = pd.DataFrame(pixels.astype(np.float64), columns=list(COMPARED))
    light = (table - DARK_DN).clip(lower=1)
    for a, b in PAIRS:
        table[f"{a}:{b}"] = (light[a] - light[b]) / (light[a] + light[b])
    return table


def distances(real: np.ndarray, drawn: np.ndarray) -> pd.DataFrame:
    """By feature: Wasserstein distance, and the share of real pixels within the drawn `RANGE`."""
    ours, theirs = features(drawn), features(real)
    rows = {}
    for name in theirs:
        low, high = np.percentile(ours[name], RANGE)
        inside = ((theirs[name] >= low) & (theirs[name] <= high)).mean()
        rows[name] = (wasserstein_distance(theirs[name], ours[name]), inside)
    return pd.DataFrame.from_dict(rows, orient="index", columns=["distance", "inside"])


def by_neighbours(real: dict[str, np.ndarray], drawn: dict[str, np.ndarray]) -> float:
    """Macro F1 on real pixels of what most of the nearest drawn ones are; classes alike often."""
    fewest = min(MOST_KNOWN, *map(len, drawn.values()))
    rng = np.random.default_rng(0)
    known = np.concatenate([rng.choice(part, fewest, replace=False) for part in drawn.values()])
    scale = known.std(axis=0)
    tree = KDTree(known / scale)
    truth = np.repeat(list(CLASSES.values()), [len(real[name]) for name in CLASSES])
    asked = np.concatenate(list(real.values())) / scale
    _, nearest = tree.query(asked, NEIGHBOURS)
    cloudy = (nearest >= fewest).mean(axis=1) > 0.5
    return float(f1_score(truth, np.where(cloudy, labels.CLOUD, labels.CLEAR), average="macro"))


def draw(samples: dict[str, dict[str, np.ndarray]], path: Path) -> None:
    """Write the figure: percentiles by band, and pairs of bands; a row for each class."""
    figure = Figure(figsize=(15, 6.4), layout="constrained")
    FigureCanvasSVG(figure)
    grid = figure.subplots(len(CLASSES), 1 + len(SHOWN), width_ratios=[1.6, *[1] * len(SHOWN)])
    for row, kind in zip(grid, CLASSES, strict=True):
        _percentiles(row[0], {name: found[kind] for name, found in samples.items()}, kind)
        for axes, (a, b) in zip(row[1:], SHOWN, strict=True):
            axes.set(xlabel=f"{a}, 1,000 DN", ylabel=b, title=kind)
            for (name, found), colour in zip(samples.items(), COLOURS, strict=False):
                x, y = (found[kind][:, COMPARED.index(band)] / 1000 for band in (a, b))
                if name == "real":
                    axes.plot(x, y, ",", color=colour, rasterized=True)
                else:
                    _outline(axes, x, y, colour)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        figure.savefig(path, dpi=80, metadata={"Date": None})


def _percentiles(axes: Axes, found: dict[str, np.ndarray], kind: str) -> None:
    """Of each band 1 to 99 % thin, 25 to 75 % thick, the median as a dot."""
    for number, (name, pixels) in enumerate(found.items()):
        colour = COLOURS[number]
        q = np.percentile(pixels / 1000, (1, 25, 50, 75, 99), axis=0)
        x = np.arange(len(COMPARED)) + (number - 1) * 0.25
        axes.vlines(x, q[0], q[4], color=colour, linewidth=1.2, label=name)
        axes.vlines(x, q[1], q[3], color=colour, linewidth=5)
        axes.plot(x, q[2], "o", color="white", markersize=3, markeredgecolor=colour)
    axes.set_xticks(range(len(COMPARED)), COMPARED)
    axes.set(ylabel="1,000 DN", title=f"{kind}: 1, 25, 50, 75, 99 %")
    axes.legend(frameon=False)


def _outline(axes: Axes, x: np.ndarray, y: np.ndarray, colour: str) -> None:
    """Lines around the densest cells that hold 50 and 95 % of the points."""
    counts, rows, columns = np.histogram2d(x, y, 40)
    padded = np.pad(counts, 1)
    smooth = sum(np.roll(padded, (i, j), (0, 1)) for i in (-1, 0, 1) for j in (-1, 0, 1))
    ordered = np.sort(smooth.ravel())[::-1]
    held = np.cumsum(ordered) / smooth.sum()
    levels = sorted({ordered[np.searchsorted(held, share)] for share in (0.5, 0.95)})
    # Centres of the cells, and of those around them.
    places = [edges[0] + (edges[1] - edges[0]) * (np.arange(42) - 0.5) for edges in (rows, columns)]
    axes.contour(*places, smooth.T, levels=levels, colors=colour, linewidths=(0.9, 1.8))


def main(arguments: Sequence[str] | None = None) -> pd.DataFrame:
    """Run the command line; return what is printed, by class, feature, drawn folder and measure."""
    flags = parse(Settings, arguments, "-m benchmarks.spectra")
    samples = {"real": sample(flags.real, flags.pixels)}
    samples |= {folder.name: sample([folder], flags.pixels) for folder in flags.drawn}
    real, tables = samples["real"], {}
    for folder in flags.drawn:
        drawn = samples[folder.name]
        parts = {kind: distances(real[kind], drawn[kind]) for kind in CLASSES}
        tables[folder.name] = pd.concat(parts)
        print(
            f"{folder.name}: macro F1 of real pixels by drawn ones {by_neighbours(real, drawn):.3f}"
        )
    table = pd.concat(tables, axis=1)
    print(table.to_string(float_format="{:.3f}".format))
    if flags.output:
        draw(samples, flags.output)
    return table


if __name__ == "__main__":
    entry.run(lambda: main() is None)
