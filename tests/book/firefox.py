"""Debian's own Firefox, driven by WebDriver BiDi: the standard's commands as they are, over a socket.

Playwright drives only a Firefox of its own making; this one is what readers have.
"""

import asyncio
import itertools
import json
import re
import shutil
import subprocess
import tempfile

from tornado.websocket import websocket_connect

FIREFOX = shutil.which("firefox-esr") or shutil.which("firefox")
KEYS = {"ArrowRight": "\ue014", "ArrowLeft": "\ue012", "ArrowUp": "\ue013", "Tab": "\ue004", "Enter": "\ue007"}


class Firefox:
    """One window. `do` sends a command of the standard; the rest are the few that a reader's hands need."""

    def __init__(self, width=1280, height=900):
        self.loop, self.number = asyncio.new_event_loop(), itertools.count(1)
        self.errors: list[str] = []
        self.profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        command = [FIREFOX, "--headless", "--no-remote", "--profile", self.profile.name, "--remote-debugging-port", "0"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            if found := re.search(r"WebDriver BiDi listening on (ws://\S+)", line):
                break
        self.socket = self.wait(websocket_connect, found[1] + "/session")
        self.do("session.new", capabilities={})
        self.do("session.subscribe", events=["log.entryAdded"])
        self.window = self.do("browsingContext.getTree")["contexts"][0]["context"]
        self.do("browsingContext.setViewport", context=self.window, viewport={"width": width, "height": height})

    def wait(self, function, *arguments):
        async def within():
            return await function(*arguments)

        return self.loop.run_until_complete(within())

    def do(self, method, **params):
        sent = next(self.number)
        self.wait(self.socket.write_message, json.dumps({"id": sent, "method": method, "params": params}))
        while True:
            told = json.loads(self.wait(self.socket.read_message))
            if told.get("method") == "log.entryAdded" and told["params"]["level"] == "error":
                self.errors.append(told["params"]["text"])
            if told.get("id") == sent:
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

    def close(self):
        self.socket.close()
        self.process.terminate()
        self.process.wait(20)
        self.process.stderr.close()
        self.loop.close()
        self.profile.cleanup()
