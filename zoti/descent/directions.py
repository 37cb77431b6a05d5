"""Random directions to try a word in, and the gradient that slopes along them make: the parts all estimators share.

Directions e come in three kinds, all with E[e e^T] = I, so that every kind makes the same estimate on average:

- `gaussian`: N(0, I);
- `rademacher`: a fair sign in every coordinate;
- `orthogonal`: at right angles to each other and of length sqrt(D), a random frame. n = D of them give the whole
  gradient of a linear loss.
"""

import math
from typing import Any

import torch
from torch import Tensor


def random_directions(
    theta: Tensor, n: int, mu: float, generator: torch.Generator, kind: str = "gaussian", spare: int = 0
) -> Tensor:
    """Random directions for a word theta (k, d): (n + spare, k, d) of them, on theta's device.

    n are those an estimate averages over, spare what an estimator needs beside them. They are drawn on the generator's
    device, so that a seed means the same everywhere. mu, the step that will be taken along them, is only checked.

    Raises ValueError for n < 1, a mu that is not positive and finite, a theta that is not (k, d) of floats, an unknown
    kind, and more orthogonal directions than dimensions.

    >>> theta, chance = torch.zeros(2, 3), torch.Generator()
    >>> e = random_directions(theta, 6, 1e-3, chance, "orthogonal")
    >>> e.shape
    torch.Size([6, 2, 3])
    >>> torch.allclose(e.flatten(1) @ e.flatten(1).T, 6 * torch.eye(6), atol=1e-4)
    True
    """
    if n < 1:
        raise ValueError(f"n = {n}: an estimate needs at least one direction")
    if not 0 < mu < math.inf:
        raise ValueError(f"mu = {mu}: the step of a finite difference must be positive and finite")
    if theta.ndim != 2 or theta.numel() == 0 or not theta.is_floating_point():
        raise ValueError(
            f"theta has shape {tuple(theta.shape)} of {theta.dtype}; a word is (k, d) floats, k and d >= 1"
        )
    shape = (n + spare, *theta.shape)
    like: dict[str, Any] = {"generator": generator, "device": generator.device, "dtype": theta.dtype}
    if kind == "gaussian":
        drawn = torch.randn(shape, **like)
    elif kind == "rademacher":
        drawn = 2 * torch.randint(0, 2, shape, **like) - 1
    elif kind == "orthogonal":
        if shape[0] > theta.numel():
            raise ValueError(
                f"{shape[0]} orthogonal directions do not fit into {theta.numel()} dimensions; take n less"
            )
        q, r = torch.linalg.qr(torch.randn((theta.numel(), shape[0]), **like))
        # QR chooses signs by its own rule; with those of r given back, every frame is equally likely
        frame = theta.numel() ** 0.5 * q * r.diagonal().sign()  # (D, n + spare)
        drawn = frame.T.reshape(shape)
    else:
        raise ValueError(f"directions={kind!r} is unknown; there are 'gaussian', 'rademacher' and 'orthogonal'")
    return drawn.to(theta.device)


def average(slopes: Tensor, e: Tensor) -> Tensor:
    """The gradient (k, d) that slopes (n,) along directions e (n, k, d) add up to: (1/n) sum_i slopes_i e_i.

    >>> average(torch.tensor([2.0, 4.0]), torch.eye(2).unsqueeze(1))
    tensor([[1., 2.]])
    """
    return torch.einsum("n,nkd->kd", slopes.to(e), e) / len(slopes)
