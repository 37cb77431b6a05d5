"""Train the autoencoder: `python train_vae.py`. 64x64x3 -> 8x8x32.

Loss: squared error + a little L1 (edges) + beta KL. With beta the KL is an honest rate: a latent that explains less
than sqrt(beta / 2) of pixel noise is dropped, so the latents stay near unit variance and easy to diffuse.
"""

import argparse
import json

import numpy as np
import torch
from artwork import BUILD, HERE
from diffusers import AutoencoderKL
from engine import autocast, load_ema, train
from safetensors.torch import load_file
from world import SIZE, World

CHANNELS = (16, 32, 64, 128)
BETA = 5e-4


def vae() -> AutoencoderKL:
    """Two choices a small autoencoder lives by, each worth dB from the first minute (measured over 300 steps):

    - one normalisation group: groups of two channels erase the brightness of flat areas;
    - a posterior that starts narrow: at the usual std of 1 the decoder first has to learn through its own noise.
    """
    model = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=CHANNELS,
        layers_per_block=1,
        latent_channels=32,
        norm_num_groups=1,
        sample_size=SIZE,
        mid_block_add_attention=False,
    )
    with torch.no_grad():  # the upper half of quant_conv's channels is the log variance
        model.quant_conv.bias[32:] = -5
        model.quant_conv.weight[32:] *= 0.1
        model.quant_conv.weight[:32] *= 2
    return model


def trained_vae() -> AutoencoderKL:
    """The averaged weights of this machine's training; where there was none, those in data/tiny-sd."""
    model = vae()
    for name in ("vae_decoder", "vae"):
        if (BUILD / f"{name}.ckpt.safetensors").exists():
            load_ema(name, freeze_encoder(model) if name == "vae_decoder" else model)
            return model
    model.load_state_dict(load_file(next((HERE.parent / "tiny-sd" / "vae").glob("*.safetensors"))))
    return model


def scaling_factor() -> float:
    """1 / standard deviation of the latents, as Stable Diffusion's 0.18215; it goes with the weights."""
    return json.loads((HERE.parent / "tiny-sd" / "vae" / "config.json").read_text())["scaling_factor"]


def freeze_encoder(model: AutoencoderKL) -> AutoencoderKL:
    model.encoder.requires_grad_(False)
    model.quant_conv.requires_grad_(False)
    return model


def to_tensor(pictures: list) -> torch.Tensor:
    """uint8 (64, 64, 3) pictures -> (b, 3, 64, 64) in [-1, 1]."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def make(rank: int, processes: int, batch: int, decoder: bool):
    world = World()
    everything = world.training * 11 + world.every  # things with short names in two pictures of five

    def loss_fn(model, rng, step):
        x = to_tensor([world.sample(rng, everything).pixels for _ in range(batch)])
        x = x.contiguous(memory_format=torch.channels_last)
        with autocast():
            posterior = model.encode(x).latent_dist
            y = model.decode(posterior.sample()).sample.float()
        error = (y - x) / 2  # in units of the [0, 1] range, as PSNR counts
        mse = error.square().mean()
        rate = posterior.kl().float().sum() / x.numel()
        loss = mse + 0.03 * error.abs().mean() + BETA * rate
        return loss * 10, {"psnr": -10 * mse.log10(), "bits": rate * 3 * 1.4427}, len(x)

    model = freeze_encoder(trained_vae()) if decoder else vae()
    return model.to(memory_format=torch.channels_last), loss_fn  # a quarter faster


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--decoder", action="store_true", help="polish the decoder; latents stay what they are")
    args = parser.parse_args()
    name, lr = ("vae_decoder", 7e-4) if args.decoder else ("vae", 1.5e-3)
    train(name, make, minutes=args.minutes, lr=lr, batch=8, decoder=args.decoder)
