"""Directions are what they are called, and a whole frame of them is a gradient."""

import pytest
import torch

from tests.helpers import generator, linear
from zoti import one_point, rge, spsa

D = 24


ESTIMATORS = [rge, spsa, one_point]


KINDS = ["gaussian", "rademacher", "orthogonal"]


def start(seed: int = 1) -> torch.Tensor:
    return torch.randn(2, D // 2, generator=generator(seed), dtype=torch.float64)


@pytest.mark.parametrize("kind", KINDS)
def test_directions_are_what_they_are_called(kind):
    n, zero, one = 4, torch.zeros(2, D // 2, dtype=torch.float64), torch.eye(D, dtype=torch.float64).view(D, 2, D // 2)

    def drawn(seed: int) -> torch.Tensor:
        """(n, D): the slope of the j-th coordinate is the j-th entry of each direction."""
        columns = [rge(linear(a), zero, n, 1.0, generator=generator(seed), directions=kind).directional for a in one]
        return torch.stack(columns, 1)

    e = torch.stack([drawn(seed) for seed in range(100)])
    if kind == "rademacher":
        assert torch.equal(e.abs(), torch.ones_like(e))
    if kind == "orthogonal":
        torch.testing.assert_close(e @ e.mT, D * torch.eye(n, dtype=torch.float64).expand(len(e), n, n))
    assert e.mean(0).abs().max() < 0.5  # five deviations; a frame with the signs of QR stands on one side
    assert abs(e.square().mean() - 1) < (0.1 if kind == "gaussian" else 1e-9)


@pytest.mark.parametrize("estimator", [rge, spsa])
def test_a_whole_orthogonal_frame_is_the_gradient_of_a_linear_loss(estimator):
    a = start(2)
    estimate = estimator(linear(a), start(), D, 1.0, generator=generator(4), directions="orthogonal")
    torch.testing.assert_close(estimate.grad, a)
