"""The book's table: `python benchmarks/pages.py`, once the book is built. A minute of one idle core, and Chromium.

Every page as a reader gets it who comes for the first time, over a line of 9 Mbit/s and 40 ms that Chromium feigns,
from a host that compresses: all that crosses the wire, what stands in the page itself, its elements, and the seconds
until the first figure is there to be seen (a page without one: its first words). The book asks for 1.5 MB and 1.5 s,
for 0.6 MB on the index. Seconds are of this machine, today.
"""

import gzip
import re
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[1]
HTML = ROOT / "_build" / "html"
CHROMIUM = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])))
PAGES = [f"{name}.html" for name in re.findall(r"(?:file|root): *(\S+)", (ROOT / "_toc.yml").read_text())]
LINE = {"offline": False, "latency": 40, "downloadThroughput": 9e6 / 8, "uploadThroughput": 9e6 / 8}

# When a frame first has a figure that is loaded, and words.
WATCH = """
    const look = () => {
        const figure = [...document.querySelectorAll("article :is(img, svg)")].find((e) => e.getClientRects().length);
        if (figure && figure.complete !== false) window.figureAt ??= performance.now();
        if (document.querySelector("article h1")) window.wordsAt ??= performance.now();
        if (!window.figureAt) requestAnimationFrame(look);
    };
    requestAnimationFrame(look);
"""


class Compressing(SimpleHTTPRequestHandler):
    """Files as most hosts send them; fonts and pictures are compressed already."""

    def do_GET(self):
        path = Path(self.translate_path(self.path))
        body, kind = path.read_bytes(), self.guess_type(path)
        packed = bool(re.search("html|css|javascript|svg|json", kind))
        self.send_response(200)
        self.send_header("Content-Type", kind)
        if packed:
            body = gzip.compress(body)
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def measured(browser, host: str, name: str) -> tuple[float, int, float]:
    """kB over the wire, elements, and seconds to the first figure, of one page."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page, sizes = context.new_page(), {}
    line = context.new_cdp_session(page)
    line.send("Network.enable")
    line.send("Network.emulateNetworkConditions", LINE)
    line.on("Network.loadingFinished", lambda told: sizes.update({told["requestId"]: told["encodedDataLength"]}))
    page.add_init_script(WATCH)
    page.goto(f"{host}/{name}", wait_until="networkidle", timeout=120_000)
    seen = page.evaluate("[window.figureAt ?? window.wordsAt, document.querySelectorAll('*').length]")
    context.close()
    return sum(sizes.values()) / 1e3, seen[1], seen[0] / 1e3


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Compressing, directory=HTML))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"{'':52}  wire kB  page kB  elements  first figure s")
    with sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for name in PAGES:
            wire, elements, seconds = measured(chromium, f"http://127.0.0.1:{server.server_port}", name)
            whole = (HTML / name).stat().st_size / 1e3
            print(f"{name:52}  {wire:7.0f}  {whole:7.0f}  {elements:8}  {seconds:14.2f}", flush=True)
        chromium.close()
    server.shutdown()
