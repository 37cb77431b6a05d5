"""Quantize a whole network to eight or four bits a weight (ZOODiP Eq. 2), and count the bytes it then holds."""

import copy
from typing import Any

from torch import nn

from zoti.model.bnb import NF4Linear, W8A8Linear
from zoti.model.layers import QuantConv2d, Quantized, QuantLinear

#: For each kind of weights, what a linear layer and a convolution become: the class, and the kind of its codes.
_LAYERS: dict[str, tuple[tuple[type[Quantized], str], tuple[type[Quantized], str]]] = {
    "int8": ((QuantLinear, "int8"), (QuantConv2d, "int8")),
    "int4": ((QuantLinear, "int4"), (QuantConv2d, "int4")),
    "nf4": ((NF4Linear, "nf4"), (QuantConv2d, "int8")),
    "nf4+int4": ((NF4Linear, "nf4"), (QuantConv2d, "int4")),
    "llm_int8": ((W8A8Linear, "int8"), (QuantConv2d, "int8")),
}


def quantize_(module: nn.Module, weights: str = "int8") -> nn.Module:
    """Replace every Linear and Conv2d inside `module` by a quantized one, in place, and return the module.

    weights: one of

    - 'int8' or 'int4': integers, one scale for each output channel (ZOODiP Eq. 2);
    - 'nf4': bitsandbytes' four bits in linear layers (`NF4Linear`), INT8 in convolutions, which bitsandbytes lacks;
    - 'nf4+int4': the same with INT4 in convolutions: four bits everywhere;
    - 'llm_int8': 'int8', and the inputs of linear layers are rounded as well (`W8A8Linear`).

    Embeddings and norms stay as they are, as in the paper: 96.4 % of SD1.5's parameters become INT8. Works on the meta
    device. A network of diffusers or transformers notes the kind in its config, so that `load_pipeline` knows what
    `save_pretrained` saved, and stock diffusers, which does not, refuses it instead of loading random weights.

    LoRA first, then `quantize_`: PEFT puts no adapter on these layers, and could not merge one into them. So open the
    pipeline with weights='none', then `pipe.load_lora_weights(...); pipe.fuse_lora(); pipe.unload_lora_weights()`, and
    quantize its networks.

    The network is quantized whole or, where that cannot be, not touched. Raises ValueError for an unknown `weights`;
    for a layer that is quantized to another kind already, has an adapter, is of a subclass, carries hooks, or pads with
    anything but zeros; and for a `module` that is itself a layer, which has nothing to be replaced in.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Linear(36, 10))
    >>> [type(layer).__name__ for layer in quantize_(net, "nf4")]
    ['QuantConv2d', 'GroupNorm', 'NF4Linear']
    >>> quantize_(net, "int4")
    Traceback (most recent call last):
    ValueError: the layer '0' is a QuantConv2d of 'int8' already, ...
    """
    if weights not in _LAYERS:
        raise ValueError(f"weights={weights!r} is unknown; zoti quantizes to {', '.join(map(repr, _LAYERS))}")
    if isinstance(module, (nn.Linear, nn.Conv2d)):
        raise ValueError(f"a {type(module).__name__} cannot be replaced in itself; quantize_(nn.Sequential(layer))")
    for name, layer in module.named_modules():
        _check(name, layer, weights)
    linear, convolution = _LAYERS[weights]
    made: dict[nn.Module, Quantized] = {}  # a layer that stands in two places stays one
    for parent in list(module.modules()):
        for name, layer in parent._modules.items():
            if isinstance(layer, (nn.Linear, nn.Conv2d)):
                if layer not in made:
                    kind, codes = linear if isinstance(layer, nn.Linear) else convolution
                    made[layer] = kind(layer, codes)
                parent._modules[name] = made[layer]
    note = {"quant_method": "zoti", "weights": weights}
    network: Any = module
    if hasattr(network, "register_to_config"):  # diffusers'
        network.register_to_config(quantization_config=note)
    elif hasattr(getattr(network, "config", None), "to_dict"):  # transformers'
        network.config = copy.copy(network.config)  # other networks may have been built from the same one
        network.config.quantization_config = note
    return module


def _check(name: str, layer: nn.Module, weights: str) -> None:
    """Raise ValueError where a layer could not be quantized, or not without losing something."""
    if hasattr(layer, "base_layer"):  # PEFT's, around the layer it adapts; to merge it later would change nothing
        raise ValueError(
            f"the layer {name!r} has an adapter, such as a LoRA; make it part of the weights first: pipe.fuse_lora(); "
            "pipe.unload_lora_weights()"
        )
    if isinstance(layer, Quantized):
        if (type(layer), layer.kind) not in _LAYERS[weights]:
            raise ValueError(
                f"the layer {name!r} is a {type(layer).__name__} of {layer.kind!r} already, and what was rounded once "
                f"cannot become {weights!r}; load the network anew"
            )
    elif isinstance(layer, (nn.Linear, nn.Conv2d)):
        if type(layer) not in (nn.Linear, nn.Conv2d):
            raise ValueError(
                f"the layer {name!r} is a {type(layer).__name__}, and quantize_ knows nn.Linear and nn.Conv2d only; "
                "merge or remove what was added to it, or quantize the parts of the network without it"
            )
        if "forward" in vars(layer) or any(held for key, held in vars(layer).items() if key.endswith("_hooks")):
            raise ValueError(f"the layer {name!r} carries hooks, which would be lost; put them on after quantize_")
        if isinstance(layer, nn.Conv2d):
            QuantConv2d.check(layer)


def footprint(module: nn.Module) -> dict[str, int]:
    """Bytes that parameters and buffers hold, by kind: {'int8': ..., 'float32': ..., 'total': ...}.

    The codes of quantized layers count under their own kind ('int8', 'int4', 'nf4'), everything else, scales
    included, under its dtype.

    >>> footprint(nn.Linear(100, 10))
    {'float32': 4040, 'total': 4040}
    >>> footprint(quantize_(nn.Sequential(nn.Linear(100, 10))))  # codes; 10 scales and 10 biases
    {'int8': 1000, 'float32': 80, 'total': 1080}
    >>> footprint(quantize_(nn.Sequential(nn.Linear(100, 10)), "int4"))
    {'int4': 500, 'float32': 80, 'total': 580}
    """
    counted: dict[str, int] = {}
    seen: set[int] = set()
    for layer in module.modules():
        for name, tensor in (*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)):
            if id(tensor) in seen:  # tied weights are stored once
                continue
            seen.add(id(tensor))
            if isinstance(layer, Quantized) and name == "codes":
                kind = layer.kind
            else:
                kind = str(tensor.dtype).removeprefix("torch.")
            counted[kind] = counted.get(kind, 0) + tensor.numel() * tensor.element_size()
    return counted | {"total": sum(counted.values())}
