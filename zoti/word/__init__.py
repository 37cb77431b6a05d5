"""A new word: its place in a pipeline, and the files that hold it.

`vocabulary` is a tokenizer with its text encoder, `tokens` the word that is added to it and asked for many candidate
vectors at once, `embeds` the files in which words travel.
"""

from zoti.word.embeds import load_embeds, load_facts, save_embeds
from zoti.word.tokens import ConceptToken, Conditions
from zoti.word.vocabulary import Vocabulary, tidy, written

__all__ = ["ConceptToken", "Conditions", "Vocabulary", "load_embeds", "load_facts", "save_embeds", "tidy", "written"]
