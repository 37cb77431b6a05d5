"""Weights from integers: in one kernel, and by whichever kernel the same bits."""

import importlib.util

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from zoti.model import kernels, pack, quantize_weight


class Counted(TorchDispatchMode):
    """Which of PyTorch's operators compute something."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function._schema.name not in ("aten::empty", "aten::new_empty", "aten::view"):
            self.seen.append(function._schema.name)
        return function(*args, **kwargs or {})


class Card(torch.Tensor):
    """A tensor that claims to lie on a graphics card."""

    is_cuda = True


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_takes_one_kernel_and_rounds_once(dtype):
    codes, scale = quantize_weight(torch.randn(6, 5, 3, 3))
    with Counted() as counted:
        weight = kernels.dequantize(codes, scale, codes.shape, dtype)
    assert counted.seen == ["aten::mul"]
    assert torch.equal(weight, (codes.float() * scale.view(-1, 1, 1, 1)).to(dtype))


@pytest.fixture
def interpreted(monkeypatch):
    """The module once more, its kernel run by Triton's interpreter in Python, which needs no graphics card."""
    pytest.importorskip("triton", reason="pip install triton: 200 MB, of no other use on a CPU")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    found = importlib.util.spec_from_file_location("interpreted", kernels.__file__)
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("shape", [(5, 7), (1, 1), (3, 5, 3, 3), (64, 33, 3, 3)])
def test_tritons_kernel_gives_the_bits_of_pytorchs_operators(interpreted, shape, dtype):
    """Odd numbers of codes, more than one block of them, channels of small weights that fp16 hardly knows."""
    weight = torch.randn(shape)
    weight[::2] *= 1e-4
    codes, scale = quantize_weight(weight, 4)
    packed = pack(codes)
    with Counted() as plain:
        expected = interpreted.dequantize(packed, scale, weight.shape, dtype)
    with Counted() as counted:  # what Triton does, PyTorch does not see; its interpreter copies what it is given
        made = interpreted.dequantize(packed.as_subclass(Card), scale, weight.shape, dtype)
    assert "aten::mul" in plain.seen[-1] and not {"aten::cat", "aten::mul", "aten::mul_"} & set(counted.seen)
    assert torch.equal(made.as_subclass(torch.Tensor), expected)
