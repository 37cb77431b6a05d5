"""The figures that answer, under a kernel in JupyterLab and on a page without one: the same hand, the same values."""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import nbformat
import pytest

from tests.book.chromium import CHROMIUM, playwright
from tests.book.specimen import write

ROOT = Path(__file__).parents[2]
lacking = "" if find_spec("jupyterlab") else "needs JupyterLab: pip install -e .[test]"
lacking = lacking if CHROMIUM else "chromium is not installed"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(lacking) and not os.environ.get("CI"), reason=lacking)]

SHOW = """from tests.book.specimen import cells
shown = [one for one in cells() if hasattr(one, "live")]
for one in shown:
    display(one)"""
TELL = """import json
print("told", json.dumps([one.live.value for one in shown]))"""

# All that the figures say: the sliders' values, the pictures in sight, the dots, the goal, the answers given.
TOLD = """() => {
    const all = (what, how) => [...document.querySelectorAll(what)].filter((e) => e.getClientRects().length).map(how);
    return [
        all(".zoti-explorer input", (e) => [e.ariaLabel, e.value, e.getAttribute("aria-valuetext")]),
        all(".zoti-explorer img", (e) => [e.alt, e.src]),
        all(".zoti-dot", (e) => [e.getAttribute("cx"), e.getAttribute("cy")]),
        all(".zoti-goal", (e) => e.innerText),
        all(".zoti-choices button", (e) => [e.innerText, e.ariaPressed]),
        all(".zoti-curve circle", (e) => e.ariaValueNow),
    ];
}"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a notebook in a JupyterLab of its own."""
    folder = tmp_path_factory.mktemp("lab")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in (SHOW, TELL)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, folder / "figures.ipynb")
    how = {"port": 0, "ip": "127.0.0.1", "root_dir": folder, "token": "", "open_browser": False, "allow_root": True}
    options = [f"--ServerApp.{name}={value}" for name, value in how.items()]
    homes = {name: str(folder / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR")}
    environment = os.environ | homes | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-m", "jupyterlab", *options, "--LabApp.news_url=None"],
                          stderr=subprocess.PIPE, text=True, env=environment) as server:  # fmt: skip
        found = next(filter(None, (re.search(r"http://127\.0\.0\.1:\d+/", line) for line in server.stderr)))
        yield f"{found[0]}lab/tree/figures.ipynb?reset"
        server.terminate()


def use(page):
    """What a reader does with the figures; then all that they say."""
    first, second = page.locator(".zoti-explorer").all()
    for slider, keys in zip(first.locator("input").all(), (["ArrowRight"] * 2, ["ArrowRight"]), strict=True):
        for key in keys:
            slider.press(key)
    second.locator("input").press("End")
    page.get_by_role("button", name="a hundred times").click()
    page.locator(".zoti-curve circle").nth(1).press("ArrowUp")
    page.locator(".zoti-curve circle").nth(2).press("ArrowDown")
    page.locator(".zoti-done").click()
    return page.evaluate(TOLD)


def test_a_figure_says_under_a_kernel_what_it_says_on_a_page(lab, tmp_path):
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 3000})  # a notebook renders what is in the window
        page.set_default_timeout(90_000)
        page.goto(lab)
        page.get_by_text("| Idle").wait_for()  # before there is a kernel, nothing runs
        first, second = (page.locator(".jp-CodeCell .cm-content").nth(i) for i in range(2))
        first.click()
        page.keyboard.press("Shift+Enter")
        page.locator(".zoti-curve").wait_for()
        live = use(page)
        second.click()
        page.keyboard.press("Shift+Enter")
        printed = page.locator(".jp-OutputArea-output", has_text="told [").inner_text()
        values = json.loads(printed.removeprefix("told "))
        page.goto(write(tmp_path).as_uri())
        page.wait_for_function("document.documentElement.dataset.zoti == 'ready'")
        page.locator(".zoti-cover:not([hidden]) button").evaluate_all("all => all.forEach((one) => one.click())")
        static = use(page)
        browser.close()
    assert live == static
    sliders, _, _, _, choices, knobs = live
    assert values[:3] == [[2, 1], [2], "a hundred times"] and [v for _, v, _ in sliders] == ["2", "1", "2"]
    assert values[3] == [float(v) for v in knobs] and ["a hundred times", "true"] in choices
