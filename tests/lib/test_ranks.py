"""Many processes, one token: what they hold, what crosses the wire, and what is left when one of them is killed."""

import multiprocessing
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers import problem, random_pipeline
from tests.lib.together import CONFIGS, join, learn
from zoti.files import header
from zoti.ranks import Shared

ROOT = Path(__file__).parents[2]


def job(folder: Path, *told: tuple[int, int]) -> None:
    """Start processes, each told the number of its config and its max_batch. The server they fork from imports once."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["tests.lib.together"])
    started = [
        processes.Process(target=join, args=(rank, len(told), number, folder, max_batch))
        for rank, (number, max_batch) in enumerate(told)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(300)
    assert [process.exitcode for process in started] == [0] * len(told)


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("number, max_batch, evaluations", [(0, 1, 7), (0, 3, 7), (1, 1, 4), (2, 2, 9)])
def test_many_processes_hold_the_token_of_one(world, number, max_batch, evaluations, tmp_path, one_thread):
    (tmp_path / "alone").mkdir()
    alone = learn(problem(random_pipeline(), max_batch=max_batch), CONFIGS[number], tmp_path / "alone")
    job(tmp_path, *[(number, max_batch)] * world)
    for rank in range(world):
        held = load_file(tmp_path / f"{rank}.done")
        assert torch.equal(held["theta"], alone)
        assert held["sent"].tolist() == [8 * (evaluations + world)] * 3  # of each step


def test_a_killed_process_ends_the_job_and_the_run_goes_on(tmp_path, one_thread):
    """Many processes begin, one of them is killed, a single process finishes: the token of a run left in peace."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    told = [ROOT / "tests" / "lib" / "together.py", "3", tmp_path, "1", "25"]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *told], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode != 0 and "SIGKILL" in done.stderr
    assert not list(tmp_path.glob("*.done"))
    assert 20 <= int(header(tmp_path / "run.safetensors")[1]["index"]) <= 25
    (tmp_path / "alone").mkdir()
    resumed, alone = (
        learn(problem(random_pipeline(), max_batch=1), CONFIGS[3], f) for f in (tmp_path, tmp_path / "alone")
    )
    assert torch.equal(resumed, alone)


@pytest.mark.parametrize(
    "first, second, said",
    [
        ((0, 1), (0, 2), "ValueError.*do not judge the same word"),
        ((0, 1), (4, 1), "RuntimeError.*no longer ask the same"),
    ],
)
def test_processes_that_do_not_do_the_same_are_told_so(first, second, said, tmp_path):
    """Another max_batch, and another seed."""
    job(tmp_path, first, second)
    for rank in range(2):
        assert re.search(said, (tmp_path / f"{rank}.error").read_text())


def test_without_a_job_there_is_nobody_to_share_with():
    with pytest.raises(ValueError, match="start your script by torchrun"):
        Shared(problem(random_pipeline()))
