"""The CLIP tokenizer of tiny-sd: byte-pair merges learned from the world's words, every known word one token.

It lives in data/tiny-sd/tokenizer and only ever grows: a number that once meant a word means it for ever, because the
rows of a trained table hang on it. `python tokenizer.py` appends the words of the drawings that it cannot yet say.
"""

import json
import re
from itertools import pairwise

from artwork import CONCEPTS, HELD_OUT_CONCEPTS, HERE
from transformers import CLIPTokenizer
from world import COLOURS, MEDIA, SETTINGS, STYLE_WORDS, World, said

FOLDER = HERE.parent / "tiny-sd" / "tokenizer"
LENGTH = 32  # longest caption of the world: 16 tokens; the rest is room for prompts and for words of several vectors


def corpus() -> list[str]:
    """Every word the world can say, held-out things included: one may name them, the model has only never seen them."""
    words = [
        *CONCEPTS,
        *HELD_OUT_CONCEPTS,
        *COLOURS,
        *SETTINGS,
        *MEDIA,
        *STYLE_WORDS.values(),
        *(said(concept) for _, concept in World().every),
        "a an the of in on at and with style picture drawing animal fruit toy thing object vehicle my this",
    ]
    return sorted({w for text in words for w in re.findall(r"[a-z]+", text)})


def tokenizer() -> CLIPTokenizer:
    """The one that goes with the weights."""
    if not (FOLDER / "tokenizer.json").exists():
        raise FileNotFoundError(f"no tokenizer in {FOLDER}; it is part of the model and cannot be made again")
    return CLIPTokenizer.from_pretrained(FOLDER)


def grow(old: CLIPTokenizer, words: list[str]) -> CLIPTokenizer:
    """The same tokenizer, with merges appended until each word is one token.

    A word that was one token stays it: its own merges come before all that are appended, and are tried first.
    """
    state = json.loads(old.backend_tokenizer.to_str())["model"]
    vocab, merges = dict(state["vocab"]), [tuple(m) for m in state["merges"]]
    ranks = {m: i for i, m in enumerate(merges)}
    for word in words:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            pairs = list(pairwise(pieces))
            best = min(pairs, key=lambda pair: ranks.get(pair, len(ranks)))
            if best not in ranks:
                best = pairs[0]
                ranks[best] = len(merges)
                merges.append(best)
                vocab.setdefault("".join(best), len(vocab))
            at = pairs.index(best)
            pieces[at : at + 2] = ["".join(best)]
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=LENGTH)


def save(tok: CLIPTokenizer, folder) -> None:
    """As tokenizer.json and, for transformers before 5, as vocab.json and merges.txt too."""
    tok.save_pretrained(folder)
    state = json.loads(tok.backend_tokenizer.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(state["vocab"], ensure_ascii=False))
    lines = ["#version: 0.2", *(" ".join(m) for m in state["merges"]), ""]
    (folder / "merges.txt").write_text("\n".join(lines))


if __name__ == "__main__":
    old, words = tokenizer(), corpus()
    new = grow(old, words)
    assert all(len(new.tokenize(w)) == 1 for w in words)
    assert all(new.convert_ids_to_tokens(i) == old.convert_ids_to_tokens(i) for i in range(len(old)))
    save(new, FOLDER)
    print(f"{len(old)} -> {len(new)} tokens for {len(words)} words")
