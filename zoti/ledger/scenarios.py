"""What each way of personalising a model asks of memory: its training step, run under a `Ledger`.

Every function builds the model on the meta device (`architecture`), does the step and returns the ledger. Its phases
are 'vae encode', 'forward', 'backward' and 'step', as far as the method has them. The batch is 1, the resolution the
model's own, and all networks are on the device unless said otherwise. Errors are those of `architecture`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from zoti.descent import curvature
from zoti.descent.curvature import GaussNewton
from zoti.descent.estimators import rge
from zoti.descent.optim import ZOAdam
from zoti.descent.sensitivity import SensitiveDirections
from zoti.ledger.architectures import Architecture, architecture
from zoti.ledger.memory import Ledger


def zeroth_order(
    name: str = "sd1.5",
    weights: str = "int8",
    cached: bool = True,
    max_batch: int = 1,
    table: bool = True,
    dtype: str = "float16",
) -> Ledger:
    """A word learned by forward passes only (ZOODiP): `rge` with n = 2, so three candidates, and `ZOAdam`.

    max_batch: how many candidates go through the model together. cached: the latents were encoded beforehand and the
    VAE is gone; the paper encodes in every step. table: the vectors of all words are on the device; `personalize` puts
    them aside, for a step asks a few of them. dtype: see `architecture`; in 'float32' the computer is taken to be one
    without a GPU, where convolutions copy their weights (`Ledger`).

    >>> peak = zeroth_order("tiny-sd").peak
    >>> peak.phase, peak.parts["gradients"], peak.parts["saved activations"]
    ('forward', 0, 0)
    """
    model = architecture(name, weights, dtype)
    word = _word(model)
    generator = torch.Generator().manual_seed(0)
    state = ZOAdam().init(word)
    if not table:  # what is left of it on the device: the vectors of one prompt
        for encoder in model.encoders:
            rows, whole = encoder.config.max_position_embeddings, encoder.get_input_embeddings().weight
            encoder.set_input_embeddings(nn.Embedding(rows, whole.shape[1], _weight=whole[:rows].clone()))
    with Ledger(repacks=dtype == "float32") as ledger, torch.inference_mode():
        ledger.own(*model.networks(vae=not cached))
        ledger.book("parameters", word)
        ledger.book("optimizer state", *state.values())
        z = _latent(ledger, model, cached)
        with ledger.phase("forward"):
            estimate = rge(
                lambda theta: torch.cat([model.losses(chunk[:, 0], z) for chunk in theta.split(max_batch)]),
                word,
                generator=generator,
            )
        with ledger.phase("step"):
            ZOAdam().update(estimate.grad, word, state)
    return ledger


def gauss_newton(name: str = "sd1.5", weights: str = "int8", max_batch: int = 1, directions: int = 32) -> Ledger:
    """A word learned by `zoti.gauss_newton` with n = 4, its latents cached, in a subspace of so many directions.

    Of five candidates all errors are kept, not their losses alone: five times the predicted noise in float32 and some
    more in float64 while they are compared. Between steps there remain the directions and what is known of them.

    >>> more = gauss_newton("tiny-sd").peak.total - zeroth_order("tiny-sd").peak.total
    >>> more < 0.02 * zeroth_order("tiny-sd").peak.total
    True
    """
    model = architecture(name, weights)
    word = _word(model)
    rows = torch.empty(directions, *word.shape, device="meta")
    state = GaussNewton(SensitiveDirections(rows, word[0], 1.0, 0)).init(word)
    known: dict[str, Any] = {**state, "spread": 0.3}
    with Ledger() as ledger, torch.inference_mode():
        ledger.own(*model.networks(vae=False))
        ledger.book("parameters", word)
        ledger.book("optimizer state", *state.values())
        z = model.latent()
        with ledger.phase("forward"):
            curvature.gauss_newton(
                lambda theta: torch.cat([model.residuals(chunk[:, 0], z) for chunk in theta.split(max_batch)]),
                word,
                generator=torch.Generator().manual_seed(0),
                **known,
            )
    return ledger


def textual_inversion(
    name: str = "sd1.5",
    weights: str = "int8",
    cached: bool = False,
    checkpointing: bool = False,
    whole_table: bool = False,
) -> Ledger:
    """A word learned by backpropagation through frozen networks: textual inversion (Gal et al. 2023).

    cached: as in `zeroth_order`. checkpointing: the U-Net keeps activations at the boundaries of its blocks and
    computes the rest twice. whole_table: the vectors of all words have a gradient and Adam's state, as in common
    scripts, which after each step put all words but one back.

    >>> parts = textual_inversion("tiny-sd", cached=True).peak.parts
    >>> parts["saved activations"] > 100 * parts["gradients"]
    True
    """
    model = architecture(name, weights)
    word = _word(model)
    trained = [e.get_input_embeddings().weight for e in model.encoders] if whole_table else [word]
    if checkpointing:
        model.unet.train().enable_gradient_checkpointing()
    return _backpropagation(model, trained, word, cached)


def lora(name: str = "sd1.5", weights: str = "int8", rank: int = 2) -> Ledger:
    """Fine-tuning by low-rank additions to the U-Net's attention, its own weights frozen (LoRA, Hu et al. 2022).

    With INT8 weights, the default, this is QLoRA on eight bits.

    >>> lora("tiny-sd").peaks["step"].parts["gradients"]  # the U-Net's own: 15 MB
    66304
    """
    model = architecture(name, weights)
    return _backpropagation(model, _add_low_rank(model.unet, rank), _word(model))


def dreambooth(name: str = "sd1.5", weights: str = "float32") -> Ledger:
    """Fine-tuning of the whole U-Net, all else frozen (DreamBooth, Ruiz et al. 2023); no prior preservation.

    Raises ValueError for quantized weights, which are no parameters: only norms would be trained.

    >>> parts = dreambooth("tiny-sd").peaks["step"].parts
    >>> round(parts["optimizer state"] / parts["gradients"], 3)  # Adam's two moments
    2.0
    """
    if not weights.startswith("float"):
        raise ValueError(f"DreamBooth trains every weight, {weights} has no gradient; choose from float16, float32")
    model = architecture(name, weights)
    return _backpropagation(model, list(model.unet.parameters()), _word(model))


def _backpropagation(model: Architecture, trained: Sequence[Tensor], word: Tensor, cached: bool = False) -> Ledger:
    """Two training steps with AdamW, the second of them with the optimizer's state in place.

    AdamW runs as PyTorch runs it on a GPU by default, with `foreach`: a step makes a list of temporaries as large as
    all that is trained.
    """
    adam = torch.optim.AdamW([p.requires_grad_() for p in trained], foreach=True)
    with Ledger() as ledger:
        ledger.own(*model.networks(vae=not cached))
        ledger.book("parameters", word)
        for _ in range(2):
            z = _latent(ledger, model, cached)
            with ledger.phase("forward"):
                loss = model.losses(word, z).mean()
            with ledger.phase("backward"):
                loss.backward()
            with ledger.phase("step"):
                adam.step()
                adam.zero_grad()
    return ledger


def _word(model: Architecture) -> Tensor:
    """The word that is learned: one vector (1, d) in fp32, like every master copy."""
    return torch.empty(1, model.width, device="meta")


def _latent(ledger: Ledger, model: Architecture, cached: bool) -> Tensor:
    """The step's latent (1, c, h / 8, w / 8), encoded now unless it is cached."""
    if cached:
        return model.latent()
    with ledger.phase("vae encode"):
        return model.encode(model.picture())


class _LowRank(nn.Module):
    """x -> layer(x) + up(down(x)): (..., in) -> (..., out), the layer frozen."""

    def __init__(self, layer: Any, rank: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.layer = layer
        self.down = nn.Linear(layer.in_features, rank, bias=False, device="meta", dtype=dtype)
        self.up = nn.Linear(rank, layer.out_features, bias=False, device="meta", dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x) + self.up(self.down(x))
        return y


def _add_low_rank(unet: UNet2DConditionModel, rank: int) -> list[Tensor]:
    """Put a `_LowRank` around queries, keys, values and outputs of every attention; returns what is to be trained."""
    added, dtype = [], unet.dtype
    for attention in [m for m in unet.modules() if hasattr(m, "to_q")]:
        for parent, name in ((attention, "to_q"), (attention, "to_k"), (attention, "to_v"), (attention.to_out, "0")):
            wrapped = _LowRank(getattr(parent, name), rank, dtype)
            setattr(parent, name, wrapped)
            added += [wrapped.down.weight, wrapped.up.weight]
    return added
