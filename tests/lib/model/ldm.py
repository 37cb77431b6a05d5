"""A pipeline's tensors under the names of Stable Diffusion's own code, as in the checkpoints of web UIs.

Written from those files, and independently of diffusers, whose way back from these names is what is tested.
"""

import re

import torch

RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection",
}  # fmt: skip
UNET = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
    "mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}  # fmt: skip
OPEN_CLIP = {
    "encoder.layers.": "transformer.resblocks.", "layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj", "self_attn.out_proj": "attn.out_proj", "final_layer_norm": "ln_final",
    "embeddings.token_embedding": "token_embedding", "embeddings.position_embedding.weight": "positional_embedding",
}  # fmt: skip


def checkpoint(pipe) -> dict[str, torch.Tensor]:
    """All tensors of a Stable Diffusion or SDXL pipeline in one dictionary."""
    xl = hasattr(pipe, "text_encoder_2")
    made = unet(pipe.unet) | vae(pipe.vae)
    if xl:
        made |= clip(pipe.text_encoder, "conditioner.embedders.0.transformer.")
        return made | open_clip(pipe.text_encoder_2, "conditioner.embedders.1.model.")
    if pipe.unet.config.cross_attention_dim == 1024:
        return made | open_clip(pipe.text_encoder, "cond_stage_model.model.")
    return made | clip(pipe.text_encoder, "cond_stage_model.transformer.")


def unet(network) -> dict[str, torch.Tensor]:
    per, made = network.config.layers_per_block + 1, {}
    for name, tensor in network.state_dict().items():
        if match := re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.*)", name):
            way, block, kind, layer, rest = match.groups()
            number = int(block) * per + int(layer)
            place = f"input_blocks.{number + 1}" if way == "down" else f"output_blocks.{number}"
            name = f"{place}.{int(kind == 'attentions')}.{rest}"
            name = renamed(name, RESNET) if kind == "resnets" else name
        elif match := re.match(r"down_blocks\.(\d+)\.downsamplers\.0\.conv\.(.*)", name):
            name = f"input_blocks.{(int(match[1]) + 1) * per}.0.op.{match[2]}"
        elif match := re.match(r"up_blocks\.(\d+)\.upsamplers\.0\.conv\.(.*)", name):
            attends = hasattr(network.up_blocks[int(match[1])], "attentions")
            name = f"output_blocks.{int(match[1]) * per + per - 1}.{1 + attends}.conv.{match[2]}"
        else:
            name = renamed(name, UNET)
            name = renamed(name, RESNET) if name.startswith(("middle_block.0", "middle_block.2")) else name
        made[f"model.diffusion_model.{name}"] = tensor
    return made


def vae(network) -> dict[str, torch.Tensor]:
    last, made = len(network.config.block_out_channels) - 1, {}
    for name, tensor in network.state_dict().items():
        name = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", name)
        name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
        name = re.sub(r"up_blocks\.(\d+)\.resnets", lambda m: f"up.{last - int(m[1])}.block", name)
        name = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{last - int(m[1])}.upsample", name)
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
        if "mid_block.attentions.0" in name:
            tensor = tensor[:, :, None, None] if tensor.ndim == 2 else tensor  # a convolution of one pixel there
            name = renamed(name.replace("mid_block.attentions.0", "mid.attn_1"), {
                "group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"
            })  # fmt: skip
        name = renamed(name, {"conv_norm_out": "norm_out", "conv_shortcut": "nin_shortcut"})
        made[f"first_stage_model.{name}"] = tensor
    return made


def clip(network, prefix: str) -> dict[str, torch.Tensor]:
    made = {f"{prefix}text_model.{n.removeprefix('text_model.')}": t for n, t in network.state_dict().items()}
    length = network.config.max_position_embeddings
    return made | {f"{prefix}text_model.embeddings.position_ids": torch.arange(length)[None]}


def open_clip(network, prefix: str) -> dict[str, torch.Tensor]:
    made, state = {}, {n.removeprefix("text_model."): t for n, t in network.state_dict().items()}
    for name, tensor in state.items():
        if match := re.match(r"encoder\.layers\.(\d+)\.self_attn\.q_proj\.(\w+)", name):
            three = [state[name.replace("q_proj", f"{x}_proj")] for x in "qkv"]
            made[f"transformer.resblocks.{match[1]}.attn.in_proj_{match[2]}"] = torch.cat(three)
        elif name == "text_projection.weight":
            made["text_projection"] = tensor.T
        elif "k_proj" not in name and "v_proj" not in name:
            made[renamed(name, OPEN_CLIP)] = tensor
    return {f"{prefix}{name}": tensor for name, tensor in made.items()} | {f"{prefix}logit_scale": torch.ones(())}


def renamed(name: str, names: dict[str, str]) -> str:
    for old, new in names.items():
        name = name.replace(old, new)
    return name
