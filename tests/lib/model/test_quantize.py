"""Whole networks with few bits: bytes, files, and what is left of finite differences."""

import copy
import re

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from tests.helpers import KINDS, generator, problem, random_pipeline
from zoti import footprint, quantize_
from zoti.ledger import architecture
from zoti.model import CONFIGS, NF4Linear, QuantConv2d, QuantLinear, W8A8Linear

#: The same, and four bits everywhere.
ALL = [*KINDS, "nf4+int4"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_any_precision_are_quantized_alike(kind, dtype):
    layer = nn.Linear(64, 8).to(dtype)
    (expected,) = quantize_(nn.Sequential(copy.deepcopy(layer).float()), kind)
    (quant,) = quantize_(nn.Sequential(layer), kind)
    assert torch.equal(quant.codes, expected.codes) and torch.equal(quant.scale, expected.scale)
    assert quant(torch.randn(2, 64, dtype=dtype)).dtype == quant.weight.dtype == dtype


def test_no_float_copy_is_kept_and_bytes_are_counted():
    net = nn.Sequential(nn.Linear(10, 20), nn.Conv2d(3, 4, 3), nn.LayerNorm(6))
    quantize_(net)
    assert [type(m) for m in net] == [QuantLinear, QuantConv2d, nn.LayerNorm]
    assert footprint(net) == {"int8": 200 + 108, "float32": 4 * (20 + 20 + 4 + 4 + 12), "total": 308 + 240}
    assert not any(p.requires_grad for m in net[:2] for p in m.parameters())


@pytest.mark.parametrize(
    ("kind", "linear", "codes", "scales"),
    [
        ("int4", QuantLinear, {"int4": 50 + 54}, 10 + 4),
        ("nf4", NF4Linear, {"nf4": 50, "int8": 108}, 2 + 4),  # 100 weights are two blocks of 64
        ("llm_int8", W8A8Linear, {"int8": 100 + 108}, 10 + 4),
    ],
)
def test_bytes_are_counted_by_what_they_mean(kind, linear, codes, scales):
    net = quantize_(nn.Sequential(nn.Linear(10, 10), nn.Conv2d(3, 4, 3), nn.LayerNorm(6)), kind)
    assert [type(m) for m in net] == [linear, QuantConv2d, nn.LayerNorm]
    counted = {**codes, "float32": 4 * (scales + 10 + 4 + 12)}
    assert footprint(net) == {**counted, "total": sum(counted.values())}
    reachable = sum(v.untyped_storage().nbytes() for m in net[:2] for v in vars(m)["_buffers"].values())
    assert reachable + 4 * 12 == footprint(net)["total"]  # no float copy hides behind a view
    assert not any(isinstance(v, torch.Tensor) for m in net[:2] for v in vars(m).values())


def test_tied_weights_are_counted_once():
    words, scores = nn.Embedding(30, 8), nn.Linear(8, 30, bias=False)
    scores.weight = words.weight
    assert footprint(nn.Sequential(words, scores)) == {"float32": 4 * 240, "total": 4 * 240}


@pytest.mark.parametrize("kind", KINDS)
def test_a_quantized_net_loads_its_own_state(kind):
    a, b = (quantize_(nn.Sequential(nn.Linear(36, 7), nn.Conv2d(1, 2, 3)), kind) for _ in range(2))
    assert not torch.equal(a[0].weight, b[0].weight)
    b.load_state_dict(a.state_dict())
    assert all(torch.equal(m.weight, o.weight) and torch.equal(m.bias, o.bias) for m, o in zip(a, b, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_safetensors_bring_a_net_back_onto_the_cpu_and_onto_meta(kind, tmp_path):
    """Into a freshly quantized net of other weights, and into one that had no weights at all."""

    def net() -> nn.Module:
        return quantize_(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(2), nn.Linear(49, 5, bias=False)), kind).eval()

    first, second, x = net(), net(), torch.randn(2, 3, 9, 9)
    save_file(first.state_dict(), tmp_path / "net.safetensors")
    assert not torch.equal(second(x), first(x))
    second.load_state_dict(load_file(tmp_path / "net.safetensors"))
    with torch.device("meta"):
        third = net()
    third.load_state_dict(load_file(tmp_path / "net.safetensors"), assign=True)
    assert not any(tensor.is_meta for tensor in third.state_dict().values())
    for other in (second, third):
        assert torch.equal(other(x), first(x))
        assert footprint(other) == footprint(first)
    on_disk = (tmp_path / "net.safetensors").stat().st_size
    assert footprint(first)["total"] <= on_disk < footprint(first)["total"] + 1024  # a header, and no float copy


def test_sd15_is_96_percent_int8():
    """U-Net, text encoder and VAE of Stable Diffusion 1.5 together, on the meta device: exact counts."""
    networks = architecture("sd1.5", "float32").networks()
    parameters = sum(p.numel() for network in networks for p in network.parameters())
    codes = sum(footprint(quantize_(network))["int8"] for network in networks)
    assert parameters == 859_520_964 + 123_060_480 + 83_653_863
    assert 0.96 < codes / parameters < 0.97  # the rest is the table of words, above all


def test_sd15_unet_is_almost_all_int8():
    """The architecture of Stable Diffusion 1.5's U-Net, on the meta device: no weights, exact counts."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
        total = sum(p.numel() for p in unet.parameters())
        quantize_(unet)
    assert total == 859_520_964
    assert footprint(unet)["int8"] / total > 0.99


@pytest.mark.parametrize(
    ("kind", "gigabytes"), [("int4", 0.432), ("nf4", 0.743), ("nf4+int4", 0.449), ("llm_int8", 0.862)]
)
def test_sd15_unet_in_other_kinds_on_meta(kind, gigabytes):
    with torch.device("meta"):
        unet = quantize_(UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8), kind)
        x, words = torch.empty(1, 4, 64, 64), torch.empty(1, 77, 768)
        assert unet(x, torch.tensor(1), words).sample.shape == x.shape
    assert footprint(unet)["total"] / 1e9 == pytest.approx(gigabytes, abs=0.001)


def differences(kind: str, double: bool = False) -> torch.Tensor:
    """D(mu) = [L(theta + mu e) - L(theta - mu e)] / (2 mu) for mu = 1e-3, 3e-3, ..., 1e-1 along six e: (5, 6)."""
    pipe = random_pipeline()
    for module in (pipe.unet, pipe.text_encoder):
        quantize_(module, kind)
        if double:
            module.double()
    objective = problem(pipe)
    theta, draw = objective.token.initial, objective.draw(generator(3))
    e = torch.randn(6, *theta.shape, generator=generator(5))
    mus = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    if double:
        torch.set_default_dtype(torch.float64)  # transformers 4 makes a mask in it, of the least number of a double
    try:
        with torch.inference_mode():
            return torch.stack(
                [(objective(theta + mu * e, draw) - objective(theta - mu * e, draw)) / (2 * mu) for mu in mus]
            )
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("kind", ["int8", "int4", "nf4"])
def test_rounded_weights_leave_finite_differences_alone(kind):
    """The same weights in float64 say what D(mu) is; on this net its own curvature bends it beyond mu = 3e-3."""
    single, exact = differences(kind), differences(kind, double=True)
    assert ((single - exact).norm(dim=1) / exact.norm(dim=1)).max() < 3e-3  # at every mu from 1e-3 to 1e-1
    assert (single[0] - single[1]).norm() / single[1].norm() < 0.1  # flat where the net is


def test_rounded_activations_drown_finite_differences():
    rounded, single, exact = differences("llm_int8"), differences("int8"), differences("int8", double=True)
    error, without = ((some - exact).norm(dim=1) / exact.norm(dim=1) for some in (rounded, single))
    assert error[0] > 0.1  # at mu = 1e-3, where the same weights with activations in float32 are ...
    assert error[0] > 1000 * without[0]
    assert error[0] > 5 * error[-1]  # the rounding error is divided by mu
    assert (rounded[0] - rounded[1]).norm() / rounded[1].norm() > 0.1


def test_unknown_kinds_are_refused():
    with pytest.raises(ValueError, match="int8"):
        quantize_(nn.Sequential(nn.Linear(2, 2)), "int7")
    with pytest.raises(ValueError, match="zeros"):
        QuantConv2d(nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"))
    with pytest.raises(ValueError, match="same"):
        QuantConv2d(nn.Conv2d(2, 2, 3, padding="same"))


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 8), nn.Sequential(nn.Conv2d(2, 2, 3), nn.GELU()), nn.Linear(8, 8))


class Adapted(nn.Linear):
    """A layer that does more than a plain one."""


def lora(layers: nn.Sequential) -> None:
    layers[2] = Adapted(8, 8)


def weight_norm(layers: nn.Sequential) -> None:
    nn.utils.parametrizations.weight_norm(layers[2])


@pytest.mark.parametrize(
    "spoil",
    [
        lambda n: n.__setitem__(2, nn.Conv2d(2, 2, 3, padding_mode="circular", padding=1)),
        lambda n: n[2].register_forward_hook(lambda *_: None),
        lambda n: n[2].register_forward_pre_hook(lambda *_: None),
        lambda n: n[2].register_full_backward_hook(lambda *_: None),
        lambda n: n[2].register_load_state_dict_pre_hook(lambda *_: None),
        lambda n: setattr(n[2], "forward", lambda x: x),  # as accelerate does
        lambda n: n.__setitem__(2, QuantLinear(n[2], "int4")),
        lambda n: n.__setitem__(2, W8A8Linear(n[2])),
        lora,
        weight_norm,
    ],
)
def test_a_net_is_quantized_whole_or_not_touched(spoil):
    layers = net()
    spoil(layers)
    before = list(layers.modules())
    with pytest.raises(ValueError, match=r"'2'|circular"):
        quantize_(layers)
    assert all(a is b for a, b in zip(layers.modules(), before, strict=True))


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("other", ALL)
def test_what_is_quantized_stays_of_its_kind(kind, other):
    layers = quantize_(net(), kind)
    before = list(layers.modules())
    if kind == other:
        quantize_(layers, other)  # nothing is left to do
    else:
        with pytest.raises(ValueError, match=f"of .*already.*{re.escape(other)}"):
            quantize_(layers, other)
    assert all(a is b for a, b in zip(layers.modules(), before, strict=True))


def test_hooks_on_what_is_not_replaced_are_kept():
    layers, seen = net(), []
    layers[1].register_forward_hook(lambda *_: seen.append("block"))
    quantize_(layers)[1](torch.zeros(1, 2, 4, 4))
    assert seen == ["block"]


def test_a_layer_in_two_places_stays_one():
    layer = nn.Linear(8, 8)
    layers = quantize_(nn.Sequential(layer, nn.Sequential(layer), layer))
    assert layers[0] is layers[1][0] is layers[2] and type(layers[0]) is QuantLinear


def test_a_bare_layer_is_refused():
    for layer in (nn.Linear(2, 2), nn.Conv2d(2, 2, 3)):
        with pytest.raises(ValueError, match="in itself"):
            quantize_(layer)


def test_the_kind_is_noted_of_the_network_alone_and_not_of_others_built_from_its_config():
    """It was noted in the published config itself: single files opened after a look at the ledger stayed in fp32."""
    config = CLIPTextConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    first, second = CLIPTextModel(config), CLIPTextModel(config)
    quantize_(first)
    assert first.config.quantization_config == {"quant_method": "zoti", "weights": "int8"}
    assert not hasattr(config, "quantization_config") and not hasattr(second.config, "quantization_config")
    architecture("sd1.5", "int8").encoders[0].config.vocab_size = 3
    assert CONFIGS["sd1.5"].texts[0].vocab_size == 49408
