"""Train U-Net and text encoder together: `python train_unet.py --steps N`, after train_vae.py.

Scenes are composed and encoded once into a pool of latents; captions are drawn anew each time a scene comes up.
Noise prediction on Stable Diffusion's schedule, min-SNR-5 weights, captions dropped 10 % for guidance.
"""

import argparse
import json

import numpy as np
import torch
import torch.nn.functional as F
from artwork import BUILD, HERE
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from engine import BFLOAT16, PROCESSES, autocast, train
from safetensors.torch import load_file, save_file
from tokenizer import LENGTH, tokenizer
from torch import nn
from tqdm import tqdm
from train_vae import to_tensor, trained_vae
from transformers import CLIPTextConfig, CLIPTextModel
from world import COLOURS, SETTINGS, World, training_caption

WIDTH = 256  # of a token: the d of the whole book
SCHEDULE = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000)


class Painter(nn.Module):
    """The two networks that are trained together."""

    def __init__(self) -> None:
        super().__init__()
        tok = tokenizer()
        self.text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tok),
                hidden_size=WIDTH,
                intermediate_size=4 * WIDTH,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=LENGTH,
                bos_token_id=tok.bos_token_id,
                eos_token_id=tok.eos_token_id,
                pad_token_id=tok.pad_token_id,
                projection_dim=WIDTH,
            )
        )
        self.unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=32,
            out_channels=32,
            block_out_channels=(96, 160),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D",) * 2,
            up_block_types=("CrossAttnUpBlock2D",) * 2,
            cross_attention_dim=WIDTH,
            attention_head_dim=(3, 5),
            norm_num_groups=32,
        )


def _encode(rank: int, count: int, seed: int) -> None:
    """One process's share of the pool: scenes -> latent means, written to build/pool-SEED-RANK.safetensors."""
    torch.set_num_threads(1)
    autoencoder, world, rng = trained_vae(), World(), np.random.default_rng((seed, rank, 7))
    latents, facts = [], []
    for _ in tqdm(range(count // 50), disable=rank > 0, desc="pool", mininterval=10):
        scenes = [world.sample(rng) for _ in range(50)]
        with torch.inference_mode():
            latents.append(autoencoder.encode(to_tensor([s.pixels for s in scenes])).latent_dist.mean.half())
        facts += [
            [
                world.training.index((s.style, s.concept)),
                list(SETTINGS).index(s.setting),
                list(COLOURS).index(s.colour) if s.colour else -1,
            ]
            for s in scenes
        ]
    save_file({"latents": torch.cat(latents), "facts": torch.tensor(facts)}, BUILD / f"pool-{seed}-{rank}.safetensors")


def make(rank: int, batch: int, pool: int, exported: bool):
    torch.manual_seed(0)
    model = Painter()
    if exported:  # go on from data/tiny-sd: another session, another machine, another pool of scenes
        for part in ("unet", "text_encoder"):
            (weights,) = (HERE.parent / "tiny-sd" / part).glob("*.safetensors")
            getattr(model, part).load_state_dict(load_file(weights))
    if BFLOAT16:  # there the fused kernel's backward takes a third of the step
        model.unet.set_attn_processor(AttnProcessor())
    stored = load_file(BUILD / f"pool-{pool}-{rank}.safetensors")
    latents, facts = stored["latents"], stored["facts"].tolist()
    scale = scaling_factor()
    tok, world, noise_schedule = tokenizer(), World(), DDPMScheduler(**SCHEDULE)
    alphas = noise_schedule.alphas_cumprod
    snr = alphas / (1 - alphas)

    def loss_fn(model, rng, step):
        index = rng.integers(0, len(latents), batch)
        z = latents[index].float() * scale
        texts = []
        for i in index:
            pair, setting, colour = facts[i]
            texts.append(
                ""
                if rng.uniform() < 0.1
                else training_caption(
                    rng, *world.training[pair], list(COLOURS)[colour] if colour >= 0 else None, list(SETTINGS)[setting]
                )
            )
        ids = tok(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        t, noise = torch.randint(0, 1000, (batch,)), torch.randn_like(z)
        with autocast():
            states = model.text_encoder(ids).last_hidden_state
            predicted = model.unet(noise_schedule.add_noise(z, noise, t), t, states).sample
        error = F.mse_loss(predicted.float(), noise, reduction="none").mean((1, 2, 3))
        return (error * snr[t].clamp(max=5) / snr[t]).mean(), {"mse": error.mean()}, batch

    return model, loss_fn


def scaling_factor() -> float:
    """1 / standard deviation of the first pool's latents, as Stable Diffusion's 0.18215; it goes with the weights."""
    first, exported = BUILD / "pool-0-0.safetensors", HERE.parent / "tiny-sd" / "vae" / "config.json"
    if first.exists():
        return 1 / load_file(first)["latents"].float().std().item()
    return json.loads(exported.read_text())["scaling_factor"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=13_000)
    parser.add_argument("--pool", type=int, default=0, help="seed of the pool of scenes")
    parser.add_argument("--exported", action="store_true", help="start from the weights in data/tiny-sd")
    args = parser.parse_args()
    if not (BUILD / f"pool-{args.pool}-{PROCESSES - 1}.safetensors").exists():
        torch.multiprocessing.spawn(_encode, (20_000, args.pool), PROCESSES)
    lr = 5e-4 if args.exported else 8e-4
    train("unet", make, steps=args.steps, lr=lr, ema_decay=0.998, batch=24, pool=args.pool, exported=args.exported)
