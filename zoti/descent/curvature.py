"""A whole step from forward passes: difference the model's errors, not their mean square, and curvature comes along.

Every estimator in `estimators` keeps one number of a forward pass, the loss. The pass computed thousands: the error r
of every element of the predicted noise. Their differences along a direction are a column of the Jacobian J, and with
columns least squares knows more than a slope: J r is the gradient, J J^T the curvature (Gauss-Newton), and a step needs
no learning rate.

Nothing here is new but its use: derivative-free Gauss-Newton is DFO-GN's (Cartis & Roberts 2019), the update recursive
least squares with forgetting, which is an extended Kalman filter; ensemble Kalman inversion (Iglesias, Law & Stuart
2013) asks for the vector in the same way.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoti.descent.directions import random_directions
from zoti.descent.estimators import Estimate
from zoti.descent.sensitivity import SensitiveDirections

#: Errors (b, m) of candidates (b, k, d), whose mean square is the loss.
ResidualFn = Callable[[Tensor], Tensor]
State = dict[str, Tensor]
# How much of what is known of the errors' size each step keeps: an average over about twenty steps.
_STEADY = 0.95


def gauss_newton(
    residual_fn: ResidualFn,
    theta: Tensor,
    n: int = 4,
    mu: float = 1e-3,
    *,
    generator: torch.Generator,
    directions: Tensor,
    precision: Tensor,
    variance: Tensor,
    spread: float | Tensor = 0.3,
    forgetting: float = 0.97,
    temperature: float = 10.0,
) -> Estimate:
    """A damped Gauss-Newton step from n + 1 forward passes, in a subspace, with memory of the steps before.

    A word is theta + spread B^T a, where the r rows of B are `directions` (r, k, d), orthonormal. What is known of a is
    a normal distribution around 0, the present word, with `precision` L (r, r), at the start the identity. Of r
    directions only n are asked, orthonormal rows U (n, r), drawn from N(0, L^-1): where least is known. With
    r_0 the errors at theta, J (n, m) their differences along U and s^2 the errors' `variance`, a running mean,

        L <- forgetting L + (1 - forgetting) I + U^T J J^T U / (temperature s^2)
        grad = spread B^T L^-1 U^T J r_0 / (temperature s^2)

    and theta - grad is the next word: `ZOSGD(1.0)` makes the step whole. Forgetting, because J is another at every
    draw and every word: 1 / (1 - forgetting) steps count. What is forgotten returns to I, so L >= I damps every step as
    Levenberg and Marquardt do. temperature: errors of neighbouring elements are not independent; how many count as one.

    theta: (k, d). Costs n + 1 evaluations. The step of the differences is mu sqrt(D) long, as mu e is elsewhere on
    average. They have no bias mu ||J e||^2 as those of losses have: for errors linear in theta they are exact for every
    mu. The Estimate's `state` is the new precision and variance (zero: none seen yet), in float64.

    Raises ValueError as `rge` does, for n above r, directions, precision or errors of other shapes, a forgetting
    outside (0, 1], a spread or temperature that is not positive and finite.

    >>> a = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    >>> errors = lambda c: c[:, 0] @ a - torch.tensor([2.0, 1.0])  # zero at (1, 1)
    >>> known = {"precision": torch.eye(2), "variance": torch.tensor(0.0)}
    >>> theta, die, axes = torch.zeros(1, 2), torch.Generator(), torch.eye(2).view(2, 1, 2)
    >>> step = gauss_newton(errors, theta, 2, generator=die, directions=axes, temperature=1e-6, **known)
    >>> (theta - step.grad).round(decimals=3), step.evaluations
    (tensor([[1., 1.]]), 3)
    """
    random_directions(theta, n, mu, generator=torch.Generator())  # it checks them as for every estimator
    r, size = len(directions), theta.numel()
    if directions.shape[1:] != theta.shape or precision.shape != (r, r) or n > r:
        raise ValueError(
            f"directions {tuple(directions.shape)}, precision {tuple(precision.shape)} and n = {n} do not fit a word "
            f"{tuple(theta.shape)}; give (r, *{tuple(theta.shape)}), (r, r) and n <= r"
        )
    if not 0 < forgetting <= 1 or not 0 < float(spread) < math.inf or not 0 < temperature < math.inf:
        raise ValueError(
            f"forgetting = {forgetting}, spread = {spread}, temperature = {temperature}: the first lies in (0, 1], "
            "the others are positive and finite"
        )
    precision, basis = precision.double(), directions.flatten(1).double()
    u = _least_known(precision, n, generator)
    e = math.sqrt(size) * (u @ basis).view(n, *theta.shape).to(theta)
    errors = residual_fn(torch.cat([theta[None], theta + mu * e]))
    if errors.ndim != 2 or len(errors) != n + 1:
        raise ValueError(f"{n + 1} candidates got errors of shape {tuple(errors.shape)}; return (b, m)")
    here = errors[0].double()
    slopes = (errors[1:] - errors[0]).double() / mu  # along e
    loss = here.square().mean()
    variance = torch.where(variance > 0, _STEADY * variance.double() + (1 - _STEADY) * loss, loss)

    j = slopes * (spread / math.sqrt(size))  # along one spread of each direction
    noise = temperature * variance.clamp(min=torch.finfo(torch.float32).tiny)  # a first error may be none at all
    told = u.T @ (j @ j.T) @ u / noise
    precision = forgetting * precision + (1 - forgetting) * torch.eye(r).to(precision) + told
    step = spread * torch.linalg.solve(precision, u.T @ (j @ here) / noise) @ basis
    directional = 2 * (slopes @ here) / errors.shape[1]
    state = {"precision": precision, "variance": variance}
    return Estimate(step.view_as(theta).to(theta), loss.to(theta), directional.to(theta), n + 1, state)


def _least_known(precision: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Orthonormal rows (n, r), the span of n draws from N(0, precision^-1)."""
    drawn = torch.randn((len(precision), n), generator=generator, device=generator.device, dtype=torch.float64)
    lower = torch.linalg.cholesky(precision)
    uncertain = torch.linalg.solve_triangular(lower.T, drawn.to(precision.device), upper=True)
    rows: Tensor = torch.linalg.qr(uncertain).Q.T
    return rows


@dataclass(frozen=True)
class GaussNewton:
    """The estimator `gauss_newton` for a `Config`: where it looks, and what a run remembers of it.

    Its estimate is a whole step: take it with `optimizer=ZOSGD(1.0)` and `subspace=None`, n = 4.

    State: {"directions": (r, k, d), "spread": ()} as the run began with them, so that it goes on in the very same,
    {"precision": (r, r), "variance": ()} in float64. Raises ValueError as `gauss_newton` does.

    >>> rows = torch.eye(8)[:3].view(3, 1, 8)
    >>> newton = GaussNewton(SensitiveDirections(rows, torch.ones(8), length=2.0, text_passes=9))
    >>> state = newton.init(torch.zeros(1, 8))
    >>> state["precision"].shape, state["spread"]
    (torch.Size([3, 3]), tensor(0.5000, dtype=torch.float64))
    """

    #: where the word is moved
    directions: SensitiveDirections
    #: how far it is expected to go along each direction, one standard deviation, in lengths of the word
    spread: float = 0.25
    #: how much of what is known each step keeps
    forgetting: float = 0.97
    #: how many elements of the errors count as one that is independent
    temperature: float = 10.0

    def __post_init__(self) -> None:
        if not 0 < self.forgetting <= 1 or not 0 < self.spread < math.inf or not 0 < self.temperature < math.inf:
            raise ValueError(
                f"forgetting = {self.forgetting}, spread = {self.spread}, temperature = {self.temperature}: the first "
                "lies in (0, 1], the others are positive and finite"
            )

    def init(self, theta: Tensor) -> State:
        """What is known at the start of a run at theta (k, d): one spread along every direction, and no error seen."""
        rows = self.directions.rows.to(theta)
        eye = torch.eye(len(rows), dtype=torch.float64, device=theta.device)
        spread = eye.new_tensor(self.spread * self.directions.length)
        return {"directions": rows, "spread": spread, "precision": eye, "variance": eye.new_zeros(())}

    def observe(self, estimate: Estimate, state: State) -> State:
        """What is known after an estimate: the precision and variance that it brings along."""
        return {**state, **estimate.state}

    def __call__(
        self, residual_fn: ResidualFn, theta: Tensor, n: int, mu: float, *, generator: torch.Generator, **state: Tensor
    ) -> Estimate:
        options: dict[str, Any] = {**state, "forgetting": self.forgetting, "temperature": self.temperature}
        return gauss_newton(residual_fn, theta, n, mu, generator=generator, **options)
