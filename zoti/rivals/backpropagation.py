"""Textual inversion by backpropagation: the exact gradient that zeroth-order descent only estimates."""

import time
from collections.abc import Iterator

import torch
from torch import nn

from zoti.invert import Step
from zoti.objective import DenoisingLoss
from zoti.rivals.recompute import recomputing


def textual_inversion(
    objective: DenoisingLoss, steps: int = 300, lr: float = 5e-3, seed: int = 0, checkpointing: bool = False
) -> Iterator[Step]:
    """Adam on the exact gradient of the same objective (Gal et al. 2023); yields the same Steps as `invert`.

    Counts one evaluation a step; its backward pass costs about two more, which are not counted. Works on weights of
    every kind.

    With `checkpointing` the U-Net keeps activations only at the boundaries of its blocks and computes the rest a second
    time: the same gradient in less memory, for about one more pass, which is not counted either. Between steps the
    U-Net is as it was.

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
