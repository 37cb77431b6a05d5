"""Measure what tiny-sd does with prompts of words it was taught: `python obedience.py` -> logs/obedience.json.

On the exported weights, as a user loads them, over three seeds; the spread is the standard deviation between seeds.
"""

import json
import statistics
import time

import numpy as np
import torch
from artwork import BUILD, CONCEPTS, HERE
from diffusers import StableDiffusionPipeline
from evaluate import DATA, key, paint, recognise, sheet
from PIL import Image
from train_vae import to_tensor
from world import COLOURS, SETTINGS, World, caption

SEEDS = (101, 102, 103)  # no training batch was drawn from these


def spread(values: list[float]) -> dict[str, float]:
    return {"mean": round(statistics.mean(values), 4), "sd": round(statistics.stdev(values), 4)}


def psnr(pipe, world: World, seed: int, pairs: list, count: int = 256) -> float:
    """Reconstruction of scenes never trained on, dB; of the drawings of these pairs."""
    rng = np.random.default_rng(seed)
    x = to_tensor([world.sample(rng, pairs).pixels for _ in range(count)])
    with torch.inference_mode():
        y = torch.cat([pipe.vae.decode(pipe.vae.encode(b).latent_dist.mean).sample for b in x.split(64)])
    return float((-10 * ((y.clamp(-1, 1) - x) / 2).square().mean((1, 2, 3)).log10()).mean())


def obedience(pipe, seed: int, count: int = 300) -> tuple[dict[str, float], list]:
    """Share of 'a [colour] [concept] [setting]' in which the classifier finds each of the three."""
    rng = np.random.default_rng(seed)
    facts = [
        (list(CONCEPTS)[i % len(CONCEPTS)], rng.choice(list(COLOURS)), rng.choice(list(SETTINGS)))
        for i in rng.permutation(count)
    ]
    prompts = [caption(concept, setting, colour) for concept, colour, setting in facts]
    images = [image for i in range(0, count, 50) for image in paint(pipe, prompts[i : i + 50], seed + i)]
    found = recognise(images)
    return {
        k: sum(f[j] == g[j] for f, g in zip(facts, found, strict=True)) / count
        for j, k in enumerate(("concept", "colour", "setting"))
    }, images


def forward_ms(pipe, times: int = 100) -> float:
    """Median milliseconds of one U-Net forward of batch 3 on all cores."""
    z, t = torch.randn(3, 32, 8, 8), torch.tensor([500])
    states, laps = pipe.encode_prompt("a fox", "cpu", 1, False)[0].repeat(3, 1, 1), []
    with torch.inference_mode():
        for _ in range(times):
            began = time.perf_counter()
            pipe.unet(z, t, states)
            laps.append(time.perf_counter() - began)
    return 1000 * statistics.median(laps)


def main() -> None:
    pipe = StableDiffusionPipeline.from_pretrained(DATA / "tiny-sd")
    pipe.set_progress_bar_config(disable=True)
    world = World()
    unseen = [pair for pair in (name.split("/") for name in world.drawings) if pair[0] == "emojione"]
    real = [world.sample(np.random.default_rng((s, 1))) for s in range(5000, 5500)]
    found = recognise([Image.fromarray(s.pixels) for s in real])
    runs = [obedience(pipe, seed) for seed in SEEDS]
    sheet(runs[0][1][:96], 16, BUILD / "obedience.png")
    figures = {
        "weights": key(),
        "psnr": spread([psnr(pipe, world, s, world.every) for s in SEEDS]),
        "psnr_held_out": spread([psnr(pipe, world, s, unseen) for s in SEEDS]),
        "judge_on_real": {
            "concept": sum(s.concept == f[0] for s, f in zip(real, found, strict=True)) / len(real),
            "setting": sum(s.setting == f[2] for s, f in zip(real, found, strict=True)) / len(real),
            "colour": statistics.mean(s.colour == f[1] for s, f in zip(real, found, strict=True) if s.colour),
        },
        "forward_ms": round(forward_ms(pipe), 1),
        **{k: spread([run[k] for run, _ in runs]) for k in ("concept", "colour", "setting")},
    }
    print(figures)
    (HERE / "logs" / "obedience.json").write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
