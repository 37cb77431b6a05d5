"""Filling networks tensor by tensor: the bits, what stays in memory, and files that do not fit."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save_file

from tests.helpers import KINDS, alike, painted
from zoti import load_pipeline, quantize_
from zoti.model.find import NETWORKS


@pytest.mark.parametrize("weights", [*KINDS, "nf4+int4", "none"])
def test_filling_tensor_by_tensor_gives_the_bits_of_quantizing_afterwards(any_pipe, tmp_path, weights):
    any_pipe.to(torch.float16).save_pretrained(tmp_path)
    streamed = load_pipeline(tmp_path, weights, device="cpu")
    whole = type(any_pipe).from_pretrained(tmp_path)
    before = whole.vae.post_quant_conv
    for name in NETWORKS:
        if getattr(whole, name, None) is not None:
            getattr(whole, name).float()
            if weights != "none":
                quantize_(getattr(whole, name), weights)
    if hasattr(whole, "text_encoder_2"):
        whole.vae.post_quant_conv = before
    assert alike(streamed, whole)
    assert (painted(streamed) == painted(whole)).all()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="Linux lists what is mapped there")
def test_once_quantized_no_file_of_full_weights_stays_in_memory(xl, tmp_path):
    xl.save_pretrained(tmp_path)
    loaded, maps = load_pipeline(tmp_path), Path("/proc/self/maps").read_text()
    assert loaded.unet.conv_in.kind == "int8"
    assert str(tmp_path) not in maps


@pytest.mark.parametrize("name", ["unet", "vae", "text_encoder", "text_encoder_2"])
@pytest.mark.parametrize("weights", ["int8", "none"])
def test_no_tensor_is_missing_unexpected_or_of_another_shape_unsaid(xl, tmp_path, name, weights):
    xl.save_pretrained(tmp_path)
    (path,) = (tmp_path / name).glob("*.safetensors")
    tensors = load(path.read_bytes())
    weight = next(key for key in tensors if key.endswith("q_proj.weight") or key.endswith("conv1.weight"))
    for changed, match in [
        ({weight: None}, f"{name}: missing: {re.escape(weight).removesuffix('weight')}"),
        ({"more.weight": torch.zeros(1)}, f"{name}: unknown: more.weight"),
        ({weight: tensors[weight][1:]}, "is needed"),
        ({next(iter(tensors)): torch.zeros(1, 2)}, "is needed"),
    ]:
        save_file({key: t.contiguous() for key, t in (tensors | changed).items() if t is not None}, path)
        with pytest.raises(ValueError, match=match):
            load_pipeline(tmp_path, weights)


def test_old_names_of_tensors_are_understood(any_pipe, tmp_path):
    """As in SD1.5's files: position_ids, query, key, value, proj_attn; and CLIP's with or without a prefix."""
    any_pipe.save_pretrained(tmp_path)
    expected = load_pipeline(tmp_path)
    (path,) = (tmp_path / "vae").glob("*.safetensors")
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    middles = [f"{part}.mid_block.attentions.0" for part in ("encoder", "decoder")]
    new = {f"{middle}.{now}": f"{middle}.{then}" for middle in middles for now, then in names.items()}
    tensors = load(path.read_bytes())
    old = {}
    for key, tensor in tensors.items():
        stem, _, last = key.rpartition(".")
        old[f"{new.get(stem, stem)}.{last}"] = tensor
    assert len(set(old) - set(tensors)) == 16
    save_file(old, path)
    assert alike(load_pipeline(tmp_path), expected)
    for name in ("text_encoder", "text_encoder_2"):
        if (tmp_path / name).exists():
            path = tmp_path / name / "model.safetensors"
            bare = {key.removeprefix("text_model."): tensor for key, tensor in load(path.read_bytes()).items()}
            prefixed = {key if "projection" in key else f"text_model.{key}": tensor for key, tensor in bare.items()}
            for names in (bare, prefixed):
                save_file(names | {"text_model.embeddings.position_ids": torch.arange(32)[None]}, path)
                assert alike(load_pipeline(tmp_path), expected)
