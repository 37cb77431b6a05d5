"""Optimizer, subspace and timesteps: small parts with exact laws."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zoti import PartialUniform, SubspaceGradient, Uniform, ZOAdam


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


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


def watch(sg: SubspaceGradient, path: torch.Tensor) -> dict:
    state = sg.init(path[0])
    for theta in path:
        state = sg.observe(theta, state)
    return state


def test_nothing_is_removed_before_tau_and_the_buffer_empties_at_tau():
    sg, path = SubspaceGradient(tau=8), randn(7, 1, 20)
    state = watch(sg, path)
    grad = randn(1, 20, seed=3)
    assert sg.project(grad, state) == (grad, 0.0)
    state = sg.observe(randn(1, 20, seed=4), state)
    assert int(state["count"]) == 0
    assert not state["buffer"].any()


def test_projection_is_symmetric_idempotent_and_shortens_by_the_share_it_reports():
    sg = SubspaceGradient(tau=16, nu=0.3)
    state = watch(sg, randn(16, 1, 40).cumsum(0))
    p = torch.eye(40, dtype=torch.float64) - state["removed"].T @ state["removed"]
    torch.testing.assert_close(p, p.T)
    torch.testing.assert_close(p @ p, p)
    grad = randn(1, 40, seed=5)
    out, share = sg.project(grad, state)
    torch.testing.assert_close(out.flatten(), p @ grad.flatten())
    assert share == pytest.approx(float(1 - out.square().sum() / grad.square().sum()))
    assert 0 < share < 1


def test_removal_is_of_the_trajectory_and_leaves_what_is_orthogonal_to_it():
    sg, path = SubspaceGradient(tau=16, nu=0.3), randn(16, 1, 40).cumsum(0)
    state = watch(sg, path)
    flat = path.flatten(1)
    basis = torch.linalg.qr((flat - flat.mean(0)).div(flat.std(0, correction=0)).T).Q
    outside = randn(40, seed=6)
    outside -= basis @ (basis.T @ outside)
    out, share = sg.project(outside[None], state)
    torch.testing.assert_close(out[0], outside)
    assert share == pytest.approx(0, abs=1e-20)
    assert len(state["removed"]) <= sg.tau - 1


def test_a_planted_rank_is_kept():
    coefficients, plane = randn(32, 3), torch.linalg.qr(randn(50, 3, seed=1)).Q
    buffer = coefficients @ plane.T + 1e-6 * randn(32, 50, seed=2)
    removed = SubspaceGradient(tau=32, nu=1e-3).low_variance(buffer)
    assert len(removed) == 31 - 3  # 31 real directions after centring, three of them planted
    standard = (buffer - buffer.mean(0)) / buffer.std(0, correction=0)
    leading = torch.linalg.svd(standard)[2][:3]
    assert (removed @ leading.T).abs().max() < 1e-9


@given(seed=st.integers(0, 1000), scale=st.floats(0.1, 10))
def test_subspace_ignores_sign_translation_and_scale(seed, scale):
    sg, buffer = SubspaceGradient(tau=12, nu=0.2), randn(12, 20, seed=seed).cumsum(0)
    shadow = [r.T @ r for r in map(sg.low_variance, (buffer, -buffer, buffer + 3, buffer * scale))]
    for other in shadow[1:]:
        torch.testing.assert_close(shadow[0], other, rtol=1e-6, atol=1e-8)


def test_a_token_that_does_not_move_removes_nothing():
    state = watch(SubspaceGradient(tau=4), torch.ones(4, 1, 6))
    assert len(state["removed"]) == 0


@pytest.mark.parametrize("bad", [{"tau": 1}, {"nu": 0.0}, {"nu": 1.0}])
def test_subspace_rejects(bad):
    with pytest.raises(ValueError, match="tau"):
        SubspaceGradient(**bad)


def test_puts_support_ends_and_uniformity():
    t = PartialUniform(500, 900).sample(200_000, generator())
    assert t.min() == 500
    assert t.max() == 899
    counts = torch.bincount(t - 500, minlength=400).double()
    chi2 = ((counts - 500).square() / 500).sum()
    assert abs(chi2 - 399) < 5 * (2 * 399) ** 0.5
    assert Uniform() == PartialUniform(0, 1000)


@pytest.mark.parametrize(("low", "high"), [(-1, 10), (10, 10), (900, 500), (0, 1001)])
def test_timesteps_outside_the_schedule_are_refused(low, high):
    with pytest.raises(ValueError, match="0 <= low < high"):
        PartialUniform(low, high)
