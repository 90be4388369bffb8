"""Plots as SVG text, sharp at any size; a page puts its own colours in place of `COLOURS`."""

import io
import re
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.textpath import text_to_path
from matplotlib.ticker import MaxNLocator

from fcd.report.results import number

# By name in the page's style; marks follow Okabe and Ito's palette.
COLOURS = {
    "card": "#ffffff",
    "ink": "#1d232a",
    "soft": "#5b6570",
    "line": "#dfe1e0",
    "bar": "#5b93b8",
    "first": "#0072b2",
    "second": "#c25500",
    "third": "#00795a",
}
MARKS = {"first": "-", "second": (0, (6, 3)), "third": (0, (2, 3))}  # colours and their dashes
_FONTS = "system-ui, sans-serif"
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "fcd",
    "text.parse_math": False,  # a name may hold $
    "font.size": 12,
    "text.color": COLOURS["ink"],
    "axes.labelcolor": COLOURS["ink"],
    "axes.titlelocation": "left",
    "axes.titlesize": 13,
    "axes.titleweight": "bold",
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "axes.grid": True,
    "grid.color": COLOURS["line"],
    "grid.linewidth": 1,
    "xtick.major.pad": 7,
    "ytick.major.pad": 6,
    "lines.linewidth": 1.8,
    "lines.markersize": 9,
    "lines.scale_dashes": False,
    **{f"axes.spines.{side}": False for side in ("left", "right", "top", "bottom")},
    **{f"{axis}tick.major.size": 0 for axis in "xy"},
    **{f"{axis}tick.labelcolor": COLOURS["soft"] for axis in "xy"},
}


@dataclass(frozen=True)
class Mark:
    """A point to point out on a curve, told apart by colour, dashes and its name."""

    name: str
    x: float | None
    y: float | None
    """None, as `x`: there is no such point, and the mark is left out with its colour."""
    rule: bool = False
    """Also draw a vertical line through it."""


def curve(
    points: np.ndarray,
    marks: Sequence[Mark],
    *,
    x_label: str,
    y_label: str,
    alt: str,
    x_max: float = 1.0,
    y_max: float = 1.0,
) -> str:
    """A curve through `points` (n, 2) over [0, x_max] x [0, y_max], with up to three `marks`."""
    with _style():
        figure = _figure(440, 320)
        axes = figure.add_subplot(xlim=(0, x_max), ylim=(0, y_max), xlabel=x_label, ylabel=y_label)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
            axis.set_major_formatter("{x:g}")
        inside = points[points[:, 0] <= x_max]
        axes.plot(*inside.T, color=COLOURS["ink"], gid="curve")
        names = {}
        for mark, (kind, dashes) in zip(marks, MARKS.items(), strict=False):
            if mark.x is None or mark.y is None:
                continue
            x, colour = min(mark.x, x_max), COLOURS[kind]
            if mark.rule:
                axes.axvline(x, color=colour, linestyle=dashes, linewidth=1.5)
            axes.plot(x, mark.y, "o", color=colour, gid=f"mark-{kind}")
            names[f"mark-{kind}"] = mark.name
        return _svg(figure, alt, names)


def bars(panels: Mapping[str, pd.DataFrame], columns: int = 1) -> str:
    """A panel under each title: horizontal bars from 0 to 1, their values and error bars.

    A frame has the columns mean (NaN if not defined) and std (NaN for no error bar) by name. Long
    names lose their middle.
    """
    rows, columns = -(-len(panels) // columns), min(columns, len(panels))
    height = 34 + 20 * max(map(len, panels.values()))
    with _style():
        figure = _figure(340 * columns, height * rows)
        places = figure.subplots(rows, columns, squeeze=False).flat
        for index, (axes, (title, means)) in enumerate(zip(places, panels.items(), strict=False)):
            _draw_bars(axes, title, means, f"{index}")
        for axes in places[len(panels) :]:
            axes.remove()
        return _svg(figure, "; ".join(f"{t}: {_in_words(means)}" for t, means in panels.items()))


def _draw_bars(axes: Axes, title: str, means: pd.DataFrame, gid: str) -> None:
    axes.set(title=_shortened(title), xlim=(0, 1), ylim=(len(means) - 0.45, -0.55))
    axes.set_xticks((0, 0.5, 1), [])
    axes.set_yticks(range(len(means)), map(_shortened, means.index), color=COLOURS["ink"])
    axes.grid(visible=False, axis="y")
    for row, (mean, std) in enumerate(means[["mean", "std"]].itertuples(index=False)):
        if mean == mean:
            axes.barh(row, mean, 0.7, color=COLOURS["bar"], gid=f"bar-{gid}-{row}")
        if std == std:
            ends = np.clip((mean - std, mean + std), 0, 1)
            line = axes.plot(ends, (row, row), "|-", gid=f"error-{gid}-{row}")
            line[0].set(color=COLOURS["ink"], linewidth=1.3, markersize=8)
    values = axes.secondary_yaxis("right")
    values.set_yticks(range(len(means)), map(number, means["mean"]))
    values.spines["right"].set_visible(False)


def _shortened(name: str) -> str:
    """`name` in at most 25 letters and 180 pixels."""
    for half in range(12, 0, -1):
        short = name if len(name) <= 2 * half + 1 else f"{name[:half]}…{name[-half:]}"
        if _width(short) <= 180:
            break
    return short


def _width(text: str) -> float:
    return text_to_path.get_text_width_height_descent(text, FontProperties(size=12), False)[0]


def _in_words(means: pd.DataFrame) -> str:
    values = []
    for name, mean, std in means[["mean", "std"]].itertuples():
        spread = f" ± {number(std)}" if std == std else ""
        value = f"{number(mean)}{spread} %" if mean == mean else "not defined"
        values.append(f"{name} {value}")
    return ", ".join(values)


@contextmanager
def _style() -> Iterator[None]:
    """Matplotlib in our style alone, whatever the user's own settings; no setting is left behind.

    The fonts are those of who looks: that matplotlib's own lacks a letter is nothing to warn of.
    """
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        warnings.filterwarnings("ignore", "Glyph")
        yield


def _figure(width: float, height: float) -> Figure:
    """An empty figure in pixels, that finds room for all texts."""
    room = ConstrainedLayoutEngine(w_pad=8 / 72, h_pad=8 / 72, wspace=0.1, hspace=0.1)
    figure = Figure((width / 72, height / 72), layout=room, facecolor=COLOURS["card"])
    FigureCanvasSVG(figure)
    return figure


def _svg(figure: Figure, alt: str, titles: Mapping[str, str] | None = None) -> str:
    """`figure` as SVG with `alt` in words and `titles` of parts by id.

    Ids begin with a checksum, so that those of several plots in one page differ. Nothing is
    clipped, hence nothing refers to an url.
    """
    figure.draw_without_rendering()  # makes ticks and lines of the grid
    for artist in figure.findobj():
        artist.set_clip_on(False)
    stream = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(stream, format="svg", metadata=nothing)
    svg = stream.getvalue()
    for name, title in (titles or {}).items():
        svg = svg.replace(f'<g id="{name}">', f'<g id="{name}"><title>{escape(title)}</title>')
    svg = re.sub(r"'DejaVu Sans'[^;\"]*", _FONTS, svg)
    prefix = f"p{zlib.crc32(svg.encode()):08x}-"
    svg = re.sub(r'( id="|href="#)', rf"\g<1>{prefix}", svg)
    width, height = (round(72 * inches) for inches in figure.get_size_inches())
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, count=1, flags=re.DOTALL)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(alt)}" style="stroke-linejoin: round">'
    )
    return re.sub(r".*?<svg [^>]*>", lambda _: head, svg, count=1, flags=re.DOTALL)
