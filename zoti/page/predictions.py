"""Predictions: a reader commits to an answer before anything is revealed, and a claim marks it.

The question comes first and knows no answer; the claim that measures it names the question. In the built page the
outputs between the two stay covered until the reader has answered, or asks to see them all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from zoti.page.explorers import Interactive
from zoti.page.pictures import Html
from zoti.page.texts import number, words


@dataclass(frozen=True)
class Curve:
    """What a reader is asked to draw: values of y for each x, within limits.

    >>> Curve([0, 500, 1000], "timestep t", "loss rises by (%)", 0, 100).y_label
    'loss rises by (%)'
    """

    x: Sequence[float]
    x_label: str
    y_label: str
    low: float
    high: float


_asked: dict[str, Interactive] = {}  # this chapter's questions, by name


def predict(name: str, question: str, answers: Sequence[str] | Curve) -> Interactive:
    """A question to answer before going on: by a choice, or by drawing the curve.

    name: by which `claim(..., predicted=name, answer=...)` marks it. question: plain text, as a caption. answers: two
    or more to choose from, or the Curve to draw. What was answered stays in the reader's own browser.

    Raises ValueError for fewer than two answers, and for two alike.

    >>> predict("coin", "Heads or tails?", ["heads", "tails"])
    Predict: Heads or tails? (heads · tails)
    """
    state: dict[str, Any] = {"name": name, "question": words(question)}
    if isinstance(answers, Curve):
        if len(answers.x) < 3 or not answers.low < answers.high:
            raise ValueError("a curve to draw needs three or more x, and a low below its high")
        x = [number(v) for v in answers.x]
        state["curve"] = {"x": x, "xLabel": answers.x_label, "yLabel": answers.y_label}
        state["curve"] |= {"low": float(answers.low), "high": float(answers.high)}
        told, listed = f"draw {answers.y_label} against {answers.x_label}", ""
    else:
        if len(set(answers)) < max(2, len(answers)):
            raise ValueError(f"a question needs two answers or more, none of them twice; {name!r} has {list(answers)}")
        state["choices"] = list(answers)
        told, listed = " · ".join(answers), "".join(f"<li>{words(a)}</li>" for a in answers)
    plain = f'<div class="zoti-predict"><p><strong>Predict.</strong> {state["question"]}</p><ul>{listed}</ul></div>'
    _asked[name] = Interactive("predict", state, [], Html(plain, f"Predict: {question} ({told})"))
    return _asked[name]


def mark(name: str, answer: str | Sequence[float]) -> tuple[Any, str | None]:
    """Compare a prediction with what was measured: returns the answer, as JSON can say it, and the verdict in words.

    A choice is right or not. A curve is right when it is nearer to what was measured than half the distance of the best
    flat line, on average over x. Where nobody answered, the verdict is None.

    Raises ValueError for a question nobody asked, and an answer that was not among those offered.

    >>> asked = predict("coin", "Heads or tails?", ["heads", "tails"])
    >>> mark("coin", "heads")
    ('heads', None)
    >>> asked.live.value = "tails"
    >>> mark("coin", "heads")
    ('heads', 'You predicted tails. Measured: heads.')
    """
    if name not in _asked:
        raise ValueError(f"nothing was predicted by the name {name!r}; there are {', '.join(_asked) or 'none'}")
    asked = _asked[name]
    choices, guess = asked.state.get("choices"), asked.live.value
    if choices is not None:
        if answer not in choices:
            raise ValueError(f"{answer!r} is none of the answers offered: {', '.join(choices)}")
        verdict = f"You predicted {guess}. Measured: {answer}." if guess != answer else f"You were right: {answer}."
        return answer, verdict if guess else None
    x = asked.state["curve"]["x"]
    truth = np.asarray(answer, float)
    if truth.shape != (len(x),) or not np.isfinite(truth).all():
        raise ValueError(f"the curve {name!r} was asked at {len(x)} places; give one finite number for each")
    told = [float(v) for v in truth]
    return told, _nearness(np.asarray(guess, float), truth) if guess else None


def _nearness(guess: np.ndarray, truth: np.ndarray) -> str:
    off, flat = np.abs(guess - truth).mean(), np.abs(truth - np.median(truth)).mean()
    right = "You were right" if off < flat / 2 else "Not quite"
    return f"{right}: your curve is off by {number(off)} on average, the best flat line by {number(flat)}."
