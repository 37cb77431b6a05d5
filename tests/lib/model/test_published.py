"""Stable Diffusion 1.5, 2.1 (both kinds) and XL, narrow but whole: a word, from photos to stock diffusers."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers import noise_images, pairs, stock_states
from tests.lib.model.narrow import narrow, pipeline
from zoti import PRESETS, personalize


@pytest.mark.parametrize(
    "model, widths", [("sd1.5", (32,)), ("sd2.1", (48,)), ("sd2.1-768", (48,)), ("sdxl", (32, 48))]
)
def test_a_word_is_learned_stopped_taken_up_again_and_read_by_stock_diffusers(model, widths, tmp_path, monkeypatch):
    pipe = pipeline(narrow(model, widths, sample_size=16))
    pipe.save_pretrained(tmp_path / "model")
    monkeypatch.setitem(PRESETS, model, replace(PRESETS[model], source=str(tmp_path / "model")))

    def learn(steps: int, name: str, weights: str = "int8"):
        file = tmp_path / f"{name}.safetensors"
        return personalize(noise_images(2), "dog", model, steps=steps, checkpoint=file, weights=weights, device="cpu")

    learn(2, "stopped")
    resumed, whole = learn(3, "stopped"), learn(3, "whole")
    assert torch.equal(resumed.theta, whole.theta) and not torch.equal(whole.theta, whole.objective.token.initial)
    assert (whole.config.mu, whole.config.optimizer.lr) == (PRESETS[model].mu, PRESETS[model].lr)
    assert (whole.pipe.scheduler.config.prediction_type == "v_prediction") == (model == "sd2.1-768")

    precise = learn(3, "precise", "none")
    path, stock = precise.save(tmp_path), type(pipe).from_pretrained(tmp_path / "model")
    if model == "sdxl":
        for key, (tokenizer, encoder) in zip(("clip_l", "clip_g"), pairs(stock), strict=True):
            stock.load_textual_inversion(
                load_file(path)[key], token="<my-dog>", tokenizer=tokenizer, text_encoder=encoder
            )
    else:
        stock.load_textual_inversion(str(path))
    ours = precise.objective.token.encode(precise.theta[None], ["a <my-dog> asleep"])
    states, pooled = stock_states(stock, "a <my-dog> asleep")
    assert torch.allclose(ours.states[0, 0], states, atol=1e-5)
    assert model != "sdxl" or torch.allclose(ours.pooled[0, 0], pooled, atol=1e-5)
    assert precise.paint("a {} asleep", num_inference_steps=1).size == (128, 128)
