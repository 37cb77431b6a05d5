"""Estimators in float64 against closed forms: identities exactly, averages within their confidence bounds."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zoti import rge, spsa

D = 24


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def linear(a: torch.Tensor):
    return lambda theta: torch.einsum("bkd,kd->b", theta, a)


def start(seed: int = 1) -> torch.Tensor:
    return torch.randn(2, D // 2, generator=generator(seed), dtype=torch.float64)


def directions(n: int, seed: int) -> torch.Tensor:
    """The directions an estimator draws from this seed: they are its first and only draw."""
    return torch.randn((n, 2, D // 2), generator=generator(seed), dtype=torch.float64)


@pytest.mark.parametrize("estimator", [rge, spsa])
@given(mu=st.floats(1e-3, 1e3), seed=st.integers(0, 2**31), n=st.integers(1, 5))
def test_linear_loss_gives_exact_slopes_for_every_mu(estimator, mu, seed, n):
    a = start(2)
    estimate = estimator(linear(a), start(), n, mu, generator=generator(seed))
    torch.testing.assert_close(
        estimate.directional, torch.einsum("nkd,kd->n", directions(n, seed), a), rtol=1e-7, atol=1e-9 / mu
    )


def quadratic(theta: torch.Tensor) -> torch.Tensor:
    scale = torch.linspace(0.1, 3, D, dtype=torch.float64)
    return (theta.flatten(1).square() * scale).sum(1) / 2


def test_spsa_is_exact_on_a_quadratic_and_rge_is_not():
    theta, scale = start(), torch.linspace(0.1, 3, D, dtype=torch.float64)
    z = directions(3, 5).flatten(1)
    slopes = z @ (scale * theta.flatten())
    torch.testing.assert_close(spsa(quadratic, theta, 3, 10.0, generator=generator(5)).directional, slopes)
    bias = 10.0 / 2 * (z.square() * scale).sum(1)  # mu/2 z'Hz, exactly
    torch.testing.assert_close(rge(quadratic, theta, 3, 10.0, generator=generator(5)).directional, slopes + bias)


@pytest.mark.parametrize(("estimator", "order"), [(rge, 1), (spsa, 2)])
def test_error_falls_with_the_right_power_of_mu(estimator, order):
    theta, cubic = start(), lambda t: t.flatten(1).pow(3).sum(1)
    exact = directions(1, 3).flatten(1) @ (3 * theta.flatten().square())
    errors = [
        abs(float(estimator(cubic, theta, 1, mu, generator=generator(3)).directional - exact)) for mu in (1e-2, 1e-3)
    ]
    assert math.log10(errors[0] / errors[1]) == pytest.approx(order, abs=0.05)


@pytest.mark.parametrize("n", [1, 2, 8])
def test_second_moment_and_cosine_follow_theory(n):
    a, draws = start(2), 4000
    g = generator(9)
    grads = torch.stack([rge(linear(a), start(), n, 1.0, generator=g).grad.flatten() for _ in range(draws)])
    squared = grads.square().sum(1) / a.square().sum()
    bound = 4 * squared.std() / math.sqrt(draws)
    assert abs(squared.mean() - (D + n + 1) / n) < bound
    along = grads @ a.flatten() / a.square().sum()
    assert abs(along.mean() - 1) < 4 * along.std() / math.sqrt(draws)  # unbiased
    assert (along.mean() / squared.mean().sqrt()).item() == pytest.approx(math.sqrt(n / (D + n + 1)), rel=0.05)


def test_evaluations_are_counted_and_asked_in_one_call():
    calls = []

    def loss(theta):
        calls.append(len(theta))
        return theta.flatten(1).sum(1)

    assert rge(loss, start(), 3, generator=generator()).evaluations == 4
    assert spsa(loss, start(), 3, generator=generator()).evaluations == 6
    assert calls == [4, 6]


def test_a_loss_blind_to_theta_gives_exactly_zero_and_global_chance_is_untouched():
    before = torch.get_rng_state()
    for estimator in (rge, spsa):
        grad = estimator(lambda t: t.new_full((len(t),), 0.7), start(), generator=generator()).grad
        assert torch.equal(grad, torch.zeros_like(grad))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("bad", [{"n": 0}, {"mu": 0.0}, {"mu": -1.0}, {"mu": float("nan")}])
def test_bad_arguments(bad):
    for estimator in (rge, spsa):
        with pytest.raises(ValueError, match=r"mu =|n ="):
            estimator(quadratic, start(), **bad, generator=generator())
