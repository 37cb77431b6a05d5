"""The committed weights against their bars (data/tiny-sd/README.md), measured here and now on what is committed."""

import json
import random
from collections import Counter

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file
from transformers import ResNetForImageClassification

from zoti import ConceptToken, Config, DenoisingLoss, PartialUniform, ZOAdam, cache_latents, invert, load_pipeline
from zoti.data import DATA, load_subject
from zoti.identity import fingerprint
from zoti.metrics import Metrics

FIGURES = json.loads((DATA / "tiny-sd" / "figures.json").read_text())
FACTS = json.loads((DATA / "scenes" / "scenes.json").read_text())


@pytest.fixture(scope="module")
def tiny():
    pipe = StableDiffusionPipeline.from_pretrained(DATA / "tiny-sd")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def scenes() -> list[Image.Image]:
    whole = Image.open(DATA / "scenes" / "scenes.png").convert("RGB")
    boxes = [(x, y, x + 64, y + 64) for y in range(0, whole.height, 64) for x in range(0, whole.width, 64)]
    return [whole.crop(box) for box in boxes]


def psnr(pipe, images: list[Image.Image]) -> float:
    x = pipe.image_processor.preprocess(images)
    with torch.inference_mode():
        y = pipe.vae.decode(pipe.vae.encode(x).latent_dist.mean).sample.clamp(-1, 1)
    return float((-10 * ((x - y) / 2).square().mean((1, 2, 3)).log10()).mean())


def recognise(images: list[Image.Image]) -> list[set[str]]:
    """The classifier's best concept, setting and colour (one of the seven) for each picture."""
    judge = ResNetForImageClassification.from_pretrained(DATA / "judges" / "classifier", dtype=torch.float32).eval()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (
        [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]))  # fmt: skip
    x = torch.from_numpy(np.stack([np.asarray(i) for i in images])).permute(0, 3, 1, 2) / 255
    with torch.inference_mode():
        logits = judge((x - mean) / std).logits
    names = judge.config.id2label
    concepts = len(names) - 10 - 8
    parts = [range(concepts), range(concepts, concepts + 10), range(concepts + 10, len(names) - 1)]
    return [{names[part[int(row[list(part)].argmax())]] for part in parts} for row in logits]


def test_folder_is_a_plain_pipeline_of_at_most_45_mb(tiny):
    assert type(tiny.unet).__name__ == "UNet2DConditionModel"
    assert type(tiny.vae).__name__ == "AutoencoderKL"
    assert type(tiny.text_encoder).__name__ == "CLIPTextModel"
    assert tiny.text_encoder.config.hidden_size == 256
    assert tiny.scheduler.config.prediction_type == "epsilon"
    weights = [p for folder in ("tiny-sd", "judges") for p in (DATA / folder).rglob("*.safetensors")]
    assert sum(p.stat().st_size for p in weights) <= 45e6
    assert not [p for p in DATA.rglob("*") if p.suffix in {".bin", ".pt", ".pth", ".ckpt", ".pkl"}]


def test_reconstruction_of_scenes_never_trained_on(tiny, scenes):
    assert psnr(tiny, scenes) >= 26


def test_the_judge_knows_the_real_world(scenes):
    found = recognise(scenes)
    for kind, bar in (("concept", 0.95), ("setting", 0.97), ("colour", 0.9)):
        right = [fact[kind] in names for fact, names in zip(FACTS, found, strict=True) if fact[kind]]
        assert np.mean(right) >= bar, kind


@pytest.mark.slow
def test_paintings_obey_their_prompts(tiny):
    colours = sorted({f["colour"] for f in FACTS if f["colour"]})
    concepts, settings = (sorted({f[k] for f in FACTS}) for k in ("concept", "setting"))
    dice = random.Random(4)
    asked = [(dice.choice(concepts), dice.choice(settings), dice.choice(colours)) for _ in range(200)]
    prompts = [f"{'an' if c[0] in 'aeiou' else 'a'} {c} {thing} {place}" for thing, place, c in asked]
    chance, images = torch.Generator().manual_seed(7), []
    for i in range(0, 200, 50):
        images += tiny(prompts[i : i + 50], num_inference_steps=25, guidance_scale=4.0, generator=chance).images
    found = recognise(images)
    for i, (kind, bar) in enumerate((("concept", 0.80), ("setting", 0.95), ("colour", 0.85))):
        share = np.mean([ask[i] in names for ask, names in zip(asked, found, strict=True)])
        assert share >= bar, (kind, share)
    # a mean would hide two words that changed places: no concept asked for twice or more is missed each time
    known = {ask[0] for ask, names in zip(asked, found, strict=True) if ask[0] in names}
    often = {thing for thing, times in Counter(ask[0] for ask in asked).items() if times > 1}
    assert often - known == set()


def fingerprint_of(folder: str) -> str:
    files = sorted((DATA / folder).glob("*/*.safetensors"))
    return fingerprint({f"{file.parent.name}.{k}": v for file in files for k, v in load_file(file).items()})[:12]


def test_the_figures_are_of_these_weights_and_by_these_judges():
    assert FIGURES["weights"] == fingerprint_of("tiny-sd")
    assert FIGURES["judges"] == fingerprint_of("judges")
    assert f"`{FIGURES['weights']}`" in (DATA / "tiny-sd" / "README.md").read_text()
    assert sorted(FIGURES["subjects"]) == sorted(path.name for path in (DATA / "subjects").iterdir())


def drawn_by_the_weights() -> list[str]:
    return random.Random(FIGURES["weights"]).sample(sorted(FIGURES["subjects"]), 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", drawn_by_the_weights())
def test_a_word_by_forward_passes_is_as_like_its_truth_as_the_figures_say(name):
    """Rounding differs between processors, and a run of a thousand steps with it: words agree about, not to the bit."""
    subject, pipe = load_subject(name), load_pipeline("tiny-sd", weights="int8")
    pipe.set_progress_bar_config(disable=True)
    token, latents = ConceptToken(pipe, "<new>", subject.class_word), cache_latents(pipe, subject.references)
    objective = DenoisingLoss(pipe, token, latents, subject.captions, PartialUniform(500, 900))
    *_, last = invert(objective, Config(steps=1000, mu=FIGURES["mu"], optimizer=ZOAdam(lr=FIGURES["lr"])))
    token.write(last.theta)
    prompts = [caption.replace("{}", "<new>") for caption in subject.truth_captions]
    chance = torch.Generator().manual_seed(0)
    images = pipe(prompts, num_inference_steps=25, guidance_scale=4.0, generator=chance).images
    judge = Metrics.load()
    own, truth = judge.dino_features(images[:16]), judge.dino_features(subject.truth[:16])
    told = FIGURES["subjects"][name]["forward only"][0]["paired"]  # of seed 0
    assert float(torch.cosine_similarity(own, truth).mean()) == pytest.approx(told, abs=0.12)


def test_int8_changes_a_picture_but_little(tiny):
    eight, prompt = load_pipeline("tiny-sd", weights="int8"), ["a red fox in the snow"] * 4
    two = [np.stack([np.asarray(i, dtype=float) for i in p(
        prompt, num_inference_steps=10, guidance_scale=4.0, generator=torch.Generator().manual_seed(0)).images])
        for p in (tiny, eight)]  # fmt: skip
    assert 0 < np.abs(two[0] - two[1]).mean() < 6


@pytest.mark.parametrize("kind", ["subjects", "styles"])
def test_every_subject_is_whole(kind):
    import hashlib

    names = sorted(p.name for p in (DATA / kind).iterdir())
    assert len(names) >= {"subjects": 12, "styles": 2}[kind]
    for name in names:
        subject = load_subject(name, kind)
        assert len(subject.references) == len(subject.captions) == 5
        assert len(subject.truth) == len(subject.truth_captions) == (24 if kind == "subjects" else 0)
        assert all("{}" in c for c in subject.captions + subject.truth_captions)
        facts = json.loads((DATA / kind / name / "subject.json").read_text())
        assert facts["licence"]
        for file, checksum in facts["sha256"].items():
            assert hashlib.sha256((DATA / kind / name / file).read_bytes()).hexdigest() == checksum


def test_an_unknown_subject_is_told_the_known_ones():
    with pytest.raises(ValueError, match="teapot"):
        load_subject("teacup")
