"""Run by tests in a process of its own: what a ledger says of a CPU run, and what the kernel measured."""

import json
import re
import sys
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from tests.helpers import problem, random_pipeline
from zoti import Config, invert, quantize_
from zoti.ledger import Ledger
from zoti.ledger.scenarios import zeroth_order


def kilobytes(field: str) -> int:
    return int(re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def training(layers: int) -> None:
    """AdamW on a text encoder: parameters, gradients and moments dominate."""
    encoder = CLIPTextModel(CLIPTextConfig(vocab_size=2048, num_hidden_layers=layers, hidden_size=768)).train()
    adam = torch.optim.AdamW(encoder.parameters())
    ids = torch.zeros(32, 77, dtype=torch.int64)
    for _ in range(2):
        encoder(ids).last_hidden_state.mean().backward()
        adam.step()
        adam.zero_grad()


def attention(size: int) -> None:
    """Attention by the full matrix, as textbooks have it: temporaries dominate."""
    q = torch.randn(8, size, 40, requires_grad=True)
    ((q @ q.transpose(1, 2)).softmax(-1) @ q).sum().backward()


def encoding(size: int) -> None:
    """The first half of a VAE without gradient: large, short-lived feature maps."""
    vae = AutoencoderKL(
        block_out_channels=(64, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        mid_block_add_attention=False,
    )
    with torch.inference_mode():
        vae.encode(torch.randn(1, 3, size, size))


def step(width: int) -> int:
    """A word's step in INT8: weights dominate. Returns what the ledger says of such a step without making it."""
    pipe = random_pipeline()
    with torch.device("meta"):
        pipe.unet = UNet2DConditionModel.from_config(pipe.unet.config, block_out_channels=(width, 2 * width))
    with TemporaryDirectory() as folder:
        for part, network in (("unet", pipe.unet), ("vae", pipe.vae), ("text_encoder", pipe.text_encoder.config)):
            getattr(network, "save_config", network.save_pretrained)(f"{folder}/{part}")
        booked = zeroth_order(folder, dtype="float32").peak.total
    quantize_(pipe.unet).to_empty(device="cpu").requires_grad_(False).eval()  # never whole in full precision
    for tensor in pipe.unet.state_dict().values():
        tensor.fill_(1e-3 if tensor.is_floating_point() else 1)
    quantize_(pipe.text_encoder)
    next(invert(problem(pipe, max_batch=1), Config()))
    return booked


if __name__ == "__main__":
    run, small, large = {
        "training": (training, 1, 6),
        "attention": (attention, 16, 2048),
        "encoding": (encoding, 16, 512),
        "step": (step, 16, 512),
    }[sys.argv[1]]
    torch.set_num_threads(1)
    run(small)  # libraries load, pools fill
    before = kilobytes("VmRSS")
    with nullcontext() if run is step else Ledger() as ledger:
        booked = run(large)
    resident = (kilobytes("VmHWM") - before) * 1024
    print(json.dumps({"ledger": booked or ledger.peak.total, "resident": resident}))
