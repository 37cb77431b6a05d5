"""Scores for pictures of a word: how like the subject, how obedient to the prompt, how diverse.

CLIP-I, CLIP-T, DINO and DINO_inter are as the paper counts them (Tables 1 and S9); `bootstrap` says how far a mean of
such numbers can be trusted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel, Dinov2Model
from transformers.utils import logging

from zoti.data import DATA
from zoti.images import shown


def mean_cosine(a: Tensor, b: Tensor) -> float:
    """Mean pairwise cosine of the rows of a (n, f) and b (m, f).

    >>> mean_cosine(torch.tensor([[5.0, 0.0]]), torch.eye(2))
    0.5
    """
    a = torch.nn.functional.normalize(a, dim=-1)
    b = torch.nn.functional.normalize(b, dim=-1)
    return float((a @ b.T).mean())


def inter_cosine(a: Tensor) -> float:
    """Mean cosine over all pairs of different rows of a (n, f). Raises ValueError for n < 2.

    >>> inter_cosine(torch.eye(4)), inter_cosine(torch.ones(2, 4))
    (0.0, 1.0)
    """
    n = len(a)
    if n < 2:
        raise ValueError(f"likeness within a set needs two pictures or more, not {n}")
    return (mean_cosine(a, a) * n - 1) / (n - 1)


def bootstrap(
    scores: Tensor | Sequence[float], generator: torch.Generator, level: float = 0.95, resamples: int = 10_000
) -> tuple[float, float]:
    """A confidence interval for the mean of scores, (n,) or (n, m), by the percentile bootstrap (Efron 1979).

    scores: one for each of n subjects, or m for each, from as many seeds. The rows of such a table are drawn whole,
    because seeds of one subject are no independent witnesses (Davison & Hinkley 1997, section 3.8). The interval is
    honest for large n; for n = 5 a level of 0.95 covers the mean five times in six instead of 19 times in 20.

    Raises ValueError for n < 2 or a level outside (0, 1).

    >>> low, high = bootstrap([0.5] * 30 + [0.7] * 30, torch.Generator())
    >>> round(low, 2), round(high, 2)  # two standard errors are 0.2 / 60**0.5
    (0.57, 0.63)
    """
    rows = torch.as_tensor(scores, dtype=torch.float64)
    rows = rows.flatten(1).mean(1) if rows.ndim > 1 else rows
    if len(rows) < 2:
        raise ValueError(f"{len(rows)} scores have no spread to sample from; give two or more")
    if not 0 < level < 1:
        raise ValueError(f"level = {level}: a share between 0 and 1, such as 0.95")
    means = rows[torch.randint(len(rows), (resamples, len(rows)), generator=generator)].mean(1)
    low, high = means.quantile(torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)).tolist()
    return low, high


@dataclass
class Metrics:
    """The judges of pictures: CLIP and DINO, and the scores made of the cosines of their features.

    For pictures of tiny-sd they are small models of its own world (the default), for photographs the paper's.
    References may be the pictures that a word was learned from, or `Subject.truth` where there is one. Every method
    raises ValueError where a list is empty.

    >>> from zoti.data import load_subject
    >>> metrics, teapot = Metrics.load(), load_subject("teapot")
    >>> one, other = teapot.references[:2]
    >>> round(metrics.clip_i([one], [one]), 3), metrics.dino_inter([one, other]) < 1
    (1.0, True)
    >>> list(metrics.scores([one, other], teapot.truth, ["a teapot"] * 2))
    ['CLIP-I', 'CLIP-T', 'DINO', 'DINO_inter']
    """

    clip: CLIPModel
    dino: Dinov2Model
    clip_images: Any
    dino_images: Any
    tokenizer: Any

    @classmethod
    def load(
        cls, clip: str | Path = DATA / "judges" / "clip", dino: str | Path = DATA / "judges" / "dino"
    ) -> "Metrics":
        """Open both models, each from a folder or by its hub id.

        The paper's are openai/clip-vit-base-patch32 and facebook/dinov2-base.
        """
        logging.disable_progress_bar()  # bars of loading weights litter a notebook
        clip_class: Any = CLIPModel  # transformers leaves these untyped
        dino_class: Any = Dinov2Model
        processor: Any = AutoImageProcessor
        return cls(
            clip_class.from_pretrained(clip, dtype=torch.float32).eval(),
            dino_class.from_pretrained(dino, dtype=torch.float32).eval(),
            processor.from_pretrained(clip),
            processor.from_pretrained(dino),
            AutoTokenizer.from_pretrained(clip),
        )

    @torch.inference_mode()
    def clip_features(self, images: list[Image.Image]) -> Tensor:
        """CLIP's features of n pictures: (n, projection_dim)."""
        pixels = self.clip_images(images=shown(_some(images)), return_tensors="pt")["pixel_values"]
        features: Tensor = self.clip.visual_projection(self.clip.vision_model(pixel_values=pixels).pooler_output)
        return features

    @torch.inference_mode()
    def text_features(self, prompts: list[str]) -> Tensor:
        """CLIP's features of n prompts: (n, projection_dim)."""
        config: Any = self.clip.config
        words = self.tokenizer(
            _some(prompts),
            padding="max_length",
            truncation=True,
            return_tensors="pt",
            max_length=config.text_config.max_position_embeddings,
        )
        features: Tensor = self.clip.text_projection(self.clip.text_model(input_ids=words["input_ids"]).pooler_output)
        return features

    @torch.inference_mode()
    def dino_features(self, images: list[Image.Image]) -> Tensor:
        """DINO's features of n pictures, its class tokens: (n, hidden)."""
        pixels = self.dino_images(images=shown(_some(images)), return_tensors="pt")["pixel_values"]
        features: Tensor = self.dino(pixel_values=pixels).last_hidden_state[:, 0]
        return features

    def clip_i(self, images: list[Image.Image], references: list[Image.Image]) -> float:
        """CLIP-I: the mean CLIP cosine of all pairs of a picture and a reference, in [-1, 1]; higher is more alike."""
        return mean_cosine(self.clip_features(images), self.clip_features(references))

    def clip_t(self, images: list[Image.Image], prompts: list[str]) -> float:
        """CLIP-T: the mean CLIP cosine of each picture with its own prompt, in which the class stands for the word.

        Higher is more obedient. Raises ValueError unless there is one prompt for each picture.
        """
        return _obedience(self.clip_features(images), self.text_features(prompts))

    def dino_score(self, images: list[Image.Image], references: list[Image.Image]) -> float:
        """DINO: as CLIP-I, with DINO's features, which tell one teapot from another where CLIP's hardly do."""
        return mean_cosine(self.dino_features(images), self.dino_features(references))

    def clip_inter(self, images: list[Image.Image]) -> float:
        """Mean CLIP cosine among different pictures of one set. For the truth it is the best CLIP-I to be hoped for.

        Raises ValueError for fewer than two pictures.
        """
        return inter_cosine(self.clip_features(images))

    def dino_inter(self, images: list[Image.Image]) -> float:
        """DINO_inter: the mean DINO cosine among different pictures of one set; lower is more diverse.

        Raises ValueError for fewer than two pictures.
        """
        return inter_cosine(self.dino_features(images))

    def scores(self, images: list[Image.Image], references: list[Image.Image], prompts: list[str]) -> dict[str, float]:
        """All four scores of a set of pictures, by name; each picture is encoded once."""
        clip, dino = self.clip_features(images), self.dino_features(images)
        return {
            "CLIP-I": mean_cosine(clip, self.clip_features(references)),
            "CLIP-T": _obedience(clip, self.text_features(prompts)),
            "DINO": mean_cosine(dino, self.dino_features(references)),
            "DINO_inter": inter_cosine(dino),
        }


def _obedience(images: Tensor, prompts: Tensor) -> float:
    """The mean cosine of each picture's features (n, f) with those of its own prompt (n, f)."""
    if len(images) != len(prompts):
        raise ValueError(f"{len(prompts)} prompts for {len(images)} pictures; CLIP-T compares each with its own")
    return float(torch.cosine_similarity(images, prompts).mean())


def _some(things: list[Any]) -> list[Any]:
    """The list as it is. Raises ValueError where it is empty."""
    if not things:
        raise ValueError("nothing to score: the list of pictures or prompts is empty")
    return things
