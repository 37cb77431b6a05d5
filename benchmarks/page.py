"""What the page learns, and what it does not: `python benchmarks/page.py` -> data/results/page.jsonl and page.webp.

It opens the index of the built book (`make book`) in Chromium, from the folder, and does what a reader would: gives it
emoji of a font that tiny-sd has never seen and drawings made with its pen, lets it learn by Gauss-Newton, and writes
what it is to paint, for the new word and for the noun that it began with: the five settings it was given, one seed. The
judge compares each painting with what was given in that setting. The emoji are drawn by lot from all of OpenMoji's
but flags and signs, and the font of them is made by OpenMoji's own tool (`pip install nanoemoji`; it is npm's registry
that has the drawings). Then words of the book's own subjects, by both ways, beside zoti's with the same settings
(`OnnxLoss`): loss on truth and paired DINO, as `benchmarks/beyond.py` judges.

What a run gave is kept in _build/page, so that a stopped benchmark goes on; it takes an hour. `--times` measures the
rest, in Chromium and Firefox, on a machine with nothing else to do: seconds and memory.
"""

import argparse
import base64
import io
import json
import math
import os
import random
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from functools import cache
from gzip import compress
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil
import torch
from beyond import OURS, PAPER, TINY, adam, newton, painting
from PIL import Image, ImageDraw, ImageFont
from runs import graph, judges, made, pipeline  # beside this file, as beyond is
from safetensors.torch import load

from book.npm import bring
from tests.book.chromium import Chromium
from tests.book.firefox import Firefox
from zoti import ConceptToken, DenoisingLoss, PartialUniform, Stratified, cache_latents
from zoti.data import DATA, load_subject
from zoti.engine import OnnxLoss
from zoti.model import model_key
from zoti.page import LESSONS

ROOT = Path(__file__).parent.parent
KEPT, BOOK = ROOT / "_build" / "page", ROOT / "_build" / "html" / "book"
OUT = DATA / "results" / "page.jsonl"
SHEET = DATA / "results" / "page.webp"
PACKAGE = "openmoji-17.0.0"
SHA512 = "EBnYrNGdcdw+OSXmENeNE1yBNRu6tOraTmoOyUbJkTmvT/+XETp8RZLSJFzD3lrPc5N9CzsyPnRTk0Vp4UaI9w=="
KINDS = ["activities", "animals-nature", "food-drink", "objects", "people-body", "smileys-emotion", "travel-places"]
EMOJI = 20
SUBJECTS, SEEDS = LESSONS[:5], range(3)
WAYS = {"gauss-newton": OURS, "zoodip": PAPER}  # the page's names, and ours
PATIENCE = 1800  # seconds

# ---- What it is given ------------------------------------------------------------------------------------------------


def emoji() -> dict[str, str]:
    """Emoji by name, drawn by lot; a font of them lies in KEPT then, and browsers started from here have no other."""
    (told,) = bring(PACKAGE, SHA512, ("data/openmoji.json",), KEPT)
    known = [one for one in json.loads(told.read_text()) if one["group"] in KINDS and "-" not in one["hexcode"]]
    drawn = random.Random(0).sample(known, EMOJI)
    folder = KEPT / "font"
    if not (folder / "OpenMoji.ttf").exists():
        folder.mkdir(exist_ok=True)
        drawings = bring(PACKAGE, SHA512, tuple(f"color/svg/{one['hexcode']}.svg" for one in drawn), KEPT)
        how = ["--color_format=glyf_colr_1", "--family=OpenMoji", "--output_file=OpenMoji.ttf"]
        with TemporaryDirectory() as build:
            subprocess.run(["nanoemoji", f"--build_dir={build}", *how, *drawings], check=True)
            shutil.copy(Path(build) / "OpenMoji.ttf", folder)
    settings = KEPT / "fonts.conf"
    settings.write_text(
        f"<fontconfig><dir>{folder}</dir><dir>/usr/share/fonts/truetype/dejavu</dir>"
        f"<cachedir>{KEPT / 'cache'}</cachedir></fontconfig>"
    )
    os.environ["FONTCONFIG_FILE"] = str(settings)
    return {one["annotation"]: one["emoji"] for one in drawn}


def arc(x: float, y: float, width: float, height: float, start: float = 0, end: float = 360) -> list:
    """Points of an ellipse, between two angles in degrees."""
    angles = [math.radians(start + (end - start) * i / 24) for i in range(25)]
    return [(x + width / 2 * math.cos(a), y + height / 2 * math.sin(a)) for a in angles]


# By name: strokes of the panel's pen, each a colour, the pen's width and where it goes, on a sheet of 256.
DRAWINGS: dict[str, list[tuple[str, int, list]]] = {
    "a cup": [
        ("#2563eb", 22, arc(178, 130, 60, 56, -80, 80)),
        *(("#2563eb", 40, [(x, 90), (x + (110 - x) / 8, 178)]) for x in (70, 95, 125, 155)),
        ("#5b3a1e", 14, arc(112, 82, 90, 14)),
    ],
    "a fish": [
        ("#f97316", 64, [(90, 128), (140, 128)]), ("#f97316", 40, arc(115, 128, 90, 50)),
        ("#f97316", 22, [(170, 128), (212, 92), (208, 166), (170, 128)]),
        ("#7c3aed", 12, [(112, 86), (112, 170)]), ("#7c3aed", 12, [(140, 88), (140, 168)]),
        ("#ffffff", 22, [(76, 118), (76, 119)]), ("#000000", 10, [(76, 118), (76, 119)]),
    ],
    "a house": [
        *(("#fde68a", 48, [(x, 138), (x, 192)]) for x in (82, 112, 144, 174)),
        ("#dc2626", 30, [(52, 112), (128, 50), (204, 112), (52, 112)]), ("#dc2626", 40, [(104, 96), (152, 96)]),
        ("#7c4a21", 28, [(128, 164), (128, 200)]), ("#60a5fa", 22, [(88, 146), (88, 147)]),
        ("#60a5fa", 22, [(168, 146), (168, 147)]),
    ],
    "a flower": [
        ("#15803d", 14, [(128, 120), (126, 180), (132, 232)]), ("#15803d", 20, [(130, 206), (166, 182)]),
        *(("#ec4899", 52, [p, p]) for p in arc(128, 88, 92, 92)[:-1:4]), ("#facc15", 46, [(128, 88), (129, 88)]),
    ],
    "a cat": [
        ("#6b7280", 24, [(66, 106), (70, 52), (112, 84)]), ("#6b7280", 24, [(190, 106), (186, 52), (144, 84)]),
        ("#6b7280", 60, arc(128, 132, 92, 70)), ("#6b7280", 64, [(110, 132), (146, 132)]),
        ("#a3e635", 22, [(98, 120), (99, 120)]), ("#a3e635", 22, [(158, 120), (159, 120)]),
        ("#000000", 9, [(98, 120), (98, 124)]), ("#000000", 9, [(158, 120), (158, 124)]),
        ("#f9a8d4", 14, [(126, 146), (130, 146)]),
        *(("#111827", 4, [(128 + s * 34, 150 + d), (128 + s * 88, 146 + 3 * d)]) for s in (-1, 1) for d in (0, 6)),
    ],
    "a boat": [
        ("#7c4a21", 30, [(60, 180), (84, 204), (172, 204), (196, 180), (60, 180)]),
        ("#7c4a21", 8, [(128, 44), (128, 180)]), ("#dc2626", 20, [(144, 58), (186, 150), (144, 150), (144, 62)]),
        ("#dc2626", 24, [(152, 100), (164, 140)]), ("#f59e0b", 18, [(112, 80), (84, 150), (112, 150), (112, 84)]),
    ],
}  # fmt: skip

# ---- A reader at the panel ------------------------------------------------------------------------------------------

# Notes when each request is answered; a reader's seed is always 0, so a run's own comes in here.
WATCHED = """(() => {
  const send = Worker.prototype.postMessage;
  [window.noted, window.how] = [[], {}];
  Worker.prototype.postMessage = function (message, ...rest) {
    if (message.ask === "learn") message = { ...message, ...window.how };
    if (message.number) {
      const note = { ask: message.ask, began: performance.now() };
      window.noted.push(note);
      this.addEventListener("message", ({ data: { number, told, passes } }) => {
        if (number === message.number && told === "done") Object.assign(note, { ended: performance.now(), passes });
      });
    }
    return send.call(this, message, ...rest);
  };
})()"""
TOLD = "document.querySelector('.zoti-told').textContent"
GO, AWAY = (f"document.querySelector('{name}').click()" for name in (".zoti-go", ".zoti-word"))


class Reader:
    """One who has the page open. how: of learning, what the panel itself leaves as it is."""

    def __init__(self, window, page: Path, **how) -> None:
        self.window = window
        window.goto(page.as_uri())
        self.until("document.querySelector('.zoti-go')?.textContent")
        window.ask(f"{WATCHED}, window.how = {json.dumps(how)}")

    def until(self, expression: str) -> None:
        end = time.monotonic() + PATIENCE
        while not self.window.ask(expression):
            if time.monotonic() > end:
                raise TimeoutError(self.window.ask(TOLD))
            time.sleep(0.5)

    def does(self, expression: str, hoped: str) -> str:
        """What the panel says when it has done this; a RuntimeError if that does not begin as hoped."""
        self.window.ask(expression)
        self.until("document.querySelector('.zoti-teach').dataset.state == 'idle'")
        told = self.window.ask(TOLD)
        if not told.startswith(hoped):
            raise RuntimeError(told)
        return told

    def sets(self, name: str, value: str, event: str = "change") -> None:
        found = f"document.querySelector('.zoti-{name}')"
        self.window.ask(f"{found}.value = {json.dumps(value)}, {found}.dispatchEvent(new Event('{event}')), 0")

    def pictures(self, names: str) -> np.ndarray:
        """The canvases with this selector: (n, side, side, 3)."""
        bytes_ = "(c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data])"
        found = np.array(self.window.ask(f"[...document.querySelectorAll('{names}')].map({bytes_})"), np.uint8)
        side = math.isqrt(found.shape[1] // 4)
        return found.reshape(-1, side, side, 4)[..., :3]

    def draws(self, strokes: list) -> None:
        self.window.ask("document.querySelector('.zoti-thing').scrollIntoView({ block: 'center' })")
        box = self.window.ask(
            "(({ x, y, width }) => [x, y, width])(document.querySelector('.zoti-thing').getBoundingClientRect())"
        )
        for colour, width, points in strokes:
            self.sets("colour", colour)
            self.sets("pen", str(width))
            self.window.drag(*((box[0] + x * box[2] / 256, box[1] + y * box[2] / 256) for x, y in points))

    def noted(self, ask: str) -> dict:
        """When the last request of this kind began and was answered, in seconds, and its passes."""
        note = self.window.ask(f"window.noted.findLast(one => one.ask == '{ask}')")
        return {"seconds": (note["ended"] - note["began"]) / 1000, "passes": note.get("passes")}


def kept(name: str, make: Callable[..., dict], *given) -> dict:
    """What a run gave, if it was made before with these weights; or it is made."""
    path = KEPT / model_key(pipeline()) / f"{name.replace(' ', '-')}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".part")
        draft.write_text(json.dumps(make(*given)))
        draft.replace(path)
        print(path.stem, flush=True)
    return json.loads(path.read_text())


@cache
def reader(page: Path) -> Reader:
    """One for all that is learned: the model is loaded once."""
    return Reader(Chromium(offline=True), page, look=None)


def thing(page: Path, kind: str, name: str, given) -> dict:
    """Teach it an emoji or a drawing; what was given, and what it paints for the noun and for the word."""
    one = reader(page)
    one.sets("what", kind)
    one.sets("way", "gauss-newton")
    if kind == "emoji":
        one.sets("emoji", given, "input")
    else:
        one.draws(given)
    one.does(GO, "To the model it looks most like")
    captions = one.window.ask("[...document.querySelectorAll('.zoti-shown canvas')].map(c => c.ariaLabel)")
    shown = {"given": one.pictures(".zoti-shown canvas"), "noun": [], "word": []}
    learned = one.does(GO, "Learned in")
    for caption in captions:
        line = f"document.querySelector('.zoti-write input').value = {json.dumps(caption)}"
        one.does(f"{line}, document.querySelector('.zoti-write').requestSubmit()", "“")
        shown["noun"] += [*one.pictures(".zoti-before")]
        shown["word"] += [*one.pictures(".zoti-after")]
    if one.window.errors:
        raise RuntimeError(one.window.errors)
    whole = Image.fromarray(np.concatenate([np.concatenate([*row], 1) for row in shown.values()]))
    whole.save(buffer := io.BytesIO(), "png")
    return {
        "kind": kind,
        "thing": name,
        "noun": one.window.ask("document.querySelector('.zoti-noun').value"),
        "passes": int(learned.split()[2].replace(",", "")),
        "captions": captions,
        "made": {**made(), "browser": f"Chromium {one.window.browser.version}"},
        "sheet": base64.b64encode(buffer.getvalue()).decode(),
    }


def rows(run: dict) -> np.ndarray:
    """A run's pictures: (3, 5, side, side, 3), given, of the noun, of the word."""
    sheet = np.array(Image.open(io.BytesIO(base64.b64decode(run["sheet"]))))
    side = sheet.shape[0] // 3
    return sheet.reshape(3, side, -1, side, 3).swapaxes(1, 2)


def judged(runs: list[dict]) -> list[dict]:
    """Each run's line: paired likeness, and for how many of its paintings nothing else that was given is liker."""
    features = []
    for run in runs:
        pictures = [Image.fromarray(one) for row in rows(run) for one in row]
        features.append(torch.nn.functional.normalize(judges().dino_features(pictures), dim=1).view(3, 5, -1))
    given, noun, word = torch.stack(features, 1)  # each (runs, 5, f)
    alike = torch.einsum("rsf,qsf->rsq", word, given)
    own = (alike.argmax(2) == torch.arange(len(runs))[:, None]).sum(1)
    return [
        {name: run[name] for name in ("kind", "thing", "noun", "passes")}
        | {
            "paired DINO": round((word[i] * given[i]).sum(1).mean().item(), 3),
            "of the noun": round((noun[i] * given[i]).sum(1).mean().item(), 3),
            "recognised": int(own[i]), "weights": model_key(pipeline()), "made": run["made"],
        }
        for i, run in enumerate(runs)
    ]  # fmt: skip


def sheet(runs: list[dict], lines: list[dict], across: int = 3) -> Image.Image:
    """All of them: what was given above what the page paints for its word, with the judge's likeness."""
    cell, foot = 60, 18
    width, height = 5 * cell + 12, 2 * cell + foot + 8
    whole = Image.new("RGB", (across * width - 12, -(-len(runs) // across) * height), "white")
    pen, font = ImageDraw.Draw(whole), ImageFont.load_default(12)
    for i, (run, line) in enumerate(zip(runs, lines, strict=True)):
        left, top = i % across * width, i // across * height
        for j, row in enumerate(rows(run)[[0, 2]]):
            for k, one in enumerate(row):
                whole.paste(
                    Image.fromarray(one).resize((cell, cell), Image.Resampling.LANCZOS),
                    (left + k * cell, top + j * cell),
                )
        pen.text((left + 2, top + 2 * cell + 1), f"{line['thing'][:32]}  {line['paired DINO']:.2f}", "#1f2a37", font)
    return whole


# ---- Beside zoti -----------------------------------------------------------------------------------------------------


def word(page: Path, way: str, subject: str, seed: int) -> dict:
    """The word that the page learns of one of the book's own subjects."""
    one = reader(page)
    one.window.ask(f"window.how.seed = {seed}")
    one.sets("what", str(LESSONS.index(subject)))
    one.sets("way", way)
    one.does(GO, "Learned in")
    (vector,) = load(one.window.download(AWAY)[1]).values()
    return {"word": vector.flatten().tolist(), "passes": one.noted("learn")["passes"]}


def beside(page: Path, way: str, name: str, seed: int) -> dict:
    """The page's word, zoti's and the class word, judged alike."""
    subject, pipe = load_subject(name), pipeline()
    token = ConceptToken(pipe, "<new>", subject.class_word, replace=True)
    there = kept(f"word-{way}-{name}-{seed}", word, page, way, name, seed)

    def objective(pictures, captions, timesteps) -> OnnxLoss:
        return OnnxLoss(DenoisingLoss(pipe, token, cache_latents(pipe, pictures), captions, timesteps), graph())

    window = PartialUniform(TINY.low, TINY.high)
    asked = objective(subject.references, subject.captions, window)
    how = {
        "zoodip": lambda: adam(asked, there["passes"], seed, TINY.lr),
        "gauss-newton": lambda: newton(asked, there["passes"], seed),
    }
    *_, last = how[way]()
    truth = objective(subject.truth, subject.truth_captions, Stratified(window))
    words = {
        "page": torch.tensor(there["word"]).view_as(token.initial),
        "zoti": last.theta,
        "class word": token.initial,
    }
    losses = truth.mean(torch.stack([*words.values()]), truth.bank(64, torch.Generator().manual_seed(100))).tolist()
    line = {"kind": "word", "method": WAYS[way], "subject": name, "seed": seed, "passes": there["passes"]}
    for (who, theta), loss in zip(words.items(), losses, strict=True):
        liked = painting(pipe, token, theta, subject, seed, (name,))["paired DINO"]
        line |= {who: {"loss": round(loss, 5), "paired DINO": round(liked, 3)}}
    return line | {"evaluations of zoti": last.evaluations, "weights": model_key(pipe), "made": made()}


# ---- Times and memory ------------------------------------------------------------------------------------------------


def held() -> float:
    """Megabytes that all processes started from here hold, each shared page counted once."""
    total = 0
    for process in psutil.Process().children(recursive=True):
        try:
            total += process.memory_full_info().pss
        except psutil.Error:  # it has ended meanwhile
            continue
    return total / 1e6


class Peak(threading.Thread):
    """The most that was held while this ran, above what was before."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.before, self.most, self.over = held(), 0.0, threading.Event()
        self.start()

    def run(self) -> None:
        while not self.over.wait(0.3):
            self.most = max(self.most, held())

    def end(self) -> float:
        self.over.set()
        self.join()
        return self.most - self.before


def times(page: Path) -> list[dict]:
    """A line for each browser: what a reader waits for. Memory has a visit of its own, for looking takes time."""
    (folder,) = (found for above in page.parents if (found := above / "_static" / "learn").exists())
    sent = sum(len(compress(path.read_bytes())) for path in folder.glob("*.js"))
    lines = []
    for name, browser in {"Chromium": Chromium, "Firefox": Firefox}.items():
        line: dict = {"kind": "times", "browser": name, "MB fetched": round(sent / 1e6, 1)}
        for way, method in WAYS.items():
            for look, what in (({"look": None}, "ms a step"), ({}, "seconds to a word")):
                window = browser()
                try:
                    visitor = Reader(window, page, **look)
                    visitor.sets("way", way)
                    told = visitor.does(GO, "Learned in")
                    learned, loaded = visitor.noted("learn"), visitor.noted("load")
                    if look:
                        steps = learned["passes"] // {"zoodip": 3, "gauss-newton": 5}[way]
                        line[f"{what}, {method}"] = round(1000 * learned["seconds"] / steps, 1)
                    else:
                        line[f"{what}, {method}"] = round(learned["seconds"], 1)
                        line["seconds to wake up"] = round(loaded["seconds"], 1)
                    print(name, told, learned, loaded, flush=True)
                finally:
                    window.close()
        window = browser()
        try:
            visitor, peak = Reader(window, page), Peak()
            visitor.sets("way", "gauss-newton")
            visitor.does(GO, "Learned in")
            line["MB of memory"] = round(peak.end())
        finally:
            window.close()
        lines.append(line | {"weights": model_key(pipeline()), "made": made()})
    return lines


def keep(*lines: dict) -> None:
    """Write these lines, in the place of those that tell of the same; what other weights gave goes."""

    def what(line: dict) -> tuple:
        return tuple(line.get(name) for name in ("kind", "thing", "method", "subject", "seed", "browser"))

    there = [json.loads(line) for line in OUT.read_text().splitlines()] if OUT.exists() else []
    new = {what(line) for line in lines}
    left = [line for line in there if line["weights"] == model_key(pipeline()) and what(line) not in new]
    OUT.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in [*left, *lines]))


def table(lines: list[dict]) -> str:
    """Markdown: the page beside zoti, by method, and the browsers."""
    rows = [["", "", "truth loss", "paired DINO"], ["---"] * 4]
    for method in WAYS.values():
        runs = [line for line in lines if line["kind"] == "word" and line["method"] == method]
        for who in ("page", "zoti", "class word") if runs else ():
            means = [sum(run[who][what] for run in runs) / len(runs) for what in ("loss", "paired DINO")]
            rows.append([f"{method}, {len(runs)} runs", who, f"{means[0]:.5f}", f"{means[1]:.3f}"])
    seen = [line for line in lines if line["kind"] == "times"]
    whole = ["\n".join("| " + " | ".join(row) + " |" for row in rows)]
    if seen:
        names = [name for name in seen[0] if name not in ("kind", "browser", "weights", "made")]
        rows = [["", *(line["browser"] for line in seen)], ["---"] * (len(seen) + 1)]
        rows += [[name, *(str(line[name]) for line in seen)] for name in names]
        whole.append("\n".join("| " + " | ".join(row) + " |" for row in rows))
    return "\n\n".join(whole)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--page", type=Path, default=BOOK / "index.html", help="the one with the panel")
    parser.add_argument("--times", action="store_true", help="seconds and memory, on a quiet machine; nothing else")
    parser.add_argument("--table", action="store_true", help="of what the file has; measure nothing")
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=WAYS, help="of learning the book's subjects")
    args = parser.parse_args()
    page = args.page.resolve()
    if args.times:
        keep(*times(page))
    elif not args.table:
        drawn = emoji()
        given = [("emoji", *one) for one in drawn.items()] + [("drawing", *one) for one in DRAWINGS.items()]
        runs = [kept(f"{kind}-{name}", thing, page, kind, name, what) for kind, name, what in given]
        lines = judged(runs)
        keep(*lines)
        sheet(runs, lines).save(SHEET, quality=40, method=6)
        for one in [(way, name, seed) for way in args.ways for seed in SEEDS for name in SUBJECTS]:
            keep(kept("-".join(map(str, one)), beside, page, *one))
    print(table([json.loads(line) for line in OUT.read_text().splitlines()]))


if __name__ == "__main__":
    main()
