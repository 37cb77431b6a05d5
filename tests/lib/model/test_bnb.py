"""The layers on bitsandbytes' kernels, held against bitsandbytes' own."""

import bitsandbytes.functional as bnb
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from zoti import footprint, quantize_
from zoti.model import NF4Linear, QuantLinear, W8A8Linear


@pytest.mark.parametrize("shape", [(64, 32), (3, 5)])
def test_nf4_is_that_of_bitsandbytes(shape):
    layer = nn.Linear(*shape)
    theirs, state = bnb.quantize_4bit(layer.weight.data, blocksize=64, quant_type="nf4")
    quant = NF4Linear(layer)
    assert torch.equal(quant.weight, bnb.dequantize_4bit(theirs, state))
    assert footprint(quant)["nf4"] == (layer.weight.numel() + 1) // 2


def test_w8a8_is_linear8bitlt_in_eval():
    from bitsandbytes.nn import Linear8bitLt

    layer, x = nn.Linear(64, 48), torch.randn(3, 5, 64)
    theirs = Linear8bitLt(64, 48, has_fp16_weights=False)
    theirs.load_state_dict(layer.state_dict(), strict=False)
    theirs, ours = theirs.to("cpu").eval(), W8A8Linear(layer)
    assert (theirs.weight.data - ours.codes).abs().max() <= 1  # theirs are rounded from fp16: a few ties fall otherwise
    ours.codes, ours.scale = theirs.weight.data, theirs.weight.SCB / 127
    assert (ours(x) - theirs(x)).norm() / ours(x).norm() < 3e-4  # their output passes through fp16


@pytest.mark.parametrize("dtype, error", [(torch.float16, 2e-3), (torch.bfloat16, 1e-2), (torch.float64, 1e-6)])
def test_w8a8_multiplies_in_full_precision_whatever_its_input(dtype, error):
    """A GPU's pipeline is fp16, which ends at 65504; a sum of 1280 products of bytes does not."""
    (layer,), x = quantize_(nn.Sequential(nn.Linear(1280, 48)), "llm_int8"), torch.randn(5, 1280).half().float()
    expected, y = layer(x), layer.to(dtype)(x.to(dtype))
    assert y.dtype == dtype
    assert (y - expected).norm() / expected.norm() < error


def test_bitsandbytes_has_no_int8_kernel_that_leaves_activations_alone_in_eval():
    """Why `QuantLinear` stores what `Linear8bitLt` does and multiplies for itself; should this fail, use theirs."""
    from bitsandbytes.nn import Linear8bitLt

    layer, x = nn.Linear(64, 48), torch.randn(5, 64)
    theirs, ours = Linear8bitLt(64, 48, has_fp16_weights=False), QuantLinear(layer)
    theirs.load_state_dict(layer.state_dict(), strict=False)
    theirs = theirs.to("cpu")
    ours.codes, ours.scale = theirs.weight.data, theirs.weight.SCB / 127
    error = [float((theirs.train(mode)(x) - ours(x)).detach().norm() / ours(x).norm()) for mode in (True, False)]
    assert error[0] < 1e-6 < 1e-3 < error[1]


def test_w8a8_rounds_activations_and_weight_only_does_not():
    layer, x = nn.Linear(64, 48), torch.randn(8, 64)
    plain = F.linear(x, QuantLinear(layer).weight, layer.bias)
    rounded = W8A8Linear(layer)(x)
    assert torch.equal(QuantLinear(layer)(x), plain)
    assert 1e-3 < (rounded - plain).norm() / plain.norm() < 0.03
    small = 1e-5 * torch.randn(8, 64)  # below an activation's step: most coordinates do not notice
    assert (W8A8Linear(layer)(x + small) == rounded).float().mean() > 0.1


def test_gradients_pass_straight_through_the_rounding_of_activations():
    layer, x = nn.Linear(16, 4), torch.randn(3, 16, requires_grad=True)
    quant = W8A8Linear(layer)
    quant(x).sum().backward()
    torch.testing.assert_close(x.grad, quant.weight.sum(0).expand(3, -1))
    torch.testing.assert_close(quant(x).detach(), quant(x.detach()))
