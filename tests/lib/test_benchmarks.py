"""benchmarks/gpu.py: its small form on a CPU, as it is meant it cannot run here; and what it says without a GPU."""

import importlib.util
import re
from itertools import islice
from pathlib import Path

import pytest
import torch

from tests.helpers import problem, random_pipeline

FILE = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


@pytest.fixture(scope="module")
def gpu():
    spec = importlib.util.spec_from_file_location("gpu", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_line_of_its_report_is_measured(gpu, tmp_path):
    random_pipeline().save_pretrained(tmp_path)
    told = list(gpu.report("tiny-sd", tmp_path, "cpu", ns=(1, 2), rounds=1, mus=(1e-6, 1e-2)))
    rows = [line.split() for line in told if line.startswith(("zoti", "theirs"))]
    assert [row[:3] for row in rows] == [
        *[["zoti", weights, n] for weights in ("float16", "int8", "int4") for n in "12"],
        ["theirs", "mixed", "-"],
    ]
    assert all(float(row[3]) > 0 and row[4] == "-" for row in rows)  # a CPU does not tell its peak
    booked = [float(row[5]) for row in rows if row[2] == "2"]
    assert booked == sorted(booked, reverse=True) and booked[0] > booked[-1]
    shares = [re.findall(r"([\d.]+)%", line) for line in told if line.startswith("noise")]
    assert len(shares) == 3 and all(float(fine) > float(coarse) for fine, coarse in shares)


def test_a_slope_without_rounding_has_no_spread(gpu, monkeypatch):
    objective = problem(random_pipeline())
    g = torch.randn(objective.token.initial.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    straight = lambda words, bank: (words.double() * g).sum((1, 2))  # noqa: E731
    monkeypatch.setattr(objective, "mean", straight)
    assert gpu.spread(objective, (1e-2,))[1e-2] < 1e-4


def test_diffusers_step_moves_one_row_and_no_other(gpu):
    pipe = random_pipeline()
    before = pipe.text_encoder.get_input_embeddings().weight.detach().clone()
    steps = gpu.theirs(pipe)
    first = [next(steps)]
    row = pipe.text_encoder.get_input_embeddings().weight[-1].detach().clone()
    losses = first + list(islice(steps, 2))
    after = pipe.text_encoder.get_input_embeddings().weight
    assert torch.equal(after[:-1], before) and not torch.equal(after[-1], row)
    assert all(0 < loss < 10 for loss in losses)


def test_without_a_gpu_it_says_so(gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="no GPU here"):
        gpu.main("sd1.5")
