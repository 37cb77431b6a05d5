"""Adding a word: what it changes, what it leaves alone, and which words are refused."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import contents, pairs, randn, random_pipeline, same, width
from zoti import ConceptToken


def test_bad_words_leave_the_pipeline_as_it_was(any_pipe):
    old = ConceptToken(any_pipe, "<old>", "teapot", 2)
    d = width(any_pipe)
    before = contents(any_pipe)
    for arguments, message in [
        (("<old>", "cat"), "already in the vocabulary; choose another word, such as <my-old>"),
        (("<old>_1", "cat"), "already in the vocabulary"),
        (("<old>_2", "cat"), "overlaps '<old>"),  # pipelines would take it for the third vector of <old>
        (("<old>er", "cat"), "overlaps"),
        (("old", "cat"), "overlaps"),
        (("<|endoftext|>s", "cat"), "overlaps"),
        (("night", "cat"), "already in the vocabulary"),
        (("", "cat"), "no capitals, no spaces"),
        (("<New>", "cat"), "write '<new>'"),
        (("my dog", "cat"), "write 'my-dog'"),
        (("cafe\u0301", "cat"), "write 'caf\u00e9'"),
        (("<b>", ""), "initializer is empty"),
        (("<b>", "  "), "initializer is empty"),
        (("<b>", "cat", 0), "at least one vector"),
        (("<b>", torch.zeros(2, d + 1)), "do not fit"),
        (("<b>", torch.zeros(0, d)), "do not fit"),
        (("<b>", torch.zeros(d)), "do not fit"),
    ]:
        with pytest.raises(ValueError, match=message):
            ConceptToken(any_pipe, *arguments)
        assert same(before, contents(any_pipe)), arguments
    with torch.no_grad():
        assert old.encode(randn(1, 2, d), ["an <old> one"]).states.isfinite().all()


def test_a_word_that_only_the_second_tokenizer_has_is_added_to_neither(xl):
    xl.load_textual_inversion(randn(48), token="<new>", tokenizer=xl.tokenizer_2, text_encoder=xl.text_encoder_2)
    before = contents(xl)
    with pytest.raises(ValueError, match="already in the vocabulary"):
        ConceptToken(xl, "<new>", "teapot")
    assert same(before, contents(xl))


def test_want_of_memory_leaves_the_pipeline_as_it_was(xl, monkeypatch):
    before, real, calls = contents(xl), torch.nn.Embedding.from_pretrained, []

    def second_fails(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise RuntimeError("out of memory")
        return real(*args, **kwargs)

    monkeypatch.setattr(torch.nn.Embedding, "from_pretrained", second_fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        ConceptToken(xl, "<new>", "teapot")
    assert same(before, contents(xl))


def test_adding_a_word_changes_nothing_else(any_pipe):
    before, chance = contents(any_pipe), torch.get_rng_state()
    prompt = "a red teapot, 'new' in the snow"
    ids = [tokenizer(prompt).input_ids for tokenizer, _ in pairs(any_pipe)]
    ConceptToken(any_pipe, "<new>", "teapot", 2)
    assert torch.equal(chance, torch.get_rng_state())
    for old, new in zip(before, contents(any_pipe), strict=True):
        assert torch.equal(new[3][: len(old[3])], old[3])
        assert len(new[3]) == new[1] == new[2] == old[1] + 2
    for (tokenizer, encoder), row in zip(pairs(any_pipe), ids, strict=True):
        assert tokenizer(prompt).input_ids == row
        table = encoder.get_input_embeddings().weight
        assert (table.dtype, table.requires_grad) == (torch.float32, False)


def test_a_table_with_rows_to_spare_keeps_them(pipe):
    pipe.text_encoder.resize_token_embeddings(1000, mean_resizing=False)
    token = ConceptToken(pipe, "<new>", "teapot")
    table = pipe.text_encoder.get_input_embeddings().weight
    assert len(table) == 1000
    assert torch.equal(table[token.token_ids[0][0]], token.initial[0])


def test_an_initializer_of_several_words_is_their_mean_in_each_encoder(any_pipe):
    both = ConceptToken(any_pipe, "<both>", "red teapot", 2).initial
    red, teapot = (ConceptToken(any_pipe, f"<{w}>", w).initial for w in ("red", "teapot"))
    torch.testing.assert_close(both, ((red + teapot) / 2).repeat(2, 1))


FUZZED, CLEAN = random_pipeline(), random_pipeline()


@pytest.mark.slow
@settings(max_examples=1000)
@given(word=st.text(max_size=12) | st.from_regex(r"<[A-Za-z0-9 _-]{0,8}>", fullmatch=True), vectors=st.integers(1, 3))
def test_any_text_becomes_a_word_that_is_read_as_itself_or_a_clear_error(word, vectors):
    before = contents(FUZZED)
    try:
        token = ConceptToken(FUZZED, word, "teapot", vectors)
    except ValueError as error:
        assert "write" in str(error) or "choose" in str(error)
        assert same(before, contents(FUZZED))
        return
    row = token.ids(f"a {word} at night")[0].tolist()
    start = row.index(token.token_ids[0][0])
    assert row[start : start + vectors] == token.token_ids[0]
    FUZZED.tokenizer, FUZZED.text_encoder = copy.deepcopy(CLEAN.tokenizer), copy.deepcopy(CLEAN.text_encoder)
