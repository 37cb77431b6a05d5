"""Chapter 6: what it builds by hand is what zoti supplies."""

import ast
from pathlib import Path

import nbformat
import pytest
import torch

from zoti import SubspaceGradient

CHAPTER = Path(__file__).parents[2] / "book" / "06-the-subspace-where-words-move.ipynb"


def own():
    """The functions that the chapter defines in the open."""
    scope = {"torch": torch}
    for cell in nbformat.read(CHAPTER, as_version=4).cells:
        if cell.cell_type == "code" and any(f"def {name}(" in cell.source for name in ("spectrum", "my_rows")):
            exec(compile(ast.parse(cell.source), "chapter 6", "exec"), scope)
    return scope


@pytest.mark.parametrize(("tau", "nu"), [(8, 0.1), (16, 1e-2), (32, 1e-3)])
def test_the_chapters_subspace_is_zotis(tau, nu):
    path = torch.randn(tau, 48, generator=torch.Generator().manual_seed(tau), dtype=torch.float64).cumsum(0)
    chapter = own()
    ours = chapter["my_rows"](path, nu)
    subspace = SubspaceGradient(tau=tau, nu=nu)
    state = subspace.init(path[:1])
    for theta in path.split(1):
        state = subspace.observe(theta, state)
    assert len(ours) == len(state["removed"]) > 0
    assert torch.allclose(ours.T @ ours, state["removed"].T @ state["removed"], atol=1e-8)
    grad = torch.randn(1, 48, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.allclose(chapter["project"](grad, ours), subspace.project(grad, state)[0], atol=1e-8)
