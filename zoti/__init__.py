"""zoti: personalise a quantized text-to-image diffusion model with forward passes only.

Zeroth-order textual inversion (ZOODiP, arXiv 2503.14868): a few pictures become one new word. Read
in the order data flows: model, data, word -> objective -> descent -> checkpoint, invert; beside them stand rivals,
metrics, ledger and page.
"""

import logging
import os

# Two libraries greet every CPU with warnings about kernels and packages it can do without.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

from zoti.data import cache_latents, load_images
from zoti.descent import (
    ZOSGD,
    AuthorsZOAdam,
    Estimate,
    Guided,
    PartialUniform,
    RandomSubspace,
    SNRWeighted,
    Stratified,
    SubspaceGradient,
    Uniform,
    ZOAdam,
    guided,
    one_point,
    rge,
    spsa,
)
from zoti.invert import Config, Step, invert
from zoti.model import PRESETS, footprint, load_pipeline, quantize_
from zoti.objective import DenoisingLoss
from zoti.word import ConceptToken

__version__ = "0.1.0"

__all__ = [
    "PRESETS",
    "ZOSGD",
    "AuthorsZOAdam",
    "ConceptToken",
    "Config",
    "DenoisingLoss",
    "Estimate",
    "Guided",
    "PartialUniform",
    "RandomSubspace",
    "SNRWeighted",
    "Step",
    "Stratified",
    "SubspaceGradient",
    "Uniform",
    "ZOAdam",
    "cache_latents",
    "footprint",
    "guided",
    "invert",
    "load_images",
    "load_pipeline",
    "one_point",
    "quantize_",
    "rge",
    "spsa",
]
