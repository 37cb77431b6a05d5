"""The rival with everything zoti does without: textual inversion by backpropagation (Gal et al. 2023)."""

import time
from collections.abc import Iterator

import torch

from zoti.invert import Step
from zoti.objective import DenoisingLoss


def textual_inversion(objective: DenoisingLoss, steps: int = 300, lr: float = 5e-3, seed: int = 0) -> Iterator[Step]:
    """Adam on the exact gradient of the same objective; yields the same Steps as `invert`.

    Counts one evaluation a step; its backward pass costs about two more.
    """
    generator = torch.Generator().manual_seed(seed)
    theta = objective.token.initial.clone().requires_grad_()
    adam = torch.optim.Adam([theta], lr=lr)
    began = time.perf_counter()
    for index in range(1, steps + 1):
        loss = objective(theta[None], objective.draw(generator))[0]
        adam.zero_grad()
        loss.backward()
        adam.step()
        yield Step(index, theta.detach().clone(), loss.item(), 0.0, index, time.perf_counter() - began)
