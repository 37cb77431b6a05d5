"""Scores against features made by hand, and a bootstrap that covers what it promises."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers.utils import logging

from tests import helpers
from tests.helpers import generator
from zoti.data import load_subject
from zoti.metrics import Metrics, bootstrap, inter_cosine, mean_cosine

randn = partial(helpers.randn, dtype=torch.float64)


@pytest.fixture(scope="module")
def judge() -> Metrics:
    logging.enable_progress_bar()
    return Metrics.load()


@pytest.fixture(scope="module")
def teapot():
    return load_subject("teapot")


def test_the_judges_are_opened_without_a_bar_in_the_notebook(judge):
    assert not logging.is_progress_bar_enabled()


def test_likeness_within_a_set_leaves_out_each_with_itself():
    a = randn(7, 5)
    pairs = [float(torch.cosine_similarity(a[i], a[j], dim=0)) for i in range(7) for j in range(7) if i != j]
    assert inter_cosine(a) == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)
    assert inter_cosine(torch.eye(4, dtype=torch.float64)) == pytest.approx(0, abs=1e-12)
    assert inter_cosine(a[:1].repeat(3, 1)) == pytest.approx(1, abs=1e-12)
    assert mean_cosine(a, a) > inter_cosine(a)


def test_scores_are_the_four_numbers_with_each_picture_encoded_once(judge, teapot, monkeypatch):
    images, prompts = teapot.truth[:4], [c.replace("{}", teapot.class_word) for c in teapot.truth_captions[:4]]
    apart = {
        "CLIP-I": judge.clip_i(images, teapot.references),
        "CLIP-T": judge.clip_t(images, prompts),
        "DINO": judge.dino_score(images, teapot.references),
        "DINO_inter": judge.dino_inter(images),
    }
    asked, encode = [], judge.dino_features
    monkeypatch.setattr(judge, "dino_features", lambda images: asked.append(len(images)) or encode(images))
    assert judge.scores(images, teapot.references, prompts) == pytest.approx(apart, abs=1e-6)
    assert asked == [4, 5]


def by_hand(image: Image.Image, processor) -> torch.Tensor:
    """Shortest edge to size, the middle cut out, mean and deviation: pixels (3, h, w) as both papers prepare them."""
    image, edge, cut = image.convert("RGB"), processor.size["shortest_edge"], processor.crop_size["height"]
    w, h = (int(side * edge / min(image.size)) for side in image.size)
    left, top = (w - cut) // 2, (h - cut) // 2
    image = image.resize((w, h), Image.Resampling.BICUBIC).crop((left, top, left + cut, top + cut))
    pixels = (np.asarray(image) / 255 - processor.image_mean) / processor.image_std
    return torch.tensor(pixels, dtype=torch.float32).permute(2, 0, 1)


def test_features_are_those_of_the_models_own_forward_on_pixels_made_by_hand(judge):
    """CLIP's logits are cosines times a scale; DINOv2's pooled output is its class token."""
    noise = np.random.default_rng(0)
    images = [Image.fromarray(noise.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in ((100, 150), (80, 70))]
    prompts = ["a photo of a teapot", "a red cube in the snow"]
    words = judge.tokenizer(prompts, padding=True, return_tensors="pt")
    for_clip, for_dino = (
        torch.stack([by_hand(image, processor) for image in images])
        for processor in (judge.clip_images, judge.dino_images)
    )
    with torch.inference_mode():
        out = judge.clip(input_ids=words["input_ids"], attention_mask=words["attention_mask"], pixel_values=for_clip)
        class_token = judge.dino(pixel_values=for_dino).pooler_output
        cosines = out.logits_per_image / judge.clip.logit_scale.exp()
    normal = torch.nn.functional.normalize
    torch.testing.assert_close(normal(judge.clip_features(images)), out.image_embeds, atol=1e-5, rtol=0)
    torch.testing.assert_close(normal(judge.text_features(prompts)), out.text_embeds, atol=1e-5, rtol=0)
    torch.testing.assert_close(judge.dino_features(images), class_token, atol=1e-4, rtol=0)
    assert judge.clip_t(images, prompts) == pytest.approx(float(cosines.diag().mean()), abs=1e-5)


def test_a_prompt_that_is_too_long_is_cut(judge):
    long = "a teapot " * 100
    torch.testing.assert_close(judge.text_features([long]), judge.text_features([long + "on Mars"]))


def test_the_truth_is_more_like_itself_than_another_subject_is(judge, teapot):
    other = load_subject("octopus").truth
    assert judge.clip_inter(teapot.truth) > judge.clip_i(other, teapot.truth)
    assert judge.dino_inter(teapot.truth) > judge.dino_score(other, teapot.truth)
    features = judge.clip_features(teapot.truth)
    assert judge.clip_inter(teapot.truth) == pytest.approx(inter_cosine(features), abs=1e-6)


def test_its_own_prompts_fit_better_than_those_of_its_neighbours(judge, teapot):
    prompts = [c.replace("{}", teapot.class_word) for c in teapot.truth_captions]
    assert judge.clip_t(teapot.truth, prompts) > judge.clip_t(teapot.truth, prompts[1:] + prompts[:1])


def test_bad_sets_are_refused(judge, teapot):
    images = teapot.truth[:2]
    for call in (
        lambda: judge.clip_i([], images),
        lambda: judge.clip_i(images, []),
        lambda: judge.clip_t([], []),
        lambda: judge.dino_score(images, []),
        lambda: judge.dino_inter([]),
        lambda: judge.scores(images, [], ["a teapot"] * 2),
    ):
        with pytest.raises(ValueError, match="empty"):
            call()
    for call in (
        lambda: judge.clip_t(images, ["a teapot"]),  # one prompt would broadcast without a word
        lambda: judge.clip_t(images, ["a teapot"] * 3),
        lambda: judge.scores(images, images, ["a teapot"]),
    ):
        with pytest.raises(ValueError, match="for 2 pictures"):
            call()
    for call in (judge.dino_inter, judge.clip_inter):
        with pytest.raises(ValueError, match="two pictures"):
            call(images[:1])


def test_bootstrap_covers_the_mean_as_often_as_it_says():
    chance, samples = generator(1), randn(400, 60, seed=2)
    intervals = [bootstrap(sample, chance, 0.9, resamples=500) for sample in samples]
    covered = sum(low < 0 < high for low, high in intervals) / 400
    assert abs(covered - 0.9) < 4 * (0.9 * 0.1 / 400) ** 0.5 + 0.01  # percentiles of 60 are a little short


def test_bootstrap_has_the_width_of_a_normal_interval():
    sample = randn(1000, seed=3)
    low, high = bootstrap(sample, generator(), resamples=20_000)
    half = 1.959964 * float(sample.std(correction=0)) / 1000**0.5
    assert low == pytest.approx(float(sample.mean()) - half, abs=0.03 * half)
    assert high == pytest.approx(float(sample.mean()) + half, abs=0.03 * half)


@given(seed=st.integers(0, 1000), scale=st.floats(0.1, 10), shift=st.floats(-5, 5))
def test_bootstrap_moves_with_its_scores_and_asks_no_other_dice(seed, scale, shift):
    sample, before = randn(6, seed=seed), torch.get_rng_state()
    plain = bootstrap(sample, generator(seed), resamples=200)
    moved = bootstrap(scale * sample + shift, generator(seed), resamples=200)
    assert moved == pytest.approx([scale * end + shift for end in plain], abs=1e-9)
    assert sample.min() <= plain[0] <= plain[1] <= sample.max()
    assert plain == bootstrap(sample.tolist(), generator(seed), resamples=200)
    assert torch.equal(torch.get_rng_state(), before)


def test_rows_of_a_table_are_drawn_whole():
    subjects = randn(5, 1, seed=4).expand(5, 30)  # thirty seeds that tell the same story
    assert bootstrap(subjects, generator()) == pytest.approx(bootstrap(subjects[:, 0], generator()), abs=1e-12)
    low, high = bootstrap(subjects.flatten(), generator())
    wide = bootstrap(subjects, generator())
    assert high - low < 0.4 * (wide[1] - wide[0])  # as 150 independent scores they would pretend to know


@pytest.mark.parametrize(("scores", "level"), [([], 0.95), ([0.3], 0.95), ([0.3, 0.4], 0.0), ([0.3, 0.4], 95)])
def test_bootstrap_rejects(scores, level):
    with pytest.raises(ValueError, match=r"two or more|between 0 and 1"):
        bootstrap(scores, generator(), level)
