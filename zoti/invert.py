"""The loop: draw, estimate, project, step. It is a generator, so printing, plotting and stopping are the caller's."""

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

#: A loss above this means that the run has diverged. A model that predicts nothing has a loss of about 1.
WORST_LOSS = 10.0
#: A token this many times as long as the word's initial vectors means the same (see `invert`).
LONGEST = 1000.0


@dataclass(frozen=True)
class Config:
    """Everything that decides a run, except the objective.

    The paper takes 30,000 steps with n = 2, mu = 1e-3, lr = 5e-3 and batch 1. An estimator that is `Stateful`, like
    `Guided`, is called with what it remembers as further arguments.

    Raises ValueError for numbers that cannot be and parts that contradict each other.

    >>> print(Config(n=4, optimizer=ZOAdam(lr=0.01), subspace=None))
    rge gaussian n=4 mu=0.001 batch=1 seed=0
    ZOAdam(lr=0.01, beta1=0.9, beta2=0.999, eps=1e-08) None
    """

    #: how many updates of the token
    steps: int = 2000
    #: how many directions an estimate averages over
    n: int = 2
    #: the step of a finite difference
    mu: float = 1e-3
    #: a candidate's loss is its mean over so many draws of (image, t, noise), the same for all candidates
    batch: int = 1
    #: `rge`, `spsa`, `one_point`, a `Guided`, or one of your own
    estimator: Callable[..., Estimate] = rge
    #: 'gaussian', 'rademacher' or 'orthogonal'
    directions: str = "gaussian"
    #: what makes a step of the projected gradient
    optimizer: Optimizer = field(default_factory=ZOAdam)
    #: what is removed from the gradient; None removes nothing
    subspace: SubspaceGradient | None = field(default_factory=SubspaceGradient)
    #: decides all chance in the run
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
        """All that decides the steps of a run, in one line. `steps` is left out, so that a run may be extended."""
        estimator = getattr(self.estimator, "__name__", self.estimator)  # a function's name, a Guided's numbers
        chance = f"{self.directions} n={self.n} mu={self.mu} batch={self.batch} seed={self.seed}"
        return f"{estimator} {chance} {self.optimizer} {self.subspace}"


@dataclass(frozen=True)
class Step:
    """What one step did.

    >>> Step(1, torch.zeros(1, 4), 0.5, removed=0, evaluations=3, seconds=0.1).loss
    0.5
    """

    #: the step's number: 1, 2, ...
    index: int
    #: the token after the step, (k, d)
    theta: Tensor
    #: the loss before the step, on this step's draws, as the estimator saw it (see `Estimate`)
    loss: float
    #: the share of the gradient's squared length that the subspace took away
    removed: float
    #: evaluations in the whole run so far, each of one candidate on one draw; the bank's are not counted
    evaluations: int
    #: seconds since this process began the run
    seconds: float
    #: the bank's loss of the token after the step, at steps where the bank is asked
    bank_loss: float | None = None


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

    theta: where to start, (k, d); by default the token's initial vectors. Two things happen every `every` steps and
    after the last. `bank` is asked for the loss of the token: `lambda c: truth.mean(c, draws)`, say, with
    `draws = truth.bank(64, generator)`. And the state is written to the file `checkpoint`, atomically; a run that finds
    this file goes on from it, to the same bits as if it had never stopped. `progress` shows a bar, which goes away when
    the run is done; TQDM_DISABLE=1 forbids it.

    A run has diverged when a loss is not finite or above 10 (a model that predicts nothing has about 1), or when the
    token is 1000 times as long as the word's initial vectors. Growing as such does no harm, for a text encoder
    normalises what it reads and so sees hardly more than a token's direction. But for the same reason a step of length
    mu changes the direction of such a token a thousand times less, and the differences between losses drown in
    rounding. The last token with a sound loss is then saved and FloatingPointError raised.

    Raises ValueError for a checkpoint that is damaged or belongs to another config, word or captions. Whether the
    pictures are the same it does not know.

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
    path = None if checkpoint is None else Path(checkpoint)
    told = f"{config} {objective.prompts}"  # what the run is known by in its checkpoint
    run = _begin(config, objective.token.initial if theta is None else theta)
    if path is not None and path.exists():
        run = load_checkpoint(path, told, run)
    began = time.perf_counter()
    good = run  # the last whose token's loss was seen and sound

    def stop(trouble: str) -> NoReturn:
        """Save the last sound token, and raise."""
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
            good = run

            grad, removed = estimate.grad, 0.0
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
            loss = float(estimate.loss)
            seconds = time.perf_counter() - began
            yield Step(run.index, run.theta, loss, removed, run.evaluations, seconds, asked)


def _begin(config: Config, theta: Tensor) -> Run:
    """A run before its first step."""
    theta = theta.detach().float().clone()
    states = {
        "optimizer": config.optimizer.init(theta),
        "subspace": initial_state(config.subspace, theta),
        "estimator": initial_state(config.estimator, theta),
    }
    return Run(theta, torch.Generator().manual_seed(config.seed).get_state(), states)


def _estimate(objective: DenoisingLoss, config: Config, run: Run) -> tuple[Estimate, Tensor]:
    """The next estimate of a run, and the generator's state afterwards."""
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
    """The length of the longest of a word's k vectors."""
    return float(torch.linalg.vector_norm(theta, dim=-1).max())
