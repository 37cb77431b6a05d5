"""Who learns a word best, and at what cost: `python benchmarks/rivals.py` -> benchmarks/rivals.jsonl and a table.

Every rival learns the same subjects of tiny-sd from the same five pictures and captions, with the same seeds; then it
paints the 24 truth captions and is scored against the truth. One line of JSON a run; what is already there is not run
again, so that a stopped benchmark goes on, and new weights begin anew. About an hour and a half of two idle cores, a
run on each; `--subjects teapot --seeds 1 --share 0.01` is a look in a minute. `seconds` are those of one core, learning
alone. `paired` is the DINO cosine of each painting with the truth of its own caption.
"""

import argparse
import json
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch

from zoti import (
    PRESETS,
    ConceptToken,
    Config,
    DenoisingLoss,
    PartialUniform,
    Step,
    Stratified,
    Uniform,
    cache_latents,
    invert,
    load_pipeline,
)
from zoti.data import DATA, Subject, load_subject
from zoti.metrics import Metrics, bootstrap
from zoti.model import model_key
from zoti.rivals import dreambooth, gf_ti, textual_inversion

TINY = PRESETS["tiny-sd"]
SUBJECTS = sorted(path.name for path in (DATA / "subjects").iterdir())[::4]  # eleven of them
KEY = ["weights", "method", "subject", "seed", "steps"]  # what tells one run from another
COLUMNS = ["CLIP-I", "paired", "DINO", "CLIP-T", "DINO_inter", "loss", "evaluations", "seconds"]


class Method(NamedTuple):
    """A row of the table. `learn(objective, steps=..., seed=...)` yields Steps; None learns nothing."""

    learn: Any
    steps: int
    weights: str = "int8"
    timesteps: PartialUniform = Uniform()
    word: str | None = None  # what the word starts as, if not as its class
    named: bool = False  # whether captions name the class after the word, "a {} teapot in the snow"


def zeroth_order(objective: DenoisingLoss, steps: int, seed: int, **options: Any) -> Iterator[Step]:
    return invert(objective, Config(steps=steps, seed=seed, mu=TINY.mu, **options))


METHODS = {
    "class word": Method(None, 0),
    "TI, backpropagation, fp32": Method(textual_inversion, 300, "none"),
    "TI, backpropagation, INT8, checkpointing": Method(partial(textual_inversion, checkpointing=True), 300),
    # by the look of its teapots: the loss on truth would have it stop at a fifth of this, long before it paints them
    "DreamBooth, fp32": Method(partial(dreambooth, lr=1e-4), 400, "none", word="sks", named=True),
    "GF-TI, INT8": Method(gf_ti, 100),  # as many passes as 1,000 steps of three
    "RGE n = 2, INT8": Method(partial(zeroth_order, subspace=None), TINY.steps),
    "ZOODiP, INT8": Method(zeroth_order, TINY.steps, timesteps=PartialUniform(TINY.low, TINY.high)),
}


judges = cache(Metrics.load)  # once in a process


def run(weights: str, name: str, subject_name: str, seed: int, steps: int) -> dict[str, Any]:
    """Learn, paint, score. `loss` is over a bank of truth, all timesteps."""
    method, subject = METHODS[name], load_subject(subject_name)
    pipe: Any = load_pipeline("tiny-sd", method.weights)
    token = ConceptToken(pipe, "<new>", method.word or subject.class_word)
    gap = f"{{}} {subject.class_word}" if method.named else "{}"
    captions, truth_captions = (
        [c.replace("{}", gap) for c in some] for some in (subject.captions, subject.truth_captions)
    )
    objective = DenoisingLoss(pipe, token, cache_latents(pipe, subject.references), captions, method.timesteps)
    theta, evaluations, began = token.initial, 0, time.perf_counter()
    if steps:
        for step in method.learn(objective, steps=steps, seed=seed):
            theta, evaluations = step.theta, step.evaluations
    seconds = time.perf_counter() - began
    token.write(theta)
    images = pipe(
        [c.replace("{}", token.word) for c in truth_captions],
        num_inference_steps=25,
        guidance_scale=4.0,
        generator=torch.Generator().manual_seed(seed),
    ).images
    truth = DenoisingLoss(pipe, token, cache_latents(pipe, subject.truth), truth_captions, Stratified(Uniform()))
    loss = truth.mean(theta[None], truth.bank(64, torch.Generator().manual_seed(100))).item()
    scores = judges().scores(images, subject.truth, class_prompts(subject))
    own, truths = judges().dino_features(images), judges().dino_features(subject.truth)
    scores["paired"] = torch.cosine_similarity(own, truths).mean().item()
    return (
        dict(zip(KEY, (weights, name, subject_name, seed, steps), strict=True))
        | scores
        | {"loss": loss, "evaluations": evaluations, "seconds": round(seconds, 2)}
    )


def class_prompts(subject: Subject) -> list[str]:
    """What a picture ought to show, in words the judge knows: CLIP-T's prompts."""
    return [c.replace("{}", subject.class_word) for c in subject.truth_captions]


def table(lines: list[dict[str, Any]], subjects: list[str]) -> str:
    """Markdown: mean, and from two subjects on the 95 % bootstrap interval over subjects."""
    rows = [["", *COLUMNS], ["---"] + ["---:"] * len(COLUMNS)]
    for name in METHODS:
        runs = [line for line in lines if line["method"] == name]
        rows.append([name, *(cell([[r[c] for r in runs if r["subject"] == s] for s in subjects], c) for c in COLUMNS)])
    judge = judges()
    truths = [(s.truth, class_prompts(s)) for s in map(load_subject, subjects)]
    itself = {
        "CLIP-I": [[judge.clip_inter(images)] for images, _ in truths],
        "DINO": [[judge.dino_inter(images)] for images, _ in truths],
        "CLIP-T": [[judge.clip_t(images, prompts)] for images, prompts in truths],
    }
    itself["DINO_inter"] = itself["DINO"]
    rows.append(["the truth itself", *(cell(itself[c], c) if c in itself else "" for c in COLUMNS)])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def cell(scores: list[list[float]], column: str) -> str:
    digits = {"loss": 4, "evaluations": 0, "seconds": 0}.get(column, 3)
    values = torch.tensor(scores, dtype=torch.float64)  # (subjects, seeds)
    mean = f"{values.mean():.{digits}f}"
    if len(values) < 2 or not digits:
        return mean
    low, high = bootstrap(values, torch.Generator().manual_seed(0))
    return f"{mean} [{low:.{digits}f}, {high:.{digits}f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subjects", nargs="+", default=SUBJECTS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--share", type=float, default=1.0, help="of every method's steps")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, each on one core")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".jsonl"))
    args = parser.parse_args()
    weights = model_key(load_pipeline())
    wanted = [
        (weights, name, subject, seed, max(round(method.steps * args.share), min(method.steps, 1)))
        for subject in args.subjects
        for seed in range(args.seeds)
        for name, method in METHODS.items()
    ]
    there = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.exists() else []
    done = {tuple(line[k] for k in KEY): line for line in there}
    with ProcessPoolExecutor(args.jobs, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        for future in as_completed([pool.submit(run, *key) for key in wanted if key not in done]):
            line = future.result()
            done[tuple(line[k] for k in KEY)] = line
            with args.out.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)
    print(table([done[key] for key in wanted], args.subjects))


if __name__ == "__main__":
    main()
