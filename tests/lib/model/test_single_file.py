"""Checkpoints in one file: narrow networks with the blocks of the real ones, against the same in folders."""

import pytest
import torch
from safetensors.torch import save_file

from tests.lib.model import ldm
from tests.lib.model.narrow import WIDTHS, narrow, pipeline
from zoti import ConceptToken, load_pipeline
from zoti.model import CONFIGS, Checkpoint


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
