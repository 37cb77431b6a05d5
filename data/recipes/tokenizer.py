"""The CLIP tokenizer of tiny-sd: byte-pair merges learned from the world's captions, every known word one token.

Learned once (`python tokenizer.py`, which writes data/tiny-sd/tokenizer) and read from there ever after: the trainer of
`tokenizers` breaks ties by chance, and the next one may give "cat" the number that was "car".
"""

import json
import re

from artwork import CONCEPTS, HELD_OUT_CONCEPTS, HERE
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer
from world import COLOURS, MEDIA, SETTINGS, STYLE_WORDS

FOLDER = HERE.parent / "tiny-sd" / "tokenizer"
LENGTH = 32  # longest caption of the world: 14 tokens; the rest is room for prompts and for words of several vectors


def corpus() -> list[str]:
    """Every word the world can say, held-out things included: one may name them, the model has only never seen them."""
    words = [
        *CONCEPTS,
        *HELD_OUT_CONCEPTS,
        *COLOURS,
        *SETTINGS,
        *MEDIA,
        *STYLE_WORDS.values(),
        "a an the of in on at and with style picture drawing animal fruit toy thing object vehicle my this",
    ]
    return sorted({w for text in words for w in re.findall(r"[a-z]+", text)})


def tokenizer() -> CLIPTokenizer:
    """The one that goes with the weights."""
    if not (FOLDER / "tokenizer.json").exists():
        raise FileNotFoundError(f"no tokenizer in {FOLDER}; make one with `python tokenizer.py`")
    return CLIPTokenizer.from_pretrained(FOLDER)


def learn() -> CLIPTokenizer:
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe.train_from_iterator(
        corpus() * 2,
        trainers.BpeTrainer(
            vocab_size=4096, min_frequency=2, end_of_word_suffix="</w>", initial_alphabet=alphabet, show_progress=False
        ),
    )
    state = json.loads(bpe.to_str())["model"]
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in state["merges"]]
    tokens = [*alphabet, *(c + "</w>" for c in alphabet)] + ["".join(m) for m in merges]
    vocab = {t: i for i, t in enumerate([*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=LENGTH)


if __name__ == "__main__":
    if not (FOLDER / "tokenizer.json").exists():  # another vocabulary would make nonsense of the weights beside it
        learn().save_pretrained(FOLDER)
    t = tokenizer()
    print(len(t), t.tokenize("a twemoji purple octopus in front of a brick wall, zebra"), t("a cat").input_ids)
    assert all(len(t.tokenize(w)) == 1 for w in corpus())
