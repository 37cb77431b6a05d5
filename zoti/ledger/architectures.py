"""The networks of Stable Diffusion without their weights, built on the meta device from the published configs.

Everything about memory can be asked of them, nothing about pictures.
"""

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from zoti.model.load import PRESETS
from zoti.model.published import CONFIGS, Published
from zoti.model.quantize import quantize_


@dataclass(frozen=True)
class Architecture:
    """The frozen networks of a model on the meta device, and the two ways that data takes through them.

    One leads from a picture to its latent, the other from b candidates for a word to their losses on one latent.

    >>> model = architecture("tiny-sd")
    >>> z = model.encode(model.picture())
    >>> model.losses(torch.empty(3, model.width, device="meta"), z)
    tensor(..., device='meta', size=(3,))
    """

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    encoders: tuple[CLIPTextModel, ...]

    def networks(self, vae: bool = True) -> tuple[Any, ...]:
        """U-Net, text encoders and VAE; vae=False leaves the VAE out, as in a run that has freed it."""
        return (self.unet, *self.encoders, *([self.vae] if vae else []))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of activations."""
        dtype: torch.dtype = self.unet.dtype
        return dtype

    @property
    def width(self) -> int:
        """The length d of a word's vector; for SDXL, of its two vectors together."""
        return sum(e.config.hidden_size for e in self.encoders)

    def picture(self) -> Tensor:
        """A picture of the model's own resolution, (1, 3, h, w)."""
        size = self.unet.config.sample_size * 2 ** (len(self.vae.config.block_out_channels) - 1)
        return torch.empty(1, 3, size, size, device="meta", dtype=self.dtype)

    def encode(self, picture: Tensor) -> Tensor:
        """The latent of a picture, (1, c, h / 8, w / 8), without gradient."""
        with torch.no_grad():
            latent: Tensor = self.vae.encode(picture).latent_dist.sample()
        return latent

    def latent(self) -> Tensor:
        """A latent (1, c, h / 8, w / 8), as if a picture had been encoded beforehand."""
        size = self.unet.config.sample_size
        return torch.empty(1, self.unet.config.in_channels, size, size, device="meta", dtype=self.dtype)

    def states(self, theta: Tensor) -> tuple[Tensor, dict[str, Tensor] | None]:
        """Text states (b, L, width) of a prompt with theta (b, d) for one of its words, and what SDXL adds to them."""
        if len(self.encoders) == 1:
            return _read(self.encoders[0], theta).last_hidden_state, None
        vectors = theta.split([e.config.hidden_size for e in self.encoders], 1)
        outputs = [_read(e, v, output_hidden_states=True) for e, v in zip(self.encoders, vectors, strict=True)]
        added = {"text_embeds": outputs[-1].text_embeds, "time_ids": theta.new_zeros(len(theta), 6)}
        return torch.cat([o.hidden_states[-2] for o in outputs], -1), added

    def losses(self, theta: Tensor, z: Tensor) -> Tensor:
        """Denoising losses (b,) of theta (b, d), as `DenoisingLoss` computes them, on latent z (1, c, h, w)."""
        return self.residuals(theta, z).square().mean(1)

    def residuals(self, theta: Tensor, z: Tensor) -> Tensor:
        """The errors (b, m) whose mean squares are the `losses`, as `DenoisingLoss` computes them."""
        states, added = self.states(theta)
        noise = torch.randn_like(z)
        t = torch.zeros(1, device="meta", dtype=torch.int64)
        z_t = torch.lerp(z, noise, 0.5).expand(len(theta), -1, -1, -1)
        predicted: Tensor = self.unet(z_t, t, states, added_cond_kwargs=added).sample
        return (predicted.float() - noise.float()).flatten(1)


def _read(encoder: CLIPTextModel, theta: Tensor, **options: bool) -> Any:
    """The encoder's output for a prompt in which theta (b, d) stands for a word, as `ConceptToken.encode` does it."""

    def substitute(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        output = output.clone()
        output[:, 1] = theta.to(output.dtype)
        return output

    ids = torch.zeros(len(theta), encoder.config.max_position_embeddings, device="meta", dtype=torch.int64)
    handle = encoder.get_input_embeddings().register_forward_hook(substitute)
    try:
        return encoder(ids, **options)
    finally:
        handle.remove()


def architecture(name: str = "sd1.5", weights: str = "int8", dtype: str = "float16") -> Architecture:
    """A model by name, on the meta device, frozen and in eval mode, as `load_pipeline` would give it.

    name: a key of `CONFIGS`, 'tiny-sd', or the folder of a pipeline. weights: 'int8', 'int4', 'nf4', 'nf4+int4'
    (see `quantize_`), which compute in `dtype`, on a GPU 'float16', on a CPU 'float32'; or 'float16', 'float32',
    which compute in themselves. Raises ValueError for another name or other weights.

    >>> list(CONFIGS)
    ['sd1.5', 'sd2.1', 'sd2.1-768', 'sdxl']
    >>> unet, encoder, vae = architecture("sd2.1", "float32").networks()
    >>> sum(p.numel() for p in unet.parameters())
    865910724
    """
    kinds = ("int8", "int4", "nf4", "nf4+int4", "float16", "float32")
    if weights not in kinds:
        raise ValueError(f"weights={weights!r} is unknown; choose from {', '.join(kinds)}")
    with torch.device("meta"):
        model = _stable_diffusion(CONFIGS[name]) if name in CONFIGS else _folder(name)
    for network in model.networks():
        computed = weights if weights.startswith("float") else dtype
        nn.Module.to(network, getattr(torch, computed)).requires_grad_(False).eval()
        if not weights.startswith("float"):
            quantize_(network, weights)
    return model


def _stable_diffusion(model: Published) -> Architecture:
    return Architecture(UNet2DConditionModel(**model.unet), AutoencoderKL(**model.vae), _encoders(model.texts))


def _encoders(texts: Iterable[CLIPTextConfig]) -> tuple[CLIPTextModel, ...]:
    kinds = (CLIPTextModel, CLIPTextModelWithProjection)  # the second of two has a projection
    # a network writes into its config, and the published ones are for all
    return tuple(kind(copy.deepcopy(config)) for kind, config in zip(kinds, texts, strict=False))


def _folder(name: str) -> Architecture:
    folder = Path(PRESETS[name].source if name in PRESETS else name)
    if not (folder / "unet" / "config.json").exists():
        raise ValueError(f"no architecture {name!r}; choose from {', '.join(CONFIGS)}, or give a pipeline's folder")
    texts = [part for part in (folder / "text_encoder", folder / "text_encoder_2") if part.exists()]
    return Architecture(
        UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder / "unet")),
        AutoencoderKL.from_config(AutoencoderKL.load_config(folder / "vae")),
        _encoders(CLIPTextConfig.from_pretrained(part) for part in texts),
    )
