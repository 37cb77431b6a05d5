"""zoti: personalise a quantized text-to-image diffusion model with forward passes only.

Zeroth-order textual inversion (ZOODiP, arXiv 2503.14868): a few pictures become one new word. Read
the modules in the order data flows: models, quantize -> data, tokens -> objective -> estimators -> subspace -> optim
-> invert.
"""

import logging
import os

# Two libraries greet every CPU with warnings about kernels and packages it can do without.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

from zoti.data import cache_latents, load_images
from zoti.estimators import Estimate, Guided, guided, one_point, rge, spsa
from zoti.invert import Config, Step, invert
from zoti.models import PRESETS, load_pipeline
from zoti.objective import DenoisingLoss
from zoti.optim import ZOSGD, AuthorsZOAdam, ZOAdam
from zoti.quantize import footprint, quantize_
from zoti.subspace import RandomSubspace, SubspaceGradient
from zoti.timesteps import PartialUniform, SNRWeighted, Stratified, Uniform
from zoti.tokens import ConceptToken

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
