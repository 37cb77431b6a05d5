"""A run's file: resumed to the same bits, replaced whole, refused when damaged."""

import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace

import pytest
import torch

from tests.helpers import VARIANTS, generator, problem, random_pipeline
from zoti import ConceptToken, Config, DenoisingLoss, SubspaceGradient, invert
from zoti.checkpoint import Run, load_checkpoint

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
