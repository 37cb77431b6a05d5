"""A word's files: those of others read, ours read by others, damaged ones refused with nothing changed."""

import errno
import os
import pickle
import re
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save, save_file

from tests.helpers import contents, pairs, problem, randn, same, stock_states, twin, width
from zoti import ConceptToken, Config, invert, load_pipeline
from zoti.files import read_tensors, write_tensors
from zoti.word import load_embeds, load_facts, save_embeds

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
        shapes = {
            k: (v.dtype, tuple(v.shape)) for k, v in load_file(token.save(token.initial, tmp_path / token.word)).items()
        }
        if len(pairs(any_pipe)) == 1:
            assert shapes == {f"<w{vectors}>": (torch.float32, (vectors, 32))}
        else:
            assert shapes == {"clip_l": (torch.float32, (vectors, 32)), "clip_g": (torch.float32, (vectors, 48))}


FORMS = {
    "diffusers, one vector": ({"<cat-toy>": randn(32)}, "<cat-toy>", 1),
    "diffusers, three": ({"<cat-toy>": randn(3, 32)}, "<cat-toy>", 3),
    "kohya": ({"emb_params": randn(2, 32)}, "<my-file>", 2),
    "kohya, half": ({"emb_params": randn(2, 32).half()}, "<my-file>", 2),
    "AUTOMATIC1111, converted": ({"*": randn(1, 32).bfloat16()}, "<my-file>", 1),
    "capitals": ({"EasyNegative": randn(1, 32)}, "<easynegative>", 1),
    "beside a step count": ({"emb_params": randn(2, 32), "step": torch.tensor(500)}, "<my-file>", 2),
    "beside two numbers": (
        {"<cat-toy>": randn(32), "step": torch.tensor([500]), "loss": torch.ones(1)},
        "<cat-toy>",
        1,
    ),
    "AUTOMATIC1111, flattened": ({"string_to_param.*": randn(2, 32), "step": torch.ones(1)}, "<my-file>", 2),
    "one encoder by its name": ({"clip_l": randn(1, 32)}, "<my-file>", 1),
    "bundled with a LoRA": ({"bundle_emb.v.1 pot.emb_params": randn(2, 32), "lora_up": randn(2, 2)}, "<v.1-pot>", 2),
    "bundled, AUTOMATIC1111": ({"bundle_emb.pot7.string_to_param.*": randn(1, 32)}, "<pot7>", 1),
}


@pytest.mark.parametrize("form", FORMS)
def test_files_of_others_load(pipe, form, tmp_path):
    tensors, word, vectors = FORMS[form]
    save_file(tensors, tmp_path / "My file.safetensors")
    token = ConceptToken.load(pipe, tmp_path / "My file.safetensors")
    vector = max(tensors.values(), key=torch.Tensor.numel)
    assert token.word == word
    assert torch.equal(token.initial, vector.float().reshape(vectors, 32))
    row = pipe.text_encoder.get_input_embeddings().weight[token.token_ids[0][-1]]
    assert torch.equal(row, token.initial[-1])


@pytest.mark.parametrize(
    "keys",
    [
        ("clip_l", "clip_g"),
        ("text_encoders_0", "text_encoders_1"),
        ("bundle_emb.teddy.clip_l", "bundle_emb.teddy.clip_g"),
    ],
)
@pytest.mark.parametrize("more", [{}, {"step": torch.tensor(3)}])
def test_sdxls_words_in_one_file_load_under_its_name(xl, tmp_path, keys, more):
    save_file({keys[1]: randn(2, 48), keys[0]: randn(2, 32, seed=1), **more}, tmp_path / "teddy.safetensors")
    token = ConceptToken.load(xl, tmp_path / "teddy.safetensors")
    assert token.words == ["<teddy>", "<teddy>_1"]
    assert torch.equal(token.initial, torch.cat([randn(2, 32, seed=1), randn(2, 48)], 1))


@pytest.mark.parametrize("when", ["", "-steps-500"])
def test_diffusers_sdxl_words_in_two_files_load(xl, tmp_path, when):
    save_file({"<toy>": randn(32, seed=1)}, tmp_path / f"learned_embeds{when}.safetensors")
    save_file({"<toy>": randn(48)}, tmp_path / f"learned_embeds_2{when}.safetensors")
    token = ConceptToken.load(xl, tmp_path / f"learned_embeds{when}.safetensors" if when else tmp_path)
    assert token.words == ["<toy>"]
    assert torch.equal(token.initial, torch.cat([randn(1, 32, seed=1), randn(1, 48)], 1))
    save_file({"<owl>": randn(48)}, tmp_path / f"learned_embeds_2{when}.safetensors")
    with pytest.raises(ValueError, match="hold '<toy>' and '<owl>'"):
        load_embeds(tmp_path / f"learned_embeds{when}.safetensors")


BAD = {
    "several words": {"<a>": randn(32), "<b>": randn(32)},
    "no word": {},
    "vectors of 33 numbers, this model's words have 32": {"<a>": randn(3, 33)},
    "32 + 48 numbers": {"clip_l": randn(1, 32), "clip_g": randn(1, 48)},
    "both encoders need as many": {"clip_l": randn(1, 32), "clip_g": randn(2, 48)},
    "no word's vectors: torch.float32": {"<a>": randn(1, 1, 32)},
    "int64": {"<a>": torch.zeros(1, 32, dtype=torch.int64)},
    "not finite": {"<a>": torch.full((1, 32), float("nan"))},
    "(0, 32)": {"<a>": torch.zeros(0, 32)},
    "several words (clip_l, t5xxl), or what is no word; zoti reads words of Stable Diffusion and SDXL": {
        "clip_l": randn(1, 32),
        "t5xxl": randn(1, 64),
    },
    "several words (clip_g_out, clip_l_out), or what is no word": {"clip_l_out": randn(32), "clip_g_out": randn(48)},
    "several words (a, b)": {"bundle_emb.a.emb_params": randn(32), "bundle_emb.b.emb_params": randn(32)},
    "several words (0, 1, 10, 11, ...)": {str(i): randn(32) for i in range(30)},
    "'<old>' is already in the vocabulary; say replace=True": {"<old>": randn(32)},
    "overlaps '<old>'": {"[<old>]": randn(32)},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_files_leave_the_pipeline_as_it_was(pipe, message, tmp_path):
    ConceptToken(pipe, "<old>", "teapot", 2)
    before, path = contents(pipe), tmp_path / "a.safetensors"
    save_file(BAD[message], path)
    with pytest.raises(ValueError, match=re.escape(message)):
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


def old_parameters(vectors: torch.Tensor) -> torch.nn.ParameterDict:
    """As torch 1 pickled it: without the list of its keys."""
    made = torch.nn.ParameterDict({"*": torch.nn.Parameter(vectors)})
    del made.__dict__["_keys"]
    return made


PICKLED = {
    "diffusers": lambda v: {"<a>": v},
    "diffusers, a step count": lambda v: {"<a>": v, "step": 500},
    "AUTOMATIC1111": lambda v: {"string_to_token": {"*": 265}, "string_to_param": {"*": v}, "name": "a", "step": 9},
    "the first": lambda v: {"string_to_param": torch.nn.ParameterDict({"*": torch.nn.Parameter(v)}), "name": "a"},
    "the first, of torch 1": lambda v: {
        "string_to_token": {"*": torch.tensor(265)},
        "string_to_param": old_parameters(v),
    },
    "a view": lambda v: {"<a>": v.T.contiguous().T},
}


@pytest.mark.parametrize("name", ["a.pt", "learned_embeds.bin", "it's.ckpt"])
@pytest.mark.parametrize("form", PICKLED)
def test_a_pickle_is_refused_with_words_that_convert_it(pipe, form, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(PICKLED[form](randn(2, 32).requires_grad_()), name)
    given = "." if name.startswith("learned") else name  # a folder of the concepts library
    with pytest.raises(ValueError, match=f"{name} is a pickle") as refusal:
        ConceptToken.load(pipe, given)
    before = set(torch.serialization.get_safe_globals())
    exec(str(refusal.value).split("convert it: ")[1], {})
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(list(before))
    converted = "." if name.startswith("learned") else f"{name.split('.')[0]}.safetensors"
    assert torch.equal(ConceptToken.load(pipe, converted, word="<a>").initial, randn(2, 32))


def test_a_folder_without_a_word_says_what_is_in_it(pipe, tmp_path):
    save_file({"<a>": randn(32)}, tmp_path / "learned_embeds-steps-500.safetensors")
    with pytest.raises(
        FileNotFoundError, match=r"no file learned_embeds.safetensors in .*but learned_embeds-steps-500.safe"
    ):
        ConceptToken.load(pipe, tmp_path)
    for name in ("learned_embeds.bin", "learned_embeds_2.bin"):
        torch.save({"<a>": randn(32)}, tmp_path / name)
    with pytest.raises(ValueError, match=r"learned_embeds.bin and .*learned_embeds_2.bin is a pickle") as refusal:
        ConceptToken.load(pipe, tmp_path)
    exec(str(refusal.value).split("convert it: ")[1], {})
    assert [part.shape for part in load_embeds(tmp_path)[1]] == [(1, 32), (1, 32)]


def test_safetensors_by_another_name_load(pipe, tmp_path):
    """As some trainers call them."""
    for name in ("embeddings.pti", "a.pt"):
        save_file({"<a>": randn(32)}, tmp_path / name)
        assert load_embeds(tmp_path / name)[0] == "<a>"


def test_a_second_word_never_replaces_the_first_unsaid(any_pipe, tmp_path):
    one, two = (ConceptToken(any_pipe, word, "teapot") for word in ("<a>", "<b>"))
    path = one.save(one.initial, tmp_path)
    assert one.save(2 * one.initial, tmp_path) == path  # learned once more
    good = path.read_bytes()
    with pytest.raises(ValueError, match="holds '<a>'; save '<b>' to another folder"):
        two.save(two.initial, tmp_path)
    other = twin(any_pipe)
    other.text_encoder.get_input_embeddings().weight.data.mul_(2)
    again = ConceptToken(other, "<a>", "teapot")
    with pytest.raises(ValueError, match=r"holds '<a>', learned on .*Pipeline; save '<a>' to another folder"):
        again.save(again.initial, tmp_path)
    assert path.read_bytes() == good


def test_nothing_else_is_replaced_by_a_word(pipe, tmp_path):
    token, path = ConceptToken(pipe, "<a>", "teapot"), tmp_path / "learned_embeds.safetensors"
    others = [{"<a>": randn(1, 32)}, {"emb_params": randn(32)}, {"<a>": randn(32), "<b>": randn(32)}]
    for written in [*map(save, others), b"", b"a diary"]:
        path.write_bytes(written)
        with pytest.raises(ValueError, match=r"to another folder"):
            token.save(token.initial, tmp_path)
        assert path.read_bytes() == written
    path.unlink()
    list(invert(problem(twin(pipe)), Config(steps=1), checkpoint=path))
    written, new = path.read_bytes(), ConceptToken(pipe, "<new>", "teapot")
    with pytest.raises(ValueError, match="is the checkpoint of a run; save '<new>' to another folder"):
        new.save(new.initial, tmp_path)
    assert path.read_bytes() == written
    with pytest.raises(OSError, match="cannot be written: a file stands where a folder should"):
        token.save(token.initial, path)


def test_a_runs_checkpoint_holds_its_word(any_pipe, tmp_path):
    path = tmp_path / "run.safetensors"
    last = list(invert(problem(any_pipe, 2), Config(steps=2), checkpoint=path))[-1]
    token = ConceptToken.load(twin(any_pipe), path)
    assert token.words == ["<new>", "<new>_1"]
    assert torch.equal(token.initial, last.theta)
    assert load_facts(path)["word"] == "<new>"
    tensors, facts = read_tensors(path)
    for broken in ({}, {"theta": tensors["theta"][0]}, {"theta": tensors["theta"][:, 1:]}):
        write_tensors(path, broken, facts)
        with pytest.raises(ValueError, match="a checkpoint of another version"):
            load_embeds(path)
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(ValueError, match="is damaged"):
        load_embeds(path)


def test_a_word_of_another_model_is_told_from_the_models_own(any_pipe, tmp_path):
    token, path = ConceptToken(any_pipe, "<a>", "teapot"), tmp_path / "run.safetensors"
    word = token.save(token.initial, tmp_path / "w")
    list(invert(problem(any_pipe), Config(steps=1), checkpoint=path))
    for own in (twin(any_pipe), twin(any_pipe).to(torch.float16)):
        ConceptToken(own, "<else>", "cat")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert torch.equal(ConceptToken.load(own, word, strict=True).initial, token.initial)
            ConceptToken.load(own, path)
    other = twin(any_pipe)
    tokenizer, encoder = pairs(other)[-1]
    encoder.get_input_embeddings().weight.data[tokenizer("cat").input_ids[1], 0] += 1
    before = contents(other)
    both = (
        f"was learned on {re.escape(repr(type(any_pipe).__name__))} .*, this pipeline is '{type(any_pipe).__name__}' "
    )
    for refused, options in ((word, {"strict": True}), (path, {})):
        with pytest.raises(ValueError, match=both):
            ConceptToken.load(other, refused, **options)
    assert same(before, contents(other))
    with pytest.warns(UserWarning, match=both) as warned:
        ConceptToken.load(other, word)
    assert warned[0].filename == __file__
    save_file({"<others>": randn(32)}, tmp_path / "others.safetensors")
    if len(pairs(other)) == 1:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ConceptToken.load(other, tmp_path / "others.safetensors", strict=True)  # it does not say, so nobody knows


def test_a_file_names_its_model_but_not_where_somebody_keeps_it(tmp_path):
    token = ConceptToken(load_pipeline(), "<a>", "teapot")
    facts = load_facts(token.save(token.initial, tmp_path))
    assert facts["model"] == "tiny-sd"
    assert facts["table"] == token.vocabularies[0].fingerprint
    assert token.save(token.initial, tmp_path).stat().st_size < 4 * token.initial.numel() + 500


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

    def disk_full(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(OSError, match="cannot be written: the disk is full"):
        save_embeds(path, "<a>", [torch.zeros(1, 4)])
    assert load_embeds(path)[1][0].equal(torch.ones(1, 4))
