"""Gradient checkpointing: activations are kept only at the boundaries of blocks, the rest is computed a second time."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def recomputing(unet: Any) -> Iterator[None]:
    """A context with gradient checkpointing in every block of a diffusers model that offers it; undone at its end.

    >>> from zoti import load_pipeline
    >>> unet = load_pipeline().unet
    >>> with recomputing(unet):
    ...     unet.mid_block.gradient_checkpointing
    True
    >>> unet.mid_block.gradient_checkpointing, unet.mid_block.training
    (False, False)
    """
    blocks = [m for m in unet.modules() if hasattr(m, "gradient_checkpointing")]
    before = [(m.training, m.gradient_checkpointing) for m in blocks]
    if blocks:
        unet.enable_gradient_checkpointing()
    for block in blocks:
        block.training = True  # diffusers before 0.32 asks for it; the block alone, so that no dropout wakes up
    try:
        yield
    finally:
        for block, (training, kept) in zip(blocks, before, strict=True):
            block.training, block.gradient_checkpointing = training, kept
