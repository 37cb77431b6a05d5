"""What the long benchmarks share: runs in processes of their own, each kept as a line of JSON as soon as it is there.

So a benchmark that was stopped goes on, and one whose weights are others begins anew, for they are part of a run's key.
"""

import json
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from datetime import date
from functools import cache
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

import zoti.model
from zoti import load_pipeline
from zoti.identity import fingerprint
from zoti.metrics import Metrics
from zoti.model import model_key, noise_graph
from zoti.page import processor

Key = tuple[Any, ...]

GRAPHS = Path(__file__).parents[1] / "_build" / "graphs"  # no other user's, and no other checkout's

judges = cache(Metrics.load)  # these, once in a process


@cache
def pipeline(weights: str = "int8") -> Any:
    return load_pipeline("tiny-sd", weights)


def workers(jobs: int) -> ProcessPoolExecutor:
    """Processes that compute on one core each."""
    return ProcessPoolExecutor(jobs, get_context("spawn"), torch.set_num_threads, (1,))


@cache
def graph(weights: str = "int8") -> bytes:
    """The model with weights of this kind, for onnxruntime; whoever asks first writes it for all, and for next time.

    Its name holds what decides its bits: the weights, the code of their layers, and the libraries that trace it.
    """
    code = [file.read_text() for file in sorted(Path(zoti.model.__file__).parent.glob("*.py"))]
    by = [version(name) for name in ("torch", "diffusers", "transformers", "onnx", "onnxscript")]
    name = fingerprint({}, f"{model_key(pipeline(weights))} {by} {code}")
    path = GRAPHS / f"{name}.onnx"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")  # another may be writing it, too
        part.write_bytes(noise_graph(pipeline(weights)))
        part.replace(path)
    return path.read_bytes()


def made() -> dict[str, str]:
    """With what, and when."""
    return {name: version(name) for name in ("torch", "onnxruntime")} | {"cpu": processor(), "day": f"{date.today()}"}


class Runs:
    """All runs by their keys, which are the named parts of their lines: those in the file and those to come."""

    def __init__(self, out: Path, key: list[str]) -> None:
        self.out, self.named = out, key
        there = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
        self.done = {self.key_of(line): line for line in there}

    def key_of(self, line: dict[str, Any]) -> Key:
        return tuple(line[name] for name in self.named)

    def make(
        self, pool: ProcessPoolExecutor, run: Callable[..., dict[str, Any]], calls: dict[Key, tuple[Any, ...]]
    ) -> None:
        """Run what is not there: run(key, *rest) -> its line."""
        futures = [pool.submit(run, key, *rest) for key, rest in calls.items() if key not in self.done]
        try:
            for future in as_completed(futures):
                self.keep(future.result())
        except BaseException:
            for future in futures:
                future.cancel()  # or the pool would first run them all
            raise

    def keep(self, line: dict[str, Any]) -> None:
        self.done[self.key_of(line)] = line
        with self.out.open("a") as file:
            file.write(json.dumps(line) + "\n")
