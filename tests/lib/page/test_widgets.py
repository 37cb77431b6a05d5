"""Every slider has its frames, every claim its proof, every number three digits."""

import re

import ipywidgets as ipw
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoti.page import Html, claim, claims, explorer, number, picture, widgets

stacks = pytest.mark.skipif(not hasattr(ipw, "Stack"), reason="ipywidgets 7 has no Stack")


@pytest.fixture
def shown(monkeypatch):
    """What the code under test displays."""
    things = []
    monkeypatch.setattr(widgets, "display", things.append)
    monkeypatch.setattr(widgets, "_claimed", {})
    return things


@stacks
def test_explorer_draws_every_combination_once():
    calls = []

    def draw(n, mu):
        calls.append((n, mu))
        return picture(np.full((1, 1, 3), len(calls), np.uint8), f"n {n}, mu {mu}")

    e = explorer(draw, {"n": [1, 2, 4], "mu": [0.1, 1e-7]}, play=True)
    assert calls == [(n, mu) for n in (1, 2, 4) for mu in (0.1, 1e-7)]
    (play, first), second, outer = e.widget.children[0].children, e.widget.children[1], e.widget.children[2]
    assert (play.min, play.max) == (0, 2)
    assert first.description == "n" and second.options == ("0.1", "1×10⁻⁷")
    assert [len(inner.children) for inner in outer.children] == [2, 2, 2]
    alts = [re.search('alt="(.*?)"', leaf.value)[1] for inner in outer.children for leaf in inner.children]
    assert alts == [f"n {n}, mu {mu}" for n, mu in calls]
    assert e.first.text == "n 1, mu 0.1"


@stacks
def test_explorer_links_each_stack_to_its_slider(monkeypatch):
    links = []
    monkeypatch.setattr(ipw, "jslink", lambda source, target: links.append((source, target)))
    e = explorer(lambda *_: Html("<img>", ""), {"a": range(2), "b": range(3)})
    a, b, outer = e.widget.children
    assert ((a, "index"), (outer, "selected_index")) in links
    assert all(((b, "index"), (inner, "selected_index")) in links for inner in outer.children)
    assert len(links) == 3


def test_explorer_on_ipywidgets_7(monkeypatch):
    monkeypatch.delattr(ipw, "Stack", raising=False)
    e = explorer(lambda a, b: Html(f"<i>{a} {b}</i>", ""), {"a": [0, 1], "b": "xyz"})
    a, b, screen = e.widget.children
    assert screen.value == "<i>0 x</i>"
    a.index, b.index = 1, 2
    assert screen.value == "<i>1 z</i>"


def test_explorer_leaves_a_picture_for_pages_without_scripts(shown):
    e = explorer(lambda a: Html(f"<img {a}>", "alt"), {"a": [7, 8]})
    e._ipython_display_()
    assert shown[0].markup == "<noscript><img 7></noscript>" and shown[1] is e.widget


def test_claim_shows_or_raises(shown):
    claim("Less is more.", np.bool_(True), less_loss=0.12345, steps=12_480)
    assert "Less is more." in shown[0].markup and "less loss 0.123 · steps 12,480" in shown[0].markup
    with pytest.raises(AssertionError, match=r"More is less\..*loss 3"):
        claim("More is less.", 2 < 1, loss=3)
    assert len(shown) == 1, "a false claim is not shown"
    assert claims().markup.count("<tr>") == 2  # the head and the true one
    claim("Less is more.", True, less_loss=0.1, steps=1)
    assert claims().markup.count("<tr>") == 2, "a cell run twice claims once"


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (0.07234, "0.0723"), (12480, "12,480"), (12480.7, "12,481"), (999.7, "1,000"), (3.14e-7, "3.14×10⁻⁷"),
        (1e12, "1×10¹²"), (0.0, "0"), (-2.5, "-2.5"), (np.float32(0.1), "0.1"), (float("nan"), "nan"),
        ("words", "words"),
    ],
)  # fmt: skip
def test_numbers(x, text):
    assert number(x) == text


@given(st.floats(1e-300, 1e300))
def test_numbers_keep_three_digits(x):
    plain = number(x).replace(",", "").translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789"))
    mantissa, _, power = plain.partition("×10")
    assert float(mantissa) * 10.0 ** int(power or 0) == pytest.approx(x, rel=6e-3)
