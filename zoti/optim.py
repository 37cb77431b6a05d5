"""Optimizers as data: `init(theta) -> state`, `update(grad, theta, state) -> (theta, state)`. Nothing hidden."""

from dataclasses import dataclass

import torch
from torch import Tensor

State = dict[str, Tensor]


@dataclass(frozen=True)
class ZOAdam:
    """Adam (Kingma & Ba 2015) on a zeroth-order gradient, in fp32; equal to `torch.optim.Adam` step by step.

    State: {"m": (k, d), "v": (k, d), "step": ()}: two more tokens are all the optimizer needs to remember.
    """

    lr: float = 5e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def init(self, theta: Tensor) -> State:
        return {"m": torch.zeros_like(theta), "v": torch.zeros_like(theta), "step": torch.zeros((), dtype=torch.int64)}

    def update(self, grad: Tensor, theta: Tensor, state: State) -> tuple[Tensor, State]:
        """One step: (k, d), (k, d), state -> new theta (k, d), new state."""
        step = int(state["step"]) + 1
        m = self.beta1 * state["m"] + (1 - self.beta1) * grad
        v = self.beta2 * state["v"] + (1 - self.beta2) * grad.square()
        m_hat, v_hat = m / (1 - self.beta1**step), v / (1 - self.beta2**step)
        theta = theta - self.lr * m_hat / (v_hat.sqrt() + self.eps)
        return theta, {"m": m, "v": v, "step": torch.tensor(step)}
