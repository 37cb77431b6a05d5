"""zoti: personalise a quantized text-to-image diffusion model with forward passes only.

Zeroth-order textual inversion (ZOODiP, arXiv 2503.14868): a few pictures become one new word. The parts of the library,
each of which stands only on those before it:

- `images`: pictures as a viewer shows them, read from a folder;
- `data`: subjects with their captions, and the latents the U-Net sees of them;
- `identity`: fingerprints, which tell a run, a model, a word from others;
- `files`: files that are written whole or not at all;
- `model/`: a pipeline to teach a word to, its weights rounded to eight bits or four;
- `word/`: the new word, its place in the pipeline and the files that hold it;
- `descent/`: timesteps, directions, estimators, subspace, optimizers: downhill from losses alone;
- `objective`: the loss a candidate for the word is judged by;
- `engine`: the same loss by onnxruntime, which can only run, and does so faster;
- `checkpoint`: a run's state, saved and resumed to the same bits;
- `invert`: the loop that puts all of this together, a step at a time;
- `progress`: what a run shows of itself while it goes;
- `ranks`: many machines, each of which judges its share of the candidates.

Beside this road:

- `rivals/`: backpropagation, DreamBooth, evolution and forward-mode gradients, in the same frame;
- `metrics`: how alike, how obedient, how diverse the pictures are;
- `ledger/`: what each method asks of memory;
- `personalize`: the one call, from photos to a word;
- `page/`: what a chapter shows.
"""

import logging
from functools import partial


def _differs(sentence: str, record: logging.LogRecord) -> bool:
    return sentence not in record.getMessage()


# Two libraries greet every computer without a GPU with the news of a package that zoti can do without. These two
# sentences are passed over, and nothing else that they have to say.
for _module, _sentence in {
    "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward",
    "transformers.utils.import_utils": "requires torchvision (not installed)",
}.items():
    logging.getLogger(_module).addFilter(partial(_differs, _sentence))

from zoti.data import cache_latents
from zoti.descent import (
    ZOSGD,
    AuthorsZOAdam,
    Estimate,
    GaussNewton,
    Guided,
    PartialUniform,
    RandomSubspace,
    SensitiveDirections,
    SNRWeighted,
    Stratified,
    SubspaceGradient,
    Uniform,
    ZOAdam,
    gauss_newton,
    guided,
    one_point,
    rge,
    sensitive_directions,
    spsa,
)
from zoti.images import load_images
from zoti.invert import Config, Step, invert
from zoti.model import PRESETS, footprint, load_pipeline, quantize_
from zoti.objective import DenoisingLoss
from zoti.personalize import Learned, personalize
from zoti.progress import watch
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
    "GaussNewton",
    "Guided",
    "Learned",
    "PartialUniform",
    "RandomSubspace",
    "SNRWeighted",
    "SensitiveDirections",
    "Step",
    "Stratified",
    "SubspaceGradient",
    "Uniform",
    "ZOAdam",
    "cache_latents",
    "footprint",
    "gauss_newton",
    "guided",
    "invert",
    "load_images",
    "load_pipeline",
    "one_point",
    "personalize",
    "quantize_",
    "rge",
    "sensitive_directions",
    "spsa",
    "watch",
]
