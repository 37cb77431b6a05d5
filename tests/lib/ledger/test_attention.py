"""Attention on the meta device: efficient there, exact elsewhere, and put back afterwards."""

import pytest
import torch
import torch.nn.functional as F

from zoti.ledger import Ledger


def test_attention_is_efficient_on_meta_exact_on_cpu_and_restored_after_an_error():
    original = F.scaled_dot_product_attention
    q = torch.ones(1, 2, 512, 40, device="meta", requires_grad=True)
    with Ledger() as ledger, ledger.phase("attention"):
        out = F.scaled_dot_product_attention(q, q, q, is_causal=True)
        out.sum().backward()
    assert out.shape == q.shape
    assert ledger.peak.total < 4 * 512 * 512  # not even one head's matrix
    mask = torch.ones(512, 512, dtype=torch.bool, device="meta")
    real = torch.randn(1, 2, 8, 4)
    with pytest.raises(RuntimeError, match="halt"), Ledger():
        assert F.scaled_dot_product_attention(q, q, q, attn_mask=mask).shape == q.shape
        assert torch.equal(F.scaled_dot_product_attention(real, real, real), original(real, real, real))
        with pytest.raises(NotImplementedError, match="enable_gqa"):
            F.scaled_dot_product_attention(q, q, q, enable_gqa=True)
        raise RuntimeError("halt")
    assert F.scaled_dot_product_attention is original
