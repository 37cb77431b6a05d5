"""Compose scenes and encode them, shard by shard: `python pool.py --shards 10` adds to build/pool.

A shard is 4,000 scenes: their latents, the facts that captions are made of, and the drawing of each as it stands
upright on white, 32 pixels wide, which is what a told word says (see codes.py). Shards are numbered, a number is a
seed, and train_unet.py takes up new ones while it runs.
"""

import argparse

import numpy as np
import torch
from artwork import BUILD
from codes import upright
from safetensors.torch import save_file
from tqdm import tqdm
from train_vae import to_tensor, trained_vae
from world import COLOURS, SETTINGS, World, premultiplied

POOL = BUILD / "pool"
SHARD = 4000


def shard(world: World, autoencoder, number: int) -> None:
    rng = np.random.default_rng((number, 11))
    latents, facts, uprights = [], [], []
    for _ in range(SHARD // 50):
        pixels = []
        for _ in range(50):
            turned = world.turned(rng)
            setting = int(rng.integers(len(SETTINGS)))
            colour = int(rng.integers(len(COLOURS))) if rng.uniform() < 0.3 else -1
            drawing = premultiplied(turned.drawing, list(COLOURS)[colour] if colour >= 0 else None)
            pixels.append(world.compose(rng, drawing, list(SETTINGS)[setting]))
            uprights.append(upright(turned.drawing))
            facts.append([turned.pair, setting, colour, int(turned.plain)])
        with torch.inference_mode():
            x = to_tensor(pixels).contiguous(memory_format=torch.channels_last)
            latents.append(autoencoder.encode(x).latent_dist.mean.half().contiguous())
    tensors = {
        "latents": torch.cat(latents),
        "facts": torch.tensor(facts),
        "upright": torch.from_numpy(np.stack(uprights)),
    }
    path = POOL / f"{number:05d}.safetensors"
    save_file(tensors, path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--shards", type=int, default=10)
    args = parser.parse_args()
    torch.set_num_threads(1)
    POOL.mkdir(parents=True, exist_ok=True)
    autoencoder = trained_vae().to(memory_format=torch.channels_last).eval()
    world = World(autoencoder.config.sample_size)
    for number in tqdm(range(args.first, args.first + args.shards), mininterval=10):
        if not (POOL / f"{number:05d}.safetensors").exists():
            shard(world, autoencoder, number)
