"""Files that hold a word, in the forms diffusers, AUTOMATIC1111's web UI, ComfyUI and kohya's scripts write and read.

They agree on safetensors files of one or two tensors:

- for one text encoder {word: vectors} (diffusers) or {"emb_params": vectors} (kohya);
- for SDXL's two encoders {"clip_l": vectors, "clip_g": vectors};

where vectors are (k, width), or (width,) if there is but one. The web UIs call a word by the name of its file; only
diffusers reads a name inside. SDXL's form has no place for one, so there zoti keeps it as metadata, which nobody else
minds.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

#: The keys under which a file holds vectors for SDXL's two encoders, in the pipeline's order.
SDXL = ("clip_l", "clip_g")
#: Keys that do not name the word. "*" comes from AUTOMATIC1111's pickles.
NAMELESS = {"emb_params", "clip_l", "clip_g", "*"}
#: What pickles end in. Opening one can run any program, so zoti never does.
PICKLES = {".pt", ".bin", ".ckpt", ".pth", ".pkl"}


def save_embeds(path: Path, word: str, parts: Sequence[Tensor]) -> Path:
    """Write a word's vectors to a safetensors file, as float32: the whole file, or nothing if that fails.

    parts: (k, width) for each of the one or two text encoders. Raises ValueError for vectors that are not finite, as
    of a run that diverged.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "pot.safetensors"
    ...     _ = save_embeds(path, "<pot>", [torch.zeros(1, 768), torch.zeros(1, 1280)])
    ...     with safe_open(path, "pt") as file:
    ...         set(file.keys()) == set(SDXL), file.metadata()
    (True, {'word': '<pot>'})
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = [part.detach().float().cpu().contiguous() for part in parts]
    if not all(part.isfinite().all() for part in tensors):
        raise ValueError(f"{word!r} has vectors that are not finite; save those of an earlier step")
    keys = [word] if len(tensors) == 1 else SDXL
    draft = path.with_name(path.name + ".part")
    save_file(dict(zip(keys, tensors, strict=True)), draft, metadata={"word": word})
    return draft.replace(path)


def load_embeds(path: str | Path) -> tuple[str, list[Tensor]]:
    """Read a word's file in any of these forms: returns the word, and float32 vectors (k, width) for each text encoder.

    path: the file, or a folder with a learned_embeds.safetensors. The word is the tensor's key if that names one, else
    what the metadata says, else the file's name.

    Raises FileNotFoundError where there is no file; ValueError for a pickle, which is never opened, a damaged file,
    several words, or tensors that are no vectors.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "pot.safetensors"
    ...     save_file({"emb_params": torch.tensor([0.0, 0.5, 1.0])}, path)  # kohya's
    ...     load_embeds(path)
    ('pot', [tensor([[0.0000, 0.5000, 1.0000]])])
    >>> "emb_params" in NAMELESS, ".pt" in PICKLES
    (True, True)
    """
    path = Path(path)
    path = path / "learned_embeds.safetensors" if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; give a word's .safetensors, or the folder of a learned_embeds")
    if path.suffix.lower() in PICKLES:
        raise ValueError(
            f"{path} is a pickle, which can run any program when opened; zoti reads safetensors only. If you trust its "
            'origin, convert it: d = torch.load(path, weights_only=True); d = d.get("string_to_param", d); '
            f'safetensors.torch.save_file({{k: v.detach() for k, v in d.items()}}, "{path.stem}.safetensors")'
        )
    try:
        with safe_open(path, "pt") as file:
            keys = sorted(file.keys())
            word = (file.metadata() or {}).get("word", path.stem)
            if len(keys) == 1:
                word = word if keys[0] in NAMELESS else keys[0]
            elif set(keys) == set(SDXL):
                keys = list(SDXL)
            else:
                told = f"several words ({', '.join(keys[:4])}, ...)" if keys else "no word"
                raise ValueError(f"{path} holds {told}; save each word to a file of its own")
            tensors = [file.get_tensor(key) for key in keys]
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a readable safetensors file; save or fetch it again ({error})") from error
    parts = [tensor[None] if tensor.ndim == 1 else tensor for tensor in tensors]
    for key, part in zip(keys, parts, strict=True):
        if part.ndim != 2 or not part.numel() or not part.is_floating_point() or not torch.isfinite(part.float()).all():
            raise ValueError(f"{key!r} in {path} is no word's vectors: {part.dtype} {tuple(part.shape)}, or not finite")
    if len({len(part) for part in parts}) > 1:
        raise ValueError(f"{path} holds {' and '.join(str(len(p)) for p in parts)} vectors; both encoders need as many")
    return word, [part.float() for part in parts]
