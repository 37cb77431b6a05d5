"""Eight or four bits a weight: Linear and Conv2d with integer storage, full-precision arithmetic (ZOODiP Eq. 2).

Only weights are rounded. Activations stay in floating point, because a finite difference asks the model for the
*difference* of two nearly equal losses, and rounding activations drowns it. `llm_int8` rounds them all the same, to
show just that. No layer here behaves differently in `train()` and `eval()`.
"""

from typing import Any

import bitsandbytes.functional as bnb
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_input

from zoti.rounding import pack, quantize_weight, unpack


class _Quantized(nn.Module):
    """A layer that stores codes and float32 scales as buffers, so neither autograd nor an optimizer sees them."""

    codes: Tensor
    scale: Tensor
    bias: Tensor | None
    kind: str

    def __init__(self, layer: nn.Linear | nn.Conv2d, kind: str = "int8") -> None:
        super().__init__()
        self.kind, self.shape = kind, layer.weight.shape
        codes, scale = self.store(layer.weight.detach())
        self.register_buffer("codes", codes)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach().clone())
        self.dtype = layer.weight.dtype  # what diffusers and transformers ask of the layer they call

    def store(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The two buffers for a weight: codes (int8, or uint8 holding two each) and their float32 scales."""
        codes, scale = quantize_weight(weight, 4 if self.kind == "int4" else 8)
        return (pack(codes) if self.kind == "int4" else codes), scale

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The rounded weight (out, ...) in `dtype`: made for one call, then forgotten."""
        codes = unpack(self.codes, self.shape) if self.kind == "int4" else self.codes
        return codes.to(dtype).mul_(self.scale.to(dtype).view(-1, *[1] * (codes.ndim - 1)))

    @property
    def weight(self) -> Tensor:
        """The dequantised weight, for code that looks at `layer.weight`; not a parameter."""
        return self.dequantize(self.dtype)

    def forward(self, x: Tensor) -> Tensor:
        return _Rebuild.apply(x, self) if x.requires_grad and torch.is_grad_enabled() else self.apply_weight(x)

    def apply_weight(self, x: Tensor) -> Tensor:
        """The layer's own arithmetic, on a weight made for this call."""
        raise NotImplementedError

    def apply_transpose(self, grad: Tensor, shape: torch.Size) -> Tensor:
        """The gradient in x (of this shape) from the gradient in the output, on a weight made for this call."""
        raise NotImplementedError


class _Rebuild(torch.autograd.Function):
    """Backpropagation *through* a frozen quantized layer, making the weight twice instead of keeping it.

    Plain autograd would save the dequantised weight of every layer until the backward pass, and a quantized model
    would need a full-precision copy of itself after all. The layer is linear in x, so nothing else need be saved.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: _Quantized) -> Tensor:
        ctx.layer, ctx.shape = layer, x.shape
        return layer.apply_weight(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.layer.apply_transpose(grad, ctx.shape), None


class QuantLinear(_Quantized):
    """`nn.Linear` with INT8 or INT4 weights. x: (..., in) -> (..., out), computed in x's dtype."""

    def __init__(self, layer: nn.Linear, kind: str = "int8") -> None:
        super().__init__(layer, kind)
        self.in_features, self.out_features = layer.in_features, layer.out_features

    def apply_weight(self, x: Tensor) -> Tensor:
        return F.linear(x, self.dequantize(x.dtype), self.bias)

    def apply_transpose(self, grad: Tensor, shape: torch.Size) -> Tensor:
        return grad @ self.dequantize(grad.dtype)


class NF4Linear(QuantLinear):
    """`nn.Linear` on bitsandbytes' NF4: blocks of 64 weights, 16 levels that suit a Gaussian (QLoRA, Dettmers et al.
    2023).

    codes: uint8 (ceil(in out / 2), 1); scale: float32 (blocks,), the largest weight of each. Storing and dequantising
    are theirs. Their layer `Linear4bit` is not, for in eval() it rounds activations to bfloat16 where the CPU can.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer, "nf4")

    def store(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        if weight.is_meta:  # their kernels are for real devices; a shape is all a meta tensor has
            n = weight.numel()
            return weight.new_empty((n + 1) // 2, 1, dtype=torch.uint8), weight.new_empty((n + 63) // 64).float()
        codes, state = bnb.quantize_4bit(weight, blocksize=64, quant_type="nf4")
        return codes, state.absmax

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        if self.codes.is_meta:
            return torch.empty(self.shape, dtype=dtype, device="meta")
        theirs = torch.float32 if dtype == torch.float64 else dtype  # their kernels know no doubles
        state = bnb.QuantState(  # type: ignore[no-untyped-call]
            self.scale, shape=self.shape, blocksize=64, quant_type="nf4", dtype=theirs
        )
        weight: Tensor = bnb.dequantize_4bit(self.codes, state)
        return weight.reshape(self.shape).to(dtype)  # theirs takes a code alone, two weights, for a transposed matrix


class W8A8Linear(QuantLinear):
    """`nn.Linear` with INT8 weights *and activations*: one scale per row of x, int8 x int8 -> int32 (LLM.int8(),
    Dettmers et al. 2022, without its exception for outliers), as bitsandbytes' `Linear8bitLt` computes in eval().

    For showing why zoti leaves activations alone. Backpropagation goes straight through the rounding, as it does there.
    On the meta device it is a plain linear layer: int8 copies of activations are not accounted for.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.is_meta:
            return super().forward(x)
        rows, largest, _ = bnb.int8_vectorwise_quant(x.detach().flatten(0, -2).half())  # their kernels take fp16
        products = bnb.int8_linear_matmul(rows, self.codes).to(x.dtype)  # (rows, out), exact in int32
        y: Tensor = (products * (largest[:, None] / 127 * self.scale).to(x.dtype)).view(*x.shape[:-1], -1)
        y = y if self.bias is None else y + self.bias
        if torch.is_grad_enabled() and x.requires_grad:
            smooth = super().forward(x)
            return smooth + (y - smooth).detach()
        return y


class QuantConv2d(_Quantized):
    """`nn.Conv2d` with INT8 or INT4 weights. x: (b, in, h, w) -> (b, out, h', w'); zero padding only.

    Stable Diffusion is mostly convolutions (68.5 % of its U-Net), and no common 8-bit library has one.
    """

    def __init__(self, layer: nn.Conv2d, kind: str = "int8") -> None:
        if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
            told = layer.padding if layer.padding_mode == "zeros" else layer.padding_mode
            raise ValueError(f"QuantConv2d pads with a number of zeros only, this layer pads with {told!r}")
        super().__init__(layer, kind)
        self.stride, self.padding, self.dilation, self.groups = (
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.groups,
        )

    def apply_weight(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.dequantize(x.dtype), self.bias, self.stride, self.padding, self.dilation, self.groups)

    def apply_transpose(self, grad: Tensor, shape: torch.Size) -> Tensor:
        weight = self.dequantize(grad.dtype)
        return conv2d_input(shape, weight, grad, self.stride, self.padding, self.dilation, self.groups)


_LINEAR = {"int8": QuantLinear, "int4": lambda l: QuantLinear(l, "int4"), "nf4": NF4Linear, "llm_int8": W8A8Linear}


def quantize_(module: nn.Module, weights: str = "int8") -> nn.Module:
    """Replace every Linear and Conv2d inside `module`, in place, and return it.

    weights: 'int8' or 'int4' (both per output channel, Eq. 2), 'nf4' (bitsandbytes' under Linear), or 'llm_int8' (which
    rounds activations too). bitsandbytes has no convolution: with the last two they are INT8. Embeddings and norms stay
    as they are, as in the paper (96.4 % of SD1.5's parameters become INT8). Works on the meta device. Raises ValueError
    for an unknown `weights`.
    """
    if weights not in _LINEAR:
        raise ValueError(f"weights={weights!r} is unknown; zoti quantizes to {', '.join(map(repr, _LINEAR))}")
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, _LINEAR[weights](child))
        elif isinstance(child, nn.Conv2d):
            setattr(module, name, QuantConv2d(child, "int4" if weights == "int4" else "int8"))
        else:
            quantize_(child, weights)
    return module


def footprint(module: nn.Module) -> dict[str, int]:
    """Bytes held by parameters and buffers, by storage: {'int8': ..., 'float32': ..., 'total': ...}.

    Codes count as what they mean ('int8', 'int4', 'nf4'), everything else, scales included, by its dtype.
    """
    counted: dict[str, int] = {}
    seen: set[int] = set()
    for layer in module.modules():
        for name, tensor in (*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)):
            if id(tensor) in seen:  # tied weights are stored once
                continue
            seen.add(id(tensor))
            meant = isinstance(layer, _Quantized) and name == "codes"
            kind = str(layer.kind if meant else tensor.dtype).removeprefix("torch.")
            counted[kind] = counted.get(kind, 0) + tensor.numel() * tensor.element_size()
    return counted | {"total": sum(counted.values())}
