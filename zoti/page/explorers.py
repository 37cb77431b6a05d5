"""Figures that answer: sliders that choose among pictures drawn beforehand, and scenes with code of their own.

Each is one module in the anywidget front-end standard (`export default { render({ model, el }) }`) and a state. In a
running notebook anywidget carries both; in a built page a small host calls the same module with the state that the page
holds. So what is tried in JupyterLab or Colab is what readers get.
"""

from __future__ import annotations

import html
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import anywidget
import traitlets

from zoti.page.pictures import FRONT, Html, framed
from zoti.page.texts import number


class Live(anywidget.AnyWidget):
    """A figure in a running notebook: a JavaScript module of `front/`, as an anywidget, and its state.

    `value` is what the reader chose, here and in the browser alike.

    >>> Live(_esm="export default { render() {} }", state={}, value=[0]).value
    [0]
    """

    _esm = traitlets.Unicode().tag(sync=True)
    _css = FRONT / "page.css"
    state = traitlets.Dict().tag(sync=True)
    value = traitlets.Any().tag(sync=True)


@dataclass(frozen=True)
class Interactive:
    """A figure that answers a reader: a JavaScript module and its state, for a running notebook and a built page alike.

    module: the name of a file in `zoti/page/front/`, without its .js. state: anything JSON can say. frames: what the
    module chooses among; kept as markup, so that a page without scripts can show it. first: what is shown there, and
    before a script runs. value: what is chosen at the start.

    >>> shown = Interactive("explorer", {"axes": []}, ["<b>x</b>"], Html("<b>x</b>", "x"))
    >>> shown, sorted(shown._repr_mimebundle_())
    (x, ['application/vnd.jupyter.widget-view+json', 'text/html', 'text/plain'])
    """

    module: str
    state: dict[str, Any]
    frames: list[str]
    first: Html
    value: Any = None
    caption: str = ""
    label: str = ""

    @cached_property
    def live(self) -> Live:
        """The widget under a kernel; its `value` follows the reader's hand."""
        source = (FRONT / f"{self.module}.js").read_text()
        return Live(_esm=source, state={**self.state, "frames": self.frames}, value=self.value)

    def markup(self) -> str:
        """What a built page holds: the state, the frames in a folded strip, and the first of them."""
        state = json.dumps({"state": self.state, "value": self.value}).replace("</", "<\\/")
        strip = "".join(f'<div data-frame="{i}">{frame}</div>' for i, frame in enumerate(self.frames))
        folded = f"<details><summary>All {len(self.frames)} pictures</summary>{strip}</details>" * bool(self.frames)
        body = (
            f'<div class="zoti-widget" data-module="{html.escape(self.module)}">'
            f'<script type="application/json">{state}</script>'
            f"<noscript>{self.first.markup}</noscript>{folded}</div>"
        )
        return framed(Html(body, self.first.text), self.caption, self.label).markup

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        view: Any = self.live._repr_mimebundle_()
        data = view[0] if isinstance(view, tuple) else view
        return {**data, "text/html": self.markup(), "text/plain": repr(self)}

    def __repr__(self) -> str:
        return framed(self.first, self.caption, self.label).text


@dataclass(frozen=True)
class Goal:
    """Something to find with an explorer: a task, the places that solve it, and what is to be learned from it.

    task: one sentence. solved: called like the explorer's `draw`, whether the reader has found it. answer: shown then,
    and on request; write it from measured values.

    >>> goal = Goal("Find darkness.", lambda grey: grey < 10, "Below 10 nobody sees a thing.")
    >>> goal.solved(0), goal.solved(128)
    (True, False)
    """

    task: str
    solved: Callable[..., bool] = field(repr=False)
    answer: str


def explorer(
    draw: Callable[..., Html],
    axes: Mapping[str, Sequence[Any]],
    caption: str = "",
    label: str = "",
    goal: Goal | None = None,
    play: bool = False,
) -> Interactive:
    """A picture with a slider for each axis: explorer(draw, {"timestep": [1, 250, 500]}).

    draw: called as `draw(*values)` once for every combination of the axes' values; returns what `picture` or `panels`
    does. The page holds all of them, so 40 combinations of a few small pictures are plenty. caption, label: as in
    `picture`. goal: something to find. play: adds a button that walks along the first axis.

    Raises ValueError for an axis without values, and for a goal that no place solves.

    >>> import numpy as np
    >>> from zoti.page import picture
    >>> def draw(t):
    ...     return picture(np.full((4, 4, 3), t, np.uint8), f"grey {t}")
    >>> explorer(draw, {"grey": [0, 128, 255]}, "Three greys.")
    Figure: Three greys. (grey 0)
    """
    _check(axes)
    places = list(itertools.product(*axes.values()))
    drawn = [draw(*place) for place in places]
    state = _state(axes, play) | {"said": [shown.text for shown in drawn]}
    if goal:
        solved = [i for i, place in enumerate(places) if goal.solved(*place)]
        if not solved:
            raise ValueError(f"the goal {goal.task!r} is solved nowhere on these axes")
        state["goal"] = {"task": goal.task, "solved": solved, "answer": goal.answer}
    start = [0] * len(axes)
    return Interactive("explorer", state, [d.markup for d in drawn], drawn[0], start, caption, label)


def linked(
    axis: str,
    values: Sequence[Any],
    views: Sequence[Html | Sequence[Html]],
    caption: str = "",
    label: str = "",
    play: bool = True,
) -> Interactive:
    """Several views of one run, driven by one slider: a dot on its loss, a dot on its path, its paintings.

    axis, values: the slider's name and its stops. views: each either one `picture(..., follow=(axes, x, y))` whose dot
    has a place for every stop, or a sequence with a picture for every stop.

    Raises ValueError where a view has more or fewer pictures or places than there are stops.

    >>> from zoti.page import picture
    >>> import matplotlib.pyplot as plt
    >>> fig, ax = plt.subplots(figsize=(3, 2))
    >>> _ = ax.plot([0, 1], [1, 0])
    >>> loss = picture(fig, "the loss falls", follow=(ax, [0, 1], [1, 0]))
    >>> linked("step", [0, 1], [loss, [Html("<b>0</b>", "zero"), Html("<b>1</b>", "one")]])
    the loss falls; zero
    """
    _check({axis: values})
    fixed: list[str] = []
    columns: list[list[Html]] = []
    for view in views:
        if isinstance(view, Html):
            stops = [told.count(" ") + 1 for told in _follows(view)]
            if not stops or any(n != len(values) for n in stops):
                raise ValueError(f"{len(values)} stops, but this plot's dot has {stops or 'no'} places: {view.text}")
            fixed.append(view.markup)
        else:
            if len(view) != len(values):
                raise ValueError(f"{len(values)} stops, but {len(view)} pictures of them")
            columns.append(list(view))
    rows = [[column[i] for column in columns] for i in range(len(values))]
    frames = ["".join(h.markup for h in row) for row in rows] if columns else []
    said = ["; ".join(h.text for h in row) for row in rows]
    first = Html("".join([*fixed, *frames[:1]]), "; ".join([*(v.text for v in views if isinstance(v, Html)), said[0]]))
    state = _state({axis: values}, play) | {"said": said, "fixed": fixed}
    return Interactive("explorer", state, frames, first, [0], caption, label)


def scene(module: str, state: dict[str, Any], first: Html, caption: str = "", label: str = "") -> Interactive:
    """A figure with code of its own: a module in `zoti/page/front/`, given a state.

    first: what is shown where scripts are off, and before they run. state: anything JSON can say; the module reads it
    with `model.get("state")`, and tells what the reader chose with `model.set("value", ...)`.

    Raises ValueError for a module that isn't there.

    >>> scene("nowhere", {}, Html("", ""))
    Traceback (most recent call last):
    ValueError: no nowhere.js in zoti/page/front; there are ...explorer...
    """
    known = sorted(path.stem for path in FRONT.glob("*.js"))
    if module not in known:
        raise ValueError(f"no {module}.js in zoti/page/front; there are {', '.join(known)}")
    return Interactive(module, state, [], first, None, caption, label)


def _state(axes: Mapping[str, Sequence[Any]], play: bool) -> dict[str, Any]:
    told = [{"name": name, "values": [number(v) for v in values]} for name, values in axes.items()]
    return {"axes": told, "play": play}


def _check(axes: Mapping[str, Sequence[Any]]) -> None:
    empty = [name for name, values in axes.items() if not len(values)]
    if not axes or empty:
        raise ValueError(f"an explorer needs values to choose among{f'; {empty[0]!r} has none' if empty else ''}")


def _follows(view: Html) -> list[str]:
    return [part.split('"')[0] for part in view.markup.split('data-follow="')[1:]]


#: Subjects that a page can learn without a reader's own pictures, the first of them at once.
LESSONS = ("teapot", "penguin", "handbag", "octopus", "ghost", "sailboat", "owl", "cat")


def lesson(caption: str = "", label: str = "", **steps: int) -> Interactive:
    """A panel with a button: the page itself learns a word in its reader's browser, of `LESSONS` or a thing of theirs.

    By forward passes, with the model that `zoti.model.export` writes. steps: how many each way takes, by default 1000
    of ZOODiP's and 100 of Gauss-Newton's. Under a kernel it only says that a built page does this.

    >>> lesson(zoodip=500).state["steps"], LESSONS[0]
    ({'zoodip': 500, 'gauss-newton': 100}, 'teapot')
    """
    ways = {"zoodip": 1000, "gauss-newton": 100} | {name.replace("_", "-"): n for name, n in steps.items()}
    words = "With scripts, this page learns the word itself."
    state = {"steps": ways, "subjects": LESSONS}
    return Interactive("teach", state, [], Html(f"<p>{words}</p>", words), None, caption, label)
