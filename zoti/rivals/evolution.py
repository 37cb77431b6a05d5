"""Gradient-free textual inversion: an evolution strategy in a random subspace, forward passes only."""

import time
from collections.abc import Iterator
from typing import Any

import cma
import numpy as np
import torch
from torch import Tensor

from zoti.invert import Step
from zoti.objective import DenoisingLoss

Array = np.ndarray[Any, np.dtype[np.float64]]


def gf_ti(
    objective: DenoisingLoss,
    steps: int = 100,
    population: int = 30,
    dimensions: int = 64,
    sigma: float = 0.05,
    seed: int = 0,
) -> Iterator[Step]:
    """CMA-ES in a random subspace: gradient-free textual inversion (Fei et al. 2023, arXiv 2304.05818).

    What evolves is z in theta = theta_0 + A z. A (D, dimensions), D = k d, has random orthonormal columns, so a step in
    z has the same length in theta; sigma is the standard deviation of the first generation in each direction. The
    evolution is pycma's (Hansen).

    A step is one generation. Its whole population is judged on one draw, in one batch, and costs `population`
    evaluations; ZOODiP's Table 2 counts 30. The Step's theta is the mean of the distribution after the update, its loss
    the mean over the candidates. Left out is the original's choice of A and theta_0 from the vocabulary.

    Raises ValueError at the first step for population < 2, dimensions outside [1, D] or a sigma that is not positive
    and finite, FloatingPointError for a loss that is no longer finite.

    >>> from zoti import ConceptToken, PartialUniform, cache_latents, load_pipeline
    >>> from zoti.data import load_subject
    >>> pipe, teapot = load_pipeline(), load_subject("teapot")
    >>> token, times = ConceptToken(pipe, "<x>", "teapot"), PartialUniform(500, 900)
    >>> latents = cache_latents(pipe, teapot.references)
    >>> objective = DenoisingLoss(pipe, token, latents, teapot.captions, times)
    >>> [step.evaluations for step in gf_ti(objective, steps=2, population=6)]
    [6, 12]
    """
    start: Tensor = objective.token.initial.double()
    if population < 2 or not 1 <= dimensions <= start.numel() or not 0 < sigma < np.inf:
        raise ValueError(
            f"population = {population}, dimensions = {dimensions}, sigma = {sigma}: selection needs population >= 2, "
            f"a subspace of this word has between 1 and {start.numel()} dimensions, sigma is positive and finite"
        )
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Array:
        return torch.randn(shape, generator=generator, dtype=torch.float64).numpy()

    basis = np.linalg.qr(normal(start.numel(), dimensions)).Q

    def words(z: Array) -> Tensor:
        """Points of the subspace (b, dimensions) as tokens (b, k, d)."""
        return (start + torch.from_numpy(z @ basis.T).view(-1, *start.shape)).float()

    # a seed of nan leaves numpy's global one alone: all chance comes from randn
    options = {"popsize": population, "randn": normal, "seed": np.nan, "verbose": -9}
    evolution = cma.CMAEvolutionStrategy(np.zeros(dimensions), sigma, options)
    began = time.perf_counter()
    for index in range(1, steps + 1):
        draw = objective.draw(generator)
        candidates = evolution.ask()
        with torch.inference_mode():
            losses = objective(words(np.stack(candidates)), draw)
        if not losses.isfinite().all():
            raise FloatingPointError(f"the loss is not finite at generation {index}; try a smaller sigma")
        evolution.tell(candidates, losses.tolist())
        theta = words(evolution.result.xfavorite[None])[0]  # .mean may be in coordinates of pycma's own
        yield Step(index, theta, losses.mean().item(), 0.0, index * population, time.perf_counter() - began)
