"""Two linear layers that compute with bitsandbytes' kernels, on CPU and CUDA.

`NF4Linear` has four bits a weight, like INT4, but spends them better where weights are Gaussian, as trained ones
nearly are. `W8A8Linear` rounds activations as well as weights, to show why nothing else in zoti does.
"""

import bitsandbytes.functional as bnb
import torch
from torch import Tensor, nn
from torch.autograd.forward_ad import unpack_dual

from zoti.model.layers import QuantLinear


class NF4Linear(QuantLinear):
    """`nn.Linear` with weights of four bits, in bitsandbytes' NF4 (QLoRA, Dettmers et al. 2023).

    NF4 has 16 levels that suit a Gaussian, and one scale for every block of 64 weights. codes: uint8
    (ceil(in out / 2), 1); scale: float32 (blocks,), the largest absolute weight of each block.

    bitsandbytes stores and dequantises the weight. Its own layer, `Linear4bit`, is not used: in eval() it rounds
    activations to bfloat16 on every CPU that can.

    >>> layer = nn.Linear(128, 64)
    >>> _ = nn.init.normal_(layer.weight)
    >>> quant = NF4Linear(layer)
    >>> quant.codes.shape, quant.scale.shape
    (torch.Size([4096, 1]), torch.Size([128]))
    >>> rounding = lambda other: (other.weight - layer.weight).norm()
    >>> bool(rounding(quant) < rounding(QuantLinear(layer, "int4")))  # better spent
    True
    """

    def __init__(self, layer: nn.Linear, kind: str = "nf4") -> None:
        super().__init__(layer, kind)

    def store(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        if weight.is_meta:  # their kernels are for real devices, a meta tensor has but a shape
            n = weight.numel()
            codes = weight.new_empty((n + 1) // 2, 1, dtype=torch.uint8)
            scale = weight.new_empty((n + 63) // 64).float()
            return codes, scale
        codes, state = bnb.quantize_4bit(weight.float(), blocksize=64, quant_type="nf4")
        return codes, state.absmax

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        if self.codes.is_meta:
            return torch.empty(self.shape, dtype=dtype, device="meta")
        theirs = torch.float32 if dtype == torch.float64 else dtype  # their kernels know no doubles
        state = bnb.QuantState(self.scale, shape=self.shape, blocksize=64, quant_type="nf4", dtype=theirs)
        weight: Tensor = bnb.dequantize_4bit(self.codes, state)
        return weight.reshape(self.shape).to(dtype)  # they take one code alone for a transposed matrix


class W8A8Linear(QuantLinear):
    """`nn.Linear` with INT8 weights *and INT8 activations*, to show why zoti leaves activations alone.

    Each row of x is rounded with a scale of its own, and the product is int8 x int8 -> int32. This is LLM.int8()
    (Dettmers et al. 2022) without its exception for outliers, as bitsandbytes' `Linear8bitLt` computes in eval().
    Derivatives, backward or forward, go straight through the rounding. On the meta device it is a plain linear layer:
    int8 copies of activations are not accounted for.

    >>> layer, x = nn.Linear(64, 4), torch.linspace(-1, 1, 64).repeat(2, 1)
    >>> x[1, 10] += 1e-3  # an eighth of a step of the activations, which are 1 at most
    >>> weight_only, both = QuantLinear(layer)(x), W8A8Linear(layer)(x)
    >>> torch.equal(*weight_only), torch.equal(*both)
    (False, True)
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.is_meta:
            return super().forward(x)
        rows, largest, _ = bnb.int8_vectorwise_quant(x.detach().reshape(-1, self.in_features).half())  # all theirs take
        products = bnb.int8_linear_matmul(rows, self.codes)  # (rows, out), exact in int32 and far above fp16's 65504
        scale = (largest[:, None] / 127 * self.scale).to(torch.promote_types(x.dtype, torch.float32))
        y: Tensor = (products * scale).to(x.dtype).view(*x.shape[:-1], self.out_features)
        if self.bias is not None:
            y = y + self.bias
        if (torch.is_grad_enabled() and x.requires_grad) or unpack_dual(x).tangent is not None:
            smooth = super().forward(x)
            return smooth + (y - smooth).detach()
        return y
