"""A word in a pipeline: encoded as if it were written there, for one encoder and for two."""

import copy

import pytest
import torch

from tests.helpers import (
    contents,
    generator,
    pairs,
    problem,
    randn,
    random_xl_pipeline,
    same,
    stock_states,
    twin,
    width,
)
from zoti import ConceptToken, Config, invert


@pytest.mark.parametrize("vectors", [1, 3])
def test_encoding_a_candidate_equals_writing_it_into_the_model(pipe, vectors):
    token = ConceptToken(pipe, "<new>", "teapot", vectors)
    theta = torch.randn(4, vectors, 32, generator=generator())
    table = pipe.text_encoder.get_input_embeddings().weight.clone()
    states = token.encode(theta, ["a <new> at night", "a red <new> and a <new>"]).states
    assert torch.equal(table, pipe.text_encoder.get_input_embeddings().weight)
    for b in range(4):
        token.write(theta[b])
        for p, prompt in enumerate(["a <new> at night", "a red <new> and a <new>"]):
            expected = pipe.encode_prompt(prompt, "cpu", 1, False)[0][0]
            torch.testing.assert_close(states[b, p], expected, rtol=1e-5, atol=1e-5)


def test_bad_words(pipe):
    ConceptToken(pipe, "<new>", "teapot")
    for arguments, message in [
        (("<new>", "teapot"), "already in the vocabulary"),
        (("<b>", ""), "initializer is empty"),
        (("<c>", "cat", 0), "at least one vector"),
    ]:
        with pytest.raises(ValueError, match=message):
            ConceptToken(pipe, *arguments)
    token = ConceptToken(pipe, "<d>", "cat")
    with pytest.raises(ValueError, match="takes"):
        token.encode(torch.zeros(2, 1, 33), ["a <d>"])
    with pytest.raises(ValueError, match="does not hold"):
        token.encode(torch.zeros(2, 1, 32), ["a cat"])
    two = ConceptToken(pipe, "<e>", "cat", 2)
    for cut, prompt in ((token, "cat " * 40 + "<d>"), (two, "cat " * 29 + "<e>")):  # of two vectors one fits
        with pytest.raises(ValueError, match="does not hold"):
            cut.encode(torch.zeros(2, len(cut.words), 32), [prompt])


PROMPTS = ["a <new> at night", "a red <new>, a <new>"]


@pytest.mark.parametrize("vectors", [1, 3])
@pytest.mark.parametrize("eos", [None, 2])
def test_encoding_for_two_encoders_is_encode_prompt_after_writing(vectors, eos):
    pipe = random_xl_pipeline(eos)
    pipe.tokenizer_2.add_tokens(["<else>"])  # from here on the two number a new word differently
    pipe.text_encoder_2.resize_token_embeddings(len(pipe.tokenizer_2), mean_resizing=False)
    token = ConceptToken(pipe, "<new>", "teapot", vectors)
    assert token.token_ids[0] != token.token_ids[1]
    theta, before = randn(4, vectors, 80), contents(pipe)
    with torch.no_grad():
        told = token.encode(theta, PROMPTS)
        assert same(before, contents(pipe))
        for b in range(4):
            token.write(theta[b])
            for p, prompt in enumerate(PROMPTS):
                states, pooled = stock_states(pipe, prompt)
                torch.testing.assert_close(told.states[b, p], states, rtol=1e-5, atol=1e-5)
                torch.testing.assert_close(told.pooled[b, p], pooled, rtol=1e-5, atol=1e-5)


def test_the_sizes_told_are_those_the_pipeline_paints_at(xl):
    heard, forward = {}, xl.unet.forward

    def listen(*args, **kwargs):
        heard.update(kwargs["added_cond_kwargs"])
        return forward(*args, **kwargs)

    xl.unet.forward = listen
    token = ConceptToken(xl, "<new>", "teapot")
    xl("a <new> at night", num_inference_steps=1, guidance_scale=1.0, output_type="latent")
    told = token.encode(token.initial.expand(3, 1, -1), ["a <new> at night"]).of(0)["added_cond_kwargs"]
    assert set(told) == set(heard)
    assert torch.equal(told["time_ids"], heard["time_ids"].expand(3, 6))
    torch.testing.assert_close(told["text_embeds"], heard["text_embeds"].expand(3, -1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("vectors", [1, 3])
def test_a_saved_word_comes_back_under_its_name(any_pipe, vectors, tmp_path):
    token = ConceptToken(any_pipe, "<new>", "teapot", vectors)
    theta = randn(vectors, width(any_pipe))
    token.write(theta)
    file, fresh = token.save(theta, tmp_path), twin(any_pipe)
    back = ConceptToken.load(fresh, tmp_path)
    assert back.word == "<new>"
    assert torch.equal(back.initial, theta)
    with torch.no_grad():
        assert torch.equal(stock_states(fresh, PROMPTS[1])[0], stock_states(any_pipe, PROMPTS[1])[0])
    again = ConceptToken.load(fresh, file, word="<other>")
    assert again.words == ["<other>", *(f"<other>_{i}" for i in range(1, vectors))]
    assert torch.equal(again.initial, theta)
    with pytest.raises(ValueError, match="replace=True"):
        ConceptToken.load(fresh, file)
    assert torch.equal(ConceptToken.load(fresh, file, replace=True).initial, theta)


def test_a_word_can_start_from_vectors_and_owns_its_copy(any_pipe):
    vectors = randn(3, width(any_pipe))
    token = ConceptToken(any_pipe, "<new>", vectors)
    vectors.zero_()
    assert torch.equal(token.initial, randn(3, width(any_pipe)))
    assert token.words == ["<new>", "<new>_1", "<new>_2"]


def test_two_words_live_side_by_side(any_pipe):
    one, two = ConceptToken(any_pipe, "<one>", "cat", 2), ConceptToken(any_pipe, "<two>", "teapot", 3)
    d = width(any_pipe)
    with torch.no_grad():
        two.write(randn(3, d, seed=5))
        told = one.encode(randn(2, 2, d), ["a <one> beside a <two>, <one>"])
        one.write(randn(2, 2, d)[1])
        states, _ = stock_states(any_pipe, "a <one> beside a <two>, <one>")
    torch.testing.assert_close(told.states[1, 0], states, rtol=1e-5, atol=1e-5)
    row = one.ids("a <one> beside a <two>, <one>")[0].tolist()
    assert [row.count(i) for i in one.token_ids[0] + two.token_ids[0]] == [2, 2, 1, 1, 1]


def test_the_table_may_wait_on_another_device(any_pipe):
    """The rest of the encoder is on meta, where nothing could be looked up."""
    token = ConceptToken(any_pipe, "<new>", "teapot")
    expected = token.encode(token.initial[None], ["a <new>"]).states
    for vocabulary in token.vocabularies:
        table = vocabulary.encoder.get_input_embeddings()
        vocabulary.encoder.set_input_embeddings(torch.nn.Embedding(1, 1))
        vocabulary.encoder.to("meta").set_input_embeddings(table)
    states = token.encode(token.initial[None].to("meta"), ["a <new>"]).states
    assert states.is_meta and states.shape == expected.shape and not token.vocabularies[0].table.is_meta


def test_words_find_their_vectors_after_others_are_gone(any_pipe):
    a, b, c = (ConceptToken(any_pipe, word, "cat") for word in ("<a>", "<b>", "<c>"))
    d = width(any_pipe)
    with torch.no_grad():
        c.write(randn(1, d, seed=7))
        before = stock_states(any_pipe, "a <c>")[0]
    for tokenizer, encoder in pairs(any_pipe):
        any_pipe.unload_textual_inversion("<a>", tokenizer, encoder)
    if not hasattr(any_pipe.tokenizer, "_tokenizer"):  # transformers 4: see `Vocabulary.vectors`
        with pytest.raises(ValueError, match="'<b>' has the id of another token"):
            b.write(b.initial)
        return
    with torch.no_grad():
        b.write(randn(1, d, seed=8))
        assert torch.equal(stock_states(any_pipe, "a <c>")[0], before)
        written = stock_states(any_pipe, "a <b>")[0]
        torch.testing.assert_close(b.encode(randn(1, 1, d, seed=8), ["a <b>"]).states[0, 0], written)
    unchanged = contents(any_pipe)
    for act in (lambda: a.write(a.initial), lambda: a.encode(a.initial[None], ["a <a>"]), lambda: a.token_ids):
        with pytest.raises(ValueError, match="'<a>' is no longer there"):
            act()
    assert same(unchanged, contents(any_pipe))


def test_a_run_whose_word_was_made_anew_with_other_vectors_says_so(pipe):
    objective = problem(pipe, 2)
    steps = invert(objective, Config(steps=3))
    next(steps)
    ConceptToken(pipe, "<new>", "cat", 3, replace=True)
    with pytest.raises(ValueError, match="'<new>' has 3 vectors now, not 2"):
        next(steps)


def test_a_word_of_half_its_vectors_is_not_read_as_whole(pipe):
    token = ConceptToken(pipe, "<new>", "teapot", 2)
    pipe.unload_textual_inversion("<new>")
    with pytest.raises(ValueError, match=r"'<new>' has 1 vectors now, not 2|'<new>_1' has the id of another token"):
        token.write(token.initial)


def test_a_word_with_the_id_of_another_token_is_not_written_over_it(pipe, monkeypatch):
    token = ConceptToken(pipe, "<new>", "teapot")
    before, added = contents(pipe), pipe.tokenizer.get_added_vocab()
    for counted_wrong in ({"<new>": 900}, {"<other>": added["<new>"]}):
        monkeypatch.setattr(pipe.tokenizer, "get_added_vocab", lambda told=added | counted_wrong: told)
        with pytest.raises(ValueError, match=r"'<new>' has the id of another token.*Load the pipeline anew"):
            token.write(token.initial + 1)
    monkeypatch.undo()
    assert same(before, contents(pipe))


def test_a_word_follows_its_pipeline_to_other_networks(pipe):
    token = ConceptToken(pipe, "<new>", "teapot")
    old, pipe.text_encoder = pipe.text_encoder, copy.deepcopy(pipe.text_encoder)
    before = old.get_input_embeddings().weight.clone()
    token.write(randn(1, 32))
    assert torch.equal(old.get_input_embeddings().weight, before)
    assert torch.equal(pipe.text_encoder.get_input_embeddings().weight[token.token_ids[0][0]], randn(32))


def test_vectors_of_a_wrong_shape_are_never_written_or_saved(any_pipe, tmp_path):
    token, d = ConceptToken(any_pipe, "<new>", "teapot", 2), width(any_pipe)
    before = contents(any_pipe)
    for shape in [(1, d), (2, d - 1), (d,), (1, 2, d)]:
        for act in (token.write, lambda theta: token.save(theta, tmp_path)):
            with pytest.raises(ValueError, match=rf"takes \(2, {d}\)"):
                act(torch.zeros(shape))
    for shape in [(2, d), (3, 1, d), (1, 3, 2, d)]:
        with pytest.raises(ValueError, match=rf"takes \(b, 2, {d}\)"):
            token.encode(torch.zeros(shape), ["a <new>"])
    assert same(before, contents(any_pipe))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("vectors", [1, 2])
def test_half_a_character_is_refused_by_every_door(any_pipe, vectors):
    token, half = ConceptToken(any_pipe, "<a>", "teapot", vectors), "\ud800"
    before = contents(any_pipe)
    for call in (
        lambda: ConceptToken(any_pipe, f"<{half}>", "cat", vectors),
        lambda: ConceptToken(any_pipe, "<b>", half),
        lambda: token.ids(f"{half} <a>"),
        lambda: token.encode(token.initial[None], [f"{half} <a>"]),
    ):
        with pytest.raises(ValueError, match="is no text that could be written"):
            call()
    assert same(before, contents(any_pipe))
