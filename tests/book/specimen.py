"""A page with one of every figure that answers, made as the book's pages are, but without a book around it."""

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from zoti.page import FRONT, Curve, Goal, claim, claims, explorer, linked, masthead, panels, picture, predict

ASSETS = Path(__file__).parents[2] / "assets"


def grey(value):
    return np.full((8, 8, 3), value, np.uint8)


def cells():
    """What the cells of a chapter put out, in their order."""
    yield masthead(5, "nothing")
    yield explorer(
        lambda a, b: panels([grey(a), grey(b)], ["left", "right"], alt=f"{{}} of {a} and {b}"),
        {"left": [0, 100, 200], "right": [50, 250]}, "Two greys.", "greys", play=True,
        goal=Goal("Make both bright.", lambda a, b: min(a, b) > 150, "At 200 and 250."),
    )  # fmt: skip
    fig, ax = plt.subplots()
    ax.plot([0, 1, 2], [2, 1, 0])
    falls = picture(fig, "a line that falls", follow=(ax, [0, 1, 2], [2, 1, 0]))
    yield linked("step", [0, 10, 20], [falls, [picture(grey(g), f"grey {g}") for g in (0, 99, 255)]], "Linked.", "both")
    yield predict("size", "How small is it?", ["ten times", "a hundred times"])
    yield panels([grey(7)], alt="what the first question hides")
    yield claim("It is small.", 100, above=50, mutated=1, mutation="itself", name="small", predicted="size",
                answer="a hundred times")  # fmt: skip
    yield predict("rise", "How does it rise?", Curve([1, 2, 3], "t", "loss", 0, 10))
    yield claim("It rises.", [1, 2, 3], above=0, mutated=[-1], mutation="time turned round", name="rises",
                predicted="rise", answer=[0, 5, 10])  # fmt: skip
    yield claims()


def write(folder: Path) -> Path:
    """The page, to be opened from its folder."""
    modules = {path.stem: path.read_text() for path in FRONT.glob("*.js")}
    (folder / "modules.js").write_text(f"window.zotiModules = {json.dumps(modules)};")
    for file in (FRONT / "page.css", ASSETS / "zoti.js"):
        (folder / file.name).write_text(file.read_text())
    shown = [thing._repr_mimebundle_()["text/html"] if hasattr(thing, "_repr_mimebundle_") else thing.markup
             for thing in cells()]  # fmt: skip
    body = "".join(f'<div class="cell"><div class="cell_output">{markup}</div></div>' for markup in shown)
    page = folder / "specimen.html"
    page.write_text(
        '<!doctype html><html lang="en" data-theme="light"><meta charset="utf-8"><title>Specimen</title>'
        '<link rel="icon" href="data:,"><meta name="viewport" content="width=device-width">'
        '<link rel="stylesheet" href="page.css"><script src="modules.js"></script><script src="zoti.js"></script>'
        f"<article><h1>Specimen</h1>{body}</article></html>"
    )
    return page


if __name__ == "__main__":
    print(write(Path(sys.argv[1])))
