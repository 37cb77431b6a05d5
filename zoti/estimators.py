"""A gradient from forward passes: estimate the slope of a loss from its values alone.

A loss function here takes a batch of candidates theta (b, k, d) and returns their losses (b,). That all
candidates are judged on the same image, timestep and noise (common random numbers) is the loss function's business;
that all are asked in one call is ours.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

LossFn = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Estimate:
    """What an estimator saw: the gradient estimate and what it cost."""

    grad: Tensor  # (k, d)
    loss: Tensor  # (), at theta for rge, mean over the pairs for spsa
    directional: Tensor  # (n,) finite differences along the n directions
    evaluations: int  # candidates evaluated


def rge(loss_fn: LossFn, theta: Tensor, n: int = 2, mu: float = 1e-3, *, generator: torch.Generator) -> Estimate:
    """Random gradient estimate, forward differences (ZOODiP Eq. 3; Nesterov & Spokoiny 2017).

    grad = (1/n) sum_i [L(theta + mu e_i) - L(theta)] / mu * e_i with e_i ~ N(0, I).
    theta: (k, d). Costs n + 1 evaluations. For a linear loss E grad = g and E||grad||^2 = (D + n + 1)/n ||g||^2,
    D = k d, so its cosine with g is about sqrt(n / (D + n + 1)). Raises ValueError if n < 1 or mu <= 0.
    """
    directions = _directions(theta, n, mu, generator)
    losses = loss_fn(torch.cat([theta[None], theta + mu * directions]))
    slopes = (losses[1:] - losses[0]) / mu
    return Estimate(_average(slopes, directions), losses[0], slopes, n + 1)


def spsa(loss_fn: LossFn, theta: Tensor, n: int = 2, mu: float = 1e-3, *, generator: torch.Generator) -> Estimate:
    """Simultaneous perturbation, central differences (Spall 1992; ZOODiP Eq. S11), with Gaussian directions.

    grad = (1/n) sum_i [L(theta + mu e_i) - L(theta - mu e_i)] / (2 mu) * e_i.
    theta: (k, d). Costs 2 n evaluations; exact along each direction for a quadratic loss, error O(mu^2) beyond.
    Raises ValueError if n < 1 or mu <= 0.
    """
    directions = _directions(theta, n, mu, generator)
    losses = loss_fn(torch.cat([theta + mu * directions, theta - mu * directions]))
    slopes = (losses[:n] - losses[n:]) / (2 * mu)
    return Estimate(_average(slopes, directions), losses.mean(), slopes, 2 * n)


def _directions(theta: Tensor, n: int, mu: float, generator: torch.Generator) -> Tensor:
    """n standard normal directions (n, k, d), drawn on the generator's device: a seed means the same everywhere."""
    if n < 1:
        raise ValueError(f"n = {n}: an estimate needs at least one direction")
    if not mu > 0:
        raise ValueError(f"mu = {mu}: the step of a finite difference must be positive")
    drawn = torch.randn((n, *theta.shape), generator=generator, device=generator.device, dtype=theta.dtype)
    return drawn.to(theta.device)


def _average(slopes: Tensor, directions: Tensor) -> Tensor:
    return torch.einsum("n,nkd->kd", slopes, directions) / len(slopes)
