"""Pictures and plots for a page, with words for those who cannot see them, and captions in HTML.

A picture is data: it is shown pixel by pixel, in a grid that wraps on a phone. A plot is drawn: it becomes SVG in the
page's own letters and colours, so that it is dark in the dark.
"""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from cycler import cycler
from IPython.display import display
from PIL import Image

from zoti.page.drawings import PALETTE, Follow, drawing
from zoti.page.texts import words

Picture = Image.Image | np.ndarray

#: What runs in a browser: modules for figures that answer, and the look of all of them.
FRONT = Path(__file__).parent / "front"


@dataclass(frozen=True)
class Html:
    """Something to display: markup for a browser, and the same in plain text for where there is none.

    What a browser needs to show it lies in FRONT.

    >>> Html("<em>two</em>", "two")
    two
    >>> sorted(path.name for path in FRONT.glob("[ep]*.js"))
    ['engine.js', 'explorer.js', 'predict.js']
    """

    markup: str
    text: str

    def _repr_html_(self) -> str:
        return self.markup

    def __repr__(self) -> str:
        return self.text


def style() -> None:
    """Give matplotlib the book's palette, type sizes and grid, and a running notebook the book's look.

    Every chapter calls it once, in its setup cell.

    >>> with mpl.rc_context():
    ...     style()
    ...     mpl.rcParams["text.color"] == PALETTE["ink"]
    <the book's look>
    True
    """
    ink = PALETTE["ink"]
    mpl.rcParams.update({
        "axes.prop_cycle": cycler(color=[c for c in PALETTE.values() if c != ink]),
        "figure.figsize": (6.4, 3.4), "figure.dpi": 100, "figure.constrained_layout.use": True,
        "figure.facecolor": "white", "axes.facecolor": "white",
        "font.size": 10, "axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left",
        "legend.fontsize": 9.5, "xtick.labelsize": 9.5, "ytick.labelsize": 9.5,
        "text.color": ink, "axes.labelcolor": ink, "xtick.color": ink, "ytick.color": ink,
        "axes.edgecolor": "#9AA3AE", "axes.spines.top": False, "axes.spines.right": False,
        "axes.grid": True, "axes.axisbelow": True, "grid.color": "#E6E9ED", "grid.linewidth": 0.8,
        "lines.linewidth": 2, "legend.frameon": False, "image.interpolation": "nearest",
    })  # fmt: skip
    # A built page has a stylesheet of its own; the marked one is for notebooks, and the build leaves it out.
    display(Html(f"<style data-zoti-live>{(FRONT / 'page.css').read_text()}</style>", "<the book's look>"))


def picture(
    image: mpl.figure.Figure | Picture, alt: str, caption: str = "", label: str = "", follow: Follow | None = None
) -> Html:
    """One plot or one picture as something to display, numbered and captioned where there is a caption.

    image: a matplotlib figure, which is closed; a PIL image or a uint8 (h, w, 3) array. alt: what there is to see, in
    words written from the values that are drawn. caption: plain text, in which *stress* and `code` are understood.
    label: {fig}`label` in the chapter's text then names the figure by its number. follow: axes, and the places (x, y)
    of a dot that moves along them when `linked`'s slider does.

    Raises ValueError where there is no `alt`, where a word in a plot would be too small to read, and for a label
    without a caption.

    >>> shown = picture(np.zeros((8, 8, 3), np.uint8), "a black square", "Nothing, *enlarged*.", "nothing")
    >>> shown
    Figure: Nothing, enlarged. (a black square)
    >>> shown.markup
    '<figure class="zoti-figure" id="fig-nothing">...<img ...alt="a black square"...<em>enlarged</em>...'
    """
    _say(alt)
    if isinstance(image, mpl.figure.Figure):
        body = drawing(image, alt, follow)
    else:
        body = f'<div class="zoti-panels">{_img(image, alt)}</div>'
    return framed(Html(body, alt), caption, label)


def panels(
    images: Sequence[Picture] | Mapping[str, Sequence[Picture]],
    captions: Sequence[str] = (),
    alt: str | Sequence[str] = "{}",
    caption: str = "",
    label: str = "",
) -> Html:
    """Pictures side by side, each with a caption below it; the grid wraps on a phone, and a tap enlarges.

    images: PIL images or uint8 (h, w, 3) arrays; or several rows of them by name. captions: one a picture, of a row.
    alt: what is to be seen; one text a picture of a row, or one for all in which {} stands for the caption, and {row}
    for the row's name. caption and label: as in `picture`.

    Raises ValueError where captions or alt do not match the pictures, and where there is neither.

    >>> dark, light = np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 255, np.uint8)
    >>> panels([dark, light], ["night", "day"], alt="a square by {}")
    a square by night; a square by day
    >>> panels({"mine": [dark], "yours": [light]}, ["now"], alt="{row}, {}")
    mine, now; yours, now
    """
    rows = images if isinstance(images, Mapping) else {"": images}
    parts, said = [], []
    for name, row in rows.items():
        titles = [*captions] if captions else [""] * len(row)
        alts = [alt.replace("{row}", name).replace("{}", t) for t in titles] if isinstance(alt, str) else [*alt]
        if not len(row) == len(titles) == len(alts):
            where = f" in row {name!r}" if name else ""
            raise ValueError(
                f"{len(row)} pictures, {len(titles)} captions and {len(alts)} alt texts{where}; match them"
            )
        for text in alts:
            _say(text)
        figures = "".join(
            f"<figure {_CELL}>{_img(image, text)}" + (f"<figcaption>{words(title)}</figcaption>" if title else "")
            + "</figure>"
            for image, title, text in zip(row, titles, alts, strict=True)
        )  # fmt: skip
        head = f'<p class="zoti-row-name">{words(name)}</p>' if name else ""
        parts.append(f'{head}<div class="zoti-panels" {_GRID}>{figures}</div>')
        said += alts
    return framed(Html("".join(parts), "; ".join(said)), caption, label)


def framed(inside: Html, caption: str, label: str = "") -> Html:
    """A numbered figure with a caption around something shown, which without a caption stays as it is.

    Raises ValueError for a label without a caption, or one that cannot stand in an address.

    >>> framed(Html("<b>x</b>", "x"), "The letter x.", "x").markup
    '<figure class="zoti-figure" id="fig-x"><b>x</b><figcaption>The letter x.</figcaption></figure>'
    """
    if not caption:
        if label:
            raise ValueError(f"figure {label!r} needs a caption: what does it show, and what follows from it?")
        return inside
    if label and not re.fullmatch(r"[a-z0-9-]+", label):
        raise ValueError(f"label {label!r}: use small letters, digits and hyphens; it becomes part of an address")
    name = f' id="fig-{label}"' if label else ""
    plain = re.sub(r"[*`]", "", caption)
    markup = f'<figure class="zoti-figure"{name}>{inside.markup}<figcaption>{words(caption)}</figcaption></figure>'
    return Html(markup, f"Figure: {plain} ({inside.text})")


_GRID = 'style="display:flex;flex-wrap:wrap;gap:8px"'  # holds where no stylesheet does: in Colab, on GitHub
_CELL = 'style="margin:0"'


def _say(alt: str) -> None:
    if not alt.strip():
        raise ValueError("a picture needs alt text: what would you say to someone who cannot see it?")


def _img(image: Picture, alt: str) -> str:
    """A picture as an <img> of its own pixels. Small ones are doubled, every pixel a sharp square."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    small = max(image.size) <= 96
    # Lossless, a third of PNG. Pictures of more pixels hide what quality 92 loses, and weigh a fifth.
    image.convert("RGB").save(buffer, format="webp", lossless=small, quality=100 if small else 92, method=6)
    data = base64.b64encode(buffer.getvalue()).decode()
    w, h = (side * (2 if small else 1) for side in image.size)
    look = f"width:{w}px;max-width:100%;height:auto" + ";image-rendering:pixelated" * small
    source = f"data:image/webp;base64,{data}"
    return f'<img class="zoti-pixels" width="{w}" height="{h}" style="{look}" alt="{html.escape(alt)}" src="{source}">'
