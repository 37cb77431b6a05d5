"""The published models with few channels and random weights: all their blocks, and a second's work to build."""

from dataclasses import replace

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from zoti.model import CONFIGS, clip_tokenizer

#: A text encoder's smallness.
SMALL_TEXT = {"intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
#: Of the text encoders; by its 1024 a single file of Stable Diffusion 2 is known.
WIDTHS = {"sd1.5": (32,), "sd2.1": (1024,), "sd2.1-768": (1024,), "sdxl": (32, 48)}


def narrow(model: str, widths: tuple[int, ...] | None = None, **unet):
    """The published configs with fewer channels; what tells the models from each other stays.

    widths: of the text encoders. unet: what else is to be different in the U-Net.
    """
    published, texts, widths = CONFIGS[model], [], widths or WIDTHS[model]
    for i, width in enumerate(widths):
        layers = {"num_hidden_layers": 10} if i else {}  # by its tenth layer SDXL is known
        words = {"vocab_size": 300} if width == 1024 else {}
        small = {**SMALL_TEXT, "hidden_size": width, "projection_dim": width, **layers, **words}
        texts.append(CLIPTextConfig(**{**published.texts[i].to_dict(), **small}))
    unet = {
        **published.unet,
        **unet,
        "block_out_channels": (32, 64, 64, 64)[: len(published.unet.get("block_out_channels", range(4)))],
        "cross_attention_dim": sum(widths),
        "attention_head_dim": 2,
    }
    if model == "sdxl":
        unet |= {"addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 48 + 6 * 8}
    vae = {**published.vae, "block_out_channels": (32, 32, 64, 64)}
    return replace(published, unet=unet, vae=vae, texts=tuple(texts))


def pipeline(published):
    torch.manual_seed(0)
    kinds = (CLIPTextModel, CLIPTextModelWithProjection)
    parts = {}
    for suffix, kind, text, pad in zip(("", "_2"), kinds, published.texts, published.pads, strict=False):
        parts |= {f"text_encoder{suffix}": kind(text), f"tokenizer{suffix}": clip_tokenizer(pad)}
    parts |= {
        "unet": UNet2DConditionModel(**published.unet),
        "vae": AutoencoderKL(**published.vae),
        "scheduler": published.scheduler(),
    }
    if len(published.texts) == 2:
        return StableDiffusionXLPipeline(**parts)
    return StableDiffusionPipeline(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)
