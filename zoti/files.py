"""Files of a few tensors, written whole or not at all, and sealed: safetensors has no checksum of its own."""

import errno
import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from zoti.identity import fingerprint

_TROUBLES = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "your share of the disk is full",
    errno.EACCES: "you may not write there",
    errno.EPERM: "you may not write there",
    errno.EROFS: "what is there can only be read",
    errno.EISDIR: "a folder has that name",
    errno.EEXIST: "a file stands where a folder should",
    errno.ENOTDIR: "a file stands where a folder should",
    errno.ENAMETOOLONG: "the name is too long",
}


class Damaged(ValueError):
    """The error for a file whose seal does not match what is in it.

    >>> issubclass(Damaged, ValueError)
    True
    """


def write_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> Path:
    """Write tensors, and facts about them as metadata, to a safetensors file; returns its path.

    Whatever interrupts it, the old file or the new one is there and whole: the new one is written beside the old one,
    flushed to the disk, and takes its place in one move. Missing folders are made, a link stays one, and who may read
    the file is for the umask to say. With the facts goes a seal, the fingerprint of all that is in the file.

    Raises OSError, or the kind of it that fits, which says what stands in the way.

    >>> import torch
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = write_tensors(Path(folder) / "new" / "a.safetensors", {"a": torch.ones(2)}, {"of": "mine"})
    ...     tensors, facts = read_tensors(path)
    ...     [file.name for file in path.parent.iterdir()], tensors, facts["of"]
    (['a.safetensors'], {'a': tensor([1., 1.])}, 'mine')
    """
    # two may share their memory, which the format forbids
    held = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    data = save(held, {**facts, "seal": _seal(held, facts)})
    try:
        target = Path(os.path.realpath(path))
        draft = target.with_name(f".{uuid.uuid4().hex}.part")  # another process may write to the same file
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        try:
            with draft.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)
    except (OSError, ValueError) as error:  # ValueError is for names that no file can have
        kind = type(error) if isinstance(error, OSError) else ValueError
        trouble = _TROUBLES.get(getattr(error, "errno", None) or 0, getattr(error, "strerror", None) or error)
        raise kind(
            f"{path} cannot be written: {trouble}. Choose another place; whatever is there is as it was"
        ) from error
    return path


def header(path: Path) -> tuple[list[str], dict[str, str]]:
    """The names of the tensors in a safetensors file, and its facts; the tensors themselves are not read.

    Raises ValueError for a file that cannot be read.

    >>> import torch
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     names, facts = header(write_tensors(Path(folder) / "a", {"a": torch.ones(2)}, {"of": "mine"}))
    >>> names, sorted(facts)
    (['a'], ['of', 'seal'])
    """
    try:
        # opened once: another process may replace the file at any moment, and safe_open looks at it twice
        with Path(path).open("rb") as file:
            length = int.from_bytes(file.read(8), "little")  # the format's header follows, then all tensors
            size = os.fstat(file.fileno()).st_size
            if size < 8 + length:
                raise ValueError("its end is missing")
            told = json.loads(file.read(length))
        facts = dict(told.pop("__metadata__", None) or {})
        if size != 8 + length + max((place["data_offsets"][1] for place in told.values()), default=0):
            raise ValueError("it is longer or shorter than it says")
        return sorted(told), facts
    # the last five: of a header that is not what the format asks for
    except (OSError, ValueError, AttributeError, IndexError, KeyError, RecursionError, TypeError) as error:
        raise ValueError(f"{path} is not a readable safetensors file ({error})") from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file, on the CPU, and its facts.

    Raises ValueError for a file that cannot be read, and `Damaged`, a kind of it, where it has a seal that is wrong.

    >>> import torch
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = write_tensors(Path(folder) / "a", {"a": torch.ones(2)}, {"of": "mine"})
    ...     _ = path.write_bytes(path.read_bytes().replace(b"mine", b"hers"))
    ...     read_tensors(path)
    Traceback (most recent call last):
    zoti.files.Damaged: ... is damaged: ...
    """
    try:
        # all bytes at once, for another process may replace the file at any moment, and safe_open opens it twice
        data = path.read_bytes()
        # copied to where torch would have put them: on some processors BLAS rounds by a tensor's alignment
        tensors = {name: tensor.clone() for name, tensor in sorted(load(data).items())}
        told = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])  # the format's header, after its length
    # KeyError, AttributeError and RuntimeError: of types that torch has not, say
    except (SafetensorError, OSError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{path} is not a readable safetensors file ({error})") from error
    facts = dict(told.get("__metadata__") or {})
    if "seal" in facts and facts.pop("seal") != _seal(tensors, facts):
        raise Damaged(f"{path} is damaged: what is in it does not fit its seal")
    return tensors, facts


def _seal(tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> str:
    return fingerprint(tensors, repr(sorted(facts.items())))
