"""What a page learns with, against the library: the same tokens, the same losses, the same word, the same picture.

Runs in node, on the very scripts a built page loads. A browser's own trial of them is in test_site.py.
"""

import importlib.util
import json
import os
import shutil
import subprocess
from base64 import b64decode
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load

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

pytest.importorskip("onnxscript", reason="needs the engine's tools: pip install -e .[engine]")
pytestmark = pytest.mark.slow  # an export takes seconds

ROOT = Path(__file__).parents[2]
STEPS = 20
# What a prompt may hold that is no word of the model's: capitals, scripts, marks, digits, emoji, special tokens.
ODD = [
    "", " ", "A Teapot", "a <teapot>", "<TEAPOT>!", "two<teapot>s", "it's, we've; they'LL", "don't ''s 3.14 2026",
    "été Ångström naïve e\u0301te\u0301", "ΟΔΥΣΣΕΥΣ ΟΔΟΣ", "İstanbul ıI ß ẞ", "茶壶 在 雪 里", "чайник", "🫖 👩‍🚀 🏳️‍🌈",
    "tab\tnew\nline\u00a0no\u3000wide\u2028", "\ufeffbom \u0085 next", "<|endoftext|> <|STARTOFTEXT|> <|startoftext|>x",
    "½ ² ⅷ ٣", "a_b-c/d\\e[f]{g}(h)", "…—“”", "\u200bzero\u200d", "co\u00adop",
]  # fmt: skip

SCRIPT = """
import { readFileSync, readdirSync } from "node:fs";
import { gzipSync } from "node:zlib";
const told = JSON.parse(readFileSync(0));
const pieces = {};
globalThis.zotiPart = (name, i, text) => { (pieces[name] ??= [])[i] = text; };
for (const file of readdirSync(told.learn)) {
  if (file.endsWith(".js")) (0, eval)(readFileSync(`${told.learn}/${file}`, "utf8"));
}
const inflate = async (texts) => {
  const packed = Buffer.from(texts.join(""), "base64");
  return new Uint8Array(await new Response(new Blob([packed]).stream().pipeThrough(
    new DecompressionStream("gzip"))).arrayBuffer());
};
const parts = {};
for (const [name, texts] of Object.entries(pieces)) parts[name] = await inflate(texts);
const load = (name) => import(`file://${told.engine}/${name}.js`);
const { Pupil } = await load("pupil"), { paint } = await load("paint"), { invert } = await load("invert");
const { GaussNewton } = await load("curvature"), { rge } = await load("estimators");
const { ZOAdam, ZOSGD } = await load("optim"), { SubspaceGradient } = await load("subspace");
const { writeTensors, readTensors } = await load("tensors");
const ort = await import(`file://${told.runtime}`);
ort.env.wasm.wasmBinary = parts.wasm;
const pupil = await Pupil.open(ort, parts);
const { lesson, tokenizer } = pupil;
const counts = Object.entries(zotiParts).map(([name, { pieces: n, bytes }]) =>
  n === pieces[name].length && bytes === parts[name].length);

const objective = await pupil.objective();
const replay = (draws) => ({ left: [...draws], normals() { return Float64Array.from(this.left.shift()); } });
async function run(told, how) {
  const drawn = [...told.draws], steps = [];
  objective.draw = () => {
    const draw = drawn.shift();
    return { ...draw, z: Float32Array.from(draw.z), noise: Float32Array.from(draw.noise) };
  };
  const theta = Float64Array.from(pupil.initial);
  const all = { steps: told.draws.length, chance: replay(told.normals), ...how };
  for await (const step of invert(objective, theta, all)) steps.push({ ...step, theta: [...step.theta] });
  return steps;
}
const { rows, length } = lesson.directions;
const newton = { n: 4, mu: 1e-3, estimator: new GaussNewton({ rows, length }), optimizer: new ZOSGD({ lr: 1 }) };
const subspace = new SubspaceGradient({ tau: 8 });
const zoodip = { n: 2, mu: 1e-3, estimator: rge, optimizer: new ZOAdam({ lr: 5e-3 }), subspace };

const refused = (prompt) => { try { tokenizer.ids(prompt); } catch (error) { return error.message; } };
const sent = readdirSync(told.learn).reduce((sum, f) => sum + gzipSync(readFileSync(`${told.learn}/${f}`)).length, 0);
const result = {
  counts, sent, ids: told.prompts.map((prompt) => tokenizer.ids(prompt)), long: refused("teapot ".repeat(40)),
  initial: [...pupil.initial], mean: objective.latents.mean.map((x) => [...x]),
  std: objective.latents.std.map((x) => [...x]),
  zoodip: await run(told.zoodip, zoodip), newton: await run(told.newton, newton),
};
const prompts = told.painted.map((prompt) => tokenizer.ids(prompt));
const noise = told.painted.map(() => Float32Array.from(told.noise));
const pictures = await paint(pupil.model, Float64Array.from(told.word), prompts, tokenizer.ids(""), noise);
result.pictures = pictures.map((x) => [...x]);
const file = writeTensors({ "<teapot>": { shape: [1, told.word.length], data: told.word } }, { note: "é" });
result.file = Buffer.from(file).toString("base64");
result.back = [...readTensors(file)["<teapot>"].data];
delete objective.draw;
const steps = [];
for await (const step of pupil.learn({ method: "gauss-newton", steps: 3, seed: 5 })) steps.push(step.passes);
result.passes = steps;
console.log(JSON.stringify(result));
"""


def engine():
    spec = importlib.util.spec_from_file_location("engine", ROOT / "book" / "engine.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


@pytest.fixture(scope="module")
def page(teapot, zoodip, newton, painted, tmp_path_factory):
    """What the page's engine made of the same."""
    missing = [name for name in ("node", "npm") if not shutil.which(name)]
    if missing and not os.environ.get("CI"):
        pytest.skip(f"needs {', '.join(missing)}")
    build = engine()
    kept = ROOT / "_build" / "engine"
    learn = build.bring(tmp_path_factory.mktemp("site"), kept)
    told = {
        "learn": str(learn), "engine": str(build.MODULES), "runtime": str(build.runtime(kept / "runtime")[0]),
        "prompts": five_hundred("<teapot>"), "zoodip": zoodip.told(), "newton": newton.told(),
        "painted": painted[0], "noise": painted[1].flatten().tolist(),
        "word": zoodip.steps[-1].theta.flatten().tolist(),
    }  # fmt: skip
    command = ["node", "--input-type=module", "-e", SCRIPT]
    done = subprocess.run(command, input=json.dumps(told), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_part_arrives_whole_and_there_are_twenty_megabytes_at_most(page):
    assert all(page["counts"])
    assert page["sent"] <= 20e6  # gzipped once more, as a host sends it


def test_tokens_of_five_hundred_prompts_are_the_tokenizers(page, teapot):
    prompts, vocabulary = five_hundred("<teapot>"), teapot[2].vocabularies[0]
    assert len(set(prompts)) >= 480
    different = [p for p, ids in zip(prompts, page["ids"], strict=True) if ids != vocabulary.ids(p)]
    assert not different
    assert "say it shorter" in page["long"]


def test_it_starts_where_the_library_does(page, teapot):
    _, _, token, latents = teapot
    assert page["initial"] == token.initial.flatten().tolist()
    for name in ("mean", "std"):
        torch.testing.assert_close(torch.tensor(page[name]), getattr(latents, name).flatten(1), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["zoodip", "newton"])
def test_fed_the_same_chance_it_learns_the_same_word(page, request, name):
    ours = request.getfixturevalue(name).steps
    assert len(ours) == len(page[name]) == STEPS
    for step, there in zip(ours, page[name], strict=True):
        assert there["passes"] == step.evaluations
        assert there["loss"] == pytest.approx(step.loss, rel=1e-4)
    word, there = ours[-1].theta.flatten(), torch.tensor(page[name][-1]["theta"])
    moved = (word - torch.tensor(page["initial"])).norm()
    assert moved > 0.05
    assert (there - word).abs().max() < 1e-3 and (there - word).norm() < 0.02 * moved


def test_it_paints_the_librarys_picture(page, painted):
    there = np.array(page["pictures"]).reshape(painted[2].shape)
    assert np.abs(there - painted[2]).mean() < 0.5 / 255
    assert np.abs(painted[2][0] - painted[2][1]).mean() > 10 / 255  # and not one picture for all prompts


def test_what_it_writes_is_a_file_of_safetensors(page, zoodip):
    word = zoodip.steps[-1].theta
    assert torch.equal(load(b64decode(page["file"]))["<teapot>"], word)
    assert page["back"] == word.flatten().tolist()


def test_it_learns_by_its_own_chance_and_counts_its_passes(page):
    assert page["passes"] == [5, 10, 15]
