"""Pictures for a page: figures and images in the book's colours, with words for those who cannot see them."""

from __future__ import annotations

import base64
import html
import io
from dataclasses import dataclass

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from PIL import Image

#: Okabe & Ito's colours, told apart with any colour vision. Their yellow is left out: it drowns on white.
PALETTE = {
    "blue": "#0072B2", "orange": "#E69F00", "green": "#009E73", "red": "#D55E00",
    "sky": "#56B4E9", "pink": "#CC79A7", "grey": "#767676", "ink": "#1F2A37",
}  # fmt: skip


def style() -> None:
    """Give matplotlib the book's palette, type sizes and white ground. Every chapter calls it once, in its setup cell.

    >>> with mpl.rc_context():
    ...     style()
    ...     mpl.rcParams["text.color"] == PALETTE["ink"]
    True
    """
    ink = PALETTE["ink"]
    mpl.rcParams.update({
        "axes.prop_cycle": cycler(color=[c for c in PALETTE.values() if c != ink]),
        "figure.figsize": (6.4, 3.4), "figure.dpi": 100, "figure.constrained_layout.use": True,
        "figure.facecolor": "white", "axes.facecolor": "white",
        "font.size": 11, "axes.titlesize": 12, "axes.titleweight": "bold", "axes.titlelocation": "left",
        "text.color": ink, "axes.labelcolor": ink, "xtick.color": ink, "ytick.color": ink,
        "axes.edgecolor": "#9AA3AE", "axes.spines.top": False, "axes.spines.right": False,
        "axes.grid": True, "axes.axisbelow": True, "grid.color": "#E6E9ED", "grid.linewidth": 0.8,
        "lines.linewidth": 2, "legend.frameon": False, "image.interpolation": "nearest",
    })  # fmt: skip


@dataclass(frozen=True)
class Html:
    """Something to display: markup for a browser, and the same in plain text for where there is none.

    >>> Html("<em>two</em>", "two")
    two
    """

    markup: str
    text: str

    def _repr_html_(self) -> str:
        return self.markup

    def __repr__(self) -> str:
        return self.text


def picture(image: mpl.figure.Figure | Image.Image | np.ndarray, alt: str, width: int | None = None) -> Html:
    """A matplotlib figure, a PIL image or a uint8 (h, w, 3) array as something to display, `width` CSS pixels wide.

    alt: what there is to see, in words written from the values that are drawn. A figure is saved at twice its size,
    for sharp screens, and closed; it scales smoothly. An image is data, and enlarged it shows square pixels.

    Raises ValueError where there is no `alt`.

    >>> shown = picture(np.zeros((8, 8, 3), np.uint8), "a black square", width=64)
    >>> shown
    a black square
    >>> shown.markup
    '<img class="dark-light" style="width:64px;..." alt="a black square" src="data:...">'
    """
    if not alt.strip():
        raise ValueError("a picture needs alt text: what would you say to someone who cannot see it?")
    crisp = not isinstance(image, mpl.figure.Figure)
    buffer = io.BytesIO()
    if isinstance(image, mpl.figure.Figure):
        image.savefig(buffer, format="png", dpi=2 * image.dpi, facecolor="white")
        plt.close(image)
        image = Image.open(buffer)
        width = width or image.width // 2
    elif isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    width, buffer = width or image.width, io.BytesIO()
    image.convert("RGB").save(buffer, format="webp", lossless=True)  # a third of the size of SVG or PNG
    data = base64.b64encode(buffer.getvalue()).decode()
    look = f"width:{width}px;max-width:100%;height:auto" + ";image-rendering:pixelated" * crisp
    source = f"data:image/webp;base64,{data}"
    return Html(f'<img class="dark-light" style="{look}" alt="{html.escape(alt)}" src="{source}">', alt)
