"""At which timesteps to ask the model: samplers of the diffusion time t in {0, ..., 999}. A larger t is more noise."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Timesteps(Protocol):
    """What `DenoisingLoss` asks of a sampler: a distribution over timesteps, and a way to draw from it.

    >>> def mean_time(timesteps: Timesteps) -> float:
    ...     p = timesteps.probabilities
    ...     return round((p * torch.arange(len(p))).sum().item(), 6)
    >>> mean_time(Uniform()), mean_time(PartialUniform(500, 900))
    (499.5, 699.5)
    """

    @property
    def high(self) -> int:
        """The upper end, exclusive: every timestep that is drawn lies below it."""
        ...

    @property
    def probabilities(self) -> Tensor:
        """The probability of each timestep: (total,) float64, their sum 1, zero from `high` on."""
        ...

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw n timesteps: int64 (n,)."""
        ...


@dataclass(frozen=True)
class PartialUniform:
    """Partial Uniform Timestep Sampling, PUTS: t ~ U{low, ..., high - 1} (ZOODiP Eq. 9; low = 500, high = 900).

    Raises ValueError unless 0 <= low < high <= total.

    >>> puts = PartialUniform(500, 900)
    >>> puts.probabilities[[499, 500, 899, 900]]
    tensor([0.0000, 0.0025, 0.0025, 0.0000], dtype=torch.float64)
    >>> t = puts.sample(1000, torch.Generator().manual_seed(0))
    >>> bool((t >= 500).all() and (t < 900).all())
    True
    """

    #: the smallest timestep that is drawn
    low: int
    #: the upper end, exclusive: the largest timestep that is drawn is high - 1
    high: int
    #: how many timesteps the model knows
    total: int = 1000

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= self.total:
            raise ValueError(
                f"timesteps [{self.low}, {self.high}) do not lie within [0, {self.total}); "
                f"choose 0 <= low < high <= {self.total}"
            )

    @property
    def probabilities(self) -> Tensor:
        """The probability of each timestep: (total,) float64."""
        p = torch.zeros(self.total, dtype=torch.float64)
        p[self.low : self.high] = 1 / (self.high - self.low)
        return p

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw n timesteps: int64 (n,). Raises ValueError if n < 1."""
        _at_least_one(n)
        return torch.randint(self.low, self.high, (n,), generator=generator)


def Uniform(total: int = 1000) -> PartialUniform:
    """All timesteps with the same probability, as textual inversion trains: `PartialUniform` over the whole range.

    >>> Uniform()
    PartialUniform(low=0, high=1000, total=1000)
    """
    return PartialUniform(0, total, total)


class SNRWeighted:
    """Timesteps weighted by how noisy they are: p(t) is proportional to max_s log SNR(s) - log SNR(t).

    SNR = abar / (1 - abar) is the signal-to-noise ratio. The noisier a timestep, the likelier it is drawn, and the
    cleanest never. alphas_cumprod: abar at every timestep, (total,), as a scheduler holds it, falling with t.

    The idea and this formula are TextBoost's (Park, Kim & Shim 2024, arXiv 2409.08248, "SNR-weighted sampling"); the
    formula is the one its published training script computes. ZOODiP's Table 5 compares PUTS with "SNR-based"
    sampling and prints no formula.

    Raises ValueError where alphas_cumprod leaves (0, 1), as in a zero-terminal-SNR schedule, or rises.

    >>> SNRWeighted(torch.tensor([0.9, 0.5, 0.1])).probabilities
    tensor([0.0000, 0.3333, 0.6667], dtype=torch.float64)
    """

    def __init__(self, alphas_cumprod: Tensor) -> None:
        abar = alphas_cumprod.detach().double().cpu()
        inside = abar.ndim == 1 and len(abar) > 1 and bool(((abar > 0) & (abar < 1)).all())
        if not inside or not bool((abar.diff() <= 0).all()) or abar[0] == abar[-1]:
            raise ValueError(
                "alphas_cumprod (total,) must lie strictly between 0 and 1 and fall: the SNR needs a finite logarithm"
            )
        weight = torch.logit(abar).max() - torch.logit(abar)  # logit(abar) is the logarithm of the SNR
        self.probabilities = weight / weight.sum()
        self.high = len(abar)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw n timesteps: int64 (n,). Raises ValueError if n < 1."""
        _at_least_one(n)
        return torch.multinomial(self.probabilities, n, replacement=True, generator=generator)


@dataclass(frozen=True)
class Stratified:
    """A sampler that spreads another's draws evenly: one from each of n slices of equal probability, in random order.

    Each of the n timesteps on its own is distributed as the other sampler's, so an average over them keeps its mean
    and only varies less (stratified sampling, McKay et al. 1979). A single timestep (n = 1) has nothing to be spread
    over: this serves banks and batches, whose draws are made together.

    >>> t = Stratified(Uniform()).sample(5, torch.Generator().manual_seed(0))
    >>> t.sort().values // 200  # one from each fifth
    tensor([0, 1, 2, 3, 4])
    """

    #: the sampler whose draws are spread
    timesteps: Timesteps

    @property
    def high(self) -> int:
        """That of the sampler whose draws are spread."""
        return self.timesteps.high

    @property
    def probabilities(self) -> Tensor:
        """Those of the sampler whose draws are spread: (total,) float64."""
        return self.timesteps.probabilities

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw n timesteps: int64 (n,). Raises ValueError if n < 1."""
        _at_least_one(n)
        slices = torch.randperm(n, generator=generator)
        u = (slices + torch.rand(n, generator=generator, dtype=torch.float64)) / n
        # the last sum may round to just below 1; no u may fall off the end
        return torch.searchsorted(self.probabilities.cumsum(0), u, right=True).clamp(max=self.high - 1)


def _at_least_one(n: int) -> None:
    """Raise ValueError unless there is a timestep to draw."""
    if n < 1:
        raise ValueError(f"n = {n}: at least one timestep can be drawn")
