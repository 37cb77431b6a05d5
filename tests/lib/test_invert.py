"""The road from pictures to a word: candidates, losses, the loop, its checkpoints, and what diffusers makes of it."""

import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import dataclass, replace

import pytest
import torch
import tqdm.notebook
from PIL import Image, ImageOps, PngImagePlugin
from safetensors.torch import load_file

from tests.conftest import random_pipeline
from zoti import (
    ZOSGD,
    ConceptToken,
    Config,
    DenoisingLoss,
    Guided,
    PartialUniform,
    RandomSubspace,
    SNRWeighted,
    Stratified,
    SubspaceGradient,
    ZOAdam,
    cache_latents,
    invert,
    load_images,
    one_point,
    quantize_,
    rge,
    spsa,
)
from zoti.baselines import textual_inversion
from zoti.checkpoint import Run, load_checkpoint
from zoti.data import OBJECT_TEMPLATES, STYLE_TEMPLATES, load_subject


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise_images(n: int = 3) -> list[Image.Image]:
    pixels = torch.randint(0, 256, (n, 20, 24, 3), generator=generator(), dtype=torch.uint8).numpy()
    return [Image.fromarray(p) for p in pixels]


def problem(pipe, vectors: int = 1, **options) -> DenoisingLoss:
    token = ConceptToken(pipe, "<new>", "teapot", vectors)
    return DenoisingLoss(
        pipe, token, cache_latents(pipe, noise_images()), ["a {} at night"], PartialUniform(300, 900), **options
    )


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


def test_loss_is_the_definition_and_chunks_agree(pipe):
    objective = problem(pipe)
    theta, draw = torch.randn(7, 1, 32, generator=generator(1)), objective.draw(generator(2))
    with torch.no_grad():
        losses = objective(theta, draw)
        objective.max_batch = 3
        torch.testing.assert_close(objective(theta, draw), losses, rtol=1e-5, atol=1e-7)
        objective.token.write(theta[4])
        alpha = pipe.scheduler.alphas_cumprod[draw.t]
        z_t = alpha.sqrt() * draw.z + (1 - alpha).sqrt() * draw.noise
        states = pipe.encode_prompt("a <new> at night", "cpu", 1, False)[0]
        expected = (pipe.unet(z_t, draw.t, states).sample - draw.noise).square().mean()
    torch.testing.assert_close(losses[4], expected, rtol=1e-5, atol=1e-6)


def test_v_prediction_has_its_own_target():
    objective = problem(random_pipeline("v_prediction"))
    draw, theta = objective.draw(generator()), objective.token.initial[None]
    with torch.no_grad():
        states = objective.token.encode(theta, objective.prompts[:1]).states[:, 0]
        alpha = objective.pipe.scheduler.alphas_cumprod[draw.t]
        z_t = alpha.sqrt() * draw.z + (1 - alpha).sqrt() * draw.noise
        v = alpha.sqrt() * draw.noise - (1 - alpha).sqrt() * draw.z
        expected = (objective.pipe.unet(z_t, draw.t, states).sample - v).square().mean()
        torch.testing.assert_close(objective(theta, draw)[0], expected, rtol=1e-5, atol=1e-6)


def test_the_estimate_averaged_over_thousands_of_directions_is_the_gradient(pipe):
    objective = problem(pipe)
    draw, theta = objective.draw(generator(4)), objective.token.initial.clone().requires_grad_()
    objective(theta[None], draw)[0].backward()
    n, d = 3000, 32
    with torch.inference_mode():
        grad = rge(lambda c: objective(c, draw), theta.detach(), n, 1e-2, generator=generator(5)).grad
    cosine = torch.cosine_similarity(grad.flatten(), theta.grad.flatten(), dim=0)
    assert cosine > (n / (n + d + 1)) ** 0.5 - 0.02


def test_the_loop_leaves_weights_and_global_chance_alone_and_counts(pipe):
    objective = problem(pipe)
    before = {k: v.clone() for k, v in pipe.unet.state_dict().items()}
    chance = torch.get_rng_state()
    steps = list(invert(objective, Config(steps=5, n=2, subspace=None)))
    assert [s.index for s in steps] == [1, 2, 3, 4, 5]
    assert steps[-1].evaluations == 15
    assert not torch.equal(steps[-1].theta, objective.token.initial)
    assert all(torch.equal(v, before[k]) for k, v in pipe.unet.state_dict().items())
    assert torch.equal(chance, torch.get_rng_state())
    (steps[-1].theta * torch.ones(32, requires_grad=True)).sum().backward()  # an ordinary tensor, fit for autograd


CONFIG = Config(steps=40, batch=2, subspace=SubspaceGradient(tau=8))


@pytest.fixture
def one_thread():
    """Sums split among threads may round differently from one process to the next."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_killed_at_any_moment_a_run_resumes_to_the_same_bits(tmp_path, pipe, one_thread):
    whole = [s.theta for s in invert(problem(pipe), CONFIG)][-1]
    script = textwrap.dedent(f"""
        import torch
        from tests.conftest import random_pipeline
        from tests.lib.test_invert import CONFIG, problem
        from zoti import invert
        torch.set_num_threads(1)
        for step in invert(problem(random_pipeline()), CONFIG, checkpoint={str(tmp_path / "run.safetensors")!r},
                           every=1):
            print(step.index, flush=True)
        """)
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    for victim in (3, 11, 30):
        with subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment
        ) as run:
            for line in run.stdout:
                if int(line) >= victim:
                    os.kill(run.pid, signal.SIGKILL)
                    break
    last = list(invert(problem(random_pipeline()), CONFIG, checkpoint=tmp_path / "run.safetensors", every=1))
    assert last[0].index > 30
    assert torch.equal(last[-1].theta, whole)


def test_a_finished_run_is_not_run_again_but_can_be_extended(tmp_path, pipe):
    objective, path = problem(pipe), tmp_path / "run.safetensors"
    first = list(invert(objective, Config(steps=4), checkpoint=path))
    assert list(invert(objective, Config(steps=4), checkpoint=path)) == []
    more = list(invert(objective, Config(steps=6), checkpoint=path))
    assert [s.index for s in more] == [5, 6]
    assert more[-1].evaluations == 18
    whole = list(invert(objective, Config(steps=6)))
    assert torch.equal(whole[3].theta, first[-1].theta)
    assert torch.equal(whole[-1].theta, more[-1].theta)


def test_a_checkpoint_is_never_written_over_but_replaced_when_the_next_is_whole(tmp_path, pipe, monkeypatch):
    path, old = tmp_path / "run.safetensors", tmp_path / "old"
    run = invert(problem(pipe), Config(), checkpoint=path, every=1)
    next(run)
    os.link(path, old)
    good = old.read_bytes()
    next(run)
    assert (path.read_bytes() != good, old.read_bytes()) == (True, good)
    newest = path.read_bytes()

    def full_disk(tensors, draft, **options):
        draft.write_bytes(newest[:100])
        raise OSError("no space left on device")

    monkeypatch.setattr("zoti.checkpoint.save_file", full_disk)
    with pytest.raises(OSError, match="no space"):
        next(run)
    assert path.read_bytes() == newest


VARIANTS = [
    Config(estimator=one_point, directions="rademacher", optimizer=ZOSGD(1e-3)),
    Config(estimator=spsa, directions="orthogonal", optimizer=ZOAdam.authors()),
    Config(estimator=Guided(memory=4), subspace=RandomSubspace(tau=4, keep=2)),
    Config(subspace=SubspaceGradient(tau=4, keep=2, standardise=False)),
    Config(subspace=SubspaceGradient(tau=4, keep=2), optimizer=ZOAdam.authors()),
    Config(batch=3, subspace=SubspaceGradient(tau=4, nu=0.1)),
]


@pytest.mark.parametrize("config", VARIANTS, ids=str)
def test_every_variant_resumes_to_the_same_bits_bank_and_all(tmp_path, pipe, config, one_thread):
    objective, path = problem(pipe), tmp_path / "run.safetensors"
    draws = objective.bank(4, generator(3))
    told = {"bank": lambda c: objective.mean(c, draws), "every": 3}
    whole = list(invert(objective, replace(config, steps=11), **told))
    assert all(torch.isfinite(s.theta).all() for s in whole)
    assert not torch.equal(whole[-1].theta, objective.token.initial)
    assert [s.removed > 0 for s in whole] == [s.index > config.subspace.tau for s in whole]
    assert [s.index for s in whole if s.bank_loss is not None] == [3, 6, 9, 11]
    list(invert(objective, replace(config, steps=6), checkpoint=path, **told))
    rest = list(invert(objective, replace(config, steps=11), checkpoint=path, **told))
    assert [s.index for s in rest] == [7, 8, 9, 10, 11]
    for resumed, original in zip(rest, whole[6:], strict=True):
        assert torch.equal(resumed.theta, original.theta)
        assert replace(resumed, theta=None, seconds=0) == replace(original, theta=None, seconds=0)
    silent = list(invert(objective, replace(config, steps=11)))[-1]  # who measures does not disturb
    assert torch.equal(silent.theta, whole[-1].theta)
    assert silent.bank_loss is None


def test_what_a_checkpoint_gives_back_lies_where_new_tensors_lie(tmp_path, pipe):
    """BLAS may sum a tensor that starts off its 64 bytes in another order: 1e-7 today, another token in 100 steps."""
    objective, path, config = problem(pipe), tmp_path / "run.safetensors", VARIANTS[2]
    list(invert(objective, replace(config, steps=10), checkpoint=path))
    token = objective.token.initial
    empty = Run(token, generator().get_state(), {"optimizer": {}, "subspace": {}, "estimator": {}})
    run = load_checkpoint(path, f"{config} {objective.prompts}", empty)
    held = [run.theta, run.chance, *(t for state in run.states.values() for t in state.values())]
    assert len(held) == 2 + 3 + 4 + 1
    assert all(t.data_ptr() % 64 == 0 and t.is_contiguous() for t in held)
    removed, grad = torch.linalg.qr(torch.randn(768, 100, generator=generator())).Q.T.contiguous(), torch.randn(1, 768)
    off = torch.empty(removed.numel() + 1)[1:].view_as(removed).copy_(removed)
    assert off.data_ptr() % 64 != 0  # such a copy is the same to rounding, and no more is promised
    (one, _), (other, _) = (config.subspace.project(grad, {"removed": r}) for r in (removed, off))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("estimator", "candidates"), [(rge, 3), (spsa, 4), (one_point, 3), (Guided(), 4)])
def test_an_evaluation_is_one_candidate_on_one_draw(pipe, estimator, candidates):
    objective, rows = problem(pipe), []
    pipe.unet.register_forward_hook(lambda module, args, output: rows.append(len(args[0])))
    steps = list(invert(objective, Config(steps=4, batch=5, estimator=estimator)))
    assert [s.evaluations for s in steps] == [candidates * 5 * i for i in (1, 2, 3, 4)]
    assert sum(rows) == steps[-1].evaluations  # the U-Net saw exactly these


def test_all_candidates_are_judged_by_the_mean_over_the_same_draws(pipe):
    objective, config = problem(pipe), Config(steps=1, batch=4, seed=5)
    step = next(invert(objective, config))
    chance = generator(5)
    draws = objective.bank(4, chance)
    assert len({d.t.item() for d in draws}) > 1
    estimate = rge(lambda c: objective.mean(c, draws), objective.token.initial, 2, 1e-3, generator=chance)
    assert step.loss == float(estimate.loss)
    theta, _ = config.optimizer.update(
        estimate.grad, objective.token.initial, config.optimizer.init(objective.token.initial)
    )
    assert torch.equal(step.theta, theta)
    alone = torch.stack([objective(objective.token.initial[None], d)[0] for d in draws])
    assert step.loss == pytest.approx(float(alone.mean()), rel=1e-5)


def test_a_batch_of_stratified_times_holds_one_of_every_slice(pipe):
    objective, seen = problem(pipe), []
    objective.timesteps = Stratified(PartialUniform(300, 900))
    mean = objective.mean
    objective.mean = lambda theta, draws: seen.append(sorted(int(d.t) for d in draws)) or mean(theta, draws)
    list(invert(objective, Config(steps=20, batch=6)))
    assert len(seen) == 20
    assert all(300 + 100 * i <= t < 400 + 100 * i for times in seen for i, t in enumerate(times))


def shown(capsys, **options) -> str:
    list(invert(problem(random_pipeline()), Config(steps=4), **options))
    return "".join(capsys.readouterr())


def test_the_bar_shows_only_where_it_is_asked_for_and_goes_on_where_the_run_does(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    monkeypatch.setattr(sys.modules["zoti.invert"], "tqdm", tqdm.tqdm)
    assert "4 [" not in shown(capsys)
    path = tmp_path / "run.safetensors"
    assert "0/4 [" in shown(capsys, progress=True, checkpoint=path)
    list(invert(problem(random_pipeline()), Config(steps=4), checkpoint=path))
    capsys.readouterr()
    list(invert(problem(random_pipeline()), Config(steps=6), checkpoint=path, progress=True))
    bar = "".join(capsys.readouterr())
    assert "4/6 [" in bar
    assert "0/6" not in bar
    assert bar.endswith("\r")  # a bar that is done wipes its line
    monkeypatch.setenv("TQDM_DISABLE", "1")
    assert "4 [" not in shown(capsys, progress=True)
    monkeypatch.setattr(sys.modules["zoti.invert"], "tqdm", tqdm.notebook.tqdm)  # which would not ask the variable
    assert "4 [" not in shown(capsys, progress=True)


def test_a_config_names_its_run():
    names = [
        str(c)
        for c in [
            Config(),
            Config(directions="rademacher"),
            Config(batch=2),
            Config(estimator=Guided(alpha=0.1)),
            *VARIANTS,
            Config(subspace=RandomSubspace()),
            Config(subspace=RandomSubspace(seed=1)),
            Config(n=4, optimizer=ZOAdam.authors(4)),
            Config(n=4),
            Config(optimizer=ZOSGD(1e-2)),
        ]
    ]
    assert len(set(names)) == len(names)
    assert not any(" at 0x" in name for name in names)  # an address would change with every process
    assert str(Config(steps=5)) == str(Config(steps=6))


def test_configs_that_cannot_be_or_contradict_themselves(pipe):
    with pytest.raises(ValueError, match="built for n = 2"):
        Config(n=4, optimizer=ZOAdam.authors())
    with pytest.raises(ValueError, match="its own directions"):
        Config(estimator=Guided(), directions="rademacher")
    for numbers in ({"steps": 0}, {"n": 0}, {"batch": 0}, {"mu": 0.0}, {"mu": float("nan")}, {"mu": float("inf")}):
        with pytest.raises(ValueError, match="at least 1"):
            Config(**numbers)
    with pytest.raises(ValueError, match="64 bits"):
        Config(seed=2**64)
    assert next(invert(problem(random_pipeline()), Config(seed=-(2**63)))).index == 1
    with pytest.raises(ValueError, match="every = 0"):
        next(invert(problem(pipe), Config(), every=0))


def test_an_estimator_of_your_own_need_not_know_of_directions_or_memory(pipe):
    def own(loss_fn, theta, n, mu, *, generator):
        return rge(loss_fn, theta, 1, mu, generator=generator)

    assert next(invert(problem(pipe), Config(estimator=own))).evaluations == 2
    with pytest.raises(ValueError, match="its own directions"):
        Config(estimator=own, directions="orthogonal")


@pytest.mark.parametrize("weights", ["int8", "int4", "nf4", "llm_int8"])
def test_the_loop_runs_on_every_kind_of_weights(pipe, weights):
    for module in (pipe.unet, pipe.vae, pipe.text_encoder):
        quantize_(module, weights)
    steps = list(invert(problem(pipe), Config(steps=3)))
    assert all(torch.isfinite(s.theta).all() for s in steps)
    assert all(s.loss > 0 for s in steps)


def test_objectives_take_any_sampler(pipe):
    token, latents = ConceptToken(pipe, "<new>", "teapot"), cache_latents(pipe, noise_images())
    sampler = Stratified(SNRWeighted(pipe.scheduler.alphas_cumprod))
    objective = DenoisingLoss(pipe, token, latents, ["a {}"], sampler)
    times = torch.cat([d.t for d in objective.bank(20, generator())])
    slices = sampler.probabilities.cumsum(0)[times].mul(20).floor()
    assert len(slices.unique()) >= 19  # one from each twentieth, but for rounding at the edges
    assert next(invert(objective, Config())).loss > 0


@pytest.mark.parametrize("templates", [OBJECT_TEMPLATES, STYLE_TEMPLATES])
def test_templates_say_the_word_once_in_words_tiny_sd_knows_and_serve_as_captions(pipe, templates):
    for template in templates:
        assert template.count("{}") == 1
        words = template.replace("{}", "").split()
        assert len(pipe.tokenizer(template.replace("{}", ""), add_special_tokens=False).input_ids) == len(words)
    token, images = ConceptToken(pipe, "<new>", "teapot", vectors=2), noise_images(3)
    objective = DenoisingLoss(
        pipe, token, cache_latents(pipe, images), templates[: len(images)], PartialUniform(0, 1000)
    )
    assert len(set(objective.prompts)) == 3
    assert [s.theta.shape for s in invert(objective, Config(steps=2))] == [(2, 32)] * 2


def test_style_pictures_with_captions_of_their_own_make_an_objective(pipe):
    style = load_subject("openmoji", "styles")
    token = ConceptToken(pipe, "<new>", style.class_word)
    objective = DenoisingLoss(
        pipe, token, cache_latents(pipe, style.references), style.captions, PartialUniform(0, 1000)
    )
    assert "a <new> fox in the ocean" in objective.prompts
    assert next(invert(objective, Config())).loss > 0


def test_checkpoints_that_do_not_fit_are_refused_and_left_alone(tmp_path, pipe):
    objective, path = problem(pipe), tmp_path / "run.safetensors"
    list(invert(objective, Config(steps=2), checkpoint=path))
    good = path.read_bytes()
    with pytest.raises(ValueError, match="another run"):
        next(invert(objective, Config(steps=4, mu=1e-2), checkpoint=path))
    other = ConceptToken(random_pipeline(), "<cat>", "cat")
    for token, captions in ((other, ["a {} at night"]), (objective.token, ["a {} by day"])):
        another = DenoisingLoss(token.pipe, token, objective.latents, captions, objective.timesteps)
        with pytest.raises(ValueError, match="another run"):
            next(invert(another, Config(steps=4), checkpoint=path))
    assert path.read_bytes() == good
    flipped = bytes([*good[:-5], good[-5] ^ 1, *good[-4:]])  # one bit of one number
    later = good.replace(b'"index":"2"', b'"index":"3"')
    assert later != good
    for damage in (good[:100], b"", good[:-7], b"\x80\x04pickle", flipped, later):
        path.write_bytes(damage)
        with pytest.raises(ValueError, match="not a readable checkpoint"):
            next(invert(objective, Config(steps=4), checkpoint=path))
        assert path.read_bytes() == damage


@pytest.mark.parametrize(
    ("bias", "told"), [(float("nan"), "not finite"), (float("inf"), "not finite"), (9.0, "predicting nothing costs")]
)
def test_a_loss_that_explodes_stops_the_run_and_keeps_the_last_token_with_a_sound_loss(tmp_path, pipe, bias, told):
    objective, path = problem(pipe), tmp_path / "run.safetensors"
    healthy = list(invert(objective, Config(steps=2)))[-1].theta
    run = invert(objective, Config(steps=10), checkpoint=path, every=1)
    for _ in range(3):
        next(run)
    torch.nn.init.constant_(pipe.unet.conv_out.bias, bias)
    with pytest.raises(FloatingPointError, match=f"{told}.* at step 4; the token of step 2.*run.safetensors"):
        next(run)  # step 4 asks the token of step 3, of which nobody has seen a sound loss
    assert torch.equal(load_file(path)["theta"], healthy)
    torch.nn.init.zeros_(pipe.unet.conv_out.bias)
    resumed = next(invert(objective, Config(steps=10), checkpoint=path))
    assert (resumed.index, resumed.evaluations) == (3, 9)


@pytest.mark.parametrize("lr", [1e7, 1e38])  # one too long, one not finite
def test_a_token_that_explodes_stops_the_run_though_its_loss_does_not(tmp_path, pipe, lr):
    objective, path = problem(pipe), tmp_path / "run.safetensors"
    run = invert(objective, Config(optimizer=ZOSGD(lr)), checkpoint=path)
    with pytest.raises(FloatingPointError, match=r"times as long .* at step 1; the token of step 0"):
        list(run)
    assert torch.equal(load_file(path)["theta"], objective.token.initial)


@dataclass(frozen=True)
class Times:
    """An optimizer that knows one thing to do."""

    factor: float

    def init(self, theta):
        return {}

    def update(self, grad, theta, state):
        return self.factor * theta, state


@pytest.mark.parametrize(("factor", "sound"), [(990, True), (1010, False), (float("nan"), False)])
def test_a_token_may_grow_a_thousandfold_and_no_further(pipe, factor, sound):
    run = invert(problem(pipe), Config(optimizer=Times(factor), subspace=None))
    if sound:
        next(run)
    else:
        with pytest.raises(FloatingPointError, match="times as long"):
            next(run)


@pytest.mark.parametrize(("mean_square", "sound"), [(9.7, True), (10.3, False)])
def test_a_loss_of_ten_is_the_worst(pipe, mean_square, sound):
    objective = problem(pipe)
    objective.mean = lambda theta, bank: (
        theta.square().mean((1, 2)) + mean_square - objective.token.initial.square().mean()
    )
    run = invert(objective, Config(mu=1e-4))
    if sound:
        next(run)
    else:
        with pytest.raises(FloatingPointError, match="predicting nothing costs"):
            next(run)


def test_why_a_token_a_thousand_times_as_long_is_lost(pipe):
    """The encoder sees a word's direction: the loss stays what it was, its change along mu e shrinks as the length."""
    objective = problem(pipe)
    draw, theta = objective.draw(generator(1)), torch.nn.functional.normalize(objective.token.initial, dim=-1)
    e = torch.randn(64, 1, 32, generator=generator(2))
    with torch.inference_mode():
        loss, spread = zip(
            *(
                (float(objective(scale * theta[None], draw)), objective(scale * theta + 1e-2 * e, draw).std().item())
                for scale in (1, 100, 1000)
            ),
            strict=True,
        )
    assert max(loss) < 1.1 * min(loss)
    assert spread[1] < spread[0] / 20
    assert spread[2] < spread[0] / 100


def test_healthy_runs_are_far_from_the_bounds(pipe):
    for config in [Config(steps=60), Config(steps=60, n=1, optimizer=ZOAdam(0.1), subspace=None)]:
        objective = problem(random_pipeline())
        steps = list(invert(objective, config))
        assert max(s.loss for s in steps) < 2
        assert max(s.theta.norm() for s in steps) < 200 * objective.token.initial.norm()


def test_backpropagation_walks_the_same_frame(pipe):
    objective = problem(pipe)
    steps = list(textual_inversion(objective, steps=3))
    assert [s.evaluations for s in steps] == [1, 2, 3]
    bank = objective.bank(8, generator(7))
    start = objective.mean(objective.token.initial[None], bank)
    longer = list(textual_inversion(objective, steps=60, lr=1e-2))[-1]
    assert objective.mean(longer.theta[None], bank) < start


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


def test_bad_pictures(tmp_path, pipe):
    with pytest.raises(FileNotFoundError, match="no folder"):
        load_images(tmp_path / "absent")
    with pytest.raises(ValueError, match="no images"):
        load_images(tmp_path)
    noise_images(1)[0].save(tmp_path / "a.png")
    (tmp_path / "._a.png").write_bytes(b"\x00\x05\x16\x07")
    assert [i.size for i in load_images(tmp_path)] == [(24, 20)]
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:200])
    with pytest.raises(ValueError, match=r"b\.png"):
        load_images(tmp_path)
    image, exif, told = noise_images(1)[0], Image.Exif(), PngImagePlugin.PngInfo()
    exif[0x0112], exif[0x010F] = 6, "maker" * 5
    image.save(tmp_path / "b.png", "jpeg", exif=exif)
    damaged = (tmp_path / "b.png").read_bytes().replace(b"\x01\x0f\x00\x02", b"\x01\x00\x00\x02")  # a width in letters
    told.add_text("essay", "x" * 2**21, zip=True)
    image.save(tmp_path / "b.png", pnginfo=told)
    for picture in (damaged, (tmp_path / "b.png").read_bytes(), b""):
        (tmp_path / "b.png").write_bytes(picture)
        with pytest.raises(ValueError, match=r"b\.png as a picture; remove it"):
            load_images(tmp_path)
    with pytest.raises(ValueError, match="no images"):
        cache_latents(pipe, [])


def test_pictures_are_read_as_a_viewer_shows_them(tmp_path, pipe):
    shades = torch.arange(0, 65536, 256, dtype=torch.int32).reshape(16, 16).numpy().astype("uint16")
    cut = Image.new("RGBA", (16, 16), (200, 10, 10, 0))  # red, if the transparency were forgotten
    cut.putpixel((3, 4), (0, 0, 255, 255))
    palette = cut.convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE)
    upright = Image.Exif()
    upright[0x0112] = 6
    ink, wide, frame = (
        Image.new("CMYK", (16, 16), (0, 255, 255, 0)),
        noise_images(1)[0],
        Image.new("RGB", (16, 16), "red"),
    )
    Image.fromarray(shades).save(tmp_path / "0 grey.png")
    cut.save(tmp_path / "1 cut.png")
    palette.save(tmp_path / "2 palette.png", transparency=palette.getpixel((0, 0)))
    ink.save(tmp_path / "3 ink.jpg")
    wide.save(tmp_path / "4 wide.jpg", exif=upright)
    frame.save(tmp_path / "5 frames.webp", save_all=True, append_images=[cut.convert("RGB")], lossless=True)
    Image.new("RGB", (1, 1), "red").save(tmp_path / "6 \u65e5\u672c.PNG")
    images = load_images(tmp_path)
    assert {image.mode for image in images} == {"RGB"}
    grey, cut_out, indexed, printed, turned, first, dot = images
    assert list(grey.getchannel("G").tobytes()) == list(range(256))
    for image in (cut_out, indexed):
        assert [image.getpixel(at) for at in ((0, 0), (3, 4))] == [(255, 255, 255), (0, 0, 255)]
    assert turned.size == wide.size[::-1]
    assert all(image.getpixel((0, 0)) == (255, 0, 0) for image in (printed, first, dot))
    assert torch.equal(cache_latents(pipe, [cut]).mean, cache_latents(pipe, [cut_out]).mean)
    assert torch.isfinite(cache_latents(pipe, images).mean).all()


def test_latents_are_the_vaes_distribution_shifted_and_scaled(pipe):
    plain = cache_latents(pipe, noise_images())
    fitted = [ImageOps.fit(image, (16, 16), Image.Resampling.LANCZOS) for image in noise_images()]
    posterior = pipe.vae.encode(pipe.image_processor.preprocess(fitted)).latent_dist
    torch.testing.assert_close(plain.std, posterior.std * pipe.vae.config.scaling_factor)
    draw = problem(pipe).draw(generator())
    assert not torch.equal(draw.z[0], plain.mean[draw.image])
    scale = pipe.vae.config.scaling_factor
    pipe.vae.register_to_config(shift_factor=0.3, scaling_factor=0.5)
    latents = cache_latents(pipe, noise_images())
    torch.testing.assert_close(latents.mean, (plain.mean / scale - 0.3) * 0.5)
    torch.testing.assert_close(latents.std, plain.std / scale * 0.5)
    draws = latents.sample(torch.full((4000,), 1), generator())
    torch.testing.assert_close(draws.std(0), latents.std[1], rtol=0.1, atol=0)
    assert (draws.mean(0) - latents.mean[1]).abs().lt(0.1 * latents.std[1]).all()


def test_bad_objectives(pipe):
    token, latents = ConceptToken(pipe, "<new>", "cat"), cache_latents(pipe, noise_images())
    for captions, message in [(["a {}", "b {}"], "2 captions for 3"), (["a cat"], "has no {}")]:
        with pytest.raises(ValueError, match=message):
            DenoisingLoss(pipe, token, latents, captions, PartialUniform(0, 1000))
    with pytest.raises(ValueError, match="does not hold '<new>' within its first 32 tokens"):
        DenoisingLoss(pipe, token, latents, ["a {}", "a {}", "cat " * 40 + "{}"], PartialUniform(0, 1000))
    with pytest.raises(ValueError, match="max_batch = 0"):
        DenoisingLoss(pipe, token, latents, ["a {}"], PartialUniform(0, 1000), max_batch=0)
    with pytest.raises(ValueError, match="knows only 1000"):
        DenoisingLoss(pipe, token, latents, ["a {}"], PartialUniform(0, 2000, 2000))


def test_a_word_may_start_from_nothing(pipe):
    token = ConceptToken(pipe, "<new>", torch.zeros(1, 32))
    objective = DenoisingLoss(pipe, token, cache_latents(pipe, noise_images()), ["a {}"], PartialUniform(300, 900))
    assert [step.index for step in invert(objective, Config(steps=2))] == [1, 2]
