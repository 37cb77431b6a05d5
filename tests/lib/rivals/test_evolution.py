"""Evolution in a subspace: a generation on one draw, the mean in sight, no dice but its own."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.helpers import all_equal, generator, problem, quantized
from zoti.rivals import gf_ti


class Bowl:
    """An objective without a model: half the squared distance to a target, and a diary of what was asked."""

    def __init__(self, target: torch.Tensor) -> None:
        self.target, self.token, self.asked = target, SimpleNamespace(initial=torch.zeros_like(target)), []

    def draw(self, generator: torch.Generator) -> int:
        return int(torch.randint(1000, (1,), generator=generator))

    def __call__(self, theta: torch.Tensor, draw: int) -> torch.Tensor:
        self.asked.append((tuple(theta.shape), draw))
        return (theta - self.target).square().sum((1, 2)) / 2 + draw  # the dice shift a whole generation alike


def test_evolution_asks_a_whole_generation_at_once_on_one_draw():
    bowl = Bowl(torch.randn(2, 12, generator=generator()))
    steps = list(gf_ti(bowl, steps=4, population=7, dimensions=5, seed=1))
    assert [shape for shape, _ in bowl.asked] == [(7, 2, 12)] * 4
    assert len({draw for _, draw in bowl.asked}) > 1
    assert [s.evaluations for s in steps] == [7, 14, 21, 28]
    assert all(s.theta.shape == (2, 12) and s.theta.dtype == torch.float32 for s in steps)


def test_evolution_in_the_whole_space_finds_the_bottom():
    bowl = Bowl(torch.randn(1, 10, generator=generator()))
    *_, last = gf_ti(bowl, steps=300, population=12, dimensions=10, sigma=0.3)
    torch.testing.assert_close(last.theta, bowl.target, rtol=0, atol=2e-2)


def test_evolution_reports_a_mean_that_lies_among_its_candidates():
    candidates, stretch = [], torch.tensor([1.0, 1e13], dtype=torch.float64)

    class Valley(Bowl):  # so narrow that pycma changes its coordinates on the way
        def __call__(self, theta: torch.Tensor, draw: int) -> torch.Tensor:
            candidates.append(theta.clone())
            return ((theta - self.target).double().square() * stretch).sum((1, 2))

    for step in gf_ti(Valley(torch.tensor([[1.0, 0.0]])), steps=100, population=12, dimensions=2, sigma=0.3):
        low, high = candidates[-1].amin(0), candidates[-1].amax(0)
        slack = 1e-3 * (high - low)
        assert ((low - slack <= step.theta) & (step.theta <= high + slack)).all()  # in float32 slack may be nothing


def test_evolution_in_a_subspace_finds_the_nearest_point_of_it():
    bowl = Bowl(torch.randn(1, 40, generator=generator()))
    steps = list(gf_ti(bowl, steps=300, population=12, dimensions=5, sigma=0.3))
    path = torch.stack([s.theta.flatten() for s in steps]).double()
    spread = torch.linalg.svdvals(path)
    assert spread[4] > 1e-3
    assert spread[5] < 1e-5 * spread[0]
    found, target = path[-1], bowl.target.flatten().double()
    assert (target - found) @ found == pytest.approx(0, abs=2e-2)  # the rest stands at right angles
    assert 0.3 < found.norm() < target.norm()
    (other,) = gf_ti(bowl, steps=1, population=12, dimensions=5, sigma=0.3, seed=1)
    basis = torch.linalg.svd(path, full_matrices=False)[2][:5]
    stray = other.theta.flatten().double()
    assert (basis @ stray).norm() < 0.9 * stray.norm()  # another seed, another subspace


def test_evolution_neither_heeds_nor_moves_the_global_dice():
    bowl, runs = Bowl(torch.randn(1, 16, generator=generator())), []
    for seed in (1, 2):
        np.random.seed(seed)
        torch.manual_seed(seed)
        before = np.random.get_state()[1].copy(), torch.get_rng_state()
        runs.append([s.theta for s in gf_ti(bowl, steps=5, population=6, dimensions=8, seed=0)])
        assert (np.random.get_state()[1] == before[0]).all()
        assert torch.equal(torch.get_rng_state(), before[1])
    assert all_equal(*runs)
    assert not all_equal(runs[0], [s.theta for s in gf_ti(bowl, steps=5, population=6, dimensions=8, seed=9)])


def test_evolution_learns_through_a_quantized_model_and_writes_nothing(pipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    objective = problem(quantized(pipe, "int8"))
    bank, table = objective.bank(16, generator(7)), pipe.text_encoder.get_input_embeddings().weight.clone()
    *_, last = gf_ti(objective, steps=40, population=12, dimensions=16)
    start, end = objective.mean(torch.stack([objective.token.initial, last.theta]), bank)
    assert end < start
    assert last.evaluations == 480
    assert torch.equal(table, pipe.text_encoder.get_input_embeddings().weight)
    assert not list(tmp_path.iterdir())  # pycma can keep logs


@pytest.mark.parametrize("options", [{"population": 1}, {"dimensions": 0}, {"dimensions": 17}])
def test_evolution_rejects(options):
    with pytest.raises(ValueError, match="between 1 and 16 dimensions"):
        next(gf_ti(Bowl(torch.zeros(2, 8)), **({"dimensions": 4} | options)))


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan"), float("inf")])
def test_evolution_rejects_a_spread_that_is_none(sigma):
    with pytest.raises(ValueError, match="sigma ="):
        next(gf_ti(Bowl(torch.zeros(2, 8)), dimensions=4, sigma=sigma))


def test_evolution_stops_at_a_loss_that_is_not_finite():
    with pytest.raises(FloatingPointError, match="generation 1"):
        next(gf_ti(Bowl(torch.full((1, 8), float("inf"))), dimensions=4))
