"""The one call for a person in a hurry: photos and a noun in, a word out. It makes no choice you could not make."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import psutil
import torch
from PIL import Image
from torch import Tensor, nn

from zoti.data import OBJECT_TEMPLATES, Pipeline, cache_latents
from zoti.descent.optim import ZOAdam
from zoti.descent.timesteps import PartialUniform
from zoti.files import header
from zoti.images import load_images
from zoti.invert import Config, invert
from zoti.ledger.memory import Ledger
from zoti.model.load import PRESETS, Preset, load_pipeline
from zoti.objective import DenoisingLoss
from zoti.progress import painter, watch
from zoti.word.tokens import ConceptToken
from zoti.word.vocabulary import tidy

#: A run that would take more seconds than this begins only when it is told that it may be slow.
PATIENCE = 7200.0
#: The share of the free memory that candidates may fill.
SHARE = 0.8


@dataclass(frozen=True)
class Learned:
    """A word that was learned, in the pipeline it was learned on.

    >>> from tempfile import TemporaryDirectory
    >>> from zoti.data import load_subject
    >>> with TemporaryDirectory() as folder:
    ...     dog = personalize(
    ...         load_subject("cat").references, "cat", "tiny-sd", steps=2, checkpoint=Path(folder) / "cat.safetensors"
    ...     )
    ...     dog.save(Path(folder) / "word").name
    'learned_embeds.safetensors'
    >>> dog.word, dog.theta.shape, dog.paint("a {} in the snow").size
    ('<my-cat>', torch.Size([1, 256]), (64, 64))
    """

    #: how the word is written in a prompt
    word: str
    #: its vectors, (k, d)
    theta: Tensor
    #: what it was judged by: pipeline, token, latents and captions are in it
    objective: DenoisingLoss
    #: all other numbers of the run
    config: Config

    @property
    def pipe(self) -> Pipeline:
        """The pipeline, which knows the word."""
        return self.objective.pipe

    def save(self, folder: str | Path) -> Path:
        """Write folder/learned_embeds.safetensors, which diffusers and the web UIs read (see `ConceptToken.save`)."""
        return self.objective.token.save(self.theta, folder)

    def paint(self, prompt: str = "a photo of a {}", seed: int = 0, **options: Any) -> Image.Image:
        """A picture of a prompt, in which the word stands for {}. options: those of the pipeline's own call.

        The same seed gives the same picture.
        """
        return painter(self.objective.token, prompt, seed, **options)(self.theta)


def personalize(
    photos: str | Path | Sequence[Image.Image],
    noun: str,
    model: str | Path = "sd1.5",
    *,
    captions: Sequence[str] | None = None,
    crop: str = "centre",
    word: str | None = None,
    steps: int | None = None,
    checkpoint: str | Path | None = None,
    weights: str | None = None,
    device: torch.device | str | None = None,
    seed: int = 0,
    slow: bool = False,
) -> Learned:
    """Learn a word for what is in your photos: everything README's example does, with every number chosen.

    photos: a folder, or pictures. noun: what they show, in a word that the model knows; the new word begins as it.
    model, weights, device: see `load_pipeline`.

    mu, learning rate, timesteps and steps are those of the model's `Preset`, which for Stable Diffusion are the paper's
    (ZOODiP); a model that has none takes that of the published one it is built like. These can be given:

    - captions, one for each photo or one for all, with {} for the word; by default `OBJECT_TEMPLATES`;
    - crop, which square of a photo is seen (see `square`);
    - word, by default <my-noun>;
    - steps, if the preset's are too many for you: fewer teach less;
    - checkpoint, the file the run is kept in, by default my-noun.safetensors here. Stop the run when you like, by
      Ctrl-C say, and the same call goes on from there, to the same bits.

    Every photo is encoded once; then the VAE waits on the CPU, and so does the table of all words, of which a step asks
    a few rows; both come back to paint. As many candidates go through the model together as the free memory holds, and
    their number is kept with the run, for another would round otherwise. How the run goes is shown by `watch`, in a
    notebook with a picture every so often.

    After three steps it is known how long the rest takes. That is printed; and where it is more than two hours, as
    with Stable Diffusion on a CPU, ValueError is raised, unless slow=True. ValueError is also raised for what
    `load_pipeline`, `load_images`, `ConceptToken` or `invert` refuse.

    >>> personalize("my-photos", noun="")
    Traceback (most recent call last):
    ValueError: what do the photos show? Give a noun, such as 'dog'
    >>> PATIENCE / 3600, SHARE
    (2.0, 0.8)
    """
    if not noun.strip():
        raise ValueError("what do the photos show? Give a noun, such as 'dog'")
    images = load_images(photos) if isinstance(photos, (str, Path)) else list(photos)
    pipe = load_pipeline(model, weights, device)
    preset = PRESETS.get(str(model)) or _alike(pipe)
    token = ConceptToken(pipe, word or f"<my-{tidy(noun).strip('<>')}>", noun)
    latents = cache_latents(pipe, images, crop)
    told = captions or [OBJECT_TEMPLATES[i % len(OBJECT_TEMPLATES)] for i in range(len(images))]
    objective = DenoisingLoss(pipe, token, latents, told, PartialUniform(preset.low, preset.high))
    config = Config(steps=steps or preset.steps, mu=preset.mu, optimizer=ZOAdam(preset.lr), seed=seed)
    path = Path(checkpoint or f"{token.words[0].strip('<>')}.safetensors")

    def paint(theta: Tensor) -> Image.Image:
        with aside(token, pipe.unet.device):
            return painter(token, told[0])(theta)

    with aside(token, "cpu"), closing(_steps(objective, config, path)) as run:
        first = list(islice(run, 3))
        _announce(config.steps, [step.seconds for step in first], first[-1].index, path, slow)
        for step in watch(chain(first, run), config.steps, paint):
            theta = step.theta
    token.write(theta)
    return Learned(token.word, theta, objective, config)


@contextmanager
def placed(network: nn.Module, device: torch.device | str) -> Iterator[None]:
    """A context in which a network lies on another device, and after which it is back.

    >>> layer = nn.Linear(2, 2)
    >>> with placed(layer, "cpu"):
    ...     layer.weight.device
    device(type='cpu')
    """
    home = next(network.parameters()).device
    network.to(device)
    try:
        yield
    finally:
        network.to(home)


@contextmanager
def aside(token: ConceptToken, device: torch.device | str) -> Iterator[None]:
    """A context in which what only a painting asks for, the VAE and the table of all words, lies on another device.

    >>> from zoti import load_pipeline
    >>> token = ConceptToken(load_pipeline(), "<pot>", "teapot")
    >>> with aside(token, "cpu"):
    ...     token.vocabularies[0].table.device
    device(type='cpu')
    """
    with ExitStack() as stack:
        for part in (token.pipe.vae, *(v.encoder.get_input_embeddings() for v in token.vocabularies)):
            stack.enter_context(placed(part, device))
        yield


def _alike(pipe: Pipeline) -> Preset:
    """The preset of the published model that a pipeline is built like."""
    if getattr(pipe, "text_encoder_2", None) is not None:
        return PRESETS["sdxl"]
    if pipe.scheduler.config.prediction_type == "v_prediction":
        return PRESETS["sd2.1-768"]
    return PRESETS["sd2.1" if pipe.text_encoder.config.hidden_size == 1024 else "sd1.5"]


def _steps(objective: DenoisingLoss, config: Config, path: Path) -> Any:
    """The run, with as many candidates in a pass as it began with, or as there is memory for."""
    kept = None
    if path.is_file():
        with suppress(ValueError):  # `invert` says what is wrong with a file
            kept = header(path)[1].get("max_batch")
    objective.max_batch = int(kept) if kept else _affordable(objective, config.n + 1)
    return invert(objective, config, checkpoint=path)


def _affordable(objective: DenoisingLoss, most: int) -> int:
    """How many candidates, 1 to `most`, the free memory holds at once. The ledger books one; the rest is division."""
    pipe, theta = objective.pipe, objective.token.initial
    draw = objective.draw(torch.Generator().manual_seed(0))
    with Ledger() as ledger, torch.inference_mode():
        ledger.own(pipe.unet, *(vocabulary.encoder for vocabulary in objective.token.vocabularies))
        objective(theta[None], draw)
    one = ledger.peak.parts["temporaries"]
    return min(max(int(SHARE * _free(pipe.unet.device) / one), 1), most)


def _free(device: torch.device) -> int:
    """Bytes of a device's memory that nobody uses."""
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what the VAE has left is nobody's
        return torch.cuda.mem_get_info(device)[0]
    return int(psutil.virtual_memory().available)  # Apple's GPU has the computer's


def _announce(steps: int, seconds: list[float], done: int, path: Path, slow: bool) -> None:
    """Say how long the rest will take; raise ValueError where that is too long."""
    if len(seconds) < 2 or done >= steps:
        return
    each = (seconds[-1] - seconds[0]) / (len(seconds) - 1)
    rest = each * (steps - done)
    told = f"about {each:.2g} s a step here: {steps - done:,} steps take {_duration(rest)}"
    if rest > PATIENCE and not slow:
        raise ValueError(
            f"{told}; model='tiny-sd' or a GPU is faster, steps=1000 is less, or say slow=True ({path} goes on from "
            "where it is)"
        )
    print(told)


def _duration(seconds: float) -> str:
    """Seconds as people say them."""
    for unit, length in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.0f} {unit}"
    return f"{seconds:.0f} seconds"
