"""A step on the GPU that is here: `python benchmarks/gpu.py`, or with sd1.5, sd2.1, sdxl, or a model's folder or file.

A name stands for the published architecture with noise for weights, which needs no network: a step costs the same
whatever the weights say. A folder or a file has its own. Of each model are printed

- a step of `invert` in float16, INT8 and INT4 with n = 1, 2, 4, 8 directions, all candidates in one batch, latents
  cached, VAE away: seconds (median), and the peak of PyTorch's allocator, beside the ledger's figure for n = 2;
- for models with one text encoder, a step of textual inversion as diffusers' example script makes it, in its mixed
  precision: the picture encoded each time, AdamW on the whole token table, all rows but one put back;
- what is noise in a slope, against mu. Where mu is a few per cent longer or shorter, a slope should be the same; the
  spread, as a share of the slopes, is what arithmetic makes of it. With noise for weights it is that of noise.

So far nobody has run it on a GPU for this book: there are no figures to compare yours with.
"""

import datetime
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.nn.functional as F

from zoti import PRESETS, ConceptToken, Config, DenoisingLoss, PartialUniform, ZOAdam, invert, load_pipeline
from zoti.data import Latents, Pipeline
from zoti.ledger.scenarios import zeroth_order
from zoti.model import CONFIGS

KINDS = {"none": "float16", "int8": "int8", "int4": "int4"}  # `load_pipeline`'s name -> the ledger's
DIRECTIONS = (1, 2, 4, 8)
MUS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)


def problem(pipe: Pipeline, max_batch: int) -> DenoisingLoss:
    """A word to learn from one latent, the VAE put aside; everything random, which costs what a photograph does."""
    pipe.vae.to("cpu")
    size, channels = pipe.unet.config.sample_size, pipe.unet.config.in_channels
    drawn = torch.rand(2, 1, channels, size, size, generator=torch.Generator().manual_seed(0))
    latents = Latents(*drawn.to(pipe.unet.device).unbind())
    token = ConceptToken(pipe, "<it>", "dog" if "dog</w>" in pipe.tokenizer.get_vocab() else "teapot", replace=True)
    return DenoisingLoss(pipe, token, latents, ["a photo of a {}"], PartialUniform(500, 900), max_batch=max_batch)


def theirs(pipe: Pipeline) -> Iterator[float]:
    """Losses of textual inversion by backpropagation, a step each, as in diffusers' examples/textual_inversion."""
    device, half, chance = pipe.unet.device, pipe.unet.dtype, torch.Generator().manual_seed(0)
    encoder, mixed = pipe.text_encoder.float(), pipe.unet.dtype == torch.float16
    pipe.tokenizer.add_tokens(["<theirs>"])
    encoder.resize_token_embeddings(len(pipe.tokenizer), mean_resizing=False)
    table = encoder.get_input_embeddings().weight.requires_grad_()
    kept, row = table.detach().clone(), len(pipe.tokenizer) - 1
    length = encoder.config.max_position_embeddings
    told = pipe.tokenizer("a photo of a <theirs>", padding="max_length", max_length=length, return_tensors="pt")
    size = pipe.unet.config.sample_size * pipe.vae_scale_factor
    pixels = (2 * torch.rand(1, 3, size, size, generator=chance) - 1).to(device, half)
    adam, scaler = torch.optim.AdamW([table], lr=5e-4), torch.amp.GradScaler(device.type, enabled=mixed)
    while True:
        with torch.autocast(device.type, torch.float16, enabled=mixed):
            z = pipe.vae.encode(pixels).latent_dist.sample() * pipe.vae.config.scaling_factor
            noise = torch.randn(z.shape, generator=chance).to(z)
            t = torch.randint(1000, (1,), generator=chance).to(device)
            z_t, states = pipe.scheduler.add_noise(z, noise, t), encoder(told.input_ids.to(device))[0].to(half)
            guess = pipe.unet(z_t, t, states).sample
            target = noise if pipe.scheduler.config.prediction_type == "epsilon" else (
                pipe.scheduler.get_velocity(z, noise, t))  # fmt: skip
            loss = F.mse_loss(guess.float(), target.float())
        scaler.scale(loss).backward()
        scaler.step(adam)
        scaler.update()
        adam.zero_grad()
        with torch.no_grad():
            table[:row] = kept[:row]
        yield loss.item()


def spread(objective: DenoisingLoss, mus: Sequence[float] = MUS, directions: int = 8) -> dict[float, float]:
    """Of each mu: the spread of a slope when mu is varied by a few per cent, as a share of the slopes themselves."""
    chance, theta = torch.Generator().manual_seed(1), objective.token.initial
    draw = objective.draw(chance)
    e = torch.randn(directions, *theta.shape, generator=chance).to(theta)
    found = {}
    for mu in mus:
        steps = mu * torch.linspace(0.95, 1.05, 5)
        ways = torch.cat([theta + sign * step * e for step in steps for sign in (1, -1)])
        losses = objective.mean(ways, [draw]).double().view(len(steps), 2, directions)
        slopes = (losses[:, 0] - losses[:, 1]).cpu() / (2 * steps[:, None])
        found[mu] = float(slopes.std(0).square().mean().sqrt() / slopes.mean(0).square().mean().sqrt())
    return found


def cost(steps: Iterator[object], rounds: int, device: torch.device) -> tuple[float, float | None]:
    """The median seconds of a step, and the peak of its memory in GB where the device tells. Two steps warm up."""
    there = getattr(torch, device.type)
    tells = hasattr(there, "max_memory_allocated")
    for _ in range(2):
        next(steps)
    if tells:
        there.reset_peak_memory_stats()
    seconds = []
    for _ in range(rounds):
        there.synchronize()
        began = time.perf_counter()
        next(steps)
        there.synchronize()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds), there.max_memory_allocated() / 1e9 if tells else None


def report(
    name: str, source: str | Path, device: str, ns: Sequence[int] = DIRECTIONS, rounds: int = 10,
    mus: Sequence[float] = MUS,
) -> Iterator[str]:  # fmt: skip
    """The lines of a model's report, as they are measured. name: of a preset. source: what is loaded."""
    preset = PRESETS[name]
    yield f"\n{name}{'' if str(source) == name else f', from {source}'}\nmethod  weights   n  seconds  peak GB  ledger"
    for weights, ledgers in KINDS.items():
        pipe = load_pipeline(source, weights, device)
        for n in ns:
            objective = problem(pipe, n + 1)
            config = Config(steps=10**9, n=n, mu=preset.mu, optimizer=ZOAdam(preset.lr))
            try:
                seconds, peak = cost(invert(objective, config), rounds, pipe.unet.device)
            except torch.OutOfMemoryError:
                yield f"zoti    {ledgers:8} {n:2}  out of memory"
                break
            booked = zeroth_order(name, weights=ledgers, max_batch=3).peak.total / 1e9 if n == 2 else None
            yield f"zoti    {ledgers:8} {n:2}  {seconds:7.3f}  {_gb(peak)}  {_gb(booked)}"
        noise = spread(objective, mus)
        yield f"noise in a slope, {ledgers}: " + ", ".join(f"mu {mu:g}: {share:.1%}" for mu, share in noise.items())
        del pipe, objective
    if name != "sdxl":
        pipe = load_pipeline(source, "none", device)
        try:
            seconds, peak = cost(theirs(pipe), rounds, pipe.unet.device)
            yield f"theirs  {'mixed':8}  -  {seconds:7.3f}  {_gb(peak)}  {_gb(None)}"
        except torch.OutOfMemoryError:
            yield f"theirs  {'mixed':8}  -  out of memory"


def _gb(x: float | None) -> str:
    return f"{x:7.2f}" if x is not None else "      -"


def main(*models: str) -> None:
    if not torch.cuda.is_available():
        raise SystemExit(
            "There is no GPU here that PyTorch can use, so nothing was measured. On a CPU, benchmarks/speed.py "
            "measures tiny-sd, and benchmarks/loading.py a step of Stable Diffusion."
        )
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {datetime.date.today()}")
    for model in models or ("sd1.5", "sdxl"):
        with TemporaryDirectory(prefix="zoti-") as folder:
            name, source = model, Path(folder)
            if model in CONFIGS:
                from loading import write  # beside this file

                write(model, source)
            else:
                source = Path(model)
                pipe = load_pipeline(source, "int8", "cpu")
                name = "sdxl" if hasattr(pipe, "text_encoder_2") else {768: "sd1.5", 1024: "sd2.1"}.get(
                    pipe.text_encoder.config.hidden_size, "tiny-sd")  # fmt: skip
            for line in report(name, source, "cuda"):
                print(line, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
