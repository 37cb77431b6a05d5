"""The loop: draw, estimate, project, step. It is a generator, so printing, plotting and stopping are the caller's."""

import inspect
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from zoti.checkpoint import Checkpoint, Run, State, initial_state, renewed_state
from zoti.descent.curvature import GaussNewton
from zoti.descent.estimators import Estimate, LossFn, rge
from zoti.descent.optim import ZOSGD, AuthorsZOAdam, Optimizer, ZOAdam
from zoti.descent.subspace import SubspaceGradient
from zoti.identity import Identity, described, fingerprint
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
    #: `rge`, `spsa`, `one_point`, a `Guided`, a `GaussNewton`, or one of your own
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
        if self.newton:
            if not isinstance(self.optimizer, ZOSGD) or self.subspace is not None:
                raise ValueError(
                    "a GaussNewton estimate is a whole step in its own subspace; give it "
                    "optimizer=ZOSGD(1.0) and subspace=None"
                )
            if self.n > len(self.newton.directions.rows):
                raise ValueError(f"n = {self.n}: there are only {len(self.newton.directions.rows)} directions")

    @property
    def newton(self) -> GaussNewton | None:
        """The estimator, if it is the one that asks for errors instead of losses, and makes whole steps of them."""
        return self.estimator if isinstance(self.estimator, GaussNewton) else None

    def __str__(self) -> str:
        """All that decides the steps of a run, in one line. `steps` is left out, so that a run may be extended."""
        estimator = getattr(self.estimator, "__name__", self.estimator)  # a function's name, a Guided's numbers
        chance = f"{self.directions} n={self.n} mu={self.mu} batch={self.batch} seed={self.seed}"
        return f"{estimator} {chance} {self.optimizer} {self.subspace}"

    def identity(self) -> Identity:
        """What decides the steps of a run, by name. `steps` is left out, so that a run may be extended."""
        told: Identity = {p.name: described(getattr(self, p.name)) for p in fields(self) if p.name != "steps"}
        if self.newton:
            told["subspace found"] = self.newton.directions.sketch()
        return told


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
    #: passes of the text encoder alone, before the first step: what its `sensitive_directions` cost
    text_passes: int = 0


def invert(
    objective: DenoisingLoss,
    config: Config,
    theta: Tensor | None = None,
    checkpoint: str | Path | None = None,
    bank: LossFn | None = None,
    every: int = 100,
) -> Iterator[Step]:
    """Learn the objective's word by forward passes only (ZOODiP Alg. 1 and 2), yielding a Step after each update.

    theta: where to start, (k, d); by default the token's initial vectors. Two things happen every `every` steps and
    after the last. `bank` is asked for the loss of the token: `lambda c: truth.mean(c, draws)`, say, with
    `draws = truth.bank(64, generator)`. And the state is written to the file `checkpoint`, atomically; so it is before
    the first step, to see whether the place can be written, and when the run is interrupted, by Ctrl-C, an error or
    your own `break`. A run that finds this file goes on from it, to the same bits as if it had never stopped. One that
    is done yields its last Step again, and `ConceptToken.load` reads its word from the file.

    It shows nothing; `watch` does.

    A run has diverged when a loss is not finite or above 10 (a model that predicts nothing has about 1), or when the
    token is 1000 times as long as the word's initial vectors. Growing as such does no harm, for a text encoder
    normalises what it reads and so sees hardly more than a token's direction. But for the same reason a step of length
    mu changes the direction of such a token a thousand times less, and the differences between losses drown in
    rounding. The last token with a sound loss is then saved and FloatingPointError raised.

    Raises ValueError for a checkpoint that is damaged, has gone further than `config.steps`, or belongs to another run:
    one whose config, word, captions, pictures, timesteps, start, vocabulary or weights are others. OSError, or the kind
    of it that fits, where it cannot be written.

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
    run = _begin(config, objective.token.initial if theta is None else theta)
    file = None
    if checkpoint is not None:
        told = {**config.identity(), **objective.identity(), "start": fingerprint({"theta": run.theta})}
        # by the last, which is no part of a run's identity, only rounding changes
        facts = {**objective.token.facts(), "max_batch": str(objective.max_batch)}
        file = Checkpoint(Path(checkpoint), told, facts)
        run = file.load(run)
    if run.index > config.steps:
        raise ValueError(
            f"{checkpoint} has gone {run.index} steps and this config asks for {config.steps}; give this run another "
            f"path, or steps={run.index}"
        )
    beforehand = config.newton.directions.text_passes if config.newton else 0
    began = time.perf_counter()

    def step() -> Step:
        """What the run's last step did; what is handed out is a copy, for the reader to keep."""
        told = run.index % every == 0 or run.index == config.steps
        asked = float(bank(run.theta[None].clone())) if bank is not None and told else None
        seconds = time.perf_counter() - began
        theta = run.theta.clone()
        return Step(run.index, theta, run.loss, run.removed, run.evaluations, seconds, asked, beforehand)

    if run.index == config.steps:
        yield step()
        return
    if file is not None:
        file.save(run)  # a place that cannot be written is found out now
    good = run  # the last whose token's loss was seen and sound

    def stop(trouble: str) -> NoReturn:
        """Go back to the last sound token, and raise."""
        nonlocal run
        index, run = run.index + 1, good
        raise FloatingPointError(
            f"{trouble} at step {index}; the token of step {run.index}, the last that was sound, is kept"
            f"{f' in {checkpoint}' if file else ''}. Try a smaller learning rate or a larger mu"
        )

    try:
        while run.index < config.steps:
            estimate, chance = _estimate(objective, config, run)
            if not torch.isfinite(estimate.directional).all() or not math.isfinite(estimate.loss):
                stop("the loss is not finite")
            if estimate.loss > WORST_LOSS:
                stop(f"the loss is {float(estimate.loss):.3g}, where predicting nothing costs about 1,")
            good = run
            after = _stepped(config, run, estimate, chance)
            longer = _length(after.theta) / (_length(objective.token.initial) or 1.0)  # a word may start at nothing
            if not longer <= LONGEST:
                stop(f"the token became {longer:.3g} times as long as it began")
            run = after
            if file is not None and (run.index % every == 0 or run.index == config.steps):
                file.save(run)
            yield step()
    except BaseException as stopped:
        # a generator that nobody wants any more may be told so long after its file was thrown away
        unwanted = isinstance(stopped, GeneratorExit) and not file.path.exists() if file else True
        if file is not None and not unwanted and run.index != file.seen and not isinstance(stopped, OSError):
            file.save(run)
        if file is not None and isinstance(stopped, KeyboardInterrupt):
            raise KeyboardInterrupt(
                f"stopped after step {run.index}, which is kept in {checkpoint}; the same call goes on from there"
            ) from None
        raise


def _begin(config: Config, theta: Tensor) -> Run:
    """A run before its first step."""
    theta = theta.detach().float().clone()
    states = {
        "optimizer": config.optimizer.init(theta),
        "subspace": initial_state(config.subspace, theta),
        "estimator": initial_state(config.estimator, theta),
    }
    return Run(theta, torch.Generator().manual_seed(config.seed).get_state(), states)


def _stepped(config: Config, run: Run, estimate: Estimate, chance: Tensor) -> Run:
    """The run after one more step. Parts of one's own are given copies: one may well work in place."""
    grad, removed = estimate.grad.clone(), 0.0
    if config.subspace:
        grad, removed = config.subspace.project(grad, run.states["subspace"])
    theta, optimizer = config.optimizer.update(grad, run.theta.clone(), _copy(run.states["optimizer"]))
    states = {
        "optimizer": optimizer,
        "subspace": renewed_state(config.subspace, theta, run.states["subspace"]),
        "estimator": renewed_state(config.estimator, estimate, run.states["estimator"]),
    }
    evaluations = run.evaluations + config.batch * estimate.evaluations
    return Run(theta, chance, states, run.index + 1, evaluations, float(estimate.loss), removed)


def _estimate(objective: DenoisingLoss, config: Config, run: Run) -> tuple[Estimate, Tensor]:
    """The next estimate of a run, and the generator's state afterwards."""
    generator = torch.Generator()
    generator.set_state(run.chance)
    draws = objective.bank(config.batch, generator)
    options: dict[str, Any] = {**_copy(run.states["estimator"])}
    if config.directions != "gaussian":  # an estimator of your own need not know of directions
        options["directions"] = config.directions

    def losses(candidates: Tensor) -> Tensor:
        return objective.mean(candidates, draws)

    def residuals(candidates: Tensor) -> Tensor:
        return torch.cat([objective.residuals(candidates, draw) for draw in draws], 1)

    ask = residuals if config.newton else losses
    with torch.inference_mode():
        estimate = config.estimator(ask, run.theta.clone(), config.n, config.mu, generator=generator, **options)
    # clones outside inference mode are ordinary tensors again
    estimate = replace(estimate, grad=estimate.grad.clone(), state=_copy(estimate.state))
    return estimate, generator.get_state()


def _copy(state: State) -> State:
    return {name: tensor.clone() for name, tensor in state.items()}


def _length(theta: Tensor) -> float:
    """The length of the longest of a word's k vectors."""
    return float(torch.linalg.vector_norm(theta, dim=-1).max())
