"""Every slider has its frames, live and in the page alike."""

import json
import re

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pytest

from zoti.page import FRONT, Goal, Html, explorer, linked, picture, scene


def stored(markup: str) -> dict:
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', markup, flags=re.S)[1])


def frames(markup: str) -> list[str]:
    return re.findall(r'<div data-frame="\d+">(.*?)</div>', markup, flags=re.S)


def test_explorer_draws_every_combination_once():
    calls = []

    def draw(n, mu):
        calls.append((n, mu))
        return Html(f"<b>{n} {mu}</b>", f"n {n}, mu {mu}")

    made = explorer(draw, {"n": [1, 2, 4], "mu": [0.1, 1e-7]}, "Six.", "six", play=True)
    assert calls == [(n, mu) for n in (1, 2, 4) for mu in (0.1, 1e-7)]
    told = stored(made.markup())
    assert told["state"]["axes"] == [
        {"name": "n", "values": ["1", "2", "4"]},
        {"name": "mu", "values": ["0.1", "1×10⁻⁷"]},
    ]
    assert told["value"] == [0, 0] and told["state"]["play"]
    assert frames(made.markup()) == [f"<b>{n} {mu}</b>" for n, mu in calls]
    assert told["state"]["said"][3] == "n 2, mu 1e-07"


def test_the_page_and_the_kernel_hold_the_same():
    made = explorer(lambda a: Html(f"<b>{a}</b>", f"{a}"), {"a": [7, 8]}, "Two.", "two")
    data = made._repr_mimebundle_()
    assert data["text/html"].startswith('<figure class="zoti-figure" id="fig-two">')
    assert data["text/plain"] == "Figure: Two. (7)"
    view = data["application/vnd.jupyter.widget-view+json"]
    assert view["model_id"] == made.live.model_id and isinstance(made.live, ipywidgets.DOMWidget)
    state = made.live.get_state()
    assert state["state"] == stored(data["text/html"])["state"] | {"frames": frames(data["text/html"])}
    assert state["value"] == [0] and state["_esm"] == (FRONT / "explorer.js").read_text()


def test_a_page_without_scripts_has_the_first_picture_and_a_folded_strip():
    markup = explorer(lambda a: Html(f"<b>{a}</b>", "alt"), {"a": [7, 8]}).markup()
    assert "<noscript><b>7</b></noscript>" in markup
    assert "<details><summary>All 2 pictures</summary>" in markup


def test_text_in_a_state_cannot_end_its_script():
    markup = scene("explorer", {"axes": [], "said": ["</script><b>"]}, Html("", "")).markup()
    assert "</script><b>" not in markup and stored(markup)["state"]["said"] == ["</script><b>"]


def test_a_goal_knows_its_places_and_must_have_some():
    goal = Goal("Find it.", lambda a, b: a + b == 2, "There.")
    made = explorer(lambda a, b: Html("", ""), {"a": [0, 1, 2], "b": [0, 1]}, goal=goal)
    assert made.state["goal"] == {"task": "Find it.", "solved": [3, 4], "answer": "There."}
    with pytest.raises(ValueError, match="solved nowhere"):
        explorer(lambda a: Html("", ""), {"a": [0, 1]}, goal=Goal("Find it.", lambda a: False, ""))


def test_an_axis_needs_values():
    for axes in ({}, {"a": []}):
        with pytest.raises(ValueError, match="needs values"):
            explorer(lambda *_: Html("", ""), axes)
    with pytest.raises(ValueError, match="'a' has none"):
        explorer(lambda *_: Html("", ""), {"a": np.array([])})


def test_linked_views_share_their_stops():
    def plot(n):
        fig, ax = plt.subplots(figsize=(3, 2))
        return picture(fig, f"a dot in {n} places", follow=(ax, range(n), range(n)))

    paintings = [Html(f"<b>{i}</b>", f"painting {i}") for i in range(3)]
    made = linked("step", [0, 10, 20], [plot(3), paintings, paintings], "All at once.")
    assert len(made.state["fixed"]) == 1 and made.frames[2] == "<b>2</b><b>2</b>"
    assert made.first.text == "a dot in 3 places; painting 0; painting 0"
    with pytest.raises(ValueError, match=r"3 stops, but this plot's dot has \[4\] places"):
        linked("step", [0, 10, 20], [plot(4)])
    with pytest.raises(ValueError, match="3 stops, but 2 pictures"):
        linked("step", [0, 10, 20], [paintings[:2]])
    with pytest.raises(ValueError, match="no places"):
        linked("step", [0, 10, 20], [paintings[0]])


def test_plots_alone_can_be_linked():
    fig, ax = plt.subplots(figsize=(3, 2))
    made = linked("step", [0, 1], [picture(fig, "a dot", follow=(ax, [0, 1], [0, 1]))])
    assert made.frames == [] and "<details>" not in made.markup()
