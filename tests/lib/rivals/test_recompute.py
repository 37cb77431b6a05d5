"""Gradient checkpointing: the same steps in less memory, and nothing left of it between them."""

import pytest
import torch

from tests.helpers import KINDS, problem, quantized
from zoti.ledger import Ledger
from zoti.rivals import textual_inversion


def modes(unet) -> list[tuple[bool, bool]]:
    return [(m.training, getattr(m, "gradient_checkpointing", False)) for m in unet.modules()]


@pytest.mark.parametrize("weights", ["none", *KINDS])
def test_checkpointing_takes_the_same_steps_and_computes_twice(pipe, weights):
    objective = problem(quantized(pipe, weights))
    before, calls = modes(pipe.unet), []
    pipe.unet.up_blocks[-1].resnets[0].register_forward_pre_hook(lambda *_: calls.append(1))
    plain = list(textual_inversion(objective, steps=3))
    assert len(calls) == 3
    twice = list(textual_inversion(objective, steps=3, checkpointing=True))
    assert len(calls) == 3 + 6
    for a, b in zip(plain, twice, strict=True):
        torch.testing.assert_close(a.theta, b.theta, rtol=1e-5, atol=1e-6)
        assert a.loss == pytest.approx(b.loss, rel=1e-6)
    assert modes(pipe.unet) == before


def test_checkpointing_keeps_less(pipe):
    objective, peaks = problem(quantized(pipe, "int8")), []
    for checkpointing in (False, True):
        with Ledger() as ledger:
            list(textual_inversion(objective, steps=1, checkpointing=checkpointing))
        peaks.append(ledger.peak.total)
    assert peaks[1] < 0.8 * peaks[0]


def test_checkpointing_ends_with_the_step_whatever_becomes_of_the_run(pipe, monkeypatch):
    objective, before = problem(pipe), modes(pipe.unet)
    run = textual_inversion(objective, steps=3, checkpointing=True)
    next(run)
    assert modes(pipe.unet) == before  # between steps one may paint
    run.close()
    assert modes(pipe.unet) == before
    monkeypatch.setattr(pipe.unet.mid_block, "forward", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        next(textual_inversion(objective, checkpointing=True))
    assert modes(pipe.unet) == before
    pipe.unet.enable_gradient_checkpointing()  # somebody else's wish is kept as well
    wished = modes(pipe.unet)
    monkeypatch.undo()
    next(textual_inversion(objective, checkpointing=True))
    assert modes(pipe.unet) == wished != before
