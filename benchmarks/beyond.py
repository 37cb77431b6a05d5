"""Does asking for the vector beat asking for the number? `python benchmarks/beyond.py` -> data/results/beyond.jsonl
and a table.

Every method is tuned first: the same number of settings, each tried on the same four subjects (`--tune`) with one seed;
for each number of passes the best is taken, by the loss on truth. Then it learns subjects that the tuning never saw,
three seeds each, and two more where three leave the question open. What is counted are forward passes of the U-Net, or
what they cost: 2 for one that carries a derivative along, 3 for one with its backward pass.

One line of JSON a run, with the losses (and, at `--paint`, the scores of 24 paintings) it had reached on its way; runs
that are there are not run again, so that a stopped benchmark goes on, and new weights begin anew. Words are learned by
onnxruntime (the extra 'engine') wherever no derivative is asked. It takes hours. `--methods Gauss-Newton ZOODiP
--budget 1000 --ours 1000 --tried --paint --seeds 1` is the small trial: two methods, tuned at 1,000 passes, each with
the best of those settings that the file has tried on all of the tuning's subjects. `seconds` are those of one core,
learning alone; what each holds in memory, benchmarks/speed.py and memory.py tell.

What is asked: is Gauss-Newton's loss at a third of ZOODiP's passes no higher than ZOODiP's at the end? The interval is
over subjects (bootstrap), of paired differences.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from runs import Runs, graph, judges, made, pipeline, workers  # beside this file
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from zoti import (
    PRESETS,
    ZOSGD,
    ConceptToken,
    Config,
    DenoisingLoss,
    GaussNewton,
    Guided,
    PartialUniform,
    Step,
    Stratified,
    Uniform,
    ZOAdam,
    cache_latents,
    invert,
    load_pipeline,
    rge,
    sensitive_directions,
    spsa,
)
from zoti.data import DATA, load_subject
from zoti.descent import Estimate, SensitiveDirections
from zoti.engine import OnnxLoss
from zoti.metrics import bootstrap
from zoti.model import model_key
from zoti.rivals import forward_gradient, gf_ti, textual_inversion

TINY = PRESETS["tiny-sd"]
TUNE = ["cat", "ghost", "handbag", "sailboat"]
SUBJECTS = ["backpack", "bear", "dinosaur", "gift", "mouse", "octopus", "owl", "penguin", "shoe", "teapot"]
PASSES = [100, 300, 1000, 3000]
KEY = ["weights", "method", "settings", "subject", "seed", "passes"]  # what tells one run from another
OURS, PAPER = "Gauss-Newton", "ZOODiP"


@dataclass(frozen=True)
class Inside:
    """`rge` and `ZOAdam` in coordinates of a subspace: an estimator and an optimizer for a `Config`."""

    found: SensitiveDirections
    adam: ZOAdam

    def __call__(self, loss_fn, theta: Tensor, n: int, mu: float, *, generator: torch.Generator) -> Estimate:
        rows = self.found.rows.flatten(1)

        def ask(a: Tensor) -> Tensor:
            return loss_fn(theta + (a[:, 0] @ rows).view(-1, *theta.shape))

        at = theta.new_zeros(1, len(rows))
        seen = rge(ask, at, n, mu * (theta.numel() / len(rows)) ** 0.5, generator=generator)
        return replace(seen, grad=(seen.grad @ rows).view_as(theta))

    def init(self, theta: Tensor) -> dict[str, Tensor]:
        return self.adam.init(theta.new_zeros(1, len(self.found.rows)))

    def update(self, grad: Tensor, theta: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        rows = self.found.rows.flatten(1)
        step, state = self.adam.update(grad.view(1, -1) @ rows.T, theta.new_zeros(1, len(rows)), state)
        return theta + (step @ rows).view_as(theta), state


class Fixed:
    """An objective of which every draw is the same few: what CMA-ES then minimizes has no noise."""

    def __init__(self, objective: DenoisingLoss, size: int) -> None:
        self.token, self.objective = objective.token, objective
        self.bank = objective.bank(size, torch.Generator().manual_seed(0))

    def draw(self, generator: torch.Generator) -> None:
        return None

    def __call__(self, theta: Tensor, draw: None) -> Tensor:
        return self.objective.mean(theta, self.bank)


def adam(objective, passes: int, seed: int, lr: float = 5e-3, n: int = 2, per: int = 1, spare: int = 1, **options):
    """`invert` with ZOAdam; a step asks for per * n + spare candidates."""
    config = Config(passes // (per * n + spare), n=n, mu=TINY.mu, optimizer=ZOAdam(lr=lr), seed=seed, **options)
    return invert(objective, config)


def inside(objective, passes: int, seed: int, lr: float = 2e-2, n: int = 2):
    both = Inside(directions(objective), ZOAdam(lr=lr))
    config = Config(passes // (n + 1), n=n, mu=TINY.mu, estimator=both, optimizer=both, subspace=None, seed=seed)
    return invert(objective, config)


def newton(objective, passes: int, seed: int, n: int = 4, share: float = 0.985, **options):
    estimator = GaussNewton(directions(objective, share), **options)
    config = Config(passes // (n + 1), n=n, mu=TINY.mu, estimator=estimator, optimizer=ZOSGD(1.0), subspace=None)
    return invert(objective, replace(config, seed=seed))


def evolution(objective, passes: int, seed: int, bank: int = 0, **options):
    steps = max(passes // (30 * max(bank, 1)), 1)
    for step in gf_ti(Fixed(objective, bank) if bank else objective, steps, seed=seed, **options):
        yield replace(step, evaluations=step.evaluations * max(bank, 1))


def backpropagation(objective, passes: int, seed: int, lr: float = 5e-3):
    return textual_inversion(objective, passes // 3, lr, seed)


def directions(objective: DenoisingLoss, share: float = 0.985) -> SensitiveDirections:
    return sensitive_directions(objective.token, objective.prompts[:1], share)


class Method(NamedTuple):
    """A row of the table: learn(objective, passes, seed, **settings) yields Steps. 'window' and 'vectors' are not its
    business but the objective's."""

    learn: Callable[..., Iterator[Step]]
    settings: list[dict[str, Any]]
    #: what one evaluation costs in forward passes
    cost: int = 1
    #: whether it needs PyTorch, for its derivatives
    derived: bool = False


EVERY_T = [0, 1000]
RATES = [{"lr": 2e-3}, {"lr": 5e-3}, {"lr": 1e-2}, {"lr": 2e-2}, {"lr": 5e-2}]
NONE: dict[str, Any] = {"subspace": None}
METHODS = {
    PAPER: Method(adam, [*RATES, {"lr": 1e-2, "window": EVERY_T}]),
    "RGE": Method(lambda *a, **o: adam(*a, **o, **NONE), [*RATES, {"lr": 2e-2, "n": 4}]),
    "SPSA": Method(
        lambda *a, **o: adam(*a, **{"n": 1, **o}, **NONE, estimator=spsa, per=2, spare=0),
        [*RATES, {"lr": 2e-2, "n": 2}],
    ),
    "guided": Method(
        lambda *a, **o: adam(*a, **o, **NONE, estimator=Guided(), per=2, spare=0), [*RATES, {"lr": 2e-2, "n": 1}]
    ),
    "GF-TI": Method(
        evolution, [{"sigma": 0.02}, {}, {"sigma": 0.1}, {"dimensions": 32}, {"bank": 2}, {"bank": 4, "sigma": 0.1}]
    ),
    "forward gradient": Method(
        lambda *a, **o: adam(a[0], a[1] // 2, a[2], **{"n": 1, **o}, **NONE, estimator=forward_gradient, spare=0),
        [*RATES, {"lr": 2e-2, "n": 2}],
        cost=2,
        derived=True,
    ),
    "Adam in the subspace": Method(inside, [*RATES, {"lr": 2e-2, "n": 4}]),
    OURS: Method(newton, [{}, {"forgetting": 0.99}, {"share": 0.7}, *({"temperature": t} for t in (3.0, 30.0, 100.0))]),
    "backpropagation": Method(backpropagation, [*RATES, {"lr": 1e-2, "window": EVERY_T}], cost=3, derived=True),
}
#: Not tuned, for they only change `OURS` or `PAPER` as it was tuned: more vectors, other windows.
VARIANTS = {
    f"{name}, {told}": (name, change)
    for name in (OURS, PAPER)
    for told, change in {
        "two vectors": {"vectors": 2},
        "four vectors": {"vectors": 4},
        "t in [300, 900)": {"window": [300, 900]},
        "t in [700, 1000)": {"window": [700, 1000]},
        "every t": {"window": EVERY_T},
    }.items()
}


@cache
def truths(names: tuple[str, ...]) -> tuple[Tensor, list[str]]:
    """DINO's features of all true pictures of these subjects, and whose each is."""
    subjects = [load_subject(name) for name in names]
    return (
        torch.cat([judges().dino_features(subject.truth) for subject in subjects]),
        [subject.name for subject in subjects for _ in subject.truth],
    )


def run(key: tuple[Any, ...], at: list[int], painted: list[int], others: tuple[str, ...]) -> dict[str, Any]:
    """Learn for as many passes as the key says, and judge the word at each number of passes in `at`, or before.

    others: whom the paintings are compared with. Without any this is a run of the tuning, which asks one bank alone.
    """
    _, name, settings, subject_name, seed, passes = key
    options = json.loads(settings)
    method, subject, pipe = METHODS[VARIANTS.get(name, (name,))[0]], load_subject(subject_name), pipeline()
    window = PartialUniform(*options.pop("window", (TINY.low, TINY.high)))
    token = ConceptToken(pipe, "<new>", subject.class_word, options.pop("vectors", 1), replace=True)

    def objective(pictures, captions, timesteps, derived: bool = False) -> DenoisingLoss:
        given = (pipe, token, cache_latents(pipe, pictures), captions, timesteps)
        return DenoisingLoss(*given) if derived else OnnxLoss(DenoisingLoss(*given), graph())

    asked = objective(subject.references, subject.captions, window, method.derived)
    seen = {"loss": objective(subject.truth, subject.truth_captions, Stratified(PartialUniform(TINY.low, TINY.high)))}
    if others:
        seen["loss, all t"] = objective(subject.truth, subject.truth_captions, Stratified(Uniform()))
    banks = {what: truth.bank(64, torch.Generator().manual_seed(100)) for what, truth in seen.items()}

    def judged(theta: Tensor, late: Tensor, paint: bool) -> dict[str, float]:
        loss, mean = seen["loss"].mean(torch.stack([theta, late]), banks["loss"]).tolist()
        found = {"loss": loss, "loss of the mean word": mean}
        if others:
            found["loss, all t"] = seen["loss, all t"].mean(theta[None], banks["loss, all t"]).item()
        return found | (painting(pipe, token, theta, subject, seed, others) if paint else {})

    reached, left, words = {"0": judged(token.initial, token.initial, bool(painted))}, sorted(at), []
    began = time.process_time()
    steps, spent, text = iter(method.learn(asked, passes, seed, **options)), 0, 0
    seconds = time.process_time() - began
    while left:
        began = time.process_time()
        step = next(steps, None)
        seconds += time.process_time() - began
        # a step that would go beyond a number of passes is not taken to have been made there
        while left and (step is None or step.evaluations * method.cost > left[0]):
            now = left.pop(0)
            if not words:
                continue
            late = torch.stack(words[len(words) // 2 :]).mean(0)
            told = {"passes": spent, "seconds": round(seconds, 2), "text passes": text}
            reached[str(now)] = judged(words[-1], late, now in painted) | told
        if step is None:
            break
        words.append(step.theta)
        spent, text = step.evaluations * method.cost, step.text_passes
    return dict(zip(KEY, key, strict=True)) | {"reached": reached, "made": made()}


def painting(pipe, token: ConceptToken, theta: Tensor, subject, seed: int, others: tuple[str, ...]) -> dict[str, float]:
    """Paint the truth's captions and compare: with the same caption's truth, with all of it, with that of others."""
    token.write(theta)
    images = pipe(
        [c.replace("{}", token.word) for c in subject.truth_captions],
        num_inference_steps=25,
        guidance_scale=4.0,
        generator=torch.Generator().manual_seed(seed),
    ).images
    features = torch.nn.functional.normalize(judges().dino_features(images), dim=1)
    known, owners = truths(others)
    known = torch.nn.functional.normalize(known, dim=1)
    mine = known[[i for i, owner in enumerate(owners) if owner == subject.name]]
    nearest = (features @ known.T).argmax(1).tolist()
    return {
        "paired DINO": (features * mine).sum(1).mean().item(),
        "CLIP-I": judges().clip_i(images, subject.truth),
        "retrieval": sum(owners[i] == subject.name for i in nearest) / len(nearest),
    }


def text_share() -> float:
    """What one prompt costs in the text encoder, as a share of a whole forward pass, by counting multiplications."""
    pipe, flops = load_pipeline(), []
    ids = pipe.tokenizer("a", padding="max_length", max_length=pipe.tokenizer.model_max_length, return_tensors="pt")
    z = torch.zeros(1, pipe.unet.config.in_channels, *[pipe.unet.config.sample_size] * 2)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        states = pipe.text_encoder(ids.input_ids)[0]
        flops.append(counter.get_total_flops())
        pipe.unet(z, 500, states)
        flops.append(counter.get_total_flops())
    return flops[0] / flops[1]


class Trial(Runs):
    """All runs, those in the file and those to come."""

    def __init__(self, args: argparse.Namespace, weights: str, pool: ProcessPoolExecutor) -> None:
        super().__init__(args.out, KEY)
        self.args, self.weights, self.pool = args, weights, pool

    def key(self, name: str, settings: dict[str, Any], subject: str, seed: int) -> tuple[Any, ...]:
        return (self.weights, name, json.dumps(settings, sort_keys=True), subject, seed, self.end(name))

    def end(self, name: str) -> int:
        """How many passes a method is given."""
        most = self.args.ours if name == OURS else self.args.variants if name in VARIANTS else 10**9
        return max(p for p in self.args.passes if p <= most)

    def tuning(self, name: str, settings: dict[str, Any], subject: str) -> tuple[Any, ...]:
        """The key of a run of the tuning, which may be shorter."""
        return (*self.key(name, settings, subject, 0)[:-1], self.args.budget or self.end(name))

    def learn(self, keys: list[tuple[Any, ...]], painted: list[int], others: tuple[str, ...] = ()) -> None:
        """Run what is not there."""
        at = {key: [passes for passes in self.args.passes if passes <= key[-1]] for key in keys}
        self.make(self.pool, run, {key: (at[key], painted, others) for key in keys})

    def keep(self, line: dict[str, Any]) -> None:
        super().keep(line)
        told = {passes: round(at["loss"], 5) for passes, at in line["reached"].items()}
        print(*(line[k] for k in KEY[1:-1]), told, flush=True)

    def tune(self, name: str, passes: int) -> dict[str, Any]:
        """The settings with the lowest loss over the tuning's subjects at so many passes, or at the tuning's budget;
        each subject measured by its own."""
        passes = self.args.budget or passes

        def gained(settings: dict[str, Any]) -> float:
            lines = [self.done[self.tuning(name, settings, subject)]["reached"] for subject in self.args.tune]
            return sum(here(line, passes)["loss"] / line["0"]["loss"] for line in lines)

        return min(self.tried(name), key=gained)

    def tried(self, name: str) -> list[dict[str, Any]]:
        """The settings of which all runs of the tuning are there."""
        return [s for s in METHODS[name].settings if all(self.tuning(name, s, t) in self.done for t in self.args.tune)]

    def chosen(self, name: str, passes: int) -> dict[str, Any]:
        """What a row of the table is run with at so many passes."""
        parent, change = VARIANTS.get(name, (name, {}))
        return self.tune(parent, passes) | change

    def scores(self, name: str, passes: int, what: str, seeds: int, at: int | None = None) -> Tensor:
        """(subjects, seeds): what the settings for so many passes had reached by then, or `at` another number."""
        settings, at = self.chosen(name, passes), passes if at is None else at
        lines = [
            [self.done[self.key(name, settings, subject, seed)]["reached"] for seed in range(seeds)]
            for subject in self.args.subjects
        ]
        return torch.tensor([[here(line, at)[what] for line in row] for row in lines], dtype=torch.float64)


def here(reached: dict[str, Any], passes: int) -> dict[str, float]:
    """What a run had reached by then, if no more than its class word."""
    return reached.get(str(passes), reached["0"])


def interval(scores: Tensor) -> tuple[float, float]:
    return bootstrap(scores, torch.Generator().manual_seed(0)) if len(scores) > 1 else (float("nan"), float("nan"))


def verdict(trial: Trial, seeds: int) -> tuple[str, bool]:
    """The question, and whether it is decided."""
    late = max(trial.args.passes)
    early = max([p for p in trial.args.passes if 3 * p <= late + late // 10], default=late)
    gap = trial.scores(OURS, early, "loss", seeds) - trial.scores(PAPER, late, "loss", seeds)
    low, high = interval(gap)
    answer = "it stands" if high <= 0 else "it falls" if low > 0 else "undecided"
    told = f"{OURS} at {early} passes less {PAPER} at {late}: {gap.mean():.2e} [{low:.2e}, {high:.2e}]"
    return f"{told} on {gap.numel()} pairs, {int((gap < 0).sum())} won: {answer}", answer != "undecided"


def table(trial: Trial, names: list[str], seeds: int) -> str:
    """Markdown: for every method and number of passes the means, and 95 % intervals over subjects. "Of the way": from
    the class word to the last method's end."""
    columns = ["loss", "loss, all t", "paired DINO", "CLIP-I", "retrieval", "seconds"]
    rows = [["", "passes", "settings", "of the way", *columns, "worst"], ["---"] * 2 + ["---"] * (len(columns) + 3)]
    for name in names:
        for passes in [p for p in trial.args.passes if p <= trial.end(name)]:
            settings = trial.chosen(name, passes)
            reached = trial.done[trial.key(name, settings, trial.args.subjects[0], 0)]["reached"]
            known = [c for c in columns if c in here(reached, passes)]
            cells = {c: trial.scores(name, passes, c, seeds) for c in known}
            start = trial.scores(name, passes, "loss", seeds, at=0)
            best = trial.scores(names[-1], trial.end(names[-1]), "loss", seeds)
            way = (start.mean(1) - cells["loss"].mean(1)) / (start.mean(1) - best.mean(1))
            shown = [
                shows(cells[c], 5 if "loss" in c else 0 if c == "seconds" else 3) if c in known else "" for c in columns
            ]
            worst = trial.args.subjects[int(way.argmin())]
            rows.append([name, str(passes), json.dumps(settings), shows(way, 2), *shown, worst])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def shows(scores: Tensor, digits: int) -> str:
    low, high = interval(scores)
    return f"{scores.mean():.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def main() -> None:
    assert len({len(method.settings) for method in METHODS.values()}) == 1, "the same budget for each"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subjects", nargs="+", default=SUBJECTS)
    parser.add_argument("--tune", nargs="+", default=TUNE, help="subjects for the tuning")
    parser.add_argument("--passes", nargs="+", type=int, default=PASSES)
    parser.add_argument("--budget", type=int, help="tune with so many passes, for every number of them")
    parser.add_argument("--ours", type=int, default=10**9, help=f"nor more than these for {OURS}")
    parser.add_argument("--tried", action="store_true", help="tune no further: take the best of what the file has")
    parser.add_argument("--paint", nargs="*", type=int, default=[1000, 3000], help="paint at these numbers of passes")
    parser.add_argument("--seeds", type=int, default=3, help="and two more, where these do not decide")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument(
        "--variants", type=int, default=0, help="other windows and more vectors too, with so many passes"
    )
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, each on one core")
    parser.add_argument("--out", type=Path, default=DATA / "results" / "beyond.jsonl")
    args = parser.parse_args()
    names = [name for name in METHODS if name in {*args.methods, OURS, PAPER}]
    with workers(args.jobs) as pool:
        trial = Trial(args, model_key(pipeline()), pool)
        if not args.tried:
            trial.learn([trial.tuning(n, s, t) for n in names for s in METHODS[n].settings for t in args.tune], [])
        rows = names + (list(VARIANTS) if args.variants else [])
        seeds = args.seeds
        while True:
            keys = [
                trial.key(name, trial.chosen(name, passes), subject, seed)
                for name in rows
                for passes in args.passes
                if passes <= trial.end(name)
                for subject in args.subjects
                for seed in range(seeds)
            ]
            trial.learn(keys, args.paint, tuple(sorted({*args.tune, *args.subjects})))
            told, decided = verdict(trial, seeds)
            print(told, flush=True)
            if decided or seeds >= 5 or len(args.subjects) < 2:
                break
            seeds += 2
        print(table(trial, rows, seeds))
        print(f"\nGauss-Newton's subspace takes text passes too, once for a model: one is {text_share():.3f} passes.")


if __name__ == "__main__":
    main()
