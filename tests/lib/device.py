"""A device that is not the CPU, where there is no other: its tensors compute, and refuse what a GPU's would refuse.

It is PyTorch's own place for devices it does not know ("privateuseone"), with tensors kept on the CPU out of sight.
Importing this registers it, for good: do so in a process of its own.
"""

import torch
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

DEVICE = torch.device("privateuseone:0")
CPU = torch.device("cpu")
BRINGS = {"aten::_to_copy", "aten::to", "aten::copy_"}  # what takes a tensor from one device to another

backend_registration._setup_privateuseone_for_python_backend()


class There(torch.Tensor):
    """A tensor on that device."""

    @staticmethod
    def __new__(cls, raw: torch.Tensor):
        how = {"dtype": raw.dtype, "device": DEVICE, "strides": raw.stride(), "storage_offset": raw.storage_offset()}
        return torch.Tensor._make_wrapper_subclass(cls, raw.shape, requires_grad=raw.requires_grad, **how)

    def __init__(self, raw: torch.Tensor):
        self.raw = raw.detach()

    def __repr__(self, **_):
        return f"There({self.raw!r})"

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        with torch.utils._python_dispatch._disable_current_modes():
            return compute(function, args, kwargs or {})


class Elsewhere(TorchDispatchMode):
    """Within it, whatever asks for that device gets it."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return compute(function, args, kwargs or {})


@torch.inference_mode(False)
@torch.no_grad()
def compute(function, args, kwargs):
    """One operation of PyTorch's: done on the CPU, its result where the operation was asked for."""
    name = function._schema.name
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    named = [x for x in (*args, kwargs.get("device")) if isinstance(x, torch.device)]
    target = args[1].device if function._overloadname == "other" else named[0] if named else None
    there = any(isinstance(x, There) for x in tensors) if target is None else target.type == DEVICE.type
    generator = kwargs.get("generator")
    if there and generator is not None and generator.device.type != DEVICE.type:
        raise RuntimeError(f"Expected a '{DEVICE.type}' device type for generator but found '{generator.device.type}'")
    if any(isinstance(x, There) for x in tensors) and name not in BRINGS:
        judged = args[:1] if "index" in name else tensors  # places may be given from anywhere, and numbers too
        if any(not isinstance(x, There) and x.dim() for x in judged if isinstance(x, torch.Tensor)):
            raise RuntimeError(f"{name}: Expected all tensors to be on the same device, but found {DEVICE} and cpu")
    args, kwargs = tree_map_only(torch.device, lambda _: CPU, (args, kwargs))
    raw_args, raw_kwargs = tree_map_only(There, lambda x: x.raw, (args, kwargs))
    result = function(*raw_args, **raw_kwargs)
    if name.endswith("_"):
        return args[0]
    return tree_map_only(torch.Tensor, There, result) if there else result


_kernels = torch.library.Library("aten", "IMPL")  # for what reaches the device below every mode
for _op in (torch.ops.aten.empty_strided.default, torch.ops.aten.empty.memory_format, torch.ops.aten.copy_.default):
    _kernels.impl(_op, lambda *args, _op=_op, **kwargs: compute(_op, args, kwargs), "PrivateUse1")


def move(module: torch.nn.Module) -> None:
    """module.to(DEVICE), which a tensor of a class of its own does not take part in."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = torch.nn.Parameter(There(parameter.detach()), parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = There(buffer)
