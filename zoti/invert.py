"""The loop: draw, estimate, project, step. A generator, so that logging, plotting and stopping live in the notebook."""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from zoti.estimators import Estimate, Guided, rge
from zoti.objective import DenoisingLoss
from zoti.optim import AuthorsZOAdam, Optimizer, ZOAdam
from zoti.subspace import SubspaceGradient

State = dict[str, Tensor]
PARTS = ("optimizer.", "subspace.", "estimator.")  # whose states a checkpoint holds, by the first part of their names


@dataclass(frozen=True)
class Config:
    """Everything that decides a run, but for the objective. Paper: 30,000 steps, n = 2, mu = 1e-3, lr = 5e-3."""

    steps: int = 2000
    n: int = 2
    mu: float = 1e-3
    estimator: Callable[..., Estimate] = rge  # or spsa, one_point, Guided(...)
    directions: str = "gaussian"
    optimizer: Optimizer = field(default_factory=ZOAdam)
    subspace: SubspaceGradient | None = field(default_factory=SubspaceGradient)
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.optimizer, AuthorsZOAdam) and self.optimizer.n != self.n:
            raise ValueError(f"n = {self.n}, but the authors' optimizer was built for n = {self.optimizer.n}")
        if isinstance(self.estimator, Guided) and self.directions != "gaussian":
            raise ValueError(f"Guided shapes its own directions; directions={self.directions!r} would not be used")

    def __str__(self) -> str:
        """One line that two runs share exactly when they would take the same steps; `steps` may be extended."""
        estimator = getattr(self.estimator, "__name__", self.estimator)  # a function's name, a Guided's numbers
        chance = f"{self.directions} n={self.n} mu={self.mu} seed={self.seed}"
        return f"{estimator} {chance} {self.optimizer} {self.subspace}"


@dataclass(frozen=True)
class Step:
    """What one step did."""

    index: int  # 1, 2, ...
    theta: Tensor  # (k, d) the token after the step
    loss: float
    removed: float  # share of the squared gradient that SubspaceGradient took away
    evaluations: int  # candidates evaluated so far in the whole run
    seconds: float  # since this process began the run


def invert(
    objective: DenoisingLoss,
    config: Config,
    theta: Tensor | None = None,
    checkpoint: str | Path | None = None,
    every: int = 100,
) -> Iterator[Step]:
    """Learn the objective's word by forward passes only (ZOODiP Alg. 1 and 2), yielding a Step after each update.

    theta: (k, d) start, by default the token's initial vectors. With `checkpoint` the whole state is written there
    every `every` steps, atomically; a run that finds the file goes on from it, to the same bits as if never stopped.
    Raises ValueError for a checkpoint that is damaged or belongs to another config, FloatingPointError where the
    loss is no longer finite (the last good state is saved first).
    """
    checkpoint = Path(checkpoint) if checkpoint is not None else None
    theta = (objective.token.initial if theta is None else theta).detach().float().clone()
    generator = torch.Generator().manual_seed(config.seed)
    adam = config.optimizer.init(theta)
    sg = config.subspace.init(theta) if config.subspace else {}
    past = config.estimator.init(theta) if isinstance(config.estimator, Guided) else {}
    done = evaluations = 0
    if checkpoint is not None and checkpoint.exists():
        theta, adam, sg, past, done, evaluations = load_checkpoint(checkpoint, config, theta, generator)

    began = time.perf_counter()
    for index in range(done + 1, config.steps + 1):
        before = generator.get_state()
        draw = objective.draw(generator)
        # an estimator of your own need not know of directions
        extra = (
            {"state": past} if past else {"directions": config.directions} if config.directions != "gaussian" else {}
        )
        with torch.inference_mode():
            estimate = config.estimator(
                lambda c, d=draw: objective(c, d), theta, config.n, config.mu, generator=generator, **extra
            )
        if not torch.isfinite(estimate.directional).all():
            generator.set_state(before)
            if checkpoint is not None:
                save_checkpoint(checkpoint, config, index - 1, evaluations, theta, adam, sg, past, generator)
            raise FloatingPointError(
                f"the loss is not finite at step {index}; the token of step {index - 1} is kept"
                f"{f' in {checkpoint}' if checkpoint else ''}. Try a smaller learning rate or a larger mu"
            )
        grad, removed = estimate.grad.clone(), 0.0  # a clone outside inference mode is an ordinary tensor again
        if isinstance(config.estimator, Guided):
            past = config.estimator.observe(grad, past)
        if config.subspace:
            grad, removed = config.subspace.project(grad, sg)
        theta, adam = config.optimizer.update(grad, theta, adam)
        if config.subspace:
            sg = config.subspace.observe(theta, sg)
        evaluations += estimate.evaluations
        if checkpoint is not None and (index % every == 0 or index == config.steps):
            save_checkpoint(checkpoint, config, index, evaluations, theta, adam, sg, past, generator)
        yield Step(index, theta, float(estimate.loss), removed, evaluations, time.perf_counter() - began)


def save_checkpoint(
    path: Path,
    config: Config,
    index: int,
    evaluations: int,
    theta: Tensor,
    adam: State,
    sg: State,
    past: State,
    generator: torch.Generator,
) -> None:
    """Write the state of a run as safetensors: to a file beside it, to the disk, then over the old one in one move."""
    tensors = {"theta": theta, "generator": generator.get_state()}
    for part, held in zip(PARTS, (adam, sg, past), strict=True):
        tensors |= {part + k: v for k, v in held.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".part")
    save_file(
        {k: v.contiguous() for k, v in tensors.items()},
        draft,
        metadata={"config": str(config), "index": str(index), "evaluations": str(evaluations)},
    )
    with draft.open("rb") as file:
        os.fsync(file.fileno())
    draft.replace(path)


def load_checkpoint(
    path: Path, config: Config, theta: Tensor, generator: torch.Generator
) -> tuple[Tensor, State, State, State, int, int]:
    """Read the state back, set the generator, and return (theta, adam, sg, past, steps done, evaluations)."""
    try:
        with safe_open(path, "pt") as file:
            facts = file.metadata()
            # copied to where torch would have put them: on some processors BLAS rounds by a tensor's alignment
            tensors = {k: file.get_tensor(k).clone() for k in file.keys()}
        stored, index, evaluations = facts["config"], int(facts["index"]), int(facts["evaluations"])
        start, state = tensors["theta"], tensors["generator"]
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a readable checkpoint; delete it to start again ({error})") from error
    if stored != str(config):
        raise ValueError(
            f"{path} belongs to another run:\n  there: {stored}\n  here:  {config}\n"
            "give this run another path, or the same config"
        )
    if start.shape != theta.shape:
        raise ValueError(f"{path} holds a token of shape {tuple(start.shape)}, this word has {tuple(theta.shape)}")
    generator.set_state(state)
    adam, sg, past = ({k.removeprefix(p): v for k, v in tensors.items() if k.startswith(p)} for p in PARTS)
    return start.to(theta), adam, sg, past, index, evaluations
