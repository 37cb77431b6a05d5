"""Optimizer, subspace and timesteps: small parts with exact laws."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zoti import ZOSGD, PartialUniform, RandomSubspace, SNRWeighted, Stratified, SubspaceGradient, Uniform, ZOAdam


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


def test_puts_support_ends_and_uniformity():
    t = PartialUniform(500, 900).sample(200_000, generator())
    assert t.min() == 500
    assert t.max() == 899
    counts = torch.bincount(t - 500, minlength=400).double()
    chi2 = ((counts - 500).square() / 500).sum()
    assert abs(chi2 - 399) < 5 * (2 * 399) ** 0.5
    assert Uniform() == PartialUniform(0, 1000)


def chi_square_is_ordinary(t: torch.Tensor, p: torch.Tensor) -> bool:
    """Pearson's statistic within five standard deviations of its mean, over the timesteps that can occur."""
    observed, expected = torch.bincount(t, minlength=len(p)).double(), p * len(t)
    assert not observed[p == 0].any()
    possible, freedom = p > 0, int((p > 0).sum()) - 1
    chi2 = ((observed - expected)[possible].square() / expected[possible]).sum()
    return bool(abs(chi2 - freedom) < 5 * (2 * freedom) ** 0.5)


def stable_diffusion_alphas() -> torch.Tensor:
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()
    return (1 - betas).cumprod(0)


def test_snr_weighted_follows_its_formula_and_leans_towards_noise():
    abar = stable_diffusion_alphas()
    sampler = SNRWeighted(abar)
    log_snr = (abar / (1 - abar)).log()
    weight = log_snr.max() - log_snr
    torch.testing.assert_close(sampler.probabilities, weight / weight.sum())
    assert sampler.probabilities[0] == 0
    assert (sampler.probabilities.diff() > 0).all()
    assert sampler.high == 1000
    assert SNRWeighted(torch.tensor([0.9, 0.9, 0.5])).probabilities.tolist() == [0, 0, 1]  # it may stand still a while
    t = sampler.sample(200_000, generator())
    assert t.dtype == torch.int64
    assert chi_square_is_ordinary(t, sampler.probabilities)
    assert not chi_square_is_ordinary(t, Uniform().probabilities)  # the test can tell


@pytest.mark.parametrize(
    "alphas", [[0.9, 0.5, 0.0], [1.0, 0.5], [0.5, 0.5], [0.5, 0.6, 0.4], [0.5, float("nan")], [0.5], [], [[0.9, 0.5]]]
)
def test_snr_weighted_needs_a_finite_falling_snr(alphas):
    with pytest.raises(ValueError, match="between 0 and 1"):
        SNRWeighted(torch.tensor(alphas))


@pytest.mark.parametrize("base", [PartialUniform(500, 900), Uniform(), SNRWeighted(stable_diffusion_alphas())])
def test_stratified_draws_one_from_every_slice_and_keeps_the_distribution(base):
    sampler, n = Stratified(base), 50
    g = generator(1)
    rounds = torch.stack([sampler.sample(n, g) for _ in range(2000)])  # (2000, 50)
    before = base.probabilities.cumsum(0)
    ends = torch.cat([torch.zeros(1, dtype=torch.float64), before])
    ranks = rounds.sort(1).values
    low, high = torch.arange(n) / n, torch.arange(1, n + 1) / n
    assert (ends[ranks + 1] > low - 1e-12).all()  # the i-th smallest touches the i-th slice of probability
    assert (ends[ranks] < high + 1e-12).all()
    coarse = base.probabilities.view(20, 50).sum(1)
    first, alone = rounds[:, 0], torch.cat([sampler.sample(1, g) for _ in range(2000)])
    assert chi_square_is_ordinary(first // 50, coarse)  # each one of the fifty on its own is the original
    assert chi_square_is_ordinary(alone // 50, coarse)
    spread = rounds.double().mean(1).std()
    plain = torch.stack([base.sample(n, g) for _ in range(2000)]).double().mean(1).std()
    assert spread < plain / 10
    assert sampler.high == base.high


@pytest.mark.parametrize("sampler", [Uniform(), SNRWeighted(stable_diffusion_alphas()), Stratified(Uniform())])
def test_less_than_one_timestep_cannot_be_drawn(sampler):
    for n in (0, -1):
        with pytest.raises(ValueError, match="at least one timestep"):
            sampler.sample(n, generator())


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


@pytest.mark.parametrize(("low", "high"), [(-1, 10), (10, 10), (900, 500), (0, 1001)])
def test_timesteps_outside_the_schedule_are_refused(low, high):
    with pytest.raises(ValueError, match="0 <= low < high"):
        PartialUniform(low, high)
