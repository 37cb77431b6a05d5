"""Finding a model's files: a folder, a single file, or on Hugging Face's hub; and saying why where there are none."""

import difflib
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.utils import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError  # type: ignore[attr-defined]

#: The parts of a pipeline that hold weights, and those that do not.
NETWORKS = ("unet", "vae", "text_encoder", "text_encoder_2")
_OTHERS = ("scheduler", "tokenizer", "tokenizer_2")
_SAFETY = ("safety_checker", "feature_extractor")
_PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}


def weight_files(names: Iterable[str], where: str) -> list[str]:
    """Which of the files of one part hold its weights: one file, or its shards.

    Where there are several variants it is the one in half precision, which is half as much to fetch; then the one
    without a name. where: what to call the part in an error.

    Raises ValueError where there are only pickles, only another variant, not all shards, or none at all.

    >>> weight_files(["model.safetensors", "model.fp16.safetensors", "pytorch_model.bin"], "text_encoder")
    ['model.fp16.safetensors']
    >>> weight_files(["diffusion_pytorch_model.non_ema.safetensors"], "unet")
    Traceback (most recent call last):
    ValueError: unet has only the variant 'non_ema'; if that is what you want, take 'non_ema.' out of its files' names
    """
    names = sorted(names)
    variants: dict[str, list[str]] = {}
    for name in names:
        # model.fp16.safetensors; its shards are model.fp16-00001-of-00002.safetensors, in old style
        # model-00001-of-00002.fp16.safetensors
        match = re.fullmatch(
            r"(?:model|diffusion_pytorch_model)(?:\.([\w-]+?))?(-\d+-of-(\d+))?(?:\.(\w+))?\.safetensors", name
        )
        if match:
            variants.setdefault(match[1] or match[4] or "", []).append(name)
    for chosen in ("fp16", ""):
        if chosen in variants:
            files = variants[chosen]
            whole = [name for name in files if not re.search(r"-\d+-of-\d+", name)]
            if whole:
                return whole[:1]
            number = int(re.search(r"-of-(\d+)", files[0])[1])  # type: ignore[index]
            if len(files) != number:
                raise ValueError(f"{where} has {len(files)} of its {number} files of weights; fetch it again")
            return files
    if variants:
        other = min(variants)
        raise ValueError(
            f"{where} has only the variant {other!r}; if that is what you want, take '{other}.' out of its files' names"
        )
    if any(PurePosixPath(name).suffix in _PICKLES for name in names):
        raise ValueError(
            f"{where} has its weights in pickles only, which can run any program when opened, and zoti reads "
            "safetensors; if you trust their origin, load them in diffusers and save_pretrained them"
        )
    raise ValueError(f"{where} has no weights; is the folder whole? Fetch it again")


def find_model(source: str, presets: Iterable[str], safety_checker: bool = False) -> Path:
    """The folder or the single file that holds a model; fetched from the hub (and cached there) if it is an id there.

    Of a model on the hub no more is fetched than is needed. presets: the names that might have been meant.

    Raises ValueError that says what is wrong and what to do.

    >>> find_model("SD1.5", ["tiny-sd", "sd1.5", "sdxl"])
    Traceback (most recent call last):
    ValueError: there is no folder or file 'SD1.5'; did you mean 'sd1.5'? Known by name are tiny-sd, sd1.5, sdxl
    >>> NETWORKS
    ('unet', 'vae', 'text_encoder', 'text_encoder_2')
    """
    path = Path(source).expanduser()
    if source and path.exists():
        if path.is_file() and path.suffix.lower() in _PICKLES:
            raise ValueError(
                f"{path} is a pickle, which can run any program when opened; zoti reads .safetensors only, and most "
                "checkpoints are published so too"
            )
        if path.is_file() and path.suffix.lower() != ".safetensors":
            raise ValueError(f"{path} is no checkpoint; give a .safetensors file, or the folder of a pipeline")
        return path
    if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", source) and path.suffix.lower() not in {*_PICKLES, ".safetensors"}:
        return _fetch(source, safety_checker)
    near = {re.sub(r"\W|_", "", name).lower(): name for name in presets}
    guess = difflib.get_close_matches(re.sub(r"\W|_", "", path.name).lower(), near, 1, 0.7)
    said = f"did you mean {near[guess[0]]!r}? " if guess else "give a folder, a .safetensors file, or a hub id. "
    raise ValueError(f"there is no folder or file {source!r}; {said}Known by name are {', '.join(presets)}")


def _fetch(source: str, safety_checker: bool) -> Path:
    """The folder of the hub's cache that holds a model, with what was missing there fetched."""
    try:
        info = HfApi().model_info(source, timeout=20)
    except GatedRepoError as error:
        raise ValueError(
            f"{source!r} is gated: accept its terms at https://huggingface.co/{source}, make a token at "
            "https://huggingface.co/settings/tokens, and run `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise ValueError(
            f"there is no model {source!r} on the hub, or it is private, and no such folder here; look for its name at "
            "https://huggingface.co/models, or run `hf auth login`"
        ) from error
    except HfHubHTTPError as error:
        raise ValueError(f"the hub could not answer for {source!r}; try again later ({error})") from error
    except Exception as error:  # each version of its client says in other words that there is no network
        try:
            return Path(snapshot_download(source, local_files_only=True))
        except OSError:
            raise ValueError(
                f"{source!r} is no folder here, and the hub cannot be reached; is there a network? A model that was "
                f"loaded once is kept and opens without one ({error})"
            ) from error
    names = [file.rfilename for file in info.siblings or []]
    if "model_index.json" not in names:
        single = [name for name in names if name.endswith(".safetensors") and "/" not in name]
        said = f"; it has single files: download one of {', '.join(single[:4])} and give its path" if single else ""
        raise ValueError(f"{source!r} is no diffusers pipeline (it has no model_index.json){said}")
    wanted = ["model_index.json"]
    for part in NETWORKS:
        inside = [name.removeprefix(f"{part}/") for name in names if name.startswith(f"{part}/")]
        if inside:
            wanted += [f"{part}/{name}" for name in ("config.json", *weight_files(inside, f"{source}/{part}"))]
    for part in (*_OTHERS, *(_SAFETY if safety_checker else ())):
        wanted += [
            name
            for name in names
            if name.startswith(f"{part}/") and name.endswith((".json", ".txt", ".model", "/model.safetensors"))
        ]
    try:
        return Path(snapshot_download(source, allow_patterns=wanted))
    except GatedRepoError as error:  # some say so only when a file is asked for
        raise ValueError(
            f"{source!r} is gated: accept its terms at https://huggingface.co/{source} and run `hf auth login`"
        ) from error
    except Exception as error:
        raise ValueError(f"{source!r} could not be fetched to its end; run this again to go on ({error})") from error
