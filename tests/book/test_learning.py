"""The page learns a word itself: in Chromium and in Debian's Firefox, from a folder without a network and over http.

What its engine, assets/engine/, computes there is held against the library: the same tokens, the same losses, the same
word, the same picture. What is downloaded is a word for zoti and for diffusers.
"""

import json
import os
import shutil
import threading
import time
from dataclasses import dataclass
from functools import partial
from gzip import compress
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageDraw

from tests.book.chromium import CHROMIUM, Chromium, Tabs
from tests.book.firefox import FIREFOX, Firefox
from tests.book.folder import lay
from tests.helpers import generator
from zoti import (
    ZOSGD,
    ConceptToken,
    Config,
    DenoisingLoss,
    GaussNewton,
    PartialUniform,
    SubspaceGradient,
    cache_latents,
    invert,
    load_pipeline,
    sensitive_directions,
)
from zoti.data import load_subject
from zoti.page import lesson

pytest.importorskip("onnxscript", reason="needs the engine's tools: pip install -e .[engine]")
missing = not (CHROMIUM and FIREFOX) and not os.environ.get("CI")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(missing, reason="needs chromium and firefox-esr")]

ROOT = Path(__file__).parents[2]
STEPS = 20  # of a run that is replayed
FEW = 4  # enough to see that the panel learns
PATIENCE = 400  # seconds for what takes ten on an idle machine
# What a prompt may hold that is no word of the model's: capitals, scripts, marks, digits, emoji, special tokens.
ODD = [
    "", " ", "A Teapot", "a <teapot>", "<TEAPOT>!", "two<teapot>s", "it's, we've; they'LL", "don't ''s 3.14 2026",
    "été Ångström naïve e\u0301te\u0301", "ΟΔΥΣΣΕΥΣ ΟΔΟΣ", "İstanbul ıI ß ẞ", "茶壶 在 雪 里", "чайник", "🫖 👩‍🚀 🏳️‍🌈",
    "tab\tnew\nline\u00a0no\u3000wide\u2028", "\ufeffbom \u0085 next", "<|endoftext|> <|STARTOFTEXT|> <|startoftext|>x",
    "½ ² ⅷ ٣", "a_b-c/d\\e[f]{g}(h)", "…—“”", "\u200bzero\u200d", "co\u00adop",
]  # fmt: skip


# Done in the page, beside the panel, with the parts that it loads: the library's own draws, and its prompts.
TRIAL = r"""
window.trial = async (told) => {
  const found = {};
  window.zotiPart = (name, i, text) => { (found[name] ??= [])[i] = text; };
  const script = (name) => new Promise((done, failed) => {
    const element = Object.assign(document.createElement("script"), { src: `_static/learn/${name}` });
    Object.assign(element, { onload: done, onerror: failed });
    document.head.append(element);
  });
  for (const [name, { pieces }] of Object.entries(window.zotiParts)) {
    for (let i = 0; i < pieces; i++) await script(`${name}-${i}.js`);
  }
  const inflate = async (texts) => {
    const packed = Uint8Array.from(atob(texts.join("")), (letter) => letter.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  };
  const parts = {};
  for (const [name, texts] of Object.entries(found)) parts[name] = await inflate(texts);
  const modules = JSON.parse(new TextDecoder().decode(parts.modules)), addresses = {};
  const address = (text) => URL.createObjectURL(new Blob([text], { type: "text/javascript" }));
  const place = (name) => (addresses[name] ??= address(
    modules[name].replace(/from "\.\/(\w+)\.js"/g, (_, other) => `from "${place(other)}"`)));
  const load = (name) => import(place(name));
  const { Pupil } = await load("pupil"), { paint } = await load("paint"), { invert } = await load("invert");
  const { GaussNewton } = await load("curvature"), { rge } = await load("estimators");
  const { ZOAdam, ZOSGD } = await load("optim"), { SubspaceGradient } = await load("subspace");
  const { writeTensors, readTensors } = await load("tensors"), { Chance } = await load("chance");
  const ort = await import(address(parts.runtime));
  ort.env.wasm.wasmBinary = parts.wasm;
  const pupil = await Pupil.open(ort, parts);
  const { tokenizer } = pupil;

  const objective = await pupil.objective();
  const replay = (draws) => ({ left: [...draws], normals() { return Float64Array.from(this.left.shift()); } });
  async function run({ draws, normals }, how) {
    const drawn = [...draws], steps = [];
    objective.draw = () => {
      const draw = drawn.shift();
      return { ...draw, z: Float32Array.from(draw.z), noise: Float32Array.from(draw.noise) };
    };
    const all = { steps: draws.length, chance: replay(normals), ...how };
    for await (const { loss, passes, theta } of invert(objective, pupil.initial, all)) {
      steps.push({ loss, passes, theta: [...theta] });
    }
    return steps;
  }
  const { rows, length } = pupil.settings.directions;
  const newton = { n: 4, mu: 1e-3, estimator: new GaussNewton({ rows, length }), optimizer: new ZOSGD({ lr: 1 }) };
  const subspace = new SubspaceGradient({ tau: 8 });
  const zoodip = { n: 2, mu: 1e-3, estimator: rge, optimizer: new ZOAdam({ lr: 5e-3 }), subspace };
  const refused = (prompt) => { try { tokenizer.ids(prompt); } catch (error) { return error.message; } };
  const lists = (all) => all.map((one) => [...one]);

  const noise = told.painted.map(() => Float32Array.from(told.noise));
  const prompts = told.painted.map((prompt) => tokenizer.ids(prompt));
  const pictures = await paint(pupil.model, Float64Array.from(told.word), prompts, tokenizer.ids(""), noise);
  const { mean, std } = objective.latents;
  const written = writeTensors({ "<é>": { shape: [1, 256], data: told.word } }, { note: "é" });
  return {
    whole: Object.entries(window.zotiParts).every(([name, { bytes }]) => bytes === parts[name].length),
    ids: told.prompts.map((prompt) => tokenizer.ids(prompt)), long: refused("teapot ".repeat(40)),
    initial: [...pupil.initial], mean: lists(mean), std: lists(std), pictures: lists(pictures),
    zoodip: await run(told.zoodip, zoodip), newton: await run(told.newton, newton),
    back: [...readTensors(written).tensors["<é>"].data],
    chance: [...new Chance(0).normals(pupil.model.size)],
  };
};
"""


@dataclass
class Recorded:
    """A run of the library's, and all chance in it."""

    draws: list
    normals: list
    steps: list

    def told(self) -> dict:
        return {"draws": self.draws, "normals": self.normals}


def recorded(teapot, config: Config, shape: tuple[int, ...], dtype: torch.dtype) -> Recorded:
    """Run `invert`, and write down what its objective draws, and after it the estimator: normals of this shape."""
    pipe, subject, token, latents = teapot
    draws, normals = [], []

    class Watched(DenoisingLoss):
        def bank(self, size, generator):
            (draw,) = super().bank(size, generator)
            told = {"image": draw.image, "t": int(draw.t), "z": draw.z.flatten().tolist()}
            draws.append(told | {"noise": draw.noise.flatten().tolist()})
            twin = torch.Generator()
            twin.set_state(generator.get_state())
            normals.append(torch.randn(shape, generator=twin, dtype=dtype).flatten().tolist())
            return [draw]

    watched = Watched(pipe, token, latents, subject.captions, PartialUniform(500, 900))
    return Recorded(draws, normals, list(invert(watched, config)))


def five_hundred(token: str) -> list[str]:
    """Prompts of the book's kind and of every other."""
    subjects = [load_subject(path.name) for path in sorted((ROOT / "data" / "subjects").iterdir()) if path.is_dir()]
    said = [caption for subject in subjects for caption in [*subject.captions, *subject.truth_captions]]
    known = list(dict.fromkeys(caption.replace("{}", token) for caption in said))[:240]
    letters = "abcdefghijklmnopqrstuvwxyzABCXYZ 0123456789'.,-!?<>|éßΣжя茶🫖\u00a0\t"
    choose = generator(4)
    mixed = ["".join(letters[i] for i in torch.randint(len(letters), (13,), generator=choose)) for _ in range(500)]
    return [*ODD, *known, *mixed][:500]


@pytest.fixture(scope="module")
def teapot():
    pipe, subject = load_pipeline("tiny-sd", weights="int8"), load_subject("teapot")
    token = ConceptToken(pipe, "<teapot>", subject.class_word)
    return pipe, subject, token, cache_latents(pipe, subject.references)


@pytest.fixture(scope="module")
def zoodip(teapot):
    width = teapot[2].initial.shape[1]
    config = Config(steps=STEPS, subspace=SubspaceGradient(tau=8))
    return recorded(teapot, config, (2, 1, width), torch.float32)


@pytest.fixture(scope="module")
def newton(teapot):
    _, subject, token, _ = teapot
    directions = sensitive_directions(token, [subject.captions[0].replace("{}", token.word)])
    config = Config(steps=STEPS, n=4, estimator=GaussNewton(directions), optimizer=ZOSGD(1.0), subspace=None)
    return recorded(teapot, config, (len(directions.rows), 4), torch.float64)


@pytest.fixture(scope="module")
def painted(teapot, zoodip):
    """What the library paints with the word it learned: prompts, noise, pixels."""
    pipe, _, token, _ = teapot
    prompts = ["a purple <teapot> on the beach", "a <teapot> in the snow"]
    shape = (1, pipe.unet.config.in_channels, *[pipe.unet.config.sample_size] * 2)
    noise = torch.randn(shape, generator=generator(9))
    token.write(zoodip.steps[-1].theta)
    options = {"guidance_scale": 4, "num_inference_steps": 25, "output_type": "np"}
    images = pipe(prompts, latents=noise.expand(2, -1, -1, -1).clone(), **options).images
    token.write(token.initial)
    return prompts, noise, images.transpose(0, 3, 1, 2)


# ---- A reader at the panel ------------------------------------------------------------------------------------------

TOLD = "document.querySelector('.zoti-told').textContent"
STATE = "document.querySelector('.zoti-teach').dataset.state"
READY = "document.documentElement.dataset.zoti == 'ready'"


def pressed(name):
    return f"document.querySelector('{name}').click()"


def pixels(name):
    """A canvas as a list of bytes of RGBA."""
    return (
        f"(c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data])(document.querySelector('{name}'))"
    )


def written(prompt):
    return (
        f"document.querySelector('.zoti-write input').value = {json.dumps(prompt)}, "
        "document.querySelector('.zoti-write').requestSubmit()"
    )


def patiently(window, expression):
    """Wait until this is true in the page."""
    end = time.monotonic() + PATIENCE
    while not window.ask(expression):
        assert time.monotonic() < end, window.ask(TOLD)
        time.sleep(0.2)


def does(window, expression):
    """Do this, wait until the panel has answered, and return what it says."""
    window.ask(expression)
    patiently(window, f"{STATE} == 'idle'")
    return window.ask(TOLD)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, zoodip, newton, painted):
    """A page with the panel, and beside it what a built site has; and the trial with what it is to be given."""
    site = tmp_path_factory.mktemp("site")
    given = {
        "prompts": five_hundred("<teapot>"), "zoodip": zoodip.told(), "newton": newton.told(),
        "painted": painted[0], "noise": painted[1].flatten().tolist(),
        "word": zoodip.steps[-1].theta.flatten().tolist(),
    }  # fmt: skip
    trial = f"{TRIAL}\nwindow.given = {json.dumps(given)};\n"
    lay(site, lesson(gauss_newton=FEW, zoodip=FEW).markup(), scripts={"trial": trial})
    return site


@dataclass
class Visit:
    """What a reader who taught it a word saw; early: had it loaded anything before? asked: what for, by the end."""

    said: list
    before: list
    after: list
    painted: list
    file: tuple
    early: bool
    asked: list
    errors: list
    trial: dict | None


def visit(window, address, trial):
    try:
        window.goto(address)
        patiently(window, READY)
        early = window.ask("'zotiParts' in window")
        said = [does(window, pressed(".zoti-go"))]
        before, after = (window.ask(pixels(name)) for name in (".zoti-before", ".zoti-after"))
        file = window.download(pressed(".zoti-word"))
        patiently(window, f"{STATE} == 'idle'")
        said.append(does(window, written("a purple <teapot> on the beach")))
        there = window.ask(pixels(".zoti-after"))
        found = window.ask("window.trial(window.given)") if trial else None
        return Visit(said, before, after, there, file, early, list(window.asked), list(window.errors), found)
    finally:
        window.close()


@pytest.fixture(scope="module", params=["chromium", "firefox"])
def offline(request, folder):
    """From a folder, with the network off."""
    window = Chromium(offline=True) if request.param == "chromium" else Firefox()
    return visit(window, (folder / "page.html").as_uri(), trial=True)


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def host(folder):
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module", params=["chromium", "firefox"])
def online(request, host):
    window = Chromium() if request.param == "chromium" else Firefox()
    return visit(window, f"{host}/page.html", trial=False)


def learned(seen):
    first, then = seen.said
    assert first == f"Learned in {3 * FEW} forward passes, none backward. The word is <teapot>."
    assert "a purple <teapot> on the beach" in then
    shown = [np.array(bytes_).reshape(64, 64, 4) for bytes_ in (seen.before, seen.after, seen.painted)]
    assert all(one.std() > 20 and (one[..., 3] == 255).all() for one in shown)
    assert (shown[0] != shown[1]).any() and (shown[1] != shown[2]).any()
    assert not seen.errors
    return shown[2][..., :3]


def test_from_a_folder_it_learns_and_loads_nothing_before_it_is_asked(offline, folder):
    learned(offline)
    asked = [url for url in offline.asked if not url.startswith(("blob:", "data:"))]
    assert not offline.early and all(url.startswith(folder.as_uri()) for url in asked)


def test_over_http_it_does_the_same_and_asks_no_other_host(online, host):
    learned(online)
    asked = [url for url in online.asked if not url.startswith(("blob:", "data:"))]
    assert not online.early and all(url.startswith(host) for url in asked)
    assert [url for url in asked if "/learn/" in url]


def test_the_word_taken_away_paints_the_pages_picture_in_diffusers_and_in_zoti(offline, tmp_path):
    name, content = offline.file
    (path := tmp_path / name).write_bytes(content)
    assert name == "learned_embeds.safetensors"
    stock = StableDiffusionPipeline.from_pretrained(ROOT / "data" / "tiny-sd")
    stock.load_textual_inversion(path)
    row = stock.tokenizer.convert_tokens_to_ids("<teapot>")
    stocks = stock.text_encoder.get_input_embeddings().weight[row].detach()
    pipe = load_pipeline("tiny-sd", weights="int8")
    token = ConceptToken.load(pipe, path)
    assert token.word == "<teapot>" and torch.equal(token.initial[0], stocks)
    assert not torch.equal(token.initial[0], torch.tensor(offline.trial["initial"]))  # it has learned
    size = pipe.unet.config.sample_size
    noise = torch.tensor(offline.trial["chance"]).view(1, -1, size, size)
    options = {"guidance_scale": 4, "num_inference_steps": 25, "output_type": "np"}
    ours = pipe("a purple <teapot> on the beach", latents=noise, **options).images[0]
    assert np.abs(ours - learned(offline) / 255).mean() < 2 / 255


def test_it_stops_goes_on_and_says_what_is_wrong(folder):
    window = Chromium(offline=True)
    try:
        window.goto((folder / "page.html").as_uri())
        patiently(window, READY)
        window.ask(pressed(".zoti-go"))
        assert "Stopped" in does(window, pressed(".zoti-stop"))  # while it loads
        window.ask(pressed(".zoti-go"))
        patiently(window, f"{TOLD}.startsWith('Step')|| {TOLD}.startsWith('Painting')")
        assert "Stopped" in does(window, pressed(".zoti-stop"))
        window.ask(pressed(".zoti-go"))
        patiently(window, f"{STATE} == 'idle' && {TOLD}.startsWith('Learned')")
        assert f"Learned in {3 * FEW} forward passes" in window.ask(TOLD)
        for said, answer in {
            "": "write something",
            "teapot " * 40: "say it shorter",
            "a cat": "does not stand",
        }.items():
            assert answer in does(window, written(said))
        assert not window.errors
    finally:
        window.close()


def test_a_reader_teaches_it_a_thing_of_their_own_by_keyboard_and_brings_the_word_back(folder, tmp_path):
    window = Chromium(offline=True)
    page = window.page
    try:
        window.goto((folder / "page.html").as_uri())
        patiently(window, READY)
        (tmp_path / "broken.png").write_bytes(b"no picture")
        Image.new("1", (8000, 5100)).save(tmp_path / "huge.png")
        red = Image.new("RGB", (90, 60), "white")
        ImageDraw.Draw(red).ellipse((20, 10, 60, 50), fill="red")
        red.save(tmp_path / "red.png")
        page.select_option(".zoti-what", "picture")
        for name, answer in {"broken": "no picture that this browser can read", "huge": "8000 × 5100 pixels"}.items():
            page.set_input_files(".zoti-file", tmp_path / f"{name}.png")
            patiently(window, f"{TOLD}.includes({json.dumps(answer)})")
        page.set_input_files(".zoti-file", tmp_path / "red.png")
        patiently(window, f"{TOLD}.startsWith('If too much of it is gone')")
        cut = np.array(window.ask(pixels(".zoti-thing"))).reshape(256, 256, 4)
        assert (cut[:100, :30, 3] == 0).all() and (cut[110:140, 100:120] == (255, 0, 0, 255)).all()

        undo = "document.querySelector('.zoti-undo').click()"
        page.locator(".zoti-thing").scroll_into_view_if_needed()
        box = page.locator(".zoti-thing").bounding_box()
        window.drag(*((box["x"] + x * box["width"], box["y"] + 0.5 * box["height"]) for x in (0.3, 0.6)))
        page.select_option(".zoti-does", "draws")
        page.focus(".zoti-thing")
        window.press("ArrowRight")
        by_hand = np.array(window.ask(pixels(".zoti-thing"))).reshape(256, 256, 4)
        assert (by_hand[126:131, 80:136, 3] == 0).all()  # rubbed out
        assert (by_hand[:90] == cut[:90]).all() and (by_hand[128, 158:166] == (0xC2, 0x41, 0x0C, 255)).all()
        assert "Set it" in window.ask("document.querySelector('.zoti-go').textContent")
        window.drag((box["x"] + 0.1 * box["width"], box["y"] + 0.9 * box["height"]))  # a click
        assert np.array(window.ask(pixels(".zoti-thing"))).reshape(256, 256, 4)[230, 26, 3] == 255
        window.ask(f"{undo}, {undo}, {undo}")
        assert (np.array(window.ask(pixels(".zoti-thing"))).reshape(256, 256, 4) == cut).all()
        window.ask(undo)
        assert window.ask(TOLD) == "There is nothing to take back."

        page.select_option(".zoti-what", "drawing")
        assert "nothing to see yet" in does(window, pressed(".zoti-go"))
        page.focus(".zoti-thing")
        window.press("ArrowRight", "Shift+ArrowDown", "ArrowLeft", "ArrowLeft")
        reached = "document.activeElement.classList.contains('zoti-go')"
        for _ in range(9):
            if not window.ask(reached):
                window.press("Tab")
        window.press("Enter")
        patiently(window, f"{STATE} == 'idle' && {TOLD}.startsWith('To the model it looks most like')")
        assert window.ask("[...document.querySelectorAll('.zoti-shown canvas')].length") == 5
        assert window.ask(f"{TOLD}.includes(document.querySelector('.zoti-noun').value) && {reached}")
        window.press("Enter")
        patiently(window, f"{STATE} == 'idle' && {TOLD}.startsWith('Learned')")
        assert "<mine>" in window.ask(TOLD) and window.ask(reached)
        nameless = """[...document.querySelectorAll(".zoti-teach :is(button, select, input, canvas, progress)")].filter(
            e => !(e.getAttribute("aria-label") || e.labels?.[0]?.textContent || e.textContent).trim()).length"""
        assert window.ask(nameless) == 0

        name, word = window.download(pressed(".zoti-word"))
        assert window.download(pressed(".zoti-picture"))[1].startswith(b"\x89PNG")
        after = window.ask(pixels(".zoti-after"))
        for content, answer in {
            word[:50]: "no file of safetensors",
            word[:-4]: "is damaged",
            word: "<mine> is back",
        }.items():
            (tmp_path / name).write_bytes(content)
            page.set_input_files(".zoti-back input", tmp_path / name)
            patiently(window, f"{STATE} == 'idle' && {TOLD}.includes({json.dumps(answer)})")
        page.select_option(".zoti-what", "1")  # another of the book's own, and the word is forgotten
        page.select_option(".zoti-way", "gauss-newton")
        told = does(window, pressed(".zoti-go"))
        assert told == f"Learned in {5 * FEW} forward passes, none backward. The word is <penguin>."
        assert window.ask(pixels(".zoti-after")) != after and not window.errors
    finally:
        window.close()


def hidden_while_it_learns(window):
    """Press the button and see the tab no more; what the panel says before it is shown again."""
    window.ask(f"({pressed('.zoti-go')}, 0)")
    window.hide()
    patiently(window, f"document.visibilityState == 'hidden' && {STATE} == 'idle'")
    told = window.ask(TOLD)
    window.show()
    patiently(window, "document.visibilityState == 'visible'")
    assert window.ask(TOLD) == told
    return told


def test_a_tab_that_is_hidden_learns_on(folder):
    window = Tabs()
    try:
        window.goto((folder / "page.html").as_uri())
        patiently(window, READY)
        assert hidden_while_it_learns(window).startswith("Learned in")
        assert np.std(window.ask(pixels(".zoti-after"))) > 20
    finally:
        window.close()


def test_firefox_is_taught_a_drawing_while_its_tab_is_hidden(folder):
    window = Firefox()
    try:
        window.goto((folder / "page.html").as_uri())
        patiently(window, READY)
        sheet, choice = (f"document.querySelector('.zoti-{name}')" for name in ("thing", "what"))
        window.ask(f"({choice}.value = 'drawing', {choice}.dispatchEvent(new Event('change')))")
        window.ask(f"({sheet}.scrollIntoView(), 0)")
        left, top, side = window.ask(f"(({{ x, y, width }}) => [x, y, width])({sheet}.getBoundingClientRect())")
        window.drag(*((left + x * side, top + y * side) for x, y in ((0.3, 0.4), (0.7, 0.4), (0.5, 0.7), (0.3, 0.4))))
        assert does(window, f"({pressed('.zoti-go')}, 0)").startswith("To the model it looks most like")
        given = window.ask(pixels(".zoti-shown canvas"))
        assert [0xC2, 0x41, 0x0C] in np.array(given).reshape(-1, 4)[:, :3].tolist()
        assert "The word is <mine>" in hidden_while_it_learns(window)
        assert b"<mine>" in window.download(pressed(".zoti-word"))[1] and not window.errors
    finally:
        window.close()


def test_a_folder_that_is_not_whole_is_said_to_be_and_once_it_is_it_goes_on(folder, tmp_path):
    shutil.copytree(folder, half := tmp_path / "half")
    piece = half / "_static" / "learn" / "noise-1.js"
    piece.rename(tmp_path / "kept")
    window = Chromium(offline=True)
    try:
        window.goto((half / "page.html").as_uri())
        patiently(window, READY)
        told = does(window, pressed(".zoti-go"))
        assert told == "It did not work: noise-1.js could not be loaded; is the folder whole?"
        (tmp_path / "kept").rename(piece)
        assert does(window, pressed(".zoti-go")).startswith("Learned in")
    finally:
        window.close()


# ---- Its engine ------------------------------------------------------------------------------------------------------


def test_every_part_arrives_whole_and_there_are_twenty_megabytes_at_most(offline, folder):
    assert offline.trial["whole"]
    sent = sum(len(compress(path.read_bytes())) for path in (folder / "_static" / "learn").iterdir())
    assert sent <= 20e6  # as a host sends it
    assert abs(sent / 1e6 - 19) < 0.7  # which is what the panel says


def test_tokens_of_five_hundred_prompts_are_the_tokenizers(offline, teapot):
    prompts, vocabulary = five_hundred("<teapot>"), teapot[2].vocabularies[0]
    assert len(set(prompts)) >= 480
    different = [p for p, ids in zip(prompts, offline.trial["ids"], strict=True) if ids != vocabulary.ids(p)]
    assert not different
    assert "say it shorter" in offline.trial["long"]


def test_it_starts_where_the_library_does(offline, teapot):
    _, _, token, latents = teapot
    assert offline.trial["initial"] == token.initial.flatten().tolist()
    for name in ("mean", "std"):
        there = torch.tensor(offline.trial[name])
        torch.testing.assert_close(there, getattr(latents, name).flatten(1), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", ["zoodip", "newton"])
def test_fed_the_same_chance_it_learns_the_same_word(offline, request, name):
    ours, theirs = request.getfixturevalue(name).steps, offline.trial[name]
    assert len(ours) == len(theirs) == STEPS
    for step, there in zip(ours, theirs, strict=True):
        assert there["passes"] == step.evaluations
        assert there["loss"] == pytest.approx(step.loss, rel=1e-4)
    word, there = ours[-1].theta.flatten(), torch.tensor(theirs[-1]["theta"])
    moved = (word - torch.tensor(offline.trial["initial"])).norm()
    assert moved > 0.05
    assert (there - word).abs().max() < 1e-3 and (there - word).norm() < 0.02 * moved


def test_it_paints_the_librarys_picture(offline, painted):
    there = np.array(offline.trial["pictures"]).reshape(painted[2].shape)
    assert np.abs(there - painted[2]).mean() < 0.5 / 255
    assert np.abs(painted[2][0] - painted[2][1]).mean() > 10 / 255  # and not one picture for all prompts


def test_what_it_writes_it_reads(offline, zoodip):
    assert offline.trial["back"] == zoodip.steps[-1].theta.flatten().tolist()
