"""A run's state in one file, a few small tensors, from which the run goes on as if it had never stopped."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

#: What a part of a run remembers: a few small tensors by name.
State = dict[str, Tensor]


@runtime_checkable
class Stateful(Protocol):
    """A part of a run that remembers. `init` makes its state and `observe` renews it; it is kept nowhere else.

    >>> from zoti import Guided, rge
    >>> isinstance(Guided(), Stateful), isinstance(rge, Stateful)
    (True, False)
    """

    def init(self, theta: Tensor, /) -> State:
        """The state of a run that begins at theta (k, d)."""

    def observe(self, seen: Tensor, state: State, /) -> State:
        """The state once it has seen one more token or estimate (k, d)."""


def initial_state(part: object, theta: Tensor) -> State:
    """The state of a part at the start of a run from theta (k, d), or {} for a part that is not `Stateful`.

    >>> from zoti import Guided, rge
    >>> theta = torch.zeros(1, 4)
    >>> initial_state(Guided(), theta), initial_state(rge, theta)
    ({'history': tensor([], size=(0, 1, 4))}, {})
    """
    return part.init(theta) if isinstance(part, Stateful) else {}


def renewed_state(part: object, seen: Tensor, state: State) -> State:
    """The state of a part once it has seen one more token or estimate (k, d), or {} if it is not `Stateful`.

    >>> from zoti import SubspaceGradient
    >>> part, theta = SubspaceGradient(), torch.zeros(1, 4)
    >>> renewed_state(part, theta, initial_state(part, theta))["count"]
    tensor(1)
    """
    return part.observe(seen, state) if isinstance(part, Stateful) else {}


@dataclass(frozen=True)
class Run:
    """All that a run knows between two steps; nothing else decides the next one.

    >>> chance = torch.Generator().get_state()
    >>> Run(torch.zeros(1, 4), chance, {"optimizer": {}}).index
    0
    """

    #: the token, (k, d)
    theta: Tensor
    #: the generator's state, uint8
    chance: Tensor
    #: what "optimizer", "subspace" and "estimator" remember, {} for one that remembers nothing
    states: dict[str, State]
    #: steps done
    index: int = 0
    #: candidates judged so far, times the draws each was judged on
    evaluations: int = 0


def save_checkpoint(path: Path, config: str, run: Run) -> None:
    """Write a run to a safetensors file; whatever interrupts it, the old file or the new one is there and whole.

    The new file is written beside the old one, flushed to the disk, and then takes its place in one move. config: any
    text that tells this run from others.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     chance = torch.Generator().get_state()
    ...     run = Run(torch.zeros(1, 4), chance, {"optimizer": {}})
    ...     save_checkpoint(Path(folder) / "runs" / "a.safetensors", "lr=0.1", run)
    ...     [path.name for path in Path(folder).glob("*/*")]
    ['a.safetensors']
    """
    tensors = {"theta": run.theta, "chance": run.chance}
    tensors |= {f"{part}.{name}": held for part, state in run.states.items() for name, held in state.items()}
    tensors = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}  # two may share their memory
    facts = {"config": config, "index": str(run.index), "evaluations": str(run.evaluations)}
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".part")
    save_file(tensors, draft, metadata=facts | {"seal": _seal(tensors, facts)})
    with draft.open("rb") as file:
        os.fsync(file.fileno())
    draft.replace(path)


def load_checkpoint(path: Path, config: str, start: Run) -> Run:
    """Read a run back from its file, onto the device of `start`, which is the same run at its beginning.

    Raises ValueError for a file that is damaged in any byte, or that belongs to another `config` or to a token of
    another shape.

    >>> from tempfile import TemporaryDirectory
    >>> chance = torch.Generator().get_state()
    >>> start = Run(torch.zeros(1, 2), chance, {"optimizer": {}})
    >>> ones = torch.ones(1, 2)
    >>> later = Run(ones, chance, {"optimizer": {"m": 1 * ones}}, index=7)
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "a.safetensors"
    ...     save_checkpoint(path, "lr=0.1", later)
    ...     run = load_checkpoint(path, "lr=0.1", start)
    >>> run.index, run.theta, run.states
    (7, tensor([[1., 1.]]), {'optimizer': {'m': tensor([[1., 1.]])}})
    """
    try:
        with safe_open(path, "pt") as file:
            facts = dict(file.metadata())
            # copied to where torch would have put them: on some processors BLAS rounds by a tensor's alignment
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}
        if facts.pop("seal") != _seal(tensors, facts):
            raise ValueError("its checksum does not match")
        theta, chance = tensors.pop("theta"), tensors.pop("chance")
        stored = facts["config"]
        index, evaluations = int(facts["index"]), int(facts["evaluations"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a readable checkpoint; delete it to start again ({error})") from error
    if stored != config:
        raise ValueError(
            f"{path} belongs to another run:\n  there: {stored}\n  here:  {config}\n"
            "give this run another path, or the same config, word and captions"
        )
    if theta.shape != start.theta.shape:
        raise ValueError(
            f"{path} holds a token of shape {tuple(theta.shape)}, this word has {tuple(start.theta.shape)}; "
            "give this run another path"
        )
    states: dict[str, State] = {part: {} for part in start.states}
    for name, tensor in tensors.items():
        part, _, what = name.partition(".")
        states[part][what] = tensor.to(start.theta.device)
    return Run(theta.to(start.theta.device), chance, states, index, evaluations)


def _seal(tensors: State, facts: dict[str, str]) -> str:
    """A checksum of everything in the file: safetensors has none, and one wrong bit would go on as a wrong number."""
    digest = hashlib.sha256(repr(sorted(facts.items())).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
