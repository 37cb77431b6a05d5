"""Measure tiny-sd's words: `python evaluate.py --seeds 3` -> data/tiny-sd/figures.json, and paintings in build/words.

Everything is measured on the exported weights in data/, by the judges in data/. A word is learned for each subject by
each method, in a process a core; the words are kept in build/words, under the fingerprints of weights and judges, so
that a run goes on where it stopped. Forward only (the paper's method) and Gauss-Newton (this book's, with forward
passes only, too) have INT8 weights, run by onnxruntime: the losses are those of `DenoisingLoss` to a part in a million,
in half the time. DreamBooth trains the whole U-Net for each subject; `--methods DreamBooth --seeds 1` measures one
method alone, beside what figures.json has of the others.

likeness     paired: the DINO cosine of painting i with truth i, which has the same caption and the drawing's own
             colours; 16 a subject. Of a truth with another of its setting it is about .95.
retrieval    the mean DINO feature of those paintings finds its own drawing as the first of a gallery of 400
obedience    "a purple <word> at night" and the like: the classifier finds setting, colour, and both
"""

import argparse
import json
import os
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from artwork import BUILD, CONCEPTS, HERE
from engine import PROCESSES
from PIL import Image
from safetensors.torch import load_file
from train_judges import pixel_values
from transformers import ResNetForImageClassification
from world import COLOURS, SETTINGS, caption

from zoti import (
    ZOSGD,
    ConceptToken,
    Config,
    DenoisingLoss,
    GaussNewton,
    PartialUniform,
    Uniform,
    ZOAdam,
    cache_latents,
    invert,
    load_pipeline,
    sensitive_directions,
)
from zoti.data import load_subject
from zoti.engine import OnnxLoss
from zoti.identity import fingerprint
from zoti.metrics import Metrics, bootstrap
from zoti.model import noise_graph
from zoti.rivals import dreambooth, textual_inversion

DATA = HERE.parent
PAIRED = 16  # of the 24 truths are in the drawing's own colours, and come first
METHODS = ("class word", "forward only", "Gauss-Newton", "backpropagation", "DreamBooth")
WINDOW = (500, 900)
KEPT = ("paired", "rank", "setting", "colour", "both")  # of what is measured of a word


def shelf(mu: float, lr: float, window: tuple[int, int]) -> Path:
    """Where the words of these settings are kept."""
    return BUILD / "words" / f"{key()}-{key('judges')}-{mu:g}-{lr:g}-{window[0]}-{window[1]}"


def key(folder: str = "tiny-sd") -> str:
    """The fingerprint of exported weights: the model's, or the judges'."""
    files = sorted((DATA / folder).glob("*/*.safetensors"))
    return fingerprint({f"{file.parent.name}.{k}": v for file in files for k, v in load_file(file).items()})[:12]


def learned(objective: DenoisingLoss, method: str, seed: int, lr: float, mu: float) -> torch.Tensor:
    """The word (1, d) that a method finds: 3,000 forward passes, or 500 steps of backpropagation. DreamBooth's 400 find
    none, they change the pipeline."""
    if method == "class word":
        return objective.token.initial
    if method == "forward only":
        *_, last = invert(objective, Config(steps=1000, mu=mu, optimizer=ZOAdam(lr=lr), seed=seed))
    elif method == "Gauss-Newton":
        newton = GaussNewton(sensitive_directions(objective.token, objective.prompts[:1]))
        config = Config(steps=600, n=4, mu=mu, estimator=newton, optimizer=ZOSGD(1.0), subspace=None, seed=seed)
        *_, last = invert(objective, config)
    elif method == "DreamBooth":
        *_, last = dreambooth(objective, steps=400, lr=1e-4, seed=seed)
    else:
        *_, last = textual_inversion(objective, steps=500, lr=3e-2, seed=seed)
    return last.theta


def paint(pipe, prompts: list[str], seed: int, steps: int = 25, guidance: float = 4.0) -> list[Image.Image]:
    chance = torch.Generator().manual_seed(seed)
    return pipe(prompts, num_inference_steps=steps, guidance_scale=guidance, generator=chance).images


@cache
def graph() -> bytes:
    """tiny-sd with INT8 weights, as onnxruntime runs it."""
    path = BUILD / "words" / f"{key()}.onnx"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")  # another process may be writing it, too
        part.write_bytes(noise_graph(load_pipeline("tiny-sd", weights="int8")))
        part.replace(path)
    return path.read_bytes()


def word(job: tuple[str, str, int, float, float, tuple[int, int], str, str]) -> dict:
    """Learn one word, paint it, and judge the paintings; kept as a file."""
    name, method, seed, lr, mu, window, folder, kind = job
    path = Path(folder) / f"{name}-{method.replace(' ', '-')}-{seed}.json"
    if path.exists():
        return json.loads(path.read_text())
    subject = load_subject(name, kind)
    forward = method in ("forward only", "Gauss-Newton")
    pipe = load_pipeline("tiny-sd", weights="int8" if forward else "none")
    pipe.set_progress_bar_config(disable=True)
    # DreamBooth as published: a rare word before the class's
    rare = method == "DreamBooth"
    token = ConceptToken(pipe, "<new>", "sks" if rare else subject.class_word)
    called = f"{{}} {subject.class_word}" if rare else "{}"
    latents, captions = cache_latents(pipe, subject.references), [c.replace("{}", called) for c in subject.captions]
    objective = DenoisingLoss(pipe, token, latents, captions, Uniform() if rare else PartialUniform(*window))
    if forward:
        objective = OnnxLoss(objective, graph())
    theta = learned(objective, method, seed, lr, mu)
    token.write(theta)
    path.parent.mkdir(parents=True, exist_ok=True)
    said = called.replace("{}", "<new>")
    pictures = paint(pipe, [p.replace("{}", said) for p in subject.truth_captions], seed)
    rng = np.random.default_rng((7, seed))
    asked = [
        (list(COLOURS)[i], list(SETTINGS)[j])
        for i, j in zip(rng.integers(0, 7, 8), rng.integers(0, 10, 8), strict=True)
    ]
    coloured = paint(pipe, [caption(said, s, c) for c, s in asked], seed + 1000)
    for kind, images in (("truth", pictures), ("asked", coloured)):
        sheet(images, 8, path.with_name(f"{path.stem}-{kind}.png"), 1)
    metrics = Metrics.load()
    own, truth = metrics.dino_features(pictures[:PAIRED]), metrics.dino_features(subject.truth[:PAIRED])
    gallery = F.normalize(load_file(DATA / "judges" / "gallery" / "features.safetensors")["dino"].float(), dim=1)
    names = json.loads((DATA / "judges" / "gallery" / "names.json").read_text())
    told = json.loads((HERE / "subjects.json").read_text()).get(name)
    order = (gallery @ F.normalize(own.mean(0), dim=0)).argsort(descending=True).tolist()
    rank = order.index(names.index(f"{told['style']}/{told['drawing']}")) + 1 if told else 0
    found = recognise(coloured)
    facts = {
        "paired": float(torch.cosine_similarity(own, truth).mean()),
        "rank": rank,
        "setting": float(np.mean([s == f[2] for (_, s), f in zip(asked, found, strict=True)])),
        "colour": float(np.mean([c == f[1] for (c, _), f in zip(asked, found, strict=True)])),
        "both": float(np.mean([(c, s) == f[1:] for (c, s), f in zip(asked, found, strict=True)])),
        "clip_i": metrics.clip_i(pictures[:PAIRED], subject.truth[:PAIRED]),
        "length": float(theta.norm()),
        "theta": theta[0].tolist(),
    }
    part = path.with_suffix(".part")  # a run that is killed leaves no half of it
    part.write_text(json.dumps(facts))
    part.replace(path)
    return facts


def recognise(pictures: list[Image.Image]) -> list[tuple[str, str, str]]:
    """What the classifier finds: (concept, colour, setting) of each picture, colour always one of the seven."""
    judge = ResNetForImageClassification.from_pretrained(DATA / "judges" / "classifier", dtype=torch.float32).eval()
    with torch.inference_mode():
        logits = judge(pixel_values([np.asarray(image) for image in pictures])).logits
    concept, setting, colour = logits.split([len(CONCEPTS), len(SETTINGS), len(COLOURS) + 1], dim=1)
    return [
        (list(CONCEPTS)[a], list(COLOURS)[c], list(SETTINGS)[b])
        for a, b, c in zip(concept.argmax(1), setting.argmax(1), colour[:, :-1].argmax(1), strict=True)
    ]


def sheet(images: list[Image.Image], columns: int, path: Path, scale: int = 2) -> None:
    rows, n = -(-len(images) // columns), images[0].width + 2
    out = Image.new("RGB", (columns * n, rows * n), "white")
    for i, image in enumerate(images):
        out.paste(image, (i % columns * n + 1, i // columns * n + 1))
    out.resize((out.width * scale, out.height * scale), Image.Resampling.NEAREST).save(path)


def summary(rows: list[list[dict]]) -> dict:
    """Of a method: rows[subject][seed]. Means over all, with intervals that draw whole subjects."""
    table = {
        k: torch.tensor([[r[k] for r in seeds] for seeds in rows]) for k in ("paired", "setting", "colour", "both")
    }
    table["retrieval"] = torch.tensor([[float(r["rank"] == 1) for r in seeds] for seeds in rows])
    table["below .6"] = (table["paired"] < 0.6).float()
    out = {}
    for name, scores in table.items():
        low, high = bootstrap(scores, torch.Generator().manual_seed(0))
        out[name] = {k: round(float(v), 4) for k, v in (("mean", scores.mean()), ("low", low), ("high", high))}
    return out


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--mu", type=float, default=1e-3)
    parser.add_argument("--methods", nargs="*", default=METHODS)
    parser.add_argument("--subjects", nargs="*", default=list(json.loads((HERE / "subjects.json").read_text())))
    args = parser.parse_args()
    folder = shelf(args.mu, args.lr, WINDOW)
    jobs = [
        (name, method, seed, args.lr, args.mu, WINDOW, str(folder), "subjects")
        for seed in range(args.seeds)
        for name in args.subjects
        for method in args.methods
    ]
    # a thread a process: small networks are bound by dispatch
    with ProcessPoolExecutor(PROCESSES, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        found = {}
        for job, facts in zip(jobs, pool.map(word, jobs), strict=True):
            found[job[:3]] = facts
            shown = ("paired", "rank", "both", "length")
            print(*job[:3], *(f"{k} {facts[k]:.3g}" for k in shown), flush=True)
    path = DATA / "tiny-sd" / "figures.json"
    made = {"weights": key(), "judges": key("judges"), "lr": args.lr, "mu": args.mu}
    figures = json.loads(path.read_text()) if path.exists() else {}
    if {k: figures.get(k) for k in made} != made or list(figures["subjects"]) != list(args.subjects):
        figures = made | {"methods": {}, "subjects": {name: {} for name in args.subjects}}
    for method in args.methods:
        rows = [[found[name, method, seed] for seed in range(args.seeds)] for name in args.subjects]
        figures["methods"][method] = {"seeds": args.seeds} | summary(rows)
        for name, runs in zip(args.subjects, rows, strict=True):
            figures["subjects"][name][method] = [{k: round(run[k], 4) for k in KEPT} for run in runs]
    for method, scores in figures["methods"].items():
        print(method, scores)
    path.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
