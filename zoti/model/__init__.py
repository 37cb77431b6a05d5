"""A text-to-image pipeline with weights of few bits.

`quantize` replaces a network's layers by those of `layers` (and of `bnb`, which stand on bitsandbytes), and they round
by the rules of `rounding`; `kernels` makes weights of their integers again. `load` opens a pipeline and prepares it for
a word: `find` looks for its files, `published` knows what a `single_file` leaves out, and `fill` puts tensor after
tensor into networks that were built without any. `export` writes a pipeline down for other engines.
"""

from zoti.model.bnb import NF4Linear, W8A8Linear
from zoti.model.export import export_pipeline, model_key, noise_graph
from zoti.model.fill import Tensors, fill_, trim
from zoti.model.find import find_model, weight_files
from zoti.model.kernels import dequantize
from zoti.model.layers import QuantConv2d, Quantized, QuantLinear, Rebuild
from zoti.model.load import PRESETS, Preset, load_pipeline
from zoti.model.published import CONFIGS, Published, clip_tokenizer
from zoti.model.quantize import footprint, quantize_
from zoti.model.rounding import pack, quantize_weight, unpack
from zoti.model.single_file import Checkpoint

__all__ = [
    "CONFIGS",
    "PRESETS",
    "Checkpoint",
    "NF4Linear",
    "Preset",
    "Published",
    "QuantConv2d",
    "QuantLinear",
    "Quantized",
    "Rebuild",
    "Tensors",
    "W8A8Linear",
    "clip_tokenizer",
    "dequantize",
    "export_pipeline",
    "fill_",
    "find_model",
    "footprint",
    "load_pipeline",
    "model_key",
    "noise_graph",
    "pack",
    "quantize_",
    "quantize_weight",
    "trim",
    "unpack",
    "weight_files",
]
