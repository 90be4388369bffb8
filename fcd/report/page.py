"""Templates -> self-contained HTML: every text is escaped, every picture and plot inlined."""

import base64
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import pandas as pd
from markupsafe import Markup

from fcd import pictures
from fcd.report import plots
from fcd.report.results import number


class Picture(NamedTuple):
    """A PNG file, what is said below it, and what to those who do not see it."""

    path: Path
    caption: str
    alt: str


_TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, **values: Any) -> str:
    """The whole HTML document that `template` makes of `values`."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    own = {"number": number, "shown": _shown, "css_class": _css_class, "png": _png, "plot": inlined}
    environment.filters |= own | {"zip": zip}
    environment.tests["missing"] = pd.isna
    environment.globals |= {"colours": plots.COLOURS, "picture_legend": _picture_legend()}
    return environment.get_template(template).render(values)


def _shown(value: str | int | float) -> str:
    """A cell of a table: a text, a count, or a share in [0, 1] as per cent."""
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else number(value)


def _css_class(dtype: Any) -> Markup:
    """The class of a column's cells: text stands on the left and is sorted as such."""
    return Markup("" if pd.api.types.is_numeric_dtype(dtype) else ' class="text"')


def _png(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


def inlined(svg: str) -> Markup:
    """A plot of `fcd.report.plots`, in the colours of the page instead of its own."""
    for name, colour in plots.COLOURS.items():
        svg = svg.replace(f": {colour}", f": var(--{name})")
    return Markup(svg)


def _picture_legend() -> dict[str, dict[str, str]]:
    """The colours (CSS) of masks, error maps and scores, by title and name."""
    ramp = ", ".join(f"rgb{colour}" for colour in pictures.SCORE_COLOURS)
    return {
        "Masks:": {name: f"rgb{colour}" for name, colour in pictures.MASK_COLOURS.items()},
        "Errors:": {name: f"rgb{colour}" for name, colour in pictures.ERROR_COLOURS.items()},
        "Score:": {"low to high": f"linear-gradient(to right, {ramp})"},
    }
