"""What a page learns with, against the library: the same tokens, the same losses, the same word, the same picture.

Runs in node, on the very scripts a built page loads. A browser's own trial of them is in test_site.py.
"""

import importlib.util
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers import generator
from zoti import (
    ZOSGD,
    ConceptToken,
    Config,
    DenoisingLoss,
    GaussNewton,
    PartialUniform,
    cache_latents,
    invert,
    load_pipeline,
    rge,
    sensitive_directions,
)
from zoti.data import load_subject
from zoti.descent import random_directions

pytest.importorskip("onnxscript", reason="needs the engine's tools: pip install -e .[engine]")

ROOT = Path(__file__).parents[2]
STEPS = 20
# What a prompt may hold that is no word of the model's: capitals, scripts, marks, digits, emoji, its own special tokens.
ODD = [
    "", " ", "A Teapot", "a <teapot>", "<TEAPOT>!", "two<teapot>s", "it's, we've; they'LL", "don't ''s 3.14 2026",
    "été Ångström naïve e\u0301te\u0301", "ΟΔΥΣΣΕΥΣ ΟΔΟΣ", "İstanbul ıI ß ẞ", "茶壶 在 雪 里", "чайник", "🫖 👩‍🚀 🏳️‍🌈",
    "tab\tnew\nline\u00a0no\u3000wide\u2028", "\ufeffbom \u0085 next", "<|endoftext|> <|STARTOFTEXT|> <|startoftext|>x",
    "½ ² ⅷ ٣", "a_b-c/d\\e[f]{g}(h)", "…—“”", "\u200bzero\u200d", "co\u00adop",
]  # fmt: skip

SCRIPT = """
import { readFileSync, readdirSync } from "node:fs";
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
const { GaussNewton } = await load("curvature"), { rge } = await load("estimators"), { dot } = await load("linear");
const { ZOAdam, ZOSGD } = await load("optim"), { SubspaceGradient } = await load("subspace");
const { writeTensors, readTensors } = await load("tensors");
const ort = await import(`file://${told.runtime}`);
ort.env.wasm.wasmBinary = parts.wasm;
const pupil = await Pupil.open(ort, parts);
const { lesson, tokenizer } = pupil;
const counts = Object.entries(zotiParts).map(([name, { pieces: n, bytes }]) =>
  n === pieces[name].length && bytes === parts[name].length);

const objective = await pupil.objective();
const far = (a, b) => Math.max(...a.map((x, i) => Math.abs(x - b[i])));
const replay = (draws) => ({ left: [...draws], normals() { return Float64Array.from(this.left.shift()); } });
async function run(told, how) {
  const drawn = [...told.draws], steps = [];
  objective.draw = () => { const d = drawn.shift(); return { ...d, z: Float32Array.from(d.z), noise: Float32Array.from(d.noise) }; };
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
const result = {
  counts, ids: told.prompts.map((prompt) => tokenizer.ids(prompt)), long: refused("teapot ".repeat(40)),
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
    """A run of the library's, with all its chance."""

    draws: list
    normals: list
    steps: list

    def told(self) -> dict:
        return {"draws": self.draws, "normals": self.normals}


def recorded(pipe, token, latents, captions, config: Config) -> Recorded:
    """Run `invert`, and write down what its objective and its estimator drew."""
    seen = Recorded([], [], [])

    class Watched(DenoisingLoss):
        def draw(self, generator, t=None):
            draw = super().draw(generator, t)
            one = {"image": draw.image, "t": int(draw.t), "z": draw.z.flatten().tolist()}
            seen.draws.append(one | {"noise": draw.noise.flatten().tolist()})
            return draw

    steps = invert(Watched(pipe, token, latents, captions, PartialUniform(500, 900)), config)
    seen.steps = list(steps)
    return seen


@pytest.fixture(scope="module")
def teapot():
    pipe, subject = load_pipeline("tiny-sd", weights="int8"), load_subject("teapot")
    token = ConceptToken(pipe, "<teapot>", subject.class_word)
    return pipe, subject, token, cache_latents(pipe, subject.references)


def watched(estimator, normals, draw):
    """The estimator, and beside it a list of what it is about to draw."""

    def asked(loss, theta, n, mu, *, generator):
        twin = torch.Generator()
        twin.set_state(generator.get_state())
        normals.append(draw(theta, n, mu, twin).flatten().tolist())
        return estimator(loss, theta, n, mu, generator=generator)

    return asked


class WatchedNewton(GaussNewton):
    def __call__(self, residual_fn, theta, n, mu, *, generator, **state):
        twin = torch.Generator()
        twin.set_state(generator.get_state())
        drawn = torch.randn(len(state["directions"]), n, generator=twin, dtype=torch.float64)
        self.normals.append(drawn.flatten().tolist())
        return super().__call__(residual_fn, theta, n, mu, generator=generator, **state)
