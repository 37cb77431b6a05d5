"""Files that hold a word, in the forms diffusers, AUTOMATIC1111's web UI, ComfyUI and kohya's scripts write and read.

They agree on safetensors files of one or two tensors, beside which there may be single numbers, such as a step count:

- for one text encoder {word: vectors} (diffusers) or {"emb_params": vectors} (kohya);
- for SDXL's two encoders {"clip_l": vectors, "clip_g": vectors}, in diffusers' older scripts
  {"text_encoders_0": vectors, "text_encoders_1": vectors}, or a folder of two files {word: vectors};
- either of these bundled with a LoRA, as {"bundle_emb.word.emb_params": vectors}, say;

where vectors are (k, width), or (width,) if there is but one. The web UIs call a word by the name of its file; only
diffusers reads a name inside. SDXL's form has no place for one, so there zoti keeps it as metadata, which nobody else
minds. A run's checkpoint holds its word too, as {"theta": vectors for all encoders side by side}.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from zoti.files import header, read_tensors, write_tensors

#: The keys under which a file holds vectors for SDXL's two encoders, in the pipeline's order.
SDXL = ("clip_l", "clip_g")
#: All such pairs of keys.
PAIRS = (SDXL, ("text_encoders_0", "text_encoders_1"))
#: Keys that do not name the word. "*" comes from AUTOMATIC1111's pickles.
NAMELESS = {"emb_params", "clip_l", "clip_g", "*", "string_to_param.*"}
#: What pickles end in. Opening one can run any program, so zoti never does.
PICKLES = {".pt", ".bin", ".ckpt", ".pth", ".pkl"}

_BUNDLED = r"bundle_emb\.(.+?)\.(string_to_param\.\*|[^.]+)"


def save_embeds(path: Path, word: str, parts: Sequence[Tensor], facts: Mapping[str, str] | None = None) -> Path:
    """Write a word's vectors to a safetensors file, as float32: the whole file, or nothing if that fails.

    parts: (k, width) for each of the one or two text encoders. facts: what the file should say of them, such as the
    model they are for. Raises ValueError for vectors that are not finite, as of a run that diverged, and where the file
    is there and holds anything but this word, for this model; OSError where it cannot be written.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "pot.safetensors"
    ...     _ = save_embeds(path, "<pot>", [torch.zeros(1, 768), torch.zeros(1, 1280)])
    ...     header(path)[0], load_facts(path)["word"]
    (['clip_g', 'clip_l'], '<pot>')
    """
    tensors = [part.detach().float() for part in parts]
    if not all(part.isfinite().all() for part in tensors):
        raise ValueError(f"{word!r} has vectors that are not finite; save those of an earlier step")
    facts = {"word": word, **(facts or {})}
    if path.is_file():
        try:
            there, origin = load_embeds(path)[0], load_facts(path)
        except ValueError as error:
            raise ValueError(f"{path} is there and holds no word; save {word!r} to another folder ({error})") from error
        if "checkpoint" in origin:
            raise ValueError(f"{path} is the checkpoint of a run; save {word!r} to another folder")
        if there != word or origin.get("table") != facts.get("table"):
            of = f", learned on {origin.get('model', 'another model')}" if there == word else ""
            raise ValueError(f"{path} holds {there!r}{of}; save {word!r} to another folder, or delete that file first")
    keys = [word] if len(tensors) == 1 else SDXL
    return write_tensors(path, dict(zip(keys, tensors, strict=True)), facts)


def load_embeds(path: str | Path) -> tuple[str, list[Tensor]]:
    """Read a word's file in any of these forms: returns the word, and float32 vectors (k, width) for each text encoder.

    path: the file, or a folder with a learned_embeds.safetensors. The word is the tensor's key if that names one, else
    what the metadata says, else the file's name.

    Raises FileNotFoundError where there is no file; ValueError for a pickle, which is never opened, a damaged file,
    several words, or tensors that are no vectors.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     kohyas = {"emb_params": torch.tensor([0.0, 0.5]), "step": torch.tensor(500)}
    ...     load_embeds(write_tensors(Path(folder) / "pot.safetensors", kohyas, {}))
    ('pot', [tensor([[0.0000, 0.5000]])])
    >>> "emb_params" in NAMELESS, ".pt" in PICKLES, SDXL in PAIRS
    (True, True, True)
    """
    path = _file(Path(path))
    word, parts = _read(path)
    # diffusers' script for SDXL: a file for each encoder
    second = path.with_name(path.name.replace("learned_embeds", "learned_embeds_2", 1))
    if path.name.startswith("learned_embeds") and len(parts) == 1 and not load_facts(path) and second.is_file():
        other, more = _read(second)
        if other != word:
            raise ValueError(
                f"{path.name} and {second.name} in {path.parent} hold {word!r} and {other!r}; keep one word"
            )
        parts += more
    if len({len(part) for part in parts}) > 1:
        raise ValueError(f"{path} holds {' and '.join(str(len(p)) for p in parts)} vectors; both encoders need as many")
    return word, parts


def load_facts(path: str | Path) -> dict[str, str]:
    """What a word's file, or a run's checkpoint, says of the word beside its vectors; {} for the files of others.

    Raises FileNotFoundError where there is no file, ValueError for one that cannot be read.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     load_facts(save_embeds(Path(folder) / "a", "<pot>", [torch.zeros(1, 768)], {"model": "sd1.5"}))
    {'word': '<pot>', 'model': 'sd1.5'}
    """
    facts = header(_file(Path(path)))[1]
    return {name: facts[name] for name in ("word", "model", "table", "checkpoint") if name in facts and "seal" in facts}


def _file(path: Path) -> Path:
    """The file of a word, which is in a folder the learned_embeds. Raises what `load_embeds` does."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise FileNotFoundError(f"no file {path}; give a word's .safetensors, or the folder of a learned_embeds")
    if (path / "learned_embeds.safetensors").is_file():
        return path / "learned_embeds.safetensors"
    found = sorted(file for file in path.iterdir() if file.suffix.lower() in PICKLES)
    if found:
        raise ValueError(_refusal(found))
    others = ", ".join(sorted(file.name for file in path.glob("*.safetensors"))) or "no safetensors at all"
    raise FileNotFoundError(f"no file learned_embeds.safetensors in {path}, but {others}; name the file of your word")


def _refusal(pickles: list[Path]) -> str:
    """What there is to say about pickles, with a program that converts them. Old ones hold a ParameterDict."""
    load = "import torch, safetensors.torch; torch.serialization.add_safe_globals([torch.nn.ParameterDict])"
    for path in pickles:
        load += (
            f'; d = torch.load({str(path)!r}, map_location="cpu", weights_only=True); d = d.get("string_to_param", d)'
        )
        load += '; d = getattr(d, "_parameters", d); safetensors.torch.save_file({k: v.detach().clone().contiguous()'
        load += f" for k, v in d.items() if torch.is_tensor(v)}}, {str(path.with_suffix('.safetensors'))!r})"
    names = " and ".join(map(str, pickles))
    return (
        f"{names} is a pickle, which can run any program when opened; zoti reads safetensors only. If you trust its "
        f"origin, convert it: {load}"
    )


def _read(path: Path) -> tuple[str, list[Tensor]]:
    """The word of one file, and its vectors (k, width), for one encoder or two. Raises ValueError for anything else."""
    try:
        names, facts = header(path)
    except ValueError as error:
        if path.suffix.lower() in PICKLES:
            raise ValueError(_refusal([path])) from error
        raise ValueError(f"{error}; save or fetch it again") from error
    word = facts.get("word") or path.stem
    if "checkpoint" in facts:
        theta = read_tensors(path)[0].get("theta", torch.zeros(0))
        widths = [int(width) for width in facts.get("widths", "").split() if width.isdecimal()]
        if theta.ndim != 2 or theta.shape[1] != sum(widths):
            raise ValueError(f"{path} is a checkpoint of another version of zoti; finish that run with that version")
        return word, [part.float() for part in torch.split(theta, widths, -1)]
    bundled = {name: match for name in names if (match := re.fullmatch(_BUNDLED, name))}
    words = {match[1] for match in bundled.values()}
    keys = {match[2]: name for name, match in bundled.items()} if bundled else {name: name for name in names}
    if len(words) <= 1 and len(keys) <= 8:
        tensors, _ = read_tensors(path)
        # a step count is no vector
        keys = {key: name for key, name in keys.items() if tensors[name].numel() != 1} or keys
    pair = [pair for pair in PAIRS if set(pair) == set(keys)]
    if len(words) > 1 or not (pair or len(keys) == 1):
        told = ", ".join([*sorted(words or keys)[:4], *["..."] * (len(words or keys) > 4)])
        what = f"several words ({told}), or what is no word" if keys else "no word"
        raise ValueError(
            f"{path} holds {what}; zoti reads words of Stable Diffusion and SDXL, each from a file of its own"
        )
    named = [*words, *(key for key in keys if key not in NAMELESS and not pair)]
    parts = [tensors[keys[key]] for key in (pair[0] if pair else keys)]
    parts = [part[None] if part.ndim == 1 else part for part in parts]
    for part in parts:
        if part.ndim != 2 or not part.numel() or not part.is_floating_point() or not torch.isfinite(part.float()).all():
            told = f"{part.dtype} {tuple(part.shape)}, or not finite"
            raise ValueError(f"{', '.join(keys)!r} in {path} is no word's vectors: {told}")
    return (named or [word])[0], [part.float() for part in parts]
