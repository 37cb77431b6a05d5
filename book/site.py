"""What Sphinx does for this book beyond Jupyter Book's own: a small extension, named in _config.yml.

It runs on the executed copy of the book (see build.py) and reads nothing but what the chapters put out: chapters,
figures and exercises get numbers, terms explain themselves in the margin, works are called by their authors, formulas
become MathML, claims join claims.json, and what the theme leaves wrong is mended.
"""

import html
import json
import os
import re
import zlib
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert
from pybtex.plugin import register_plugin
from pybtex.style.formatting.plain import Style
from pybtex.style.labels import BaseLabelStyle
from sphinx.util import logging
from sphinx.util.docutils import SphinxRole

from zoti.page import FRONT, Claim, words

LIVE = "data-zoti-live"  # marks what only a running notebook needs
CLAIM = "application/vnd.zoti.claim+json"
CLAIMS = '<div id="zoti-all-claims"></div>'
LETTERS = {"θ": "theta", "ϵ": "epsilon", "ε": "epsilon", "z": "z"}  # one colour each, in formulas as in prose

log = logging.getLogger(__name__)


# ------------------------------------------------------------------------------------------------ an executed notebook


def read(app, name, source):
    """Drop what only a kernel's front end reads: the widgets' state, and the look it brings. Keep the claims."""
    if not str(app.env.doc2path(name)).endswith(".ipynb"):
        return
    notebook = json.loads(source[0])
    notebook["metadata"].pop("widgets", None)
    claims = []
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"] = [output for output in cell["outputs"] if LIVE not in json.dumps(output)]
            claims += [output["data"].pop(CLAIM) for output in cell["outputs"] if CLAIM in output.get("data", {})]
    if not hasattr(app.env, "zoti_claims"):
        app.env.zoti_claims = {}
    app.env.zoti_claims[name] = claims
    source[0] = json.dumps(notebook)


def write_front(app):
    """Bring the modules of figures that answer, as texts of one script: from file:// no module may be imported."""
    static = Path(app.outdir) / "_static"
    static.mkdir(parents=True, exist_ok=True)
    modules = {path.stem: path.read_text() for path in sorted(FRONT.glob("*.js"))}
    (static / "zoti-modules.js").write_text(f"window.zotiModules = {json.dumps(modules)};\n")
    (static / "zoti-page.css").write_text((FRONT / "page.css").read_text())


def gather(env):
    """Every claim of the book in reading order, by chapter; what has left the book has left the list."""
    known = getattr(env, "zoti_claims", {})
    order = [name for name in env.toctree_includes.get(env.config.root_doc, []) if name in env.found_docs]
    order = [env.config.root_doc, *order, *sorted(env.found_docs - {env.config.root_doc, *order})]
    return {name: known[name] for name in order if known.get(name)}


def write_claims(app, error):
    if error is None and app.builder.format == "html":
        (Path(app.outdir) / "claims.json").write_text(json.dumps(gather(app.env), ensure_ascii=False, indent=1))


def read_again(app, env):
    """The page that lists all claims is new whenever any other is."""
    return [name for name in env.found_docs if name.endswith("claims")]


def table(env, page):
    """All claims of the book, each with its numbers, its mutation and a way to its card."""
    rows = []
    for name, claims in gather(env).items():
        title = html.escape(env.titles[name].astext())
        rows.append(f'<tr><th colspan="4" scope="rowgroup">{title}</th></tr>')
        for told in claims:
            place = os.path.relpath(f"{name}.html", Path(page).parent) + f"#claim-{told['name']}"
            made = Claim(**told)
            cells = [f"{made.values} {made.unit}", made.bound, f"{made.mutation}: {made.fallen}"]
            columns = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
            rows.append(f'<tr><td><a href="{place}">{words(made.sentence)}</a></td>{columns}</tr>')
    head = "<tr><th>Claim</th><th>Measured</th><th>Claimed</th><th>Under its mutation</th></tr>"
    return f'<table class="zoti-claims"><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table>'


# -------------------------------------------------------------------------------------------------- figures and terms


class Fig(SphinxRole):
    """{fig}`label` is a link that reads "Figure 3"; which number that is, is known when the page is whole."""

    def run(self):
        return [nodes.raw("", f'<a class="zoti-ref" href="#fig-{html.escape(self.text)}"></a>', format="html")], []


def numbered(body, page):
    """A page's captioned figures count from one, and every reference to one becomes its number.

    >>> body = '<figure class="zoti-figure" id="fig-a"><figure><figcaption>in</figcaption></figure>'
    >>> numbered(body + '<figcaption>A.</figcaption></figure><a class="zoti-ref" href="#fig-a"></a>', "p")
    '...<figcaption>in</figcaption></figure><figcaption><b class="zoti-number">Figure 1.</b> A.<...>Figure 1</a>'
    """
    inside, numbers, count = [], {}, 0

    def count_up(tag):
        nonlocal count
        if tag[0] == "</figure>":
            if inside:
                inside.pop()
        elif tag[0].startswith("<figure"):
            label = re.search(r'id="fig-([a-z0-9-]+)"', tag[0])
            inside.append((label[1] if label else "") if 'class="zoti-figure"' in tag[0] else None)
        elif inside and inside[-1] is not None:
            count += 1
            numbers[inside[-1]] = count
            return f'{tag[0]}<b class="zoti-number">Figure {count}.</b> '
        return tag[0]

    body = re.sub(r"<figure\b[^>]*>|</figure>|<figcaption>", count_up, body)

    def name(link):
        if numbers and link[1] not in numbers:  # a chapter that was not executed has none, and is let be
            log.warning("no figure on this page has the label %r; there are %s", link[1], sorted(filter(None, numbers)),
                        location=page)  # fmt: skip
        return f"{link[0].removesuffix('</a>')}Figure {numbers.get(link[1], '?')}</a>"

    return re.sub(r'<a class="zoti-ref" href="#fig-([^"]*)"></a>', name, body)


def count_anew(app, builder):
    """Exercises count within their chapter, where Sphinx counts through the book; equations do so already."""
    for kinds in builder.env.toc_fignumbers.values():
        for number, label in enumerate(kinds.get("exercise", {}), 1):
            kinds["exercise"][label] = (number,)


def chapter(page):
    """Which chapter a page is, None for any other.

    >>> chapter("book/05-zeroth-order-textual-inversion"), chapter("book/glossary")
    (5, None)
    """
    found = re.match(r"(\d+)-", Path(page).name)
    return found and int(found[1])


def count_chapters(app, doctree):
    """A chapter's number, wherever its title stands for it: in the sidebar, in links, at the foot of its neighbours."""
    env = app.env
    if number := chapter(env.docname):
        for title in (env.titles[env.docname], next(env.tocs[env.docname].findall(nodes.reference))):
            title.insert(0, nodes.Text(f"{number}. "))


def explain(app, doctree, page):
    """The first use of a term on a page brings its meaning along, to stand in the margin."""
    seen, known = set(), meanings(app.env)
    for link in list(doctree.findall(nodes.reference)):
        inner = next(iter(link.findall(nodes.inline)), None)
        if inner is None or "std-term" not in inner.get("classes", []):
            continue
        anchor = link.get("refid") or link.get("refuri", "").partition("#")[2]
        if anchor not in known or anchor in seen or page.endswith("glossary"):
            continue
        seen.add(anchor)
        term, meaning = map(html.escape, known[anchor])
        note = f'<span class="zoti-note" role="note"><b>{term}</b> {meaning}</span>'
        link.parent.insert(link.parent.index(link) + 1, nodes.raw("", note, format="html"))


def meanings(env):
    """Anchor -> the term and what it means, out of the book's glossary."""
    found = {}
    for name in {place[0] for (kind, _), place in env.get_domain("std").objects.items() if kind == "term"}:
        for item in env.get_doctree(name).findall(nodes.definition_list_item):
            (meaning,) = item.findall(nodes.definition)
            for term in item.findall(nodes.term):
                found |= dict.fromkeys(term.get("ids", []), (term.astext(), meaning.astext()))
    return found


# ------------------------------------------------------------------------------------------------------------ formulas


def mathml(latex, display):
    """A formula as a browser sets it by itself, with the book's letters in their colours.

    >>> mathml(r"\\theta + 1", "inline")
    '<math ...display="inline"><mrow><mi class="zoti-theta">θ</mi><mo>+</mo><mn>1</mn></mrow></math>'
    """
    markup = convert(latex.replace("{aligned}", "{align*}"), display=display)
    markup = re.sub(r"&#x([0-9A-F]+);", lambda m: html.escape(chr(int(m[1], 16)), quote=False), markup)
    return re.sub(r"<mi>([θϵεz])</mi>", lambda m: f'<mi class="zoti-{LETTERS[m[1]]}">{m[1]}</mi>', markup)


def inline_formula(writer, node):
    writer.body.append(mathml(node.astext(), "inline"))
    raise nodes.SkipNode


def formula(writer, node):
    label = f' id="{html.escape(node["ids"][0])}"' if node.get("ids") else ""
    number = f'<span class="zoti-equation">({node["number"]})</span>' if node.get("number") else ""
    writer.body.append(f'<div class="zoti-math"{label}>{mathml(node.astext(), "block")}{number}</div>')
    raise nodes.SkipNode


# ---------------------------------------------------------------------------------------------------------------- pages


def dress(app, page, template, context, doctree):
    body = numbered(context.get("body", ""), page)
    ran = Path(app.srcdir).parent / "executed" / f"{page}.ipynb"
    if "zoti-masthead" in body and ran.exists():
        took = json.loads(ran.read_text())["metadata"].get("papermill", {}).get("duration")
        if took:
            body = body.replace("computed on ", f"computed in {spoken(took)} on ", 1)
    body = re.sub(r' id="(exercise|solution)-content"', "", body)  # sphinx-exercise gives each the same
    if CLAIMS in body:
        body = body.replace(CLAIMS, table(app.env, page))
    if number := chapter(page):
        body = body.replace("<h1>", f'<h1><span class="zoti-chapter">Chapter {number}</span> ', 1)
    if doctree is not None:
        context["metatags"] = context.get("metatags", "") + described(app, page, doctree)
    context["body"] = body
    if page == "search":  # from file:// the pages that it found cannot be fetched for a few of their words each
        app.add_js_file(None, body='DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = location.protocol !== "file:"')
    if "zoti-widget" in body:
        app.add_js_file("zoti-modules.js", priority=700)
    app.add_js_file("zoti.js", priority=800)


def described(app, page, doctree):
    """What another site shows of a page that it links to."""
    said = next((p.astext() for p in doctree.findall(nodes.paragraph) if len(p.astext()) > 60), app.config.project)
    said = html.escape(" ".join(said.split())[:200])
    title = html.escape(app.env.titles[page].astext())
    picture = os.path.relpath("_static/before-after.png", Path(page).parent)
    told = {"og:title": title, "og:description": said, "og:type": "article", "og:image": picture}
    return f'<meta name="description" content="{said}">' + "".join(
        f'<meta property="{key}" content="{value}">' for key, value in told.items()
    )


def not_found(app):
    """The page for an address that leads nowhere, as GitHub's and most other hosts look for it."""
    start = "<h1>This page is not in the book</h1><p>It may have moved: the list of chapters and the search know.</p>"
    yield "404", {"title": "Not found", "body": start}, "page.html"


# What the theme, Sphinx and docutils write, and what stands there instead.
REPLACED = [
    # an icon font of 1.5 MB on each page, for ten icons, which zoti.css draws
    (r"<script[^>]*scripts/fontawesome\.js[^>]*></script>", ""),
    # what a screen reader would say otherwise than the page shows it, or not at all
    (r'(<summary|<button class="btn search-button-field[^>]*?) aria-label="[^"]*"', r"\1"),
    (r'(">([^<]+)</a><details[^>]*><summary)>', r'\1 aria-label="Pages of \2">'),
    (r'role="doc-biblioentry"', 'role="listitem"'),
    (r"<dl>\s*((?:<dd>.*?</dd>\s*)+)</dl>", r'<span class="zoti-arguments">\1</span>'),
    (r"<dd>(<em class=\"sig-param\">.*?)</dd>", r"<span>\1</span>"),
]


def finish(app, error):
    """Mend what no option of the theme's mends."""
    if error is not None or app.builder.format != "html":
        return
    for file in Path(app.outdir).rglob("*.html"):
        before = text = file.read_text(encoding="utf-8")
        for pattern, better in REPLACED:
            text = re.sub(pattern, better, text)
        if text != before:
            file.write_text(text, encoding="utf-8")
    for file in Path(app.outdir).glob("_static/scripts/fontawesome.js*"):
        file.unlink()


class Names(BaseLabelStyle):
    """In the list of references a work goes by its authors' names, as in the text: Gal et al., 2023."""

    def format_labels(self, entries):
        for entry in entries:
            first, *others = [" ".join(person.last_names) for person in entry.persons["author"]]
            yield f"{' and '.join([first, *others]) if len(others) < 2 else f'{first} et al.'}, {entry.fields['year']}"


class ByName(Style):
    default_label_style = Names


register_plugin("pybtex.style.formatting", "by_name", ByName)


def spoken(seconds):
    """
    >>> spoken(47.4), spoken(250)
    ('47 seconds', '4 minutes')
    """
    return f"{seconds:.0f} seconds" if seconds < 100 else f"{seconds / 60:.0f} minutes"


def setup(app):
    app.add_role("fig", Fig())
    app.add_html_math_renderer("zoti", (inline_formula, None), (formula, None))
    app.connect("source-read", read)
    app.connect("builder-inited", write_front)
    app.connect("doctree-read", count_chapters, priority=900)  # after Sphinx has gathered the titles
    app.connect("doctree-resolved", explain)
    app.connect("write-started", count_anew)
    app.connect("html-page-context", dress)
    app.connect("env-updated", read_again)
    app.connect("html-collect-pages", not_found)
    app.connect("build-finished", write_claims)
    app.connect("build-finished", finish)
    app.add_css_file("zoti-page.css", priority=600)
    mine = zlib.crc32(Path(__file__).read_bytes())  # a change here is one of every page
    return {"env_version": mine, "parallel_read_safe": False, "parallel_write_safe": True}
