"""A run's state in one file, a few small tensors, from which the run goes on as if it had never stopped."""

import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from zoti.files import Damaged, header, read_tensors, write_tensors
from zoti.identity import Identity, differences

#: What a part of a run remembers: a few small tensors by name.
State = dict[str, Tensor]
#: The form of a checkpoint. It changes with what is in one, so that files of another form are not taken for these.
FORM = "2"


@runtime_checkable
class Stateful(Protocol):
    """A part of a run, such as an optimizer, that remembers something from step to step.

    `init` makes its state and `observe` renews it; the part itself keeps nothing.

    The tensors of a state may grow longer, but their names, types and numbers of dimensions stay the same.

    >>> from zoti import Guided, rge
    >>> isinstance(Guided(), Stateful), isinstance(rge, Stateful)
    (True, False)
    """

    def init(self, theta: Tensor, /) -> State:
        """The state of a run that begins at theta (k, d)."""

    def observe(self, seen: Any, state: State, /) -> State:
        """The state once it has seen one more token (k, d) or, in an estimator, one more `Estimate` of its own."""


def initial_state(part: object, theta: Tensor) -> State:
    """The state of a part at the start of a run from theta (k, d), or {} for a part that is not `Stateful`.

    >>> import torch
    >>> from zoti import Guided, rge
    >>> theta = torch.zeros(1, 4)
    >>> initial_state(Guided(), theta), initial_state(rge, theta)
    ({'history': tensor([], size=(0, 1, 4))}, {})
    """
    return part.init(theta) if isinstance(part, Stateful) else {}


def renewed_state(part: object, seen: object, state: State) -> State:
    """The state of a part once it has seen one more token or `Estimate`, or {} if it is not `Stateful`.

    >>> import torch
    >>> from zoti import SubspaceGradient
    >>> part, theta = SubspaceGradient(), torch.zeros(1, 4)
    >>> renewed_state(part, theta, initial_state(part, theta))["count"]
    tensor(1)
    """
    return part.observe(seen, state) if isinstance(part, Stateful) else {}


@dataclass(frozen=True)
class Run:
    """A run between two steps: all that it knows, and nothing else decides the next step.

    >>> import torch
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
    #: the last step's loss and the share of its gradient that was removed; they decide nothing
    loss: float = math.nan
    removed: float = 0.0

    def tensors(self) -> State:
        """All tensors of the run by name: "theta", "chance", and "optimizer.m" for what the optimizer calls m."""
        held = {f"{part}.{name}": held for part, state in self.states.items() for name, held in state.items()}
        return {"theta": self.theta, "chance": self.chance, **held}


@dataclass
class Checkpoint:
    """A file that holds a `Run`, from which it goes on as if it had never stopped.

    One file belongs to one run. Another run's file is never written over, nor is this run's own where a second process
    has taken it further; only a file without a step, which holds no work, may be replaced by any run.

    >>> from tempfile import TemporaryDirectory
    >>> import torch
    >>> chance = torch.Generator().get_state()
    >>> start = Run(torch.zeros(1, 2), chance, {"optimizer": {"m": torch.zeros(1, 2)}})
    >>> ones = torch.ones(1, 2)
    >>> with TemporaryDirectory() as folder:
    ...     file = Checkpoint(Path(folder) / "runs" / "a.safetensors", {"lr": "0.1"})
    ...     file.save(Run(ones, chance, {"optimizer": {"m": 2 * ones}}, index=7))
    ...     run = file.load(start)
    ...     Checkpoint(file.path, {"lr": "0.2"}).load(start)
    Traceback (most recent call last):
    ValueError: ...a.safetensors belongs to another run, which differs in lr...
    >>> run.index, run.theta, run.states
    (7, tensor([[1., 1.]]), {'optimizer': {'m': tensor([[2., 2.]])}})
    >>> FORM  # of files that this version writes and reads
    '2'
    """

    #: where it is
    path: Path
    #: all that decides the run, which tells it from others
    identity: Identity
    #: what else a reader should know of the word
    facts: dict[str, str] = field(default_factory=dict)
    #: how far the run was when this process last saw it in the file
    seen: int = 0

    def load(self, start: Run) -> Run:
        """The run as its file has it; `start`, which is the run at its beginning, where there is no file yet.

        Its tensors lie on the device of those of `start`.

        Raises ValueError for a file that is no checkpoint, damaged in any byte, of another form, or of another run; the
        message names what differs.
        """
        there = self._read()
        if there is None:
            return start
        tensors, facts = there
        expected = {name: (x.dtype, x.ndim) for name, x in start.tensors().items()}
        found = {name: (x.dtype, x.ndim) for name, x in tensors.items()}
        wrong = [name for name in {**expected, **found} if found.get(name) != expected.get(name)]
        wrong = wrong or [n for n in ("theta", "chance") if tensors[n].shape != getattr(start, n).shape]
        if wrong:
            raise ValueError(
                f"{self.path} holds a run of another kind, perhaps of another version of zoti: {', '.join(wrong)} is "
                "missing there, unknown here, or of another shape. Give this run another path"
            )
        theta = tensors.pop("theta").to(start.theta.device)
        chance = tensors.pop("chance")
        states: dict[str, State] = {part: {} for part in start.states}
        for name, tensor in tensors.items():
            part, _, what = name.partition(".")
            states[part][what] = tensor.to(start.theta.device)
        self.seen = int(facts["index"])
        numbers = int(facts["evaluations"]), float(facts["loss"]), float(facts["removed"])
        return Run(theta, chance, states, self.seen, *numbers)

    def save(self, run: Run) -> None:
        """Write a run to its file, whole or not at all. A file in which it has gone further is left as it is.

        Raises OSError where the file cannot be written, ValueError where meanwhile it became another run's.
        """
        there = self._read()
        if there is not None and int(there[1]["index"]) > self.seen:
            return
        numbers = {"index": str(run.index), "evaluations": str(run.evaluations)}
        shown = {"loss": repr(run.loss), "removed": repr(run.removed)}
        facts = {**self.facts, "checkpoint": FORM, "run": json.dumps(self.identity), **numbers, **shown}
        write_tensors(self.path, run.tensors(), facts)
        self.seen = run.index

    def _read(self) -> tuple[State, dict[str, str]] | None:
        """This run's tensors and facts in the file; None where there is no file, or one of a run without a step."""
        if not os.path.exists(self.path):
            return None
        if not self.path.is_file():
            raise ValueError(f"{self.path} is a folder; give this run the path of a file")
        try:
            _, facts = header(self.path)
        except ValueError as error:
            raise ValueError(
                f"{self.path} is not a readable checkpoint; give this run another path ({error})"
            ) from error
        if facts.get("checkpoint") != FORM:
            old = "checkpoint" in facts or ("seal" in facts and "word" not in facts)
            kind = "of another version of zoti" if old else "a learned word" if "word" in facts else "no run"
            raise ValueError(f"{self.path} is not a readable checkpoint but {kind}; give this run another path")
        try:
            tensors, facts = read_tensors(self.path)
            identity, index, _ = json.loads(facts["run"]), int(facts["index"]), int(facts["evaluations"])
            _ = float(facts["loss"]), float(facts["removed"])
        except Damaged as error:
            raise ValueError(f"{self.path} is not a readable checkpoint; delete it to start again ({error})") from error
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"{self.path} is not a readable checkpoint of this version; give this run another path ({error!r})"
            ) from error
        wrong = differences(identity, self.identity)
        if wrong and index == 0:
            return None
        if wrong:
            lines = [f"  {name}: there {_short(identity, name)}, here {_short(self.identity, name)}" for name in wrong]
            raise ValueError(
                f"{self.path} belongs to another run, which differs in {', '.join(wrong)}:\n" + "\n".join(lines) + "\n"
                "Give this run another path, or make it the same"
            )
        return tensors, facts


def _short(identity: Identity, name: str) -> str:
    told = identity.get(name, "nothing")
    return told if isinstance(told, str) else f"others ({len(told)} numbers)"
