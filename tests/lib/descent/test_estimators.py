"""Estimators in float64 against closed forms: identities exactly, averages within their confidence bounds."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import generator, linear, problem
from zoti import Estimate, Guided, guided, one_point, rge, spsa
from zoti.rivals import forward_gradient

D = 24


ESTIMATORS = [rge, spsa, one_point]


KINDS = ["gaussian", "rademacher", "orthogonal"]


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


@settings(deadline=None)
@given(mu=st.floats(1e-3, 1e3), seed=st.integers(0, 2**31), n=st.integers(1, 5))
def test_one_point_slopes_are_differences_of_neighbours(mu, seed, n):
    a, e = start(2), directions(n + 1, seed)
    estimate = one_point(linear(a), start(), n, mu, generator=generator(seed))
    slopes = torch.einsum("nkd,kd->n", e, a).diff()
    torch.testing.assert_close(estimate.directional, slopes, rtol=1e-7, atol=1e-8 / mu)
    torch.testing.assert_close(
        estimate.grad, torch.einsum("n,nkd->kd", slopes, e[1:]) / n, rtol=1e-7, atol=1e-7 / mu + 1e-9
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


SECOND_MOMENT = {  # E||grad||^2 / ||g||^2 for a linear loss
    (rge, "gaussian"): lambda n: (D + n + 1) / n,
    (rge, "rademacher"): lambda n: (D + n - 1) / n,
    (rge, "orthogonal"): lambda n: D / n,
    (one_point, "gaussian"): lambda n: (2 * D + n + 1) / n,
    (one_point, "rademacher"): lambda n: (2 * D + n - 1) / n,
}


@pytest.mark.parametrize("n", [1, 2, 8])
@pytest.mark.parametrize(("estimator", "kind"), SECOND_MOMENT)
def test_second_moment_and_cosine_follow_theory(estimator, kind, n):
    a, draws = start(2), 1500
    g = generator(9)
    grads = torch.stack(
        [estimator(linear(a), start(), n, 1.0, generator=g, directions=kind).grad.flatten() for _ in range(draws)]
    )
    squared = grads.square().sum(1) / a.square().sum()
    expected = SECOND_MOMENT[estimator, kind](n)
    assert abs(squared.mean() - expected) < 4 * squared.std() / math.sqrt(draws)
    along = grads @ a.flatten() / a.square().sum()
    assert abs(along.mean() - 1) < 4 * along.std() / math.sqrt(draws)  # unbiased
    assert (along.mean() / squared.mean().sqrt()).item() == pytest.approx(1 / math.sqrt(expected), rel=0.05)


def test_the_last_factor_of_s12_as_printed_points_uphill():
    a, n, draws = start(2), 2, 1500
    e = torch.randn((draws, n + 1, 2, D // 2), generator=generator(9), dtype=torch.float64)
    slopes = torch.einsum("mnkd,kd->mn", e, a).diff()
    printed = torch.einsum("mn,mnkd,kd->m", slopes, e[:, :-1], a) / n / a.square().sum()
    assert abs(printed.mean() + 1) < 4 * printed.std() / math.sqrt(draws)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_guided_mean_is_the_covariance_times_the_gradient(alpha):
    a, history, draws = start(2), torch.stack([start(7), start(8), 2 * start(8)]), 1500
    basis = torch.linalg.qr(history[:2].flatten(1).T).Q  # the third repeats the second and adds nothing
    covariance = alpha * torch.eye(D, dtype=torch.float64) + (1 - alpha) * D / 2 * basis @ basis.T
    assert covariance.trace().item() == pytest.approx(D)  # mu keeps its meaning
    g, options = generator(9), {"history": history, "alpha": alpha}
    grads = torch.stack(
        [guided(linear(a), start(), 2, 1.0, generator=g, **options).grad.flatten() for _ in range(draws)]
    )
    error = (grads.mean(0) - covariance @ a.flatten()) / (grads.std(0) / math.sqrt(draws)).clamp(min=1e-12)
    assert error.abs().max() < 5
    inside = grads - grads @ basis @ basis.T
    assert (inside.abs().max() < 1e-9) == (alpha == 0)


def test_guided_finds_a_gradient_its_history_holds_better_than_spsa_does():
    a, draws = start(2), 400
    history = torch.stack([a + 0.3 * start(7), start(8)])

    def cosine(estimator, **options):
        g = generator(1)
        grads = [estimator(linear(a), start(), 2, 1.0, generator=g, **options).grad for _ in range(draws)]
        return torch.cosine_similarity(torch.stack(grads).flatten(1), a.flatten(), dim=1).mean()

    assert cosine(guided, history=history) > cosine(spsa) + 0.2


def test_guided_without_history_or_stretch_is_spsa():
    plain = spsa(quadratic, start(), 3, generator=generator(5)).grad
    for history, alpha in [(start()[None][:0], 0.5), (start()[None], 1.0), (0 * start()[None], 0.5)]:
        assert torch.equal(
            guided(quadratic, start(), 3, generator=generator(5), history=history, alpha=alpha).grad, plain
        )


def test_guided_remembers_the_last_estimates_in_order():
    memory, grads = Guided(memory=2, alpha=0.2), [start(i) for i in range(3)]
    state = memory.init(start())
    for grad in grads:
        state = memory.observe(Estimate(grad, grad.sum(), grad[0], 6), state)
    assert torch.equal(state["history"], torch.stack(grads[1:]))
    estimate = memory(quadratic, start(), 3, 1e-3, generator=generator(5), **state)
    expected = guided(quadratic, start(), 3, 1e-3, generator=generator(5), history=state["history"], alpha=0.2)
    assert torch.equal(estimate.grad, expected.grad)


def test_evaluations_are_counted_and_asked_in_one_call():
    calls = []

    def loss(theta):
        calls.append(len(theta))
        return theta.flatten(1).sum(1)

    assert rge(loss, start(), 3, generator=generator()).evaluations == 4
    assert spsa(loss, start(), 3, generator=generator()).evaluations == 6
    assert one_point(loss, start(), 3, generator=generator()).evaluations == 4
    assert guided(loss, start(), 3, generator=generator(), history=start()[None]).evaluations == 6
    assert calls == [4, 6, 4, 6]


def test_the_loss_is_that_of_theta_or_of_the_candidates_mean():
    seen = []

    def loss(theta):
        seen.append(quadratic(theta))
        return seen[-1]

    for estimator in ESTIMATORS:
        estimate = estimator(loss, start(), 3, 0.5, generator=generator())
        assert estimate.loss == (quadratic(start()[None])[0] if estimator is rge else seen[-1].mean())
    assert guided(loss, start(), 3, 0.5, generator=generator(), history=start()[None]).loss == seen[-1].mean()


@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_blind_to_theta_gives_exactly_zero_and_global_chance_is_untouched(kind):
    before = torch.get_rng_state()
    for estimator in ESTIMATORS:
        grad = estimator(lambda t: t.new_full((len(t),), 0.7), start(), generator=generator(), directions=kind).grad
        assert torch.equal(grad, torch.zeros_like(grad))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("bad", [{"n": 0}, {"mu": 0.0}, {"mu": -1.0}, {"mu": float("nan")}, {"mu": float("inf")}])
def test_bad_arguments(bad):
    for estimator in (*ESTIMATORS, Guided(1)):
        options = {"history": start()[None]} if isinstance(estimator, Guided) else {}
        with pytest.raises(ValueError, match=r"mu =|n ="):
            estimator(quadratic, start(), **{"n": 2, "mu": 1e-3, **bad}, generator=generator(), **options)


def test_thetas_histories_and_losses_of_other_shapes_are_refused():
    for theta in (torch.zeros(5), torch.zeros(1, 2, 3), torch.zeros(0, 5), torch.zeros(1, 5, dtype=torch.int64)):
        for estimator in ESTIMATORS:
            with pytest.raises(ValueError, match="a word is"):
                estimator(quadratic, theta, generator=generator())
    with pytest.raises(ValueError, match="history has shape"):
        guided(quadratic, start(), generator=generator(), history=start())
    for estimator in ESTIMATORS:
        with pytest.raises(ValueError, match="return one each"):
            estimator(lambda t: t.sum(), start(), generator=generator())


@pytest.mark.parametrize(("asked", "answered"), [(torch.float64, torch.float32), (torch.float32, torch.float64)])
def test_a_model_may_answer_in_another_precision_than_it_is_asked(asked, answered):
    a = start(2)
    for estimator in (*ESTIMATORS, forward_gradient):
        estimate = estimator(lambda t: linear(a)(t.double()).to(answered), start().to(asked), 3, generator=generator())
        assert estimate.grad.dtype == asked


def test_bad_directions():
    for estimator in ESTIMATORS:
        with pytest.raises(ValueError, match="rademacher"):
            estimator(quadratic, start(), generator=generator(), directions="coordinate")
    with pytest.raises(ValueError, match="do not fit"):
        one_point(quadratic, start(), D, generator=generator(), directions="orthogonal")
    with pytest.raises(ValueError, match="alpha"):
        guided(quadratic, start(), generator=generator(), history=start()[None], alpha=1.5)
    for bad in ({"memory": 0}, {"alpha": -0.1}):
        with pytest.raises(ValueError, match="memory"):
            Guided(**bad)


def test_the_estimate_averaged_over_thousands_of_directions_is_the_gradient(pipe):
    objective = problem(pipe)
    draw, theta = objective.draw(generator(4)), objective.token.initial.clone().requires_grad_()
    objective(theta[None], draw)[0].backward()
    n, d = 3000, 32
    with torch.inference_mode():
        grad = rge(lambda c: objective(c, draw), theta.detach(), n, 1e-2, generator=generator(5)).grad
    cosine = torch.cosine_similarity(grad.flatten(), theta.grad.flatten(), dim=0)
    assert cosine > (n / (n + d + 1)) ** 0.5 - 0.02
