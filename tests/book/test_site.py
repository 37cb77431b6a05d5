"""The built site, read as its readers do: offline, by every hand, by night, on a phone, on paper, by ear."""

import gzip
import importlib.util
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
SEEN = ROOT / "_build" / "seen"  # how each page looked, for people to look through
NAMES = ["chromium", "chromium-browser", "google-chrome"]
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
PAGES = [f"{name}.html" for name in re.findall(r"(?:file|root): *(\S+)", (ROOT / "_toc.yml").read_text())]
QUIET = [  # Chromium's own errands would count as foreign requests
    "--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-default-apps", "--no-first-run",
]  # fmt: skip
AXE = "axe-core-4.14.1"
AXE_SHA512 = "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ=="

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


def opened(browser, host, name, **how):
    """A page whose widgets are awaited; .foreign, .errors and .answers gather what it asked for and what went wrong."""
    context = browser.new_context(**({"viewport": {"width": 1440, "height": 900}} | how))
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.name, page.foreign, page.errors, page.answers = name, [], [], []

    def judge(route):
        if route.request.url.startswith((host, "data:")):
            return route.continue_()
        page.foreign.append(route.request.url)
        return route.abort()

    page.route("**/*", judge)
    page.on("console", lambda message: message.type == "error" and page.errors.append(message.text))
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("response", lambda r: page.answers.append(r) or (r.status >= 400 and page.errors.append(r.url)))
    page.goto(f"{host}/{name}")
    if how.get("java_script_enabled", True):
        page.wait_for_function("document.documentElement.dataset.zoti == 'ready'")
        page.wait_for_load_state("networkidle")
    return page


@pytest.fixture(scope="module", params=["search.html", "404.html", *PAGES])
def page(browser, host, request):
    """One visit of a page, by a reader with a mouse, keys and a finger, for all tests that need no other.

    The tests stand in the order in which such a reader goes: first as it comes, then what is covered is predicted, then
    every slider moved, every fold opened; so what is looked at last is all that the page has.
    """
    page = opened(browser, host, request.param, has_touch=True)
    yield page
    page.context.close()


@pytest.fixture
def visit(browser, host):
    """visit(name, **how) opens a page in another way."""
    pages = []

    def visit(name, **how):
        pages.append(opened(browser, host, name, **how))
        return pages[-1]

    yield visit
    for page in pages:
        page.context.close()


def by_mouse(page, element):
    element.click()


def by_finger(page, element):
    element.tap()


def by_keys(page, element):
    element.focus()
    page.keyboard.press("Enter")


HANDS = {"mouse": by_mouse, "finger": by_finger, "keys": by_keys}


def end(slider, last):
    """Where in the window a slider's track begins, or ends."""
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    return box["x"] + (box["width"] - 8 if last else 8), box["y"] + box["height"] / 2


# Ways to move a slider: up where it stands at its beginning, else down.
SLIDES = {
    "keys": lambda page, slider, up: slider.press("ArrowRight" if up else "ArrowLeft"),
    "mouse": lambda page, slider, up: page.mouse.click(*end(slider, up)),
    "finger": lambda page, slider, up: page.touchscreen.tap(*end(slider, up)),
}


def unfold(page):
    """All that is covered or folded, asked for all the same."""
    page.evaluate("""() => {
        document.querySelectorAll(".zoti-cover:not([hidden]) button").forEach((button) => button.click());
        document.querySelectorAll(".solution .toggle-hidden.toggle-button").forEach((button) => button.click());
        document.querySelectorAll("article details").forEach((details) => { details.open = true; });
    }""")


# All that an explorer shows but its sliders: pictures, drawings, words.
SHOWN = """explorer => [...explorer.querySelectorAll("img, svg, .zoti-screen")]
    .filter(e => e.getClientRects().length)
    .map(e => e.src ?? (e.matches("svg") ? e.outerHTML : e.innerText))"""


def luminance(rgb):
    """Relative luminance of a CSS colour, after WCAG 2."""
    channels = [int(c) / 255 for c in re.findall(r"\d+", rgb)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


# [words, their colour, the first background that isn't transparent from there outwards] of what the book itself draws.
WRITTEN = """() => [...document.querySelectorAll(
    ".zoti-claim p, .zoti-claims td, .zoti-predict p, .exercise p, .zoti-explorer label, figcaption")].map((part) => {
    for (let e = part; ; e = e.parentElement) {
        const behind = e ? getComputedStyle(e).backgroundColor : "rgb(255, 255, 255)";
        if (behind !== "rgba(0, 0, 0, 0)") return [part.textContent.slice(0, 60), getComputedStyle(part).color, behind];
    }
})"""

# What stands out of the window, or has words or pictures that its own edge cuts off, and a term's note that lies under
# the list of contents or over a cell. On paper nothing can be scrolled.
CUT = """(paper) => {
    const cut = [], wide = document.documentElement.clientWidth + 1;
    const moves = (e) => !paper && /auto|scroll/.test(getComputedStyle(e).overflowX);
    const place = (e) => e.getBoundingClientRect();
    const boxes = [...document.querySelectorAll("article :is(.cell, .admonition)")].map(place);
    const meet = (a, b) => a.left < b.right && b.left < a.right && a.top + 1 < b.bottom && b.top + 1 < a.bottom;
    const held = (e) => e !== document.body && (moves(e) || (e.parentElement && held(e.parentElement)));
    for (const e of document.querySelectorAll(".bd-main *, .bd-footer *")) {
        const box = place(e), { clipPath, overflowX, overflowY } = getComputedStyle(e);
        if (!box.width || clipPath !== "none" || e.closest(".bd-sidebar-secondary, svg *, math *")) continue;
        const low = paper && e.clientHeight && e.scrollHeight > e.clientHeight + 1 && overflowY !== "visible";
        if (low || (e.clientWidth && e.scrollWidth > e.clientWidth + 1 && overflowX !== "visible" && !moves(e)))
            cut.push(`cut off: ${e.outerHTML.slice(0, 200)}`);
        if (e.matches(".zoti-note")
            && (box.right > place(e.closest(".bd-article-container")).right + 1 || boxes.some((b) => meet(box, b))))
            cut.push(`in the way: ${e.outerHTML.slice(0, 200)}`);
        if ((box.left < -1 || box.right > wide) && !held(e.parentElement))
            cut.push(`stands out: ${e.outerHTML.slice(0, 200)}`);
    }
    return cut;
}"""


def cut(page, paper: bool) -> list[str]:
    """What `CUT` finds once the page has come to rest: after a change of size the theme's sidebars move for a while."""
    for _ in range(20):
        if not (found := page.evaluate(CUT, paper)):
            break
        page.wait_for_timeout(100)
    return found


def test_toc_is_found_whole():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    assert PAGES[0] == toc["root"] + ".html" and len(PAGES) == str(toc).count("'file':") + 1


# ---- One visit: as the page comes ------------------------------------------------------------------------------------


def test_page_is_whole_and_asks_no_other_host(page):
    assert not page.foreign
    assert not page.errors
    pictures = page.evaluate(
        "[...document.images].map(i => [i.getAttribute('src').slice(0, 60), i.alt, i.complete && i.naturalWidth > 0])"
    )
    for what, alt, loaded in pictures:  # a figure shown without picture() gets its file's name
        assert alt.strip() and not alt.endswith((".png", ".svg", ".webp")), f"no alt text: {what}"
        assert loaded, f"does not load: {what}"
    plots = page.locator("article .zoti-plot svg").evaluate_all("all => all.map(svg => svg.ariaLabel)")
    assert all(words and words.strip() for words in plots), "a plot without words"
    litter = page.locator(".cell_output .stderr").all_text_contents()
    assert not litter, f"warnings or progress bars on the page: {litter}"


def test_a_page_is_light(page):
    """What crosses the wire for a reader who comes for the first time, compressed as hosts do."""
    sizes = {answer.url: len(gzip.compress(answer.body())) for answer in page.answers}
    heaviest = sorted(sizes.items(), key=lambda item: -item[1])[:3]
    assert sum(sizes.values()) <= (600e3 if page.name.endswith("index.html") else 1.5e6), heaviest


def test_ids_are_unique_and_links_within_the_page_lead_somewhere(page):
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert not {one for one in ids if ids.count(one) > 1}
    targets = page.evaluate("[...document.querySelectorAll('article a[href^=\"#\"]')].map(a => a.hash.slice(1))")
    assert set(targets) - {""} <= set(ids)


def test_a_work_is_called_by_its_authors_not_by_a_key(page):
    listed = page.locator(".citation .label, .bibtex-citation a").all_text_contents()
    assert not [label for label in listed if not re.search(r"\b(1[89]|20)\d\d\b", label)], listed


def test_another_site_can_say_what_a_page_is_about_and_whose_it_is(page):
    if page.name in PAGES:
        for key in ('meta[name="description"]', 'meta[property="og:title"]', 'meta[property="og:image"]'):
            assert page.locator(key).first.get_attribute("content")
    footer = page.locator(".bd-footer-content").inner_text()
    assert "CC BY 4.0" in footer and "Twemoji" in footer


def test_launch_buttons_lead_to_the_chapter_or_are_not_there(page):
    home = yaml.safe_load((ROOT / "_build" / "source" / "_config.yml").read_text()).get("repository", {}).get("url")
    if (ROOT / page.name).with_suffix(".ipynb").exists():
        links = page.locator("a[href*='colab.research.google.com']").evaluate_all("all => all.map(a => a.href)")
        file = f"{home}/blob/colab/{page.name.removesuffix('.html')}.ipynb".removeprefix("https://github.com/")
        assert set(links) == ({f"https://colab.research.google.com/github/{file}"} if home else set())


def test_a_chapter_has_its_number_wherever_it_is_named(page):
    if number := re.match(r"book/0?(\d+)-", page.name):
        assert page.locator("article h1 .zoti-chapter").inner_text() == f"Chapter {number[1]}"
        assert page.title().startswith(f"{number[1]}. ")
    names = page.locator(".bd-links a[href*='-']").evaluate_all("all => all.map(a => [a.href, a.textContent])")
    chapters = [(address.split("/book/")[1], name) for address, name in names if re.search(r"/\d\d-", address)]
    assert chapters and all(int(file[:2]) == int(name.split(".")[0]) for file, name in chapters)


# ---- The same visit: everything that answers is used -----------------------------------------------------------------


def test_solutions_are_closed_until_asked_for_and_count_within_their_page(page):
    count = page.locator(".exercise").count()
    assert count == page.locator(".solution").count()
    for kind in (".exercise", ".solution"):
        titles = page.locator(f"{kind} > .admonition-title").all_text_contents()
        assert [int(re.search(r"Exercise (\d+)", title)[1]) for title in titles] == [*range(1, count + 1)]
    for solution, use in zip(page.locator(".solution").all(), [*HANDS.values()] * count, strict=False):
        answer = solution.locator("section")
        assert not answer.is_visible()
        use(page, solution.locator(".toggle-button"))
        answer.wait_for(state="visible")


def test_every_prediction_is_answered_and_marked_by_every_hand(page):
    questions, covered = page.locator("[data-module=predict]"), page.locator(".zoti-covered")
    verdicts, hidden = page.locator(".zoti-verdict"), covered.count()
    assert verdicts.count() == questions.count(), "a question that no claim answers"
    for use in HANDS.values():
        assert covered.count() == hidden
        for question in questions.all():
            use(page, question.locator(".zoti-choices button, .zoti-done").first)
        for verdict in verdicts.all():
            assert verdict.get_attribute("data-right") in ("true", "false") and verdict.is_visible()
        assert covered.count() == 0
        if use is not by_keys:
            for question in questions.all():
                use(page, question.locator(".zoti-again"))
    assert not page.errors


def test_every_slider_is_moved_by_every_hand(page):
    unfold(page)
    for explorer in page.locator(".zoti-explorer:not(.zoti-ledger, .zoti-live)").all():  # test_live has the others
        sliders = explorer.locator("input[type=range]").all()
        assert sliders, "an explorer without a slider"
        for slider in sliders:
            assert slider.get_attribute("aria-label"), "a slider without a name"
            for hand, move in SLIDES.items():
                before, value = explorer.evaluate(SHOWN), slider.get_attribute("aria-valuetext")
                move(page, slider, slider.input_value() == slider.get_attribute("min"))
                page.wait_for_timeout(50)
                after = explorer.evaluate(SHOWN)
                assert slider.get_attribute("aria-valuetext") != value, f"{hand}: the value isn't said"
                assert after and after != before, f"{hand}: nothing changes: {before}"
    assert not page.errors


def test_every_switch_is_turned_by_every_hand(page):
    """Chapter 10's, which are no sliders; what they then say is test_memory_ledger's."""
    for ledger in page.locator(".zoti-ledger").all():
        for use in HANDS.values():
            for kind in ("radio]:not(:checked", "checkbox]:not(:disabled"):
                bar = ledger.locator(".zoti-bar").get_attribute("aria-label")
                switch = ledger.locator(f"label:has(input[type={kind}))").first
                if use is by_keys:
                    switch.locator("input").press("Space")
                else:
                    use(page, switch)
                assert ledger.locator(".zoti-bar").get_attribute("aria-label") != bar
    assert not page.errors


def test_play_plays(page):
    unfold(page)
    for button in page.locator(".zoti-play").all():
        explorer = button.locator("xpath=ancestor::*[contains(@class, 'zoti-explorer')]")
        before = explorer.evaluate(SHOWN)
        button.click()
        page.wait_for_timeout(700)
        assert explorer.evaluate(SHOWN) != before
        if button.inner_text() == "Pause":
            button.click()
    assert not page.errors


def test_every_card_leads_to_itself_and_every_picture_is_enlarged(page):
    cards = page.locator(".zoti-claim")
    for card in cards.all():
        name = card.get_attribute("id")
        assert card.locator(f"a[href='#{name}']").count() == 1 and card.locator("[role=img]").get_attribute(
            "aria-label"
        )
    if cards.count():
        for use in HANDS.values():
            page.evaluate("history.replaceState(null, '', location.pathname); scrollTo(0, 0)")
            use(page, cards.last.locator("a[href^='#claim']").first)
            assert page.evaluate("location.hash") == f"#{cards.last.get_attribute('id')}"
            cards.last.locator("p").first.wait_for(state="visible")
    if (pictures := page.locator("article img.zoti-pixels:visible")).count():
        for use in (by_mouse, by_finger):
            use(page, pictures.first)
            assert page.locator(".zoti-large").evaluate("dialog => dialog.open")
            page.keyboard.press("Escape")
    assert not page.errors


# ---- The same visit: all of it looked at -----------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_day_and_night(page, scheme):
    unfold(page)
    page.emulate_media(color_scheme=scheme)
    page.wait_for_function("scheme => document.documentElement.dataset.theme === scheme", arg=scheme)
    ground = page.locator("body").evaluate("e => getComputedStyle(e).backgroundColor")
    assert (luminance(ground) < 0.05) == (scheme == "dark")
    dimmed = "all => all.filter(e => getComputedStyle(e).filter !== 'none').length"
    assert not page.locator("article img.zoti-pixels").evaluate_all(dimmed), "the theme dims it"
    for words, colour, ground in page.evaluate(WRITTEN):
        ink, behind = luminance(colour), luminance(ground)
        contrast = (max(ink, behind) + 0.05) / (min(ink, behind) + 0.05)
        assert contrast >= 4.5, f"contrast {contrast:.1f}: {words}"


@pytest.fixture(scope="module")
def axe():
    """axe-core, which knows what those who hear a page, or see it badly, stumble over."""
    spec = importlib.util.spec_from_file_location("npm", ROOT / "book" / "npm.py")
    npm = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(npm)
    try:
        return npm.bring(AXE, AXE_SHA512, ("axe.min.js",), ROOT / "_build" / "npm")[0].read_text()
    except OSError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"npm's registry is out of reach: {error}")


# By day every rule; by night what a colour can change.
RULES = {"light": "{}", "dark": "{runOnly: {type: 'rule', values: ['color-contrast']}}"}


@pytest.mark.parametrize("scheme", RULES)
def test_nobody_is_kept_out(page, axe, scheme):
    unfold(page)
    page.emulate_media(color_scheme=scheme)
    page.wait_for_function("scheme => document.documentElement.dataset.theme === scheme", arg=scheme)
    page.wait_for_function("document.getAnimations().every((one) => one.playState !== 'running')")  # colours fade over
    if not page.evaluate("'axe' in window"):
        page.evaluate(axe)
    # The sidebar is the same on every page.
    where = "document" if page.name == PAGES[0] else "{exclude: [['.bd-sidebar-primary']]}"
    how = f"{{...{RULES[scheme]}, resultTypes: ['violations'], preload: false, selectors: false}}"
    found = page.evaluate(f"axe.run({where}, {how}).then(({{ violations }}) => violations.flatMap("
                          "({ id, impact, nodes }) => nodes.map(({ html }) => [impact, id, html])))")  # fmt: skip
    assert not [fault for fault in found if fault[0] in ("serious", "critical")]


@pytest.mark.parametrize("width", [375, 768, 1440])
def test_every_width_by_day_and_night(page, width):
    """Nothing is cut, and a page scrolls in one direction. How it looks is kept in _build/seen."""
    unfold(page)
    page.set_viewport_size({"width": width, "height": 900})
    assert not cut(page, paper=False)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        file = SEEN / f"{width}-{scheme}" / page.name.replace("/", "-").replace(".html", ".jpg")
        page.screenshot(path=file, full_page=True, type="jpeg", quality=50, animations="disabled")


def test_paper_shows_all_code_and_everything_covered_and_cuts_no_line(page):
    page.emulate_media(media="print", color_scheme="light")
    page.set_viewport_size({"width": 718, "height": 1047})  # A4, less a margin of a centimetre
    unseen = page.evaluate("""() => {
        document.querySelectorAll("article details").forEach((details) => { details.open = false; });
        document.querySelectorAll(".solution .toggle-button:not(.toggle-hidden)").forEach((button) => button.click());
        dispatchEvent(new Event("beforeprint"));  // and paper waits for nothing that fades in
        return [...document.querySelectorAll("div.cell:not(.tag_remove-cell) .cell_input pre")]
            .filter((code) => !code.checkVisibility({ opacityProperty: true })).map((code) => code.innerText);
    }""")
    assert not unseen
    assert not cut(page, paper=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 718
    for covered in page.locator(".zoti-covered").all():
        assert covered.evaluate("e => getComputedStyle(e).display") == "block"


# ---- Other visits ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*PAGES, "search.html?q=teapot"])
def test_a_page_lives_in_a_folder_too(browser, name):
    """Opened as a file, where no module may be imported and nothing be fetched."""
    context = browser.new_context()
    page, errors = context.new_page(), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: message.type == "error" and errors.append(message.text))
    page.goto(f"{HTML.as_uri()}/{name}")
    page.wait_for_function("document.documentElement.dataset.zoti == 'ready'")
    explorers, widgets = page.locator(".zoti-explorer, .zoti-predict, .zoti-teach"), page.locator(".zoti-widget")
    assert explorers.count() >= widgets.count()
    if "?q=" in name:
        page.get_by_text("Search finished").wait_for()
        assert page.locator("#search-results li a").count() > 5
    assert not errors
    context.close()


def test_phone_has_a_menu(visit):
    page = visit(PAGES[0], viewport={"width": 390, "height": 844}, has_touch=True)
    link = page.locator(".bd-links a:visible, #pst-primary-sidebar-modal a:visible")
    page.locator(".bd-header-article .primary-toggle").tap()
    page.wait_for_timeout(500)
    assert link.count() >= len([name for name in PAGES if not name.startswith("book/api/")]) - 1  # those are folded


@pytest.mark.parametrize("name", PAGES)
def test_without_scripts_a_figure_is_its_first_picture_and_a_folded_strip(visit, name):
    widgets = (HTML / name).read_text().count('class="zoti-widget"')
    page = visit(name, java_script_enabled=False)
    assert page.locator(".zoti-widget").count() == widgets
    for widget in page.locator(".zoti-widget").all():
        assert widget.locator("noscript").inner_text().strip() or widget.locator("noscript :is(img, svg)").count()
        strip = widget.locator("details")
        if strip.count():
            strip.locator("summary").click()
            assert strip.locator(":is(img, svg, .zoti-plot)").first.is_visible()


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


def test_an_address_that_leads_nowhere_has_a_page(visit):
    assert "not in the book" in visit("404.html").locator("article h1").inner_text()
