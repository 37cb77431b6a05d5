"""One process of a job, for test_ranks.py and for torchrun: a word learned together, and what each then holds."""

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from tests.helpers import VARIANTS, problem, random_pipeline
from zoti import Config, invert
from zoti.ranks import Shared

#: More directions than processes; an estimator with other candidates; several draws; a run long enough to be killed in;
#: and the first with other chance.
CONFIGS = [
    Config(steps=3, n=6),
    replace(VARIANTS[1], steps=3),
    Config(steps=3, n=2, batch=3),
    Config(steps=40),
    Config(steps=3, n=6, seed=1),
]


def learn(objective, config: Config, folder: Path, dies_at: int | None = None) -> torch.Tensor:
    for step in invert(objective, config, checkpoint=folder / "run.safetensors", every=10):
        if step.index == dies_at and dist.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
    return step.theta


def work(number: int, folder: Path, max_batch: int, dies_at: int | None = None) -> None:
    """A run of one of CONFIGS in this process's share; leaves its token and the bytes of its messages in the folder."""
    torch.set_num_threads(1)
    sent, reduce = [], dist.all_reduce

    def counted(wire: torch.Tensor) -> None:
        sent.append(wire.nbytes)
        reduce(wire)

    dist.all_reduce = counted
    objective = Shared(problem(random_pipeline(), max_batch=max_batch))
    theta = learn(objective, CONFIGS[number], folder, dies_at)
    save_file({"theta": theta, "sent": torch.tensor(sent[1:])}, folder / f"{dist.get_rank()}.done")


def join(rank: int, world: int, *job) -> None:
    """The same, without torchrun."""
    dist.init_process_group("gloo", init_method=f"file://{job[1]}/meet", rank=rank, world_size=world)
    try:
        work(*job)
    except Exception as error:
        (job[1] / f"{rank}.error").write_text(repr(error))


if __name__ == "__main__":
    dist.init_process_group("gloo")
    work(int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
