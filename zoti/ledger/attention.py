"""Attention that on the meta device needs the memory it needs on a GPU, where the (n, n) matrix is never made.

Left to itself PyTorch makes the full matrix there, and a ledger of memory would book what no GPU allocates.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def attention(
    original: Callable[..., Tensor],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **options: bool,
) -> Tensor:
    """Attention, query (b, heads, n, d) -> (b, heads, n, d): on the meta device by a GPU's memory-efficient operator.

    original: `F.scaled_dot_product_attention`, which computes it on every other device.

    Raises NotImplementedError on meta for its newer options, such as `enable_gqa`.

    >>> from torch.nn.functional import scaled_dot_product_attention
    >>> q = torch.empty(1, 8, 4096, 40, device="meta")
    >>> attention(scaled_dot_product_attention, q, q, q).shape
    torch.Size([1, 8, 4096, 40])
    """
    if not query.is_meta:
        return original(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, **options)
    if any(options.values()):
        raise NotImplementedError(f"{', '.join(options)}: no model of this book asks for it")
    if attn_mask is not None:
        bias = attn_mask if attn_mask.is_floating_point() else torch.zeros_like(attn_mask, dtype=query.dtype)
        attn_mask = bias.expand(*query.shape[:-1], key.shape[-2])
    keep = torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value))
    operator = torch.ops.aten._scaled_dot_product_efficient_attention
    out: Tensor = operator(query, key, value, attn_mask, keep, dropout_p, is_causal, scale=scale)[0]
    return out
