"""A tokenizer with its text encoder: which words may be added to them, and how a prompt is read with new vectors."""

import unicodedata
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoti.identity import fingerprint


def tidy(word: str) -> str:
    """The word as CLIP's tokenizers read it: in small letters, its accents composed, with hyphens instead of spaces.

    >>> tidy("My Teapot")
    'my-teapot'
    """
    return unicodedata.normalize("NFC", "-".join(word.split()).lower())


@dataclass(frozen=True)
class Vocabulary:
    """One CLIPTokenizer and its CLIPTextModel (or, in SDXL, the second with a CLIPTextModelWithProjection).

    >>> from zoti import load_pipeline
    >>> pipe = load_pipeline()
    >>> vocabulary = Vocabulary(pipe.tokenizer, pipe.text_encoder)
    >>> vocabulary.meaning("a blue teapot").shape  # the mean of three
    torch.Size([1, 256])
    >>> len(vocabulary.ids("a blue teapot"))  # padded
    32
    >>> vocabulary.check(["teapot"])
    Traceback (most recent call last):
    ValueError: 'teapot' is already in the vocabulary; choose another word, ...
    """

    #: a CLIPTokenizer
    tokenizer: Any
    #: the text model that reads its ids
    encoder: Any

    @property
    def table(self) -> Tensor:
        """The embedding table (rows, width): one row for each token."""
        weight: Tensor = self.encoder.get_input_embeddings().weight
        return weight

    @property
    def fingerprint(self) -> str:
        """By what one knows the model's own table again, in whatever precision, and whichever words were added."""
        return fingerprint({"table": self.table[: self.tokenizer.vocab_size].half()})

    def meaning(self, text: str) -> Tensor:
        """The mean vector of the text's tokens, (1, width). Raises ValueError for an empty text."""
        ids = self._ids(text, add_special_tokens=False)
        if not ids:
            raise ValueError("the initializer is empty; give a word the model knows, such as 'teapot'")
        return self.table.detach()[torch.tensor(ids)].float().mean(0, keepdim=True)

    def check(self, words: list[str]) -> None:
        """Raise ValueError if the tokenizer could not tell these words, once added, from each other or from text."""
        first = words[0]
        if not first or first != tidy(first):
            name = tidy(first) or "<my-word>"
            raise ValueError(f"{first!r} would not be read as one word: no capitals, no spaces; write {name!r}")
        other = f"choose another word, such as <my-{first.strip('<>')}>"
        known = self.tokenizer.get_vocab()
        special = set(self.tokenizer.all_special_tokens)
        for word in words:
            if word in known or len(self.tokenizer.tokenize(word)) == 1:
                raise ValueError(f"{word!r} is already in the vocabulary; {other}")
            for added in self.tokenizer.get_added_vocab():
                # in a prompt, pipelines replace a word of several vectors wherever its letters stand, and see
                # <new>_1 as the second vector of <new>
                if added in word or (word in added and added not in special):
                    raise ValueError(f"{word!r} overlaps {added!r}, which this pipeline has already; {other}")

    def grown(self, vectors: Tensor) -> nn.Embedding:
        """A copy of the table with vectors (k, width) as the rows of the k words that will be added next."""
        old = self.table.detach()
        first = len(self.tokenizer)  # the next word's row
        rows = old.new_zeros(max(len(old), first + len(vectors)), old.shape[1])
        rows[: len(old)] = old
        rows[first : first + len(vectors)] = vectors.to(old)
        freeze = not self.table.requires_grad
        table: nn.Embedding = nn.Embedding.from_pretrained(rows, freeze)
        return table

    def add(self, words: list[str], table: nn.Embedding) -> None:
        """Put a `grown` table into the encoder, and these words, whose vectors its new rows are, into the tokenizer."""
        self.encoder.set_input_embeddings(table)
        self.encoder.config.vocab_size = table.num_embeddings
        self.tokenizer.add_tokens(words)

    def ids(self, text: str) -> list[int]:
        """Token ids (L,), padded or cut to the encoder's length."""
        length = self.tokenizer.model_max_length
        return self._ids(text, padding="max_length", max_length=length, truncation=True)

    def _ids(self, text: str, **options: Any) -> list[int]:
        try:
            ids: list[int] = self.tokenizer(text, **options).input_ids
        except TypeError as error:  # half of a character of two code units
            raise ValueError(f"{text!r} is no text that could be written to a file; type it again ({error})") from error
        return ids

    def read(self, ids: Tensor, word: list[int], theta: Tensor, **options: bool) -> Any:
        """The encoder's output for p prompts, as if each of b candidates in turn were the vectors of a word.

        ids: the prompts, (p, L). word: the ids of the word's k tokens. theta: the candidates, (b, k, width). The first
        axis of the output is b p long: all prompts with the first candidate, then all with the second. The model is
        not written to. Differentiable in theta.
        """

        def substitute(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            output = output.view(len(theta), *ids.shape, -1).clone()
            for k, token in enumerate(word):
                at = ids == token  # (p, L); a prompt may say the word twice
                output[:, at] = theta[:, k, None].to(output)
            return output.flatten(0, 1)

        handle = self.encoder.get_input_embeddings().register_forward_hook(substitute)
        try:
            return self.encoder(ids.repeat(len(theta), 1), **options)
        finally:
            handle.remove()
