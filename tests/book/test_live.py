"""The explorers that ask the model itself, live, in chapters 4, 5 and 7: one page in Chromium, from a folder, offline.

What the page computes is held against zoti, on the very numbers that the chapters pack into it.
"""

import ast
import base64
import json
import os
import re
import time
from collections import namedtuple
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch

from tests.book.chromium import CHROMIUM, Chromium
from tests.book.folder import lay
from tests.helpers import generator
from zoti import ConceptToken, DenoisingLoss, PartialUniform, Uniform, ZOAdam, cache_latents, load_pipeline
from zoti.data import load_subject
from zoti.objective import Draw
from zoti.page import FRONT, Html, number, scene

pytest.importorskip("onnxscript", reason="needs the engine's tools: pip install -e .[engine]")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CHROMIUM and not os.environ.get("CI"), reason="needs chromium")]

ROOT = Path(__file__).parents[2]
PATIENCE = 400  # seconds for what takes ten on an idle machine
Sitter = namedtuple("Sitter", "subject token truth")


def own(chapter, *names, **scope):
    """Functions that a chapter defines; each may use those before it, and what is given."""
    (path,) = (ROOT / "book").glob(f"{chapter}-*.ipynb")
    for name in names:
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code" and f"def {name}(" in cell.source:
                (body,) = [n for n in ast.parse(cell.source).body if isinstance(n, ast.FunctionDef) and n.name == name]
                exec(compile(ast.Module([body], []), name, "exec"), scope)
    return [scope[name] for name in names]


@pytest.fixture(scope="module")
def teapot():
    pipe, subject = load_pipeline("tiny-sd", weights="int8"), load_subject("teapot")
    token = ConceptToken(pipe, "<teapot>", subject.class_word)
    return pipe, subject, token


@pytest.fixture(scope="module")
def believed(teapot):
    """Chapter 7's figure, with some word for the right one; and the latent, the word."""
    _, subject, token = teapot
    word = token.initial + 0.5 * torch.randn(token.initial.shape, generator=generator(2))
    truth = cache_latents(teapot[0], subject.truth[:1]).mean
    _, sitter = own("07", "packed", "sitter", base64=base64)
    pictures = [sitter(Sitter(subject, token, truth), word)]
    return scene("believe", {"window": [500, 900], "pictures": pictures}, Html("", "")), truth, word


@pytest.fixture(scope="module")
def objective(teapot):
    pipe, subject, token = teapot
    latents = cache_latents(pipe, subject.references)
    return DenoisingLoss(pipe, token, latents, subject.captions, PartialUniform(500, 900))


@pytest.fixture(scope="module")
def sloped(objective):
    """Chapter 4's figure, and the draw and the gradient in it."""
    draw, theta = objective.draw(generator(0)), objective.token.initial.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(objective(theta[None], draw).sum(), theta)
    _, real_loss = own("04", "packed", "real_loss", base64=base64, number=number)
    return scene("slopes", real_loss(objective, draw, theta, gradient), Html("", "")), draw, gradient


@pytest.fixture(scope="module")
def stepped(objective):
    """Chapter 5's figure; its axes, and some goal in the place of backpropagation's word."""
    start = objective.token.initial
    goal = start + torch.randn(start.shape, generator=generator(5))
    packed, seen_from = own("05", "packed", "seen_from", base64=base64, torch=torch)
    recorded = seen_from(start, goal, torch.stack([start, goal, start + 1]))
    state = {"start": packed(start), "towards": packed(goal - start), "runs": [recorded.tolist()]}
    return scene("steps", state, Html("", "")), lambda words: seen_from(start, goal, words)


# ---- A reader ------------------------------------------------------------------------------------------------------


class Reader:
    """One page with all these figures, in one browser. `at` is the selector of the one that is spoken of."""

    def __init__(self, site):
        self.window, self.page = Chromium(offline=True), (site / "page.html").as_uri()
        self.window.goto(self.page)
        self.wait("document.documentElement.dataset.zoti == 'ready'")

    def wait(self, expression):
        end = time.monotonic() + PATIENCE
        while not self.window.ask(expression):
            assert time.monotonic() < end, self.window.ask("document.body.innerText")
            time.sleep(0.05)

    def does(self, at, expression):
        """Do this to a figure, `it`, wait until it has answered, and return what it says."""
        self.window.ask(f"(it => {{ {expression} }})(document.querySelector('{at}'))")
        self.wait(f"document.querySelector('{at} .zoti-live').dataset.state == 'idle'")
        return self.window.ask(f"document.querySelector('{at} .zoti-told').textContent")

    def press(self, at, button):
        return self.does(at, f"it.querySelector('{button}').click()")

    def pixels(self, at):
        """All canvases of a figure, (n, side, side, 3) in 0 to 255."""
        each = "[...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
        found = self.window.ask(f"[...document.querySelectorAll('{at} canvas')].map(c => {each})")
        side = round((len(found[0]) / 4) ** 0.5)
        return np.array(found).reshape(-1, side, side, 4)[..., :3]

    def chance(self, seed, *drawn):
        """What the page's own generator draws, the engine's module being the same."""
        source = json.dumps((ROOT / "assets" / "engine" / "chance.js").read_text())
        address = f"URL.createObjectURL(new Blob([{source}], {{ type: 'text/javascript' }}))"
        calls = ", ".join(f"list(c.{one})" for one in drawn)
        tell = f"const c = new Chance({seed}), list = x => (x.length ? [...x] : x); return [{calls}]"
        return self.window.ask(f"import({address}).then(({{ Chance }}) => {{ {tell} }})")


@pytest.fixture(scope="module")
def reader(tmp_path_factory, believed, sloped, stepped):
    site = tmp_path_factory.mktemp("site")
    figures = (figure[0].markup() for figure in (believed, sloped, stepped))
    lay(site, *figures, head=f"<style>{(FRONT / 'page.css').read_text()}</style>")
    reader = Reader(site)
    yield reader
    reader.window.close()


def test_nothing_is_loaded_before_it_is_asked_for(reader):
    assert not [url for url in reader.window.asked if "/learn/" in url]
    assert reader.window.ask("document.querySelector('.zoti-asks').hidden && !('zotiParts' in window)")


# ---- Chapter 7: what two captions make of a noised picture ---------------------------------------------------------

BELIEVE = '[data-module="believe"]'


def test_what_a_noised_picture_is_taken_for_is_what_zoti_says(reader, teapot, believed):
    pipe, subject, token = teapot
    _, z, word = believed
    told = reader.press(BELIEVE, ".zoti-load")
    t, first, second = (float(x) for x in re.findall(r"[\d.]+(?= the loss| thousandths told| told the second)", told))
    (noise,) = reader.chance(0, f"normals({z.numel()})")
    noise = torch.tensor(noise).view_as(z)
    said = [subject.truth_captions[0]] * 2
    objective = DenoisingLoss(pipe, token, cache_latents(pipe, subject.truth[:2]), said, Uniform())
    draw = Draw(0, torch.tensor([int(t)]), z, noise)
    with torch.no_grad():
        errors = objective.residuals(torch.stack([token.initial, word]), draw)
    assert (first, second) == pytest.approx((1000 * errors.square().mean(1)).tolist(), abs=0.01)

    a = pipe.scheduler.alphas_cumprod[int(t)]
    noised = a.sqrt() * z + (1 - a).sqrt() * noise
    guesses = (noised - (1 - a).sqrt() * (errors.view(2, *z.shape[1:]) + noise)) / a.sqrt()
    with torch.no_grad():
        seen = pipe.vae.decode(torch.cat([noised, guesses]) / pipe.vae.config.scaling_factor).sample
    pixels = 255 * (seen / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    assert np.abs(reader.pixels(BELIEVE) - pixels).mean() < 1
    assert np.abs(pixels[1] - pixels[2]).mean() > 2  # and the two words are not taken for the same


def test_another_time_another_caption_and_another_noise_are_asked_about(reader):
    count = f"document.querySelectorAll('{BELIEVE} circle').length"
    before = reader.pixels(BELIEVE)
    slide = "const s = it.querySelector('[type=range]'); s.value = 900; s.dispatchEvent(new Event('input'))"
    assert reader.does(BELIEVE, slide).startswith("At t = 900 ") and reader.window.ask(count) == 2
    assert (reader.pixels(BELIEVE) != before).any()
    assert "thousandths" in reader.press(BELIEVE, ".zoti-dice") and reader.window.ask(count) == 3
    told = reader.press(BELIEVE, ".zoti-all")
    assert re.match(r"With this noise the second caption wins most at t = \d+", told)
    assert reader.window.ask(count) == 23
    write = "const l = it.querySelectorAll('[type=text]')[1]; l.value = {}; l.dispatchEvent(new Event('change'))"
    same = reader.does(BELIEVE, write.format("it.querySelector('[type=text]').value"))
    assert same.endswith("0.00 less.") and reader.window.ask(count) == 1
    assert "say it shorter" in reader.does(BELIEVE, write.format("'teapot '.repeat(40)"))
    reader.does(BELIEVE, write.format("'a penguin'"))
    reader.window.ask(f"document.querySelector('{BELIEVE} .zoti-all').click()")
    reader.wait(f"{count} > 3")
    assert reader.press(BELIEVE, ".zoti-stop").startswith(("Asked at", "Stopped"))
    assert reader.window.ask(count) < 21


# ---- Chapter 4: slopes of the real loss ----------------------------------------------------------------------------

SLOPES = '[data-module="slopes"]'
MU = "const s = it.querySelector('[type=range]'); s.value = {}; s.dispatchEvent(new Event('input'))"


def dots(reader):
    """Exact slopes and found ones, (n, 2), as the dots say them."""
    titles = reader.window.ask(f"[...document.querySelectorAll('{SLOPES} circle title')].map(t => t.textContent)")
    return np.array([[float(x) for x in re.findall(r"-?\d+\.\d+", title.replace("−", "-"))] for title in titles])


def fact(reader, at, name):
    each = f"[...document.querySelectorAll('{at} .zoti-facts div')]"
    found = f"{each}.find(d => d.firstChild.textContent.startsWith('{name}')).lastChild.textContent"
    return reader.window.ask(found)


def test_slopes_in_the_page_are_zotis(reader, objective, sloped):
    _, draw, gradient = sloped
    reader.press(SLOPES, ".zoti-load")
    assert fact(reader, SLOPES, "forward passes") == "3; 0"  # the engine was there, and two directions are asked along
    reader.press(SLOPES, '[data-n="64"]')
    (e,) = reader.chance(0, f"normals({66 * gradient.numel()})")
    e, theta = torch.tensor(e).view(66, *gradient.shape), objective.token.initial
    exact = (e * gradient).sum((1, 2))
    with torch.no_grad():
        here, *there = objective(torch.cat([theta[None], theta + 1e-3 * e]), draw)
    found = (torch.stack(there) - here) / 1e-3
    shown = dots(reader)
    assert shown.shape == (66, 2)
    np.testing.assert_allclose(shown[:, 0], exact, atol=2e-6)
    np.testing.assert_allclose(shown[:, 1], found, atol=0.01 * float(exact.std()))
    cosine = torch.cosine_similarity((found[:, None, None] * e).sum(0), gradient)
    assert float(fact(reader, SLOPES, "cosine").split(",")[0]) == pytest.approx(float(cosine), abs=2e-3)
    near = np.corrcoef(exact, found)[0, 1]
    assert float(fact(reader, SLOPES, "correlation")) == pytest.approx(near, abs=1e-3) and near > 0.99


def test_a_step_too_short_or_too_long_spoils_the_same_slopes(reader):
    at = [float(fact(reader, SLOPES, "correlation"))]
    before = dots(reader)
    for stop in (0, 16):
        reader.does(SLOPES, MU.format(stop))
        at.append(float(fact(reader, SLOPES, "correlation").replace("−", "-")))
        assert (dots(reader)[:, 0] == before[:, 0]).all()  # the same directions, asked again
    assert at[0] > max(at[1:]) + 0.01, at
    reader.press(SLOPES, ".zoti-dice")
    assert len(dots(reader)) == 2 and fact(reader, SLOPES, "forward passes") == "3; 0"


# ---- Chapter 5: a step at a click ----------------------------------------------------------------------------------

STEPS = '[data-module="steps"]'
TAKEN = f"document.querySelectorAll('{STEPS} :is(.zoti-new, .zoti-now)').length"


def test_steps_at_a_click_are_zotis(reader, objective, stepped):
    told = [reader.press(STEPS, ".zoti-load"), reader.press(STEPS, '[data-n="1"]'), reader.press(STEPS, '[data-n="1"]')]
    assert [re.findall(r"Step (\d+).* (\d+) forward", one) for one in told] == [
        [("1", "3")],
        [("2", "6")],
        [("3", "9")],
    ]
    latents, theta, adam = objective.latents, objective.token.initial, ZOAdam()
    state, m, d = adam.init(theta), latents.mean[0].numel(), theta.numel()
    drawn = [f"integer(0, {len(latents)})", f"normals({m})", f"normals({m})", "integer(500, 900)", f"normals({2 * d})"]
    chance = reader.chance(0, *drawn * 3)
    losses, words = [], []
    for image, its, noise, t, e in (chance[i : i + 5] for i in (0, 5, 10)):
        e = torch.tensor(e).view(2, *theta.shape)
        z = latents.mean[[image]] + latents.std[[image]] * torch.tensor(its).view_as(latents.mean[[image]])
        draw = Draw(image, torch.tensor([t]), z, torch.tensor(noise).view_as(z))
        with torch.no_grad():
            here, *there = objective(torch.cat([theta[None], theta + 1e-3 * e]), draw)
        grad = ((torch.stack(there) - here)[:, None, None] / 1e-3 * e).mean(0)
        theta, state = adam.update(grad, theta, state)
        losses, words = [*losses, float(here)], [*words, theta]
    titles = f"[...document.querySelectorAll('{STEPS} :is(.zoti-new, .zoti-now) title')].map(t => t.textContent)"
    shown = [re.findall(r"-?\d+\.\d+", title.replace("−", "-")) for title in reader.window.ask(titles)]
    shown = torch.tensor([[float(x) for x in one] for one in shown])
    torch.testing.assert_close(shown[:, 0], torch.tensor(losses), atol=2e-6, rtol=1e-4)
    torch.testing.assert_close(shown[:, 1:], stepped[1](torch.stack(words)), atol=1e-3, rtol=0)
    assert (shown[:, 2].diff() > 0.01).all()  # it has gone somewhere


def test_ten_steps_the_start_again_and_other_dice(reader):
    first = f"document.querySelector('{STEPS} :is(.zoti-new, .zoti-now) title').textContent"
    seen = reader.window.ask(first)
    assert reader.press(STEPS, '[data-n="10"]').startswith("Step 13:") and reader.window.ask(TAKEN) == 13
    assert fact(reader, STEPS, "backward") == "0" and fact(reader, STEPS, "forward") == "39"
    reader.press(STEPS, ".zoti-again")
    assert reader.window.ask(TAKEN) == 1 and reader.window.ask(first) == seen
    reader.press(STEPS, ".zoti-dice")
    assert reader.window.ask(TAKEN) == 1 and reader.window.ask(first) != seen


def test_no_error_and_nothing_sent(reader):
    own_folder = reader.page.rsplit("/", 1)[0]
    asked = [url for url in reader.window.asked if not url.startswith(("blob:", "data:"))]
    assert not reader.window.errors and all(url.startswith(own_folder) for url in asked)
