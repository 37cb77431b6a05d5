"""Opening a pipeline: which are read, which refused, and what stays in memory afterwards."""

from pathlib import Path

import pytest
import torch

from tests.helpers import noise_images, pairs
from zoti import (
    PRESETS,
    ConceptToken,
    Config,
    DenoisingLoss,
    PartialUniform,
    cache_latents,
    footprint,
    invert,
    load_pipeline,
)


@pytest.mark.parametrize("weights", ["int8", "none"])
def test_a_folder_of_sdxl_loads_with_all_its_parts_quantized(xl, tmp_path, weights):
    xl.save_pretrained(tmp_path)
    loaded = load_pipeline(tmp_path, weights)
    for module in (loaded.unet, loaded.vae, loaded.text_encoder, loaded.text_encoder_2):
        assert (footprint(module).get("int8", 0) > 0) == (weights == "int8")
        assert not module.training
        assert not any(p.requires_grad for p in module.parameters())
    token = ConceptToken(loaded, "<new>", "teapot")
    assert len(loaded("a <new>", num_inference_steps=1, guidance_scale=2.0).images) == 1
    objective = DenoisingLoss(loaded, token, cache_latents(loaded, noise_images()), ["a {}"], PartialUniform(700, 900))
    assert next(invert(objective, Config(mu=1e-2))).loss > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU computes in half precision")
@pytest.mark.parametrize("weights", ["int8", "none"])
def test_what_is_stored_in_half_precision_computes_in_full_on_a_cpu(any_pipe, tmp_path, weights):
    any_pipe.to(torch.float16).save_pretrained(tmp_path)
    loaded = load_pipeline(tmp_path, weights)
    networks = [loaded.unet, loaded.vae, *(encoder for _, encoder in pairs(loaded))]
    assert {p.dtype for network in networks for p in network.parameters()} == {torch.float32}


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="Linux lists what is mapped there")
def test_once_quantized_no_file_of_full_weights_stays_in_memory(xl, tmp_path):
    xl.save_pretrained(tmp_path)
    loaded, maps = load_pipeline(tmp_path), Path("/proc/self/maps").read_text()
    assert loaded.unet.conv_in.kind == "int8"
    assert str(tmp_path) not in maps


def test_the_presets_are_the_papers():
    told = {name: (p.mu, p.lr, p.low, p.high, p.steps) for name, p in PRESETS.items()}
    assert told["sd1.5"] == (1e-3, 5e-3, 500, 900, 30_000)
    assert told["sd2.1"] == (1e-2, 1e-2, 500, 900, 30_000)
    assert told["sdxl"] == (1e-2, 5e-3, 700, 900, 20_000)


def test_a_path_without_a_pipeline_in_safetensors_is_refused(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "pickles", safe_serialization=False)
    pipe.save_pretrained(tmp_path / "cut")
    (tmp_path / "cut" / "text_encoder" / "model.safetensors").write_bytes(b"cut")
    for path in (tmp_path, tmp_path / "pickles", tmp_path / "cut", "no such model!", ""):
        with pytest.raises(ValueError, match=r"no diffusers pipeline .* give one of tiny-sd, .*sdxl, a folder"):
            load_pipeline(path)


def test_pipelines_of_another_kind_are_refused(pipe, tmp_path):
    from diffusers import StableDiffusionImg2ImgPipeline

    StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is a StableDiffusionImg2ImgPipeline"):
        load_pipeline(tmp_path)
