"""From weights to integers: bounds, packing, and the codes of bitsandbytes."""

import bitsandbytes.functional as bnb
import pytest
import torch

from zoti.model import pack, quantize_weight, unpack


@pytest.mark.parametrize(("bits", "top"), [(8, 127), (4, 7)])
@pytest.mark.parametrize("shape", [(5, 7), (6, 3, 3, 3), (1, 1)])
def test_rounding_error_is_at_most_half_a_step(shape, bits, top):
    weight = torch.randn(shape) * torch.logspace(-3, 3, shape[0]).view(-1, *[1] * (len(shape) - 1))
    codes, scale = quantize_weight(weight, bits)
    step = scale.view(-1, *[1] * (len(shape) - 1))
    assert codes.dtype == torch.int8
    assert ((weight - codes * step).abs() <= step / 2 * (1 + 1e-5)).all()
    assert (codes.flatten(1).abs().amax(1) == top).all()


@pytest.mark.parametrize("shape", [(2, 8), (3, 5), (1, 1), (2, 3, 3, 3)])
def test_packing_halves_the_bytes_and_loses_nothing(shape):
    codes = torch.randint(-8, 8, shape, dtype=torch.int8)
    packed = pack(codes)
    assert packed.dtype == torch.uint8
    assert packed.numel() == (codes.numel() + 1) // 2
    assert torch.equal(unpack(packed, codes.shape), codes)


def test_codes_are_those_of_bitsandbytes():
    weight = torch.randn(1000, 1000)
    theirs, absmax, _ = bnb.int8_vectorwise_quant(weight)
    codes, scale = quantize_weight(weight)
    other = codes != theirs  # they multiply where we divide: ties fall to either side
    assert other.sum() <= 10
    assert (codes.int() - theirs.int()).abs().max() <= 1
    torch.testing.assert_close(scale * 127, absmax)


def test_an_all_zero_channel_stays_zero():
    codes, scale = quantize_weight(torch.zeros(2, 3))
    assert not codes.any()
    assert torch.isfinite(scale).all()
