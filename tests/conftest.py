"""A pipeline of Stable Diffusion's classes, random and minute, for everything that needs a shape but not a meaning."""

import copy

import hypothesis
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from zoti import load_pipeline

# a slow machine is no failing property
hypothesis.settings.register_profile("zoti", deadline=None)
hypothesis.settings.load_profile("zoti")


def random_pipeline(prediction_type: str = "epsilon") -> StableDiffusionPipeline:
    """Tiny-sd's tokenizer with random networks: token width 32, pictures of 16x16."""
    torch.manual_seed(0)
    tokenizer = load_pipeline("tiny-sd", weights="none").tokenizer
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=4,
        norm_num_groups=8,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        norm_num_groups=4,
        latent_channels=4,
        sample_size=16,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )
    schedule = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=schedule,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    for module in (pipe.unet, pipe.vae, pipe.text_encoder):
        module.requires_grad_(False).eval()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def random_xl_pipeline(eos_token_id: int | None = None) -> StableDiffusionXLPipeline:
    """SDXL's classes in the same size: two tokenizers that pad differently, token widths 32 and 48.

    eos_token_id is what the second encoder looks for when it pools (by default its tokenizer's); SDXL's config says 2.
    """
    small = random_pipeline()
    second = copy.deepcopy(small.tokenizer)
    second.pad_token = "a</w>"  # SDXL's second pads with another token too
    text = small.text_encoder.config.to_dict() | {"hidden_size": 48, "num_attention_heads": 3, "projection_dim": 24}
    text["eos_token_id"] = second.eos_token_id if eos_token_id is None else eos_token_id
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32 + 48,
        attention_head_dim=4,
        norm_num_groups=8,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24 + 6 * 8,
    )
    pipe = StableDiffusionXLPipeline(
        vae=small.vae,
        text_encoder=small.text_encoder,
        text_encoder_2=CLIPTextModelWithProjection(CLIPTextConfig(**text)),
        tokenizer=small.tokenizer,
        tokenizer_2=second,
        unet=unet,
        scheduler=small.scheduler,
        add_watermarker=False,
    )
    for module in (pipe.unet, pipe.vae, pipe.text_encoder, pipe.text_encoder_2):
        module.requires_grad_(False).eval()
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def pipe() -> StableDiffusionPipeline:
    return random_pipeline()


@pytest.fixture
def xl() -> StableDiffusionXLPipeline:
    return random_xl_pipeline()
