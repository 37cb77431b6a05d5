"""Subspace Gradient: forget the directions in which the token hardly moves (ZOODiP Eqs. 4-8, Alg. 2)."""

from dataclasses import dataclass

import torch
from torch import Tensor

State = dict[str, Tensor]


@dataclass(frozen=True)
class SubspaceGradient:
    """Every tau steps, find the low-variance directions of the last tau tokens and remove them from the gradient.

    With B (tau, D) the tokens, standardised per coordinate, and B = U S V^T: keep the leading directions until they
    explain more than 1 - nu of the variance; the rest of the tau, rows P of V^T, are projected out: g (I - P^T P).
    Only trajectory directions can be removed, at most tau - 1 of D; all that is orthogonal to the path stays.
    State is data: {"buffer": (tau, D), "count": (), "removed": (r, D)}. Raises ValueError for tau < 2 or nu
    outside (0, 1).
    """

    tau: int = 128
    nu: float = 1e-3

    def __post_init__(self) -> None:
        if self.tau < 2 or not 0 < self.nu < 1:
            raise ValueError(f"tau = {self.tau}, nu = {self.nu}: tau must be at least 2 and nu lie between 0 and 1")

    def init(self, theta: Tensor) -> State:
        """Nothing seen, nothing removed. theta: (k, d), D = k d."""
        return {
            "buffer": theta.new_zeros(self.tau, theta.numel()),
            "count": torch.zeros((), dtype=torch.int64),
            "removed": theta.new_zeros(0, theta.numel()),
        }

    def observe(self, theta: Tensor, state: State) -> State:
        """Note the updated token; at the tau-th, choose the directions to remove and empty the buffer."""
        count = int(state["count"])
        buffer = state["buffer"].clone()
        buffer[count] = theta.flatten()
        if count + 1 < self.tau:
            return {**state, "buffer": buffer, "count": torch.tensor(count + 1)}
        return {**self.init(theta), "removed": self.low_variance(buffer)}

    def low_variance(self, buffer: Tensor) -> Tensor:
        """Orthonormal rows (r, D) of the directions with less than nu of the variance of buffer (tau, D)."""
        deviation = buffer.std(0, correction=0)
        standard = (buffer - buffer.mean(0)) / torch.where(deviation > 0, deviation, 1)  # a still coordinate stays 0
        _, s, vh = torch.linalg.svd(standard, full_matrices=False)
        explained = s.square().cumsum(0) / s.square().sum().clamp(min=torch.finfo(s.dtype).tiny)
        kept = int((explained <= 1 - self.nu).sum()) + 1
        # centring costs one dimension: the last row of V^T belongs to a zero singular value, an arbitrary direction
        real = s > s[0] * len(buffer) * torch.finfo(s.dtype).eps
        return vh[kept:][real[kept:]]

    def project(self, grad: Tensor, state: State) -> tuple[Tensor, float]:
        """Remove the directions: grad (k, d) -> (projected, share of its squared length that was removed)."""
        removed = state["removed"]
        if len(removed) == 0:
            return grad, 0.0
        flat = grad.flatten()
        shadow = (removed @ flat) @ removed
        share = float(shadow.square().sum() / flat.square().sum().clamp(min=torch.finfo(flat.dtype).tiny))
        return (flat - shadow).view_as(grad), share
