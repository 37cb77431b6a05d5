"""Chapter 12: what its two machines do by hand is what zoti supplies, and a sweep's task goes on from its file."""

import ast
from pathlib import Path

import nbformat
import torch

from tests.helpers import problem, random_pipeline
from zoti import ZOAdam, spsa

CHAPTER = Path(__file__).parents[2] / "book" / "12-many-machines-eight-bytes-a-step.ipynb"


def own(*names, **scope):
    """Functions and classes that the chapter defines, in order; each may use those before it, and what is given."""
    scope |= {"torch": torch, "struct": __import__("struct")}
    for name in names:
        for cell in nbformat.read(CHAPTER, as_version=4).cells:
            if cell.cell_type == "code" and (f"def {name}(" in cell.source or f"class {name}:" in cell.source):
                (body,) = [n for n in ast.parse(cell.source).body if getattr(n, "name", "") == name]
                exec(compile(ast.Module([body], []), name, "exec"), scope)
    return [scope[name] for name in names]


def dice(seed):
    return torch.Generator().manual_seed(seed)


def test_two_machines_make_the_steps_of_zotis_spsa_and_adam():
    pipe, mu, adam = random_pipeline(), 1e-2, ZOAdam(5e-3)
    objective = problem(pipe)
    theta = objective.token.initial.clone()
    directions, Machine = own("directions", "Machine", d=theta.numel(), mu=mu, adam=adam, dice=dice, pipe=pipe)
    one, two = Machine(objective), Machine(objective)
    state = adam.init(theta)
    for step in range(3):
        letters = [one.ask(step, 0), two.ask(step, 1)]
        one.move(step, letters), two.move(step, letters)
        draw = objective.draw(dice(2 * step + 1))
        with torch.no_grad():
            estimate = spsa(lambda words, draw=draw: objective(words, draw), theta, 2, mu, generator=dice(2 * step))
        theta, state = adam.update(estimate.grad, theta, state)
        assert torch.equal(one.theta, two.theta)
        assert torch.allclose(one.theta, theta, atol=1e-4)
    moved = (theta - objective.token.initial).abs().max()
    assert moved > 5e-3 and directions(0).shape == (2, 1, 32)
