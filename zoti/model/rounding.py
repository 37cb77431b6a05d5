"""Rounding weights to integers with one scale per output channel (ZOODiP Eq. 2), and two 4-bit integers to a byte."""

import torch
import torch.nn.functional as F
from torch import Tensor


def quantize_weight(weight: Tensor, bits: int = 8) -> tuple[Tensor, Tensor]:
    """Round a weight to integers, symmetrically, with one scale per output channel (Eq. 2, N = bits, offset o = 0).

    weight: (out, ...). Returns (codes, scale): int8 of the same shape, and float32 (out,), such that
    `|W - codes * scale| <= scale / 2` everywhere. At 8 bits they are what bitsandbytes' `int8_vectorwise_quant` makes
    of each row: the same codes, except for a few in a million that lie half-way between two integers, and its scales
    divided by 127.

    >>> quantize_weight(torch.tensor([[0.5, -1.27], [0.0, 254.0]]))
    (tensor([[  50, -127],
            [   0,  127]], dtype=torch.int8), tensor([0.0100, 2.0000]))
    """
    top = 2 ** (bits - 1) - 1  # Q_P; symmetric weights never reach Q_N = -Q_P - 1
    rows = weight.detach().float().flatten(1)
    # an all-zero channel has no scale of its own; any positive one restores it exactly
    low, high = rows.aminmax(dim=1)  # of the whole weight no copy is made but the one that is rounded
    scale = torch.maximum(-low, high).clamp(min=torch.finfo(torch.float32).tiny * top) / top
    codes = (rows / scale[:, None]).round_().clamp_(-top - 1, top).to(torch.int8)
    return codes.view(weight.shape), scale


def pack(codes: Tensor) -> Tensor:
    """Store codes of 4 bits, -8..7 in any shape, two to a byte: uint8 (ceil(numel / 2),).

    The first half of the codes takes the low four bits of each byte, the second half the high four.

    >>> pack(torch.tensor([-8, 7, 0, 1], dtype=torch.int8))  # -8 is stored as 0, and 7 as 15
    tensor([128, 159], dtype=torch.uint8)
    """
    nibbles = F.pad(codes.flatten() + 8, (0, codes.numel() % 2)).view(2, -1).to(torch.uint8)
    return nibbles[0] | nibbles[1] << 4


def unpack(packed: Tensor, shape: torch.Size) -> Tensor:
    """Undo `pack`: the codes it was given, int8 of this shape.

    >>> unpack(pack(torch.tensor([-8, 7, 3], dtype=torch.int8)), torch.Size([1, 3]))
    tensor([[-8,  7,  3]], dtype=torch.int8)
    """
    codes = torch.cat([packed & 15, packed >> 4]).to(torch.int8) - 8
    return codes[: shape.numel()].view(shape)  # an odd number of codes was padded by one
