"""Which timesteps to ask: samplers of the diffusion time t in {0, ..., 999}, larger t meaning more noise."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Timesteps(Protocol):
    """A distribution over timesteps: `probabilities` (total,) float64, zero from `high` on, and a way to sample it."""

    @property
    def high(self) -> int: ...

    @property
    def probabilities(self) -> Tensor: ...

    def sample(self, n: int, generator: torch.Generator) -> Tensor: ...


@dataclass(frozen=True)
class PartialUniform:
    """Partial Uniform Timestep Sampling, PUTS: t ~ U{low, ..., high - 1} (ZOODiP Eq. 9; low = 500, high = 900).

    Raises ValueError unless 0 <= low < high <= total.
    """

    low: int
    high: int
    total: int = 1000

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= self.total:
            raise ValueError(
                f"timesteps [{self.low}, {self.high}) do not lie within [0, {self.total}); "
                f"choose 0 <= low < high <= {self.total}"
            )

    @property
    def probabilities(self) -> Tensor:
        p = torch.zeros(self.total, dtype=torch.float64)
        p[self.low : self.high] = 1 / (self.high - self.low)
        return p

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n timesteps, int64 (n,); ValueError if n < 1."""
        _at_least_one(n)
        return torch.randint(self.low, self.high, (n,), generator=generator)


def Uniform(total: int = 1000) -> PartialUniform:
    """Every timestep alike, as textual inversion trains: the whole range is a partial range too."""
    return PartialUniform(0, total, total)


class SNRWeighted:
    """The noisier, the likelier: p(t) proportional to max_s log SNR(s) - log SNR(t), SNR = abar / (1 - abar).

    The idea and this formula are TextBoost's (Park, Kim & Shim 2024, arXiv 2409.08248, "SNR-weighted sampling"); the
    formula is the one its published training script computes. ZOODiP's Table 5 compares PUTS with "SNR-based"
    sampling without printing one. The cleanest timestep is never drawn. alphas_cumprod: (total,) as a scheduler
    holds it, falling with t. Raises ValueError where it leaves (0, 1), as in a zero-terminal-SNR schedule, or rises.
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
        """n timesteps, int64 (n,); ValueError if n < 1."""
        _at_least_one(n)
        return torch.multinomial(self.probabilities, n, replacement=True, generator=generator)


@dataclass(frozen=True)
class Stratified:
    """Any sampler, spread evenly: one timestep from each of n slices of equal probability, in random order.

    Each of the n is distributed as the original's on its own, so averages keep their mean; only the luck of the whole
    handful is less (McKay et al. 1979). One at a time (n = 1) it *is* the original: it serves banks and batches.
    """

    timesteps: Timesteps

    @property
    def high(self) -> int:
        return self.timesteps.high

    @property
    def probabilities(self) -> Tensor:
        return self.timesteps.probabilities

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n timesteps, int64 (n,); ValueError if n < 1."""
        _at_least_one(n)
        slices = torch.randperm(n, generator=generator)
        u = (slices + torch.rand(n, generator=generator, dtype=torch.float64)) / n
        # the last sum may round to just below 1; no u may fall off the end
        return torch.searchsorted(self.probabilities.cumsum(0), u, right=True).clamp(max=self.high - 1)


def _at_least_one(n: int) -> None:
    if n < 1:
        raise ValueError(f"n = {n}: at least one timestep can be drawn")
