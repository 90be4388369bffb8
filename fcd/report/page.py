"""Building blocks of a self-contained HTML page: every text is escaped, every picture inlined."""

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import NamedTuple

from fcd import pictures


class Shown(NamedTuple):
    """A table cell that shows `text` and is sorted by `value`."""

    text: str
    value: float | None


Value = str | int | float | None | Shown

_TEMPLATE = Path(__file__).parent / "templates" / "page.html"


def page(title: str, body: str) -> str:
    """A whole HTML document around `body`, with its style and script inside."""
    template = Template(_TEMPLATE.read_text(encoding="utf-8"))
    return template.substitute(title=escape(title), body=body)


def number(value: float | None, digits: int = 1) -> str:
    """A share in [0, 1] as per cent; a dash if it is not defined."""
    return "–" if value is None else f"{100 * value:.{digits}f}"


def table(
    caption: str, columns: Sequence[str], rows: Iterable[Sequence[Value]], *, sortable: bool = True
) -> str:
    """A table whose header sorts it; the first column names the row.

    float: a share in [0, 1], shown as per cent; int: a count; None: not defined, a dash.
    A column is text when its first row is.
    """
    rows = list(rows)
    text = [bool(rows) and isinstance(value, str) for value in (rows[0] if rows else columns)]
    head = "".join(
        _cell(
            "th", f"<button>{escape(name)}</button>" if sortable else escape(name), is_text, "col"
        )
        for name, is_text in zip(columns, text, strict=True)
    )
    body = "".join(f"<tr>{_row(row, text)}</tr>\n" for row in rows)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}">'
        f"<table><caption>{escape(caption)}</caption>"
        f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>"
    )


def _row(row: Sequence[Value], text: Sequence[bool]) -> str:
    cells = []
    for index, (value, is_text) in enumerate(zip(row, text, strict=True)):
        tag, scope = ("th", "row") if index == 0 else ("td", "")
        key = value.value if isinstance(value, Shown) else value
        data = "" if key is None else str(key)
        cells.append(_cell(tag, escape(_shown(value)), is_text, scope, data))
    return "".join(cells)


def _cell(tag: str, content: str, is_text: bool, scope: str, data: str | None = None) -> str:
    attributes = f' scope="{scope}"' if scope else ""
    attributes += ' class="text"' if is_text else ""
    attributes += "" if data is None else f' data-value="{escape(data)}"'
    return f"<{tag}{attributes}>{content}</{tag}>"


def _shown(value: Value) -> str:
    if isinstance(value, Shown):
        return value.text
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else number(value)


def headline(values: dict[str, str]) -> str:
    """The few numbers to be read first, each under its name."""
    items = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
        for name, value in values.items()
    )
    return f'<dl class="headline">{items}</dl>'


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph; kind: "soft", "note warn" or "note good"."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def figure(content: str, caption: str) -> str:
    """`content` (HTML or SVG) with a caption below."""
    return f"<figure>{content}<figcaption>{escape(caption)}</figcaption></figure>"


def picture(png: bytes, alt: str, caption: str) -> str:
    """The bytes of a PNG file as a figure."""
    data = base64.b64encode(png).decode("ascii")
    image = f'<img src="data:image/png;base64,{data}" alt="{escape(alt)}">'
    return figure(image, caption)


def legend(title: str, swatches: dict[str, str]) -> str:
    """Names beside their colours; a colour is any CSS background."""
    items = "".join(
        f'<li><i style="background: {escape(colour)}"></i>{escape(name)}</li>'
        for name, colour in swatches.items()
    )
    return f'<ul class="legend"><li>{escape(title)}</li>{items}</ul>'


def picture_legend() -> str:
    """The colours of masks, error maps and scores."""
    ramp = ", ".join(_css(colour) for colour in pictures.SCORE_COLOURS)
    return (
        legend("Masks:", {name: _css(c) for name, c in pictures.MASK_COLOURS.items()})
        + legend("Errors:", {name: _css(c) for name, c in pictures.ERROR_COLOURS.items()})
        + legend("Score:", {"low to high": f"linear-gradient(to right, {ramp})"})
    )


def _css(colour: pictures.Colour) -> str:
    return f"rgb{colour}"
