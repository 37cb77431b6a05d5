"""Debian's own Firefox, driven by WebDriver BiDi: the standard's commands as they are, over a socket.

Playwright drives only a Firefox of its own making; this one is what readers have.
"""

import json
import shutil
import time
from pathlib import Path

from tests.book.remote import Remote

FIREFOX = shutil.which("firefox-esr") or shutil.which("firefox")
KEYS = {"ArrowRight": "\ue014", "ArrowLeft": "\ue012", "ArrowUp": "\ue013", "Tab": "\ue004", "Enter": "\ue007"}

# No network but this machine's own: a proxy that is not there. It answers for what is asked in the background, too.
OFFLINE = {"network.proxy.type": 1, "network.proxy.http": "127.0.0.1", "network.proxy.http_port": 9,
           "network.proxy.ssl": "127.0.0.1", "network.proxy.ssl_port": 9}  # fmt: skip


class Firefox(Remote):
    """One window. `do` sends a command of the standard; the rest are the few that a reader's hands need."""

    def __init__(self, width=1280, height=900):
        super().__init__()
        self.errors: list[str] = []
        self.asked: list[str] = []
        self.downloads = Path(self.profile.name) / "downloads"
        prefs = {**OFFLINE, "browser.download.folderList": 2, "browser.download.dir": str(self.downloads)}
        said = [f"user_pref({json.dumps(name)}, {json.dumps(value)});\n" for name, value in prefs.items()]
        (Path(self.profile.name) / "user.js").write_text("".join(said))
        options = ["--headless", "--no-remote", "--profile", self.profile.name, "--remote-debugging-port", "0"]
        self.start(FIREFOX, *options, path="/session")
        self.do("session.new", capabilities={})
        self.do("session.subscribe", events=["log.entryAdded", "network.beforeRequestSent"])
        self.window = self.do("browsingContext.getTree")["contexts"][0]["context"]
        self.do("browsingContext.setViewport", context=self.window, viewport={"width": width, "height": height})

    def heard(self, told):
        if told.get("method") == "log.entryAdded" and told["params"]["level"] == "error":
            self.errors.append(told["params"]["text"])
        if told.get("method") == "network.beforeRequestSent":
            self.asked.append(told["params"]["request"]["url"])

    def do(self, method, **params):
        told = self.send(method, params)
        if told["type"] == "error":
            raise RuntimeError(f"{method}: {told['message']}")
        return told["result"]

    def goto(self, address):
        self.do("browsingContext.navigate", context=self.window, url=address, wait="complete")

    def ask(self, expression):
        """The value of a JavaScript expression, awaited; anything that JSON can say."""
        program = f"(async () => JSON.stringify(await ({expression})))()"
        told = self.do("script.evaluate", expression=program, target={"context": self.window}, awaitPromise=True)
        if told["type"] == "exception":
            raise RuntimeError(told["exceptionDetails"]["text"])
        return json.loads(told["result"].get("value", "null"))

    def press(self, *keys):
        actions = [{"type": kind, "value": KEYS[key]} for key in keys for kind in ("keyDown", "keyUp")]
        keyboard = {"type": "key", "id": "keys", "actions": actions}
        self.do("input.performActions", context=self.window, actions=[keyboard])

    def drag(self, *points, kind="mouse"):
        """Press at the first of these places in the window, move along the others, let go."""
        (x, y), *rest = [(round(x), round(y)) for x, y in points]
        moves = [{"type": "pointerMove", "x": a, "y": b} for a, b in rest]
        actions = [{"type": "pointerMove", "x": x, "y": y}, {"type": "pointerDown", "button": 0}, *moves]
        hand = {"type": "pointer", "id": kind, "parameters": {"pointerType": kind}}
        self.do("input.performActions", context=self.window,
                actions=[hand | {"actions": [*actions, {"type": "pointerUp", "button": 0}]}])  # fmt: skip

    def download(self, expression):
        """The file that comes of what this does to the page, its name and all that is in it."""
        before = set(self.downloads.glob("*"))
        self.ask(expression)
        for _ in range(600):
            found = set(self.downloads.glob("*")) - before
            if (
                len(found) == 1 and (path := found.pop()).stat().st_size
            ):  # while it comes in there are two, or none of it
                return path.name, path.read_bytes()
            time.sleep(0.1)
        raise AssertionError(f"nothing was downloaded by {expression}")

    def hide(self):
        """Another tab comes to the front."""
        self.do("browsingContext.create", type="tab")

    def show(self):
        self.do("browsingContext.activate", context=self.window)
