"""Adding a word: what it changes, what it leaves alone, and which words are refused."""

import ast
import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import contents, pairs, randn, random_pipeline, same, stock_states, width
from zoti import ConceptToken
from zoti.word import tidy


def test_bad_words_leave_the_pipeline_as_it_was(any_pipe):
    old = ConceptToken(any_pipe, "<old>", "teapot", 2)
    d = width(any_pipe)
    before = contents(any_pipe)
    for arguments, message in [
        (("<old>", "cat"), "already in the vocabulary; say replace=True to make it anew, or .* such as <my-old>"),
        (("<|endoftext|>", "cat"), "already in the vocabulary; choose"),
        (("old", "cat"), "write '<old>'"),
        (("<old>_1", "cat"), "write '<old_1>'"),
        (("", "cat"), "no capitals, no spaces; write '<my-word>'"),
        (("<>", "cat"), "write '<my-word>'"),
        (("<New>", "cat"), "write '<new>'"),
        (("my dog", "cat"), "write '<my-dog>'"),
        (("<<dog>>", "cat"), "write '<dog>'"),
        (("[<old>]", "cat"), "overlaps '<old>"),
        (("<cafe\u0301>", "cat"), "write '<caf\u00e9>'"),
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


#: Text holds these by accident: umbrella, snow, jack-o'-lantern, u.s.a., c++, 12; Hindi and Chinese have no spaces.
BARE = [
    "ella",
    "now",
    "-o",
    "o'",
    ".s.",
    "++",
    "1",
    "\u0940",
    "\u732b",
    "_a_",
    "a>",
    "<a",
    "<a>s",
    "(a)",
    "!!",
    "\u0301",
]


@pytest.mark.parametrize("word", BARE)
def test_a_word_without_brackets_which_would_break_others_is_refused_and_one_with_them_proposed(pipe, word):
    before = contents(pipe)
    with pytest.raises(ValueError, match="inside of them: a word needs brackets") as refusal:
        ConceptToken(pipe, word, "cat")
    assert same(before, contents(pipe))
    proposed = ast.literal_eval(str(refusal.value).split("write ")[1])
    assert tidy(proposed) == proposed
    texts = ["umbrella", "snow", f"{word}{word}", f"a{word}b", f"wow{word} {word}s"]
    ids = [pipe.tokenizer(text).input_ids for text in texts]
    ConceptToken(pipe, proposed, "cat", 12)
    assert [pipe.tokenizer(text).input_ids for text in texts] == ids


@pytest.mark.parametrize("word", ["<a>", "[v]", "{cat-toy}", "<\u732b>", "<\U0001f436>", "<s1>", "<a-b>"])
def test_any_word_in_brackets_will_do(pipe, word):
    token = ConceptToken(pipe, word, "cat", 12)
    assert token.ids(f"a{word}red")[0].tolist()[2:14] == token.token_ids[0]


def test_a_special_token_is_never_taken_out(any_pipe):
    before = contents(any_pipe)
    for word in ("<|endoftext|>", "<|startoftext|>"):
        with pytest.raises(ValueError, match="already in the vocabulary; choose another"):
            ConceptToken(any_pipe, word, "cat", replace=True)
    assert same(before, contents(any_pipe))


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
    pipe.text_encoder.resize_token_embeddings(5000, mean_resizing=False)
    token = ConceptToken(pipe, "<new>", "teapot")
    table = pipe.text_encoder.get_input_embeddings().weight
    assert len(table) == 5000
    assert torch.equal(table[token.token_ids[0][0]], token.initial[0])


def test_an_initializer_of_several_words_is_their_mean_in_each_encoder(any_pipe):
    both = ConceptToken(any_pipe, "<both>", "red teapot", 2).initial
    red, teapot = (ConceptToken(any_pipe, f"<{w}>", w).initial for w in ("red", "teapot"))
    torch.testing.assert_close(both, ((red + teapot) / 2).repeat(2, 1))


@pytest.mark.parametrize("now", [1, 2, 5])
@pytest.mark.parametrize("left", ["all", "half"])
def test_a_cell_that_makes_a_word_can_run_twice_whatever_its_vectors(any_pipe, now, left):
    """The word is made anew; what stands before and after it in the vocabulary keeps its meaning."""
    first = ConceptToken(any_pipe, "<first>", "red")
    ConceptToken(any_pipe, "<a>", "cat", 2)
    last = ConceptToken(any_pipe, "<last>", "teapot", 2)
    d = width(any_pipe)
    first.write(randn(1, d, seed=1))
    last.write(randn(2, d, seed=2))
    texts = ["a <first> with a <last>", "an umbrella"]
    with torch.no_grad():
        before = [stock_states(any_pipe, text)[0] for text in texts]
    if left == "half":  # stock diffusers takes the first of two vectors out
        for tokenizer, encoder in pairs(any_pipe):
            any_pipe.unload_textual_inversion("<a>", tokenizer, encoder)
        if not hasattr(any_pipe.tokenizer, "_tokenizer"):  # transformers 4: see `Vocabulary.vectors`
            with pytest.raises(ValueError, match="'<a>_1' has the id of another token"):
                ConceptToken(any_pipe, "<a>", "cat", now, replace=True)
            return
    with pytest.raises(ValueError, match=r"replace=True to make it anew"):
        ConceptToken(any_pipe, "<a>", "cat", now)
    again = ConceptToken(any_pipe, "<a>", randn(now, d, seed=3), replace=True)
    for tokenizer, encoder in pairs(any_pipe):
        added = {t: i for t, i in tokenizer.get_added_vocab().items() if not t.startswith("<|")}
        assert sorted(added) == sorted(first.words + last.words + again.words)
        assert sorted(added.values()) == list(range(len(tokenizer) - len(added), len(tokenizer)))
        assert encoder.config.vocab_size == len(encoder.get_input_embeddings().weight) >= len(tokenizer)
    with torch.no_grad():
        for text, states in zip(texts, before, strict=True):
            assert torch.equal(stock_states(any_pipe, text)[0], states)
        written = stock_states(any_pipe, "one <a> more")[0]
        told = again.encode(again.initial[None], ["one <a> more"]).states[0, 0]
    torch.testing.assert_close(told, written, rtol=1e-5, atol=1e-5)
    assert [len(set(row)) for row in again.token_ids] == [now] * len(pairs(any_pipe))


def test_running_a_cell_again_and_again_does_not_let_the_table_grow(pipe):
    ConceptToken(pipe, "<a>", "cat", 4)
    rows = len(pipe.text_encoder.get_input_embeddings().weight)
    for vectors in (4, 2, 1, 4):
        ConceptToken(pipe, "<a>", "cat", vectors, replace=True)
        assert len(pipe.text_encoder.get_input_embeddings().weight) == rows


def test_a_word_that_cannot_be_replaced_stays(any_pipe):
    ConceptToken(any_pipe, "<a>", "cat", 2)
    before = contents(any_pipe)
    for arguments in (("<a>", ""), ("<a>", "cat", 0), ("<a>", torch.zeros(1, 3)), ("a", "cat")):
        with pytest.raises(ValueError):
            ConceptToken(any_pipe, *arguments, replace=True)
        assert same(before, contents(any_pipe))


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
