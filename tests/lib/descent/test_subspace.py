"""The subspace has exact laws: what is removed, what stays, and how much."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests import helpers
from tests.helpers import generator
from zoti import RandomSubspace, SubspaceGradient

randn = partial(helpers.randn, dtype=torch.float64)


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


@pytest.mark.parametrize(("nu", "kept"), [(0.2, 1), (0.06, 2), (0.04, 3), (0.007, 3), (0.0035, 4)])
def test_nu_is_a_share_of_the_variance(nu, kept):
    u = torch.linalg.qr(torch.cat([torch.ones(16, 1, dtype=torch.float64), randn(16, 4)], 1)).Q[:, 1:]  # centred
    shares = torch.tensor([0.9, 0.05, 0.045, 0.005], dtype=torch.float64)
    buffer = u * shares.sqrt() @ torch.linalg.qr(randn(20, 4, seed=1)).Q.T
    assert len(SubspaceGradient(tau=16, nu=nu, standardise=False).low_variance(buffer)) == 4 - kept


def test_the_papers_window_and_share_are_the_defaults():
    assert SubspaceGradient() == SubspaceGradient(tau=128, nu=1e-3)


def test_no_gradient_loses_no_share_and_no_number_no_direction():
    sg, path = SubspaceGradient(tau=16, nu=0.3), randn(16, 1, 40).cumsum(0)
    assert sg.project(torch.zeros(1, 40, dtype=torch.float64), watch(sg, path))[1] == 0.0
    with pytest.raises(FloatingPointError, match="not finite"):
        watch(sg, path / 0)


@given(seed=st.integers(0, 1000), scale=st.floats(0.1, 10))
def test_subspace_ignores_sign_translation_and_scale(seed, scale):
    sg, buffer = SubspaceGradient(tau=12, nu=0.2), randn(12, 20, seed=seed).cumsum(0)
    shadow = [r.T @ r for r in map(sg.low_variance, (buffer, -buffer, buffer + 3, buffer * scale))]
    for other in shadow[1:]:
        torch.testing.assert_close(shadow[0], other, rtol=1e-6, atol=1e-8)


def test_a_token_that_does_not_move_removes_nothing():
    state = watch(SubspaceGradient(tau=4), torch.ones(4, 1, 6))
    assert len(state["removed"]) == 0


def test_still_coordinates_are_no_direction_whatever_their_value():
    for seed in range(200):
        g = generator(seed)
        buffer = torch.randn(768, generator=g).repeat(7, 1)  # in fp32 the mean of seven equal numbers may be another
        buffer[:, :10] += torch.randn(7, 3, generator=g) @ torch.randn(3, 10, generator=g)
        assert not SubspaceGradient(tau=7).low_variance(buffer)[:, 10:].any()


@pytest.mark.parametrize("keep", [1, 5, 15, 16])
def test_keep_leaves_so_many_leading_directions(keep):
    buffer = randn(16, 40).cumsum(0)
    removed = SubspaceGradient(tau=16, keep=keep).low_variance(buffer)
    assert len(removed) == max(15 - keep, 0)
    standard = (buffer - buffer.mean(0)) / buffer.std(0, correction=0)
    leading = torch.linalg.svd(standard)[2][:keep]
    if len(removed):
        assert (removed @ leading.T).abs().max() < 1e-9


def test_standardising_decides_which_directions_are_small():
    # fifteen coordinates wander alike, but for one that wanders on a grander scale
    buffer = randn(16, 15)
    buffer[:, 3] *= 1e3
    plain = SubspaceGradient(tau=16, nu=0.2, standardise=False).low_variance(buffer)
    standard = SubspaceGradient(tau=16, nu=0.2).low_variance(buffer)
    assert len(plain) == 14  # that one coordinate explains everything
    assert plain[:, 3].abs().max() < 1e-2
    assert len(standard) < 12
    moved = SubspaceGradient(tau=16, nu=0.2, standardise=False).low_variance(buffer * torch.arange(1, 16))
    same = SubspaceGradient(tau=16, nu=0.2).low_variance(buffer * torch.arange(1, 16))
    torch.testing.assert_close(same.T @ same, standard.T @ standard, rtol=1e-6, atol=1e-8)  # blind to units
    assert (moved.T @ moved - plain.T @ plain).abs().max() > 1e-8


def test_random_subspace_removes_as_much_room_but_any_directions():
    options = {"tau": 16, "nu": 0.3}
    path = randn(32, 1, 40).cumsum(0)
    shares, sizes = [], []
    for seed in range(60):
        sg, twin = RandomSubspace(**options, seed=seed), SubspaceGradient(**options)
        state, real = watch(sg, path), watch(twin, path)
        removed = state["removed"]
        assert removed.shape == real["removed"].shape
        torch.testing.assert_close(removed @ removed.T, torch.eye(len(removed), dtype=torch.float64))
        assert int(state["window"]) == 2
        shares.append(sg.project(path[0] - path[-1], state)[1])
        sizes.append(len(removed))
    shares = torch.tensor(shares)
    assert abs(shares.mean() - sizes[0] / 40) < 4 * shares.std() / 60**0.5  # r/D of any gradient
    first = watch(RandomSubspace(**options), path[:16])["removed"]
    again = watch(RandomSubspace(**options), path[:16])["removed"]
    other = watch(RandomSubspace(**options), torch.cat([path[:16], path[:16]]))["removed"]
    assert torch.equal(first, again)
    assert first.shape == other.shape
    assert not torch.allclose(first, other)  # a new window, new directions
    assert len(watch(RandomSubspace(**options, seed=2**62), path)["removed"])  # as large as a Config's may be


@pytest.mark.parametrize(
    "bad", [{"tau": 1}, {"nu": 0.0}, {"nu": 1.0}, {"keep": 0}, {"keep": 129}, {"tau": 8, "keep": 9}]
)
def test_subspace_rejects(bad):
    for kind in (SubspaceGradient, RandomSubspace):
        with pytest.raises(ValueError, match="tau"):
            kind(**bad)
