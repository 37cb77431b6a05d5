"""DreamBooth: train the whole U-Net, where textual inversion trains one word."""

import time
from collections.abc import Iterator
from typing import Any

import torch

from zoti.invert import Step
from zoti.model.quantize import footprint
from zoti.objective import DenoisingLoss


def dreambooth(
    objective: DenoisingLoss, prior: DenoisingLoss | None = None, steps: int = 200, lr: float = 2e-5, seed: int = 0
) -> Iterator[Step]:
    """Train the whole U-Net to paint a subject at a rare word (DreamBooth, Ruiz et al. 2023), by AdamW with batch 1.

    **This changes `objective.pipe.unet`, which is the result.** Text encoder and VAE are frozen, and the theta (k, d)
    of every Step is the word as it was. For the method as published let the word start as something rare and stand
    before its class: `ConceptToken(pipe, "<new>", "sks")` and captions like "a {} teapot in the snow".

    prior: an objective on pictures of the class and the class's name, whose loss is added with weight 1. This is the
    method's prior preservation; it counts as one more evaluation a step. lr: the default suits tiny-sd's loss, five
    times as much the looks of its pictures; for SD1.5 the paper has 5e-6.

    Raises ValueError at the first step where the U-Net's weights have fewer than 32 bits, or where the prior asks
    another pipeline.

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
