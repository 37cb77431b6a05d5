"""Pictures and captions: read as a viewer shows them, and encoded once."""

import pytest
import torch
from PIL import Image, ImageOps

from tests.helpers import generator, noise_images, problem
from zoti import ConceptToken, Config, DenoisingLoss, PartialUniform, cache_latents, invert, load_pipeline
from zoti.data import OBJECT_TEMPLATES, STYLE_TEMPLATES, load_subject


@pytest.mark.parametrize("templates", [OBJECT_TEMPLATES, STYLE_TEMPLATES])
def test_templates_say_the_word_once_in_words_tiny_sd_knows_and_serve_as_captions(pipe, templates):
    for template in templates:
        assert template.count("{}") == 1
        words = template.replace("{}", "").split()
        assert len(pipe.tokenizer(template.replace("{}", ""), add_special_tokens=False).input_ids) == len(words)
    token, images = ConceptToken(pipe, "<new>", "teapot", vectors=2), noise_images(3)
    objective = DenoisingLoss(
        pipe, token, cache_latents(pipe, images), templates[: len(images)], PartialUniform(0, 1000)
    )
    assert len(set(objective.prompts)) == 3
    assert [s.theta.shape for s in invert(objective, Config(steps=2))] == [(2, 32)] * 2


def test_style_pictures_with_captions_of_their_own_make_an_objective(pipe):
    style = load_subject("openmoji", "styles")
    token = ConceptToken(pipe, "<new>", style.class_word)
    objective = DenoisingLoss(
        pipe, token, cache_latents(pipe, style.references), style.captions, PartialUniform(0, 1000)
    )
    assert "a <new> fox in the ocean" in objective.prompts
    assert next(invert(objective, Config())).loss > 0


def test_latents_are_the_vaes_distribution_shifted_and_scaled(pipe):
    plain = cache_latents(pipe, noise_images())
    fitted = [ImageOps.fit(image, (16, 16), Image.Resampling.LANCZOS) for image in noise_images()]
    posterior = pipe.vae.encode(pipe.image_processor.preprocess(fitted)).latent_dist
    torch.testing.assert_close(plain.std, posterior.std * pipe.vae.config.scaling_factor)
    draw = problem(pipe).draw(generator())
    assert not torch.equal(draw.z[0], plain.mean[draw.image])
    scale = pipe.vae.config.scaling_factor
    pipe.vae.register_to_config(shift_factor=0.3, scaling_factor=0.5)
    latents = cache_latents(pipe, noise_images())
    torch.testing.assert_close(latents.mean, (plain.mean / scale - 0.3) * 0.5)
    torch.testing.assert_close(latents.std, plain.std / scale * 0.5)
    draws = latents.sample(torch.full((4000,), 1), generator())
    torch.testing.assert_close(draws.std(0), latents.std[1], rtol=0.1, atol=0)
    assert (draws.mean(0) - latents.mean[1]).abs().lt(0.1 * latents.std[1]).all()


def test_an_sdxl_pipeline_in_half_precision_encodes_pictures_in_full_and_paints(xl, tmp_path):
    xl.save_pretrained(tmp_path)
    half = load_pipeline(tmp_path).to(torch.float16)
    latents = cache_latents(half, noise_images())
    assert half.vae.dtype == torch.float16
    assert half("a teapot", num_inference_steps=1, guidance_scale=2.0).images[0].size == (16, 16)
    half.vae.to(torch.float32)  # fp16's weights in fp32: what the VAE should have computed with
    assert torch.equal(latents.mean, cache_latents(half, noise_images()).mean)
