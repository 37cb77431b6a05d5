"""A pipeline as graphs for engines that can only run: ONNX, for a browser's onnxruntime and a native one alike.

Such an engine has no backward pass to offer, and none is needed. Weights stay the INT8 codes they are here, so that
what it computes with is the very model that was measured; activations are float32.

onnxruntime's defaults are not fit for finite differences: natively it fuses an INT8 weight with its product and then
rounds activations too. `zoti.engine` runs these graphs as they are meant.
"""

import copy
import json
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoti.data import Pipeline
from zoti.files import write_tensors
from zoti.identity import fingerprint
from zoti.model.bnb import NF4Linear, W8A8Linear
from zoti.model.layers import Quantized

# GroupNorm is spelled out below opset 21, which every onnxruntime of a browser knows.
_OPSET = 18
# The form of an exported folder. It changes with what is in one.
_FORM = 2


def model_key(pipe: Pipeline) -> str:
    """What decides the noise that a pipeline's text encoder and U-Net predict, as a fingerprint; added words do not.

    >>> from zoti import ConceptToken, load_pipeline
    >>> pipe = load_pipeline()
    >>> before = model_key(pipe)
    >>> _ = ConceptToken(pipe, "<pot>", "teapot")
    >>> model_key(pipe) == before
    True
    """
    table = pipe.text_encoder.get_input_embeddings().weight
    held = {f"text.{name}": x for name, x in pipe.text_encoder.state_dict().items() if x.data_ptr() != table.data_ptr()}
    held |= {f"unet.{name}": x for name, x in pipe.unet.state_dict().items()}
    return fingerprint({**held, "table": table[: pipe.tokenizer.vocab_size]})


def noise_graph(pipe: Pipeline) -> bytes:
    """Text encoder and U-Net as one graph, ONNX: word, ids, z_t, t -> noise.

    - word (b, k, d): the vectors of words that are not the model's own, for each of b candidates;
    - ids (b, L), int64: a prompt's tokens; those from the size of the model's own vocabulary on are these vectors;
    - z_t (b, c, h, w): noisy latents, and t (1,), int64: their timestep;
    - noise (b, c, h, w): what the U-Net predicts. All numbers are float32; b and k are free.

    So one graph both learns (b candidates, one prompt) and paints (one word, b prompts). Its metadata hold `key`, the
    `model_key`. Takes a few seconds, and meanwhile the memory of a copy of both networks and of the graph.

    Raises ValueError for SDXL and for weights of bitsandbytes' kinds, ImportError without onnx and onnxscript.

    >>> from zoti import load_pipeline
    >>> noise_graph(load_pipeline("tiny-sd", weights="llm_int8"))
    Traceback (most recent call last):
    ValueError: ... computed by bitsandbytes...; load the pipeline with weights='int8'
    """
    _refuse(pipe)
    shape = _latent(pipe)
    word = torch.zeros(2, 2, pipe.text_encoder.config.hidden_size)
    ids = torch.full((2, pipe.tokenizer.model_max_length), pipe.tokenizer.vocab_size)
    inputs = {"word": word, "ids": ids, "z_t": torch.zeros(2, *shape), "t": torch.zeros(1, dtype=torch.int64)}
    free = {"word": {0: "b", 1: "k"}, "ids": {0: "b"}, "z_t": {0: "b"}, "t": {}}
    return _graph(_Noise(pipe), inputs, free, ["noise"], model_key(pipe))


def export_pipeline(pipe: Pipeline, folder: str | Path) -> Path:
    """Write all of a pipeline that an engine needs to learn a word and to paint with it; returns the folder.

    - `noise.onnx`: see `noise_graph`;
    - `encode.onnx`: pixels (b, 3, side, side) in [-1, 1] -> mean, std (b, c, h, w), as `cache_latents` has them;
    - `decode.onnx`: z (b, c, h, w) -> pixels (b, 3, side, side) in [0, 1];
    - `table.safetensors`: `table` (rows, d), the vectors of the model's own words, where a new one may start;
    - `model.json`: sizes, schedule (`alphas_cumprod`, `prediction_type`, `steps_offset`) and the `key` of all this.

    A folder that holds this very export already is left as it is. model.json is written last: where it is, all is.

    Raises as `noise_graph` does, ValueError for a pipeline whose VAE was given up, OSError where it cannot be written.

    >>> from zoti import load_pipeline
    >>> pipe = load_pipeline()
    >>> pipe.vae = None  # cached latents need no VAE, but whoever paints does
    >>> export_pipeline(pipe, "exported")
    Traceback (most recent call last):
    ValueError: this pipeline has no VAE; export one as it was loaded
    """
    _refuse(pipe)
    if pipe.vae is None:
        raise ValueError("this pipeline has no VAE; export one as it was loaded")
    folder, shape = Path(folder), _latent(pipe)
    side = shape[-1] * pipe.vae_scale_factor
    rows = pipe.tokenizer.vocab_size
    table = _narrow(pipe.text_encoder.get_input_embeddings().weight.detach()[:rows].float().cpu())
    facts: dict[str, Any] = {
        "key": fingerprint(pipe.vae.state_dict(), f"{_FORM} {torch.__version__} {model_key(pipe)}"),
        "rows": rows,
        "length": pipe.tokenizer.model_max_length,
        "width": table.shape[1],
        "latent": shape,
        "side": side,
        "prediction_type": pipe.scheduler.config.prediction_type,
        "steps_offset": pipe.scheduler.config.get("steps_offset", 0),
        "alphas_cumprod": pipe.scheduler.alphas_cumprod.tolist(),
    }
    told = folder / "model.json"
    if told.exists() and json.loads(told.read_text()) == facts:
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    told.unlink(missing_ok=True)
    vae, free = _portable(pipe.vae), {0: "b"}
    pixels, z = {"pixels": torch.zeros(2, 3, side, side)}, {"z": torch.zeros(2, *shape)}
    graphs = {
        "noise": noise_graph(pipe),
        "encode": _graph(_Encode(vae), pixels, {"pixels": free}, ["mean", "std"], facts["key"]),
        "decode": _graph(_Decode(vae), z, {"z": free}, ["pixels"], facts["key"]),
    }
    for name, graph in graphs.items():
        (folder / f"{name}.onnx").write_bytes(graph)
    write_tensors(folder / "table.safetensors", {"table": table}, {"key": facts["key"]})
    draft = folder / "model.json.part"
    draft.write_text(json.dumps(facts))
    os.replace(draft, told)
    return folder


def _refuse(pipe: Pipeline) -> None:
    if getattr(pipe, "text_encoder_2", None) is not None:
        raise ValueError("SDXL is not exported: its two encoders are too much for the engines this is for")
    networks = [pipe.unet, pipe.text_encoder, pipe.vae]
    layers = [layer for network in networks if network is not None for layer in network.modules()]
    if any(isinstance(layer, (NF4Linear, W8A8Linear)) for layer in layers):
        raise ValueError(
            "some of these layers are computed by bitsandbytes, which no other engine has; load the pipeline with "
            "weights='int8'"
        )


def _latent(pipe: Pipeline) -> list[int]:
    """The shape of one latent, [c, h, w]."""
    return [pipe.unet.config.in_channels, *[pipe.unet.config.sample_size] * 2]


class _Joined(nn.Module):
    """A quantized layer as a graph has it: codes and scales, which DequantizeLinear joins to a weight."""

    codes: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, layer: Quantized) -> None:
        super().__init__()
        # a product with the transpose is what engines know by heart, and they would not turn codes by themselves
        codes = layer.integers()
        self.register_buffer("codes", codes.T.contiguous() if codes.ndim == 2 else codes)
        self.register_buffer("scale", layer.scale)
        self.register_buffer("bias", None if layer.bias is None else layer.bias.float())
        self.how: Any = None if codes.ndim == 2 else (layer.stride, layer.padding, layer.dilation, layer.groups)

    def forward(self, x: Tensor) -> Tensor:
        linear = self.how is None
        weight = torch.onnx.ops.symbolic(
            "DequantizeLinear",
            [self.codes, self.scale],
            {"axis": 1 if linear else 0},
            dtype=torch.float32,
            shape=self.codes.shape,
        )
        if linear:
            y = x @ weight
            return y if self.bias is None else y + self.bias
        return F.conv2d(x, weight, self.bias, *self.how)


class _Rows(nn.Module):
    """An embedding table, in half precision where that is all it has."""

    table: Tensor

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.register_buffer("table", _narrow(table))

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.table).float()


def _narrow(table: Tensor) -> Tensor:
    half = table.half()
    return half if torch.equal(half.to(table), table) else table


def _portable(module: nn.Module) -> nn.Module:
    """A copy on the CPU, in float32, whose quantized layers a graph can hold."""
    portable = copy.deepcopy(module).cpu().float()

    def join(part: nn.Module) -> None:
        for name, child in part.named_children():
            if isinstance(child, Quantized):
                setattr(part, name, _Joined(child))
            else:
                join(child)

    join(portable)
    return portable


class _Noise(nn.Module):
    encoder: Any
    unet: Any

    def __init__(self, pipe: Pipeline) -> None:
        super().__init__()
        self.encoder = _portable(pipe.text_encoder)
        self.unet = _portable(pipe.unet)
        self.rows = pipe.tokenizer.vocab_size
        self.table = _Rows(self.encoder.get_input_embeddings().weight.detach()[: self.rows].clone())
        self.encoder.set_input_embeddings(self.table)

    def forward(self, word: Tensor, ids: Tensor, z_t: Tensor, t: Tensor) -> Tensor:
        added = ids >= self.rows
        which = (ids - self.rows).clamp(min=0)[..., None].expand(-1, -1, word.shape[-1])

        def substitute(module: nn.Module, args: tuple[Any, ...], known: Tensor) -> Tensor:
            return torch.where(added[..., None], word.gather(1, which), known)

        handle = self.table.register_forward_hook(substitute)
        try:
            states = self.encoder(ids.clamp(max=self.rows - 1))[0]
        finally:
            handle.remove()
        noise: Tensor = self.unet(z_t, t, states).sample
        return noise


class _Encode(nn.Module):
    vae: Any

    def __init__(self, vae: nn.Module) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        seen, config = self.vae.encode(pixels).latent_dist, self.vae.config
        return (seen.mean - (config.shift_factor or 0.0)) * config.scaling_factor, seen.std * config.scaling_factor


class _Decode(nn.Module):
    vae: Any

    def __init__(self, vae: nn.Module) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, z: Tensor) -> Tensor:
        config = self.vae.config
        pixels = self.vae.decode(z / config.scaling_factor + (config.shift_factor or 0.0)).sample
        painted: Tensor = (pixels / 2 + 0.5).clamp(0, 1)
        return painted


def _graph(
    module: nn.Module, inputs: dict[str, Tensor], free: dict[str, dict[int, str]], outputs: list[str], key: str
) -> bytes:
    """A module as ONNX, in which the axes named in `free` may have any size."""
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError("onnx or onnxscript is missing; pip install 'zoti[engine]'") from error
    sizes = {name: torch.export.Dim(name, min=1, max=1024) for axes in free.values() for name in axes.values()}
    shapes = {name: {axis: sizes[size] for axis, size in axes.items()} for name, axes in free.items()}
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            module.eval(),
            (),
            kwargs=inputs,
            input_names=list(inputs),
            output_names=outputs,
            dynamic_shapes=shapes,
            opset_version=_OPSET,
            dynamo=True,
            optimize=True,
            verify=False,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    del model.metadata_props[:], model.graph.metadata_props[:], model.graph.value_info[:]
    for part in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del part.metadata_props[:]  # which line of which file each came from is a fifth of the whole
    said = model.metadata_props.add()
    said.key, said.value = "key", key
    return bytes(model.SerializeToString())


@contextmanager
def _quiet() -> Iterator[None]:
    """PyTorch's exporter warns of much that nobody here can help."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
