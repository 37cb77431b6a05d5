"""What does each part of ZOODiP do? `python benchmarks/ablation.py` -> data/results/ablation.jsonl, for chapter 8.
And which window of times teaches best? `python benchmarks/ablation.py windows` -> data/results/windows.jsonl, for
chapter 7.

ZOODiP whole, and ZOODiP with one part taken out or put otherwise, as in the paper's Tables 3 to 5 and S4 to S9. All
learn the same eight subjects, drawn from data/recipes/subjects.json without those that anything was tuned on, with the
same dice and the same number of forward passes: 1,000, or what they cost (3 for one with its backward pass).

The settings are those with which benchmarks/beyond.py's tuning did best at so many passes, those of its rivals too:
backpropagation, Gauss-Newton and GF-TI. Only the rate of SGD, which feels the length of a gradient, is another, and
tuned here on the same four subjects, by the loss on truth. Nothing else is tuned: an ablation changes one thing.

The windows are those of the paper's Figure 7 on a coarser grid, without the subspace, which is chapter 8's to judge;
their subjects are the first three of the eight.

A line of JSON a run: the loss of its word on pictures that it never saw, in the window and at all times, each beside
that of the class word under the same weights; DINO's cosine of 16 paintings with the true pictures of their captions;
and DINO_inter among them. `seconds` are those of one core, for the learning. Words of seed 0 are kept, so that a page
can paint with them: 256 numbers of half precision, in base64. Runs come in rounds, a seed each, and those that are
there are not run again.
"""

import argparse
import base64
import json
import random
import time
from collections.abc import Iterator
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from runs import Runs, graph, judges, made, pipeline, workers  # beside this file
from torch import Tensor

from zoti import (
    ZOSGD,
    ConceptToken,
    Config,
    DenoisingLoss,
    GaussNewton,
    PartialUniform,
    RandomSubspace,
    SNRWeighted,
    Step,
    Stratified,
    SubspaceGradient,
    Uniform,
    ZOAdam,
    cache_latents,
    invert,
    one_point,
    rge,
    sensitive_directions,
    spsa,
)
from zoti.data import DATA, load_subject
from zoti.engine import OnnxLoss
from zoti.identity import fingerprint
from zoti.model import model_key
from zoti.rivals import gf_ti, textual_inversion

KEY = ["weights", "recipe", "method", "settings", "subject", "seed"]  # what tells one run from another
TUNE = ["cat", "ghost", "handbag", "sailboat"]  # as in beyond.py
RULES = {"passes": 1000, "bank": 64, "bank seed": 100, "paintings": 16, "steps": 10, "guidance": 4.0}
PATH = {"tau": 128, "nu": 1e-3}
WHOLE: dict[str, Any] = {
    "weights": "int8",
    "times": [500, 900],
    "estimator": "rge",
    "n": 2,
    "mu": 1e-3,
    "subspace": PATH,
    "optimizer": "ZOAdam",
    "lr": 0.02,
}
RATES = [0.2, 0.7, 2.0, 7.0]
#: What is changed of the whole, first what most depends on; SGD's rate is to come.
VARIANTS: dict[str, dict[str, Any]] = {
    "class word": {"optimizer": "none"},
    "ZOODiP": {},
    "no subspace": {"subspace": None},
    "uniform times": {"times": [0, 1000]},
    "neither": {"subspace": None, "times": [0, 1000]},
    "random subspace": {"subspace": {**PATH, "random": True}},
    "τ = 32": {"subspace": {**PATH, "tau": 32}},
    "t in [0, 500)": {"times": [0, 500]},
    "SGD": {"optimizer": "ZOSGD"},
    "one-point": {"estimator": "one-point"},
    "backpropagation": {"optimizer": "backpropagation"},
    "n = 1": {"n": 1},
    "n = 8": {"n": 8},
    "µ = 1e-4": {"mu": 1e-4},
    "µ = 1e-2": {"mu": 1e-2},
    "SPSA": {"estimator": "spsa"},
    "Gauss-Newton": {"optimizer": "Gauss-Newton", "n": 4},
    "GF-TI": {"optimizer": "GF-TI", "sigma": 0.1},
    "backpropagation, uniform times": {"optimizer": "backpropagation", "times": [0, 1000]},
    "n = 4": {"n": 4},
    "SNR-weighted times": {"times": "snr"},
    "t in [300, 900)": {"times": [300, 900]},
    "t in [700, 1000)": {"times": [700, 1000]},
    "4 bits": {"weights": "int4"},
    "fp32": {"weights": "none"},
    "ν = 0.1": {"subspace": {**PATH, "nu": 0.1}},
}
EDGES = [0, 300, 500, 700, 900, 1000]
#: Where learning may look: every window between two edges; and, to compare with, times by their noise, and no learning.
WINDOWS: dict[str, dict[str, Any]] = {
    "class word": {"optimizer": "none"},
    **{f"{a} to {b}": {"subspace": None, "times": [a, b]} for a, b in combinations(EDGES, 2)},
    "SNR-weighted": {"subspace": None, "times": "snr"},
}
ESTIMATORS = {"rge": (rge, 1, 1), "one-point": (one_point, 1, 1), "spsa": (spsa, 2, 0)}  # a step: per * n + spare


def subjects(count: int = 8) -> list[str]:
    names = sorted({*json.loads((DATA / "recipes" / "subjects.json").read_text())} - {*TUNE})
    return random.Random(8).sample(names, count)


def recipe() -> str:
    """What decides a run besides the weights, its settings and its subject, as a fingerprint: our rules, the judge."""
    return fingerprint(judges().dino.state_dict(), json.dumps(RULES, sort_keys=True))


def times(told: list[int] | str, pipe: Any) -> PartialUniform | SNRWeighted:
    return SNRWeighted(pipe.scheduler.alphas_cumprod) if told == "snr" else PartialUniform(*told)


def config(settings: dict[str, Any], seed: int) -> Config:
    """The settings of a line as zoti has them."""
    estimator, per, spare = ESTIMATORS[settings["estimator"]]
    subspace = dict(settings["subspace"] or {})
    of_path = RandomSubspace(**subspace, seed=seed) if subspace.pop("random", False) else SubspaceGradient(**subspace)
    return Config(
        RULES["passes"] // (per * settings["n"] + spare),
        n=settings["n"],
        mu=settings["mu"],
        estimator=estimator,
        optimizer={"ZOAdam": ZOAdam, "ZOSGD": ZOSGD}[settings["optimizer"]](settings["lr"]),
        subspace=of_path if settings["subspace"] else None,
        seed=seed,
    )


def learn(objective: DenoisingLoss, settings: dict[str, Any], seed: int) -> Iterator[Step]:
    n, passes = settings["n"], RULES["passes"]
    if settings["optimizer"] == "backpropagation":
        return textual_inversion(objective, passes // 3, settings["lr"], seed)
    if settings["optimizer"] == "GF-TI":
        return gf_ti(objective, passes // 30, seed=seed, sigma=settings["sigma"])
    if settings["optimizer"] == "Gauss-Newton":
        newton = GaussNewton(sensitive_directions(objective.token, objective.prompts[:1]))
        given = {"estimator": newton, "optimizer": ZOSGD(1.0), "subspace": None}
        return invert(objective, Config(passes // (n + 1), n=n, mu=settings["mu"], seed=seed, **given))
    return invert(objective, config(settings, seed))


@cache
def judge(weights: str, subject_name: str) -> tuple[list[tuple[DenoisingLoss, list[Any]]], list[float]]:
    """What tells the loss of a word: in the window and at all times, each with its draws; and the class word's."""
    pipe, subject = pipeline(weights), load_subject(subject_name)
    token = ConceptToken(pipe, "<new>", subject.class_word, replace=True)
    latents = cache_latents(pipe, subject.truth)
    asked = []
    for window in (PartialUniform(*WHOLE["times"]), Uniform()):
        loss = DenoisingLoss(pipe, token, latents, subject.truth_captions, Stratified(window))
        dice = torch.Generator().manual_seed(RULES["bank seed"])
        asked.append((OnnxLoss(loss, graph(weights)), loss.bank(RULES["bank"], dice)))
    return asked, [loss.mean(token.initial[None], bank).item() for loss, bank in asked]


def paint(pipe: Any, token: ConceptToken, theta: Tensor, subject: Any, seed: int) -> list[Any]:
    """The truth's captions that name no colour, painted with the word."""
    token.write(theta)
    return pipe(
        [c.replace("{}", token.word) for c in subject.truth_captions[: RULES["paintings"]]],
        num_inference_steps=RULES["steps"],
        guidance_scale=RULES["guidance"],
        generator=torch.Generator().manual_seed(seed),
    ).images


def run(key: tuple[Any, ...]) -> dict[str, Any]:
    *_, told, subject_name, seed = key
    settings = json.loads(told)
    subject, pipe = load_subject(subject_name), pipeline(settings["weights"])
    asked, before = judge(settings["weights"], subject_name)
    token = ConceptToken(pipe, "<new>", subject.class_word, replace=True)
    given = (pipe, token, cache_latents(pipe, subject.references), subject.captions, times(settings["times"], pipe))
    objective = DenoisingLoss(*given)
    if settings["optimizer"] != "backpropagation":
        objective = OnnxLoss(objective, graph(settings["weights"]))
    theta, passes, began = token.initial, 0, time.process_time()
    if settings["optimizer"] != "none":
        *_, last = learn(objective, settings, seed)
        cost = 3 if settings["optimizer"] == "backpropagation" else 1
        theta, passes = last.theta, last.evaluations * cost
    line = dict(zip(KEY, key, strict=True)) | {"passes": passes, "seconds": round(time.process_time() - began, 2)}
    for what, (loss, bank), of_class in zip(("loss", "loss, all t"), asked, before, strict=True):
        line |= {what: loss.mean(theta[None], bank).item(), f"class word's {what}": of_class}
    if subject_name not in TUNE:
        images = paint(pipe, token, theta, subject, seed)
        mine, true = (judges().dino_features(some) for some in (images, subject.truth[: len(images)]))
        line |= {"paired DINO": torch.cosine_similarity(mine, true).mean().item()}
        line |= {"DINO_inter": judges().dino_inter(images)}
    if seed == 0 and subject_name not in TUNE:
        line["word"] = base64.b64encode(theta.half().numpy().tobytes()).decode()
    return line | {"made": made()}


#: What is learned, of how many subjects, with how many seeds.
STUDIES = {"ablation": (VARIANTS, 8, 5), "windows": (WINDOWS, 3, 2)}


class Ablation(Runs):
    """All runs of this benchmark."""

    def keep(self, line: dict[str, Any]) -> None:
        super().keep(line)
        told = [f"{line[k]:.4f}" for k in ("loss", "loss, all t", "paired DINO", "seconds") if k in line]
        print(*(line[k] for k in ("method", "subject", "seed")), *told, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", nargs="?", default="ablation", choices=STUDIES)
    parser.add_argument("--rounds", type=int, help="one seed each")
    parser.add_argument("--methods", nargs="+")
    parser.add_argument("--subjects", nargs="+")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, each on one core")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    variants, sitters, rounds = STUDIES[args.study]
    out = args.out or DATA / "results" / f"{args.study}.jsonl"
    args.methods = args.methods or list(variants)
    if unknown := {*args.methods} - {*variants}:
        parser.error(f"no method of this study: {', '.join(sorted(unknown))}; there are {', '.join(variants)}")
    with workers(args.jobs) as pool:
        trial, here = Ablation(out, KEY), (model_key(pipeline("int8")), recipe())

        def key(name: str, change: dict[str, Any], subject: str, seed: int) -> tuple[Any, ...]:
            return (*here, name, json.dumps(WHOLE | change, sort_keys=True), subject, seed)

        def make(keys: list[tuple[Any, ...]]) -> None:
            trial.make(pool, run, {key: () for key in keys})

        tried = {
            rate: [key("SGD", VARIANTS["SGD"] | {"lr": rate}, name, 0) for name in TUNE]
            for rate in RATES
            if "SGD" in args.methods
        }
        make([key for keys in tried.values() for key in keys])
        for seed in range(args.rounds or rounds):
            for name in args.methods:
                change = variants[name]
                if name == "SGD":
                    lines = {rate: [trial.done[k] for k in keys] for rate, keys in tried.items()}
                    gained = {rate: sum(a["loss"] / a["class word's loss"] for a in at) for rate, at in lines.items()}
                    change = change | {"lr": min(gained, key=gained.get)}
                make([key(name, change, subject, seed) for subject in args.subjects or subjects()[:sitters]])


if __name__ == "__main__":
    main()
