"""Plots as SVG text, sharp at any size: they follow the page's colours where there is a page."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

# The variables are those of a page; a picture on its own takes the colour after the comma.
_STYLE = """<style>
.plot text { fill: var(--ink, #1d232a); font: 12px system-ui, sans-serif; }
.plot .title { font-weight: 600; font-size: 13px; }
.plot .soft { fill: var(--soft, #5b6570); }
.plot .grid { stroke: var(--line, #dfe1e0); stroke-width: 1; }
.plot .error { stroke: var(--ink, #1d232a); stroke-width: 1.3; }
.plot .bar { fill: var(--bar, #5b93b8); }
.plot .curve { fill: none; stroke: var(--ink, #1d232a); stroke-width: 1.8; stroke-linejoin: round; }
.plot .first { stroke: var(--first, #0072b2); fill: var(--first, #0072b2); }
.plot .second { stroke: var(--second, #c25500); fill: var(--second, #c25500); }
.plot .third { stroke: var(--third, #00795a); fill: var(--third, #00795a); }
.plot .rule { stroke-width: 1.5; }
.plot .rule.second { stroke-dasharray: 6 3; }
.plot .rule.third { stroke-dasharray: 2 3; }
</style>"""

_WIDTH, _HEIGHT = 440, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 16, 14, 44
MARKS = ("first", "second", "third")  # classes here, colours of the page as var(--first) …
_BAR_ROW, _BAR_TOP = 20, 26
_LETTER = 6.6  # mean width of a letter at 12 px, generously
_PANEL_WIDTH = 330


@dataclass(frozen=True)
class Mark:
    """A point to point out on a curve, told apart by colour, dashes and its name."""

    name: str
    x: float
    y: float
    rule: bool = False
    """Also draw a vertical line through it."""


@dataclass(frozen=True)
class Bar:
    """One bar: `value` in [0, 1] or None if not defined; `spread` is a standard deviation."""

    name: str
    value: float | None
    spread: float | None = None


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
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def x(value: float) -> float:
        return _LEFT + width * min(value / x_max, 1)

    def y(value: float) -> float:
        return _TOP + height * (1 - value / y_max)

    parts = []
    for tick in round_steps(y_max):
        parts += [
            _line(_LEFT, y(tick), _LEFT + width, y(tick), "grid"),
            _text(_LEFT - 7, y(tick) + 4, f"{tick:.1f}", "soft", "end"),
        ]
    for tick in round_steps(x_max):
        parts += [
            _line(x(tick), _TOP, x(tick), _TOP + height, "grid"),
            _text(x(tick), _TOP + height + 17, f"{tick:g}", "soft", "middle"),
        ]
    parts += [
        _text(_LEFT + width / 2, _HEIGHT - 6, x_label, "", "middle"),
        f'<g transform="rotate(-90)">{_text(-_TOP - height / 2, 14, y_label, "", "middle")}</g>',
    ]
    inside = points[points[:, 0] <= x_max]
    path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in inside)
    parts.append(f'<polyline class="curve" points="{path}"/>')
    for mark, kind in zip(marks, MARKS, strict=False):
        if mark.rule:
            parts.append(_line(x(mark.x), _TOP, x(mark.x), _TOP + height, f"rule {kind}"))
        parts.append(
            f'<circle class="{kind}" cx="{x(mark.x):.1f}" cy="{y(mark.y):.1f}" r="4.5">'
            f"<title>{escape(mark.name)}</title></circle>"
        )
    return _svg(_WIDTH, _HEIGHT, alt, "".join(parts))


def round_steps(upper: float) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten from 0 to at most `upper`, six or fewer."""
    power = 10.0 ** math.floor(math.log10(upper / 5))
    step = next(digit * power for digit in (1, 2, 5, 10) if upper / (digit * power) < 5.5)
    return [float(f"{step * k:.10g}") for k in range(int(upper / step + 1e-9) + 1)]


def bar_panel(title: str, bars: Sequence[Bar]) -> str:
    """Horizontal bars from 0 to 1 with the standard deviation as error bars, and their values.

    Long names lose their middle.
    """
    names = [_shortened(bar.name) for bar in bars]
    left = 14 + _LETTER * max(map(len, names), default=0)
    span = _PANEL_WIDTH - left - 50
    height = _panel_height(len(bars))
    parts = [_text(0, 14, title, "title")]
    for tick in (0, 0.5, 1):
        x = left + span * tick
        parts.append(_line(x, _BAR_TOP - 4, x, height, "grid"))
    for index, (name, bar) in enumerate(zip(names, bars, strict=True)):
        top = _BAR_TOP + _BAR_ROW * index
        parts.append(_text(left - 7, top + 12, name, "", "end"))
        parts.append(_bar(bar, left, top, span))
    values = "; ".join(f"{bar.name} {_bar_value(bar)}" for bar in bars)
    return _svg(_PANEL_WIDTH, height, f"{title}: {values}", "".join(parts))


def _shortened(name: str, letters: int = 25) -> str:
    half = letters // 2
    return name if len(name) <= letters else f"{name[:half]}…{name[-half:]}"


def _bar(bar: Bar, left: float, top: float, span: float) -> str:
    if bar.value is None:
        return _text(left + 5, top + 12, "–", "soft")
    length = span * bar.value
    parts = [
        f'<rect class="bar" x="{left:.1f}" y="{top + 2}" width="{length:.1f}" '
        f'height="{_BAR_ROW - 6}"/>'
    ]
    end = left + length
    if bar.spread is not None:
        low, high = max(bar.value - bar.spread, 0), min(bar.value + bar.spread, 1)
        begin, end = left + span * low, left + span * high
        middle = top + _BAR_ROW / 2 - 1
        parts.append(_line(begin, middle, end, middle, "error"))
        parts += [_line(x, middle - 4, x, middle + 4, "error") for x in (begin, end)]
    parts.append(_text(end + 5, top + 12, f"{100 * bar.value:.1f}", "soft"))
    return "".join(parts)


def _bar_value(bar: Bar) -> str:
    if bar.value is None:
        return "not defined"
    spread = "" if bar.spread is None else f" ± {100 * bar.spread:.1f}"
    return f"{100 * bar.value:.1f}{spread} %"


def sheet(panels: dict[str, Sequence[Bar]], columns: int = 3) -> str:
    """The `bar_panel` of each title, side by side as one SVG picture that stands on its own."""
    gap = 24
    across = _PANEL_WIDTH + gap
    down = _panel_height(max(map(len, panels.values()), default=0)) + gap
    parts = ['<rect width="100%" height="100%" fill="#fff"/>']
    for index, (title, bars) in enumerate(panels.items()):
        row, column = divmod(index, columns)
        panel = bar_panel(title, bars)
        parts.append(
            f'<g transform="translate({gap + column * across} {gap + row * down})">{panel}</g>'
        )
    rows = -(-len(panels) // columns)
    width = gap + min(columns, len(panels)) * across
    return _svg(width, gap + rows * down, ", ".join(panels), "".join(parts))


def _panel_height(bars: int) -> int:
    return _BAR_TOP + _BAR_ROW * bars + 4


def _svg(width: float, height: float, alt: str, content: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="plot" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img" aria-label="{escape(alt)}">'
        f"{_STYLE}{content}</svg>"
    )


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
    )
