"""Chapter 9: what it builds by hand is what zoti supplies, and the runs it tells of are of these weights."""

import ast
import json
import math
from pathlib import Path

import nbformat
import pytest
import torch

from zoti import gauss_newton, load_pipeline
from zoti.data import DATA
from zoti.model import model_key

CHAPTER = Path(__file__).parents[2] / "book" / "09-beyond-ask-for-the-vector.ipynb"


def own(*names, **scope):
    """Functions that the chapter defines."""
    for cell in nbformat.read(CHAPTER, as_version=4).cells:
        if cell.cell_type == "code" and any(f"def {name}(" in cell.source for name in names):
            body = [node for node in ast.parse(cell.source).body if getattr(node, "name", None) in names]
            exec(compile(ast.Module(body, []), "chapter 9", "exec"), scope)
    return scope


def bent(c):
    """Errors (b, 5) of candidates (b, 1, 6) that are not linear."""
    x = c[:, 0]
    return torch.stack([x[:, 0] - 1, x[:, 1] * x[:, 2], x.sum(1), x[:, 3].sin(), x[:, 4] - x[:, 5] ** 2], 1)


@pytest.mark.parametrize(("n", "rho", "temperature"), [(1, 0.97, 10.0), (2, 0.5, 1.0), (3, 1.0, 30.0)])
def test_the_chapters_step_is_zotis(n, rho, temperature):
    rows = torch.linalg.qr(torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))).Q.T
    mine = own("my_step", "least_known", torch=torch, math=math, d=6)["my_step"]
    theta = other = torch.full((1, 6), 0.3, dtype=torch.float64)
    L = precision = torch.eye(3, dtype=torch.float64)
    size, variance = 0, torch.tensor(0.0, dtype=torch.float64)
    for step in range(4):
        dice, again = (torch.Generator().manual_seed(step) for _ in range(2))
        theta, L, size = mine(bent, theta, rows, L, size, n, 1e-2, dice, 0.4, rho, temperature)
        seen = gauss_newton(
            bent, other, n, 1e-2, generator=again, directions=rows[:, None], precision=precision, variance=variance,
            spread=0.4, forgetting=rho, temperature=temperature,
        )  # fmt: skip
        other, precision, variance = other - seen.grad, seen.state["precision"], seen.state["variance"]
    assert torch.allclose(theta, other, atol=1e-10) and torch.allclose(L, precision)
    assert not torch.allclose(theta, torch.full_like(theta, 0.3))


def test_the_runs_it_tells_of_are_of_these_weights():
    runs = [json.loads(line) for line in (DATA / "results" / "beyond.jsonl").read_text().splitlines()]
    assert {run["weights"] for run in runs} == {model_key(load_pipeline())}, "python benchmarks/beyond.py, once more"
