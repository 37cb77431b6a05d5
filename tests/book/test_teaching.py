"""The panel that teaches the page a word: in Chromium and in Debian's Firefox, from a folder, with no network."""

import importlib.util
import json
import os
import shutil
import time
from pathlib import Path

import pytest

from tests.book.firefox import FIREFOX, Firefox
from zoti.page import FRONT, lesson

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
pytest.importorskip("onnxscript", reason="needs the engine's tools: pip install -e .[engine]")

ROOT = Path(__file__).parents[2]
NAMES = ["chromium", "chromium-browser", "google-chrome"]
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
missing = [what for what, there in {"chromium": CHROMIUM, "npm": shutil.which("npm")}.items() if not there]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing) and not os.environ.get("CI"), reason=f"needs {', '.join(missing)}"),
]
STEPS = 4  # enough to see that it goes; what it learns is test_learning.py's
PATIENCE = 240  # seconds for what takes ten on an idle machine
TOLD = "document.querySelector('.zoti-told').textContent"
STATE = "document.querySelector('.zoti-teach').dataset.state"
# What a picture shows: how far its pixels are from each other.
SPREAD = """(name => {
    const canvas = document.querySelector(name);
    const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    const mean = data.reduce((sum, x) => sum + x, 0) / data.length;
    return Math.sqrt(data.reduce((sum, x) => sum + (x - mean) ** 2, 0) / data.length);
})"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A page with the panel, and beside it what a built site has."""
    spec = importlib.util.spec_from_file_location("engine", ROOT / "book" / "engine.py")
    engine = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(engine)
    site = tmp_path_factory.mktemp("site")
    static = engine.bring(site, ROOT / "_build" / "engine").parent
    shutil.copy(ROOT / "assets" / "zoti.js", static)
    modules = {path.stem: path.read_text() for path in FRONT.glob("*.js")}
    (static / "zoti-modules.js").write_text(f"window.zotiModules = {json.dumps(modules)};\n")
    panel = lesson(gauss_newton=STEPS, zoodip=STEPS).markup()
    (site / "page.html").write_text(
        '<!doctype html><meta charset="utf-8"><title>t</title><script src="_static/zoti-modules.js"></script>'
        f'<script src="_static/zoti.js"></script><article>{panel}</article>'
    )
    return site


def patiently(ask, expression):
    """Wait until this is true in the page."""
    end = time.monotonic() + PATIENCE
    while not ask(expression):
        assert time.monotonic() < end, ask(TOLD)
        time.sleep(0.2)


def learns_and_paints(ask):
    """Press the button, wait, write a prompt: what a reader does, by a page's own means."""
    patiently(ask, "document.documentElement.dataset.zoti == 'ready'")
    ask("document.querySelector('.zoti-go').click()")
    patiently(ask, f"{STATE} == 'idle'")
    assert ask(TOLD) == f"Learned in {5 * STEPS} forward passes, none backward. The word is <teapot>."
    before, after = ask(f"{SPREAD}('.zoti-before')"), ask(f"{SPREAD}('.zoti-after')")
    assert min(before, after) > 20 and before != after
    ask("document.querySelector('form').requestSubmit()")
    patiently(ask, f"{STATE} == 'idle'")
    assert "a purple <teapot> on the beach" in ask(TOLD)
    assert ask(f"{SPREAD}('.zoti-after')") != after


@pytest.fixture(scope="module")
def chromium():
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(chromium, folder):
    page = chromium.new_context(offline=True).new_page()
    page.errors, page.asked = [], []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto((folder / "page.html").as_uri())
    yield page
    page.context.close()


def test_chromium_learns_from_a_folder_and_loads_nothing_before_it_is_asked(page, folder):
    page.wait_for_function("document.documentElement.dataset.zoti == 'ready'")
    assert not any("/learn/" in url for url in page.asked)
    learns_and_paints(page.evaluate)
    loaded = [url for url in page.asked if not url.startswith("blob:")]
    assert all(url.startswith(folder.as_uri()) for url in loaded) and any("/learn/" in url for url in loaded)
    assert not page.errors


def test_it_stops_goes_on_and_says_what_is_wrong(page):
    ask = page.evaluate
    patiently(ask, "document.documentElement.dataset.zoti == 'ready'")
    ask("document.querySelector('select').value = 'zoodip'")
    ask("document.querySelector('.zoti-go').click()")
    patiently(ask, "!document.querySelector('.zoti-stop').hidden")
    ask("document.querySelector('.zoti-stop').click()")
    patiently(ask, f"{STATE} == 'idle'")
    assert "Stopped" in ask(TOLD)
    for said, answer in {"": "write something", "teapot " * 40: "say it shorter", "a cat": "does not stand"}.items():
        ask(f"document.querySelector('form input').value = {json.dumps(said)}")
        ask("document.querySelector('form').requestSubmit()")
        patiently(ask, f"{STATE} == 'idle'")
        assert answer in ask(TOLD)
    learns = f"{STATE} == 'idle' && {TOLD}.startsWith('Learned')"
    ask("document.querySelector('.zoti-go').click()")
    patiently(ask, learns)
    assert f"Learned in {3 * STEPS} forward passes" in ask(TOLD)
    assert not page.errors


def test_a_folder_that_is_not_whole_is_said_to_be(chromium, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "half")
    (tmp_path / "half" / "_static" / "learn" / "noise-2.js").unlink()
    page = chromium.new_page()
    page.goto((tmp_path / "half" / "page.html").as_uri())
    patiently(page.evaluate, "document.documentElement.dataset.zoti == 'ready'")
    page.evaluate("document.querySelector('.zoti-go').click()")
    patiently(page.evaluate, f"{STATE} == 'idle'")
    assert page.evaluate(TOLD) == "It did not work: noise-2.js could not be loaded; is the folder whole?"


@pytest.mark.skipif(not FIREFOX and not os.environ.get("CI"), reason="needs firefox-esr")
def test_firefox_learns_from_a_folder(folder):
    firefox = Firefox()
    try:
        firefox.goto((folder / "page.html").as_uri())
        learns_and_paints(firefox.ask)
        assert not firefox.errors
    finally:
        firefox.close()
