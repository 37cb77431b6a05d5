"""Textual inversion by backpropagation walks in the frame of `invert`."""

from tests.helpers import generator, problem
from zoti.rivals import textual_inversion


def test_the_seed_decides_what_textual_inversion_sees(pipe):
    objective = problem(pipe)
    first, again, other = (next(textual_inversion(objective, seed=seed)).loss for seed in (0, 0, 1))
    assert first == again != other


def test_backpropagation_walks_the_same_frame(pipe):
    objective = problem(pipe)
    steps = list(textual_inversion(objective, steps=3))
    assert [s.evaluations for s in steps] == [1, 2, 3]
    bank = objective.bank(8, generator(7))
    start = objective.mean(objective.token.initial[None], bank)
    longer = list(textual_inversion(objective, steps=60, lr=1e-2))[-1]
    assert objective.mean(longer.theta[None], bank) < start
