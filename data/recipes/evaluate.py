"""Measure tiny-sd against its bars: `python evaluate.py` -> data/tiny-sd/figures.json and contact sheets in build/.

Everything is measured on the exported weights in data/, as a user loads them, over three seeds; the spread is the
standard deviation between seeds. `--fast` paints a tenth, for a look during training.
"""

import argparse
import json
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import torch
from artwork import BUILD, CONCEPTS, HERE
from diffusers import StableDiffusionPipeline
from engine import PROCESSES
from PIL import Image
from train_judges import pixel_values
from train_vae import to_tensor
from transformers import ResNetForImageClassification
from world import COLOURS, SETTINGS, World, caption

from zoti import ConceptToken, DenoisingLoss, PartialUniform, cache_latents, load_pipeline
from zoti.data import load_subject
from zoti.metrics import Metrics, inter_cosine, mean_cosine
from zoti.rivals import textual_inversion

DATA = HERE.parent
SEEDS = (101, 102, 103)  # no training batch was drawn from these


def spread(values: list[float]) -> dict[str, float]:
    return {"mean": round(statistics.mean(values), 4), "sd": round(statistics.stdev(values), 4)}


def psnr(pipe, world: World, seed: int, count: int = 256) -> float:
    """Reconstruction of scenes never trained on, dB."""
    rng = np.random.default_rng(seed)
    x = to_tensor([world.sample(rng).pixels for _ in range(count)])
    with torch.inference_mode():
        y = torch.cat([pipe.vae.decode(pipe.vae.encode(b).latent_dist.mean).sample for b in x.split(64)])
    return float((-10 * ((y.clamp(-1, 1) - x) / 2).square().mean((1, 2, 3)).log10()).mean())


def paint(pipe, prompts: list[str], seed: int, steps: int = 25, guidance: float = 4.0) -> list[Image.Image]:
    generator = torch.Generator().manual_seed(seed)
    return [
        image
        for i in range(0, len(prompts), 50)
        for image in pipe(
            prompts[i : i + 50], num_inference_steps=steps, guidance_scale=guidance, generator=generator
        ).images
    ]


def obedience(pipe, judge, seed: int, count: int) -> tuple[dict[str, float], list]:
    """Share of 'a [colour] [concept] [setting]' in which the classifier finds each of the three."""
    rng = np.random.default_rng(seed)
    facts = [
        (list(CONCEPTS)[i % len(CONCEPTS)], rng.choice(list(COLOURS)), rng.choice(list(SETTINGS)))
        for i in rng.permutation(count)
    ]
    images = paint(pipe, [caption(concept, setting, colour) for concept, colour, setting in facts], seed)
    found = recognise(judge, [np.asarray(i) for i in images])
    return {
        k: sum(f[j] == g[j] for f, g in zip(facts, found, strict=True)) / count
        for j, k in enumerate(("concept", "colour", "setting"))
    }, images


def forward_ms(pipe, times: int = 100) -> float:
    """Median milliseconds of one U-Net forward of batch 1 on all cores."""
    z, t, states = torch.randn(1, 32, 8, 8), torch.tensor([500]), pipe.encode_prompt("a fox", "cpu", 1, False)[0]
    laps = []
    with torch.inference_mode():
        for _ in range(times):
            began = time.perf_counter()
            pipe.unet(z, t, states)
            laps.append(time.perf_counter() - began)
    return 1000 * statistics.median(laps)


def recognise(judge, pictures: list[np.ndarray]) -> list[tuple[str, str, str]]:
    """(concept, colour, setting) of each picture, colour always one of the seven."""
    with torch.inference_mode():
        logits = torch.cat([judge(pixel_values(pictures[i : i + 100])).logits for i in range(0, len(pictures), 100)])
    concept, setting, colour = logits.split([len(CONCEPTS), len(SETTINGS), len(COLOURS) + 1], dim=1)
    return [
        (list(CONCEPTS)[a], list(COLOURS)[c], list(SETTINGS)[b])
        for a, b, c in zip(concept.argmax(1), setting.argmax(1), colour[:, :-1].argmax(1), strict=True)
    ]


def inversion(name: str) -> dict[str, dict[str, float]]:
    """Textual inversion with backpropagation, at the timesteps that listen to words: likeness of its paintings to the
    truth, of the class word's, and of the truth to itself."""
    metrics, way = Metrics.load(), {}
    subject, pipe = load_subject(name), load_pipeline("tiny-sd", weights="none")
    token = ConceptToken(pipe, "<new>", subject.class_word)
    latents = cache_latents(pipe, subject.references)
    objective = DenoisingLoss(pipe, token, latents, subject.captions, PartialUniform(500, 900))
    *_, last = textual_inversion(objective, steps=500)
    prompts, painted = subject.truth_captions, {}
    for word, theta in (("class", token.initial), ("learned", last.theta)):
        token.write(theta)
        painted[word] = paint(pipe, [p.replace("{}", "<new>") for p in prompts], seed=0)
    for metric, alike in (("dino", metrics.dino_features), ("clip_i", metrics.clip_features)):
        truth = alike(subject.truth)
        scores = {word: mean_cosine(alike(images), truth) for word, images in painted.items()}
        scores["truth"] = inter_cosine(truth)
        way[f"{name}/{metric}"] = {k: round(v, 4) for k, v in scores.items()}
    return way


def share_of_way(ways: dict[str, dict[str, float]], metric: str) -> dict[str, float]:
    """How far the learned words come from the class words (0) to the truth's own likeness (1): of the mean over
    subjects, since some subjects have hardly a way to go; sd by 2,000 bootstrap draws of subjects."""
    scores = np.array([[w[k] for k in ("class", "learned", "truth")] for name, w in ways.items() if metric in name])
    draws = np.random.default_rng(0).integers(0, len(scores), (2000, len(scores)))

    def share(means: np.ndarray) -> np.ndarray:
        return (means[..., 1] - means[..., 0]) / (means[..., 2] - means[..., 0])

    return {"mean": round(float(share(scores.mean(0))), 4), "sd": round(float(share(scores[draws].mean(1)).std()), 4)}


def sheet(images: list[Image.Image], columns: int, path, scale: int = 2) -> None:
    rows = -(-len(images) // columns)
    out = Image.new("RGB", (columns * 66, rows * 66), "white")
    for i, image in enumerate(images):
        out.paste(image, (i % columns * 66 + 1, i // columns * 66 + 1))
    out.resize((out.width * scale, out.height * scale), Image.Resampling.NEAREST).save(path)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--guidance", type=float, default=4.0)
    args = parser.parse_args()
    pipe = StableDiffusionPipeline.from_pretrained(DATA / "tiny-sd")
    pipe.set_progress_bar_config(disable=True)
    world, seeds = World(), SEEDS[:1] if args.fast else SEEDS
    rng = np.random.default_rng(5)
    gallery = [caption(c, list(SETTINGS)[rng.integers(10)]) for c in CONCEPTS]
    began = time.time()
    sheet(paint(pipe, gallery, 0, guidance=args.guidance), 16, BUILD / "gallery.png")
    print(f"gallery {time.time() - began:.0f} s")
    scenes = [world.sample(rng).pixels for _ in range(16)]
    with torch.inference_mode():
        x = to_tensor(scenes)
        y = pipe.vae.decode(pipe.vae.encode(x).latent_dist.mean).sample
    again = [Image.fromarray(a) for a in ((y.permute(0, 2, 3, 1).clamp(-1, 1) + 1) * 127.5).byte().numpy()]
    sheet([Image.fromarray(s) for s in scenes] + again, 16, BUILD / "reconstruction.png")
    figures: dict = {"psnr": [psnr(pipe, world, s) for s in seeds]}
    print(figures)
    if not (DATA / "judges" / "classifier").exists():
        return
    judge = ResNetForImageClassification.from_pretrained(DATA / "judges" / "classifier", dtype=torch.float32).eval()
    real = [world.sample(np.random.default_rng((s, 1))) for s in range(5000, 5500)]
    found = recognise(judge, [s.pixels for s in real])
    figures["judge_on_real"] = {
        "concept": sum(s.concept == f[0] for s, f in zip(real, found, strict=True)) / len(real),
        "setting": sum(s.setting == f[2] for s, f in zip(real, found, strict=True)) / len(real),
        "colour": statistics.mean(s.colour == f[1] for s, f in zip(real, found, strict=True) if s.colour),
    }
    print(figures["judge_on_real"])
    runs = [obedience(pipe, judge, s, 100 if args.fast else 500) for s in seeds]
    sheet(runs[0][1][:96], 16, BUILD / "obedience.png")
    print([r[0] for r in runs])
    if not args.fast:
        figures = {
            "psnr": spread(figures["psnr"]),
            "judge_on_real": figures["judge_on_real"],
            "guidance": args.guidance,
            "forward_ms": round(forward_ms(pipe), 1),
            **{k: spread([r[0][k] for r in runs]) for k in ("concept", "colour", "setting")},
        }
        names, ways = sorted(p.name for p in (DATA / "subjects").iterdir()), {}
        # a process a core, a thread a process: small networks are bound by dispatch
        with ProcessPoolExecutor(PROCESSES, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
            for way in pool.map(inversion, names):
                print(way, flush=True)
                ways |= way
        figures |= {"inversion": ways} | {f"way_{m}": share_of_way(ways, m) for m in ("dino", "clip_i")}
        (DATA / "tiny-sd" / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
