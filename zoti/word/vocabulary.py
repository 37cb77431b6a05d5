"""A tokenizer with its text encoder: which words may be added to them, and how a prompt is read with new vectors."""

import json
import re
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoti.identity import fingerprint


def tidy(word: str) -> str:
    """The word as a tokenizer can know it from all others: in small letters, with hyphens for spaces, in brackets.

    CLIP's tokenizers read text in small letters, its accents composed. And they look for added words first, inside of
    other words too: an "ella" would take "umbrella" apart. No text has <ella>, [ella] or {ella} by accident.

    >>> tidy("My Teapot"), tidy("[mug]")
    ('<my-teapot>', '[mug]')
    """
    read = unicodedata.normalize("NFC", "-".join(word.split()).lower())
    if re.fullmatch(r"<[^<>]+>|\[[^\[\]]+\]|{[^{}]+}", read):
        return read
    return f"<{re.sub(r'[<>]', '', read) or 'my-word'}>"


def written(text: str) -> str:
    """The text itself, once it is sure that a file can hold it.

    Raises ValueError where it holds half of a character of two code units.

    >>> written("a <pot>")
    'a <pot>'
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{text!r} is no text that could be written to a file; type it again ({error})") from error
    return text


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
    ValueError: 'teapot' cannot be told from other words...; write '<teapot>'
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
        """A fingerprint of the model's own table: the same in every precision, whichever words were added."""
        return fingerprint({"table": self.table[: self.tokenizer.vocab_size].half()})

    def meaning(self, text: str) -> Tensor:
        """The mean vector of the text's tokens, (1, width). Raises ValueError for an empty text."""
        ids = self._ids(text, add_special_tokens=False)
        if not ids:
            raise ValueError("the initializer is empty; give a word the model knows, such as 'teapot'")
        return self.table.detach()[torch.tensor(ids)].float().mean(0, keepdim=True)

    def vectors(self, word: str) -> dict[str, int]:
        """The tokens that a word was added as, one for each of its vectors, with their ids; none for an unknown word.

        By diffusers' convention a word of several vectors is <word> <word>_1 <word>_2 ...

        Raises ValueError where one of them has got the id of another token.
        """
        parts, special = re.compile(re.escape(word) + r"(_\d+)?"), self.tokenizer.all_special_tokens
        added = self.tokenizer.get_added_vocab()
        found = {token: at for token, at in added.items() if parts.fullmatch(token) and token not in special}
        for token, at in found.items():
            if at < self.tokenizer.vocab_size or list(added.values()).count(at) > 1:
                raise ValueError(
                    f"{token!r} has the id of another token: with transformers 4, diffusers' unload_textual_inversion "
                    "may count wrong. Load the pipeline anew; ConceptToken(..., replace=True) takes a word out rightly"
                )
        return found

    def check(self, words: list[str], gone: Collection[str] = ()) -> None:
        """Raise ValueError if the tokenizer could not tell these words, once added, from each other or from text.

        gone: words that will be taken out before.
        """
        first = words[0]
        if first != tidy(first):
            raise ValueError(
                f"{first!r} cannot be told from other words and the letters inside of them: a word needs brackets, no "
                f"capitals, no spaces; write {tidy(first)!r}"
            )
        other = f"choose another word, such as {first[0]}my-{first[1:]}"
        known = self.tokenizer.get_vocab()
        special = set(self.tokenizer.all_special_tokens)
        for token in sorted(self.vectors(first).keys() - gone):
            raise ValueError(f"{token!r} is already in the vocabulary; say replace=True to make it anew, or {other}")
        for word in words:
            if word not in gone and (word in known or len(self._ids(word, add_special_tokens=False)) == 1):
                raise ValueError(f"{word!r} is already in the vocabulary; {other}")
            for added in self.tokenizer.get_added_vocab().keys() - gone:
                # in a prompt, pipelines replace a word of several vectors wherever its letters stand, and see
                # <new>_1 as the second vector of <new>
                if added in word or (word in added and added not in special):
                    raise ValueError(f"{word!r} overlaps {added!r}, which this pipeline has already; {other}")

    def grown(self, vectors: Tensor, gone: Collection[int] = ()) -> nn.Embedding:
        """A copy of the table with vectors (k, width) as the rows of the k words that will be added next.

        gone: the ids of words that will be taken out before, whose rows the copy lacks.
        """
        old = self.table.detach()
        first = len(self.tokenizer) - len(gone)  # the next word's row
        kept = [row for row in range(len(old)) if row not in gone]
        rows = old.new_zeros(max(len(old), first + len(vectors)), old.shape[1])
        rows[: len(kept)] = old[kept]
        rows[first : first + len(vectors)] = vectors.to(old)
        freeze = not self.table.requires_grad
        table: nn.Embedding = nn.Embedding.from_pretrained(rows, freeze)
        return table

    def add(self, words: list[str], table: nn.Embedding, gone: Collection[int] = ()) -> None:
        """Put a `grown` table into the encoder, and these words, whose vectors its new rows are, into the tokenizer."""
        self.encoder.set_input_embeddings(table)
        self.encoder.config.vocab_size = table.num_embeddings
        if gone:
            _forget(self.tokenizer, gone)
        self.tokenizer.add_tokens(words)

    def ids(self, text: str) -> list[int]:
        """Token ids (L,), padded or cut to the encoder's length."""
        length = self.tokenizer.model_max_length
        return self._ids(text, padding="max_length", max_length=length, truncation=True)

    def _ids(self, text: str, **options: Any) -> list[int]:
        ids: list[int] = self.tokenizer(written(text), **options).input_ids
        return ids

    def read(self, ids: Tensor, word: list[int], theta: Tensor, **options: bool) -> Any:
        """The encoder's output for p prompts, as if each of b candidates in turn were the vectors of a word.

        ids: the prompts, (p, L). word: the ids of the word's k tokens. theta: the candidates, (b, k, width). The first
        axis of the output is b p long: all prompts with the first candidate, then all with the second. The model is
        not written to. Differentiable in theta. The table may lie on another device than the rest of the encoder; ids
        are where it is.
        """

        def substitute(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            output = output.to(theta.device).view(len(theta), *ids.shape, -1).clone()
            for k, token in enumerate(word):
                at = ids == token  # (p, L); a prompt may say the word twice
                output[:, at] = theta[:, k, None].to(output)
            return output.flatten(0, 1)

        handle = self.encoder.get_input_embeddings().register_forward_hook(substitute)
        try:
            return self.encoder(ids.repeat(len(theta), 1), **options)
        finally:
            handle.remove()


def _forget(tokenizer: Any, gone: Collection[int]) -> None:
    """Take added words out of a tokenizer, by their ids; those after them move up, as their rows do in `grown`.

    transformers has no call for it, and diffusers' `unload_textual_inversion` gives ids twice where the tokenizer is
    one of transformers 4 and a word in the middle goes.
    """

    def moved(at: int) -> int:
        return at - sum(other < at for other in gone)

    if hasattr(tokenizer, "_tokenizer"):
        told = json.loads(tokenizer._tokenizer.to_str())
        kept = [token for token in told["added_tokens"] if token["id"] not in gone]
        told["added_tokens"] = [token | {"id": moved(token["id"])} for token in kept]
        tokenizer._tokenizer = type(tokenizer._tokenizer).from_str(json.dumps(told))
    else:  # transformers 4 in plain Python
        words = {moved(at): word for at, word in tokenizer._added_tokens_decoder.items() if at not in gone}
        tokenizer._added_tokens_decoder = words
        tokenizer._added_tokens_encoder = {word.content: at for at, word in words.items()}
        for update in ("_update_trie", "_update_total_vocab_size"):  # not every version has both
            getattr(tokenizer, update, lambda: None)()
