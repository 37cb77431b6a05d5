"""Chapter 5: the loop it writes by hand is `invert`, and its race gives every runner what `invert` would."""

import ast
from pathlib import Path

import nbformat
import pytest
import torch

from zoti import (
    ZOSGD,
    ConceptToken,
    Config,
    DenoisingLoss,
    PartialUniform,
    SubspaceGradient,
    ZOAdam,
    cache_latents,
    invert,
    load_pipeline,
)
from zoti.data import load_subject

CHAPTER = Path(__file__).parents[2] / "book" / "05-zeroth-order-textual-inversion.ipynb"


def own(name):
    """A function that the chapter defines in the open."""
    for cell in nbformat.read(CHAPTER, as_version=4).cells:
        if cell.cell_type == "code" and f"def {name}(" in cell.source:
            scope = {"torch": torch, "SubspaceGradient": SubspaceGradient}
            exec(compile(ast.parse(cell.source), name, "exec"), scope)
            return scope[name]
    raise LookupError(name)


@pytest.fixture(scope="module")
def teapot():
    pipe, subject = load_pipeline("tiny-sd", weights="int8"), load_subject("teapot")
    token = ConceptToken(pipe, "<teapot>", initializer=subject.class_word, replace=True)
    times = PartialUniform(500, 900)
    return DenoisingLoss(pipe, token, cache_latents(pipe, subject.references), subject.captions, times)


@pytest.mark.parametrize(("n", "mu", "lr"), [(1, 1e-3, 5e-3), (3, 1e-2, 1e-2)])
def test_the_chapters_loop_is_zotis_to_the_bit(teapot, n, mu, lr):
    mine = own("my_invert")(teapot, 18, seed=4, n=n, mu=mu, lr=lr, tau=16)
    config = Config(steps=18, n=n, mu=mu, seed=4, optimizer=ZOAdam(lr=lr), subspace=SubspaceGradient(tau=16, nu=0.05))
    *_, last = invert(teapot, config)
    assert last.removed > 0, "the subspace was not in force"
    assert torch.equal(mine, last.theta)
    assert not torch.equal(mine, own("my_invert")(teapot, 18, seed=5, n=n, mu=mu, lr=lr, tau=16))


def test_a_race_is_runs_of_invert_side_by_side(teapot):
    runners = [ZOSGD(0.5), ZOAdam()]
    words = own("race")(teapot, runners, seed=4, steps=3)[-1][0]
    for word, optimizer in zip(words, runners, strict=True):
        *_, last = invert(teapot, Config(steps=3, seed=4, optimizer=optimizer, subspace=None))
        moved = (last.theta - teapot.token.initial).norm()
        # in a batch of another size losses are rounded otherwise, and a slope is their difference over 0.001
        assert (word - last.theta).norm() < 0.05 * moved
