"""The Gauss-Newton step against closed forms: ridge regression, the Kalman filter, its window, its bias."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import generator, linear, problem, random_pipeline, random_xl_pipeline
from zoti import ZOSGD, Config, GaussNewton, gauss_newton, invert, rge, sensitive_directions
from zoti.descent import SensitiveDirections

D, R, M = 12, 5, 40
THETA = torch.randn(2, D // 2, generator=generator(1), dtype=torch.float64)
#: errors A theta - c
A = torch.randn(M, D, generator=generator(2), dtype=torch.float64)
C = torch.randn(M, generator=generator(3), dtype=torch.float64)
B = torch.linalg.qr(torch.randn(D, R, generator=generator(4), dtype=torch.float64)).Q.T
ROWS = B.reshape(R, 2, D // 2)


def errors(candidates: torch.Tensor) -> torch.Tensor:
    return candidates.flatten(1) @ A.T - C


def known(precision: torch.Tensor | None = None, variance: float = 0.0) -> dict:
    eye = torch.eye(R, dtype=torch.float64)
    return {"precision": eye if precision is None else precision, "variance": eye.new_tensor(variance)}


def random_precision(seed: int) -> torch.Tensor:
    x = torch.randn(R, R, generator=generator(seed), dtype=torch.float64)
    return torch.eye(R, dtype=torch.float64) + x @ x.T


def seen(estimate) -> torch.Tensor:
    """The step in coordinates of the subspace, in which a step lies whole."""
    coordinates = B @ estimate.grad.flatten()
    torch.testing.assert_close(coordinates @ B, estimate.grad.flatten())
    return coordinates


@given(mu=st.floats(1e-3, 1e2), spread=st.floats(0.05, 5), temperature=st.floats(0.1, 100))
def test_asked_in_every_direction_a_linear_models_step_is_the_ridge_solution_for_every_mu(mu, spread, temperature):
    step = gauss_newton(
        errors, THETA, R, mu, generator=generator(), directions=ROWS, **known(), spread=spread, temperature=temperature
    )
    r0, j = errors(THETA[None])[0], A @ B.T
    ridge = temperature * r0.square().mean() / spread**2  # a loose word, a soft prior
    solution = torch.linalg.solve(j.T @ j + ridge * torch.eye(R), j.T @ r0)
    torch.testing.assert_close(seen(step), solution, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(step.loss, r0.square().mean())


def test_without_a_prior_it_is_gauss_newtons_own_step_and_reaches_the_minimum_at_once():
    step = gauss_newton(
        errors, THETA, R, generator=generator(), directions=ROWS, temperature=1e-12, **known(), forgetting=1.0
    )
    least = torch.linalg.lstsq(A @ B.T, errors(THETA[None])[0]).solution
    torch.testing.assert_close(seen(step), least, rtol=1e-6, atol=1e-9)


@given(n=st.integers(1, R), seed=st.integers(0, 100))
def test_asked_in_some_directions_it_is_the_least_squares_of_what_it_saw_and_what_it_knew(n, seed):
    precision, options = random_precision(seed), {"spread": 0.5, "forgetting": 0.9, "temperature": 4.0}
    moved = []

    def ask(candidates):
        moved.append((candidates[1:] - candidates[0]).flatten(1))
        return errors(candidates)

    step = gauss_newton(ask, THETA, n, generator=generator(seed), directions=ROWS, **known(precision), **options)
    e = moved[0] @ B.T
    u = e / e.norm(dim=1, keepdim=True)
    torch.testing.assert_close(u @ u.T, torch.eye(n, dtype=torch.float64))
    torch.testing.assert_close(e.norm(dim=1), torch.full((n,), 1e-3 * D**0.5, dtype=torch.float64))
    r0 = errors(THETA[None])[0]
    prior = 0.9 * precision + 0.1 * torch.eye(R)
    weight = (4.0 * r0.square().mean()) ** -0.5
    # minimize |weight (r0 + J a)|^2 + |L^(1/2) a|^2, J = A B^T U^T U spread
    stacked = torch.cat([weight * 0.5 * A @ B.T @ u.T @ u, torch.linalg.cholesky(prior).T])
    right = torch.cat([weight * r0, r0.new_zeros(R)])
    torch.testing.assert_close(seen(step), 0.5 * torch.linalg.lstsq(stacked, right).solution, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(step.state["precision"], stacked.T @ stacked, rtol=1e-6, atol=1e-8)


def test_steps_are_a_kalman_filters_with_its_gain_and_its_covariance():
    theta, state, covariance, variance = THETA, known(), torch.eye(R, dtype=torch.float64), None
    h = 0.5 * A @ B.T  # errors in coordinates
    for index in range(6):
        step = gauss_newton(
            errors, theta, R, generator=generator(index), directions=ROWS, **state, spread=0.5, forgetting=0.8
        )
        r0 = errors(theta[None])[0]
        mean_square = r0.square().mean()
        variance = mean_square if variance is None else 0.95 * variance + 0.05 * mean_square
        covariance = torch.linalg.inv(0.8 * torch.linalg.inv(covariance) + 0.2 * torch.eye(R))
        gain = covariance @ h.T @ torch.linalg.inv(h @ covariance @ h.T + 10.0 * variance * torch.eye(M))
        covariance = (torch.eye(R) - gain @ h) @ covariance
        torch.testing.assert_close(-seen(step), 0.5 * gain @ (0 - r0), rtol=1e-5, atol=1e-8)
        torch.testing.assert_close(torch.linalg.inv(step.state["precision"]), covariance, rtol=1e-5, atol=1e-8)
        torch.testing.assert_close(step.state["variance"], variance)
        theta, state = theta - step.grad, step.state


def test_forgetting_is_a_window_of_so_many_steps():
    """What the same sight adds up to: I + told (1 - f^t) / (1 - f), in the end told times 1 / (1 - f)."""
    state, f = known(), 0.75
    for t in range(1, 61):
        told = gauss_newton(errors, THETA, R, generator=generator(), directions=ROWS, **state, forgetting=f).state
        if t == 1:
            once = told["precision"] - torch.eye(R)
        whole = torch.eye(R) + once * (1 - f**t) / (1 - f)
        torch.testing.assert_close(told["precision"], whole, rtol=1e-6, atol=1e-9)
        state = told
    torch.testing.assert_close(state["precision"] - torch.eye(R), once / (1 - f), rtol=1e-5, atol=1e-8)


def test_it_asks_where_least_is_known():
    """One of two directions, known to deviations 3 and 1: a draw's share of the first is 3 / (3 + 1) on average."""
    rows, g, shares = torch.eye(2, dtype=torch.float64).view(2, 1, 2), generator(), []
    precision = torch.tensor([[1 / 9, 0], [0, 1.0]], dtype=torch.float64)

    def ask(candidates):
        e = (candidates[1] - candidates[0]).flatten()
        shares.append(float(e[0] ** 2 / e.square().sum()))
        return candidates.flatten(1)

    for _ in range(3000):
        gauss_newton(ask, rows[0], 1, generator=g, directions=rows, precision=precision, variance=torch.tensor(0.0))
    shares = torch.tensor(shares)
    assert abs(shares.mean() - 0.75) < 4 * shares.std() / 3000**0.5


def test_differences_of_errors_have_no_bias_where_those_of_losses_have():
    """A loss of linear errors is a parabola: its difference along e is off by mu |A e|^2 / m, that of errors is not."""
    mu, seen = 0.5, []

    def ask(candidates):
        seen.append((candidates[1:] - candidates[0]).flatten(1) / mu)
        return errors(candidates)

    def slope(e):
        return 2 * errors(THETA[None])[0] @ (A @ e.T) / M

    vector = gauss_newton(ask, THETA, 3, mu, generator=generator(), directions=ROWS, **known())
    torch.testing.assert_close(vector.directional, slope(seen[0]))
    number = rge(lambda c: ask(c).square().mean(1), THETA, 3, mu, generator=generator())
    torch.testing.assert_close(number.directional, slope(seen[1]) + mu * (A @ seen[1].T).square().mean(0))


def test_where_no_error_is_left_it_stays():
    there = torch.linalg.lstsq(A, C).solution  # of what is seen there nothing is wrong
    seen = gauss_newton(
        lambda c: (c.flatten(1) - there) @ A.T,
        there.view_as(THETA),
        2,
        generator=generator(),
        directions=ROWS,
        **known(),
    )
    assert torch.equal(seen.grad, torch.zeros_like(THETA))
    assert seen.loss == 0


def test_arguments_that_do_not_fit_are_refused():
    good = {"generator": generator(), "directions": ROWS, **known()}
    for bad, message in [
        ({"n": R + 1}, "n <= r"),
        ({"directions": ROWS[:, :1]}, "do not fit a word"),
        ({"precision": torch.eye(R + 1)}, "do not fit a word"),
        ({"n": 0}, "n = 0"),
        ({"mu": 0.0}, "mu = 0"),
        ({"forgetting": 0.0}, "forgetting"),
        ({"forgetting": 1.1}, "forgetting"),
        ({"spread": 0.0}, "spread"),
        ({"temperature": float("inf")}, "temperature"),
    ]:
        with pytest.raises(ValueError, match=message):
            gauss_newton(errors, THETA, **{"n": 2, **good, **bad})
    with pytest.raises(ValueError, match="errors of shape"):
        gauss_newton(linear(THETA), THETA, **good)
    some = SensitiveDirections(ROWS, torch.ones(D), 1.0, 0)
    for bad in ({"forgetting": 0.0}, {"spread": -1.0}, {"temperature": 0.0}):
        with pytest.raises(ValueError, match="forgetting"):
            GaussNewton(some, **bad)
    newton = GaussNewton(some)
    for bad in ({}, {"subspace": None}, {"optimizer": ZOSGD(1.0)}):
        with pytest.raises(ValueError, match="whole step"):
            Config(estimator=newton, **bad)
    with pytest.raises(ValueError, match="only 5 directions"):
        Config(estimator=newton, subspace=None, optimizer=ZOSGD(1.0), n=6)
    with pytest.raises(ValueError, match="its own directions"):
        Config(estimator=newton, subspace=None, optimizer=ZOSGD(1.0), directions="orthogonal")


def newton_run(pipe, vectors: int = 2, **options):
    """A problem and a Config for it."""
    objective = problem(pipe, vectors)
    found = sensitive_directions(objective.token, objective.prompts[:1], share=0.9)
    return objective, Config(
        estimator=GaussNewton(found), optimizer=ZOSGD(1.0), subspace=None, **{"n": 3, "batch": 2, **options}
    )


@pytest.mark.parametrize("make", [random_pipeline, random_xl_pipeline])
def test_a_run_counts_stays_in_its_subspace_and_resumes_to_the_same_bits(make, tmp_path, one_thread):
    objective, config = newton_run(make(), steps=9)
    rows = config.estimator.directions.rows
    counted = []
    objective.pipe.unet.register_forward_hook(lambda module, args, output: counted.append(len(args[0])))
    whole = list(invert(objective, config))
    assert [s.evaluations for s in whole] == [8 * i for i in range(1, 10)]
    assert sum(counted) == whole[-1].evaluations
    assert {s.text_passes for s in whole} == {objective.token.initial.numel() + 1}
    moved = (whole[-1].theta - objective.token.initial).flatten()
    assert moved.norm() > 1e-3
    torch.testing.assert_close((rows.flatten(1) @ moved) @ rows.flatten(1), moved, rtol=1e-4, atol=1e-6)
    path = tmp_path / "run.safetensors"
    list(invert(objective, replace(config, steps=4), checkpoint=path))
    again, same = newton_run(make(), steps=9)
    assert str(same) == str(config)
    rest = list(invert(again, same, checkpoint=path))
    assert [s.index for s in rest] == [5, 6, 7, 8, 9]
    for resumed, original in zip(rest, whole[4:], strict=True):
        assert torch.equal(resumed.theta, original.theta)
        assert replace(resumed, theta=None, seconds=0) == replace(original, theta=None, seconds=0)


def test_a_resumed_run_goes_on_in_the_directions_it_began_with(pipe, tmp_path, one_thread):
    """Found again in another process they may differ by rounding, and be as many: that is no other run."""
    objective, config = newton_run(pipe, steps=4)
    whole, path = list(invert(objective, config)), tmp_path / "run.safetensors"
    list(invert(objective, replace(config, steps=2), checkpoint=path))
    found = config.estimator.directions
    almost = replace(found, rows=found.rows * (1 + 1e-4), length=found.length * (1 + 1e-4))
    rest = list(invert(objective, replace(config, estimator=GaussNewton(almost)), checkpoint=path))
    assert torch.equal(rest[-1].theta, whole[-1].theta)
    fewer, others = replace(found, rows=found.rows[:-1]), replace(found, rows=found.rows.roll(1, 2))
    for other, name in [(fewer, "estimator"), (others, "subspace found")]:
        with pytest.raises(ValueError, match=f"another run, which differs in .*{name}"):
            next(invert(objective, replace(config, estimator=GaussNewton(other)), checkpoint=path))


def test_errors_that_are_not_finite_stop_the_run_and_the_last_sound_token_is_kept(pipe, tmp_path):
    objective, config = newton_run(pipe, steps=9)
    run = invert(objective, config, checkpoint=tmp_path / "run.safetensors")
    good = next(run)
    ask = objective.residuals
    objective.residuals = lambda theta, draw: ask(theta, draw) * float("nan")
    with pytest.raises(FloatingPointError, match="the token of step 0, the last"):
        next(run)
    assert good.index == 1
