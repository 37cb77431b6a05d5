"""A run's file: resumed to the same bits, replaced whole, refused when damaged."""

import errno
import gc
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from dataclasses import dataclass, replace

import pytest
import torch
from diffusers import EulerDiscreteScheduler
from safetensors import safe_open
from safetensors.torch import save_file

from tests.helpers import VARIANTS, generator, noise_images, problem, randn, random_pipeline, random_xl_pipeline
from zoti import (
    ConceptToken,
    Config,
    DenoisingLoss,
    PartialUniform,
    SNRWeighted,
    Stratified,
    SubspaceGradient,
    cache_latents,
    invert,
    quantize_,
    rge,
)
from zoti.checkpoint import FORM, Checkpoint
from zoti.data import Latents
from zoti.files import read_tensors, write_tensors
from zoti.identity import fingerprint
from zoti.invert import _begin

CONFIG = Config(steps=40, batch=2, subspace=SubspaceGradient(tau=8))


@pytest.mark.slow
def test_killed_at_any_moment_a_run_resumes_to_the_same_bits(tmp_path, pipe, one_thread):
    whole = [s.theta for s in invert(problem(pipe), CONFIG)][-1]
    script = textwrap.dedent(f"""
        import torch
        from tests.helpers import problem, random_pipeline
        from tests.lib.test_checkpoint import CONFIG
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
    draws = objective.bank(4, generator(3))
    bank = lambda c: objective.mean(c, draws)  # noqa: E731
    first = list(invert(objective, Config(steps=4), checkpoint=path, bank=bank))
    before = path.stat().st_mtime_ns  # of all that stat says, the time of the last reading may change
    for again in (None, bank):
        (last,) = invert(objective, Config(steps=4), checkpoint=path, bank=again)
        assert torch.equal(last.theta, first[-1].theta)
        expected = replace(first[-1], theta=None, seconds=0, bank_loss=again and first[-1].bank_loss)
        assert replace(last, theta=None, seconds=0) == expected
    assert path.stat().st_mtime_ns == before
    with pytest.raises(ValueError, match=r"has gone 4 steps and this config asks for 3; .*steps=4"):
        next(invert(objective, Config(steps=3), checkpoint=path))
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

    def full_disk(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match=r"cannot be written: the disk is full. .* as it was") as caught:
        next(run)
    assert path.read_bytes() == newest
    assert caught.value.__context__.errno == errno.ENOSPC  # said once, not again for the rescue


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


def file(path, objective, config) -> Checkpoint:
    """As `invert` makes it."""
    start = fingerprint({"theta": objective.token.initial})
    return Checkpoint(path, {**config.identity(), **objective.identity(), "start": start}, objective.token.facts())


def test_what_a_checkpoint_gives_back_lies_where_new_tensors_lie(tmp_path, pipe):
    """BLAS may sum a tensor that starts off its 64 bytes in another order: 1e-7 today, another token in 100 steps."""
    objective, path, config = problem(pipe), tmp_path / "run.safetensors", VARIANTS[2]
    list(invert(objective, replace(config, steps=10), checkpoint=path))
    run = file(path, objective, config).load(_begin(config, objective.token.initial))
    held = [run.theta, run.chance, *(t for state in run.states.values() for t in state.values())]
    assert len(held) == 2 + 3 + 4 + 1
    assert all(t.data_ptr() % 64 == 0 and t.is_contiguous() for t in held)
    removed, grad = torch.linalg.qr(torch.randn(768, 100, generator=generator())).Q.T.contiguous(), torch.randn(1, 768)
    off = torch.empty(removed.numel() + 1)[1:].view_as(removed).copy_(removed)
    assert off.data_ptr() % 64 != 0  # such a copy is the same to rounding, and no more is promised
    (one, _), (other, _) = (config.subspace.project(grad, {"removed": r}) for r in (removed, off))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def change(**parts):
    """An objective with some of its parts exchanged."""

    def changed(objective):
        for name, part in parts.items():
            setattr(objective, name, part(objective) if callable(part) else part)
        return objective

    return changed


def other_pictures(objective):
    return cache_latents(objective.pipe, [image.rotate(90) for image in noise_images(3)])


def with_token(initializer, word="<cat>", vectors=1, captions=("a {} at night",), pipe=None):
    """The objective of a word begun elsewhere, in a pipeline where <new> is not."""

    def changed(objective):
        token = ConceptToken(pipe or random_pipeline(), word, initializer, vectors)
        return DenoisingLoss(token.pipe, token, objective.latents, captions, objective.timesteps)

    return changed


def nudged(part: str, name: str):
    """One bit of one weight is another."""

    def changed(objective):
        pipe = random_pipeline()
        # a text encoder's begin with text_model. in transformers 4
        (weight,) = [
            w for found, w in getattr(pipe, part).named_parameters() if found.removeprefix("text_model.") == name
        ]
        weight.data.view(torch.int32).view(-1)[5] ^= 1
        return with_token("teapot", "<new>", pipe=pipe)(objective)

    return changed


def quantized(objective):
    quantize_(objective.pipe.unet, "int8")
    return objective


def retrained(objective):
    """A row of the table, of a word that no caption says."""
    pipe = random_pipeline()
    pipe.text_encoder.get_input_embeddings().weight.data[pipe.tokenizer("cat").input_ids[1]] += 1
    return with_token("teapot", "<new>", pipe=pipe)(objective)


def rescheduled(objective):
    kind = type(objective.pipe.scheduler)
    objective.pipe.scheduler = kind.from_config(objective.pipe.scheduler.config, beta_schedule="linear")
    return objective


class Doubled(DenoisingLoss):
    def mean(self, theta, bank):
        return 2 * super().mean(theta, bank)


def subclassed(objective):
    objective.__class__ = Doubled
    return objective


def captions(*told):
    return lambda o: DenoisingLoss(o.pipe, o.token, o.latents, told, o.timesteps)


@dataclass(frozen=True)
class Own:
    lr: float

    def init(self, theta):
        return {}

    def update(self, grad, theta, state):
        return theta - self.lr * grad, state


def own_estimator(scale):
    def estimator(loss_fn, theta, n, mu, *, generator):
        return rge(loss_fn, theta, n, scale * mu, generator=generator)

    return estimator


same = lambda o: o  # noqa: E731
USUAL = Config(steps=3, subspace=None)
#: What decides a run, by the name it has in the message: another objective, config and start.
OTHERS = {
    "timesteps": [change(timesteps=PartialUniform(0, 100)), change(timesteps=Stratified(PartialUniform(300, 900)))],
    "timesteps ": [change(timesteps=lambda o: SNRWeighted(o.pipe.scheduler.alphas_cumprod))],
    "pictures": [change(latents=other_pictures), change(latents=lambda o: Latents(o.latents.mean, 0 * o.latents.std))],
    "pictures ": [change(latents=lambda o: Latents(o.latents.mean.flip(0), o.latents.std))],
    "captions": [captions("a {} by day"), captions("a {} at night", "a {} at night", "a {}")],
    "captions, word": [with_token("teapot", "<cat>")],
    "word, initial vectors": [with_token("teapot", "<new>", 2)],
    "initial vectors, start": [with_token("cat", "<new>"), with_token(randn(1, 32), "<new>")],
    "U-Net": [nudged("unet", "conv_in.weight"), quantized],
    "text encoder": [nudged("text_encoder", "final_layer_norm.weight")],
    "vocabulary": [retrained],
    "schedule": [rescheduled],
    "objective": [subclassed],
    "mu": [replace(USUAL, mu=1e-2)],
    "n": [replace(USUAL, n=3)],
    "seed": [replace(USUAL, seed=1)],
    "batch": [replace(USUAL, batch=2)],
    "directions": [replace(USUAL, directions="rademacher")],
    "optimizer": [replace(USUAL, optimizer=Own(0.1)), replace(USUAL, optimizer=replace(USUAL.optimizer, lr=1e-4))],
    "subspace": [replace(USUAL, subspace=SubspaceGradient())],
    "estimator": [replace(USUAL, estimator=own_estimator(1))],
    "start": [randn(1, 32)],
}


@pytest.mark.parametrize("named", OTHERS)
def test_what_decides_a_run_belongs_to_it_and_a_difference_is_named(tmp_path, named):
    path = tmp_path / "run.safetensors"
    list(invert(problem(random_pipeline()), USUAL, checkpoint=path))
    good = path.read_bytes()
    for other in OTHERS[named]:
        objective, config, theta = problem(random_pipeline()), replace(USUAL, steps=5), None
        if isinstance(other, Config):
            config = replace(other, steps=5)
        elif isinstance(other, torch.Tensor):
            theta = other
        else:
            objective = other(objective)
        with pytest.raises(ValueError, match=f"another run, which differs in {named.strip()}") as refused:
            next(invert(objective, config, theta, checkpoint=path))
        assert "delete" not in str(refused.value)
        assert path.read_bytes() == good


def test_parts_of_ones_own_are_told_apart_too(tmp_path):
    """A function may be changed and keep its name, and so may the numbers in a class."""
    for i, (one, other) in enumerate(
        [
            (replace(USUAL, estimator=own_estimator(1)), replace(USUAL, estimator=own_estimator(2))),
            (replace(USUAL, optimizer=Own(0.1)), replace(USUAL, optimizer=Own(0.2))),
        ]
    ):
        path = tmp_path / str(i)
        list(invert(problem(random_pipeline()), one, checkpoint=path))
        assert next(invert(problem(random_pipeline()), replace(one, steps=5), checkpoint=path)).index == 4
        with pytest.raises(ValueError, match=r"differs in (estimator|optimizer)"):
            next(invert(problem(random_pipeline()), replace(other, steps=5), checkpoint=path))


def rounded_elsewhere(objective):
    noise = 1e-3 * randn(*objective.latents.mean.shape, seed=9)
    return change(latents=Latents(objective.latents.mean + noise, objective.latents.std * (1 + noise)))(objective)


def with_more_words(objective):
    """Another word came first, so that this one has another row; and what the model holds for it was overwritten."""
    pipe = random_pipeline()
    ConceptToken(pipe, "<other>", "cat")
    changed = with_token("teapot", "<new>", pipe=pipe)(objective)
    changed.token.write(randn(1, 32))
    ConceptToken(pipe, "<more>", "cat")
    return changed


def in_other_chunks(objective):
    objective.max_batch = 1
    return objective


def painted(objective):
    objective.pipe.scheduler = EulerDiscreteScheduler.from_config(objective.pipe.scheduler.config)
    return objective


@pytest.mark.parametrize("elsewhere", [rounded_elsewhere, with_more_words, in_other_chunks, painted])
def test_what_does_not_decide_a_run_may_change(tmp_path, elsewhere):
    path = tmp_path / "run.safetensors"
    list(invert(problem(random_pipeline()), USUAL, checkpoint=path))
    resumed = list(invert(elsewhere(problem(random_pipeline())), replace(USUAL, steps=5), checkpoint=path, every=1))
    assert [step.index for step in resumed] == [4, 5]


def test_a_run_of_sdxl_knows_both_its_encoders(tmp_path):
    path = tmp_path / "run.safetensors"
    list(invert(problem(random_xl_pipeline()), USUAL, checkpoint=path))
    for part, named in (("text_encoder", "text encoder"), ("text_encoder_2", "text encoder"), ("unet", "U-Net")):
        pipe = random_xl_pipeline()
        inside = "conv_in" if part == "unet" else "mlp"
        next(w for name, w in getattr(pipe, part).named_parameters() if inside in name).data.mul_(2)
        with pytest.raises(ValueError, match=f"differs in {named}:"):
            next(invert(problem(pipe), replace(USUAL, steps=5), checkpoint=path))


def test_checkpoints_that_are_damaged_are_refused_and_left_alone(tmp_path, pipe):
    objective, path = problem(pipe), tmp_path / "run.safetensors"
    list(invert(objective, Config(steps=2), checkpoint=path))
    good = path.read_bytes()
    flipped = bytes([*good[:-5], good[-5] ^ 1, *good[-4:]])  # one bit of one number
    later = good.replace(b'"index":"2"', b'"index":"3"')
    assert later != good
    for damage in (good[:100], b"", good[:-7], b"\x80\x04pickle", flipped, later):
        path.write_bytes(damage)
        with pytest.raises(ValueError, match="not a readable checkpoint") as refused:
            next(invert(objective, Config(steps=4), checkpoint=path))
        assert path.read_bytes() == damage
        # what has no seal, or hides it, may be anything: nobody is told to delete that
        assert ("delete" in str(refused.value)) == (damage in (flipped, later))


def test_other_files_are_not_taken_for_checkpoints_and_nobody_is_told_to_delete_them(tmp_path, pipe):
    objective = problem(pipe)
    (tmp_path / "folder").mkdir()
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0 a photo")
    save_file({"<cat>": randn(32)}, tmp_path / "others.safetensors")
    save_file({"m": randn(32)}, tmp_path / "first.safetensors", metadata={"config": "lr=1", "seal": "00", "index": "2"})
    files = {
        objective.token.save(objective.token.initial, tmp_path / "w"): "but a learned word; give this run another path",
        tmp_path / "folder": "is a folder; give this run the path of a file",
        tmp_path / "photo.jpg": "not a readable checkpoint; give this run another path",
        tmp_path / "others.safetensors": "but no run; give this run another path",
        tmp_path / "first.safetensors": "of another version of zoti; give this run another path",
    }
    for path, told in files.items():
        before = path.is_file() and path.read_bytes()
        with pytest.raises(ValueError, match=told) as refused:
            next(invert(objective, Config(), checkpoint=path))
        assert "delete" not in str(refused.value)
        assert (path.is_file() and path.read_bytes()) == before


@pytest.mark.parametrize(
    "damage", ["theta", "chance", "optimizer.m", "more", "renamed", "ndim", "shape", "facts", "form"]
)
def test_whole_checkpoints_of_another_version_are_refused(tmp_path, pipe, damage):
    objective, path = problem(pipe), tmp_path / "run.safetensors"
    list(invert(objective, Config(steps=2), checkpoint=path))
    tensors, facts = read_tensors(path)
    if damage in tensors:
        del tensors[damage]
    elif damage == "facts":
        facts = {name: told for name, told in facts.items() if name not in ("run", "loss")}
    elif damage == "form":
        facts["checkpoint"] = str(int(FORM) + 1)
    elif damage == "shape":
        tensors["chance"] = tensors["chance"][1:]
    elif damage == "ndim":
        tensors["optimizer.m"] = tensors["optimizer.m"][0]
    else:
        tensors |= {"scheduler.lr": randn(1)} if damage == "more" else {"optimizer.mean": tensors.pop("optimizer.m")}
    write_tensors(path, tensors, facts)
    with pytest.raises(ValueError, match=r"another version|of this version") as refused:
        next(invert(objective, Config(steps=4), checkpoint=path))
    assert "delete" not in str(refused.value)


def test_a_place_that_cannot_be_written_is_found_out_before_the_first_step(tmp_path, pipe, monkeypatch):
    objective, asked = problem(pipe), []
    (tmp_path / "file").write_text("mine")
    pipe.unet.register_forward_hook(lambda *_: asked.append(1))
    for place in (tmp_path / "file" / "a", tmp_path / ("x" * 300), "a\0b"):
        with pytest.raises((OSError, ValueError), match="cannot be written"):
            next(invert(objective, Config(), checkpoint=place))
    monkeypatch.setattr(os, "fsync", lambda file: (_ for _ in ()).throw(OSError(errno.ENOSPC, "")))
    with pytest.raises(OSError, match="the disk is full"):
        next(invert(objective, Config(), checkpoint=tmp_path / "a"))
    assert asked == []


def test_a_run_that_took_no_step_leaves_its_place_to_any_other(tmp_path, pipe):
    objective, path = problem(pipe), tmp_path / "run.safetensors"
    run = invert(objective, Config(), checkpoint=path)
    objective.mean = interrupted
    with pytest.raises(KeyboardInterrupt, match="after step 0"):
        next(run)
    del objective.mean
    assert next(invert(objective, Config(mu=1e-2), checkpoint=path)).index == 1


def interrupted(*_):
    raise KeyboardInterrupt


def test_an_interruption_saves_every_step_and_says_where(tmp_path, pipe):
    objective, path = problem(pipe), tmp_path / "run.safetensors"
    whole = list(invert(objective, Config(steps=9)))
    run = invert(objective, Config(steps=9), checkpoint=path)
    for _ in range(4):
        next(run)
    objective.mean = interrupted  # Ctrl-C while the fifth step is computed
    with pytest.raises(
        KeyboardInterrupt, match=r"stopped after step 4, which is kept in .*run.safetensors; the same call"
    ):
        next(run)
    del objective.mean
    rest = list(invert(objective, Config(steps=9), checkpoint=path))
    assert [step.index for step in rest] == [5, 6, 7, 8, 9]
    assert torch.equal(rest[-1].theta, whole[-1].theta)


def test_a_break_or_an_error_in_the_readers_own_loop_loses_no_step(tmp_path, pipe):
    objective, path = problem(pipe), tmp_path / "run.safetensors"
    for step in invert(objective, Config(steps=9), checkpoint=path):
        if step.index == 3:
            break
    for trouble in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(trouble):
            for _ in invert(objective, Config(steps=9), checkpoint=path):
                raise trouble
    objective.mean = lambda *_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        next(invert(objective, Config(steps=9), checkpoint=path))
    del objective.mean
    asked = []
    with pytest.raises(ZeroDivisionError):
        list(invert(objective, Config(steps=9), checkpoint=path, bank=lambda c: asked.append(1) or 1 / 0, every=3))
    assert len(asked) == 1
    rest = list(invert(objective, Config(steps=9), checkpoint=path))
    assert [step.index for step in rest] == [7, 8, 9]
    assert torch.equal(rest[-1].theta, list(invert(objective, Config(steps=9)))[-1].theta)


def test_a_run_that_nobody_wants_any_more_does_no_harm(tmp_path, pipe):
    objective, path = problem(pipe), tmp_path / "runs" / "run.safetensors"
    old = invert(objective, Config(steps=6), checkpoint=path)
    next(old)
    list(invert(objective, Config(steps=6), checkpoint=path))
    finished = path.read_bytes()
    old.close()  # as when a notebook forgets it
    assert path.read_bytes() == finished
    path.unlink()
    old = invert(objective, Config(steps=6), checkpoint=path)
    next(old)
    shutil.rmtree(path.parent)
    del old
    gc.collect()
    assert not path.parent.exists()


def test_two_runs_on_one_file_lose_nothing_that_was_saved(tmp_path, pipe):
    objective, path = problem(pipe), tmp_path / "run.safetensors"
    slow, fast = (invert(objective, Config(steps=6), checkpoint=path, every=1) for _ in range(2))
    next(slow)
    other = invert(objective, Config(steps=6, mu=1e-2), checkpoint=tmp_path / "other", every=1)
    assert [next(fast).index for _ in range(3)] == [2, 3, 4]  # it goes on from the other's file
    assert next(slow).index == 2
    with safe_open(path, "pt") as held:
        assert held.metadata()["index"] == "4"
    next(other)
    (tmp_path / "other").unlink()
    next(invert(objective, Config(steps=6), checkpoint=tmp_path / "other", every=1))
    with pytest.raises(ValueError, match="belongs to another run, which differs in mu"):
        next(other)
    one, two = list(slow)[-1], list(fast)[-1]
    assert torch.equal(one.theta, two.theta)


@pytest.mark.slow
def test_processes_that_write_one_file_at_the_same_time_all_finish(tmp_path, pipe, one_thread):
    path = tmp_path / "run.safetensors"
    script = textwrap.dedent(f"""
        import torch
        from tests.helpers import problem, random_pipeline
        from tests.lib.test_checkpoint import CONFIG
        from zoti import invert
        torch.set_num_threads(1)
        print(len(list(invert(problem(random_pipeline()), CONFIG, checkpoint={str(path)!r}, every=1))))
        """)
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    runs = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment) for _ in range(3)]
    assert [run.wait() for run in runs] == [0, 0, 0]
    for run in runs:
        run.stdout.close()
    (last,) = invert(problem(pipe), CONFIG, checkpoint=path)
    assert torch.equal(last.theta, list(invert(problem(random_pipeline()), CONFIG))[-1].theta)
    assert [file.name for file in tmp_path.iterdir()] == ["run.safetensors"]
