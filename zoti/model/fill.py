"""Filling a network that was built without weights, tensor by tensor, so that it is never whole in full precision."""

import ctypes
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from zoti.model.layers import Quantized

#: After so many bytes that were read, what was freed is given back to the system.
BREATH = 64e6
#: Parts of names in Stable Diffusion's first files, and what diffusers calls the same layers now.
RENAMED = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


class Tensors(Mapping[str, Tensor]):
    """The tensors of one or several safetensors files by name, each read when it is asked for.

    What is read lies in the file's own pages, which the system may drop and read again, not in memory of ours.
    Raises SafetensorError for a damaged file.

    >>> from zoti.data import DATA
    >>> tensors = Tensors([DATA / "tiny-sd" / "unet" / "diffusion_pytorch_model.safetensors"])
    >>> tensors["conv_in.weight"].dtype
    torch.float16
    """

    def __init__(self, files: Sequence[Path]) -> None:
        opened = [safe_open(file, "pt") for file in files]
        self._held = {name: file for file in opened for name in file.keys()}

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self._held[name].get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)


def fill_(network: nn.Module, tensors: Mapping[str, Tensor], device: torch.device | str = "cpu") -> None:
    """Give a network on the meta device its tensors, one by one, each in the dtype that it has there.

    A weight that belongs to a quantized layer is rounded as soon as it is read, so the network is never in memory in
    full precision, and the bits are those of quantizing it afterwards. Rounding is done on the CPU, that they be the
    same for every device. Codes and scales that were saved are taken as they are.

    The names of Stable Diffusion's first files are understood, and with or without `text_model.`.

    Raises ValueError where a tensor is missing, has another shape, or is one that the network does not know; the
    network is then of no use.

    >>> with torch.device("meta"):
    ...     net = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
    >>> fill_(net, nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2)).state_dict())
    >>> net(torch.zeros(1, 3)).shape
    torch.Size([1, 2])
    >>> fill_(net, {"0.weight": torch.zeros(2, 3), "2.weight": torch.zeros(1)})
    Traceback (most recent call last):
    ValueError: missing: 0.bias, 1.bias, 1.weight; unknown: 2.weight
    >>> sorted(RENAMED)[0], BREATH
    ('.key.', 64000000.0)
    """
    layers = dict(network.named_modules())
    held = set(network.state_dict())
    empty, unknown, read = set(held), set(), 0.0
    for name in tensors:
        path, last = _place(name, layers, held)
        if not last:
            unknown.add(name)
            continue
        tensor = tensors[name]
        empty -= {f"{path}.{key}".lstrip(".") for key in _put(layers[path], last, tensor, device, name)}
        read += tensor.nbytes
        if read > BREATH:
            trim()
            read = 0.0
    # older files hold 0, 1, 2, ... as position_ids; newer networks count by themselves
    unknown = {name for name in unknown if not name.endswith("position_ids")}
    for layer in layers.values():
        for name, buffer in layer.named_buffers(recurse=False):
            if name == "position_ids" and buffer.is_meta:
                setattr(layer, name, torch.arange(buffer.shape[-1], device=device).expand(buffer.shape))
    if empty or unknown:
        raise ValueError("; ".join(_told(*names) for names in (("missing", empty), ("unknown", unknown)) if names[1]))
    trim()


def trim() -> None:
    """Give freed memory back to the system, which glibc's allocator would keep for later; elsewhere do nothing.

    >>> trim()
    """
    with suppress(AttributeError, OSError, TypeError):  # what macOS and Windows say to the question
        ctypes.CDLL(None).malloc_trim(0)


def _place(name: str, layers: dict[str, nn.Module], held: set[str]) -> tuple[str, str]:
    """The path of the layer and the name in it that a tensor's name in a file means; twice '' for an unknown one."""
    renamed = name
    for old, new in RENAMED.items():
        renamed = renamed.replace(old, new)
    for guess in (name, name.removeprefix("text_model."), f"text_model.{name}", renamed):
        path, _, last = guess.rpartition(".")
        if guess in held or (last == "weight" and isinstance(layers.get(path), Quantized)):
            return path, last
    return "", ""


def _put(layer: nn.Module, last: str, tensor: Tensor, device: torch.device | str, name: str) -> set[str]:
    """Put a tensor into a layer, rounded if it is a quantized layer's weight. Returns what is no longer empty."""
    made = {last: tensor}
    if isinstance(layer, Quantized) and last == "weight":
        if tensor.shape != layer.shape:
            raise ValueError(f"{name} is {tuple(tensor.shape)}, and {tuple(layer.shape)} is needed")
        made = dict(zip(("codes", "scale"), layer.store(tensor), strict=True))
    for key, value in made.items():
        slot: Tensor = getattr(layer, key)
        if value.shape != slot.shape or value.is_floating_point() != slot.is_floating_point():
            raise ValueError(
                f"{name} is {tuple(value.shape)} of {value.dtype}, and {tuple(slot.shape)} of {slot.dtype} is needed"
            )
        value = value.to(device, slot.dtype, copy=value is tensor)  # a tensor of a file would keep the file in memory
        setattr(layer, key, nn.Parameter(value, requires_grad=False) if isinstance(slot, nn.Parameter) else value)
    return set(made)


def _told(what: str, names: set[str]) -> str:
    return f"{what}: {', '.join(sorted(names)[:6])}{f' and {len(names) - 6} more' if len(names) > 6 else ''}"
