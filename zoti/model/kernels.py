"""From integers back to weights, in one kernel where there is one: it happens in every layer of every step.

Operator by operator a weight of four bits would go through a GPU's memory six times before it is there. In Triton,
which PyTorch for CUDA brings along on Linux, each byte is read once and its two weights are written once. Where there
is no Triton, PyTorch's operators give the same bits.
"""

import torch
from torch import Tensor

from zoti.model.rounding import unpack

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

#: How many bytes one program of the kernel unpacks.
BLOCK = 1024


def dequantize(codes: Tensor, scale: Tensor, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """The weight of this shape, codes * scale, in `dtype`: `quantize_weight` undone, but for the rounding.

    codes: int8 of this shape, or uint8, two to a byte, from `pack`. scale: float32 (out,), of each row. In half
    precision products are computed in float32 and rounded as they are written.

    >>> from zoti.model.rounding import pack, quantize_weight
    >>> codes, scale = quantize_weight(torch.tensor([[1.0, -7.0], [0.0, 14.0]]), bits=4)
    >>> dequantize(pack(codes), scale, codes.shape, torch.float16)
    tensor([[ 1., -7.],
            [ 0., 14.]], dtype=torch.float16)
    >>> BLOCK  # bytes
    1024
    """
    packed = codes.dtype == torch.uint8
    if packed and codes.is_cuda and triton is not None and dtype in (torch.float16, torch.float32):
        weight = codes.new_empty(shape, dtype=dtype)
        half, total = len(codes), weight.numel()
        with torch.cuda.device_of(codes):  # Triton runs where CUDA stands
            _unpack[(triton.cdiv(half, BLOCK),)](codes, scale, weight, half, total, total // len(scale), BLOCK)
        return weight
    if packed:
        codes = unpack(codes, shape)
    scale = scale.view(-1, *[1] * (len(shape) - 1))
    if dtype.itemsize == 2:
        return torch.mul(codes, scale, out=scale.new_empty(shape, dtype=dtype))
    return codes.to(dtype).mul_(scale)


if triton is not None:

    @triton.jit  # type: ignore[untyped-decorator]
    def _unpack(packed, scale, weight, half, total, row, block: tl.constexpr):  # type: ignore[no-untyped-def]
        """As `pack` has put them: byte i holds code i in its low four bits, and code half + i in the high."""
        low = tl.program_id(0) * block + tl.arange(0, block)
        high = low + half
        byte = tl.load(packed + low, low < half, 0).to(tl.int32)
        first = ((byte & 15) - 8).to(tl.float32) * tl.load(scale + low // row, low < half, 0.0)
        second = ((byte >> 4) - 8).to(tl.float32) * tl.load(scale + high // row, high < total, 0.0)
        tl.store(weight + low, first, low < half)
        tl.store(weight + high, second, high < total)
