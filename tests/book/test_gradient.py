"""Chapter 4: what it builds by hand is what zoti supplies, and its landscape answers to a hand."""

import ast
import json
import shutil
import subprocess
from pathlib import Path

import nbformat
import pytest
import torch

from zoti import rge
from zoti.descent import random_directions
from zoti.page import FRONT

CHAPTER = Path(__file__).parents[2] / "book" / "04-a-gradient-from-forward-passes.ipynb"
MODULE = FRONT / "gradient.js"
NODE = shutil.which("node")
CHROMIUM = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)
HOST = "import module, { landscape, directions, estimate, slope, cosine } from './gradient.mjs';"


def own(name):
    """A function that the chapter defines."""
    for cell in nbformat.read(CHAPTER, as_version=4).cells:
        if cell.cell_type == "code" and f"def {name}(" in cell.source:
            (body,) = [n for n in ast.parse(cell.source).body if isinstance(n, ast.FunctionDef) and n.name == name]
            scope = {"torch": torch, "math": __import__("math")}
            exec(compile(ast.Module([body], []), name, "exec"), scope)
            return scope[name]
    raise LookupError(name)


def bowl(c):
    """A loss that bends: of candidates (b, 1, d), (b,)."""
    return (c.square() * torch.arange(1, c.shape[-1] + 1)).sum((1, 2)) + c.sum((1, 2))


@pytest.mark.parametrize(("n", "mu"), [(1, 1e-3), (2, 1e-2), (5, 0.3)])
def test_the_chapters_estimate_is_zotis(n, mu):
    theta = torch.tensor([[0.3, -1.0, 2.0, 0.1]])
    ours = own("my_rge")(bowl, theta, n, mu, torch.Generator().manual_seed(3))
    theirs = rge(bowl, theta, n, mu, generator=torch.Generator().manual_seed(3)).grad
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("d", "n"), [(4, 1), (8, 2), (16, 2)])
def test_the_chapters_law_is_that_of_zotis_estimates(d, n):
    g, chance = torch.randn(d, generator=torch.Generator().manual_seed(0)), torch.Generator().manual_seed(1)
    grads = [rge(lambda c: (c[:, 0] * g).sum(1), torch.zeros(1, d), n, generator=chance).grad[0] for _ in range(4000)]
    squares = torch.cosine_similarity(torch.stack(grads), g[None], dim=1).square()
    off = abs(squares.mean() - own("law")(n, d) ** 2)
    assert off < 4 * squares.std() / 4000**0.5
    ratio_of_expectations = n / (d + n + 1)
    assert abs(squares.mean() - ratio_of_expectations) > 4 * squares.std() / 4000**0.5


@pytest.mark.skipif(not NODE, reason="needs node")
def test_the_landscapes_estimate_is_zotis(tmp_path):
    (tmp_path / "gradient.mjs").write_text(MODULE.read_text())
    theta, mu = torch.tensor([[0.2, -0.4]], dtype=torch.float64), 0.1
    e = random_directions(theta, 3, mu, torch.Generator().manual_seed(5))[:, 0].tolist()
    axis = torch.linspace(-1.5, 1.5, 13, dtype=torch.float64)
    grid = bowl(torch.stack([torch.stack([x, y]) for y in axis for x in axis])[:, None]).view(13, 13).tolist()
    asked = {"grid": grid, "box": [-1.5, 1.5, -1.5, 1.5]}
    (tmp_path / "ask.mjs").write_text(
        f"{HOST} const loss = landscape({json.dumps(asked)}); const at = {theta[0].tolist()};"
        f"console.log(JSON.stringify([estimate(loss, at, {e}, {mu}).grad, slope(loss, at), loss(...at)]))"
    )
    grad, slope, height = json.loads(subprocess.check_output([NODE, tmp_path / "ask.mjs"]))
    theirs = rge(bowl, theta, 3, mu, generator=torch.Generator().manual_seed(5)).grad[0]
    assert torch.allclose(torch.tensor(grad, dtype=torch.float64), theirs, atol=1e-6)
    assert slope == pytest.approx([2 * 0.2 + 1, 4 * -0.4 + 1], abs=1e-3)
    assert height == pytest.approx(float(bowl(theta[None])))


@pytest.mark.skipif(not NODE, reason="needs node")
def test_the_landscapes_throws_follow_the_law(tmp_path):
    (tmp_path / "gradient.mjs").write_text(MODULE.read_text())
    (tmp_path / "ask.mjs").write_text(
        f"{HOST} const straight = (x, y) => 2 * x - y;"
        "const square = (n, seed) => cosine(estimate(straight, [0, 0], directions(n, seed), 0.1).grad, [2, -1]) ** 2;"
        "const mean = (n) => Array.from({ length: 4000 }, (_, i) => square(n, i)).reduce((a, b) => a + b) / 4000;"
        "console.log(JSON.stringify([mean(1), mean(4)]))"
    )
    told = json.loads(subprocess.check_output([NODE, tmp_path / "ask.mjs"]))
    assert told == pytest.approx([1 / 2, 4 / 5], abs=0.02)


# What anywidget does with a module, in a few lines: a model that tells of changes, and a place to render in.
RENDER = """async ([source, state]) => {
    const address = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
    const { default: module } = await import(address);
    const values = { state, value: null };
    const heard = [];
    window.model = {
        get: (key) => values[key],
        set: (key, value) => { values[key] = value; if (key === "value") heard.forEach((f) => f()); },
        on: (_, f) => heard.push(f),
        save_changes() {},
    };
    module.render({ model: window.model, el: document.querySelector("#here") });
}"""


@pytest.fixture(scope="module")
def chromium():
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    if not CHROMIUM:
        pytest.skip("chromium is not installed")
    with api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(params=[(1280, 900), (375, 800)], ids=["desk", "phone"])
def page(chromium, request):
    width, height = request.param
    context = chromium.new_context(viewport={"width": width, "height": height}, has_touch=width < 400)
    page = context.new_page()
    page.errors = []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    slanted = [[0.05 - 0.01 * x + 0.002 * y * y for x in range(7)] for y in range(-3, 4)]
    state = {
        "grid": slanted, "box": [-1.5, 1.5, -1.5, 1.5], "shades": [], "places": [{"x": 0, "y": 0, "name": "here"}],
        "xLabel": "across", "yLabel": "up", "ns": [1, 4], "mus": [0.01, 0.1], "rate": 5, "start": [0, 0, 0, 0, 1],
    }  # fmt: skip
    css = (FRONT / "page.css").read_text()
    page.set_content(f'<style>{css}</style><div class="zoti-widget" id="here" style="max-width:720px"></div>')
    page.evaluate(RENDER, [MODULE.read_text(), state])
    yield page
    assert not page.errors
    context.close()


def place(page):
    return page.evaluate("model.get('value').slice(0, 2)")


def fact(page, name):
    return page.locator(".zoti-facts div", has_text=name).locator("dd").text_content()


@pytest.mark.slow
def test_theta_is_dragged_and_moved_by_keys(page):
    assert place(page) == [0, 0]
    box, grip = page.locator(".zoti-map").bounding_box(), page.locator(".zoti-grip").bounding_box()
    page.mouse.move(grip["x"] + grip["width"] / 2, grip["y"] + grip["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.75 * box["width"], box["y"] + 0.25 * box["height"], steps=4)
    page.mouse.up()
    assert place(page) == pytest.approx([0.75, 0.75], abs=0.03)
    before = fact(page, "loss at")
    page.locator(".zoti-grip").focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowDown")
    assert place(page) == pytest.approx([0.70, 0.70], abs=0.03) and fact(page, "loss at") != before
    assert "0.70" in page.locator(".zoti-grip").get_attribute("aria-valuetext")


@pytest.mark.slow
def test_throws_are_counted_and_steps_go_downhill(page):
    arrow = page.locator(".zoti-guess.zoti-head").first.get_attribute("d")
    page.get_by_role("button", name="Throw again").click()
    assert page.locator(".zoti-guess.zoti-head").first.get_attribute("d") != arrow
    assert fact(page, "square of 2 throws").endswith("law 0.707")
    page.get_by_role("button", name="Throw 200").click()
    assert abs(float(fact(page, "square of 202 throws").split(",")[0]) - 0.707) < 0.1
    assert fact(page, "passes") == "404"
    high = float(fact(page, "loss at"))
    for _ in range(5):
        page.get_by_role("button", name="One step").click()
    assert float(fact(page, "loss at")) < high and len(page.locator(".zoti-trail").get_attribute("points").split()) == 6
    page.get_by_role("button", name="Back").click()
    assert place(page) == [0, 0]


@pytest.mark.slow
def test_sliders_change_what_is_asked_and_nothing_stands_out(page):
    assert page.locator("line.zoti-tried").count() == 1
    page.get_by_label("directions n").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("line.zoti-tried").count() == 4 and "law 0.894" in fact(page, "root mean square")
    width = page.viewport_size["width"]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for target in page.locator("button, input").all():
        assert target.bounding_box()["height"] >= 44
    scale = page.locator(".zoti-map").bounding_box()["width"] / 340
    assert 14 * scale >= 12, "words of the map are too small"
