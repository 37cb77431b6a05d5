"""Chapter 3 rounds weights by code of its own: it is zoti's rounding, to the last bit."""

import ast
import math
from pathlib import Path

import nbformat
import pytest
import torch
from torch import nn

from zoti.model import NF4Linear, quantize_weight

CHAPTER = Path(__file__).parents[2] / "book" / "03-eight-bits.ipynb"


@pytest.fixture(scope="module")
def own():
    """The chapter's functions by name, and nothing of what it runs."""
    cells = [c.source for c in nbformat.read(CHAPTER, as_version=4).cells if "def " in c.source and "%" not in c.source]
    defined = [node for cell in cells for node in ast.parse(cell).body if isinstance(node, ast.FunctionDef)]
    wanted = [node for node in defined if node.name in ("round_weight", "nf4_marks", "nf4")]
    scope = {"torch": torch, "gcd": math.gcd}
    exec(compile(ast.Module(wanted, []), str(CHAPTER), "exec"), scope)
    return scope


@pytest.mark.parametrize("bits", [8, 6, 4, 3, 2])
@pytest.mark.parametrize("shape", [(7, 16), (5, 3, 3, 3)])
def test_the_chapters_equation_2_is_zotis(own, bits, shape):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(bits))
    rounded, codes, s = own["round_weight"](weight, bits)
    ours, scale = quantize_weight(weight, bits)
    assert torch.equal(codes.view(shape).to(torch.int8), ours)
    assert torch.equal(s.flatten(), scale)
    assert torch.equal(rounded, ours * scale.view(-1, *[1] * (len(shape) - 1)))


def test_weights_that_share_a_scale_are_rounded_as_a_row_is(own):
    weight = torch.randn(6, 32, generator=torch.Generator().manual_seed(0))
    blocks = own["round_weight"](weight, 4, 16)[0]
    assert torch.equal(blocks, own["round_weight"](weight.view(12, 16), 4)[0].view(6, 32))
    assert torch.equal(own["round_weight"](torch.zeros(2, 3))[0], torch.zeros(2, 3))


def test_the_chapters_nf4_is_bitsandbytes(own):
    layer = nn.Linear(128, 24)
    nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(own["nf4"](layer.weight.detach()), NF4Linear(layer).weight, rtol=1e-5, atol=1e-6)
