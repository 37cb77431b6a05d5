"""Train the three networks that only ever measure: `python train_judges.py clip|dino|classifier`.

clip        a CLIPModel, contrastive on pictures and captions of the whole training world (CLIP-I, CLIP-T)
dino        a Dinov2Model, taught to find the same subject in another setting among many others (DINO)
classifier  a ResNet that names concept, setting and colour of a scene: the independent judge of tiny-sd's paintings

All see real scenes only, never a painted one, and nothing that is held out.
"""

import argparse

import torch
import torch.nn.functional as F
from artwork import CONCEPTS
from engine import autocast, train
from tokenizer import LENGTH, tokenizer
from train_vae import to_tensor
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    Dinov2Config,
    Dinov2Model,
    ResNetConfig,
    ResNetForImageClassification,
)
from world import COLOURS, SETTINGS, SHARE_COLOURED, SIZE, World

MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)  # CLIP's own constants, as processors expect
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)


def pixel_values(pictures: list) -> torch.Tensor:
    return ((to_tensor(pictures) + 1) / 2 - MEAN) / STD


def clip() -> CLIPModel:
    tok = tokenizer()
    text = CLIPTextConfig(
        vocab_size=len(tok),
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        bos_token_id=tok.bos_token_id,
        eos_token_id=tok.eos_token_id,
        pad_token_id=tok.pad_token_id,
    )
    vision = CLIPVisionConfig(
        hidden_size=160,
        intermediate_size=640,
        num_hidden_layers=4,
        num_attention_heads=5,
        image_size=SIZE,
        patch_size=8,
    )
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=128)
    return CLIPModel._from_config(config, attn_implementation="eager")  # faster backward than the fused one on a CPU


def dino() -> Dinov2Model:
    config = Dinov2Config(
        hidden_size=160, num_hidden_layers=4, num_attention_heads=5, mlp_ratio=4, image_size=SIZE, patch_size=8
    )
    model = Dinov2Model._from_config(config, attn_implementation="eager")
    model.embeddings.mask_token.requires_grad_(False)
    return model


def classifier() -> ResNetForImageClassification:
    labels = [*CONCEPTS, *SETTINGS, *COLOURS, "no colour"]
    return ResNetForImageClassification(
        ResNetConfig(
            embedding_size=32,
            hidden_sizes=[32, 64, 128, 192],
            depths=[1, 1, 1, 1],
            layer_type="basic",
            id2label=dict(enumerate(labels)),
            label2id={w: i for i, w in enumerate(labels)},
        )
    )


def make_clip(rank: int, processes: int, batch: int):
    world, tok, model = World(), tokenizer(), clip()
    everything = world.training * 5 + world.every  # things with short names are seen six times as often

    def loss_fn(model, rng, step):
        scenes = [world.sample(rng, everything) for _ in range(batch)]
        words = tok([s.caption for s in scenes], padding="max_length", truncation=True, return_tensors="pt")
        with autocast():
            out = model(input_ids=words.input_ids, pixel_values=pixel_values([s.pixels for s in scenes]))
        logits, target = out.logits_per_text.float(), torch.arange(batch)
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        return loss, {"loss": loss, "matched": (logits.argmax(0) == target).float().mean()}, batch

    return model, loss_fn


def make_dino(rank: int, processes: int, batch: int):
    world, model = World(), dino()
    everything = world.training * 5 + world.every  # things with short names are seen six times as often

    def loss_fn(model, rng, step):
        pictures = []
        for index in rng.permutation(len(everything))[:batch]:  # each subject twice, in two settings and two places
            colour = list(COLOURS)[rng.integers(len(COLOURS))] if rng.uniform() < SHARE_COLOURED else None
            for setting in rng.choice(list(SETTINGS), 2, replace=False):
                pictures.append(world.compose(rng, world.drawing(*everything[index], colour), setting))
        with autocast():
            features = model(pixel_values(pictures)).pooler_output
        features = F.normalize(features.float(), dim=-1).view(batch, 2, -1)
        logits, target = 20 * features[:, 0] @ features[:, 1].T, torch.arange(batch)
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        return loss, {"loss": loss, "matched": (logits.argmax(1) == target).float().mean()}, 2 * batch

    return model, loss_fn


def make_classifier(rank: int, processes: int, batch: int):
    world, model = World(), classifier()
    parts = [len(CONCEPTS), len(SETTINGS), len(COLOURS) + 1]

    def loss_fn(model, rng, step):
        scenes = [world.sample(rng) for _ in range(batch)]
        with autocast():
            logits = model(pixel_values([s.pixels for s in scenes])).logits.float().split(parts, dim=1)
        targets = [
            [list(CONCEPTS).index(s.concept) for s in scenes],
            [list(SETTINGS).index(s.setting) for s in scenes],
            [list(COLOURS).index(s.colour) if s.colour else len(COLOURS) for s in scenes],
        ]
        targets = [torch.tensor(t) for t in targets]
        right = [(a.argmax(1) == t).float().mean() for a, t in zip(logits, targets, strict=True)]
        loss = sum(F.cross_entropy(a, t) for a, t in zip(logits, targets, strict=True))
        return loss, {"loss": loss, **dict(zip(("concept", "setting", "colour"), right, strict=True))}, batch

    return model, loss_fn


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("which", choices=("clip", "dino", "classifier"))
    parser.add_argument("--minutes", type=float)
    args = parser.parse_args()
    make, minutes, batch = {
        "clip": (make_clip, 7, 96),
        "dino": (make_dino, 8, 64),
        "classifier": (make_classifier, 2, 32),
    }[args.which]
    train(args.which, make, minutes=args.minutes or minutes, lr=1e-3, batch=batch)
