"""Linear and convolutional layers that store their weights as integers and compute in floating point.

Only weights are rounded. Activations stay in floating point, because a finite difference asks the model for the
*difference* of two nearly equal losses, and rounding activations drowns it. No layer here behaves differently in
`train()` and `eval()`.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_input

from zoti.model.kernels import dequantize
from zoti.model.rounding import pack, quantize_weight, unpack


class Quantized(nn.Module):
    """A layer whose weight is stored as integer codes with float32 scales: what the layers below have in common.

    Codes, scales and bias are buffers, so neither autograd nor an optimizer sees them. `weight` is no parameter: it is
    computed from the codes each time it is read. `half()`, `double()` and `to(dtype)` change the dtype of the
    arithmetic and leave codes and scales alone.

    >>> layer = QuantLinear(nn.Linear(4, 3)).half()
    >>> {name: x.dtype for name, x in layer.named_buffers()}
    {'codes': torch.int8, 'scale': torch.float32, 'bias': torch.float16}
    >>> layer.weight.dtype, list(layer.parameters())
    (torch.float16, [])
    """

    codes: Tensor
    scale: Tensor
    bias: Tensor | None
    kind: str

    def __init__(self, layer: nn.Linear | nn.Conv2d, kind: str = "int8") -> None:
        super().__init__()
        self.kind = kind
        self.shape = layer.weight.shape
        codes, scale = self.store(layer.weight.detach())
        self.register_buffer("codes", codes)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach().clone())
        self.dtype = layer.weight.dtype  # what diffusers and transformers ask of the layer they call

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Quantized":
        # a channel of small weights has a scale below fp16's smallest normal number (6e-5), and there it would be lost
        scale = self.scale
        self.dtype = fn(scale.new_empty(0, dtype=self.dtype)).dtype
        super()._apply(fn, recurse)
        if self.scale.dtype != torch.float32:
            self.scale = scale.to(self.scale.device)
        return self

    def store(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The two buffers for a weight: codes (int8, or uint8 holding two each) and their float32 scales."""
        codes, scale = quantize_weight(weight, 4 if self.kind == "int4" else 8)
        return (pack(codes) if self.kind == "int4" else codes), scale

    def integers(self) -> Tensor:
        """The codes (out, ...) as int8, one each."""
        return unpack(self.codes, self.shape) if self.kind == "int4" else self.codes

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The rounded weight (out, ...) in `dtype`: made for one call, then forgotten."""
        return dequantize(self.codes, self.scale, self.shape, dtype)

    @property
    def weight(self) -> Tensor:
        """The dequantised weight, for code that looks at `layer.weight`."""
        return self.dequantize(self.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output, computed in x's dtype. Where x requires a gradient it is computed by `Rebuild`."""
        if not (x.requires_grad and torch.is_grad_enabled()):
            return self.apply_weight(x)
        y: Tensor = Rebuild.apply(x, self)
        return y

    def apply_weight(self, x: Tensor) -> Tensor:
        """The layer's own arithmetic, on a weight made for this call."""
        raise NotImplementedError

    def apply_transpose(self, grad: Tensor, shape: torch.Size) -> Tensor:
        """The gradient in x (of this shape) from the gradient in the output, on a weight made for this call."""
        raise NotImplementedError


class Rebuild(torch.autograd.Function):
    """Backpropagation *through* a frozen quantized layer, which computes the weight twice instead of keeping it.

    Plain autograd would save the dequantised weight of every layer until the backward pass, and a quantized model
    would need a full-precision copy of itself after all. Here the backward pass dequantises it again. The layer is
    linear in x, so nothing else need be saved.

    >>> kept = []
    >>> x = torch.ones(2, 100, requires_grad=True)
    >>> with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda x: x):
    ...     y = QuantLinear(nn.Linear(100, 100))(x)
    >>> kept
    []
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Quantized) -> Tensor:
        """layer(x). Only the layer and the shape of x are remembered for the backward pass."""
        ctx.layer, ctx.shape = layer, x.shape
        return layer.apply_weight(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """The gradient in x, dL/dx, from that in the output, dL/dy."""
        return ctx.layer.apply_transpose(grad, ctx.shape), None


class QuantLinear(Quantized):
    """`nn.Linear` with INT8 or INT4 weights. x: (..., in) -> (..., out), computed in x's dtype.

    INT8 codes are stored as bitsandbytes stores them, but its kernel does not multiply them, because it rounds
    activations too. (Its layer `Linear8bitLt`, of version 0.50, leaves activations alone only in train() and only on a
    CPU or XPU, where it makes a plain product as we do here.) `W8A8Linear` uses that kernel.

    >>> layer = nn.Linear(16, 8)
    >>> for kind in "int8", "int4":
    ...     quant = QuantLinear(layer, kind)
    ...     error = (quant.weight - layer.weight).abs()
    ...     print(kind, quant.codes.nbytes, bool((error.T <= 0.501 * quant.scale).all()))
    int8 128 True
    int4 64 True
    """

    def __init__(self, layer: nn.Linear, kind: str = "int8") -> None:
        super().__init__(layer, kind)
        self.in_features, self.out_features = layer.in_features, layer.out_features

    def apply_weight(self, x: Tensor) -> Tensor:
        return F.linear(x, self.dequantize(x.dtype), self.bias)

    def apply_transpose(self, grad: Tensor, shape: torch.Size) -> Tensor:
        return grad @ self.dequantize(grad.dtype)


class QuantConv2d(Quantized):
    """`nn.Conv2d` with INT8 or INT4 weights. x: (b, in, h, w) -> (b, out, h', w'); zero padding only.

    Stable Diffusion is mostly convolutions (68.5 % of its U-Net), and no common 8-bit library has one. Raises
    ValueError for any other padding.

    >>> quant = QuantConv2d(nn.Conv2d(4, 8, 3, stride=2, padding=1))
    >>> quant(torch.zeros(1, 4, 10, 10)).shape
    torch.Size([1, 8, 5, 5])
    """

    def __init__(self, layer: nn.Conv2d, kind: str = "int8") -> None:
        self.check(layer)
        super().__init__(layer, kind)
        self.stride, self.padding, self.dilation = layer.stride, layer.padding, layer.dilation
        self.groups = layer.groups

    @staticmethod
    def check(layer: nn.Conv2d) -> None:
        """Raise ValueError for a convolution that pads with anything but a number of zeros."""
        if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
            told = layer.padding if layer.padding_mode == "zeros" else layer.padding_mode
            raise ValueError(f"QuantConv2d pads with a number of zeros only, this layer pads with {told!r}")

    def apply_weight(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.dequantize(x.dtype), self.bias, self.stride, self.padding, self.dilation, self.groups)

    def apply_transpose(self, grad: Tensor, shape: torch.Size) -> Tensor:
        weight = self.dequantize(grad.dtype)
        dx: Tensor = conv2d_input(shape, weight, grad, self.stride, self.padding, self.dilation, self.groups)
        return dx
