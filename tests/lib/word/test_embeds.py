"""A word's files: those of others read, ours read by others, damaged ones refused with nothing changed."""

import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save, save_file

from tests.helpers import contents, pairs, randn, same, stock_states, twin, width
from zoti import ConceptToken
from zoti.word import embeds, load_embeds, save_embeds

PROMPTS = ["a <new> at night", "a red <new>, a <new>"]


@pytest.mark.parametrize("vectors", [1, 3])
def test_stock_diffusers_loads_a_saved_word_and_encodes_it_identically(any_pipe, vectors, tmp_path):
    token = ConceptToken(any_pipe, "<new>", "teapot", vectors)
    theta = randn(vectors, width(any_pipe))
    token.write(theta)
    file, stock = token.save(theta, tmp_path), twin(any_pipe)
    if len(pairs(any_pipe)) == 1:
        stock.load_textual_inversion(str(tmp_path))
    else:
        parts = load_file(file)
        for key, (tokenizer, encoder) in zip(["clip_l", "clip_g"], pairs(stock), strict=True):
            stock.load_textual_inversion(parts[key], token="<new>", tokenizer=tokenizer, text_encoder=encoder)
    with torch.no_grad():
        for prompt in PROMPTS:
            ours, theirs = stock_states(any_pipe, prompt), stock_states(stock, prompt)
            assert torch.equal(ours[0], theirs[0])
            assert ours[1] is None or torch.equal(ours[1], theirs[1])


def test_what_is_written_has_the_keys_and_shapes_that_web_uis_look_for(any_pipe, tmp_path):
    for vectors in (1, 2):
        token = ConceptToken(any_pipe, f"<w{vectors}>", "teapot", vectors)
        shapes = {k: (v.dtype, tuple(v.shape)) for k, v in load_file(token.save(token.initial, tmp_path)).items()}
        if len(pairs(any_pipe)) == 1:
            assert shapes == {f"<w{vectors}>": (torch.float32, (vectors, 32))}
        else:
            assert shapes == {"clip_l": (torch.float32, (vectors, 32)), "clip_g": (torch.float32, (vectors, 48))}


FORMS = {
    "diffusers, one vector": ({"<cat-toy>": randn(32)}, "<cat-toy>", 1),
    "diffusers, three": ({"<cat-toy>": randn(3, 32)}, "<cat-toy>", 3),
    "kohya": ({"emb_params": randn(2, 32)}, "my-file", 2),
    "kohya, half": ({"emb_params": randn(2, 32).half()}, "my-file", 2),
    "AUTOMATIC1111, converted": ({"*": randn(1, 32).bfloat16()}, "my-file", 1),
    "capitals": ({"EasyNegative": randn(1, 32)}, "easynegative", 1),
}


@pytest.mark.parametrize("form", FORMS)
def test_files_of_others_load(pipe, form, tmp_path):
    tensors, word, vectors = FORMS[form]
    save_file(tensors, tmp_path / "My file.safetensors")
    token = ConceptToken.load(pipe, tmp_path / "My file.safetensors")
    (vector,) = tensors.values()
    assert token.word == word
    assert torch.equal(token.initial, vector.float().reshape(vectors, 32))
    row = pipe.text_encoder.get_input_embeddings().weight[token.token_ids[0][-1]]
    assert torch.equal(row, token.initial[-1])


def test_kohyas_sdxl_file_loads_under_its_files_name(xl, tmp_path):
    save_file({"clip_g": randn(2, 48), "clip_l": randn(2, 32, seed=1)}, tmp_path / "teddy.safetensors")
    token = ConceptToken.load(xl, tmp_path / "teddy.safetensors")
    assert token.words == ["teddy", "teddy_1"]
    assert torch.equal(token.initial, torch.cat([randn(2, 32, seed=1), randn(2, 48)], 1))


BAD = {
    "several words": {"<a>": randn(32), "<b>": randn(32)},
    "no word": {},
    "vectors of 33 numbers, this model's words have 32": {"<a>": randn(3, 33)},
    r"32 \+ 48 numbers": {"clip_l": randn(1, 32), "clip_g": randn(1, 48)},
    "both encoders need as many": {"clip_l": randn(1, 32), "clip_g": randn(2, 48)},
    "no word's vectors: torch.float32": {"<a>": randn(1, 1, 32)},
    "int64": {"<a>": torch.zeros(1, 32, dtype=torch.int64)},
    "not finite": {"<a>": torch.full((1, 32), float("nan"))},
    r"\(0, 32\)": {"<a>": torch.zeros(0, 32)},
    "'night' is already in the vocabulary": {"night": randn(32)},
    "'<old>_1' is already": {"<old>_1": randn(32)},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_files_leave_the_pipeline_as_it_was(pipe, message, tmp_path):
    ConceptToken(pipe, "<old>", "teapot", 2)
    before, path = contents(pipe), tmp_path / "a.safetensors"
    save_file(BAD[message], path)
    with pytest.raises(ValueError, match=message):
        ConceptToken.load(pipe, path)
    assert same(before, contents(pipe))


def test_sdxl_takes_no_half_word(xl, tmp_path):
    before, path = contents(xl), tmp_path / "a.safetensors"
    for tensors in ({"<a>": randn(32)}, {"clip_g": randn(1, 48)}, {"clip_l": randn(1, 48), "clip_g": randn(1, 32)}):
        save_file(tensors, path)
        with pytest.raises(ValueError, match=r"this model's words have 32 \+ 48"):
            ConceptToken.load(xl, path)
    assert same(before, contents(xl))


def test_missing_damaged_and_pickled_files_are_refused(pipe, tmp_path):
    before, path = contents(pipe), tmp_path / "a.safetensors"
    for absent in (path, tmp_path):
        with pytest.raises(FileNotFoundError, match="no file"):
            ConceptToken.load(pipe, absent)
    save_file({"<a>": randn(32)}, path)
    good = path.read_bytes()
    for damaged in (good[:-7], good[:20], b"", b"<html>not found</html>", pickle.dumps({"<a>": 1})):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="not a readable safetensors file"):
            ConceptToken.load(pipe, path)
    assert same(before, contents(pipe))


@pytest.mark.parametrize("wrap", [lambda v: {"<a>": v}, lambda v: {"string_to_param": {"*": v}, "name": "a"}])
def test_a_pickle_is_refused_with_words_that_convert_it(pipe, wrap, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(wrap(randn(2, 32).requires_grad_()), "a.pt")
    with pytest.raises(ValueError, match="is a pickle") as refusal:
        ConceptToken.load(pipe, "a.pt")
    program = str(refusal.value).split("convert it: ")[1].replace("path", "'a.pt'")
    exec(f"import torch, safetensors.torch; {program}", {})
    assert torch.equal(ConceptToken.load(pipe, "a.safetensors", word="<a>").initial, randn(2, 32))


GOOD = save({"clip_l": randn(1, 4), "clip_g": randn(1, 6)}, metadata={"word": "<new>"})


@pytest.mark.slow
@settings(max_examples=1000)
@given(at=st.integers(0, len(GOOD) - 1), byte=st.integers(0, 255), cut=st.none() | st.integers(0, len(GOOD)))
def test_any_damage_to_a_file_ends_in_vectors_or_a_clear_error(tmp_path_factory, at, byte, cut):
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    path.write_bytes((GOOD[:at] + bytes([byte]) + GOOD[at + 1 :])[:cut])
    try:
        word, parts = load_embeds(path)
    except ValueError as error:
        assert "damaged.safetensors" in str(error)
        return
    assert word
    assert all(part.ndim == 2 and part.dtype == torch.float32 and part.isfinite().all() for part in parts)


def test_a_saved_word_outlives_a_save_that_fails(tmp_path, monkeypatch):
    path = save_embeds(tmp_path / "a.safetensors", "<a>", [torch.ones(1, 4)])
    with pytest.raises(ValueError, match="not finite; save those of an earlier step"):
        save_embeds(path, "<a>", [torch.full((1, 4), torch.nan)])

    def disk_full(tensors, file, metadata):
        Path(file).write_bytes(b"half a file")
        raise OSError("no space left on device")

    monkeypatch.setattr(embeds, "save_file", disk_full)
    with pytest.raises(OSError, match="no space"):
        save_embeds(path, "<a>", [torch.zeros(1, 4)])
    assert load_embeds(path)[1][0].equal(torch.ones(1, 4))
