"""From pictures to latents: subjects with their captions, and the VAE, which encodes each picture once."""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image
from torch import Tensor

from zoti.images import load_images, shown, square

_PACKAGED = Path(__file__).parent / "_data"
_CHECKOUT = Path(__file__).parent.parent / "data"
#: Where tiny-sd, the subjects and the styles live: inside the installed package, or beside it in a checkout
DATA = _PACKAGED if _PACKAGED.exists() else _CHECKOUT
#: a StableDiffusionPipeline or StableDiffusionXLPipeline; to a type checker Any, for its parts are added at run time
Pipeline = Any


@dataclass(frozen=True)
class Subject:
    """What a word is learned for: a thing or a style, with reference pictures to learn it from.

    Where more pictures of it exist, they are the truth that a learned word is judged by. A subject of your own needs
    none:

    >>> photo = Image.new("RGB", (64, 64), "teal")
    >>> mug = Subject("my-mug", "mug", [photo], ["a {} on a table"], [], [])
    >>> mug.captions[0].format("<my-mug>")
    'a <my-mug> on a table'

    Pictures that nobody described have templates, by the kind of word:

    >>> OBJECT_TEMPLATES[0], STYLE_TEMPLATES[0]
    ('a photo of a {}', 'a picture in the style of {}')
    """

    #: what its folder is called
    name: str
    #: the kind of thing it is, in a word that the model knows
    class_word: str
    #: the pictures that the word is learned from
    references: list[Image.Image]
    #: one for each reference, with {} where the word belongs: "a {} in the snow"
    captions: list[str]
    #: pictures of the same subject in settings that no reference shows
    truth: list[Image.Image]
    #: one for each picture of the truth, with {} too
    truth_captions: list[str]


def load_subject(name: str, kind: str = "subjects") -> Subject:
    """A subject by name, from data/subjects (kind='subjects') or data/styles (kind='styles').

    Raises ValueError for an unknown name, and lists those there are.

    >>> cat = load_subject("cat")
    >>> len(cat.references), len(cat.captions), len(cat.truth)
    (5, 5, 24)
    >>> sorted(path.name for path in DATA.iterdir() if path.name in ("subjects", "styles"))
    ['styles', 'subjects']
    >>> load_subject("monet", "styles")
    Traceback (most recent call last):
    ValueError: no style 'monet'; there are emojione, openmoji
    """
    folder = DATA / kind / name
    if not (folder / "subject.json").exists():
        known = sorted(p.parent.name for p in (DATA / kind).glob("*/subject.json"))
        raise ValueError(f"no {kind.rstrip('s')} {name!r}; there are {', '.join(known)}")
    facts = json.loads((folder / "subject.json").read_text())
    truth = load_images(folder / "truth") if facts["truth_captions"] else []
    return Subject(
        name, facts["class_word"], load_images(folder / "references"), facts["captions"], truth, facts["truth_captions"]
    )


#: Captions for pictures of a thing that nobody has described. Textual inversion (Gal et al. 2023) has some thirty for
#: things and as many for styles; these few use only words that tiny-sd knows too. Each picture needs one:
#: `OBJECT_TEMPLATES[: len(images)]`. A caption that describes everything but the subject, as `Subject.captions` do,
#: teaches a cleaner word.
OBJECT_TEMPLATES = ["a photo of a {}", "a rendering of a {}", "an illustration of a {}", "a picture of a {}", "a {}"]
#: The same for pictures of a style.
STYLE_TEMPLATES = [
    "a picture in the style of {}",
    "a rendering in the style of {}",
    "an illustration in the style of {}",
    "a drawing in the style of {}",
    "a photo in the style of {}",
]


@dataclass(frozen=True)
class Latents:
    """The latents of n pictures. The VAE gives each as a normal distribution, so here are means and deviations.

    mean, std: (n, c, h, w), already scaled for the U-Net.

    >>> latents = Latents(torch.zeros(5, 4, 8, 8), torch.ones(5, 4, 8, 8))
    >>> chance = torch.Generator().manual_seed(0)
    >>> len(latents), latents.sample(torch.tensor([0, 0, 3]), chance).shape
    (5, torch.Size([3, 4, 8, 8]))
    """

    mean: Tensor
    std: Tensor

    def __len__(self) -> int:
        return len(self.mean)

    def sample(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """Draw a latent for each of the pictures with these numbers, index (b,): (b, c, h, w)."""
        mean, std = self.mean[index], self.std[index]
        return mean + std * torch.randn(mean.shape, generator=generator, dtype=mean.dtype).to(mean)


@torch.inference_mode()
def _encode(pipe: Pipeline, pixels: Tensor) -> tuple[Tensor, Tensor]:
    posterior = pipe.vae.encode(pixels.to(pipe.vae.device, pipe.vae.dtype)).latent_dist
    return posterior.mean.float(), posterior.std.float()


def cache_latents(pipe: Pipeline, images: list[Image.Image], crop: str = "centre") -> Latents:
    """Encode every picture once, as a square of the model's size. After this, training needs no VAE.

    (The authors' script encodes at every step: 30,000 encodings of five pictures.)

    Pictures are taken as `shown` and cut as `square` says, at the 'centre', at the 'top', or not at all ('pad'); where
    a fifth of one or more is lost, a warning tells.

    Raises ValueError for no images, what is none, or another `crop`.

    >>> from zoti import load_pipeline
    >>> latents = cache_latents(load_pipeline(), load_subject("cat").references)
    >>> latents.mean.shape
    torch.Size([5, 32, 8, 8])
    """
    if isinstance(images, (list, tuple)) and not images:
        raise ValueError("no images to encode; load_images(folder) reads them from a folder")
    size = pipe.unet.config.sample_size * pipe.vae_scale_factor
    upright = shown(images)
    pixels = pipe.image_processor.preprocess([square(image, size, crop) for image in upright])  # (n, 3, size, size)
    lost = [1 - min(image.size) / max(image.size) for image in upright if crop != "pad"]
    if max(lost, default=0) >= 0.2:
        warnings.warn(
            f"the model sees squares: cut away are {max(lost):.0%} of one picture, and a fifth or more of "
            f"{sum(share >= 0.2 for share in lost)} of {len(images)}. crop='centre', 'top' or 'pad' says where; "
            "square(image, 256, crop) shows it",
            stacklevel=2,
        )
    # SDXL's VAE overflows in half precision; diffusers widens it while it decodes, and so do we while it encodes
    xl = isinstance(pipe, StableDiffusionXLPipeline)
    widen = xl and pipe.vae.config.force_upcast and pipe.vae.dtype == torch.float16
    try:
        if widen:
            pipe.vae.to(torch.float32)
        pairs = [_encode(pipe, one[None]) for one in pixels]  # one by one: the peak does not grow with the number
    finally:
        if widen:
            pipe.vae.to(torch.float16)
    mean, std = (torch.cat(part).clone() for part in zip(*pairs, strict=True))
    shift = pipe.vae.config.shift_factor or 0.0
    scale = pipe.vae.config.scaling_factor
    return Latents((mean - shift) * scale, std * scale)
