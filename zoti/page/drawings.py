"""Plots as SVG that belongs to the page: its letters, its colours by day and by night, its width on a phone."""

from __future__ import annotations

import hashlib
import html
import io
import re
from collections.abc import Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

#: Okabe & Ito's colours, told apart with any colour vision. Their yellow is left out: it drowns on white.
PALETTE = {
    "blue": "#0072B2", "orange": "#E69F00", "green": "#009E73", "red": "#D55E00",
    "sky": "#56B4E9", "pink": "#CC79A7", "grey": "#767676", "ink": "#1F2A37",
}  # fmt: skip

# axes, and the places (x, y) of a dot that moves along them
Follow = tuple[mpl.axes.Axes, Sequence[float], Sequence[float]]

_PIXELS = 100  # CSS pixels an inch of a figure
_NARROW = 3.4  # inches: a phone's column
_SMALLEST = 9.0  # points: 12.5 CSS pixels

# What matplotlib writes -> what a page can change. A palette's colour is a variable, with itself where none is set.
_COLOURS = {
    PALETTE["ink"].lower(): "currentColor",
    "#e6e9ed": "var(--zoti-line, #8884)",
    "#9aa3ae": "var(--zoti-axis, #9aa3ae)",
    "#ffffff": "var(--zoti-paper, #fff)",
} | {c.lower(): f"var(--zoti-plot-{name}, {c.lower()})" for name, c in PALETTE.items() if name != "ink"}


def drawing(figure: mpl.figure.Figure, alt: str, follow: Follow | None = None) -> str:
    """A matplotlib figure as SVG markup, once as wide as it is and once for a phone, and closed.

    A hundred CSS pixels an inch. follow: axes and the places of a dot that a slider will move; see
    `zoti.page.linked`.

    Raises ValueError for words below 9 points (12.5 pixels), and for a place that is no number.

    >>> fig, ax = plt.subplots(figsize=(3, 2))
    >>> _ = ax.plot([0, 1], [1, 0], color=PALETTE["blue"])
    >>> drawing(fig, "an empty plot")
    '<div class="zoti-plot"><svg ...role="img" aria-label="an empty plot"...</svg></div>'
    """
    width, height = figure.get_size_inches()
    small = min(
        (float(t.get_fontsize()) for t in figure.findobj(mpl.text.Text) if t.get_text().strip()), default=_SMALLEST
    )
    if small < _SMALLEST:
        plt.close(figure)
        raise ValueError(f"words of {small:g} points in a plot: nobody reads them on a phone; give them {_SMALLEST:g}")
    parts = [_svg(figure, alt, follow, "zoti-wide")]
    if width > _NARROW + 0.3:
        figure.set_size_inches(_NARROW, min(height, 3.2))
        parts.append(_svg(figure, alt, follow, "zoti-narrow"))
    plt.close(figure)
    two = " zoti-two" * (len(parts) == 2)
    return f'<div class="zoti-plot{two}">{"".join(parts)}</div>'


def _svg(figure: mpl.figure.Figure, alt: str, follow: Follow | None, which: str) -> str:
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "zoti"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    body = svg[svg.index(">", svg.index("<svg")) + 1 : svg.rindex("</svg>")]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", body, flags=re.S)
    # An id is the whole page's: kept where something refers to it, under a name of this very drawing.
    own = hashlib.sha256((body + which + alt).encode()).hexdigest()[:8]
    used = set(re.findall(r"#([\w.-]+)", re.sub(r"#[0-9a-f]{6}\b", "", body)))
    body = re.sub(r' id="([^"]+)"', lambda m: f' id="{m[1]}-{own}"' if m[1] in used else "", body)
    body = re.sub(r"(url\(#|href=\"#)([\w.-]+)", rf"\g<1>\g<2>-{own}", body)
    body = re.sub(r"#[0-9a-f]{6}\b", lambda m: _COLOURS.get(m[0], m[0]), body)
    body = re.sub(r"font: ((?:(?:italic|oblique|bold|[1-9]00) )*)([\d.]+)px [^;\"]*", _font, body)
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    body = body.replace("xlink:href", "href")  # in a page without that prefix
    body = _light(body)
    width, height = (float(side) for side in figure.get_size_inches())
    css = f"width:100%;max-width:{width * _PIXELS:.0f}px;height:auto" + ";display:none" * (which == "zoti-narrow")
    return (
        f'<svg class="{which}" viewBox="0 0 {width * 72:.2f} {height * 72:.2f}" style="{css}" role="img" '
        f'aria-label="{html.escape(alt)}" font-size="10" stroke-linejoin="round" stroke-linecap="butt">'
        f"{body.strip()}{_dot(figure, *follow) if follow else ''}</svg>"
    )


def _light(body: str) -> str:
    """The same drawing in two thirds of the letters: without what cannot be seen, and to a hundredth of a point.

    >>> _light('<g><g id="a">\\n <path d="M 1.23456 2 \\nL 3 4" style="stroke: red"/>\\n</g></g><text>0.12345</text>')
    '<g id="a"><path d="M 1.23 2 L 3 4" style="stroke: red"/></g><text>0.12345</text>'
    """

    def tag(found: re.Match[str]) -> str:
        told = " ".join(found[0].split())
        if "scale(" in told or "matrix(" in told:  # there every digit counts
            return told
        return re.sub(r"\d+\.\d{3,}", lambda m: f"{float(m[0]):.2f}".rstrip("0").rstrip("."), told)

    body = re.sub(r"<[^>]+>", tag, body)
    body = re.sub(r'<path [^>]*style="fill: none"/>| transform="rotate\(-?0 [^)]*\)"', "", body)
    parts, named = [], []  # a group without attributes groups nothing
    for part in re.split(r"(</?g\b[^>]*>)", body):
        if part.startswith("<g"):
            named.append(part != "<g>")
        keep = named.pop() if part == "</g>" else named[-1] if part.startswith("<g") else True
        parts.append(part * keep)
    return re.sub(r">\s+<", "><", "".join(parts)).replace("<defs></defs>", "")


def _font(found: re.Match[str]) -> str:
    slanted = "font-style: italic; " * bool(re.search("italic|oblique", found[1]))
    heavy = "font-weight: 600; " * bool(re.search(r"bold|[6-9]00", found[1]))
    return f"{slanted}{heavy}font-size: {found[2]}px"


def _dot(figure: mpl.figure.Figure, axes: mpl.axes.Axes, x: Sequence[float], y: Sequence[float]) -> str:
    """A dot at the first of its places; the others wait in data-follow, in the drawing's own units."""
    places = axes.transData.transform(np.column_stack([x, y]).astype(float))
    places = figure.transFigure.inverted().transform(places) * figure.get_size_inches() * 72
    if not np.isfinite(places).all():
        raise ValueError("the dot cannot follow: a place of it is not a number on these axes")
    places[:, 1] = figure.get_size_inches()[1] * 72 - places[:, 1]
    told = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
    (a, b), *_ = places
    return f'<circle class="zoti-dot" data-follow="{told}" cx="{a:.1f}" cy="{b:.1f}" r="6"/>'
