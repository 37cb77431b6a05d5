"""Measure what tiny-sd does with prompts of words it was taught: `python obedience.py` -> logs/obedience.json.

On the exported weights, as a user loads them, over three seeds; the spread is the standard deviation between seeds.

concept, setting, colour    the classifier finds them in paintings of the 64 things with short names
of 200 things               the judge finds the thing among 200 in a painting of it, and in real scenes: its ceiling.
                            CLIP by the thing's name; DINO by which thing's scenes a picture is nearest to
frechet                     between DINO features of 900 paintings and of as many scenes, and of scenes and others
"""

import json
import statistics

import numpy as np
import torch
import torch.nn.functional as F
from artwork import BUILD, CONCEPTS, HERE
from diffusers import StableDiffusionPipeline
from evaluate import DATA, key, paint, recognise, sheet
from PIL import Image
from torchmetrics.image.fid import FrechetInceptionDistance
from train_vae import to_tensor
from world import COLOURS, SETTINGS, World, caption, said

from zoti.metrics import Metrics

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


def of_200_things(pipe, world: World, judge: Metrics, seed: int) -> dict[str, float]:
    """The share of 200 things, drawn once from all, that a judge finds among the 200: in paintings, in real scenes."""
    rng, hands = np.random.default_rng(2029), {}
    for style, concept in world.every:
        hands.setdefault(said(concept), []).append((style, concept))
    things = [sorted(hands)[i] for i in rng.choice(len(hands), 200, replace=False)]
    rng = np.random.default_rng((seed, 2))
    settings = rng.choice(list(SETTINGS), 200)
    prompts = [caption(thing, setting) for thing, setting in zip(things, settings, strict=True)]
    painted = [image for i in range(0, 200, 50) for image in paint(pipe, prompts[i : i + 50], seed + i)]

    def scenes(thing: str, settings: list[str]) -> list[Image.Image]:
        drawn = [hands[thing][i] for i in rng.integers(len(hands[thing]), size=len(settings))]
        pairs = zip(drawn, settings, strict=True)
        return [Image.fromarray(world.compose(rng, world.drawing(*pair), s)) for pair, s in pairs]

    real = [scenes(thing, [setting])[0] for thing, setting in zip(things, settings, strict=True)]
    words = {s: F.normalize(judge.text_features([caption(t, s) for t in things]), dim=1) for s in SETTINGS}
    looks = torch.stack([judge.dino_features(scenes(t, list(SETTINGS))) for t in things])  # (things, settings, d)
    looks = F.normalize(F.normalize(looks, dim=2).mean(1), dim=1)
    out, index = {}, torch.arange(200)
    for what, images in (("painted", painted), ("real", real)):
        named = torch.stack([words[s] @ f for s, f in zip(settings, judge.clip_features(images), strict=True)])
        nearest = judge.dino_features(images) @ looks.T
        out |= {f"clip_{what}": named, f"dino_{what}": nearest}
    return {k: float((scores.argmax(1) == index).double().mean()) for k, scores in out.items()}


def frechet(judge: Metrics, one: list, other: list) -> float:
    """The Fréchet distance between DINO's features of two sets of pictures."""
    features = torch.nn.Identity()
    features.num_features = judge.dino.config.hidden_size
    distance = FrechetInceptionDistance(features)
    distance.update(judge.dino_features(one), real=True)
    distance.update(judge.dino_features(other), real=False)
    return float(distance.compute())


def main() -> None:
    pipe = StableDiffusionPipeline.from_pretrained(DATA / "tiny-sd")
    pipe.set_progress_bar_config(disable=True)
    world = World()
    unseen = [pair for pair in (name.split("/") for name in world.drawings) if pair[0] == "emojione"]
    real = [world.sample(np.random.default_rng((s, 1))) for s in range(5000, 6800)]
    scenes, judge = [Image.fromarray(s.pixels) for s in real], Metrics.load()
    found = recognise(scenes)
    runs = [obedience(pipe, seed) for seed in SEEDS]
    sheet(runs[0][1][:96], 16, BUILD / "obedience.png")
    many = [of_200_things(pipe, world, judge, seed) for seed in SEEDS]
    painted = [image for _, images in runs for image in images]
    figures = {
        "weights": key(),
        "judges": key("judges"),
        "psnr": spread([psnr(pipe, world, s, world.every) for s in SEEDS]),
        "psnr_held_out": spread([psnr(pipe, world, s, unseen) for s in SEEDS]),
        "judge_on_real": {
            "concept": sum(s.concept == f[0] for s, f in zip(real, found, strict=True)) / len(real),
            "setting": sum(s.setting == f[2] for s, f in zip(real, found, strict=True)) / len(real),
            "colour": statistics.mean(s.colour == f[1] for s, f in zip(real, found, strict=True) if s.colour),
        },
        "of_200_things": {who: spread([found[who] for found in many]) for who in many[0]},
        "frechet": round(frechet(judge, scenes[:900], painted), 2),
        "frechet_of_real": round(frechet(judge, scenes[:900], scenes[900:]), 2),
        **{k: spread([run[k] for run, _ in runs]) for k in ("concept", "colour", "setting")},
    }
    print(figures)
    (HERE / "logs" / "obedience.json").write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
