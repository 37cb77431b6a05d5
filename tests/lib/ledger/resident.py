"""Run by test_memory.py in a process of its own: what a ledger says of a CPU run, and what the kernel measured."""

import json
import re
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from transformers import CLIPTextConfig, CLIPTextModel

from zoti.ledger import Ledger


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


if __name__ == "__main__":
    run, small, large = {
        "training": (training, 1, 6),
        "attention": (attention, 16, 2048),
        "encoding": (encoding, 16, 512),
    }[sys.argv[1]]
    torch.set_num_threads(1)
    with Ledger() as ledger:
        run(small)  # libraries load, pools fill
    before = kilobytes("VmRSS")
    with Ledger() as ledger:
        run(large)
    print(json.dumps({"ledger": ledger.peak.total, "resident": (kilobytes("VmHWM") - before) * 1024}))
