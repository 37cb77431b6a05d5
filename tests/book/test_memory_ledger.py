"""Chapter 10: its meter counts what zoti's ledger counts, its bills are a step's peaks, the page adds up the same."""

import ast
import itertools
import json
import shutil
import subprocess
from pathlib import Path

import nbformat
import pytest
import torch

from zoti.ledger import Ledger, architecture
from zoti.ledger.scenarios import textual_inversion, zeroth_order
from zoti.page import FRONT

CHAPTER = Path(__file__).parents[2] / "book" / "10-the-memory-ledger.ipynb"
MODULE = FRONT / "ledger.js"
NODE = shutil.which("node")
CHROMIUM = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)
METHODS = ("DreamBooth", "Textual inversion", "Forward passes")


def named(node):
    """What a statement of a cell defines."""
    if isinstance(node, ast.Assign):
        return {ast.unparse(target) for target in node.targets}
    return {getattr(node, "name", None)}


@pytest.fixture(scope="module")
def chapter():
    """The chapter's own definitions, with its imports; nothing of it is run."""
    scope = {}
    for cell in nbformat.read(CHAPTER, as_version=4).cells:
        if cell.cell_type == "code" and not set(cell.metadata.get("tags", [])) & {"install", "solution"}:
            body = [
                node
                for node in ast.parse(cell.source).body
                if isinstance(node, (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef))
                or named(node) & {"Meter.__torch_dispatch__", "BITS", "NAMES"}
            ]
            exec(compile(ast.Module(body, []), CHAPTER.name, "exec"), scope)
    return scope


@pytest.fixture(scope="module")
def models(chapter):
    """tiny-sd, priced by the chapter's own functions; put where its bills look for it."""
    kinds = {"32": "float32", **chapter["BITS"]}
    chapter["models"] = {"tiny": {bits: chapter["measured"]("tiny-sd", kind) for bits, kind in kinds.items()}}
    return chapter["models"]


@pytest.mark.parametrize("step", ["asks", "goes_back"])
def test_the_chapters_meter_is_zotis_ledger(chapter, step):
    model = architecture("tiny-sd", "int8")
    line = chapter["metered"](model, chapter[step])
    word, z = torch.empty(1, model.width, device="meta"), model.latent()
    with Ledger() as ledger:
        ledger.own(*model.networks(vae=False))
        chapter[step](model, word, z)
    assert max(line) == pytest.approx(ledger.peak.total, rel=0.001)
    assert line[0] < max(line)


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("weights", ["8", "16"])
def test_the_chapters_bills_are_peaks_of_whole_steps(chapter, models, weights, cached):
    kind, peak = chapter["BITS"][weights], chapter["peak"]
    for together, b in ((False, 1), (True, 3)):
        ran = zeroth_order("tiny-sd", kind, cached, max_batch=b).peak.total / 1e9
        assert peak("tiny", weights, METHODS[2], cached=cached, together=together) == pytest.approx(ran, rel=0.02)
    for switch in (False, True):
        ran = textual_inversion("tiny-sd", kind, cached, checkpointing=switch).peak.total / 1e9
        assert peak("tiny", weights, METHODS[1], cached=cached, checkpointing=switch) == pytest.approx(ran, rel=0.02)


@pytest.mark.skipif(not NODE, reason="needs node")
def test_the_page_adds_up_what_the_chapter_adds_up(chapter, models, tmp_path):
    switches = ("cached", "checkpointing", "together", "cut")
    choices = [
        {"model": "tiny", "weights": weights, "method": method, **dict(zip(switches, on, strict=True))}
        for weights in models["tiny"]
        for method in METHODS
        for on in itertools.product([False, True], repeat=4)
    ]
    (tmp_path / "ledger.mjs").write_text(MODULE.read_text())
    (tmp_path / "ask.mjs").write_text(
        "import { bill } from './ledger.mjs';"
        f"const state = {json.dumps({'models': models})};"
        f"console.log(JSON.stringify({json.dumps(choices)}.map((choice) => bill(state, choice))))"
    )
    told = json.loads(subprocess.check_output([NODE, tmp_path / "ask.mjs"]))
    ours = [chapter["bill"](**choice) for choice in choices]
    assert [parts and dict(parts) for parts in told] == ours
    assert sum(parts is None for parts in ours) == 2 * 16  # DreamBooth of whole numbers
    assert len({sum(parts.values()) for parts in ours if parts}) > 30  # the switches do something


# What anywidget does with a module, in a few lines: a model that tells of changes, and a place to render in.
RENDER = """async ([source, state]) => {
    const address = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
    const { default: module } = await import(address);
    const values = { state, value: null };
    window.model = {
        get: (key) => values[key], set: (key, value) => { values[key] = value; }, on() {}, save_changes() {},
    };
    module.render({ model: window.model, el: document.querySelector("#here") });
}"""


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 375])
def test_switches_change_the_bar_by_mouse_and_by_keys(chapter, models, width):
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    if not CHROMIUM:
        pytest.skip("chromium is not installed")
    start = {"model": "tiny", "weights": "32", "method": METHODS[0]}
    goal = {"task": "Get it small.", "answer": "So.", "model": "tiny", "weights": "4", "below": 1e9 * 0.02 + 5e8}
    with api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 900})
        errors = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        css = (FRONT / "page.css").read_text()
        page.set_content(f'<style>{css}</style><div class="zoti-widget" id="here"></div>')
        page.evaluate(RENDER, [MODULE.read_text(), {"models": models, "context": 5e8, "start": start, "goal": goal}])
        label = page.locator(".zoti-bar").get_attribute
        assert "Adam's state" in label("aria-label") and page.get_by_label("checkpointing").is_disabled()
        page.get_by_text("Forward passes").click()
        assert "Adam" not in label("aria-label") and page.get_by_label("checkpointing").is_disabled()
        before = label("aria-label")
        page.get_by_label("cached latents").focus()
        page.keyboard.press("Space")
        assert "VAE" in before and "VAE" not in label("aria-label")
        page.get_by_text("8", exact=True).click()
        assert page.evaluate("model.get('value').weights") == "8"
        page.get_by_text("DreamBooth").click()
        assert "no gradient" in page.locator(".zoti-card").text_content()
        page.get_by_text("Forward passes").click()
        page.get_by_text("4", exact=True).click()
        assert page.locator(".zoti-found").count() == 1
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert all(target.bounding_box()["height"] >= 44 for target in page.locator("label").all())
        browser.close()
        assert not errors
