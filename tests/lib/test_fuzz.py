"""Odd inputs: each ends in a result or in an error that zoti raised itself and that says what to do.

The examples are the same in every run (derandomised), so that a failure is one to mend and not one to run again.
ZOTI_FUZZ=5000 asks for so many in all, instead of some 1,600.
"""

import copy
import errno
import io
import os
import pickle
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save

import zoti
from tests.helpers import generator, noise_images, problem, random_pipeline
from zoti import (
    ZOSGD,
    AuthorsZOAdam,
    ConceptToken,
    Config,
    DenoisingLoss,
    Guided,
    PartialUniform,
    RandomSubspace,
    SNRWeighted,
    Stratified,
    SubspaceGradient,
    Uniform,
    ZOAdam,
    cache_latents,
    guided,
    invert,
    load_images,
    one_point,
    quantize_,
    rge,
    spsa,
)
from zoti.images import CROPS, shown
from zoti.word import tidy

CLEAR = (ValueError, FileNotFoundError, FloatingPointError)
#: How many inputs are tried, of the 1,600 that the numbers below add up to.
INPUTS = int(os.environ.get("ZOTI_FUZZ", "1600"))
usual, near = st.sampled_from([1e-3, 5e-3, 0.5]), st.integers(2, 4)
numbers = usual | usual | usual | usual | st.floats()  # mostly fit, or nothing would get past the first check
counts = near | near | near | near | st.integers(-2, 6)
wholes = st.integers(-(2**70), 2**70) | counts


def fuzz(examples: int):
    return settings(
        max_examples=max(1, examples * INPUTS // 1600),
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        database=None,
    )


@contextmanager
def a_result_or_a_clear_error() -> Iterator[None]:
    try:
        yield
    except CLEAR as error:
        raiser = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        assert Path(zoti.__file__).parent in raiser.parents, f"{raiser} raised this, zoti only let it pass: {error!r}"
        assert len(str(error).split()) > 5, f"says too little: {error!r}"


@pytest.fixture(scope="module")
def objective() -> Iterator[DenoisingLoss]:
    """One small problem for all; whatever was tried, its weights and vocabulary are what they were."""
    made = problem(random_pipeline())
    networks = (made.pipe.unet, made.pipe.vae, made.pipe.text_encoder)
    before, words = copy.deepcopy([n.state_dict() for n in networks]), len(made.pipe.tokenizer)
    yield made
    for network, weights in zip(networks, before, strict=True):
        assert all(torch.equal(tensor, weights[name]) for name, tensor in network.state_dict().items())
    assert len(made.pipe.tokenizer) == words


@st.composite
def configs(draw) -> Config:
    estimator = draw(st.sampled_from([rge, spsa, one_point, None])) or Guided(draw(counts), draw(numbers))
    optimizer = draw(st.sampled_from([ZOSGD, ZOAdam, ZOAdam, AuthorsZOAdam]))(draw(numbers))
    tau, nu, keep = draw(counts), draw(numbers), draw(st.none() | counts)
    subspace = draw(st.sampled_from([SubspaceGradient, RandomSubspace]))(tau, nu, draw(st.booleans()), keep)
    return Config(
        *(draw(counts), draw(counts), draw(numbers), draw(counts)),
        estimator=estimator,
        directions=draw(st.sampled_from(["gaussian", "gaussian", "rademacher", "orthogonal", "up"])),
        optimizer=optimizer,
        subspace=draw(st.sampled_from([subspace, None])),
        seed=draw(counts | counts | wholes),
    )


@fuzz(160)
@given(data=st.data())
def test_configs_of_any_numbers(objective, data):
    with a_result_or_a_clear_error():
        config = data.draw(configs())
        for step in invert(objective, config, every=data.draw(counts)):
            assert torch.isfinite(step.theta).all()


@fuzz(40)
@given(data=st.data(), lr=st.floats(1e-6, 1e30), mu=st.floats(1e-30, 1e30), tau=st.integers(2, 4), n=near, batch=near)
def test_configs_that_can_be_but_hardly_should(objective, data, lr, mu, tau, n, batch):
    estimator = data.draw(st.sampled_from([rge, spsa, one_point, Guided(2)]))
    optimizer = data.draw(st.sampled_from([ZOSGD(lr), ZOAdam(lr), AuthorsZOAdam(lr, n=n)]))
    subspace = data.draw(st.sampled_from([SubspaceGradient(tau), RandomSubspace(tau), None]))
    with a_result_or_a_clear_error():
        for step in invert(objective, Config(5, n, mu, batch, estimator, optimizer=optimizer, subspace=subspace)):
            assert torch.isfinite(step.theta).all()


shapes = st.just([1, 4]) | st.just([1, 4]) | st.lists(st.integers(0, 5), max_size=4)


@fuzz(120)
@given(
    shape=shapes,
    n=counts,
    mu=numbers,
    alpha=numbers,
    kind=st.text(max_size=3),
    past=shapes | st.just([3, 1, 4]),
    out=st.integers(0, 5),
)
def test_estimators_of_any_numbers(shape, n, mu, alpha, kind, past, out):
    losses = [lambda t: t, lambda t: t.sum(), lambda t: t.flatten(1).sum(1)[1:]]
    losses += [lambda t: t.flatten(1).square().sum(1)] * 3
    theta = torch.ones(shape)
    for estimator in (rge, spsa, one_point):
        for directions in ("gaussian", "orthogonal", kind):
            with a_result_or_a_clear_error():
                estimator(losses[out], theta, n, mu, generator=generator(), directions=directions)
    with a_result_or_a_clear_error():
        guided(losses[out], theta, n, mu, generator=generator(), history=torch.ones(past), alpha=alpha)


@fuzz(60)
@given(lr=numbers, beta1=numbers, beta2=numbers, eps=numbers, n=counts, scale=numbers)
def test_optimizers_of_any_numbers(lr, beta1, beta2, eps, n, scale):
    for make in (lambda: ZOSGD(lr), lambda: ZOAdam(lr, beta1, beta2, eps), lambda: AuthorsZOAdam(lr, n=n)):
        with a_result_or_a_clear_error():
            optimizer, theta = make(), torch.ones(1, 4)
            state = optimizer.init(theta)
            for _ in range(3):
                theta, state = optimizer.update(scale * torch.arange(4.0)[None], theta, state)
            assert theta.shape == (1, 4)


@fuzz(80)
@given(
    tau=counts,
    nu=numbers,
    keep=st.none() | counts,
    standardise=st.booleans(),
    seed=wholes,
    path=st.lists(st.lists(st.floats(width=32), min_size=3, max_size=3), max_size=12),
)
def test_subspaces_of_any_numbers_on_any_path(tau, nu, keep, standardise, seed, path):
    for make in (
        lambda: SubspaceGradient(tau, nu, standardise, keep),
        lambda: RandomSubspace(tau, nu, standardise, keep, seed),
    ):
        with a_result_or_a_clear_error():
            subspace = make()
            state = subspace.init(torch.ones(1, 3))
            for theta in path:
                state = subspace.observe(torch.tensor([theta]), state)
            grad, share = subspace.project(torch.ones(1, 3), state)
            assert grad.shape == (1, 3)
            assert -1e-6 <= share <= 1 + 1e-6


@fuzz(80)
@given(low=wholes, high=wholes, total=st.integers(-1, 1000), n=counts, alphas=st.lists(numbers, max_size=5))
def test_timesteps_of_any_numbers(low, high, total, n, alphas):
    for make in (
        lambda: PartialUniform(low, high, total),
        lambda: PartialUniform(low % 20, high % 20, total),
        lambda: Uniform(total),
        lambda: SNRWeighted(torch.tensor(alphas)),
        lambda: SNRWeighted(torch.tensor(sorted(alphas, reverse=True))),
    ):
        with a_result_or_a_clear_error():
            sampler = make()
            assert torch.isfinite(sampler.probabilities).all()
            for sample in (sampler.sample, Stratified(sampler).sample):
                t = sample(n, generator())
                assert t.shape == (n,)
                assert (sampler.probabilities[t] > 0).all()


odd = ["<new>", "teapot", "a {} {}", "{}", "<cat> <cat>", "{0}", "</w>", "a \x00 {}", "\ud800 {}"]
text = st.text(max_size=12) | st.sampled_from(odd)
captions_that_fit = st.lists(text.map("a {} ".__add__), min_size=3, max_size=3)


@fuzz(120)
@given(
    word=text | st.just("<mine>") | st.just("sks"),
    initializer=text | st.just("cat"),
    vectors=counts,
    captions=st.lists(text, max_size=4) | captions_that_fit | captions_that_fit,
)
def test_any_words_and_captions(objective, word, initializer, vectors, captions):
    pipe = copy.copy(objective.pipe)
    pipe.tokenizer, pipe.text_encoder = map(copy.deepcopy, (pipe.tokenizer, pipe.text_encoder))
    vocabulary, before = len(pipe.tokenizer), pipe.text_encoder.get_input_embeddings().weight.clone()
    token = None
    with a_result_or_a_clear_error():
        token = ConceptToken(pipe, word, initializer, vectors)
    table = pipe.text_encoder.get_input_embeddings().weight
    assert torch.equal(table[:vocabulary], before)
    assert len(pipe.tokenizer) == len(table) == vocabulary + (vectors if token else 0)
    if token:
        with a_result_or_a_clear_error():
            loss = DenoisingLoss(pipe, token, objective.latents, captions, PartialUniform(300, 900))
            assert torch.isfinite(next(invert(loss, Config(steps=1, subspace=None))).theta).all()


@fuzz(40)
@given(shape=shapes, scale=numbers, kind=st.sampled_from([torch.float16, torch.float64, torch.int64]))
def test_thetas_of_any_shape(objective, shape, scale, kind):
    with a_result_or_a_clear_error():
        next(invert(objective, Config(), theta=(scale if kind != torch.int64 else 1) * torch.ones(shape, dtype=kind)))
    with a_result_or_a_clear_error():
        next(invert(objective, Config(), theta=scale * torch.ones(1, 32)))


def damage(draw, good: bytes) -> bytes:
    """Bytes cut off, overwritten, inserted or left out, anywhere, headers as often as the rest."""
    at = draw(st.integers(0, len(good)) | st.integers(0, 200))
    new = draw(st.binary(max_size=8))
    return draw(st.sampled_from([good[:at], good[:at] + new + good[at + len(new) :], good[:at] + new + good[at:]]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def checkpoint(objective, folder) -> bytes:
    list(invert(objective, Config(steps=5, subspace=SubspaceGradient(3)), checkpoint=folder / "good"))
    return (folder / "good").read_bytes()


@fuzz(180)
@given(data=st.data())
def test_checkpoints_damaged_anywhere(objective, folder, checkpoint, data):
    path, bad = folder / "run.safetensors", damage(data.draw, checkpoint)
    path.write_bytes(bad)
    with a_result_or_a_clear_error():
        steps = list(invert(objective, Config(steps=5, subspace=SubspaceGradient(3)), checkpoint=path))
        assert bad == checkpoint, "a damaged checkpoint was taken for a good one"
        assert [step.index for step in steps] == [5]
    assert path.read_bytes() == bad


#: What Pillow can write, and what such a file's name ends in.
FORMATS = {
    "png": "png", "jpeg": "jpg", "webp": "webp", "bmp": "bmp", "gif": "gif", "tiff": "tif", "heif": "heic",
    "avif": "avif", "jpeg2000": "jp2", "ppm": "ppm", "ico": "ico", "tga": "tga", "qoi": "qoi",
}  # fmt: skip
MODES = ["1", "L", "P", "RGB", "RGBA", "RGBX", "RGBa", "LA", "La", "PA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F"]
MODES += ["I;16", "I;16L", "I;16B", "I;16N"]


@pytest.fixture(scope="module")
def pictures() -> dict[str, bytes]:
    written = {}
    for kind in FORMATS:
        file = io.BytesIO()
        noise_images(1)[0].save(file, kind, **({"exif": Image.Exif()} if kind == "jpeg" else {}))
        written[kind] = file.getvalue()
    return written


def emptied(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    return folder


@fuzz(200)
@given(data=st.data(), kind=st.sampled_from([*FORMATS]))
def test_pictures_damaged_anywhere(objective, folder, pictures, data, kind):
    where = emptied(folder / "pictures")
    (where / f"a.{FORMATS[kind]}").write_bytes(damage(data.draw, pictures[kind]))
    with a_result_or_a_clear_error():
        (image,) = load_images(where)
        assert image.mode == "RGB"
        if max(image.size) < 500:
            latents = cache_latents(objective.pipe, [image])
            assert torch.isfinite(latents.mean).all()


@st.composite
def odd_pictures(draw) -> Image.Image:
    """Noise, zeros or ones in any mode and size, with an orientation and a transparency that may be none."""
    mode, size = draw(st.sampled_from(MODES)), (draw(st.integers(1, 40)), draw(st.integers(1, 40) | st.just(700)))
    blank = Image.new(mode, size)
    bytes_ = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 256, len(blank.tobytes()), np.uint8).tobytes()
    image = Image.frombytes(mode, size, draw(st.sampled_from([bytes_, b"\0" * len(bytes_), b"\xff" * len(bytes_)])))
    if mode in ("P", "PA"):
        image.putpalette(bytes_[:768].ljust(768, b"\7"))
    exif = Image.Exif()
    exif[0x0112] = draw(st.integers(0, 9))
    image.info |= draw(st.sampled_from([{}, {"exif": exif.tobytes()}]))
    if mode in ("1", "L", "P", "RGB"):
        clear = (1, 2, 3) if mode == "RGB" else draw(st.sampled_from([0, 255, b"\0\x80"] if mode == "P" else [0, 1]))
        image.info |= draw(st.sampled_from([{}, {"transparency": clear}]))
    return image


@fuzz(100)
@given(image=odd_pictures(), kind=st.sampled_from([*FORMATS]), side=counts | st.just(64), crop=st.sampled_from(CROPS))
def test_pictures_of_every_mode_and_format_are_the_same_by_any_door(objective, folder, image, kind, side, crop):
    path, by_hand = emptied(folder / "any") / f"a.{FORMATS[kind]}", None
    with warnings.catch_warnings(), a_result_or_a_clear_error():
        warnings.simplefilter("ignore")
        (by_hand,) = shown([image])
        assert by_hand.mode == "RGB" and sorted(by_hand.size) == sorted(image.size)
        assert torch.isfinite(cache_latents(objective.pipe, [image], crop).mean).all()
    if not any(written_to(path, kind, picture) for picture in (image, by_hand) if picture):
        return
    with a_result_or_a_clear_error():
        (read,) = load_images(path.parent, side)
        assert read.mode == "RGB" and min(read.size) <= max(side, min(image.size))
        with Image.open(path) as lazy:
            if side >= min(lazy.size):
                assert shown([lazy])[0].tobytes() == read.tobytes()


def written_to(path: Path, kind: str, image: Image.Image) -> bool:
    """Whether Pillow could write it: not every format has every mode and size."""
    try:
        image.save(path, kind, **({"exif": image.info["exif"]} if "exif" in image.info else {}))
    except Exception:
        path.unlink(missing_ok=True)
        return False
    return True


scripts = ["aαжяאبكहिन्दी中文日本語한국ไทย", "İıßſΣςﬁＡＢ＜＞", "👩🏽‍🚀🏳️‍🌈éẹ̀\u0301\u0323"]
scripts += ["\u200b\u200f\u202e\u2028\x00\x7f\ud800", "<>[]{}/_ -"]
written = st.text(max_size=200) | st.text(st.sampled_from("".join(scripts)), max_size=20)
written |= st.sampled_from(scripts).flatmap(lambda script: st.text(st.sampled_from(script), min_size=1, max_size=300))


def copied(pipe):
    """The pipeline with a vocabulary and a table of its own."""
    pipe = copy.copy(pipe)
    pipe.tokenizer, pipe.text_encoder = map(copy.deepcopy, (pipe.tokenizer, pipe.text_encoder))
    return pipe


@fuzz(80)
@given(word=written, vectors=near, tidied=st.booleans())
def test_words_of_every_script_and_length(objective, folder, word, vectors, tidied):
    pipe, other = copied(objective.pipe), copied(objective.pipe)
    with a_result_or_a_clear_error():
        word = tidy(word) if tidied else f"<{word}>"
        token = ConceptToken(pipe, word, "teapot", vectors)
        for prompt in (f"a {word} at night", f"a photo of{word}", f"{word}, red"):
            assert [i for i in token.ids(prompt)[0].tolist() if i in token.token_ids[0]] == token.token_ids[0]
        theta = torch.arange(32.0).repeat(vectors, 1)
        where = emptied(folder / "word")
        again = ConceptToken.load(other, token.save(theta, where))
        assert again.words == token.words
        assert torch.equal(again.initial, theta)
        assert torch.equal(again.ids(prompt), token.ids(prompt))


names = ["emb_params", "clip_l", "clip_g", "text_encoders_0", "text_encoders_1", "*", "string_to_param.*", "theta"]
names += ["bundle_emb.pot.emb_params", "bundle_emb.pot.clip_l", "bundle_emb..x", "step", "<pot>", "pot", "a teapot"]
types = [torch.float32] * 5 + [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool, torch.uint8]
types += [torch.float8_e4m3fn, torch.int16]
with suppress(KeyError):  # what old versions of safetensors say of complex numbers
    save({"": torch.zeros(1, dtype=torch.complex64)})
    types.append(torch.complex64)
extents = [(32,), (1, 32), (2, 32)] * 3 + [(0, 32), (), (1,), (48,), (2, 2, 32), (32, 1), (33,)]
facts = st.dictionaries(
    st.sampled_from(["word", "widths", "checkpoint", "seal", "table", "model", "format", "run", "index"]),
    st.sampled_from(["<pot>", "32", "2", "", "0" * 16, "pt", "-1", "32 48"]) | text.filter(lambda x: x.isprintable()),
    max_size=4,
)


@st.composite
def files_of_tools(draw) -> bytes:
    """A file as some tool, or none, might have written it."""
    key = st.sampled_from(names) | st.sampled_from(names) | text.filter(lambda x: x.isprintable() and x)
    shapes = draw(st.dictionaries(key, st.sampled_from(extents), min_size=draw(st.integers(0, 1)), max_size=3))
    tensors = {
        name: torch.full(shape, draw(st.sampled_from([0.5, 0.5, 0.5, float("nan")]))).to(draw(st.sampled_from(types)))
        for name, shape in shapes.items()
    }
    form = draw(st.integers(0, 9))
    if form == 0:
        return pickle.dumps({"<pot>": 1})
    if form == 1:
        file = io.BytesIO()
        torch.save(tensors, file)
        return file.getvalue()
    good = save(tensors, draw(facts))
    return damage(draw, good) if form == 2 else good


tool_files = [
    "learned_embeds.safetensors",
    "pot.safetensors",
    "pot.pt",
    "learned_embeds.bin",
    "Pot (1).SAFETENSORS",
    "x",
]


@fuzz(120)
@given(
    name=st.sampled_from(tool_files),
    content=files_of_tools(),
    second=st.none() | files_of_tools(),
    options=st.fixed_dictionaries({}, optional={"strict": st.booleans(), "replace": st.booleans(), "word": text}),
    ask=st.booleans(),
)
def test_files_of_every_tool(objective, folder, name, content, second, options, ask):
    where, pipe, token = emptied(folder / "tools"), copied(objective.pipe), None
    (where / name).write_bytes(content)
    if second:
        (where / "learned_embeds_2.safetensors").write_bytes(second)
    table, words = pipe.text_encoder.get_input_embeddings().weight.clone(), len(pipe.tokenizer)
    with warnings.catch_warnings(), a_result_or_a_clear_error():
        warnings.simplefilter("ignore")
        token = ConceptToken.load(pipe, where if ask else where / name, **options)
    now = pipe.text_encoder.get_input_embeddings().weight
    if token is None:
        assert torch.equal(now, table) and len(pipe.tokenizer) == words
    else:
        assert torch.equal(now[torch.tensor(token.token_ids[0])], token.initial)
        assert torch.isfinite(token.initial).all()
        assert (where / name).read_bytes() == content


LONG = Config(steps=6, subspace=SubspaceGradient(2))


@pytest.fixture(scope="module")
def uninterrupted(objective) -> list[torch.Tensor]:
    return [step.theta for step in invert(objective, LONG)]


@fuzz(60)
@given(data=st.data(), every=near | st.just(1))
def test_interrupted_runs_end_where_they_would_have(objective, folder, uninterrupted, data, every):
    path, mean = emptied(folder / "interrupted") / "run.safetensors", objective.mean
    for _ in range(20):
        left = [data.draw(st.integers(0, 12))]
        how = data.draw(st.sampled_from(["Ctrl-C", "break", "an error", "the disk is full", "forgotten"]))

        def stopping(*args, how=how, left=left):
            left[0] -= 1
            if left[0] == 0 and how in ("Ctrl-C", "an error"):
                raise KeyboardInterrupt if how == "Ctrl-C" else MemoryError
            return mean(*args)

        def full(file, left=left):
            if left[0] <= 0:
                raise OSError(errno.ENOSPC, "full")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(objective, "mean", stopping)
            if how == "the disk is full":
                patch.setattr(os, "fsync", full)
            steps = invert(objective, LONG, checkpoint=path, every=every)
            last = None
            try:
                for step in steps:
                    assert torch.equal(step.theta, uninterrupted[step.index - 1])
                    last = step
                    if left[0] <= 0 and how in ("break", "forgotten"):
                        break
            except (KeyboardInterrupt, MemoryError):
                pass
            except OSError as error:
                assert "the disk is full" in str(error)
            if how == "break":
                steps.close()
            del steps
        if last is not None and last.index == LONG.steps:
            break
        assert not [file.name for file in path.parent.iterdir() if file.name != path.name]
    *_, last = invert(objective, LONG, checkpoint=path, every=every)
    assert torch.equal(last.theta, uninterrupted[-1])


@fuzz(40)
@given(data=st.data(), other=st.booleans(), every=near | st.just(1))
def test_concurrent_runs_on_one_file_disturb_nobody(objective, folder, uninterrupted, data, other, every):
    path = emptied(folder / "concurrent") / "run.safetensors"
    configs = [LONG, LONG, Config(steps=6, seed=1, subspace=SubspaceGradient(2)) if other else LONG]
    runs = [invert(objective, config, checkpoint=path, every=every) for config in configs]
    going = list(range(3))
    while going:
        i = data.draw(st.sampled_from(going))
        with a_result_or_a_clear_error():
            try:
                step = next(runs[i])
                if configs[i] is LONG:
                    assert torch.equal(step.theta, uninterrupted[step.index - 1])
                continue
            except StopIteration:
                pass
        going.remove(i)
        runs[i].close()
    with a_result_or_a_clear_error():
        *_, last = invert(objective, LONG, checkpoint=path)
        assert torch.equal(last.theta, uninterrupted[-1])


@st.composite
def layers(draw) -> tuple[torch.nn.Module, torch.Tensor]:
    rows, width, height, bias = (
        draw(st.integers(1, 3)),
        draw(st.integers(1, 9)),
        draw(st.integers(1, 9)),
        draw(st.booleans()),
    )
    if draw(st.booleans()):
        return torch.nn.Linear(width, height, bias), torch.ones(rows, width)
    groups, kernel = draw(near), (draw(near), draw(near))
    options = {"stride": draw(near), "padding": draw(st.integers(0, 3)), "dilation": draw(near), "groups": groups}
    if draw(st.integers(0, 9)) == 0:
        options |= {"stride": 1, "padding": draw(st.sampled_from(["same", "valid"]))}
    if draw(st.integers(0, 9)) == 0:
        options["padding_mode"] = draw(st.sampled_from(["reflect", "circular"]))
    layer = torch.nn.Conv2d(groups * draw(near), groups * draw(near), kernel, bias=bias, **options)
    return layer, torch.ones(rows, layer.in_channels, 12 + width, 12 + height)


@fuzz(120)
@given(
    made=layers(), weights=st.sampled_from(["int8", "int4", "nf4", "llm_int8", "int2"]), scale=st.sampled_from([0, 1])
)
def test_layers_of_odd_shapes(made, weights, scale):
    layer, x = made
    with torch.no_grad():
        layer.weight.mul_(scale)
        before = layer.weight.clone()
        with a_result_or_a_clear_error():
            quantized = quantize_(torch.nn.Sequential(layer), weights)
            assert quantized(x).shape == layer(x).shape
            assert torch.isfinite(quantized(x)).all()
    assert torch.equal(layer.weight, before)
