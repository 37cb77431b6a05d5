"""Explorers with sliders, claims with numbers: what a chapter shows beside its pictures.

Everything here must work twice: in a running notebook, and in the built page, where no kernel runs. So an explorer
draws all its pictures beforehand, and the browser only chooses among them: each slider is linked to a Stack of
pictures, with ipywidgets' own jslink. Colab's ipywidgets 7 has no Stack; there Python exchanges the picture.
"""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ipywidgets as ipw
import numpy as np
from IPython.display import display

from zoti.page.pictures import Html


@dataclass(frozen=True)
class Explorer:
    """Pictures with sliders that choose among them. Where scripts are off, a page shows the first picture.

    >>> Explorer(ipw.IntSlider(), Html("", "the picture at 0")).first
    the picture at 0
    """

    #: the sliders and the pictures
    widget: ipw.Widget
    #: the picture that is shown first
    first: Html

    def _ipython_display_(self) -> None:
        # html-manager never removes a picture left for those without scripts; <noscript> needs no removing.
        display(Html(f"<noscript>{self.first.markup}</noscript>", self.first.text))
        display(self.widget)


def explorer(draw: Callable[..., Html], axes: Mapping[str, Sequence[Any]], play: bool = False) -> Explorer:
    """A picture with a slider for each axis: explorer(draw, {"timestep": [1, 250, 500]}).

    draw: called as `draw(*values)` once for every combination of the axes' values, returns a `picture`. The page holds
    all of them, so 40 combinations are plenty. play: adds a button that walks along the first axis.

    >>> from zoti.page import picture
    >>> def draw(t):
    ...     return picture(np.full((4, 4, 3), t, np.uint8), f"grey {t}")
    >>> explorer(draw, {"grey": [0, 128, 255]}).first
    grey 0
    """
    sizes = [range(len(values)) for values in axes.values()]
    pictures = {
        place: draw(*(values[i] for i, values in zip(place, axes.values(), strict=True)))
        for place in itertools.product(*sizes)
    }
    wide = ipw.Layout(width="100%", max_width="34rem")
    roomy = {"description_width": "initial"}
    sliders = [
        ipw.SelectionSlider(options=[number(v) for v in values], description=name, layout=wide, style=roomy)
        for name, values in axes.items()
    ]
    screen = _stacked(pictures, sliders) if hasattr(ipw, "Stack") else _exchanged(pictures, sliders)
    controls: list[ipw.Widget] = [*sliders]
    if play:
        button = ipw.Play(min=0, max=len(sizes[0]) - 1, interval=500, show_repeat=False)
        ipw.jslink((button, "value"), (sliders[0], "index"))
        controls[0] = ipw.HBox([button, sliders[0]], layout=ipw.Layout(flex_flow="row wrap"))
    box = ipw.VBox([*controls, screen])
    box.add_class("zoti-explorer")
    return Explorer(box, pictures[(0,) * len(sliders)])


def _stacked(pictures: dict[tuple[int, ...], Html], sliders: list[ipw.SelectionSlider]) -> ipw.Widget:
    """Stacks within Stacks, a level for each slider; the browser turns them."""
    layout, look = ipw.Layout(), ipw.HTML().style  # shared: each widget's own would double the page's state

    def level(place: tuple[int, ...]) -> ipw.Widget:
        if len(place) == len(sliders):
            return ipw.HTML(pictures[place].markup, layout=layout, style=look)
        slider = sliders[len(place)]
        choices = [level((*place, i)) for i in range(len(slider.options))]
        stack = ipw.Stack(choices, selected_index=0, layout=layout)
        ipw.jslink((slider, "index"), (stack, "selected_index"))
        return stack

    return level(())


def _exchanged(pictures: dict[tuple[int, ...], Html], sliders: list[ipw.SelectionSlider]) -> ipw.Widget:
    """One picture, which Python exchanges when a slider moves."""
    screen = ipw.HTML()

    def show(_: Any = None) -> None:
        screen.value = pictures[tuple(slider.index for slider in sliders)].markup

    for slider in sliders:
        slider.observe(show, names="index")
    show()
    return screen


_claimed: dict[str, str] = {}  # sentence -> its measured values, for the table at a chapter's end


def claim(sentence: str, holds: bool, **measured: Any) -> None:
    """Show a claim of the text with the values that bear it out. Where they do not, the build fails.

    Raises AssertionError, with the sentence and the values, for what does not hold.

    >>> before, after = 0.0912, 0.07231
    >>> claim("The word helps.", after < before, before=before, after=after)
    ✓ The word helps. (before 0.0912 · after 0.0723)
    >>> claim("It cures everything.", after < 1e-6, after=after)
    Traceback (most recent call last):
    AssertionError: It cures everything. This does not hold: after 0.0723
    """
    values = " · ".join(f"{name.replace('_', ' ')} {number(value)}" for name, value in measured.items())
    if not holds:
        raise AssertionError(f"{sentence} This does not hold: {values}")
    _claimed[sentence] = values
    tick = '<span class="zoti-tick" role="img" aria-label="holds">✓</span>'
    value_line = f'<p class="zoti-measured">{html.escape(values)}</p>'
    markup = f'<div class="zoti-claim"><p>{tick} {html.escape(sentence)}</p>{value_line}</div>'
    display(Html(markup, f"✓ {sentence} ({values})"))


def claims() -> Html:
    """The chapter's claims so far, as a table.

    >>> claim("Two is less than three.", 2 < 3, two=2, three=3)
    ✓ Two is less than three. (two 2 · three 3)
    >>> claims()
    ✓ ...
    """
    head = "<thead><tr><th>Claim</th><th>Measured here</th></tr></thead>"
    rows = [f"<tr><td>{html.escape(s)}</td><td>{html.escape(v)}</td></tr>" for s, v in _claimed.items()]
    return Html(
        f'<table class="zoti-claims">{head}<tbody>{"".join(rows)}</tbody></table>',
        "\n".join(f"✓ {s} ({v})" for s, v in _claimed.items()),
    )


def number(x: Any) -> str:
    """A number as a reader wants it: 0.0723 or 3.14×10⁻⁷ to three digits, 12,480 whole. Words pass unchanged.

    >>> [number(x) for x in (0.0723456, 12480, 3.14e-7, "teapot")]
    ['0.0723', '12,480', '3.14×10⁻⁷', 'teapot']
    """
    if isinstance(x, (str, bool, np.bool_)) or not hasattr(x, "__float__"):
        return str(x)
    value = float(x)
    if not math.isfinite(value):
        return str(value)
    if (value.is_integer() and abs(value) < 1e9) or 999.5 <= abs(value) < 1e6:
        return f"{value:,.0f}"
    mantissa, _, power = f"{value:.3g}".partition("e")
    raised = str(int(power)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")) if power else ""
    return f"{mantissa}×10{raised}" if raised else mantissa
