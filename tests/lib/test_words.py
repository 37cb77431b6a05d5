"""Words and their files: one encoder and two, in and out of a pipeline, and what is refused with nothing changed."""

import copy
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save, save_file

from tests.conftest import random_pipeline, random_xl_pipeline
from tests.lib.test_invert import generator, noise_images
from zoti import (
    PRESETS,
    ConceptToken,
    Config,
    DenoisingLoss,
    PartialUniform,
    cache_latents,
    embeds,
    footprint,
    invert,
    load_pipeline,
)
from zoti.baselines import textual_inversion
from zoti.embeds import load_embeds, save_embeds

PROMPTS = ["a <new> at night", "a red <new>, a <new>"]
KINDS = {"one encoder": random_pipeline, "two encoders": random_xl_pipeline}


@pytest.fixture(params=KINDS)
def any_pipe(request):
    return KINDS[request.param]()


def pairs(pipe) -> list:
    found = [(pipe.tokenizer, pipe.text_encoder)]
    return [*found, (pipe.tokenizer_2, pipe.text_encoder_2)] if hasattr(pipe, "text_encoder_2") else found


def twin(pipe):
    return random_xl_pipeline() if hasattr(pipe, "text_encoder_2") else random_pipeline()


def width(pipe) -> int:
    return sum(encoder.config.hidden_size for _, encoder in pairs(pipe))


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=generator(seed))


def contents(pipe) -> list:
    """Everything that adding a word changes."""
    return [
        (dict(t.get_vocab()), len(t), e.config.vocab_size, e.get_input_embeddings().weight.clone())
        for t, e in pairs(pipe)
    ]


def same(before: list, after: list) -> bool:
    return all(a[:3] == b[:3] and torch.equal(a[3], b[3]) for a, b in zip(before, after, strict=True))


def stock_states(pipe, prompt: str) -> tuple:
    """What the pipeline itself would tell its U-Net: text states (L, width) and, from SDXL, pooled (projection,)."""
    if hasattr(pipe, "text_encoder_2"):
        states, _, pooled, _ = pipe.encode_prompt(prompt, device="cpu", do_classifier_free_guidance=False)
        return states[0], pooled[0]
    return pipe.encode_prompt(prompt, "cpu", 1, False)[0][0], None


def problem(pipe, vectors: int = 1) -> DenoisingLoss:
    token = ConceptToken(pipe, "<new>", "teapot", vectors)
    return DenoisingLoss(pipe, token, cache_latents(pipe, noise_images()), ["a {} at night"], PartialUniform(300, 900))


# SDXL's two encoders


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


def test_sdxl_loss_is_the_definition(xl):
    objective = problem(xl, 2)
    theta, draw = randn(5, 2, 80, seed=1), objective.draw(generator(2))
    with torch.no_grad():
        losses = objective(theta, draw)
        objective.max_batch = 2
        torch.testing.assert_close(objective(theta, draw), losses, rtol=1e-5, atol=1e-7)
        objective.token.write(theta[3])
        alpha = xl.scheduler.alphas_cumprod[draw.t]
        z_t = alpha.sqrt() * draw.z + (1 - alpha).sqrt() * draw.noise
        states, pooled = stock_states(xl, "a <new> at night")
        added = {"text_embeds": pooled[None], "time_ids": torch.tensor([[16.0, 16, 0, 0, 16, 16]])}
        predicted = xl.unet(z_t, draw.t, states[None], added_cond_kwargs=added).sample
    torch.testing.assert_close(losses[3], (predicted - draw.noise).square().mean(), rtol=1e-5, atol=1e-6)


def test_both_parts_of_an_sdxl_word_have_a_gradient(xl):
    objective = problem(xl)
    theta = objective.token.initial.clone().requires_grad_()
    objective(theta[None], objective.draw(generator()))[0].backward()
    assert all(part.abs().max() > 0 for part in theta.grad.split([32, 48], 1))
    assert len(list(textual_inversion(objective, steps=2))) == 2


def test_invert_runs_on_sdxl_and_resumes_to_the_same_bits(xl, tmp_path):
    config, path = Config(steps=6), tmp_path / "run.safetensors"
    whole = list(invert(problem(xl, 2), config))
    assert whole[-1].theta.shape == (2, 80)
    moved = (whole[-1].theta - problem(random_xl_pipeline(), 2).token.initial).abs()
    assert all(part.max() > 0 for part in moved.split([32, 48], 1))
    run = invert(problem(random_xl_pipeline(), 2), config, checkpoint=path, every=2)
    for _ in range(3):
        next(run)
    rest = list(invert(problem(random_xl_pipeline(), 2), config, checkpoint=path))
    assert rest[0].index == 3
    assert torch.equal(rest[-1].theta, whole[-1].theta)


@pytest.mark.parametrize("weights", ["int8", "none"])
def test_a_folder_of_sdxl_loads_with_all_its_parts_quantized(xl, tmp_path, weights):
    xl.save_pretrained(tmp_path)
    loaded = load_pipeline(tmp_path, weights)
    for module in (loaded.unet, loaded.vae, loaded.text_encoder, loaded.text_encoder_2):
        assert (footprint(module).get("int8", 0) > 0) == (weights == "int8")
        assert not module.training
        assert not any(p.requires_grad for p in module.parameters())
    token = ConceptToken(loaded, "<new>", "teapot")
    assert len(loaded("a <new>", num_inference_steps=1, guidance_scale=2.0).images) == 1
    objective = DenoisingLoss(loaded, token, cache_latents(loaded, noise_images()), ["a {}"], PartialUniform(700, 900))
    assert next(invert(objective, Config(mu=1e-2))).loss > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU computes in half precision")
@pytest.mark.parametrize("weights", ["int8", "none"])
def test_what_is_stored_in_half_precision_computes_in_full_on_a_cpu(any_pipe, tmp_path, weights):
    any_pipe.to(torch.float16).save_pretrained(tmp_path)
    loaded = load_pipeline(tmp_path, weights)
    networks = [loaded.unet, loaded.vae, *(encoder for _, encoder in pairs(loaded))]
    assert {p.dtype for network in networks for p in network.parameters()} == {torch.float32}


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="Linux lists what is mapped there")
def test_once_quantized_no_file_of_full_weights_stays_in_memory(xl, tmp_path):
    xl.save_pretrained(tmp_path)
    loaded, maps = load_pipeline(tmp_path), Path("/proc/self/maps").read_text()
    assert loaded.unet.conv_in.kind == "int8"
    assert str(tmp_path) not in maps


def test_an_sdxl_pipeline_in_half_precision_encodes_pictures_in_full_and_paints(xl, tmp_path):
    xl.save_pretrained(tmp_path)
    half = load_pipeline(tmp_path).to(torch.float16)
    latents = cache_latents(half, noise_images())
    assert half.vae.dtype == torch.float16
    assert half("a teapot", num_inference_steps=1, guidance_scale=2.0).images[0].size == (16, 16)
    half.vae.to(torch.float32)  # fp16's weights in fp32: what the VAE should have computed with
    assert torch.equal(latents.mean, cache_latents(half, noise_images()).mean)


def test_the_presets_are_the_papers():
    told = {name: (p.mu, p.lr, p.low, p.high, p.steps) for name, p in PRESETS.items()}
    assert told["sd1.5"] == (1e-3, 5e-3, 500, 900, 30_000)
    assert told["sd2.1"] == (1e-2, 1e-2, 500, 900, 30_000)
    assert told["sdxl"] == (1e-2, 5e-3, 700, 900, 20_000)


def test_a_path_without_a_pipeline_in_safetensors_is_refused(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "pickles", safe_serialization=False)
    pipe.save_pretrained(tmp_path / "cut")
    (tmp_path / "cut" / "text_encoder" / "model.safetensors").write_bytes(b"cut")
    for path in (tmp_path, tmp_path / "pickles", tmp_path / "cut", "no such model!", ""):
        with pytest.raises(ValueError, match=r"no diffusers pipeline .* give one of tiny-sd, .*sdxl, a folder"):
            load_pipeline(path)


def test_pipelines_of_another_kind_are_refused(pipe, tmp_path):
    from diffusers import StableDiffusionImg2ImgPipeline

    StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is a StableDiffusionImg2ImgPipeline"):
        load_pipeline(tmp_path)


# files


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


# adding a word


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
