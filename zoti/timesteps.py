"""Which timesteps to ask: samplers of the diffusion time t in {0, ..., 999}."""

from dataclasses import dataclass

import torch
from torch import Tensor


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

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n timesteps, int64 (n,)."""
        return torch.randint(self.low, self.high, (n,), generator=generator)


def Uniform(total: int = 1000) -> PartialUniform:
    """Every timestep alike, as textual inversion trains: the whole range is a partial range too."""
    return PartialUniform(0, total, total)
