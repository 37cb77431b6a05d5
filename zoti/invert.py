"""The loop: draw, estimate, project, step. A generator, so that logging, plotting and stopping live in the notebook."""

import inspect
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor
from tqdm.auto import tqdm

from zoti.checkpoint import Run, initial_state, load_checkpoint, renewed_state, save_checkpoint
from zoti.descent.estimators import Estimate, LossFn, rge
from zoti.descent.optim import AuthorsZOAdam, Optimizer, ZOAdam
from zoti.descent.subspace import SubspaceGradient
from zoti.objective import DenoisingLoss

#: A loss beyond this is divergence: predicting nothing costs about 1, whether noise or v is asked for.
WORST_LOSS = 10.0
#: And so is a token that became so many times as long as it began (see `invert`).
LONGEST = 1000.0


@dataclass(frozen=True)
class Config:
    """Everything that decides a run, but for the objective. Paper: 30,000 steps, n = 2, mu = 1e-3, lr = 5e-3, batch 1.

    A candidate's loss is its mean over `batch` draws of (image, t, noise), the same for all candidates. An estimator
    that is `Stateful`, like `Guided`, is told what it remembers as further arguments. Raises ValueError for numbers
    that cannot be and parts that contradict each other.

    >>> print(Config(n=4, optimizer=ZOAdam(lr=0.01), subspace=None))
    rge gaussian n=4 mu=0.001 batch=1 seed=0
    ZOAdam(lr=0.01, beta1=0.9, beta2=0.999, eps=1e-08) None
    """

    steps: int = 2000
    n: int = 2
    mu: float = 1e-3
    batch: int = 1
    estimator: Callable[..., Estimate] = rge  # or spsa, one_point, Guided(...)
    directions: str = "gaussian"
    optimizer: Optimizer = field(default_factory=ZOAdam)
    subspace: SubspaceGradient | None = field(default_factory=SubspaceGradient)
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.steps, self.n, self.batch) < 1 or not 0 < self.mu < math.inf:
            raise ValueError(
                f"steps = {self.steps}, n = {self.n}, batch = {self.batch}, mu = {self.mu}: "
                "the first three must be at least 1, mu positive and finite"
            )
        if not -(2**63) <= self.seed < 2**63:
            raise ValueError(f"seed = {self.seed}: a seed is an integer of 64 bits")
        if isinstance(self.optimizer, AuthorsZOAdam) and self.optimizer.n != self.n:
            raise ValueError(f"n = {self.n}, but the authors' optimizer was built for n = {self.optimizer.n}")
        if self.directions != "gaussian" and "directions" not in inspect.signature(self.estimator).parameters:
            raise ValueError(
                f"{self.estimator} shapes its own directions; directions={self.directions!r} would not be used"
            )

    def __str__(self) -> str:
        """One line that two runs share exactly when they would take the same steps; `steps` may be extended."""
        estimator = getattr(self.estimator, "__name__", self.estimator)  # a function's name, a Guided's numbers
        chance = f"{self.directions} n={self.n} mu={self.mu} batch={self.batch} seed={self.seed}"
        return f"{estimator} {chance} {self.optimizer} {self.subspace}"


@dataclass(frozen=True)
class Step:
    """What one step did.

    >>> Step(1, torch.zeros(1, 4), 0.5, removed=0, evaluations=3, seconds=0.1).loss
    0.5
    """

    index: int  #: 1, 2, ...
    theta: Tensor  #: (k, d) the token after the step
    loss: float  #: of the token before the step, on this step's draws
    removed: float  #: share of the squared gradient that SubspaceGradient took away
    evaluations: int  #: so far in the whole run, an evaluation being one candidate on one draw; the bank is not counted
    seconds: float  #: since this process began the run
    bank_loss: float | None = None  #: of the token after the step, where the bank was asked


def invert(
    objective: DenoisingLoss,
    config: Config,
    theta: Tensor | None = None,
    checkpoint: str | Path | None = None,
    bank: LossFn | None = None,
    every: int = 100,
    progress: bool = False,
) -> Iterator[Step]:
    """Learn the objective's word by forward passes only (ZOODiP Alg. 1 and 2), yielding a Step after each update.

    theta: (k, d) start, by default the token's initial vectors. Every `every` steps, and after the last, `bank` is
    asked for the loss of the token, e.g. `lambda c: truth.mean(c, draws)` with `draws = truth.bank(64, generator)`, and
    the whole state is written to `checkpoint`, atomically; a run that finds the file goes on from it, to the same
    bits as if never stopped. `progress` shows a bar, which leaves when done and which TQDM_DISABLE=1 forbids.

    A run has diverged when a loss is not finite or above 10 (predicting nothing at all costs about 1), or when the
    token is 1000 times as long as its initial vectors. Growth alone is healthy, the loss hardly feels length; but it
    hardly does because a text encoder begins by normalising, so a step of mu then turns the token a thousandth as
    far, and the differences drown in rounding. The last token of sound loss is saved, then FloatingPointError raised.
    Raises ValueError for a checkpoint damaged, or of another config, word or captions; pictures it does not compare.

    >>> from zoti import ConceptToken, PartialUniform, cache_latents, load_pipeline
    >>> from zoti.data import load_subject
    >>> pipe, teapot = load_pipeline(), load_subject("teapot")
    >>> token, times = ConceptToken(pipe, "<x>", "teapot"), PartialUniform(500, 900)
    >>> latents = cache_latents(pipe, teapot.references)
    >>> objective = DenoisingLoss(pipe, token, latents, teapot.captions, times)
    >>> for step in invert(objective, Config(steps=2)):
    ...     longer = step.theta.norm() / token.initial.norm()
    ...     assert step.loss < WORST_LOSS and longer < LONGEST
    >>> step.index, step.evaluations, step.theta.shape
    (2, 6, torch.Size([1, 256]))
    """
    if every < 1:
        raise ValueError(f"every = {every}: bank and checkpoint come every so many steps, at least 1")
    path, told = None if checkpoint is None else Path(checkpoint), f"{config} {objective.prompts}"
    run = _begin(config, objective.token.initial if theta is None else theta)
    if path is not None and path.exists():
        run = load_checkpoint(path, told, run)
    began, good = time.perf_counter(), run

    def stop(trouble: str) -> NoReturn:
        if path is not None:
            save_checkpoint(path, told, good)
        raise FloatingPointError(
            f"{trouble} at step {run.index + 1}; the token of step {good.index}, the last that was sound, is kept"
            f"{f' in {path}' if path else ''}. Try a smaller learning rate or a larger mu"
        )

    # tqdm itself forgets the variable in a notebook
    hidden = not progress or bool(os.environ.get("TQDM_DISABLE"))
    with tqdm(total=config.steps, initial=run.index, disable=hidden, leave=False) as bar:
        while run.index < config.steps:
            estimate, chance = _estimate(objective, config, run)
            if not torch.isfinite(estimate.directional).all() or not math.isfinite(estimate.loss):
                stop("the loss is not finite")
            if estimate.loss > WORST_LOSS:
                stop(f"the loss is {float(estimate.loss):.3g}, where predicting nothing costs about 1,")
            good, grad, removed = run, estimate.grad, 0.0  # good: its loss has just been seen
            if config.subspace:
                grad, removed = config.subspace.project(grad, run.states["subspace"])
            theta, optimizer = config.optimizer.update(grad, run.theta, run.states["optimizer"])
            longer = _length(theta) / (_length(objective.token.initial) or 1.0)  # a word may start from nothing
            if not longer <= LONGEST:
                stop(f"the token became {longer:.3g} times as long as it began")
            states = {
                "optimizer": optimizer,
                "subspace": renewed_state(config.subspace, theta, run.states["subspace"]),
                "estimator": renewed_state(config.estimator, estimate.grad, run.states["estimator"]),
            }
            run = Run(theta, chance, states, run.index + 1, run.evaluations + config.batch * estimate.evaluations)
            asked = None
            if run.index % every == 0 or run.index == config.steps:
                asked = None if bank is None else float(bank(run.theta[None]))
                if path is not None:
                    save_checkpoint(path, told, run)
            bar.update()
            loss, seconds = float(estimate.loss), time.perf_counter() - began
            yield Step(run.index, run.theta, loss, removed, run.evaluations, seconds, asked)


def _begin(config: Config, theta: Tensor) -> Run:
    theta = theta.detach().float().clone()
    states = {
        "optimizer": config.optimizer.init(theta),
        "subspace": initial_state(config.subspace, theta),
        "estimator": initial_state(config.estimator, theta),
    }
    return Run(theta, torch.Generator().manual_seed(config.seed).get_state(), states)


def _estimate(objective: DenoisingLoss, config: Config, run: Run) -> tuple[Estimate, Tensor]:
    """What this run's estimator sees next, and the state of chance afterwards."""
    generator = torch.Generator()
    generator.set_state(run.chance)
    draws = objective.bank(config.batch, generator)
    options: dict[str, Any] = {**run.states["estimator"]}
    if config.directions != "gaussian":  # an estimator of your own need not know of directions
        options["directions"] = config.directions
    with torch.inference_mode():
        estimate = config.estimator(
            lambda c: objective.mean(c, draws), run.theta, config.n, config.mu, generator=generator, **options
        )
    # a clone outside inference mode is an ordinary tensor again
    return replace(estimate, grad=estimate.grad.clone()), generator.get_state()


def _length(theta: Tensor) -> float:
    """Of the longest of a word's k vectors."""
    return float(torch.linalg.vector_norm(theta, dim=-1).max())
