"""The built site, read as its readers do: offline, by keyboard, by night, on a phone, without scripts."""

import gzip
import json
import os
import re
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from zoti.page import Claim

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")

ROOT = Path(__file__).parents[2]
HTML = ROOT / "_build" / "html"
NAMES = ["chromium", "chromium-browser", "google-chrome"]
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
PAGES = [f"{name}.html" for name in re.findall(r"(?:file|root): *(\S+)", (ROOT / "_toc.yml").read_text())]
QUIET = [  # Chromium's own errands would count as foreign requests
    "--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-default-apps", "--no-first-run",
]  # fmt: skip

missing = "" if HTML.exists() else "no built site: run `make book`"
missing = missing if CHROMIUM else "chromium is not installed"
pytestmark = [
    pytest.mark.slow,
    # On CI a missing browser or site is a failure, not an excuse.
    pytest.mark.skipif(bool(missing) and not os.environ.get("CI"), reason=missing),
]


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def host():
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=HTML))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def browser():
    assert not missing, missing
    with playwright.sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser, host):
    """visit(page, **how) opens a page and awaits its widgets; .foreign and .errors gather what went wrong."""
    contexts = []

    def visit(name, **how):
        context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | how))
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.foreign, page.errors = [], []

        def judge(route):
            if route.request.url.startswith((host, "data:")):
                return route.continue_()
            page.foreign.append(route.request.url)
            return route.abort()

        page.route("**/*", judge)
        page.on("console", lambda message: message.type == "error" and page.errors.append(message.text))
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.on("response", lambda r: r.status >= 400 and page.errors.append(f"{r.status} {r.url}"))
        page.goto(f"{host}/{name}")
        if how.get("java_script_enabled", True):
            page.wait_for_function("document.documentElement.dataset.zoti == 'ready'")
        page.wait_for_load_state("networkidle")
        return page

    yield visit
    for context in contexts:
        context.close()


def reveal(page):
    """What is covered until it is predicted, asked for all the same."""
    page.locator(".zoti-cover:not([hidden]) button").evaluate_all("all => all.forEach(button => button.click())")
    return page


# What an explorer shows: pictures in sight by their alt text and source, and where the dots of its plots stand.
# All that an explorer shows but its sliders: pictures, drawings, words.
SHOWN = """explorer => [...explorer.querySelectorAll("img, svg, .zoti-screen")]
    .filter(e => e.getClientRects().length)
    .map(e => e.src ?? (e.matches("svg") ? e.outerHTML : e.innerText))"""


def luminance(rgb):
    """Relative luminance of a CSS colour, after WCAG 2."""
    channels = [int(c) / 255 for c in re.findall(r"\d+", rgb)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


# The first background that isn't transparent, from an element outwards.
BEHIND = """e => {
    for (; e; e = e.parentElement) {
        const colour = getComputedStyle(e).backgroundColor;
        if (colour != "rgba(0, 0, 0, 0)") return colour;
    }
    return "rgb(255, 255, 255)";
}"""


def test_toc_is_found_whole():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    assert PAGES[0] == toc["root"] + ".html" and len(PAGES) == str(toc).count("'file':") + 1


@pytest.mark.parametrize("name", ["index.html", "search.html", *PAGES])
def test_page_is_whole_and_asks_no_other_host(visit, name):
    page = visit(name)
    assert not page.foreign
    assert not page.errors
    for img in page.locator("img").all():
        what = (img.get_attribute("src") or "")[:60]
        alt = img.get_attribute("alt") or ""  # a figure shown without picture() gets its file's name
        assert alt.strip() and not alt.endswith((".png", ".svg", ".webp")), f"no alt text: {what}"
        assert img.evaluate("img => img.complete && img.naturalWidth > 0"), f"does not load: {what}"
    for drawing in page.locator("article .zoti-plot svg").all():
        assert (drawing.get_attribute("aria-label") or "").strip(), "a plot without words"
    litter = page.locator(".cell_output .stderr").all_text_contents()
    assert not litter, f"warnings or progress bars on the page: {litter}"


@pytest.mark.parametrize("name", PAGES)
def test_every_slider_moves_by_keyboard(visit, name):
    page = reveal(visit(name))
    for explorer in page.locator(".zoti-explorer:not(.zoti-ledger)").all():  # it has switches: test_memory_ledger
        sliders = explorer.locator("input[type=range]").all()
        assert sliders, "an explorer without a slider"
        for slider in sliders:
            assert slider.get_attribute("aria-label"), "a slider without a name"
            before, value = explorer.evaluate(SHOWN), slider.get_attribute("aria-valuetext")
            slider.focus()
            page.keyboard.press("ArrowRight")
            page.wait_for_timeout(50)
            after = explorer.evaluate(SHOWN)
            assert slider.get_attribute("aria-valuetext") != value, "the value isn't said"
            assert after and after != before, f"nothing changes: {before}"
    assert not page.errors


@pytest.mark.parametrize("name", PAGES)
def test_play_plays(visit, name):
    page = reveal(visit(name))
    for button in page.locator(".zoti-play").all():
        explorer = button.locator("xpath=ancestor::*[contains(@class, 'zoti-explorer')]")
        before = explorer.evaluate(SHOWN)
        button.click()
        page.wait_for_timeout(1500)
        assert explorer.evaluate(SHOWN) != before
    assert not page.errors


@pytest.mark.parametrize("name", PAGES)
def test_a_page_lives_in_a_folder_too(browser, name):
    """Opened as a file, where no module may be imported and nothing be fetched."""
    context = browser.new_context()
    page, errors = context.new_page(), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto((HTML / name).as_uri())
    page.wait_for_function("document.documentElement.dataset.zoti == 'ready'")
    explorers, widgets = page.locator(".zoti-explorer, .zoti-predict, .zoti-teach"), page.locator(".zoti-widget")
    assert explorers.count() >= widgets.count() and not errors
    context.close()


@pytest.mark.parametrize("name", PAGES)
def test_every_prediction_is_answered_and_marked(visit, name):
    page = visit(name)
    for question in page.locator("[data-module=predict]").all():
        button = question.locator(".zoti-choices button, .zoti-done").first
        button.click()
    verdicts = page.locator(".zoti-verdict")
    assert verdicts.count() == page.locator("[data-module=predict]").count(), "a question that no claim answers"
    for verdict in verdicts.all():
        assert verdict.get_attribute("data-right") in ("true", "false") and verdict.is_visible()
    assert page.locator(".zoti-covered").count() == 0


@pytest.mark.parametrize("name", PAGES)
def test_phone_scrolls_in_one_direction(visit, name):
    page = visit(name, viewport={"width": 390, "height": 844}, has_touch=True)
    for width in (390, 320):
        page.set_viewport_size({"width": width, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        # Code and tables may scroll in themselves; pictures may not stand out.
        for img in page.locator("article img").all():
            if box := img.is_visible() and img.bounding_box():
                assert box["x"] >= 0 and box["x"] + box["width"] <= width + 1


def test_phone_has_a_menu(visit):
    page = visit(PAGES[0], viewport={"width": 390, "height": 844}, has_touch=True)
    link = page.locator(".bd-links a:visible, #pst-primary-sidebar-modal a:visible")
    page.locator(".bd-header-article .primary-toggle").tap()
    page.wait_for_timeout(500)
    assert link.count() >= len([name for name in PAGES if not name.startswith("book/api/")]) - 1  # those are folded


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_day_and_night(visit, name, scheme):
    page = visit(name, color_scheme=scheme)
    colour = "(e, what) => getComputedStyle(e)[what]"
    ground = page.locator("body").evaluate(colour, "backgroundColor")
    assert (luminance(ground) < 0.05) == (scheme == "dark")
    for img in page.locator("article img.zoti-pixels").all():
        assert img.evaluate(colour, "filter") == "none", "the theme dims it"
    written = ".zoti-claim p, .zoti-claims td, .zoti-predict p, .exercise p, .zoti-explorer label, figcaption"
    for part in page.locator(written).all():
        ink = luminance(part.evaluate(colour, "color"))
        behind = luminance(part.evaluate(BEHIND))
        contrast = (max(ink, behind) + 0.05) / (min(ink, behind) + 0.05)
        assert contrast >= 4.5, f"contrast {contrast:.1f}: {part.text_content()[:60]}"


@pytest.mark.parametrize("name", PAGES)
def test_solutions_are_closed_until_asked_for_and_count_within_their_page(visit, name):
    page = visit(name)
    count = page.locator(".exercise").count()
    assert count == page.locator(".solution").count()
    for kind in (".exercise", ".solution"):
        titles = page.locator(f"{kind} > .admonition-title").all_text_contents()
        assert [int(re.search(r"Exercise (\d+)", title)[1]) for title in titles] == [*range(1, count + 1)]
    for solution in page.locator(".solution").all():
        answer = solution.locator("section")
        assert not answer.is_visible()
        solution.locator(".toggle-button").click()
        answer.wait_for(state="visible")


@pytest.mark.parametrize("name", PAGES)
def test_without_scripts_a_figure_is_its_first_picture_and_a_folded_strip(visit, name):
    widgets = visit(name).locator(".zoti-widget").count()
    page = visit(name, java_script_enabled=False)
    assert page.locator(".zoti-widget").count() == widgets
    for widget in page.locator(".zoti-widget").all():
        assert widget.locator("noscript").inner_text().strip() or widget.locator("noscript :is(img, svg)").count()
        strip = widget.locator("details")
        if strip.count():
            strip.locator("summary").click()
            assert strip.locator(":is(img, svg, .zoti-plot)").first.is_visible()


def test_launch_buttons_lead_to_the_chapter_or_are_not_there(visit):
    home = yaml.safe_load((ROOT / "_build" / "source" / "_config.yml").read_text()).get("repository", {}).get("url")
    for name in PAGES:
        if (ROOT / name).with_suffix(".ipynb").exists():
            links = (
                visit(name).locator("a[href*='colab.research.google.com']").evaluate_all("all => all.map(a => a.href)")
            )
            file = f"{home}/blob/colab/{name.removesuffix('.html')}.ipynb".removeprefix("https://github.com/")
            assert set(links) == ({f"https://colab.research.google.com/github/{file}"} if home else set())


def test_every_claim_of_the_book_holds_falls_under_its_mutation_and_is_listed(visit):
    told = json.loads((HTML / "claims.json").read_text())
    page = visit("book/claims.html")
    links = page.locator("table.zoti-claims a").evaluate_all("all => all.map(a => [a.pathname, a.hash])")
    chapters = {chapter: [Claim(**claim) for claim in claims] for chapter, claims in told.items()}
    assert {name for name in PAGES if re.match(r"book/\d\d-", name)} <= {f"{name}.html" for name in chapters}
    assert links == [[f"/{name}.html", f"#claim-{c.name}"] for name, claims in chapters.items() for c in claims]
    for name, claims in chapters.items():
        shown = (HTML / f"{name}.html").read_text()
        for claim in claims:
            assert claim.holds(claim.measured) and not claim.holds(claim.mutated), claim.sentence
            assert shown.count(f'id="claim-{claim.name}"') == 1


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_light(browser, host, name):
    """What crosses the wire for a reader who comes for the first time, compressed as hosts do."""
    context, sizes = browser.new_context(), {}
    page = context.new_page()

    def weigh(response):
        if response.url.startswith(host):
            sizes[response.url] = len(gzip.compress(response.body()))

    page.on("response", weigh)
    page.goto(f"{host}/{name}", wait_until="networkidle")
    heaviest = sorted(sizes.items(), key=lambda item: -item[1])[:3]
    assert sum(sizes.values()) <= (600e3 if name.endswith("index.html") else 1.5e6), heaviest
    context.close()


@pytest.mark.parametrize("name", PAGES)
def test_ids_are_unique_and_links_within_the_page_lead_somewhere(visit, name):
    page = visit(name)
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert not {one for one in ids if ids.count(one) > 1}
    targets = page.evaluate("[...document.querySelectorAll('article a[href^=\"#\"]')].map(a => a.hash.slice(1))")
    assert set(targets) - {""} <= set(ids)


@pytest.mark.parametrize("name", PAGES)
def test_another_site_can_say_what_a_page_is_about_and_whose_it_is(visit, name):
    page = visit(name)
    for key in ('meta[name="description"]', 'meta[property="og:title"]', 'meta[property="og:image"]'):
        assert page.locator(key).first.get_attribute("content")
    footer = page.locator(".bd-footer-content").inner_text()
    assert "CC BY 4.0" in footer and "Twemoji" in footer


def test_an_address_that_leads_nowhere_has_a_page(visit):
    assert "not in the book" in visit("404.html").locator("article h1").inner_text()


@pytest.mark.parametrize("name", PAGES)
def test_paper_shows_all_code_and_everything_covered(visit, name):
    page = visit(name)
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    for code in page.locator("div.cell:not(.tag_remove-cell) .cell_input pre").all():
        if code.locator("xpath=ancestor::*[contains(@class, 'solution')]").count():
            continue
        assert code.is_visible() and code.evaluate("e => e.scrollWidth <= e.clientWidth + 1"), "code is cut off"
    for covered in page.locator(".zoti-covered").all():
        assert covered.evaluate("e => getComputedStyle(e).display") == "block"
