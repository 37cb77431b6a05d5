"""Checkpoints in one file: narrow networks with the blocks of the real ones, against the same in folders."""

from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from tests.lib.model import ldm
from zoti import ConceptToken, load_pipeline
from zoti.model import CONFIGS, Checkpoint, clip_tokenizer

SMALL_TEXT = {"intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
WIDTHS = {"sd1.5": (32,), "sd2.1": (1024,), "sd2.1-768": (1024,), "sdxl": (32, 48)}


def narrow(model: str):
    """The published configs with fewer channels; what tells the models from each other stays."""
    published, texts = CONFIGS[model], []
    for i, width in enumerate(WIDTHS[model]):
        layers = {"num_hidden_layers": 10} if i else {}  # by its tenth layer SDXL is known
        words = {"vocab_size": 300} if width == 1024 else {}
        small = {**SMALL_TEXT, "hidden_size": width, "projection_dim": width, **layers, **words}
        texts.append(CLIPTextConfig(**{**published.texts[i].to_dict(), **small}))
    unet = {
        **published.unet,
        "block_out_channels": (32, 64, 64, 64)[: len(published.unet.get("block_out_channels", range(4)))],
        "cross_attention_dim": sum(WIDTHS[model]),
        "attention_head_dim": 2,
    }
    if model == "sdxl":
        unet |= {"addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 48 + 6 * 8}
    vae = {**published.vae, "block_out_channels": (32, 32, 64, 64)}
    return replace(published, unet=unet, vae=vae, texts=tuple(texts))


def pipeline(published):
    torch.manual_seed(0)
    kinds = (CLIPTextModel, CLIPTextModelWithProjection)
    parts = {}
    for suffix, kind, text, pad in zip(("", "_2"), kinds, published.texts, published.pads, strict=False):
        parts |= {f"text_encoder{suffix}": kind(text), f"tokenizer{suffix}": clip_tokenizer(pad)}
    parts |= {
        "unet": UNet2DConditionModel(**published.unet),
        "vae": AutoencoderKL(**published.vae),
        "scheduler": published.scheduler(),
    }
    if len(published.texts) == 2:
        return StableDiffusionXLPipeline(**parts)
    return StableDiffusionPipeline(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)


@pytest.mark.parametrize(
    "model, file",
    [
        ("sd1.5", "dreamshaper"),
        ("sd2.1", "v2-1_512-ema-pruned"),
        ("sd2.1-768", "v2-1_768-ema-pruned"),
        ("sdxl", "sd_xl_base_1.0"),
    ],
)
def test_a_single_file_opens_to_the_bits_of_the_same_model_in_a_folder(model, file, tmp_path, monkeypatch):
    monkeypatch.setitem(CONFIGS, model, narrow(model))
    pipe = pipeline(CONFIGS[model]).to(torch.float16)
    pipe.save_pretrained(tmp_path / "folder")
    tensors = {name: tensor.clone().contiguous() for name, tensor in ldm.checkpoint(pipe).items()}
    save_file(tensors, tmp_path / f"{file}.safetensors")
    single, folder = load_pipeline(tmp_path / f"{file}.safetensors"), load_pipeline(tmp_path / "folder")
    assert type(single) is type(folder)
    for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
        if getattr(folder, name, None) is not None:
            ours, theirs = (getattr(p, name).state_dict() for p in (single, folder))
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[key], theirs[key]) for key in theirs), name
    ours, theirs = (
        {key: value for key, value in p.scheduler.config.items() if key[0] != "_"} for p in (single, folder)
    )
    assert type(single.scheduler) is type(folder.scheduler) and ours == theirs
    assert single.scheduler.config.prediction_type == ("v_prediction" if model == "sd2.1-768" else "epsilon")
    words = "a photo of Žofie's teapot!"
    assert single.tokenizer(words).input_ids == folder.tokenizer(words).input_ids
    if WIDTHS[model] != (1024,):
        ConceptToken(single, "<pot>", "teapot")
        assert len(single("a <pot>", num_inference_steps=1, height=64, width=64).images) == 1


def test_what_is_no_checkpoint_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(CONFIGS, "sd1.5", narrow("sd1.5"))
    tensors = {k: v.clone().contiguous() for k, v in ldm.checkpoint(pipeline(CONFIGS["sd1.5"])).items()}

    def refused(match: str, name: str = "a", **changed) -> None:
        held = {key: tensor for key, tensor in (tensors | changed).items() if tensor is not None}
        save_file(held, tmp_path / f"{name}.safetensors")
        with pytest.raises(ValueError, match=match):
            load_pipeline(tmp_path / f"{name}.safetensors")

    refused("whole vae: missing: decoder.conv_in.bias", **{"first_stage_model.decoder.conv_in.bias": None})
    refused("whole text_encoder.*final_layer_norm", **{
        "cond_stage_model.transformer.text_model.final_layer_norm.weight": None
    })  # fmt: skip
    nine = torch.zeros(32, 9, 3, 3)
    refused("checkpoint of 'inpainting'", **{"model.diffusion_model.input_blocks.0.0.weight": nine})
    key = "model.diffusion_model.input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight"
    refused("does not say which; put 512 or 768 into its name", **{key: torch.zeros(64, 1024)})
    save_file({"<pot>": torch.zeros(1, 768)}, tmp_path / "word.safetensors")
    with pytest.raises(ValueError, match=r"no checkpoint of Stable Diffusion \(1 tensors, such as '<pot>'\)"):
        load_pipeline(tmp_path / "word.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:1000])
    with pytest.raises(ValueError, match="cannot be read"):
        load_pipeline(tmp_path / "cut.safetensors")


@pytest.mark.parametrize("told, model", [("v", "sd2.1-768"), ("epsilon", "sd2.1")])
def test_a_file_of_the_second_kind_may_say_what_it_predicts(told, model, tmp_path):
    key = "model.diffusion_model.input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight"
    save_file({key: torch.zeros(4, 1024)}, tmp_path / "mix.safetensors", {"modelspec.prediction_type": told})
    assert Checkpoint.open(tmp_path / "mix.safetensors").model == model
