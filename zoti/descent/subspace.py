"""Subspace Gradient: forget the directions in which the token hardly moves (ZOODiP Eqs. 4-8, Alg. 2)."""

from dataclasses import dataclass

import torch
from torch import Tensor

State = dict[str, Tensor]


@dataclass(frozen=True)
class SubspaceGradient:
    """Every tau steps, find the low-variance directions of the last tau tokens and remove them from the gradient.

    Let B (tau, D) be the tokens, standardised per coordinate, and B = U S V^T. The leading directions (rows of V^T) are
    kept until they explain more than 1 - nu of the variance. The rest, rows P, are projected out of every gradient g:
    g (I - P^T P). So at most tau - 1 of the D directions are removed, all of them from the token's path; what is
    orthogonal to the path stays.

    There are two ablations: standardise=False centres B only, so that coordinates which move far weigh more; keep=r
    keeps the r leading directions whatever they explain, without regard to nu.

    State: {"buffer": (tau, D), "count": (), "removed": (r, D)}. Raises ValueError for tau < 2, nu outside (0, 1) or
    keep outside 1..tau.

    >>> subspace = SubspaceGradient(tau=4, nu=0.1, standardise=False)
    >>> state = subspace.init(torch.zeros(1, 3))
    >>> for x, y in (2.0, 0.1), (-2.0, 0.1), (2.0, -0.1), (-2.0, -0.1):  # z: still
    ...     state = subspace.observe(torch.tensor([[x, y, 0.0]]), state)
    >>> grad, removed = subspace.project(torch.tensor([[1.0, 2.0, 2.0]]), state)
    >>> grad.round(decimals=3), round(removed, 3)  # 4 of 9
    (tensor([[1., 0., 2.]]), 0.444)
    """

    #: how many tokens are looked at together
    tau: int = 128
    #: the share of their variance that the removed directions may explain
    nu: float = 1e-3
    #: whether every coordinate counts alike
    standardise: bool = True
    #: how many leading directions to keep, whatever nu says
    keep: int | None = None

    def __post_init__(self) -> None:
        if self.tau < 2 or not 0 < self.nu < 1:
            raise ValueError(f"tau = {self.tau}, nu = {self.nu}: tau must be at least 2 and nu lie between 0 and 1")
        if self.keep is not None and not 1 <= self.keep <= self.tau:
            raise ValueError(f"keep = {self.keep}: of tau = {self.tau} directions, 1 to {self.tau} can be kept")

    def init(self, theta: Tensor) -> State:
        """The state of a run that begins at theta (k, d): nothing seen, nothing removed."""
        return {
            "buffer": theta.new_zeros(self.tau, theta.numel()),
            "count": torch.zeros((), dtype=torch.int64),
            "removed": theta.new_zeros(0, theta.numel()),
        }

    def observe(self, theta: Tensor, state: State) -> State:
        """Note the updated token theta (k, d). At the tau-th, choose the directions to remove and empty the buffer."""
        count = int(state["count"])
        buffer = state["buffer"].clone()
        buffer[count] = theta.flatten()
        if count + 1 < self.tau:
            return {**state, "buffer": buffer, "count": torch.tensor(count + 1)}
        return {**state, **SubspaceGradient.init(self, theta), "removed": self.low_variance(buffer)}

    def low_variance(self, buffer: Tensor) -> Tensor:
        """The directions to remove: orthonormal rows (r, D) with less than nu of the variance of buffer (tau, D).

        Raises FloatingPointError for tokens that are not finite, which have no directions.
        """
        if not torch.isfinite(buffer).all():
            raise FloatingPointError("a token that is not finite has no directions; stop before, or learn more slowly")
        # a coordinate that stands still becomes exactly 0; the computed mean of equal numbers can differ from them
        buffer = buffer - buffer[0]
        centred = buffer - buffer.mean(0)
        deviation = buffer.std(0, correction=0) if self.standardise else buffer.new_ones(())
        _, s, vh = torch.linalg.svd(centred / torch.where(deviation > 0, deviation, 1), full_matrices=False)
        explained = s.square().cumsum(0) / s.square().sum().clamp(min=torch.finfo(s.dtype).tiny)
        kept = self.keep or int((explained <= 1 - self.nu).sum()) + 1
        # centring costs one dimension: the last row of V^T belongs to a zero singular value, an arbitrary direction
        real = s > s[0] * len(buffer) * torch.finfo(s.dtype).eps
        rest: Tensor = vh[kept:][real[kept:]]
        return rest

    def project(self, grad: Tensor, state: State) -> tuple[Tensor, float]:
        """Project a gradient (k, d). Returns what is left of it, and the share of its squared length that is gone."""
        removed = state["removed"]
        if len(removed) == 0:
            return grad, 0.0
        flat = grad.flatten()
        shadow = (removed @ flat) @ removed
        whole = flat.square().sum().clamp(min=torch.finfo(flat.dtype).tiny)
        share = float(shadow.square().sum() / whole)
        return (flat - shadow).view_as(grad), share


@dataclass(frozen=True)
class RandomSubspace(SubspaceGradient):
    """A control for SubspaceGradient: removes exactly as many directions as it would, but random ones of all D.

    If a run does as well with it, the token's path had nothing to tell. On average it removes the share r/D of any
    gradient. State adds {"window": ()}, which counts how often directions were drawn: with the seed it decides them,
    so a resumed run meets the same ones.

    >>> control = RandomSubspace(tau=4, keep=1, seed=1)
    >>> state = control.init(torch.zeros(1, 8))
    >>> for theta in torch.eye(8)[:4].split(1):
    ...     state = control.observe(theta, state)
    >>> removed = state["removed"]  # tau - 1 directions vary, 1 is kept
    >>> torch.allclose(removed @ removed.T, torch.eye(2), atol=1e-5)
    True
    """

    #: decides which directions
    seed: int = 0

    def init(self, theta: Tensor) -> State:
        """The state of a run that begins at theta (k, d): nothing seen, nothing removed, window 0."""
        return {**super().init(theta), "window": torch.zeros((), dtype=torch.int64)}

    def observe(self, theta: Tensor, state: State) -> State:
        """Note the updated token theta (k, d). At the tau-th, draw the directions to remove and empty the buffer."""
        new = super().observe(theta, state)
        if int(new["count"]) > 0:
            return new
        size, window = new["removed"].shape, int(state["window"]) + 1
        # a generator of its own, another for every seed and window, so that the state stays three tensors and a number
        chance = torch.Generator().manual_seed((self.seed * 1_000_003 + window) % 2**63)
        rows = torch.linalg.qr(torch.randn(size[::-1], generator=chance, dtype=theta.dtype)).Q.T
        return {**new, "removed": rows.contiguous().to(theta.device), "window": torch.tensor(window)}
