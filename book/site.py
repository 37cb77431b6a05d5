"""What Sphinx does for this book beyond Jupyter Book's own: a small extension, named in _config.yml.

It runs on the executed copy of the book (see build.py) and reads nothing but what the chapters put out.
"""

import json
from pathlib import Path

from zoti.page import FRONT

LIVE = "data-zoti-live"  # marks what only a running notebook needs


def leave_out_the_kernels_part(app, name, source):
    """Drop an executed notebook's widget state, which only a kernel's front end reads, and the look it brings."""
    if not str(app.env.doc2path(name)).endswith(".ipynb"):
        return
    notebook = json.loads(source[0])
    notebook["metadata"].pop("widgets", None)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"] = [output for output in cell["outputs"] if LIVE not in json.dumps(output)]
    source[0] = json.dumps(notebook)


def write_front(app):
    """Bring the modules of figures that answer, as texts of one script: from file:// no module may be imported."""
    static = Path(app.outdir) / "_static"
    static.mkdir(parents=True, exist_ok=True)
    modules = {path.stem: path.read_text() for path in sorted(FRONT.glob("*.js"))}
    (static / "zoti-modules.js").write_text(f"window.zotiModules = {json.dumps(modules)};\n")
    (static / "zoti-page.css").write_text((FRONT / "page.css").read_text())


def scripts_where_there_is_something_to_run(app, page, template, context, doctree):
    if "zoti-widget" in context.get("body", ""):
        app.add_js_file("zoti-modules.js", priority=700)
    app.add_js_file("zoti.js", priority=800)


def setup(app):
    app.connect("source-read", leave_out_the_kernels_part)
    app.connect("builder-inited", write_front)
    app.connect("html-page-context", scripts_where_there_is_something_to_run)
    app.add_css_file("zoti-page.css", priority=600)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
