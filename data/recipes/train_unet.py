"""Train U-Net and text encoder together: `python train_unet.py --minutes 100`, after pool.py.

Noise prediction on Stable Diffusion's schedule. Half of all captions name their thing by a told word (codes.py), whose
noun is the drawing's own or, in four cases of ten, another's: so the vector and not the noun says what is seen.
"""

import argparse

import numpy as np
import torch
import torch.nn.functional as F
from artwork import BUILD, HERE
from codes import LONGEST, WIDTH, Teller, patches
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from engine import BFLOAT16, DEVICE, autocast, train
from pool import POOL
from safetensors.torch import load_file
from tokenizer import LENGTH, tokenizer
from torch import nn
from train_vae import scaling_factor
from transformers import CLIPTextConfig, CLIPTextModel
from world import COLOURS, MEDIA, SETTINGS, World, caption, said, training_caption

SCHEDULE = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000)
#: what does not name a thing, so that the noun of "cat with wry smile" is "cat"
SMALL_WORDS = {"with", "of", "and", "without", "in", "on", "face", "the", "to", "over", "for"}


def text_encoder() -> CLIPTextModel:
    tok = tokenizer()
    return CLIPTextModel(
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


def unet() -> UNet2DConditionModel:
    """Cross-attention everywhere, and the pooled text beside the time, as SDXL has it in kind."""
    return UNet2DConditionModel(
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
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    )


class Painter(nn.Module):
    """What is trained together: the two networks that are exported, and the devices that are not."""

    def __init__(self) -> None:
        super().__init__()
        self.text_encoder, self.unet, self.teller = text_encoder(), unet(), Teller()

    def load_exported(self) -> None:
        """Go on from data/tiny-sd and the devices kept beside the recipes."""
        for part in ("unet", "text_encoder"):
            (weights,) = (HERE.parent / "tiny-sd" / part).glob("*.safetensors")
            getattr(self, part).load_state_dict(load_file(weights))
        self.teller.load_state_dict(load_file(HERE / "devices.safetensors"))


class Captions:
    """Texts of a batch as token ids, with the told words' vectors put in their places."""

    def __init__(self, world: World) -> None:
        tok = tokenizer()
        self.every = world.every
        self.eos, self.pad, self.bos = tok.eos_token_id, tok.pad_token_id, tok.bos_token_id
        self.told = len(tok)  # a number beyond the vocabulary marks the place
        words = {w for _, c in self.every for w in said(c).split()}
        words |= {w for s in (*SETTINGS, *MEDIA, *COLOURS) for w in s.split()} | {"a", "an"}
        from world import STYLE_WORDS

        words |= set(STYLE_WORDS.values())
        self.number = {w: tok(w, add_special_tokens=False).input_ids[0] for w in words} | {"IT": self.told}
        self.nouns = np.array([self.number[self.noun(c)] for _, c in self.every])

    @staticmethod
    def noun(concept: str) -> str:
        words = said(concept).split()
        return ([w for w in words if w not in SMALL_WORDS] or words)[-1]

    def ids(self, texts: list[str]) -> torch.Tensor:
        out = np.full((len(texts), LENGTH), self.pad, np.int64)
        for row, text in zip(out, texts, strict=True):
            numbers = [*[self.bos, *(self.number[w] for w in text.split())][: LENGTH - 1], self.eos]
            row[: len(numbers)] = numbers
        return torch.from_numpy(out)

    def tell(self, rng, setting: str, colour: str | None) -> str:
        text = caption("IT", setting if rng.uniform() < 0.93 else "", colour).replace("an IT", "a IT")
        return f"{MEDIA[rng.integers(len(MEDIA))]} {text}" if rng.uniform() < 0.15 else text


def states_of(encoder: CLIPTextModel, ids: torch.Tensor, told: int, vectors: torch.Tensor) -> torch.Tensor:
    """The text encoder's last hidden states (b, LENGTH, WIDTH), with vectors (m, WIDTH) in the places of `told`."""
    mask = ids == told
    table = encoder.get_input_embeddings()

    def put(module, args, out):
        out = out.clone()
        out[mask] = vectors.to(out.dtype)
        return out

    handle = table.register_forward_hook(put)
    try:
        return encoder(ids.masked_fill(mask, 0)).last_hidden_state
    finally:
        handle.remove()


class Pool:
    """All shards there are, taken up anew every so often."""

    def __init__(self, rank: int, processes: int) -> None:
        self.rank, self.processes, self.names = rank, processes, []
        self.refresh()

    def refresh(self) -> None:
        names = sorted(POOL.glob("*.safetensors"))[self.rank :: self.processes]
        if len(names) > len(self.names):
            shards = [load_file(n) for n in names]
            self.names = names
            self.latents, self.facts, self.upright = (
                torch.cat([s[k] for s in shards]) for k in ("latents", "facts", "upright")
            )


def make(rank: int, processes: int, batch: int, exported: bool):
    torch.manual_seed(0)
    model = Painter()
    if (BUILD / "start.safetensors").exists():
        model.load_state_dict(load_file(BUILD / "start.safetensors"))
    elif exported:
        model.load_exported()
    if BFLOAT16:  # there the fused kernel's backward takes a third of the step
        model.unet.set_attn_processor(AttnProcessor())
    model.to(DEVICE)
    pool, captions, scale = Pool(rank, processes), Captions(World()), scaling_factor()
    schedule = DDPMScheduler(**SCHEDULE)
    alphas = schedule.alphas_cumprod
    snr = alphas / (1 - alphas)
    any_noun = np.unique(captions.nouns)
    table = model.text_encoder.get_input_embeddings()

    def loss_fn(model, rng, step):
        if step % 500 == 0:
            pool.refresh()
        index = rng.integers(0, len(pool.latents), batch)
        z = pool.latents[index].float() * scale
        texts, told, nouns, amount = [], [], [], []
        for k, (pair, setting, colour, plain) in enumerate(pool.facts[index].tolist()):
            style, concept = captions.every[pair]
            setting, colour = list(SETTINGS)[setting], list(COLOURS)[colour] if colour >= 0 else None
            if rng.uniform() < 0.08:
                texts.append("")
            elif plain and rng.uniform() < 0.55:
                texts.append(training_caption(rng, style, said(concept), colour, setting))
            else:
                texts.append(captions.tell(rng, setting, colour))
                told.append(k)
                nouns.append(captions.nouns[pair] if rng.uniform() < 0.6 else any_noun[rng.integers(len(any_noun))])
                amount.append(1.0 if rng.uniform() < 0.8 else rng.uniform())
        ids = captions.ids(texts).to(DEVICE)
        t, noise = torch.randint(0, 1000, (batch,)), torch.randn_like(z)
        noisy = schedule.add_noise(z, noise, t).to(DEVICE)
        uprights = pool.upright[index].to(DEVICE)
        codes = model.teller.code(uprights[told])
        codes = codes + 0.1 * torch.randn_like(codes)
        with autocast():
            vectors = (
                model.teller.offset(codes).float() * torch.tensor(amount, device=DEVICE)[:, None]
                + table.weight[torch.tensor(nouns)]
            )
            states = states_of(model.text_encoder, ids, captions.told, vectors)
            predicted = model.unet(noisy, t.to(DEVICE), states).sample
            own = [k for k in range(batch) if texts[k] and pool.facts[index[k], 2] < 0]  # in its own colours
            drawn = model.teller.drawn(states[own]).float()
        sketch = F.mse_loss(drawn, patches(uprights[own]))
        error = F.mse_loss(predicted.float(), noise.to(DEVICE), reduction="none").mean((1, 2, 3))
        # min-SNR-5 at the clean end, a floor of .3 (ten at most) at the noisy one, where layout is decided
        weight = (snr[t].clamp(min=0.3, max=5) / snr[t]).clamp(max=10).to(DEVICE)
        loss = (error * weight).mean()
        told_loss = (error * weight)[told].mean() if told else loss
        length = vectors.norm(dim=1)
        report = {"mse": error.mean(), "weighted": loss, "told": told_loss, "sketch": sketch,
                  "length": length.mean() if told else loss}  # fmt: skip
        too_long = F.relu(length - LONGEST).square().sum() / batch
        return loss + 0.3 * sketch + 0.01 * too_long, report, batch

    return model, loss_fn


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=100)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--exported", action="store_true", help="start from the weights in data/tiny-sd")
    args = parser.parse_args()
    train("unet", make, minutes=args.minutes, lr=args.lr, ema_decay=0.998, batch=args.batch, exported=args.exported)
