"""Samplers of timesteps: their support, their distribution, and how evenly it is drawn."""

import pytest
import torch

from tests.helpers import generator
from zoti import PartialUniform, SNRWeighted, Stratified, Uniform


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


@pytest.mark.parametrize(("low", "high"), [(-1, 10), (10, 10), (900, 500), (0, 1001)])
def test_timesteps_outside_the_schedule_are_refused(low, high):
    with pytest.raises(ValueError, match="0 <= low < high"):
        PartialUniform(low, high)
