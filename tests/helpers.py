"""What several tests share: small random pipelines, problems posed to them, and looks at what changed.

The pipelines are of Stable Diffusion's classes, random and minute, for everything that needs a shape but no meaning.
"""

import copy

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from zoti import (
    ZOSGD,
    ConceptToken,
    Config,
    DenoisingLoss,
    Guided,
    PartialUniform,
    RandomSubspace,
    SubspaceGradient,
    ZOAdam,
    cache_latents,
    load_pipeline,
    one_point,
    quantize_,
    spsa,
)
from zoti.model.find import NETWORKS

#: What `quantize_` makes of a network's weights.
KINDS = ["int8", "int4", "nf4", "llm_int8"]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=dtype)


def linear(a: torch.Tensor):
    """A loss (b, k, d) -> (b,) whose gradient is a (k, d)."""
    return lambda theta: torch.einsum("bkd,kd->b", theta, a)


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


def speaking_pipeline() -> StableDiffusionPipeline:
    """One encoder, and a U-Net that adds what it reads to the time embedding too."""
    pipe = random_pipeline()
    torch.manual_seed(0)
    config = {**pipe.unet.config, "addition_embed_type": "text", "addition_embed_type_num_heads": 4}
    pipe.unet = UNet2DConditionModel.from_config(config).requires_grad_(False).eval()
    return pipe


def noise_images(n: int = 3) -> list[Image.Image]:
    pixels = torch.randint(0, 256, (n, 20, 24, 3), generator=generator(), dtype=torch.uint8).numpy()
    return [Image.fromarray(p) for p in pixels]


def problem(pipe, vectors: int = 1, **options) -> DenoisingLoss:
    """The word <new> to be learned from pictures of noise."""
    token = ConceptToken(pipe, "<new>", "teapot", vectors)
    return DenoisingLoss(
        pipe, token, cache_latents(pipe, noise_images()), ["a {} at night"], PartialUniform(300, 900), **options
    )


def quantized(pipe, weights: str):
    """The pipeline, its U-Net and text encoder quantized in place (or as they are, for 'none')."""
    if weights != "none":
        for module in (pipe.unet, pipe.text_encoder):
            quantize_(module, weights)
    return pipe


#: A run of every estimator, kind of direction, optimizer and subspace.
VARIANTS = [
    Config(estimator=one_point, directions="rademacher", optimizer=ZOSGD(1e-3)),
    Config(estimator=spsa, directions="orthogonal", optimizer=ZOAdam.authors()),
    Config(estimator=Guided(memory=4), subspace=RandomSubspace(tau=4, keep=2)),
    Config(subspace=SubspaceGradient(tau=4, keep=2, standardise=False)),
    Config(subspace=SubspaceGradient(tau=4, keep=2), optimizer=ZOAdam.authors()),
    Config(batch=3, subspace=SubspaceGradient(tau=4, nu=0.1)),
]


def pairs(pipe) -> list:
    """Every tokenizer with its encoder."""
    found = [(pipe.tokenizer, pipe.text_encoder)]
    return [*found, (pipe.tokenizer_2, pipe.text_encoder_2)] if hasattr(pipe, "text_encoder_2") else found


def twin(pipe):
    """Another pipeline with the same weights and no word added."""
    return random_xl_pipeline() if hasattr(pipe, "text_encoder_2") else random_pipeline()


def width(pipe) -> int:
    """d, the length of a word's vectors."""
    return sum(encoder.config.hidden_size for _, encoder in pairs(pipe))


def contents(pipe) -> list:
    """Everything that adding a word changes."""
    return [
        (dict(t.get_vocab()), len(t), e.config.vocab_size, e.get_input_embeddings().weight.clone())
        for t, e in pairs(pipe)
    ]


def same(before: list, after: list) -> bool:
    """Of two `contents`."""
    return all(a[:3] == b[:3] and torch.equal(a[3], b[3]) for a, b in zip(before, after, strict=True))


def stock_states(pipe, prompt: str) -> tuple:
    """What the pipeline itself would tell its U-Net: text states (L, width) and, from SDXL, pooled (projection,)."""
    if hasattr(pipe, "text_encoder_2"):
        states, _, pooled, _ = pipe.encode_prompt(prompt, device="cpu", do_classifier_free_guidance=False)
        return states[0], pooled[0]
    return pipe.encode_prompt(prompt, "cpu", 1, False)[0][0], None


def all_equal(a, b) -> bool:
    """Whether two lists hold the same tensors, bit by bit."""
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def tensors_of(pipe) -> dict[str, torch.Tensor]:
    """All that a pipeline's networks hold, by name."""
    networks = {name: getattr(pipe, name, None) for name in NETWORKS}
    return {f"{n}.{k}": t for n, net in networks.items() if net is not None for k, t in net.state_dict().items()}


def alike(ours, theirs) -> bool:
    """Whether two pipelines hold the same bits, under the same names, in the same dtypes."""
    ours, theirs = tensors_of(ours), tensors_of(theirs)
    return ours.keys() == theirs.keys() and all(
        ours[key].dtype == theirs[key].dtype and torch.equal(ours[key], theirs[key]) for key in theirs
    )


def painted(pipe) -> np.ndarray:
    """One step's picture, the same for the same weights."""
    chance = torch.Generator().manual_seed(0)
    return pipe("a teapot", num_inference_steps=1, generator=chance, output_type="np").images
