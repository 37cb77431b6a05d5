"""Figures that answer, tried by hand in the browsers that readers have: Chromium, and Debian's Firefox."""

import os
from functools import partial

import pytest

from tests.book.chromium import CHROMIUM, Chromium
from tests.book.firefox import FIREFOX, Firefox
from tests.book.specimen import write
from zoti.page import Curve, mark, predict

lacking = pytest.mark.skipif(not (CHROMIUM and FIREFOX) and not os.environ.get("CI"), reason="a browser is missing")
pytestmark = [pytest.mark.slow, lacking]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    return write(tmp_path_factory.mktemp("specimen")).as_uri()  # file://: the harder case, no module may be imported


HANDS = {
    "chromium, mouse": Chromium,
    "chromium, a phone by touch": partial(Chromium, 375, 700, touch=True),
    "firefox, mouse": Firefox,
}


@pytest.fixture(scope="module", params=HANDS.values(), ids=HANDS)
def browser(request):
    window = request.param()
    yield window
    window.close()


@pytest.fixture
def reader(browser, address):
    """A reader who opens the page for the first time."""
    browser.goto(address)
    browser.ask("localStorage.clear()")
    browser.goto(address)
    browser.ask("new Promise(done => { const look = () => "
                "document.documentElement.dataset.zoti ? done(1) : setTimeout(look, 20); look(); })")  # fmt: skip
    yield browser
    assert not browser.errors


def place(browser, selector, across=0.5, down=0.5, index=0):
    """Where in the window a part of an element lies, once it is in sight."""
    element = f"document.querySelectorAll({selector!r})[{index}]"
    browser.ask(f"{element}.scrollIntoView({{block: 'center'}})")
    x, y, w, h = browser.ask(f"(b => [b.x, b.y, b.width, b.height])({element}.getBoundingClientRect())")
    return x + across * w, y + down * h


def tap(browser, selector, across=0.5, down=0.5, index=0):
    browser.drag(place(browser, selector, across, down, index))
    browser.ask("new Promise(done => setTimeout(done, 60))")


def text(browser, selector, index=0):
    return browser.ask(f"document.querySelectorAll({selector!r})[{index}].textContent")


def seen(browser):
    """Alt texts of the first explorer's pictures in sight."""
    pictures = "[...document.querySelectorAll('.zoti-explorer')[0].querySelectorAll('img')]"
    return browser.ask(f"{pictures}.filter(i => i.offsetParent).map(i => i.alt)")


def test_a_slider_answers_mouse_and_finger(reader):
    assert seen(reader) == ["left of 0 and 50", "right of 0 and 50"]
    tap(reader, ".zoti-explorer input", 0.97)
    assert seen(reader) == ["left of 200 and 50", "right of 200 and 50"]
    reader.drag(place(reader, ".zoti-explorer input", 0.97), place(reader, ".zoti-explorer input", 0.5))
    reader.ask("new Promise(done => setTimeout(done, 60))")
    assert seen(reader)[0] == "left of 100 and 50"
    assert reader.ask("document.querySelector('.zoti-explorer input').getAttribute('aria-valuetext')") == "100"


def test_a_slider_answers_keys_and_says_what_it_shows(reader):
    reader.ask("document.querySelector('.zoti-explorer input').focus()")
    reader.press("ArrowRight", "ArrowRight", "ArrowRight", "Tab", "Tab", "ArrowRight")
    assert seen(reader) == ["left of 200 and 250", "right of 200 and 250"]
    assert text(reader, ".zoti-said") == "left of 200 and 250; right of 200 and 250"
    assert text(reader, ".zoti-explorer output", 1) == "250"


def test_a_goal_is_noticed_when_it_is_reached_and_not_before(reader):
    tap(reader, ".zoti-explorer input", 0.97)
    assert text(reader, ".zoti-goal summary") == "Show the answer"
    tap(reader, ".zoti-explorer input", 0.97, index=1)
    assert text(reader, ".zoti-goal summary") == "You have found it"
    assert reader.ask("document.querySelector('.zoti-goal details').open")


def test_play_walks_to_the_end_and_says_what_it_would_do_next(reader):
    tap(reader, ".zoti-explorer .zoti-play")
    assert text(reader, ".zoti-play") == "Pause"
    reader.ask("new Promise(done => setTimeout(done, 2000))")
    assert seen(reader)[0] == "left of 200 and 50" and text(reader, ".zoti-play") == "Play"


def test_one_slider_moves_the_dot_and_the_painting(reader):
    def dots():
        return reader.ask("[...document.querySelectorAll('.zoti-dot')].map(d => d.getAttribute('cx'))")

    before = dots()
    tap(reader, ".zoti-explorer input", 0.97, index=2)
    assert len(before) == 2 and all(float(a) > float(b) for a, b in zip(dots(), before, strict=True))
    assert text(reader, ".zoti-said", 1) == "grey 255"


HIDDEN = "document.querySelectorAll('.zoti-covered').length"


def test_nothing_is_revealed_before_the_reader_commits_and_the_answer_stays(reader, address):
    assert reader.ask(HIDDEN) == 3  # the picture and the claim of one question, the claim of the other
    assert reader.ask("document.querySelectorAll('.zoti-cover').length") == 2, "one cover a question"
    tap(reader, ".zoti-choices button", index=0)
    assert reader.ask(HIDDEN) == 1
    assert text(reader, ".zoti-verdict") == "You predicted ten times. Measured: a hundred times."
    assert text(reader, ".zoti-score") == "You predicted 0 of 2. 1 still open."
    reader.goto(address)
    reader.ask("new Promise(done => setTimeout(done, 300))")
    assert reader.ask(HIDDEN) == 1, "another day the page remembers"
    tap(reader, ".zoti-again")
    assert reader.ask(HIDDEN) == 3
    tap(reader, ".zoti-choices button", index=1)
    assert text(reader, ".zoti-verdict") == "You were right: a hundred times."


def test_whoever_does_not_want_to_predict_may_look(reader):
    tap(reader, ".zoti-cover button")
    assert reader.ask(HIDDEN) == 1
    assert "What did you predict?" in text(reader, ".zoti-verdict")


def test_a_curve_is_drawn_and_marked(reader):
    middle = [place(reader, ".zoti-curve circle", index=i) for i in range(3)]
    (left, y), _, (right, _) = middle
    up = (middle[1][0] - left) * 0.4
    reader.drag((left, y), (left, y + up), (right, y - up))
    reader.ask("document.querySelectorAll('.zoti-curve circle')[2].focus()")
    before = reader.ask("Number(document.querySelectorAll('.zoti-curve circle')[2].getAttribute('aria-valuenow'))")
    reader.press("ArrowUp")
    after = reader.ask("Number(document.querySelectorAll('.zoti-curve circle')[2].getAttribute('aria-valuenow'))")
    assert 5 < before < after, "a hand that moves draws, a key corrects"
    tap(reader, ".zoti-done")
    said = text(reader, ".zoti-verdict", 1)
    assert "the best flat line by 3.33" in said and said.startswith(("You were right", "Not quite"))


def test_the_page_marks_as_the_library_does(reader):
    """predict.js and zoti.page.mark are two writings of one rule."""
    choices = predict("one", "Which?", ["this", "that"])
    curve = predict("two", "Draw.", Curve(range(5), "x", "y", 0, 9))
    cases = [(choices, "this", "this"), (choices, "that", "this"), (curve, [0, 1, 2, 3, 4], [0, 1.1, 2, 3, 4.5]),
             (curve, [4, 4, 1, 0, 0], [0, 2, 2, 2, 9]), (curve, [1, 2, 3, 4, 5], [5, 1, 4, 2, 3])]  # fmt: skip
    for asked, answer, guess in cases:
        asked.live.value = guess
        told = reader.ask(f"load('predict').then(p => p.verdict({answer!r}, {guess!r}).text)")
        assert told == mark(asked.state["name"], answer)[1]


def test_a_tap_enlarges_a_picture_and_another_closes_it(reader):
    tap(reader, ".zoti-explorer img")
    assert reader.ask("document.querySelector('.zoti-large').open")
    assert text(reader, ".zoti-large p") == "left of 0 and 50"
    tap(reader, ".zoti-large button")
    assert not reader.ask("document.querySelector('.zoti-large').open")
