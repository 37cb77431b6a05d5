"""Steps per second and memory of one word's training on tiny-sd: `python benchmarks/speed.py [rounds]`. On an idle
machine; ten rounds take about two minutes. Threads are PyTorch's own choice, or OMP_NUM_THREADS.

The contestants take turns within each round, so that whatever else the machine does meets all of them; a ratio is taken
within a round, and its median and quartiles over the rounds are what counts. `seconds` are the wall's, `CPU` the
process's. Memory is what a process of its own holds at most during the steps, model included, beyond what it held
before the model was loaded (resident high-water mark, Linux only).

A step of `invert` on one thread of a busy machine, CPU ms: U-Net 23 (4 of them Python's, 4 dequantising), text encoder
3.8, everything else 0.3. What was tried, in ms of that step:

- taken: three candidates in one batch instead of three calls, -20; cached latents, no VAE in the loop, -4.6; the
  U-Net's dtype read off its first parameter (`unet.dtype` asks a thousand modules), -1
- not taken, for what it costs: replaying a `torch.jit.trace` of the U-Net, -6 to -8 with the same bits, but its graph
  holds 30 to 40 MB, three times the rest of the run, and PyTorch deprecates it; `torch.compile`, -4, for 20 s of CPU
  and a C++ compiler (-2 for 4 s without one)
- not taken either: convolutions of few pixels as products with patches, weights stored channels last, -3, but with a
  single candidate +2, and PyTorch has no forward-mode derivative of group_norm for what it gives; `torch.export`, 0,
  and a flat `make_fx` graph, -1
- tried for the multiplications themselves, which are 1.4 GFLOP, at best 5 ms on two cores here: each activation as the
  sum of three bfloat16 numbers (exact, as INT8 codes are bfloat16 numbers too), so that AMX can multiply them: the same
  bits to 1e-7, and no faster, oneDNN's conversions take longer than fp32's multiplications
- not worth it: what precedes the first cross-attention computed once for all (6 % of the multiplications), -1.2 at
  most; channels_last, -0.4 to -1.4; scales folded into a layer's output, -0.9 at most, where fp16 would overflow; text
  states before the word cached (two or three of 32 positions), -0.3 at most; token ids cached, -0.05; attention
  without SDPA, 0
"""

import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F

from zoti import ConceptToken, Config, DenoisingLoss, PartialUniform, cache_latents, invert, load_pipeline
from zoti.data import load_subject
from zoti.engine import OnnxLoss
from zoti.model import noise_graph

SUBJECT, WORD, MU = load_subject("teapot"), "<new>", 1e-3


def ours() -> Iterator[object]:
    """`invert` as it comes: INT8, RGE n = 2, SG, PUTS. The VAE is gone once the latents are cached."""
    objective = problem("int8")
    objective.pipe.vae = None
    return invert(objective, Config(steps=10**9))


@cache
def graph() -> bytes:
    return noise_graph(load_pipeline("tiny-sd"))


def engine() -> Iterator[object]:
    """The same steps with the noise predicted by onnxruntime, which holds every weight in four bytes (the extra
    'engine')."""
    return invert(problem("int8", graph=graph()), Config(steps=10**9))


def plain() -> Iterator[object]:
    """(a) What the authors' script does in a step, on the same INT8 layers: nothing cached, one candidate at a time."""
    pipe, pixels, prompts, generator, token = start("int8")
    theta, table = token.initial.clone(), pipe.text_encoder.get_input_embeddings().weight
    while True:
        with torch.no_grad():
            ids, z_t, t, noise = noisy(pipe, pixels, prompts, generator, 500, 900)

            def loss(word: torch.Tensor, ids=ids, z_t=z_t, t=t, noise=noise) -> torch.Tensor:
                table[token.token_ids] = word
                return F.mse_loss(pipe.unet(z_t, t, pipe.text_encoder(ids)[0]).sample, noise)

            base, grad = loss(theta), torch.zeros_like(theta)
            for _ in range(2):
                e = torch.randn(theta.shape, generator=generator)
                grad += (loss(theta + MU * e) - base) / MU * e / 2
            theta = theta - 1e-4 * grad
        yield theta


def backpropagation() -> Iterator[object]:
    """(b) diffusers' example script in a step, fp32: the whole table trained, then all words but one put back."""
    pipe, pixels, prompts, generator, token = start("none")
    table = pipe.text_encoder.get_input_embeddings().weight.requires_grad_()
    original, others = table.detach().clone(), torch.ones(len(table), dtype=torch.bool)
    others[token.token_ids] = False
    adam = torch.optim.AdamW([table], lr=5e-4, weight_decay=1e-2)
    while True:
        with torch.no_grad():
            ids, z_t, t, noise = noisy(pipe, pixels, prompts, generator, 0, 1000)
        F.mse_loss(pipe.unet(z_t, t, pipe.text_encoder(ids)[0]).sample, noise).backward()
        adam.step()
        adam.zero_grad()
        with torch.no_grad():
            table[others] = original[others]
        yield table


def evolution() -> Iterator[object]:
    """(c) GF-TI: CMA-ES, thirty candidates a step."""
    from zoti.rivals import gf_ti

    objective = problem("int8")
    objective.pipe.vae = None
    return gf_ti(objective, steps=10**9)


def problem(weights: str, **graph: bytes) -> DenoisingLoss:
    pipe, token = word(weights)
    given = (pipe, token, cache_latents(pipe, SUBJECT.references), SUBJECT.captions, PartialUniform(500, 900))
    return OnnxLoss(DenoisingLoss(*given), **graph) if graph else DenoisingLoss(*given)


def word(weights: str):
    pipe = load_pipeline("tiny-sd", weights=weights)
    return pipe, ConceptToken(pipe, WORD, SUBJECT.class_word)


def start(weights: str):
    """A pipeline, pixels (5, 3, 64, 64), prompts, chance and the token."""
    pipe, token = word(weights)
    pixels = pipe.image_processor.preprocess(SUBJECT.references)
    return pipe, pixels, [c.replace("{}", WORD) for c in SUBJECT.captions], torch.Generator().manual_seed(0), token


def noisy(pipe, pixels, prompts, generator, low: int, high: int):
    """What both scripts prepare in every step: token ids (1, L), z_t, t and noise of a random picture, encoded anew."""
    i = int(torch.randint(len(pixels), (1,), generator=generator))
    z = pipe.vae.encode(pixels[i, None]).latent_dist.sample(generator) * pipe.vae.config.scaling_factor
    length = pipe.tokenizer.model_max_length
    ids = pipe.tokenizer(prompts[i], padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    t = torch.randint(low, high, (1,), generator=generator)
    noise = torch.randn(z.shape, generator=generator)
    return ids.input_ids, pipe.scheduler.add_noise(z, noise, t), t, noise


#: how to begin, and steps per round: about as long for each
CONTESTANTS: dict[str, tuple[Callable[[], Iterator[object]], int]] = {
    "zoti": (ours, 60),
    "zoti, onnxruntime": (engine, 60),
    "(a) plain loop": (plain, 20),
    "(b) backpropagation": (backpropagation, 30),
    "(c) GF-TI": (evolution, 8),
}


def walk(run: Iterator[object], steps: int) -> tuple[float, float]:
    """Milliseconds a step: on the wall, of the CPU."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(steps):
        next(run)
    return (time.perf_counter() - wall) / steps * 1e3, (time.process_time() - cpu) / steps * 1e3


def kilobytes(field: str) -> int:
    return int(re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def hold(name: str) -> None:
    """In a process of its own: print the bytes that the steps of one contestant hold at most."""
    begin, _ = CONTESTANTS[name]
    walk(begin(), 1)  # libraries load; the model of this run dies with it
    before = kilobytes("VmRSS")
    run = begin()
    walk(run, 1)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew: loading is not training
    walk(run, 20)
    print(json.dumps((kilobytes("VmHWM") - before) * 1024))


def memory(name: str) -> int:
    # glibc keeps freed blocks for itself unless told to hand every large one back
    quiet = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    told = subprocess.run(
        [sys.executable, __file__, "--memory", name], env=os.environ | quiet, stdout=subprocess.PIPE, check=True
    )
    return int(told.stdout.splitlines()[-1])


def main(rounds: int = 10) -> None:
    print(f"{torch.get_num_threads()} threads, PyTorch {torch.__version__}, {rounds} rounds")
    runs = {name: begin() for name, (begin, _) in CONTESTANTS.items()}
    for run in runs.values():
        walk(run, 5)  # oneDNN's kernels are made
    times = [{name: walk(runs[name], steps) for name, (_, steps) in CONTESTANTS.items()} for _ in range(rounds)]
    print(f"{'':20}  steps/s  wall ms   CPU ms    zoti is faster by (quartiles)   by onnxruntime      MB")
    for name in CONTESTANTS:
        wall, cpu = (statistics.median(t[name][k] for t in times) for k in (0, 1))
        ratios = [t[name][0] / t["zoti"][0] for t in times]
        low, middle, high = statistics.quantiles(ratios, n=4)
        other = statistics.median(t[name][0] / t["zoti, onnxruntime"][0] for t in times)
        held = memory(name) / 1e6
        print(
            f"{name:20}  {1e3 / wall:7.1f}  {wall:7.1f}  {cpu:7.1f}    {middle:10.2f} ({low:.2f} to {high:.2f})  "
            f"{other:12.2f}  {held:12.1f}",
            flush=True,
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--memory"]:
        hold(sys.argv[2])
    else:
        main(*map(int, sys.argv[1:]))
