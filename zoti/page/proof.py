"""Claims: every sentence of a chapter that could be false, with what was measured, and what would make it fall.

A claim compares measured numbers with a threshold. Its *mutation* is the same measurement with the cause taken away (a
sign turned, a window swapped, a random word instead of the learned one). Both run whenever the chapter runs: a claim
that does not hold stops the build, and so does one that still holds under its mutation, for it claims nothing.
"""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from IPython.display import display

from zoti.page.pictures import Html
from zoti.page.predictions import mark
from zoti.page.texts import number, words

#: The media type by which an executed notebook carries a claim; the book's list of all claims is made of these.
MIME = "application/vnd.zoti.claim+json"


@dataclass(frozen=True)
class Claim:
    """A sentence with the numbers that bear it out. Displayed, it is a card of proof.

    >>> shown = claim("Two is more than one.", 2, above=1, mutated=[0], mutation="nothing instead of two", name="two")
    >>> shown
    ✓ Two is more than one. (2, above 1)
    >>> shown.measured, shown.mutated, shown.holds(shown.mutated)
    ([2.0], [0.0], False)
    >>> shown._repr_mimebundle_()[MIME]["name"]
    'two'
    """

    name: str
    sentence: str
    #: one value, or one a seed
    measured: list[float]
    #: as `measured`, with the cause taken away
    mutated: list[float]
    mutation: str
    above: float | None
    below: float | None
    equals: float | None
    unit: str
    evidence: str
    #: further numbers worth knowing, by name
    also: dict[str, str]
    #: what marks a prediction: its name, the measured answer, and the verdict on a live reader's
    prediction: tuple[str, Any, str | None] | None = None

    def holds(self, values: Sequence[float]) -> bool:
        """Whether every one of the values is on the right side of every threshold."""
        return bool(values) and all(
            math.isfinite(v)
            and (self.above is None or v > self.above)
            and (self.below is None or v < self.below)
            and (self.equals is None or v == self.equals)
            for v in values
        )

    @property
    def bound(self) -> str:
        """The thresholds in words: 'above 1 and below 2 dB'."""
        told = {"above": self.above, "below": self.below, "exactly": self.equals}
        unit = f" {self.unit}" if self.unit else ""
        return " and ".join(f"{how} {number(v)}" for how, v in told.items() if v is not None) + unit

    @property
    def values(self) -> str:
        """The measured values in words; of many, how many and their range."""
        return _told(self.measured)

    @property
    def fallen(self) -> str:
        """The values under the mutation, in words."""
        return _told(self.mutated)

    def __repr__(self) -> str:
        return f"✓ {self.sentence} ({self.values}, {self.bound})"

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        return {"text/plain": repr(self), "text/html": self.card(), MIME: asdict(self)}

    def card(self) -> str:
        """The claim as markup: the sentence, a number line with a dot a seed, the evidence, the mutation."""
        also = "".join(f"<div><dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd></div>" for k, v in self.also.items())
        evidence = f"{self.evidence} · " if self.evidence else ""
        unit = f" {self.unit}" if self.unit else ""
        return (
            f'<article class="zoti-claim" id="claim-{self.name}">'
            f'<p class="zoti-sentence"><a class="zoti-tick" href="#claim-{self.name}" aria-label="Holds; link to this '
            f'claim">✓</a> {words(self.sentence)}</p>{self._line()}'
            f'<p class="zoti-evidence">{html.escape(evidence)}measured <b>{self.values}{html.escape(unit)}</b>, '
            f"claimed {html.escape(self.bound)}</p>" + (f'<dl class="zoti-also">{also}</dl>' if also else "")
            + f'<p class="zoti-mutation">Must fail, and does: {words(self.mutation)} gives {self.fallen}'
            f"{html.escape(unit)}.</p>{self._verdict()}</article>"
        )  # fmt: skip

    def _line(self) -> str:
        """The number line. Places are in percent of its width, so that its words keep their size on a phone."""
        bounds = [v for v in (self.above, self.below, self.equals) if v is not None]
        shown = [*self.measured, *bounds, *(v for v in self.mutated if math.isfinite(v))]
        log = min(shown) > 0 and max(shown) > 50 * min(shown)
        scale = math.log if log else float
        low, high = scale(min(shown)), scale(max(shown))
        span = (high - low) or abs(high) or 1.0

        def at(value: float) -> str:
            return f"left:{8 + 84 * (scale(value) - low) / span:.1f}%"

        start = 8 + 84 * (scale(self.above) - low) / span if self.above is not None else 0.0
        end = 8 + 84 * (scale(self.below) - low) / span if self.below is not None else 100.0
        right = f'<i class="zoti-right" style="left:{start:.1f}%;width:{end - start:.1f}%"></i>' * (self.equals is None)
        marks = "".join(f'<i class="zoti-bound" style="{at(v)}"><b>{number(v)}</b></i>' for v in bounds)
        fallen = "".join(f'<i class="zoti-fallen" style="{at(v)}"></i>' for v in self.mutated if math.isfinite(v))
        dots = "".join(f'<i class="zoti-seed" style="{at(v)}"></i>' for v in self.measured)
        said = f"Number line: measured {self.values}, claimed {self.bound}; under the mutation {self.fallen}."
        return f'<div class="zoti-line" role="img" aria-label="{html.escape(said)}">{right}{marks}{fallen}{dots}</div>'

    def _verdict(self) -> str:
        if self.prediction is None:
            return ""
        name, answer, verdict = self.prediction
        told = answer if isinstance(answer, str) else "the curve that is drawn above"
        inside = f"<p>{words(verdict)}</p>" if verdict else (
            f"<details><summary>What did you predict?</summary><p>Measured: {words(told)}.</p></details>"
        )  # fmt: skip
        said = html.escape(json.dumps(answer))
        return f'<div class="zoti-verdict" data-predict="{html.escape(name)}" data-answer="{said}">{inside}</div>'


_claimed: dict[str, Claim] = {}  # by name, for the table at a chapter's end


def claim(
    sentence: str,
    measured: float | Sequence[float],
    *,
    above: float | None = None,
    below: float | None = None,
    equals: float | None = None,
    mutated: float | Sequence[float],
    mutation: str,
    name: str,
    evidence: str = "",
    unit: str = "",
    predicted: str | None = None,
    answer: str | Sequence[float] | None = None,
    **also: Any,
) -> Claim:
    """A claim of the text, checked. Put it last in its cell, and its card is shown.

    measured: a number, or one a seed; all of them must be above, below, between, or equal to what is given. mutated:
    the same measurement where the cause is taken away, and mutation says how; there at least one value must be on the
    wrong side. name: the claim's address. evidence: of what kind it is ("3 seeds of painting, one subject",
    "counted"). predicted, answer: the `predict` that this claim marks, and what was measured. also: other numbers.

    Raises AssertionError, with the sentence and the values, where the claim does not hold, and where it still holds
    under its mutation. Raises ValueError without a threshold or a value, and for a name that is not an address.

    >>> before, after = 0.0912, 0.07231
    >>> claim("The word helps.", before - after, above=0, mutated=before - before, mutation="no word", name="helps")
    ✓ The word helps. (0.0189, above 0)
    >>> claim("It cures everything.", after, below=1e-6, mutated=1, mutation="no word", name="cures")
    Traceback (most recent call last):
    AssertionError: It cures everything. This does not hold: measured 0.0723, claimed below 1×10⁻⁶
    >>> claim("It is a number.", after, above=-1, mutated=before, mutation="no word", name="number")
    Traceback (most recent call last):
    AssertionError: It is a number. This claims nothing: it holds under its mutation (no word), which gives 0.0912
    """
    values, fallen = _floats(measured), _floats(mutated)
    if above is None and below is None and equals is None:
        raise ValueError(f"{sentence!r} has no threshold: above, below or equals what?")
    if not values or not fallen:
        raise ValueError(f"{sentence!r} has no value to judge by")
    if not re.fullmatch(r"[a-z0-9-]+", name):
        raise ValueError(f"claim {name!r}: use small letters, digits and hyphens; it becomes part of an address")
    low, high, exact = (None if v is None else float(v) for v in (above, below, equals))
    more = {key.replace("_", " "): _told(_floats(v)) if _numeric(v) else str(v) for key, v in also.items()}
    made = Claim(name, sentence, values, fallen, mutation, low, high, exact, unit, evidence, more)
    if not made.holds(values):
        raise AssertionError(f"{sentence} This does not hold: measured {made.values}, claimed {made.bound}")
    if made.holds(fallen):
        raise AssertionError(
            f"{sentence} This claims nothing: it holds under its mutation ({mutation}), which gives {_told(fallen)}"
        )
    if predicted is not None:
        if answer is None:
            raise ValueError(f"{sentence!r} marks the prediction {predicted!r} and gives no answer")
        made = replace(made, prediction=(predicted, *mark(predicted, answer)))
    _claimed[name] = made
    return made


def show(*things: Any) -> None:
    """Display things in turn, where a cell has more than one to show.

    >>> show(Html("<b>1</b>", "one"), Html("<b>2</b>", "two"))
    one
    two
    """
    for thing in things:
        display(thing)


def claims() -> Html:
    """The chapter's claims so far, as a table, with the reader's score of predictions under it.

    >>> _ = claim("Two is less than three.", 2, below=3, mutated=4, mutation="four", name="less")
    >>> claims()
    ✓ ...Two is less than three. (2, below 3)...
    """
    head = "<thead><tr><th>Claim</th><th>Measured</th><th>Claimed</th></tr></thead>"
    rows = "".join(
        f'<tr><td><a href="#claim-{c.name}">{words(c.sentence)}</a></td><td>{c.values} {html.escape(c.unit)}</td>'
        f"<td>{html.escape(c.bound)}</td></tr>"
        for c in _claimed.values()
    )
    table = f'<table class="zoti-claims">{head}<tbody>{rows}</tbody></table><p class="zoti-score"></p>'
    return Html(table, "\n".join(map(repr, _claimed.values())))


def _numeric(x: Any) -> bool:
    return not isinstance(x, (str, bool, np.bool_)) and (hasattr(x, "__float__") or hasattr(x, "__len__"))


def _floats(x: Any) -> list[float]:
    return [float(v) for v in np.asarray(x, float).reshape(-1)]


def _told(values: Sequence[float]) -> str:
    if len(values) <= 3:
        return ", ".join(number(v) for v in values)
    return f"{number(min(values))} to {number(max(values))} ({len(values)} values)"
