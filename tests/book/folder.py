"""A page from a folder, with the engine beside it, as in a built site."""

import importlib.util
import json
from pathlib import Path

import pytest

from zoti.page import FRONT

ROOT = Path(__file__).parents[2]


def lay(site, *figures, head="", scripts=None):
    """Write page.html into a folder: these figures' markup, and what they need. scripts: further ones, by name."""
    spec = importlib.util.spec_from_file_location("engine", ROOT / "book" / "engine.py")
    engine = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "book")
        spec.loader.exec_module(engine)
    static = engine.bring(site, ROOT / "_build" / "engine").parent
    modules = {path.stem: path.read_text() for path in FRONT.glob("*.js")}
    sources = {
        "zoti-modules": f"window.zotiModules = {json.dumps(modules)};\n",
        "zoti": (ROOT / "assets" / "zoti.js").read_text(),
    } | (scripts or {})
    for name, source in sources.items():
        (static / f"{name}.js").write_text(source)
    asked = "".join(f'<script src="_static/{name}.js"></script>' for name in sources)
    (site / "page.html").write_text(
        '<!doctype html><meta charset="utf-8"><title>t</title><link rel="icon" href="data:,">'
        f"{head}{asked}<article>{''.join(figures)}</article>"
    )
