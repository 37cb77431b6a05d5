"""LoRA first, then `quantize_`: with the real PEFT, through diffusers, as people load it."""

import pytest
import torch

from tests.helpers import generator, problem, random_pipeline
from zoti import Config, invert, quantize_

peft = pytest.importorskip("peft", reason="needs what a LoRA is made with: pip install -e .[test]")
ON = {"unet": ["to_q", "to_v", "conv1", "proj_in"], "text_encoder": ["q_proj", "v_proj"]}


def painted(pipe):
    return pipe.unet(
        torch.randn(1, 4, 8, 8, generator=generator()), 500, pipe.encode_prompt("a teapot", "cpu", 1, False)[0]
    )[0]


def with_lora(pipe):
    """The pipeline with an adapter that changes what it computes, on both networks that people adapt."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for name, layers in ON.items():
            config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=layers, init_lora_weights=False)
            getattr(pipe, name).add_adapter(config)
    return pipe


@pytest.fixture
def adapted(pipe):
    try:
        return with_lora(pipe)
    except ValueError as error:  # the newest transformers may ask for a PEFT that nobody has published yet
        if "version of PEFT" not in str(error):
            raise
        pytest.skip(str(error))


@pytest.mark.parametrize("weights", ["int8", "nf4"])
@torch.no_grad()
def test_a_lora_made_part_of_the_weights_is_there_once_they_are_quantized(adapted, weights):
    plain, expected = painted(random_pipeline()), painted(adapted)
    adapted.fuse_lora()
    adapted.unload_lora_weights()
    torch.testing.assert_close(painted(adapted), expected, rtol=1e-3, atol=1e-4)
    for name in ON:
        quantize_(getattr(adapted, name), weights)
        assert not any("lora" in key for key in getattr(adapted, name).state_dict())
    found = painted(adapted)
    assert (found - expected).norm() < 0.3 * (found - plain).norm()
    assert next(invert(problem(adapted), Config(steps=1))).loss > 0


def test_a_network_with_an_adapter_is_not_quantized_and_not_touched(adapted):
    for fused in (False, True):
        if fused:
            adapted.fuse_lora()
        before = {name: list(map(type, getattr(adapted, name).modules())) for name in ON}
        for name in ON:
            with pytest.raises(ValueError, match=r"has an adapter.*pipe\.fuse_lora\(\); pipe\.unload_lora_weights"):
                quantize_(getattr(adapted, name))
            assert list(map(type, getattr(adapted, name).modules())) == before[name]


@torch.no_grad()
def test_peft_refuses_quantized_layers_itself(pipe):
    """Why the order matters; when this fails, PEFT has learned to, and the documentation may say so."""
    for name in ON:
        quantize_(getattr(pipe, name))
    with pytest.raises(ValueError, match="is not supported"):
        with_lora(pipe)
