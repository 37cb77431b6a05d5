"""Networks without weights: as large as the published ones, or as any folder says."""

import json

import pytest

from zoti.ledger import architecture
from zoti.ledger.scenarios import textual_inversion, zeroth_order


def test_parameters_of_the_published_models():
    """As the hub counts them: U-Net, text encoders, VAE."""
    counts = {
        name: [sum(p.numel() for p in network.parameters()) for network in architecture(name, "float32").networks()]
        for name in ("sd1.5", "sd2.1", "sdxl")
    }
    assert counts == {
        "sd1.5": [859_520_964, 123_060_480, 83_653_863],
        "sd2.1": [865_910_724, 340_387_840, 83_653_863],
        "sdxl": [2_567_463_684, 123_060_480, 694_659_840, 83_653_863],
    }


@pytest.mark.slow
def test_an_architecture_from_the_folder_of_a_pipeline(tmp_path):
    for part, config in {
        "unet": {"_class_name": "UNet2DConditionModel", "sample_size": 8, "in_channels": 32, "out_channels": 32,
                 "block_out_channels": [96, 160], "layers_per_block": 1, "cross_attention_dim": 256,
                 "down_block_types": ["CrossAttnDownBlock2D"] * 2, "up_block_types": ["CrossAttnUpBlock2D"] * 2,
                 "attention_head_dim": [3, 5]},
        "vae": {"_class_name": "AutoencoderKL", "down_block_types": ["DownEncoderBlock2D"] * 4,
                "up_block_types": ["UpDecoderBlock2D"] * 4, "block_out_channels": [16, 32, 64, 128],
                "layers_per_block": 1, "latent_channels": 32, "norm_num_groups": 1, "mid_block_add_attention": False},
        "text_encoder": {"model_type": "clip_text_model", "vocab_size": 500, "hidden_size": 256,
                         "intermediate_size": 1024, "num_hidden_layers": 2, "num_attention_heads": 4,
                         "max_position_embeddings": 32},
    }.items():  # fmt: skip
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text(json.dumps(config))
    model = architecture(str(tmp_path))
    assert model.encode(model.picture()).shape == model.latent().shape == (1, 32, 8, 8)
    rival, ours = textual_inversion(str(tmp_path)), zeroth_order(str(tmp_path))
    assert ours.peak.total < rival.peak.total < 100e6


def test_the_folder_of_an_sdxl_has_two_encoders(tmp_path, xl):
    xl.save_pretrained(tmp_path)
    model = architecture(str(tmp_path), "float32")
    assert model.width == 32 + 48
    for ours, theirs in zip(model.networks(), (xl.unet, xl.text_encoder, xl.text_encoder_2, xl.vae), strict=True):
        assert {k: v.shape for k, v in ours.state_dict().items()} == {
            k: v.shape for k, v in theirs.state_dict().items()
        }
    assert zeroth_order(str(tmp_path)).peak.total > 0


def test_unknown_models_and_weights_are_refused():
    with pytest.raises(ValueError, match=r"sd1\.5, sd2\.1, sd2\.1-768, sdxl"):
        architecture("sd9")
    with pytest.raises(ValueError, match=r"int8, int4, nf4, nf4\+int4, float16, float32"):
        architecture("sd1.5", "int3")
