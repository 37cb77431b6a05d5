"""Weight-only INT8: bounds, equality with plain layers on the dequantised weight, bytes."""

import bitsandbytes.functional as bnb
import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import nn

from zoti import footprint, quantize_
from zoti.quantize import QuantConv2d, QuantLinear, quantize_weight


@pytest.fixture(autouse=True)
def seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("shape", [(5, 7), (6, 3, 3, 3), (1, 1)])
def test_rounding_error_is_at_most_half_a_step(shape):
    weight = torch.randn(shape) * torch.logspace(-3, 3, shape[0]).view(-1, *[1] * (len(shape) - 1))
    codes, scale = quantize_weight(weight)
    step = scale.view(-1, *[1] * (len(shape) - 1))
    assert codes.dtype == torch.int8
    assert ((weight - codes * step).abs() <= step / 2 * (1 + 1e-5)).all()
    assert (codes.flatten(1).abs().amax(1) == 127).all()


def test_codes_are_those_of_bitsandbytes():
    weight = torch.randn(32, 48)
    theirs, absmax, _ = bnb.int8_vectorwise_quant(weight)
    codes, scale = quantize_weight(weight)
    assert torch.equal(codes, theirs)
    torch.testing.assert_close(scale * 127, absmax)


def test_an_all_zero_channel_stays_zero():
    codes, scale = quantize_weight(torch.zeros(2, 3))
    assert not codes.any()
    assert torch.isfinite(scale).all()


@pytest.mark.parametrize(
    "options", [{}, {"stride": 2, "padding": 1}, {"groups": 4, "bias": False}, {"dilation": 2, "padding": 2}]
)
def test_convolution_equals_plain_convolution_on_the_dequantised_weight(options):
    layer = nn.Conv2d(8, 12, 3, **options)
    quant, x = QuantConv2d(layer), torch.randn(2, 8, 9, 9)
    expected = F.conv2d(x, quant.weight, layer.bias, layer.stride, layer.padding, layer.dilation, layer.groups)
    assert torch.equal(quant(x), expected)
    assert (quant(x) - layer(x)).abs().max() < 0.05


def test_linear_equals_plain_linear_on_the_dequantised_weight():
    layer, x = nn.Linear(16, 5), torch.randn(3, 4, 16)
    quant = QuantLinear(layer)
    assert torch.equal(quant(x), F.linear(x, quant.weight, layer.bias))
    assert torch.equal(quant.train()(x), quant.eval()(x))


@pytest.mark.parametrize(
    "layer, shape",
    [
        (nn.Linear(16, 5), (16,)),
        (nn.Linear(16, 5, bias=False), (3, 4, 16)),
        (nn.Conv2d(8, 12, 3), (2, 8, 9, 9)),
        (nn.Conv2d(8, 12, 3, stride=2, padding=1), (2, 8, 10, 10)),
        (nn.Conv2d(8, 12, 3, groups=4, dilation=2, padding=2, bias=False), (2, 8, 9, 9)),
    ],
)
def test_backward_rebuilds_the_weight_and_gets_the_very_gradient_of_autograd(layer, shape):
    quant, saved = (QuantLinear if isinstance(layer, nn.Linear) else QuantConv2d)(layer), []
    x = torch.randn(shape, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        y = quant(x)
    plain = quant.apply_weight(x)  # under autograd's own eyes, keeping the weight
    cotangent = torch.randn_like(y)
    assert not saved
    assert torch.equal(y, plain)
    ours, theirs = (torch.autograd.grad(out, x, cotangent)[0] for out in (y, plain))
    assert torch.equal(ours, theirs)


def test_no_float_copy_is_kept_and_bytes_are_counted():
    net = nn.Sequential(nn.Linear(10, 20), nn.Conv2d(3, 4, 3), nn.LayerNorm(6))
    quantize_(net)
    assert [type(m) for m in net] == [QuantLinear, QuantConv2d, nn.LayerNorm]
    assert footprint(net) == {"int8": 200 + 108, "float32": 4 * (20 + 20 + 4 + 4 + 12), "total": 308 + 240}
    assert not any(p.requires_grad for m in net[:2] for p in m.parameters())


def test_a_quantized_layer_loads_its_own_state():
    a, b = quantize_(nn.Sequential(nn.Linear(4, 4))), quantize_(nn.Sequential(nn.Linear(4, 4)))
    b.load_state_dict(a.state_dict())
    assert torch.equal(a[0].weight, b[0].weight)


def test_sd15_unet_is_almost_all_int8():
    """The architecture of Stable Diffusion 1.5's U-Net, on the meta device: no weights, exact counts."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
        total = sum(p.numel() for p in unet.parameters())
        quantize_(unet)
    assert total == 859_520_964
    assert footprint(unet)["int8"] / total > 0.99


def test_unknown_kinds_are_refused():
    with pytest.raises(ValueError, match="int8"):
        quantize_(nn.Sequential(nn.Linear(2, 2)), "int7")
    with pytest.raises(ValueError, match="zeros"):
        QuantConv2d(nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"))
    with pytest.raises(ValueError, match="same"):
        QuantConv2d(nn.Conv2d(2, 2, 3, padding="same"))
