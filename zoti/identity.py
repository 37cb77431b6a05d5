"""What tells one thing from another: fingerprints of tensors, and the same words for a thing in every process."""

import dataclasses
import functools
import hashlib
import inspect
import re
from collections.abc import Callable, Mapping
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn

#: By what a thing is known, part by part. Words must agree to the letter, numbers to a hundredth of the largest.
Identity = dict[str, str | list[float]]


def fingerprint(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """A fingerprint of tensors and a text: sixteen hexadecimal digits, which hardly any others share.

    They are 64 bits of SHA-256. Every bit counts, and so do names, types and shapes; on which device a tensor lies does
    not.

    >>> fingerprint({"a": torch.ones(2)}), fingerprint({"a": torch.ones(2, 1)})
    ('e8c962feb40e9e93', '13244c5d95687849')
    """
    digest = hashlib.sha256(text.encode(errors="surrogatepass"))
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def sketch(tensor: Tensor) -> list[float]:
    """A rough fingerprint of a tensor (n, ...): four numbers a row, by which rounding does not make it another.

    So a tensor is known again that another device, or another version of torch, has computed with other last digits.
    The four are sums of a row's numbers, each with a random sign that is always the same, and about as large as one.

    >>> x = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> [len(sketch(x)), *(differences({"x": sketch(x)}, {"x": sketch(y)}) for y in (1.0001 * x, -x))]
    [12, [], ['x']]
    """
    rows = tensor.detach().cpu().double().flatten(1)
    signs = torch.randint(2, (rows.shape[1], 4), generator=torch.Generator().manual_seed(0)).double() * 2 - 1
    sums: list[float] = (rows @ signs / max(rows.shape[1], 1) ** 0.5).flatten().tolist()
    return sums


def described(part: object) -> str:
    """A description of a part of a run, the same in every process: its name, and all that it holds.

    Tensors stand as fingerprints, and so does the code of functions and classes that are not zoti's, for one may be
    changed and keep its name.

    >>> from functools import partial
    >>> from zoti import PartialUniform, Stratified, rge
    >>> described(Stratified(PartialUniform(500, 900)))
    'Stratified(timesteps=PartialUniform(low=500, high=900, total=1000))'
    >>> described(partial(rge, directions="orthogonal"))
    "partial(rge, (), {directions: 'orthogonal'})"
    """
    return _described(part, ())


def _described(part: Any, inside: tuple[object, ...]) -> str:
    """A part that others hold; one that holds itself is there named and no more."""

    def told(held: object) -> str:
        return _described(held, (*inside, part))

    if isinstance(part, nn.Module):
        return f"{type(part).__qualname__} {fingerprint(part.state_dict())}"
    if hasattr(part, "__array__") and not isinstance(part, type):
        return fingerprint({"": torch.as_tensor(part)})
    if isinstance(part, (list, tuple)):
        return f"({', '.join(map(told, part))})"
    if isinstance(part, (set, frozenset)):
        return f"{{{', '.join(sorted(map(told, part)))}}}"
    if isinstance(part, dict):
        return f"{{{', '.join(f'{name}: {told(held)}' for name, held in part.items())}}}"
    if isinstance(part, functools.partial):
        return f"partial({told(part.func)}, {told(part.args)}, {told(part.keywords)})"
    if inspect.ismethod(part):
        return f"{told(part.__self__)}.{part.__name__}"
    if inspect.isfunction(part) or isinstance(part, type):
        known = part.__module__.split(".")[0] in ("zoti", "builtins") or id(part) in map(id, inside)
        return part.__qualname__ if known else f"{part.__qualname__} {fingerprint({}, _code(part, told))}"
    if dataclasses.is_dataclass(part) and _repr_is_made(part):
        held = {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
    elif " object at 0x" in repr(part) and id(part) not in map(id, inside):
        held = getattr(part, "__dict__", {})
    else:
        return re.sub(" at 0x[0-9a-f]+", "", repr(part))  # an address changes with every process
    return f"{told(type(part))}({', '.join(f'{name}={told(x)}' for name, x in held.items())})"


def _repr_is_made(part: object) -> bool:
    """Whether a dataclass lists its fields in its repr; one that does not says there what tells it from others."""
    params: Any = getattr(part, "__dataclass_params__")  # noqa: B009
    return bool(params.repr)


def _code(thing: Any, told: Callable[[object], str]) -> str:
    """What a function does, wherever it stands in its file, with the numbers it finds around it; or all in a class."""
    if isinstance(thing, type):
        methods = [getattr(x, "__func__", getattr(x, "fget", x)) for _, x in sorted(vars(thing).items())]
        near = [base for base in thing.__bases__ if base.__module__ == thing.__module__]
        return " ".join(map(told, [*filter(inspect.isfunction, methods), *near]))
    around = inspect.getclosurevars(thing)
    plain = {name: x for name, x in around.globals.items() if isinstance(x, (bool, int, float, str, Tensor))}
    values = [thing.__defaults__, thing.__kwdefaults__, dict(around.nonlocals), plain]
    return f"{_instructions(thing.__code__)} {told(values)}"


def _instructions(code: CodeType) -> str:
    consts = [_instructions(x) if isinstance(x, CodeType) else _described(x, ()) for x in code.co_consts]
    return f"{code.co_code.hex()} {code.co_names} {consts}"


def differences(there: Identity, here: Identity) -> list[str]:
    """The names of the parts that are not the same in two identities, or are in only one of them.

    >>> differences({"mu": "0.001", "pictures": [1.0, -2.0]}, {"mu": "0.01", "pictures": [1.001, -2.0]})
    ['mu']
    """
    return [name for name in {**there, **here} if not _same(there.get(name), here.get(name))]


def _same(a: str | list[float] | None, b: str | list[float] | None) -> bool:
    if not isinstance(a, list) or not isinstance(b, list):
        return a == b
    tolerance = 0.01 * max(map(abs, [*a, *b]), default=0.0)
    return len(a) == len(b) and all(abs(x - y) <= tolerance for x, y in zip(a, b, strict=True))
