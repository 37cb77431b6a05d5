"""The rivals, in the same frame: one objective, one Step, passes counted alike. Only the way to an answer differs.

`textual_inversion` and `dreambooth` go backwards through the model, `gf_ti` and `forward_gradient` only forwards.
"""

import time
from collections.abc import Iterator
from typing import Any

import cma
import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from zoti.directions import average, random_directions
from zoti.estimators import Estimate, LossFn, _ask
from zoti.invert import Step
from zoti.objective import DenoisingLoss
from zoti.quantize import footprint
from zoti.recompute import recomputing

Array = np.ndarray[Any, np.dtype[np.float64]]


def textual_inversion(
    objective: DenoisingLoss, steps: int = 300, lr: float = 5e-3, seed: int = 0, checkpointing: bool = False
) -> Iterator[Step]:
    """Adam on the exact gradient of the same objective (Gal et al. 2023); yields the same Steps as `invert`.

    Counts one evaluation a step; its backward pass costs about two more. With `checkpointing` the U-Net keeps
    activations only where its layers meet and computes the rest a second time: about one pass more, which is not
    counted, for the same gradient in less memory. Between steps the U-Net is as it was. Works on weights of every kind.

    >>> from zoti import ConceptToken, PartialUniform, cache_latents, load_pipeline
    >>> from zoti.data import load_subject
    >>> pipe, teapot = load_pipeline(), load_subject("teapot")
    >>> token, times = ConceptToken(pipe, "<x>", "teapot"), PartialUniform(500, 900)
    >>> latents = cache_latents(pipe, teapot.references)
    >>> objective = DenoisingLoss(pipe, token, latents, teapot.captions, times)
    >>> [step.evaluations for step in textual_inversion(objective, steps=3)]
    [1, 2, 3]
    """
    generator = torch.Generator().manual_seed(seed)
    theta = objective.token.initial.clone().requires_grad_()
    adam = torch.optim.Adam([theta], lr=lr)
    began = time.perf_counter()
    for index in range(1, steps + 1):
        draw = objective.draw(generator)
        with recomputing(objective.pipe.unet if checkpointing else nn.Identity()):
            loss = objective(theta[None], draw)[0]
            (theta.grad,) = torch.autograd.grad(loss, theta)
        adam.step()
        yield Step(index, theta.detach().clone(), loss.item(), 0.0, index, time.perf_counter() - began)


def dreambooth(
    objective: DenoisingLoss, prior: DenoisingLoss | None = None, steps: int = 200, lr: float = 2e-5, seed: int = 0
) -> Iterator[Step]:
    """Train the whole U-Net to see its subject behind a rare word (DreamBooth, Ruiz et al. 2023), AdamW, batch 1.

    **This changes `objective.pipe.unet`, which is the result**: text encoder and VAE are frozen, and the theta (k, d)
    of every Step is the word as it was. For the method as published let the word start as something rare and stand
    before its class, `ConceptToken(pipe, "<new>", "sks")` and captions "a {} teapot in the snow". `prior`, an
    objective on the class's own pictures and name, is added with weight 1: their prior preservation, counted as one
    more evaluation a step. lr suits tiny-sd's loss, five times that its looks; the paper's for SD1.5 is 5e-6.

    Raises ValueError at the first step where the U-Net's weights are below 32 bits, or are not those the prior asks.

    >>> from zoti import ConceptToken, PartialUniform, cache_latents, load_pipeline
    >>> from zoti.data import load_subject
    >>> pipe, teapot = load_pipeline(weights="none"), load_subject("teapot")
    >>> token, times = ConceptToken(pipe, "<x>", "sks"), PartialUniform(500, 900)
    >>> latents = cache_latents(pipe, teapot.references)
    >>> objective = DenoisingLoss(pipe, token, latents, ["a {} teapot"], times)
    >>> layer = pipe.unet.conv_in
    >>> before, step = layer.weight.clone(), next(dreambooth(objective))
    >>> torch.equal(step.theta, token.initial), torch.equal(layer.weight, before)
    (True, False)
    """
    pipe: Any = objective.pipe
    unet, theta = pipe.unet, objective.token.initial
    terms = [objective] if prior is None else [objective, prior]
    if terms[-1].pipe is not pipe:
        raise ValueError("the prior asks another pipeline's U-Net, so this one would learn nothing from it; share one")
    rounded = footprint(unet).keys() - {"float32", "float64", "total"}
    if rounded:
        raise ValueError(
            f"DreamBooth trains the U-Net's own weights and needs 32 bits for them, these are {', '.join(rounded)}; "
            "take load_pipeline(..., weights='none'), and pipe.to(torch.float32) where it came as float16"
        )
    generator = torch.Generator().manual_seed(seed)
    frozen = [p for p in unet.parameters() if not p.requires_grad]
    unet.requires_grad_(True)
    try:
        adam = torch.optim.AdamW(unet.parameters(), lr=lr)
        began = time.perf_counter()
        for index in range(1, steps + 1):
            losses = torch.stack([term(term.token.initial[None], term.draw(generator))[0] for term in terms])
            losses.sum().backward(inputs=list(unet.parameters()))
            adam.step()
            adam.zero_grad()
            yield Step(index, theta.clone(), losses[0].item(), 0.0, index * len(terms), time.perf_counter() - began)
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


def gf_ti(
    objective: DenoisingLoss,
    steps: int = 100,
    population: int = 30,
    dimensions: int = 64,
    sigma: float = 0.05,
    seed: int = 0,
) -> Iterator[Step]:
    """CMA-ES in a random subspace: gradient-free textual inversion (Fei et al. 2023, arXiv 2304.05818).

    theta = theta_0 + A z with A (D, dimensions) of orthonormal columns: a step in z is one of the same length in theta,
    D = k d, and sigma is the standard deviation of the first generation in each direction. Each generation (a step)
    judges its whole population on one draw, in one batch, and costs `population` evaluations; ZOODiP's Table 2
    counts 30. The Step's theta is the mean of the distribution after the update, its loss the mean over the candidates.
    The evolution is pycma's (Hansen). Not here: the original's choice of A and theta_0 from the vocabulary.

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
        draw, candidates = objective.draw(generator), evolution.ask()
        with torch.inference_mode():
            losses = objective(words(np.stack(candidates)), draw)
        if not losses.isfinite().all():
            raise FloatingPointError(f"the loss is not finite at generation {index}; try a smaller sigma")
        evolution.tell(candidates, losses.tolist())
        theta = words(evolution.result.xfavorite[None])[0]  # .mean may be in coordinates of pycma's own
        yield Step(index, theta, losses.mean().item(), 0.0, index * population, time.perf_counter() - began)


def forward_gradient(
    loss_fn: LossFn,
    theta: Tensor,
    n: int = 2,
    mu: float = 1e-3,
    *,
    generator: torch.Generator,
    directions: str = "gaussian",
) -> Estimate:
    """An estimator for `Config`: exact slopes along random directions, by forward-mode differentiation (Baydin et al.
    2022, arXiv 2202.08587).

    grad = (1/n) sum_i (g . e_i) e_i: what `rge` tends to as mu -> 0, from the same directions, without rounding. mu is
    there for the contract and not used. theta: (k, d). Costs n evaluations, each of which carries its tangent along and
    keeps nothing for later: twice the arithmetic of a forward pass, 3.6 times its seconds on tiny-sd. Attention runs by
    the full matrix meanwhile; in float16 the tangent of LayerNorm is nan where its input deviates by under 0.025: take
    bfloat16 or float32. Raises ValueError as `rge` does, and where loss_fn lets no derivative through.

    >>> two, die = torch.tensor([[2.0]]), torch.Generator()
    >>> cube = lambda c: c[:, 0, 0] ** 3  # slope 3 theta**2 = 12, e is 1 or -1
    >>> forward_gradient(cube, two, 1, generator=die, directions="rademacher").grad
    tensor([[12.]])
    """
    with torch.inference_mode(False), torch.no_grad():  # tensors of inference mode carry no tangents
        e = random_directions(theta, n, mu, generator, directions)
        with sdpa_kernel(SDPBackend.MATH), forward_ad.dual_level():
            at = theta.detach().expand_as(e).clone()
            losses, slopes = forward_ad.unpack_dual(_ask(loss_fn, forward_ad.make_dual(at, e)))
    if slopes is None:
        raise ValueError("no derivative came through loss_fn; build it of PyTorch's operations, without detach()")
    return Estimate(average(slopes, e), losses[0], slopes, n)
