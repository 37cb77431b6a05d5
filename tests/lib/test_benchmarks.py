"""benchmarks/gpu.py: its small form on a CPU, as it is meant it cannot run here; and what it says without a GPU.

benchmarks/runs.py: what keeps a long benchmark's runs.
"""

import importlib.util
import json
import re
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import pytest
import torch

import zoti.model
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


def test_a_stopped_benchmark_goes_on_where_it_was(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(FILE.parent)
    runs, out = importlib.import_module("runs"), tmp_path / "results.jsonl"
    ran = []

    def run(key, cost):
        ran.append(key)
        if key == ("a", 2) and len(ran) == 3:
            while not out.exists() or len(out.read_text().splitlines()) < 2:
                time.sleep(0.01)  # those before it are kept as soon as they are there
            raise RuntimeError("stopped")
        return {"method": key[0], "seed": key[1], "cost": cost}

    calls = {("a", seed): (7,) for seed in (0, 1, 2, 3)}
    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(RuntimeError, match="stopped"):
            runs.Runs(out, ["method", "seed"]).make(pool, run, calls)
        kept = {("a", line["seed"]) for line in map(json.loads, out.read_text().splitlines())}
        assert {("a", 0), ("a", 1)} <= kept and ("a", 2) not in kept
        ran[:] = [None] * 9
        runs.Runs(out, ["method", "seed"]).make(pool, run, calls)
    assert {*ran[9:]} == {*calls} - kept
    assert [json.loads(line)["cost"] for line in out.read_text().splitlines()] == [7] * 4


def test_a_graph_is_kept_until_what_decides_its_bits_is_another(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(FILE.parent)
    runs, written = importlib.import_module("runs"), []
    layers = shutil.copytree(Path(zoti.model.__file__).parent, tmp_path / "model")
    kept = {"GRAPHS": tmp_path / "graphs", "pipeline": str, "model_key": lambda pipe: f"key of {pipe}"}
    kept["noise_graph"] = lambda pipe: written.append(pipe) or f"graph {len(written)}".encode()
    for name, here in kept.items():
        monkeypatch.setattr(runs, name, here)
    monkeypatch.setattr(zoti.model, "__file__", str(layers / "__init__.py"))
    graph = runs.graph.__wrapped__  # as another process asks
    assert graph("int8") == graph("int8") == b"graph 1" and graph("int4") == b"graph 2"
    with monkeypatch.context() as later:
        later.setattr(runs, "version", lambda name: f"a newer {name}")
        assert graph("int8") == b"graph 3"
    (layers / "rounding.py").write_text("# rounds otherwise")
    assert graph("int8") == b"graph 4" and written == ["int8", "int4", "int8", "int8"]
