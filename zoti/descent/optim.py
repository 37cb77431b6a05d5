"""Optimizers whose state is data: `init(theta) -> state`, `update(grad, theta, state) -> (theta, state)`."""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

State = dict[str, Tensor]


class Optimizer(Protocol):
    """What `invert` asks of an optimizer.

    Its repr must name every number that decides a step, for it tells one run from another.

    >>> @dataclass(frozen=True)
    ... class SignDescent:
    ...     lr: float
    ...     def init(self, theta):
    ...         return {}
    ...     def update(self, grad, theta, state):
    ...         return theta - self.lr * grad.sign(), state
    >>> mine: Optimizer = SignDescent(lr=0.5)
    >>> grad, theta = torch.tensor([[7.0, -3.0]]), torch.zeros(1, 2)
    >>> mine.update(grad, theta, {})[0], mine
    (tensor([[-0.5000,  0.5000]]), SignDescent(lr=0.5))
    """

    def init(self, theta: Tensor) -> State:
        """The state of a run that begins at theta (k, d)."""

    def update(self, grad: Tensor, theta: Tensor, state: State) -> tuple[Tensor, State]:
        """One step: (k, d), (k, d), state -> new theta (k, d), new state."""


@dataclass(frozen=True)
class ZOSGD:
    """Plain gradient descent, theta - lr grad, on a zeroth-order gradient (Ghadimi & Lan 2013). State: {}.

    An estimate is about sqrt(D/n) times as long as the gradient, so lr must be smaller here than for Adam, which does
    not feel length. Raises ValueError unless lr is positive and finite.

    >>> ZOSGD(lr=0.5).update(torch.tensor([[4.0, -2.0]]), torch.zeros(1, 2), {})
    (tensor([[-2.,  1.]]), {})
    """

    lr: float

    def __post_init__(self) -> None:
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr = {self.lr}: a learning rate is positive and finite")

    def init(self, theta: Tensor) -> State:
        """The state of a run: there is nothing to remember, {}."""
        return {}

    def update(self, grad: Tensor, theta: Tensor, state: State) -> tuple[Tensor, State]:
        """One step: (k, d), (k, d), {} -> new theta (k, d), {}."""
        return theta - self.lr * grad, {}


@dataclass(frozen=True)
class ZOAdam:
    """Adam (Kingma & Ba 2015) on a zeroth-order gradient, in fp32; the same steps as `torch.optim.Adam` takes.

    State: {"m": (k, d), "v": (k, d), "step": ()}: the memory of two more tokens is all it takes.
    Raises ValueError unless lr and eps are positive and finite, and both betas in [0, 1).

    >>> grad, theta = torch.tensor([[7.0, -3.0]]), torch.zeros(1, 2)
    >>> adam = ZOAdam(lr=0.5)
    >>> theta, state = adam.update(grad, theta, adam.init(theta))
    >>> theta.round(decimals=3), state["step"]  # the first step is lr in every coordinate
    (tensor([[-0.5000,  0.5000]]), tensor(1))
    """

    lr: float = 5e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        if not (0 < self.lr < math.inf and 0 < self.eps < math.inf and 0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            raise ValueError(f"{self}: lr and eps must be positive and finite, both betas at least 0 and below 1")

    @staticmethod
    def authors(n: int = 2) -> "AuthorsZOAdam":
        """The optimizer of the authors' script, for a run with n directions."""
        return AuthorsZOAdam(n=n)

    def init(self, theta: Tensor) -> State:
        """The state of a run that begins at theta (k, d): no momentum, no step yet."""
        return {"m": torch.zeros_like(theta), "v": torch.zeros_like(theta), "step": torch.zeros((), dtype=torch.int64)}

    def update(self, grad: Tensor, theta: Tensor, state: State) -> tuple[Tensor, State]:
        """One step: (k, d), (k, d), state -> new theta (k, d), new state."""
        step = int(state["step"]) + 1
        m = self.beta1 * state["m"] + (1 - self.beta1) * grad
        v = self.beta2 * state["v"] + (1 - self.beta2) * grad.square()
        m_hat = m.to(theta) / (1 - self.beta1**step)
        v_hat = v.to(theta) / (1 - self.beta2**step)
        theta = theta - self.lr * m_hat / (v_hat.sqrt() + self.eps)
        return theta, {"m": m, "v": v, "step": torch.tensor(step)}


@dataclass(frozen=True)
class AuthorsZOAdam(ZOAdam):
    """The optimizer of ZOODiP's published script, kept for comparison; build it by `ZOAdam.authors(n)`.

    The script calls it Adam, but it takes other steps:

    - Before anything else the gradient, a mean over n directions, is divided by sqrt((D + n - 1)/n), which is 19.6 for
      D = 768 and n = 2. Adam would forget such a scale; with an eps as large as this one it divides the learning rate.
    - The gradient and both moments are fp16. What a gradient adds to v, 0.001 g^2, rounds to zero unless
      `|g_i| > 5.5e-3`, and while v is zero the step is lr m / eps: descent with momentum.
    - Once v is not zero it stays what it is: below 500 of fp16's smallest steps (3e-5) a decay by 0.999 rounds back to
      the same number.

    The bias corrections and the token are fp32, as everywhere in zoti.

    >>> adam, theta = ZOAdam.authors(n=2), torch.zeros(1, 768)
    >>> small = torch.full((1, 768), 0.1)  # 0.0051 when divided by 19.6
    >>> theta, state = adam.update(small, theta, adam.init(theta))
    >>> state["m"].dtype, bool(state["m"].all()), bool(state["v"].any())
    (torch.float16, True, False)
    """

    lr: float = 1e-2
    eps: float = 1e-3
    #: how many directions the run's estimates have
    n: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n < 1:
            raise ValueError(f"n = {self.n}: an estimate has at least one direction")

    def init(self, theta: Tensor) -> State:
        """The state of a run that begins at theta (k, d): that of ZOAdam, both moments in fp16."""
        return super().init(theta.half())

    def update(self, grad: Tensor, theta: Tensor, state: State) -> tuple[Tensor, State]:
        """One step of ZOAdam with the gradient scaled down and rounded to fp16."""
        scale = math.sqrt((grad.numel() + self.n - 1) / self.n)
        return super().update((grad / scale).half(), theta, state)
