"""Opening a pipeline: which are read, which refused, and what stays in memory afterwards."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load, save_file

import zoti
from tests.helpers import KINDS, alike, noise_images, painted, pairs, tensors_of
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
    quantize_,
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


def test_the_presets_are_the_papers():
    told = {name: (p.mu, p.lr, p.low, p.high, p.steps) for name, p in PRESETS.items()}
    assert told["sd1.5"] == (1e-3, 5e-3, 500, 900, 30_000)
    assert told["sd2.1"] == (1e-2, 1e-2, 500, 900, 30_000)
    assert told["sdxl"] == (1e-2, 5e-3, 700, 900, 20_000)


def test_a_path_without_a_pipeline_in_safetensors_is_refused(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "pickles", safe_serialization=False)
    pipe.save_pretrained(tmp_path / "cut")
    (tmp_path / "cut" / "text_encoder" / "model.safetensors").write_bytes(b"cut")
    pipe.save_pretrained(tmp_path / "lacking")
    (tmp_path / "lacking" / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    for name in ("word.safetensors", "words.pt", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    for path, match in {
        tmp_path: r"no model_index.json; it has single files; give one: word.safetensors",
        tmp_path / "cut" / "tokenizer": "no model_index.json; give the folder of one",
        tmp_path / "pickles": "pickles only.*save_pretrained",
        tmp_path / "cut": "cannot be read; fetch or save it again",
        tmp_path / "lacking": "unet has no weights",
        tmp_path / "words.pt": "is a pickle",
        tmp_path / "notes.txt": "no checkpoint",
        tmp_path / "word.safetensors": "cannot be read",
        "no such model!": "there is no folder or file 'no such model!'; give a folder",
        "": "there is no folder or file ''",
    }.items():
        with pytest.raises(ValueError, match=match):
            load_pipeline(path)


@pytest.mark.parametrize(
    "written, meant",
    [("SD1.5", "sd1.5"), ("sd_15", "sd1.5"), ("sd-2.1", "sd2.1"), ("SDXL 1.0", "sdxl"), ("TinySD", "tiny-sd")],
)
def test_a_near_miss_is_told_what_was_meant(written, meant):
    with pytest.raises(ValueError, match=f"did you mean {meant!r}"):
        load_pipeline(written)


def test_pipelines_of_another_kind_are_refused(pipe, tmp_path):
    from diffusers import StableDiffusionImg2ImgPipeline

    StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is a StableDiffusionImg2ImgPipeline"):
        load_pipeline(tmp_path)


@pytest.mark.parametrize("weights", [*KINDS, "nf4+int4"])
def test_a_quantized_pipeline_is_saved_and_comes_back_bit_for_bit(any_pipe, tmp_path, weights):
    any_pipe.save_pretrained(tmp_path / "full")
    quantized = load_pipeline(tmp_path / "full", weights, device="cpu")
    ConceptToken(quantized, "<new>", "teapot")  # a new row in the table, a new word in the tokenizer
    quantized.save_pretrained(tmp_path / "few")
    back = load_pipeline(tmp_path / "few", device="cpu")
    assert alike(back, quantized)
    assert (painted(back) == painted(quantized)).all()
    assert type(back.unet.conv_in) is type(quantized.unet.conv_in)
    size = {name: sum(f.stat().st_size for f in (tmp_path / name).rglob("*.safetensors")) for name in ("full", "few")}
    assert size["few"] < 0.75 * size["full"]  # of networks as small as these the table of words is the half
    assert alike(load_pipeline(tmp_path / "few", weights, device="cpu"), quantized)
    for other in {"none", "int8", "int4"} - {weights}:
        with pytest.raises(ValueError, match=f"saved with weights='{re.escape(weights)}'.*cannot become '{other}'"):
            load_pipeline(tmp_path / "few", other)
    with pytest.raises(ValueError, match="zoti"):  # instead of a picture of random weights
        type(any_pipe).from_pretrained(tmp_path / "few")


def test_a_net_quantized_in_part_is_no_pipeline(pipe, tmp_path):
    quantize_(pipe.unet.down_blocks)
    pipe.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"unet was quantized in part.*quantize the whole"):
        load_pipeline(tmp_path)


def test_what_others_quantized_is_refused(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    config = tmp_path / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"quantization_config": {"quant_method": "torchao"}}))
    with pytest.raises(ValueError, match="quantized by torchao"):
        load_pipeline(tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        ["{}.fp16.safetensors"],
        ["{}.fp16-00001-of-00002.safetensors", "{}.fp16-00002-of-00002.safetensors"],
        ["{}-00001-of-00002.fp16.safetensors", "{}-00002-of-00002.fp16.safetensors"],
        ["{}-00001-of-00003.safetensors", "{}-00002-of-00003.safetensors", "{}-00003-of-00003.safetensors"],
    ],
)
def test_variants_and_shards_are_found(pipe, tmp_path, names):
    pipe.save_pretrained(tmp_path)
    expected = load_pipeline(tmp_path)
    for path in list(tmp_path.rglob("*.safetensors")):
        tensors = load(path.read_bytes())
        path.unlink()
        for i, name in enumerate(names):
            save_file(dict(list(tensors.items())[i :: len(names)]), path.with_name(name.format(path.stem)))
        path.with_name(f"{path.stem}.non_ema.safetensors").write_bytes(b"not to be opened")
        path.with_name("openvino_model.bin").write_bytes(b"nor this")
    assert alike(load_pipeline(tmp_path), expected)
    if len(names) > 1:
        next((tmp_path / "unet").glob("*00001*")).unlink()
        with pytest.raises(ValueError, match=r"unet has \d of its \d files"):
            load_pipeline(tmp_path)
    for path in (tmp_path / "unet").glob("*of*"):
        path.unlink()
    for path in (tmp_path / "unet").glob("*fp16*"):
        path.unlink()
    with pytest.raises(ValueError, match="only the variant 'non_ema'; if that is what you want"):
        load_pipeline(tmp_path)


def test_another_device_computes_in_half_precision(xl, tmp_path):
    """The meta device stands for any that is no CPU."""
    xl.save_pretrained(tmp_path)
    loaded = load_pipeline(tmp_path, device="meta")
    tensors = tensors_of(loaded)
    assert {tensor.device.type for tensor in tensors.values()} == {"meta"}
    assert {t.dtype for key, t in tensors.items() if key.endswith("scale")} == {torch.float32}
    floats = {t.dtype for key, t in tensors.items() if t.is_floating_point() and not key.endswith("scale")}
    assert floats == {torch.float16}
    assert loaded.text_encoder.get_input_embeddings().weight.is_meta
    assert not any(buffer.device.type != "meta" for buffer in loaded.text_encoder.buffers())


def test_a_safety_checker_is_loaded_when_asked_for(pipe, tmp_path):
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessor

    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    checker = StableDiffusionSafetyChecker(CLIPConfig(text_config=small, vision_config=small, projection_dim=8))
    parts = {"safety_checker": checker, "feature_extractor": CLIPImageProcessor(crop_size=32)}
    StableDiffusionPipeline(**{**pipe.components, **parts}).save_pretrained(tmp_path)
    without, asked = load_pipeline(tmp_path), load_pipeline(tmp_path, safety_checker=True)
    assert without.safety_checker is None and without.feature_extractor is None
    assert type(asked.safety_checker) is StableDiffusionSafetyChecker
    shutil.rmtree(tmp_path / "feature_extractor")
    shutil.rmtree(tmp_path / "safety_checker")
    assert painted(load_pipeline(tmp_path)).shape == (1, 16, 16, 3)  # nobody misses what nobody asked for


def test_loading_says_nothing_on_a_page(tmp_path):
    """Nor does importing, nor opening a stock pipeline afterwards: in a process of its own, for warnings come once."""
    code = "import zoti; zoti.load_pipeline(); zoti.load_pipeline(weights='nf4')"
    code += "; import diffusers; diffusers.StableDiffusionPipeline.from_pretrained(zoti.data.DATA / 'tiny-sd')"
    env = {name: told for name, told in os.environ.items() if name != "TQDM_DISABLE"}  # as Colab has it
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def test_warnings_of_others_are_heard():
    import logging

    for name in ("bitsandbytes", "transformers"):
        logger = logging.getLogger(name)
        assert logger.getEffectiveLevel() <= logging.WARNING
    assert "TRANSFORMERS_VERBOSITY" not in (Path(zoti.__file__)).read_text()
