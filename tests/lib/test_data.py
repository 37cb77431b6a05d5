"""Pictures and captions: read as a viewer shows them, and encoded once."""

import pytest
import torch
from PIL import Image, ImageOps, PngImagePlugin

from tests.helpers import generator, noise_images, problem
from zoti import ConceptToken, Config, DenoisingLoss, PartialUniform, cache_latents, invert, load_images, load_pipeline
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


def test_bad_pictures(tmp_path, pipe):
    with pytest.raises(FileNotFoundError, match="no folder"):
        load_images(tmp_path / "absent")
    with pytest.raises(ValueError, match="no images"):
        load_images(tmp_path)
    noise_images(1)[0].save(tmp_path / "a.png")
    (tmp_path / "._a.png").write_bytes(b"\x00\x05\x16\x07")
    assert [i.size for i in load_images(tmp_path)] == [(24, 20)]
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:200])
    with pytest.raises(ValueError, match=r"b\.png"):
        load_images(tmp_path)
    image, exif, told = noise_images(1)[0], Image.Exif(), PngImagePlugin.PngInfo()
    exif[0x0112], exif[0x010F] = 6, "maker" * 5
    image.save(tmp_path / "b.png", "jpeg", exif=exif)
    damaged = (tmp_path / "b.png").read_bytes().replace(b"\x01\x0f\x00\x02", b"\x01\x00\x00\x02")  # a width in letters
    told.add_text("essay", "x" * 2**21, zip=True)
    image.save(tmp_path / "b.png", pnginfo=told)
    for picture in (damaged, (tmp_path / "b.png").read_bytes(), b""):
        (tmp_path / "b.png").write_bytes(picture)
        with pytest.raises(ValueError, match=r"b\.png as a picture; remove it"):
            load_images(tmp_path)
    with pytest.raises(ValueError, match="no images"):
        cache_latents(pipe, [])


def test_pictures_are_read_as_a_viewer_shows_them(tmp_path, pipe):
    shades = torch.arange(0, 65536, 256, dtype=torch.int32).reshape(16, 16).numpy().astype("uint16")
    cut = Image.new("RGBA", (16, 16), (200, 10, 10, 0))  # red, if the transparency were forgotten
    cut.putpixel((3, 4), (0, 0, 255, 255))
    palette = cut.convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE)
    upright = Image.Exif()
    upright[0x0112] = 6
    ink, wide, frame = (
        Image.new("CMYK", (16, 16), (0, 255, 255, 0)),
        noise_images(1)[0],
        Image.new("RGB", (16, 16), "red"),
    )
    Image.fromarray(shades).save(tmp_path / "0 grey.png")
    cut.save(tmp_path / "1 cut.png")
    palette.save(tmp_path / "2 palette.png", transparency=palette.getpixel((0, 0)))
    ink.save(tmp_path / "3 ink.jpg")
    wide.save(tmp_path / "4 wide.jpg", exif=upright)
    frame.save(tmp_path / "5 frames.webp", save_all=True, append_images=[cut.convert("RGB")], lossless=True)
    Image.new("RGB", (1, 1), "red").save(tmp_path / "6 \u65e5\u672c.PNG")
    images = load_images(tmp_path)
    assert {image.mode for image in images} == {"RGB"}
    grey, cut_out, indexed, printed, turned, first, dot = images
    assert list(grey.getchannel("G").tobytes()) == list(range(256))
    for image in (cut_out, indexed):
        assert [image.getpixel(at) for at in ((0, 0), (3, 4))] == [(255, 255, 255), (0, 0, 255)]
    assert turned.size == wide.size[::-1]
    assert all(image.getpixel((0, 0)) == (255, 0, 0) for image in (printed, first, dot))
    assert torch.equal(cache_latents(pipe, [cut]).mean, cache_latents(pipe, [cut_out]).mean)
    assert torch.isfinite(cache_latents(pipe, images).mean).all()


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
