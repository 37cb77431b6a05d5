"""A browser driven over a socket: what WebDriver BiDi and Chromium's own protocol have in common."""

import asyncio
import itertools
import json
import re
import subprocess
import tempfile

from tornado.websocket import websocket_connect


class Remote:
    """A process with a profile of its own, and the socket on which it takes commands."""

    def __init__(self):
        self.loop, self.number = asyncio.new_event_loop(), itertools.count(1)
        self.profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)

    def start(self, *command, path=""):
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        found = next(filter(None, (re.search(r"listening on (ws://\S+)", line) for line in self.process.stderr)))
        self.socket = self.wait(websocket_connect, found[1] + path)

    def wait(self, function, *arguments):
        async def within():
            return await function(*arguments)

        return self.loop.run_until_complete(within())

    def send(self, method, params, **inside):
        """The answer to a command, error or not; what happens meanwhile is given to `heard`."""
        number = next(self.number)
        self.wait(self.socket.write_message, json.dumps({"id": number, "method": method, "params": params} | inside))
        while True:
            told = json.loads(self.wait(self.socket.read_message))
            self.heard(told)
            if told.get("id") == number:
                return told

    def heard(self, told):
        pass

    def close(self):
        self.socket.close()
        self.process.terminate()
        self.process.wait(20)
        self.process.stderr.close()
        self.loop.close()
        self.profile.cleanup()
