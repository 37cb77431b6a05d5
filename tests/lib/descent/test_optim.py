"""Optimizers against torch's, and the authors' against what fp16 makes of it."""

import math
from functools import partial

import pytest
import torch

from tests import helpers
from zoti import ZOSGD, ZOAdam

randn = partial(helpers.randn, dtype=torch.float64)


def test_zoadam_is_torch_adam():
    theta = randn(2, 7)
    twin = theta.clone().requires_grad_()
    reference, ours = torch.optim.Adam([twin], lr=5e-3), ZOAdam(5e-3)
    state = ours.init(theta)
    for step in range(50):
        grad = randn(2, 7, seed=step) * 10.0 ** (step % 5 - 2)
        theta, state = ours.update(grad, theta, state)
        twin.grad = grad
        reference.step()
        torch.testing.assert_close(theta, twin.detach(), rtol=1e-12, atol=1e-14)


def test_zosgd_is_torch_sgd_and_remembers_nothing():
    theta, ours = randn(2, 7), ZOSGD(3e-2)
    twin = theta.clone().requires_grad_()
    reference, state = torch.optim.SGD([twin], lr=3e-2), ours.init(theta)
    for step in range(5):
        grad = randn(2, 7, seed=step)
        theta, state = ours.update(grad, theta, state)
        twin.grad = grad
        reference.step()
    assert state == {}
    torch.testing.assert_close(theta, twin.detach())


SHRINK = math.sqrt((768 + 2 - 1) / 2)  # 19.6


def authors_run(shrunk: float, steps: int = 1) -> tuple[torch.Tensor, dict]:
    """The authors' optimizer fed with a gradient of 768 equal entries, `shrunk` after its own division."""
    adam, theta = ZOAdam.authors(n=2), torch.zeros(1, 768)
    state = adam.init(theta)
    for _ in range(steps):
        theta, state = adam.update(torch.full((1, 768), shrunk * SHRINK), theta, state)
    return theta, state


def test_authors_divide_by_19_6_and_keep_moments_in_fp16():
    assert pytest.approx(19.6, abs=0.05) == SHRINK
    theta, state = authors_run(0.5)
    assert state["m"].dtype == state["v"].dtype == torch.float16
    assert theta.dtype == torch.float32
    torch.testing.assert_close(state["m"], torch.full((1, 768), 0.05).half(), rtol=2e-3, atol=0)
    torch.testing.assert_close(state["v"], torch.full((1, 768), 0.5**2 * 1e-3).half(), rtol=2e-3, atol=0)


@pytest.mark.parametrize(("size", "alive"), [(5.4e-3, False), (5.5e-3, True)])
def test_authors_second_moment_underflows_below_5_5e_3(size, alive):
    _, state = authors_run(size)
    assert bool(state["v"].all()) is bool(state["v"].any()) is alive


def test_authors_bias_corrections_are_fp32_and_the_rates_are_those_published():
    theta, state = authors_run(0.0371)
    m_hat, v_hat = state["m"].float() / (1 - 0.9), state["v"].float() / (1 - 0.999)
    torch.testing.assert_close(theta, -1e-2 * m_hat / (v_hat.sqrt() + 1e-3), rtol=1e-5, atol=0)
    assert ZOAdam() == ZOAdam(lr=5e-3)


def test_without_a_second_moment_the_authors_adam_is_momentum_descent():
    size = 4e-3
    theta, state = authors_run(size, steps=200)
    assert not state["v"].any()
    before, _ = authors_run(size, steps=199)
    step = ZOAdam.authors().lr * size / ZOAdam.authors().eps  # lr m / eps once m has settled on the gradient
    torch.testing.assert_close(before - theta, torch.full_like(theta, step), rtol=0.01, atol=0)


def test_a_second_moment_that_woke_up_in_fp16_never_decays():
    adam, theta = ZOAdam.authors(), torch.zeros(1, 768)
    _, state = authors_run(5e-2)
    awake = state["v"].clone()
    for _ in range(2000):
        theta, state = adam.update(torch.zeros(1, 768), theta, state)
    assert 0 < awake.max() < 3e-5
    assert torch.equal(state["v"], awake)  # fp32 would have kept e^-2 of it


def test_authors_adam_and_fp32_adam_are_two_optimizers():
    assert repr(ZOAdam.authors(n=4)) != repr(ZOAdam.authors(n=2)) != repr(ZOAdam(lr=1e-2, eps=1e-3))
    ours, theirs = ZOAdam(), ZOAdam.authors()
    theta, grad = torch.zeros(1, 768), torch.full((1, 768), 1e-3 * SHRINK)
    (step, _), (their_step, _) = (a.update(grad, theta, a.init(theta)) for a in (ours, theirs))
    torch.testing.assert_close(step, torch.full_like(theta, -ours.lr))  # Adam forgets the scale
    torch.testing.assert_close(their_step, torch.full_like(theta, -theirs.lr), rtol=1e-2, atol=0)  # 1e-2 * 1e-3 / 1e-3


@pytest.mark.parametrize("number", [0.0, -1.0, float("inf"), float("nan")])
def test_optimizers_refuse_numbers_that_cannot_descend(number):
    for make in (ZOSGD, ZOAdam, lambda eps: ZOAdam(eps=eps)):
        with pytest.raises(ValueError, match="positive and finite"):
            make(number)
    for beta in ("beta1", "beta2"):
        with pytest.raises(ValueError, match="below 1"):
            ZOAdam(**{beta: number or 1.0})
    with pytest.raises(ValueError, match="at least one direction"):
        ZOAdam.authors(0)
