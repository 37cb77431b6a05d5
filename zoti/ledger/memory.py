"""A ledger of memory: it books every storage when it is made and strikes it out when it is freed; its peak is exact.

A peak read from a GPU's monitor is one number. The ledger counts the bytes of *live tensors*, and says what they are
for and in which phase of a step they meet. It needs neither a GPU nor weights: on the meta device tensors have shapes
and lifetimes but no contents, and the bookkeeping of a Stable Diffusion takes seconds.

What it cannot see, and a monitor can:

- workspace inside one operator (cuDNN's scratch memory; for the largest of oneDNN's there is `repacks`);
- the allocator's rounding and fragmentation, and the CUDA context (about 0.5 GB);
- which attention kernel a GPU would choose: meta tensors get the memory-efficient one, never the (n, n) matrix;
- why a tensor lives: what gradient checkpointing computes a second time counts as temporaries.

Numbers from the meta device are predictions of a GPU's; on real CPU tensors they can be held against resident memory.
"""

import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from zoti.ledger.attention import attention

#: What a byte may be for: the network's own two, the three that training adds, and whatever comes and goes.
CATEGORIES = ("parameters", "buffers", "gradients", "optimizer state", "saved activations", "temporaries")


@dataclass(frozen=True)
class Peak:
    """The moment of a phase when most bytes were alive, with their number in each category.

    >>> print(Peak("forward", {"parameters": 3_440_000_000, "buffers": 60_000_000}))
    3.50 GB in forward: parameters 3.44, buffers 0.06
    """

    #: the name of the phase
    phase: str
    #: bytes by category
    parts: dict[str, int]

    @property
    def total(self) -> int:
        """Bytes alive, all categories together."""
        return sum(self.parts.values())

    def __str__(self) -> str:
        unit, scale = ("GB", 1e9) if self.total >= 1e9 else ("MB", 1e6)
        parts = ", ".join(f"{name} {n / scale:.2f}" for name, n in self.parts.items() if n >= 0.005 * scale)
        return f"{self.total / scale:.2f} {unit} in {self.phase}: {parts}"


class Ledger(TorchDispatchMode):
    """A context that books the storages of all tensors made or touched inside it.

    >>> net = nn.Linear(1000, 500, device="meta")
    >>> x = torch.empty(64, 1000, device="meta")
    >>> with Ledger() as ledger:
    ...     ledger.own(net)
    ...     with ledger.phase("forward"):
    ...         loss = net(x).square().sum()
    ...     with ledger.phase("backward"):
    ...         loss.backward()
    >>> print(ledger.peak)
    4.39 MB in backward: parameters 2.00, saved activations 0.26, temporaries 2.13
    >>> list(ledger.peaks), set(ledger.live) == set(CATEGORIES)
    (['outside', 'forward', 'backward'], True)

    The categories:

    - parameters and buffers: those of the modules given to `own` (the codes of quantized layers are buffers);
    - gradients: what arrives in the `.grad` of those parameters;
    - saved activations: what autograd keeps for the backward pass;
    - optimizer state: what any torch.optim optimizer holds after a step, so look at the second step;
    - temporaries: all the rest.

    A storage counts once, however many views it has, and with its full size, even if a view uses little of it.

    repacks: on a CPU oneDNN computes convolutions, each on a copy of its weight in an order of its own. No tensor holds
    it; it is booked with the temporaries if this is True.

    `allocated` is for comparison: on CUDA the peak that PyTorch's own allocator counted meanwhile, in bytes, else None.
    """

    def __init__(self, repacks: bool = False) -> None:
        super().__init__()
        self.repacks = repacks
        self.live = dict.fromkeys(CATEGORIES, 0)  # bytes now
        self.peaks: dict[str, Peak] = {}  # by phase, in order of appearance
        self.allocated: int | None = None
        self._phase = "outside"
        self._entries: dict[int, tuple[weakref.ref[Any], int, str]] = {}  # by a storage's id: it, its bytes, category
        self._inside: ExitStack | None = None

    @property
    def peak(self) -> Peak:
        """The highest peak of all phases. Raises ValueError where nothing was booked."""
        return max(self.peaks.values(), key=lambda p: p.total)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """A context whose peak is kept under this name. A phase entered again goes on with the peak it has."""
        outer, self._phase = self._phase, name
        self._note()
        try:
            yield
        finally:
            self._phase = outer

    def own(self, *modules: nn.Module) -> None:
        """Book the modules' parameters and buffers as such, and their gradients as gradients when they arrive."""
        for module in modules:
            self.book("parameters", *module.parameters())
            self.book("buffers", *module.buffers())

    def book(self, category: str, *tensors: Tensor) -> None:
        """Enter tensors under one of CATEGORIES. Those that were temporaries until now move to it.

        The `.grad` of parameters will be booked when it arrives. Raises KeyError for an unknown category, RuntimeError
        outside the context.
        """
        if self._inside is None:
            raise RuntimeError("a ledger books only inside its context: with Ledger() as ledger: ledger.own(...)")
        for tensor in tensors:
            storage = tensor.untyped_storage()
            key, size = id(storage), storage.nbytes()  # the object, and so its id, lives as long as its bytes
            known = self._entries.get(key)
            if known is None:
                self.live[category] += size
                self._entries[key] = (weakref.ref(storage, partial(self._strike, key)), size, category)
            elif known[2] == "temporaries" and category != "temporaries":
                self.live["temporaries"] -= size
                self.live[category] += size
                self._entries[key] = (known[0], size, category)
            if category == "parameters" and tensor.requires_grad:
                hook = tensor.register_post_accumulate_grad_hook(lambda p: self.book("gradients", p.grad))
                self._inside.callback(hook.remove)
        self._note()

    def _strike(self, key: int, _: weakref.ref[Any]) -> None:
        """Take a storage that was freed out of the books."""
        _, size, category = self._entries.pop(key)
        self.live[category] -= size

    def _note(self) -> None:
        """Remember this moment if it is the phase's peak so far."""
        # an equal total replaces the old peak: the same bytes may have moved to a better category meanwhile
        if self._phase not in self.peaks or sum(self.live.values()) >= self.peaks[self._phase].total:
            self.peaks[self._phase] = Peak(self._phase, dict(self.live))

    def _keep(self, tensor: Tensor) -> Tensor:
        """Called when autograd saves a tensor, and returns what it shall keep.

        It is detached, for an operator's own result would keep itself alive in a circle.
        """
        self.book("saved activations", tensor)
        return tensor.detach()

    def _after_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """Called when any optimizer has made a step."""
        self.book("optimizer state", *(x for x in tree_leaves(list(optimizer.state.values())) if torch.is_tensor(x)))

    def __enter__(self) -> "Ledger":
        self.live, self.peaks = dict.fromkeys(CATEGORIES, 0), {}  # entered again, it begins again
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        with ExitStack() as stack:
            original = F.scaled_dot_product_attention
            F.scaled_dot_product_attention = partial(attention, original)
            stack.callback(setattr, F, "scaled_dot_product_attention", original)
            stack.enter_context(saved_tensors_hooks(self._keep, lambda tensor: tensor))
            stack.callback(register_optimizer_step_post_hook(self._after_step).remove)
            super().__enter__()
            self._inside = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        if torch.cuda.is_available():
            self.allocated = torch.cuda.max_memory_allocated()
        assert self._inside is not None
        self._inside.close()
        self._inside = None
        self._entries.clear()  # the peaks stay; storages that live on are no longer ours

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        # in inference mode an operator made of others arrives whole: taken apart, its inner tensors can be seen
        super().__enter__()
        try:
            result = func.decompose(*args, **kwargs)
        finally:
            super().__exit__(None, None, None)
        if result is NotImplemented:
            result = func(*args, **kwargs)
        self.book("temporaries", *(x for x in tree_leaves((args, kwargs, result)) if torch.is_tensor(x)))
        if self.repacks and func is torch.ops.aten.convolution.default:
            self.book("temporaries", torch.empty_like(args[1]))  # and struck out at once
        return result
