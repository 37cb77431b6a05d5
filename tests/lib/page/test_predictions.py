"""A question is asked first, and marked by what was measured."""

import pytest

from zoti.page import Curve, mark, predict, predictions


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(predictions, "_asked", {})


def test_a_choice_is_right_or_wrong_and_unmarked_where_nobody_chose():
    asked = predict("size", "How *small*?", ["ten times", "a hundred times"])
    assert asked.state["question"] == "How <em>small</em>?"
    assert "<li>ten times</li>" in asked.markup()
    assert mark("size", "ten times") == ("ten times", None)
    asked.live.value = "ten times"
    assert mark("size", "ten times")[1] == "You were right: ten times."
    assert mark("size", "a hundred times")[1] == "You predicted ten times. Measured: a hundred times."


@pytest.mark.parametrize(("guess", "right"), [([0, 4, 10], True), ([5, 5, 5], False), ([10, 4, 0], False)])
def test_a_curve_is_right_when_it_beats_half_the_best_flat_line(guess, right):
    predict("lie", "Draw it.", Curve([1, 2, 3], "t", "loss", 0, 10)).live.value = guess
    answer, verdict = mark("lie", [0, 5, 10])
    assert answer == [0.0, 5.0, 10.0]
    assert verdict.startswith("You were right" if right else "Not quite") and "3.33" in verdict


def test_what_cannot_be_asked_or_marked_is_said():
    with pytest.raises(ValueError, match="two answers"):
        predict("one", "Which?", ["this"])
    with pytest.raises(ValueError, match="none of them twice"):
        predict("twice", "Which?", ["this", "this"])
    with pytest.raises(ValueError, match="low below its high"):
        predict("flat", "Draw.", Curve([1, 2, 3], "x", "y", 1, 1))
    with pytest.raises(ValueError, match="nothing was predicted"):
        mark("nowhere", "this")
    predict("which", "Which?", ["this", "that"])
    with pytest.raises(ValueError, match="none of the answers offered: this, that"):
        mark("which", "other")
    predict("curve", "Draw.", Curve([1, 2, 3], "x", "y", 0, 1))
    for answer in ([1, 2], [1, 2, float("nan")]):
        with pytest.raises(ValueError, match="3 places"):
            mark("curve", answer)
