"""Fingerprints and descriptions: the same for the same in every process, another for another."""

import dataclasses
import functools
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

from tests.helpers import randn
from zoti import ZOSGD, Guided, PartialUniform, SNRWeighted, Stratified, SubspaceGradient, Uniform, ZOAdam, rge, spsa
from zoti.identity import described, differences, fingerprint, sketch


def test_every_bit_name_type_and_shape_counts():
    x = randn(4, 6)
    one_bit = x.clone()
    one_bit.view(torch.int32)[2, 3] ^= 1
    others = [
        {"a": x},
        {"b": x},
        {"a": one_bit},
        {"a": x.view(6, 4)},
        {"a": x.half()},
        {"a": x.T},
        {"a": x, "b": x},
        {},
    ]
    assert len({fingerprint(tensors) for tensors in others} | {fingerprint({"a": x}, "text")}) == len(others) + 1
    assert fingerprint({"a": x}) == fingerprint({"a": torch.randn(8, 12)[::2, ::2].copy_(x)})
    for kind in (torch.bool, torch.int8, torch.bfloat16, torch.float64, torch.float8_e4m3fn):
        assert len(fingerprint({"a": x.to(kind), "none": torch.zeros(0, 3), "one": torch.ones(())})) == 16


def test_a_sketch_knows_pictures_by_another_rounding_but_no_others():
    x = randn(5, 4, 32, 32)
    same = [x.half(), x + 2e-3 * randn(*x.shape, seed=1), x * 1.001]
    others = [x.flip(3), x.flip(0), x[:4], x + 0.2 * randn(*x.shape, seed=1), randn(*x.shape, seed=2), 0 * x]
    assert not any(differences({"x": sketch(x)}, {"x": sketch(y)}) for y in same)
    assert all(differences({"x": sketch(x)}, {"x": sketch(y)}) for y in others)
    assert not differences({"x": sketch(0 * x)}, {"x": sketch(0 * x)})
    assert sketch(torch.zeros(0, 4, 8, 8)) == []


def own(factor):
    def estimator(loss_fn, theta, n, mu, *, generator):
        return rge(loss_fn, theta, n, factor * mu, generator=generator)

    return estimator


def lines(text: str):
    """What a notebook's cell defines under the name `it`."""
    names: dict[str, object] = {"__name__": "__main__", "dataclass": dataclasses.dataclass}
    exec(textwrap.dedent(text), names)
    return names["it"]


CELL = """
    @dataclass
    class it:
        lr: float = 0.1

        def update(self, grad, theta, state):
            return theta - self.lr * grad, state
    """


def test_no_two_parts_are_described_alike():
    method = "class A:\n  def f(self): return {}\nit = A().f"
    unlike = [
        *(Uniform(), PartialUniform(1, 2), Stratified(Uniform()), Stratified(PartialUniform(1, 2))),
        *(SNRWeighted(torch.tensor([0.9, 0.1])), SNRWeighted(torch.tensor([0.9, 0.5, 0.1]))),
        *(Stratified(SNRWeighted(torch.tensor([0.9, 0.1]))), ZOAdam(), ZOAdam(1e-3), ZOSGD(1e-3), SubspaceGradient()),
        *(Guided(), Guided(3), rge, spsa, functools.partial(rge, directions="orthogonal"), functools.partial(rge)),
        *(own(1), own(2), lambda x: x, lambda x: 2 * x, lambda x, y=1: x, lambda x, *, y=2: x),
        *(lines(CELL)(), lines(CELL)(0.2), lines(CELL.replace("- self", "+ self"))()),
        *(lines("n = 1\nit = lambda x: n * x"), lines("n = 2\nit = lambda x: n * x")),
        *(lines(method.format(1)), lines(method.format(2))),
        *(randn(2000), randn(2000, seed=1), randn(2000).numpy(), {"a": randn(2)}, {"a": randn(3)}),
        *(torch.nn.Linear(2, 2), torch.nn.Linear(2, 3), None, 1, 1.5, True, "a", (1, 2), (2, 1), {1, 2}, {1, 3}),
    ]
    told = [described(part) for part in unlike]
    twice = {text: [unlike[i] for i, x in enumerate(told) if x == text] for text in told if told.count(text) > 1}
    # numpy's array of the same numbers is the same
    assert [len(parts) for parts in twice.values()] == [2]


def test_what_is_the_same_is_described_alike():
    assert described(own(1)) == described(own(1))
    assert described(lines(CELL)()) == described(lines("\n\n" + CELL)())
    assert described({1, 2}) == described({2, 1})
    assert described(np.ones(3, dtype=np.float32)) == described(torch.ones(3))


def test_what_holds_itself_is_described_too():
    knot = lines("class A: pass\nit = A()\nit.me = it")
    assert described(knot).count("A") < 5
    again = lines("def it(n): return it(n - 1)")
    assert described(again).startswith("it ")

    class Deep(type(knot)):
        def __init__(self):
            super().__init__()

    assert "Deep" in described(Deep())


@pytest.mark.slow
def test_descriptions_are_the_same_in_every_process():
    script = textwrap.dedent("""
        import functools
        import torch
        from tests.lib.test_identity import CELL, lines, own
        from zoti import SNRWeighted, rge
        from zoti.identity import described
        parts = [own(1), lines(CELL)(), SNRWeighted(torch.tensor([0.9, 0.1])), {"a", "b", "c", "d"},
                 lines("it = lambda x: x in {'a', 'b', 'c', 'd'}"), object(), functools.partial(rge, n=2)]
        print(*map(described, parts), sep="\\n")
        """)
    told = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONPATH": os.getcwd(), "PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
        assert done.stdout.count("\n") == 7, done.stderr
        told.add(done.stdout)
    assert len(told) == 1, told
