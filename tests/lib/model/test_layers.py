"""Quantized layers: equal to plain ones on the dequantised weight, forwards, backwards and in any precision."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.helpers import KINDS
from zoti import quantize_
from zoti.model import QuantConv2d, QuantLinear, quantize_weight


def test_int4_layers_hold_the_rounded_weight():
    for layer in (nn.Linear(7, 5), nn.Conv2d(3, 5, 3)):
        quant = (QuantLinear if isinstance(layer, nn.Linear) else QuantConv2d)(layer, "int4")
        codes, scale = quantize_weight(layer.weight, 4)
        assert torch.equal(quant.weight, codes * scale.view(-1, *[1] * (codes.ndim - 1)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(16,), (0, 16), (2, 0, 16), (2, 3, 4, 16)])
def test_a_linear_layer_takes_any_shape_that_a_plain_one_takes(kind, shape):
    (layer,) = quantize_(nn.Sequential(nn.Linear(16, 5)), kind)
    assert layer(torch.randn(shape)).shape == (*shape[:-1], 5)


@pytest.mark.parametrize(
    "options", [{}, {"stride": 2, "padding": 1}, {"groups": 4, "bias": False}, {"dilation": 2, "padding": 2}]
)
@pytest.mark.parametrize(("kind", "bound"), [("int8", 0.05), ("int4", 0.6)])
def test_convolution_equals_plain_convolution_on_the_dequantised_weight(options, kind, bound):
    layer = nn.Conv2d(8, 12, 3, **options)
    quant, x = QuantConv2d(layer, kind), torch.randn(2, 8, 9, 9)
    expected = F.conv2d(x, quant.weight, layer.bias, layer.stride, layer.padding, layer.dilation, layer.groups)
    assert torch.equal(quant(x), expected)
    assert (quant(x) - layer(x)).abs().max() < bound


@pytest.mark.parametrize("kind", ["int8", "int4", "nf4"])
def test_linear_equals_plain_linear_on_the_dequantised_weight(kind):
    layer, x = nn.Linear(16, 5), torch.randn(3, 4, 16)
    (quant,) = quantize_(nn.Sequential(layer), kind)
    assert torch.equal(quant(x), F.linear(x, quant.weight, layer.bias))


@pytest.mark.parametrize("kind", KINDS)
def test_train_and_eval_are_alike(kind):
    net = quantize_(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(2), nn.Linear(49, 64)), kind)
    x = torch.randn(2, 3, 9, 9, requires_grad=True)
    outputs = [net.train(mode)(x) for mode in (True, False)]
    gradients = [torch.autograd.grad(y.square().sum(), x)[0] for y in outputs]
    with torch.no_grad():
        outputs += [net.train(mode)(x) for mode in (True, False)]
    assert gradients[0].any() and torch.equal(*gradients)
    assert torch.equal(*outputs[:2]) and torch.equal(*outputs[2:])
    torch.testing.assert_close(outputs[0], outputs[2])


@pytest.mark.parametrize("kind", ["int8", "int4", "nf4"])
def test_half_precision_leaves_the_scales_and_with_them_channels_of_small_weights(kind):
    layer = nn.Linear(64, 8)
    with torch.no_grad():
        layer.weight[:4] *= 1e-3  # INT8 scales of 1e-6: fp16 has sixteen numbers up to there
    (exact,), (half,) = (quantize_(nn.Sequential(layer), kind) for _ in range(2))
    half.half()
    assert (half.scale.dtype, half.bias.dtype, half.weight.dtype) == (torch.float32, torch.float16, torch.float16)
    error = (half.weight.float() - exact.weight).abs().amax(1) / exact.weight.abs().amax(1)
    assert error.max() < 2e-3  # that of fp16 itself for numbers of 1e-4
    assert half(torch.randn(2, 64).half()).dtype == torch.float16
    assert torch.equal(half.float().weight, exact.weight)


def test_scales_go_along_when_device_and_precision_change_at_once():
    layer = QuantLinear(nn.Linear(4, 3)).to("meta", torch.float16)  # as load_pipeline moves a pipeline to a GPU
    assert {x.device.type for x in layer.buffers()} == {"meta"}
    assert (layer.scale.dtype, layer.bias.dtype) == (torch.float32, torch.float16)


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
