"""The devices of training by which words learn to say a very drawing. Nothing of them is in the exported pipeline.

A *told word* is one vector: the embedding of a noun plus an offset that is a code of the drawing, namely its principal
components as it stands upright on white. Half of all captions name their thing by a told word, so the space of words
becomes a space of drawings, and a word that is learned later finds its place in it. One vector reaches the U-Net
through cross-attention, which has no place in it; therefore the text encoder's padding, positions 16 to 31, must hold
a *sketch* of the drawing (a linear head, a patch of 8 x 8 pixels a position), from which attention can look where.
"""

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

SIDE = 32
CODE = 160  # principal components
WIDTH = 256  # of a token: the d of the whole book
LONGEST = 3.0  # a told word should be; a noun is about 0.6 long, and left alone told words grow to sixty


def upright(drawing: np.ndarray) -> np.ndarray:
    """A drawing (p, p, 4), straight alpha -> (32, 32, 3) uint8, on white."""
    small = Image.fromarray(drawing, "RGBA").convert("RGBa").resize((SIDE, SIDE), Image.Resampling.BOX)
    pixels = np.asarray(small).astype(np.int16)
    return (pixels[..., :3] + 255 - pixels[..., 3:]).clip(0, 255).astype(np.uint8)


def principal_components(
    uprights: Tensor, known: Tensor | None = None, mean: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Mean (3072,) and components (3072, CODE) of drawings (n, 32, 32, 3) uint8, as variance to the power -1/4.

    So a component of much variance still says more than one of little, but not so much more that the small ones, which
    hold the shape, go unheard. `known` components (3072, m) stay as they are, and the rest is taken of what they leave.
    """
    x = uprights.float().flatten(1) / 127.5 - 1
    mean = x.mean(0) if mean is None else mean
    x = x - mean
    count = CODE
    if known is not None:
        directions = torch.linalg.qr(known).Q
        x, count = x - x @ directions @ directions.T, CODE - known.shape[1]
    _, _, basis = torch.svd_lowrank(x, q=count + 40, niter=5)
    basis = basis[:, :count]
    codes = x @ basis
    basis = basis * codes.var(0).pow(-0.25)
    if known is not None:  # in the measure of those that are known
        level = ((uprights.float().flatten(1) / 127.5 - 1 - mean) @ known).square().mean(0)
        return mean, torch.cat([known, basis * (level[-8:].mean() / (x @ basis).square().mean(0)[:8].mean()).sqrt()], 1)
    return mean, basis / (x @ basis).square().mean().sqrt()


class Teller(nn.Module):
    """Told words and sketches, as trained modules."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(3 * SIDE**2))
        self.register_buffer("components", torch.zeros(3 * SIDE**2, CODE))
        self.basis = nn.Linear(CODE, WIDTH, bias=False)
        self.sketch = nn.Linear(WIDTH, 192)
        nn.init.orthogonal_(self.basis.weight)

    def code(self, uprights: Tensor) -> Tensor:
        """(b, 32, 32, 3) uint8 -> (b, CODE)."""
        return (uprights.float().flatten(1) / 127.5 - 1 - self.mean) @ self.components

    def offset(self, code: Tensor) -> Tensor:
        """(b, CODE) -> what is added to the noun's embedding, (b, WIDTH)."""
        return self.basis(code)

    def drawn(self, states: Tensor) -> Tensor:
        """The sketch in the text encoder's padding: states (b, 32, WIDTH) -> patches (b, 16, 192)."""
        return self.sketch(states[:, 16:32])


def patches(uprights: Tensor) -> Tensor:
    """(b, 32, 32, 3) uint8 -> its 16 patches of 8 x 8 pixels, (b, 16, 192) in [-1, 1]."""
    return uprights.view(-1, 4, 8, 4, 8, 3).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, 192).float() / 127.5 - 1
