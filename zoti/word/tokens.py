"""One new word: its place in a pipeline, and what the U-Net is told of it, for a batch of candidate vectors at once."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoti.data import Pipeline
from zoti.identity import Identity, fingerprint
from zoti.word.embeds import load_embeds, load_facts, save_embeds
from zoti.word.vocabulary import Vocabulary, tidy, written


@dataclass(frozen=True)
class Conditions:
    """What the U-Net is told by text, for each of b candidates in each of p prompts.

    Stable Diffusion has the states only, SDXL all three.

    >>> told = Conditions(torch.zeros(8, 2, 77, 768))  # 8 candidates, 2 prompts
    >>> {name: x.shape for name, x in told.of(1).items()}
    {'encoder_hidden_states': torch.Size([8, 77, 768])}
    """

    #: the text encoder's states, (b, p, L, width); SDXL's are the last but one of both encoders, side by side
    states: Tensor
    #: one vector for the whole prompt from the second encoder, (b, p, projection)
    pooled: Tensor | None = None
    #: the sizes SDXL was trained to be told, (6,): original height, width; the crop's top, left; target height, width
    time_ids: Tensor | None = None

    def of(self, prompt: int) -> dict[str, Any]:
        """The U-Net's arguments for one prompt, by number, and all b candidates."""
        told: dict[str, Any] = {"encoder_hidden_states": self.states[:, prompt]}
        if self.pooled is not None and self.time_ids is not None:
            sizes = self.time_ids.expand(len(self.states), -1)
            told["added_cond_kwargs"] = {"text_embeds": self.pooled[:, prompt], "time_ids": sizes}
        return told


class ConceptToken:
    """A new word of k vectors, added to a pipeline's tokenizer and text encoder (to both of each in SDXL).

    `initializer` is where its vectors start: a word the model knows (their mean, if it is several tokens), repeated
    `vectors` times, or a tensor (k, d) of start vectors, which then decides k. d is the width of the encoder; in SDXL
    768 + 1280, the first encoder's part first.

    `encode` asks the text encoder for candidates without writing to the model; `write` makes one of them the word's
    vectors, and `save` writes them to a file. The word is looked up in the pipeline whenever it is used: others may
    come and go.

    replace: take the word out first, with all its vectors, where it is there already, as when a notebook's cell runs
    twice.

    Raises ValueError where the word is in the vocabulary, overlaps an added word, lacks brackets (<pot>) or has
    capitals or spaces, where the initializer is empty or does not fit, or vectors < 1. The pipeline is then as it was
    before.

    >>> from zoti import load_pipeline
    >>> token = ConceptToken(load_pipeline(), "<pot>", "teapot", vectors=2)
    >>> token.words, token.initial.shape
    (['<pot>', '<pot>_1'], torch.Size([2, 256]))
    >>> theta = torch.stack([token.initial, -token.initial, 2 * token.initial])
    >>> token.encode(theta, ["a <pot>", "a <pot> in the snow"]).states.shape
    torch.Size([3, 2, 32, 256])
    >>> token.write(theta[0])  # from now on the pipeline itself can paint a <pot>
    """

    def __init__(
        self, pipe: Pipeline, word: str, initializer: str | Tensor, vectors: int = 1, replace: bool = False
    ) -> None:
        if vectors < 1:
            raise ValueError(f"vectors = {vectors}: a word needs at least one vector")
        self.pipe, self.word = pipe, word
        self.widths = [v.table.shape[1] for v in self.vocabularies]
        if isinstance(initializer, str):
            start = torch.cat([v.meaning(initializer) for v in self.vocabularies], -1).repeat(vectors, 1)
        else:
            start = initializer.detach().to(self.vocabularies[0].table.device, torch.float32).clone()
        if start.ndim != 2 or start.shape[1] != sum(self.widths) or len(start) < 1:
            widths = " + ".join(map(str, self.widths))
            raise ValueError(f"vectors of shape {tuple(start.shape)} do not fit; this model takes (k, {widths})")
        self.initial = start  # (k, d)
        self.words = [word, *(f"{word}_{i}" for i in range(1, len(start)))]
        old = [v.vectors(word) if replace else {} for v in self.vocabularies]
        for v, gone in zip(self.vocabularies, old, strict=True):
            v.check(self.words, gone.keys())
        # the input is right; all that may still fail, for want of memory, comes before the first change
        parts = self._parts(start)
        tables = [v.grown(part, gone.values()) for v, part, gone in zip(self.vocabularies, parts, old, strict=True)]
        for v, table, gone in zip(self.vocabularies, tables, old, strict=True):
            v.add(self.words, table, gone.values())

    @property
    def vocabularies(self) -> list[Vocabulary]:
        """The pipeline's tokenizers with their encoders: Stable Diffusion's one, or SDXL's two."""
        return _vocabularies(self.pipe)

    @property
    def token_ids(self) -> list[list[int]]:
        """The ids of the word's k tokens in each of the vocabularies.

        Raises ValueError where the word is no longer there with just these tokens.
        """
        found = []
        for vocabulary in self.vocabularies:
            there = vocabulary.vectors(self.word)
            if there.keys() != set(self.words):
                now = f"has {len(there)} vectors now, not {len(self.words)}" if there else "is no longer there"
                raise ValueError(
                    f"{self.word!r} {now}: it was taken out of this pipeline, or made anew; use the new "
                    "ConceptToken, or make another with replace=True"
                )
            found.append([there[word] for word in self.words])
        return found

    @classmethod
    def load(
        cls, pipe: Pipeline, path: str | Path, word: str | None = None, strict: bool = False, replace: bool = False
    ) -> "ConceptToken":
        """Add a learned word to a pipeline, from a file (or folder) of zoti, diffusers, kohya or a web UI.

        The file's vectors (k, d) become the token's `initial`. The word is called `word`, by default what the file
        calls it, in small letters and in brackets; replace: even where there is one already (see `ConceptToken`). A
        run's checkpoint is such a file too.

        The same numbers mean something else to another model. Where the file says that it was learned on another, this
        is a warning, for a model's fine-tunes understand its words more or less; with `strict`, and always for a
        checkpoint, it is an error.

        Raises FileNotFoundError where there is no file, ValueError for one that `load_embeds` refuses, for vectors of
        another model, or where the word cannot be added. The pipeline is then as it was before.
        """
        name, parts = load_embeds(path)
        widths = [p.shape[1] for p in parts]
        expected = [v.table.shape[1] for v in _vocabularies(pipe)]
        if widths != expected:
            raise ValueError(
                f"{path} holds vectors of {' + '.join(map(str, widths))} numbers, this model's words have "
                f"{' + '.join(map(str, expected))}; load it into the kind of model it was learned for"
            )
        facts, here = load_facts(path), _origin(pipe)
        if facts.get("table", here["table"]) != here["table"]:
            there = f"{facts.get('model')!r} (its table of words: {facts['table']})"
            told = (
                f"{path} was learned on {there}, this pipeline is {here['model']!r} ({here['table']}), where it means "
            )
            if strict or "checkpoint" in facts:
                raise ValueError(f"{told}something else; load it into the model it was learned on")
            warnings.warn(f"{told}something else unless one is a fine-tune of the other", stacklevel=2)
        return cls(pipe, tidy(name) if word is None else word, torch.cat(parts, -1), replace=replace)

    def ids(self, prompt: str) -> Tensor:
        """Token ids (encoders, L) of a prompt, in which the word stands with all its k tokens, as the pipeline has it.

        Raises ValueError where the prompt does not hold the word within the encoders' length.
        """
        rows = [v.ids(self.pipe.maybe_convert_prompt(written(prompt), v.tokenizer)) for v in self.vocabularies]
        for row, word in zip(rows, self.token_ids, strict=True):
            if not set(word) <= set(row):
                raise ValueError(
                    f"the prompt {prompt!r} does not hold {self.word!r} within its first {len(row)} tokens"
                )
        return torch.tensor(rows, device=self.vocabularies[0].table.device)

    def encode(self, theta: Tensor, prompts: list[str]) -> Conditions:
        """What the U-Net is told for every candidate in every prompt, in the U-Net's dtype.

        theta: (b, k, d). The result is what the pipeline's `encode_prompt` gives with each candidate written to the
        model in turn; SDXL is told the size at which the pipeline paints. Differentiable in theta.

        Raises ValueError where theta is not (b, k, d) for this word's k and the model's d.
        """
        parts = self._parts(theta, "b, ")
        unet = self.pipe.unet
        dtype = next(unet.parameters()).dtype  # `unet.dtype` walks through a thousand modules each time
        ids = torch.stack([self.ids(p) for p in prompts], 1)  # (encoders, p, L)

        def grid(x: Tensor) -> Tensor:  # (b p, ...) -> (b, p, ...)
            return x.reshape(len(theta), len(prompts), *x.shape[1:]).to(dtype)

        if len(parts) == 1:
            output = self.vocabularies[0].read(ids[0], self.token_ids[0], parts[0])
            return Conditions(grid(output[0]))
        first, second = (
            vocabulary.read(rows, word, part, output_hidden_states=True)
            for vocabulary, rows, word, part in zip(self.vocabularies, ids, self.token_ids, parts, strict=True)
        )
        states = grid(torch.cat([first.hidden_states[-2], second.hidden_states[-2]], -1))
        # as in painting, an encoder whose config says eos_token_id = 2 pools at the largest id, which is the word's own
        side = unet.config.sample_size * self.pipe.vae_scale_factor
        return Conditions(states, grid(second.text_embeds), states.new_tensor([side, side, 0, 0, side, side]))

    @torch.no_grad()
    def write(self, theta: Tensor) -> None:
        """Make theta (k, d) the word's vectors in the model: `pipe("a <word> ...")` then paints with them."""
        for v, ids, part in zip(self.vocabularies, self.token_ids, self._parts(theta), strict=True):
            v.table[torch.tensor(ids)] = part.to(v.table)

    def save(self, theta: Tensor, folder: str | Path) -> Path:
        """Write theta (k, d) to folder/learned_embeds.safetensors, as diffusers and the web UIs read it.

        With it goes which model it was learned on. An older file of the same word and model is replaced.

        Raises ValueError where the file is there and anything else, or for vectors that are not finite; OSError, or the
        kind of it that fits, where it cannot be written.
        """
        return save_embeds(Path(folder) / "learned_embeds.safetensors", self.word, self._parts(theta), self.facts())

    def facts(self) -> dict[str, str]:
        """What the word's files say of it: its name, its widths, the model it was learned on and that one's table."""
        return {"word": self.word, "widths": " ".join(map(str, self.widths)), **_origin(self.pipe)}

    def identity(self, prompts: list[str]) -> Identity:
        """What decides the conditions of a candidate in these prompts, by name: all that tells this word from another.

        Left out are the vectors that the word has in the model, for candidates take their place.
        """
        told: dict[str, Tensor] = {}
        ids = torch.stack([self.ids(p) for p in prompts], 1)
        for i, (v, rows, word) in enumerate(zip(self.vocabularies, ids, self.token_ids, strict=True)):
            vectors = v.table.detach()[rows]
            for k, token in enumerate(word):
                vectors[rows == token] = float(k)
            # added words are known by their vectors, for the numbers of their rows depend on which came first
            told |= {f"{i} ids": rows.where(rows < v.tokenizer.vocab_size, -1), f"{i} vectors": vectors}
        tables = {v.table.data_ptr() for v in self.vocabularies}
        weights = {
            f"{i} {name}": held
            for i, v in enumerate(self.vocabularies)
            for name, held in v.encoder.state_dict().items()
            if held.data_ptr() not in tables
        }
        return {
            "word": f"{self.word} of {len(self.initial)} vectors",
            "initial vectors": fingerprint({"initial": self.initial}),
            "vocabulary": fingerprint(told, _origin(self.pipe)["table"]),
            "text encoder": fingerprint(weights),
        }

    def _parts(self, theta: Tensor, batch: str = "") -> tuple[Tensor, ...]:
        """Theta cut into what belongs to each encoder, (..., k, width).

        theta: (k, d), or (b, k, d) where batch = 'b, ', which is how the error message puts it.
        """
        k, d = self.initial.shape
        if theta.ndim != (3 if batch else 2) or theta.shape[-2:] != (k, d):
            raise ValueError(f"theta has shape {tuple(theta.shape)}; {self.word!r} takes ({batch}{k}, {d})")
        return torch.split(theta, self.widths, -1)


def _vocabularies(pipe: Pipeline) -> list[Vocabulary]:
    """The tokenizers of a pipeline with their encoders: Stable Diffusion's one, or SDXL's two."""
    found = [Vocabulary(pipe.tokenizer, pipe.text_encoder)]
    second = getattr(pipe, "text_encoder_2", None)
    if second is not None:
        found.append(Vocabulary(pipe.tokenizer_2, second))
    return found


def _origin(pipe: Pipeline) -> dict[str, str]:
    """A pipeline's model by name, and the fingerprint of its table of words, or SDXL's two."""
    source = str(getattr(pipe.config, "_name_or_path", None) or type(pipe).__name__)
    return {
        "model": Path(source).resolve().name
        if Path(source).exists()
        else source,  # the whole path is nobody's business
        "table": " ".join(vocabulary.fingerprint for vocabulary in _vocabularies(pipe)),
    }
