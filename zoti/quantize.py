"""Eight bits a weight: Linear and Conv2d with INT8 storage, full-precision arithmetic (ZOODiP Eq. 2).

Only weights are rounded. Activations stay in floating point, because a finite difference asks the model for the
*difference* of two nearly equal losses, and rounding activations drowns it.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_input


def quantize_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric 8-bit rounding with one scale per output channel (Eq. 2 with N = 8 and offset o = 0).

    weight: (out, ...). Returns (codes, scale): int8 of the same shape, and float32 (out,). |W - codes * scale| <=
    scale / 2 everywhere. The codes and scales are those of bitsandbytes' row-wise `int8_vectorwise_quant`.
    """
    rows = weight.detach().float().flatten(1)
    # an all-zero channel has no scale of its own; any positive one restores it exactly
    scale = rows.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny * 127) / 127
    codes = torch.round(rows / scale[:, None]).clamp(-128, 127).to(torch.int8)
    return codes.view(weight.shape), scale


class _Quantized(nn.Module):
    """A layer that stores int8 codes and float32 scales as buffers, so neither autograd nor an optimizer sees them."""

    codes: Tensor
    scale: Tensor

    def __init__(self, layer: nn.Linear | nn.Conv2d) -> None:
        super().__init__()
        codes, scale = quantize_weight(layer.weight)
        self.register_buffer("codes", codes)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach().clone())
        self.dtype = layer.weight.dtype  # what diffusers and transformers ask of the layer they call

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The rounded weight (out, ...) in `dtype`: made for one call, then forgotten."""
        return self.codes.to(dtype).mul_(self.scale.to(dtype).view(-1, *[1] * (self.codes.ndim - 1)))

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
    """`nn.Linear` with INT8 weights. x: (..., in) -> (..., out), computed in x's dtype."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer)
        self.in_features, self.out_features = layer.in_features, layer.out_features

    def apply_weight(self, x: Tensor) -> Tensor:
        return F.linear(x, self.dequantize(x.dtype), self.bias)

    def apply_transpose(self, grad: Tensor, shape: torch.Size) -> Tensor:
        return grad @ self.dequantize(grad.dtype)


class QuantConv2d(_Quantized):
    """`nn.Conv2d` with INT8 weights. x: (b, in, h, w) -> (b, out, h', w'); zero padding only.

    Stable Diffusion is mostly convolutions (68.5 % of its U-Net), and no common 8-bit library has one.
    """

    def __init__(self, layer: nn.Conv2d) -> None:
        if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
            told = layer.padding if layer.padding_mode == "zeros" else layer.padding_mode
            raise ValueError(f"QuantConv2d pads with a number of zeros only, this layer pads with {told!r}")
        super().__init__(layer)
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


def quantize_(module: nn.Module, weights: str = "int8") -> nn.Module:
    """Replace every Linear and Conv2d inside `module`, in place, and return it.

    Embeddings and norms stay as they are, as in the paper (96.4 % of SD1.5's parameters become INT8). Works on the
    meta device. Raises ValueError for an unknown `weights`.
    """
    if weights != "int8":
        raise ValueError(f"weights={weights!r} is unknown; zoti quantizes to 'int8'")
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, QuantLinear(child))
        elif isinstance(child, nn.Conv2d):
            setattr(module, name, QuantConv2d(child))
        else:
            quantize_(child, weights)
    return module


def footprint(module: nn.Module) -> dict[str, int]:
    """Bytes held by parameters and buffers, by storage type: {'int8': ..., 'float32': ..., 'total': ...}."""
    counted: dict[str, int] = {}
    seen: set[int] = set()
    for tensor in (*module.parameters(), *module.buffers()):
        if id(tensor) in seen:  # tied weights are stored once
            continue
        seen.add(id(tensor))
        kind = str(tensor.dtype).removeprefix("torch.")
        counted[kind] = counted.get(kind, 0) + tensor.numel() * tensor.element_size()
    return counted | {"total": sum(counted.values())}
