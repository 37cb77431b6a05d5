"""Chromium, driven by playwright, in the words of `tests.book.firefox`."""

import shutil
import time
from pathlib import Path

import pytest

from tests.book.remote import Remote

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")

NAMES = ["chromium", "chromium-browser", "google-chrome"]
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)


class Chromium:
    """As Firefox in its few words, so that one test drives either. asked: all it has asked for, by address."""

    def __init__(self, width=1280, height=900, touch=False, offline=False):
        self.playwright = playwright.sync_playwright().start()
        self.browser = self.playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        how = {"viewport": {"width": width, "height": height}, "has_touch": touch, "offline": offline}
        self.context = self.browser.new_context(**how)
        self.page, self.errors, self.asked, self.touch = self.context.new_page(), [], [], touch
        self.page.on("console", lambda message: message.type == "error" and self.errors.append(message.text))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))

    def goto(self, address):
        self.page.goto(address)

    def ask(self, expression):
        return self.page.evaluate(expression)

    def press(self, *keys):
        for key in keys:
            self.page.keyboard.press(key)

    def drag(self, *points):
        if self.touch:
            session = self.context.new_cdp_session(self.page)
            moves = [("touchMove", [place]) for place in points[1:]]
            for kind, places in [("touchStart", points[:1]), *moves, ("touchEnd", [])]:
                touches = [{"x": x, "y": y} for x, y in places]
                session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touches})
            return
        (x, y), *rest = points
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        for a, b in rest:
            self.page.mouse.move(a, b)
        self.page.mouse.up()

    def download(self, expression):
        """The file that comes of what this does to the page, its name and all that is in it."""
        with self.page.expect_download() as told:
            self.page.evaluate(expression)
        return told.value.suggested_filename, Path(told.value.path()).read_bytes()

    def close(self):
        self.browser.close()
        self.playwright.stop()


class Tabs(Remote):
    """Chromium without playwright, which keeps every page in front: a window with one tab that can be hidden."""

    def __init__(self):
        super().__init__()
        options = ["--headless", "--no-sandbox", f"--user-data-dir={self.profile.name}", "--remote-debugging-port=0"]
        self.start(CHROMIUM, *options)
        self.tab = self.do("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.do("Target.attachToTarget", targetId=self.tab, flatten=True)["sessionId"]

    def do(self, method, **params):
        told = self.send(method, params, **({} if method.startswith("Target.") else {"sessionId": self.session}))
        if "error" in told:
            raise RuntimeError(f"{method}: {told['error']['message']}")
        return told["result"]

    def goto(self, address):
        self.do("Page.navigate", url=address)
        while self.ask("document.readyState") != "complete":
            time.sleep(0.1)

    def ask(self, expression):
        told = self.do("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in told:
            raise RuntimeError(told["exceptionDetails"]["text"])
        return told["result"].get("value")

    def hide(self):
        self.do("Target.createTarget", url="about:blank")

    def show(self):
        self.do("Target.activateTarget", targetId=self.tab)
