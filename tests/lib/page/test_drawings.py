"""A plot on the page is made of the page: no foreign colour, letter or id, and it fits a phone."""

import re
from xml.etree import ElementTree

import matplotlib.pyplot as plt
import pytest

from zoti.page import PALETTE, drawing, style


@pytest.fixture
def plot():
    with plt.rc_context():
        style()
        fig, ax = plt.subplots()
        ax.plot([0, 1, 2], [3, 1, 2], "o-", color=PALETTE["green"], label="a line")
        ax.set(xlabel="step", ylabel="loss", title="It falls")
        ax.legend()
        yield fig, ax


def test_it_is_two_drawings_that_parse_and_close(plot):
    fig, _ = plot
    svg = drawing(fig, "a line falls & rises")
    wide, narrow = ElementTree.fromstring(svg)
    assert wide.get("aria-label") == narrow.get("aria-label") == "a line falls & rises"
    assert wide.get("viewBox") == "0 0 460.80 244.80" and narrow.get("viewBox").startswith("0 0 244.80")
    assert "display:none" in narrow.get("style") and "display" not in wide.get("style")
    assert not plt.fignum_exists(fig.number)


def test_colours_and_letters_are_the_pages(plot):
    svg = drawing(plot[0], "a line")
    left = set(re.findall(r"(?<!, )#[0-9a-f]{6}\b", svg))  # after a comma: what stands in where no variable is set
    assert not left, left
    assert "currentColor" in svg and "var(--zoti-plot-green, #009e73)" in svg
    assert "DejaVu" not in svg and "<style" not in svg
    assert ">loss</text>" in svg and "font-size: 10px" in svg


def test_a_drawing_says_nothing_that_cannot_be_seen(plot):
    fig, ax = plot
    ax.text(1, 2, "0.123456", fontsize=9)
    svg = drawing(fig, "a line")
    assert "<g>" not in svg and "rotate(-0" not in svg and not re.search(r">\s+<", svg)
    assert not re.search(r'<path [^>]*style="fill: none"/>', svg)
    assert all(len(told) <= 2 for told in re.findall(r"<[^>]*\d\.(\d+)", svg)) and ">0.123456</text>" in svg


def test_two_drawings_of_a_page_share_no_id(plot):
    first = drawing(plot[0], "a line")
    fig, ax = plt.subplots()
    ax.plot([0, 1], [0, 1], "o")
    both = first + drawing(fig, "another")
    ids = re.findall(r' id="([^"]+)"', both)
    assert len(ids) == len(set(ids)) > 0
    assert set(re.findall(r"(?:url\(#|href=\"#)([\w.-]+)", both)) <= set(ids)


def test_a_dot_follows_in_each_drawings_own_units(plot):
    fig, ax = plot
    svg = drawing(fig, "a line", follow=(ax, [0, 1, 2], [3, 1, 2]))
    dots = [[tuple(map(float, p.split(","))) for p in told.split()] for told in re.findall('data-follow="(.*?)"', svg)]
    (a, b, c), narrow = dots
    assert a[0] < b[0] < c[0] < 460.8 and a[1] < c[1] < b[1]  # down the page is down
    assert narrow[2][0] < 244.8
    # the dot is where matplotlib drew the line's own markers
    xs = [float(x) for x in re.findall(r'<use [^>]*x="([\d.]+)"[^>]*stroke', svg)] or [
        float(x) for x in re.findall(r'<use xlink:href="[^"]+" x="([\d.]+)"', svg)
    ]
    assert min(abs(x - b[0]) for x in xs) < 0.2


def test_words_too_small_and_places_that_are_none_are_refused(plot):
    fig, ax = plot
    with pytest.raises(ValueError, match="cannot follow"):
        drawing(fig, "a line", follow=(ax, [0, float("nan")], [0, 0]))
    fig, ax = plt.subplots()
    ax.set_title("tiny", fontsize=8)
    with pytest.raises(ValueError, match="8 points"):
        drawing(fig, "tiny words")
