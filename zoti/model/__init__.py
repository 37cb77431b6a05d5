"""A text-to-image pipeline with weights of few bits.

`load` opens one and prepares it for a word; `quantize` replaces its layers by those of `layers` (and of `bnb`, which
stand on bitsandbytes), and they round by the rules of `rounding`.
"""

from zoti.model.bnb import NF4Linear, W8A8Linear
from zoti.model.layers import QuantConv2d, Quantized, QuantLinear, Rebuild
from zoti.model.load import PRESETS, Preset, load_pipeline
from zoti.model.quantize import footprint, quantize_
from zoti.model.rounding import pack, quantize_weight, unpack

__all__ = [
    "PRESETS",
    "NF4Linear",
    "Preset",
    "QuantConv2d",
    "QuantLinear",
    "Quantized",
    "Rebuild",
    "W8A8Linear",
    "footprint",
    "load_pipeline",
    "pack",
    "quantize_",
    "quantize_weight",
    "unpack",
]
