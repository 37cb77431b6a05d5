"""Checkpoints of Stable Diffusion in a single file, as its authors and the web UIs write them, cut into their parts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers.loaders import single_file_utils as theirs
from safetensors import safe_open
from torch import Tensor

from zoti.model.fill import Tensors

#: A tensor that all of Stable Diffusion have in their authors' names.
_FIRST = "model.diffusion_model.output_blocks.11.0.skip_connection.weight"
#: Where a file's second text encoder, in OpenCLIP's names, begins.
_SECOND = "conditioner.embedders.1.model."


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in one safetensors file: which model it is of, and the tensors of each part in diffusers' names.

    Raises ValueError for a file that holds no Stable Diffusion 1, 2 or XL to paint from text with, and for one of
    Stable Diffusion 2 that does not say what it predicts; SafetensorError for a damaged one.

    >>> Checkpoint("sd1.5", Tensors([])).model
    'sd1.5'
    """

    #: a key of CONFIGS
    model: str
    #: all tensors of the file
    tensors: Mapping[str, Tensor]

    @classmethod
    def open(cls, path: Path) -> "Checkpoint":
        """Look into a file, and read none of its tensors yet."""
        tensors = Tensors([path])
        kind = theirs.infer_diffusers_model_type(tensors)
        if _FIRST not in tensors and kind == "v1":  # 'v1' is what it says of anything
            raise ValueError(
                f"{path} holds no checkpoint of Stable Diffusion ({len(tensors)} tensors, such as "
                f"{min(tensors, default='none')!r}); words, LoRAs and single parts are loaded into a pipeline"
            )
        names = {"v1": "sd1.5", "xl_base": "sdxl", "v2": _second_kind(path) if kind == "v2" else ""}
        if kind not in names:
            raise ValueError(f"{path} is a checkpoint of {kind!r}; zoti teaches words to Stable Diffusion 1, 2 and XL")
        return cls(names[kind], tensors)

    def part(self, name: str, network: Any) -> dict[str, Tensor]:
        """The tensors of 'unet', 'vae', 'text_encoder' or 'text_encoder_2', for this network, by diffusers' functions.

        They are views of the file. Raises ValueError where the file lacks what they look for.
        """
        convert: dict[str, Callable[[], dict[str, Tensor]]] = {
            "unet": lambda: theirs.convert_ldm_unet_checkpoint(self.tensors, network.config),
            "vae": lambda: theirs.convert_ldm_vae_checkpoint(self.tensors, network.config),
            "text_encoder": lambda: (
                theirs.convert_open_clip_checkpoint(network, self.tensors)
                if self.model.startswith("sd2")
                else theirs.convert_ldm_clip_checkpoint(self.tensors)
            ),
            "text_encoder_2": lambda: theirs.convert_open_clip_checkpoint(network, self.tensors, prefix=_SECOND),
        }
        try:
            return convert[name]()
        except (KeyError, AttributeError) as error:  # what they do where a tensor is not there
            raise ValueError(f"its {name} is not whole ({error})") from error


def _second_kind(path: Path) -> str:
    """Stable Diffusion 2 predicts noise at 512 pixels or v at 768, with tensors of the same shapes."""
    with safe_open(path, "pt") as file:
        told = (file.metadata() or {}).get("modelspec.prediction_type", "")
    if told == "v" or "768" in path.stem:
        return "sd2.1-768"
    if told == "epsilon" or "512" in path.stem or "base" in path.stem:
        return "sd2.1"
    raise ValueError(
        f"{path} is of Stable Diffusion 2, which predicts noise at 512 pixels or v at 768, and does not say which; "
        "put 512 or 768 into its name, as the published files have it"
    )
