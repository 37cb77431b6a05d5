"""A gradient from forward passes: estimate the slope of a loss from its values alone.

A loss function here takes a batch of candidates theta (b, k, d) and returns their losses (b,). An estimator asks for
all its candidates in one call; to judge them on the same image, timestep and noise (common random numbers) is up to
the loss function. Below, D = k d and g is the true gradient.

Every estimator raises ValueError if n < 1, mu is not positive and finite, the directions do not exist, theta is not
(k, d) of floats, or the losses are not (b,).
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from zoti.descent.directions import average, random_directions

#: Losses (b,) of candidates (b, k, d).
LossFn = Callable[[Tensor], Tensor]
State = dict[str, Tensor]


@dataclass(frozen=True)
class Estimate:
    """What an estimator returns: the estimated gradient, the loss it saw, and what it cost.

    >>> loss_fn, die = lambda c: c[:, 0, 0], torch.Generator()
    >>> seen = rge(loss_fn, torch.zeros(1, 4), generator=die)
    >>> seen.grad.shape, seen.loss, seen.directional.shape, seen.evaluations
    (torch.Size([1, 4]), tensor(0.), torch.Size([2]), 3)
    """

    #: the estimated gradient, (k, d)
    grad: Tensor
    #: the loss at theta itself for `rge`, the mean over all candidates for the others: ()
    loss: Tensor
    #: the slopes along the n directions, as finite differences: (n,)
    directional: Tensor
    #: how many candidates were evaluated
    evaluations: int
    #: what the estimator will want to remember of it, where that is more than the gradient
    state: State = field(default_factory=dict)


def rge(
    loss_fn: LossFn,
    theta: Tensor,
    n: int = 2,
    mu: float = 1e-3,
    *,
    generator: torch.Generator,
    directions: str = "gaussian",
) -> Estimate:
    """Random gradient estimate, forward differences (ZOODiP Eq. 3; Nesterov & Spokoiny 2017).

    grad = (1/n) sum_i [L(theta + mu e_i) - L(theta)] / mu * e_i.

    theta: (k, d). Costs n + 1 evaluations. For a linear loss E grad = g, and E||grad||^2 / ||g||^2 is (D + n + 1)/n
    with Gaussian directions, (D + n - 1)/n with Rademacher and D/n with orthogonal ones. The cosine of grad with g is
    about 1 over the square root of that number.

    >>> line, die = lambda c: 3 * c[:, 0, 0] - 2 * c[:, 0, 1], torch.Generator()
    >>> seen = rge(line, torch.zeros(1, 2), generator=die, directions="orthogonal")
    >>> seen.grad.round(decimals=3), seen.evaluations
    (tensor([[ 3., -2.]]), 3)
    """
    e = random_directions(theta, n, mu, generator, directions)
    losses = _ask(loss_fn, torch.cat([theta[None], theta + mu * e]))
    slopes = (losses[1:] - losses[0]) / mu
    return Estimate(average(slopes, e), losses[0], slopes, n + 1)


def spsa(
    loss_fn: LossFn,
    theta: Tensor,
    n: int = 2,
    mu: float = 1e-3,
    *,
    generator: torch.Generator,
    directions: str = "gaussian",
) -> Estimate:
    """Simultaneous perturbation, central differences (Spall 1992, with Rademacher directions; ZOODiP Eq. S11).

    grad = (1/n) sum_i [L(theta + mu e_i) - L(theta - mu e_i)] / (2 mu) * e_i.

    theta: (k, d). Costs 2 n evaluations. The slope along each direction is exact for a quadratic loss, and
    otherwise has an error O(mu^2).

    >>> theta, die = torch.tensor([[3.0, -2.0]]), torch.Generator()
    >>> bowl = lambda c: c.square().sum((1, 2)) / 2  # its gradient is theta
    >>> seen = spsa(bowl, theta, 2, mu=1.0, generator=die, directions="orthogonal")
    >>> seen.grad.round(decimals=3), seen.evaluations
    (tensor([[ 3., -2.]]), 4)
    """
    return _central(loss_fn, theta, mu, random_directions(theta, n, mu, generator, directions))


def one_point(
    loss_fn: LossFn,
    theta: Tensor,
    n: int = 2,
    mu: float = 1e-3,
    *,
    generator: torch.Generator,
    directions: str = "gaussian",
) -> Estimate:
    """Differences between neighbouring candidates (ZOODiP Eq. S12; residual feedback, Zhang et al. 2022).

    grad = (1/n) sum_i [L(theta + mu e_{i+1}) - L(theta + mu e_i)] / mu * e_{i+1}, from n + 1 directions.

    theta: (k, d). Theta itself is never evaluated. Costs n + 1 evaluations, as `rge` does, but is nearly twice as
    noisy: for a linear loss E grad = g and E||grad||^2 = (2 D + n + 1)/n ||g||^2 with Gaussian directions.

    As printed, S12 ends in the factor e_i, and its mean is -g. We multiply by the other end of the difference,
    e_{i+1}, as residual feedback does.

    >>> theta, slope = torch.zeros(1, 2), torch.tensor([[3.0, -2.0]])
    >>> linear = lambda c: (c * slope).sum((1, 2))
    >>> seen = one_point(linear, theta, 100_000, generator=torch.Generator())
    >>> torch.allclose(seen.grad, slope, atol=0.2), seen.evaluations
    (True, 100001)
    """
    e = random_directions(theta, n, mu, generator, directions, spare=1)
    losses = _ask(loss_fn, theta + mu * e)
    slopes = losses.diff() / mu
    return Estimate(average(slopes, e[1:]), losses.mean(), slopes, n + 1)


def guided(
    loss_fn: LossFn,
    theta: Tensor,
    n: int = 2,
    mu: float = 1e-3,
    *,
    generator: torch.Generator,
    history: Tensor,
    alpha: float = 0.5,
) -> Estimate:
    """Central differences along a Gaussian stretched towards past estimates (guided ES, Maheswaranathan et al. 2019).

    e_i ~ N(0, S), S = alpha I + (1 - alpha) (D/h) U U^T, where the h columns of U are an orthonormal basis of what
    `history` spans, any number of past estimates (k, d).

    theta: (k, d). Costs 2 n evaluations. For a quadratic loss E grad = S g: biased towards the subspace of the past,
    and better than `spsa` if g lies there. Without history it is `spsa`. S is the paper's covariance times D, so that
    directions have the squared length D on average and mu means what it means elsewhere.

    Raises ValueError also for alpha outside [0, 1] and a history of another shape than theta's.

    >>> past, die = torch.tensor([[[3.0, 4.0]]]), torch.Generator()
    >>> x = lambda c: c[:, 0, 0]  # its gradient is (1, 0); alpha = 0 sees the past
    >>> seen = guided(x, torch.zeros(1, 2), generator=die, history=past, alpha=0.0)
    >>> torch.cosine_similarity(seen.grad, past[0]).round(decimals=3)
    tensor([1.])
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha = {alpha}: the share of the isotropic part lies between 0 and 1")
    e = random_directions(theta, n, mu, generator)
    if history.shape[1:] != theta.shape:
        raise ValueError(f"history has shape {tuple(history.shape)}; give (h, *{tuple(theta.shape)})")
    _, s, basis = torch.linalg.svd(history.flatten(1), full_matrices=False)
    basis = basis[s > s.max() * 1e-6] if len(s) else basis  # (h, D); a repeated estimate spans nothing new
    if len(basis):
        inside = torch.randn((n, len(basis)), generator=generator, device=generator.device, dtype=theta.dtype)
        stretch = ((1 - alpha) * theta.numel() / len(basis)) ** 0.5
        e = alpha**0.5 * e + stretch * (inside.to(theta.device) @ basis).view_as(e)
    return _central(loss_fn, theta, mu, e)


@dataclass(frozen=True)
class Guided:
    """The estimator `guided` for a `Config`, remembering the last `memory` estimates of a run as its history.

    State: {"history": (h, k, d)}. Raises ValueError for memory < 1 or alpha outside [0, 1].

    >>> guide, none = Guided(memory=2), torch.zeros(())
    >>> state = guide.init(torch.zeros(1, 3))
    >>> for grad in torch.eye(3).split(1):
    ...     state = guide.observe(Estimate(grad, none, none, 4), state)
    >>> state["history"].squeeze(1)
    tensor([[0., 1., 0.],
            [0., 0., 1.]])
    """

    #: how many estimates it remembers
    memory: int = 16
    #: the isotropic share of the covariance: 1 ignores the history, 0 looks along nothing else
    alpha: float = 0.5

    def __post_init__(self) -> None:
        if self.memory < 1 or not 0 <= self.alpha <= 1:
            raise ValueError(f"memory = {self.memory}, alpha = {self.alpha}: memory >= 1 and 0 <= alpha <= 1")

    def init(self, theta: Tensor) -> State:
        """No history yet. theta: (k, d)."""
        return {"history": theta.new_zeros(0, *theta.shape)}

    def observe(self, estimate: Estimate, state: State) -> State:
        """Remember an estimate's gradient (k, d), and forget the oldest when there are more than `memory`."""
        return {"history": torch.cat([state["history"], estimate.grad[None]])[-self.memory :]}

    def __call__(
        self, loss_fn: LossFn, theta: Tensor, n: int, mu: float, *, generator: torch.Generator, history: Tensor
    ) -> Estimate:
        return guided(loss_fn, theta, n, mu, generator=generator, history=history, alpha=self.alpha)


def _central(loss_fn: LossFn, theta: Tensor, mu: float, e: Tensor) -> Estimate:
    """Central differences along directions e (n, k, d)."""
    losses = _ask(loss_fn, torch.cat([theta + mu * e, theta - mu * e]))
    slopes = (losses[: len(e)] - losses[len(e) :]) / (2 * mu)
    return Estimate(average(slopes, e), losses.mean(), slopes, 2 * len(e))


def _ask(loss_fn: LossFn, candidates: Tensor) -> Tensor:
    """The losses (b,) of candidates (b, k, d). Raises ValueError where loss_fn returns another shape."""
    losses = loss_fn(candidates)
    if losses.shape != candidates.shape[:1]:
        raise ValueError(f"{len(candidates)} candidates got losses of shape {tuple(losses.shape)}; return one each")
    return losses
