"""How alike, how obedient, how diverse: CLIP-I, CLIP-T, DINO and DINO_inter, as the paper counts them (Table 1, S9)."""

from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel, Dinov2Model

from zoti.data import DATA


def mean_cosine(a: Tensor, b: Tensor) -> float:
    """Mean pairwise cosine of the rows of a (n, f) and b (m, f)."""
    return float((torch.nn.functional.normalize(a, dim=-1) @ torch.nn.functional.normalize(b, dim=-1).T).mean())


@dataclass
class Metrics:
    """The two encoders, and four numbers made of their cosines. On tiny-sd its own; on photographs the paper's."""

    clip: CLIPModel
    dino: Dinov2Model
    clip_images: object
    dino_images: object
    tokenizer: object

    @classmethod
    def load(
        cls, clip: str | Path = DATA / "judges" / "clip", dino: str | Path = DATA / "judges" / "dino"
    ) -> "Metrics":
        """From folders or hub ids; the paper's are openai/clip-vit-base-patch32 and facebook/dinov2-base."""
        return cls(
            CLIPModel.from_pretrained(clip, dtype=torch.float32).eval(),
            Dinov2Model.from_pretrained(dino, dtype=torch.float32).eval(),
            AutoImageProcessor.from_pretrained(clip),
            AutoImageProcessor.from_pretrained(dino),
            AutoTokenizer.from_pretrained(clip),
        )

    @torch.inference_mode()
    def clip_features(self, images: list[Image.Image]) -> Tensor:
        """(n, projection_dim)"""
        pixels = self.clip_images(images=images, return_tensors="pt")["pixel_values"]
        return self.clip.visual_projection(self.clip.vision_model(pixel_values=pixels).pooler_output)

    @torch.inference_mode()
    def text_features(self, prompts: list[str]) -> Tensor:
        """(n, projection_dim)"""
        words = self.tokenizer(
            prompts,
            padding="max_length",
            truncation=True,
            return_tensors="pt",
            max_length=self.clip.config.text_config.max_position_embeddings,
        )
        return self.clip.text_projection(self.clip.text_model(input_ids=words["input_ids"]).pooler_output)

    @torch.inference_mode()
    def dino_features(self, images: list[Image.Image]) -> Tensor:
        """Class tokens (n, hidden)."""
        pixels = self.dino_images(images=images, return_tensors="pt")["pixel_values"]
        return self.dino(pixel_values=pixels).last_hidden_state[:, 0]

    def clip_i(self, images: list[Image.Image], references: list[Image.Image]) -> float:
        """Mean pairwise CLIP cosine of pictures and references, in [-1, 1]; higher is more alike."""
        return mean_cosine(self.clip_features(images), self.clip_features(references))

    def clip_t(self, images: list[Image.Image], prompts: list[str]) -> float:
        """Mean CLIP cosine of each picture with its own prompt (class instead of word); higher obeys better."""
        return float(torch.cosine_similarity(self.clip_features(images), self.text_features(prompts)).mean())

    def dino_score(self, images: list[Image.Image], references: list[Image.Image]) -> float:
        """Mean pairwise DINO cosine of pictures and references; tells one teapot from another, as CLIP hardly does."""
        return mean_cosine(self.dino_features(images), self.dino_features(references))

    def dino_inter(self, images: list[Image.Image]) -> float:
        """Mean DINO cosine among different pictures of one set; lower is more diverse. Needs two pictures."""
        n = len(images)
        features = self.dino_features(images)
        return (mean_cosine(features, features) * n - 1) / (n - 1)
