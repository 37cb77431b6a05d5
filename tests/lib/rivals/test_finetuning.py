"""DreamBooth: the U-Net is trained and nothing else is changed."""

import copy

import pytest
import torch

from tests.helpers import KINDS, all_equal, generator, problem
from zoti import ConceptToken, DenoisingLoss, quantize_
from zoti.rivals import dreambooth


def weights_of(module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in module.parameters()]


def test_dreambooth_trains_the_unet_and_nothing_else(pipe):
    objective = problem(pipe)
    bank, token = objective.bank(16, generator(7)), objective.token.initial.clone()
    start = objective.mean(token[None], bank)
    parts = (pipe.unet, pipe.text_encoder, pipe.vae)
    before = [weights_of(part) for part in parts]
    steps = list(dreambooth(objective, steps=20, lr=1e-3))
    assert [all_equal(weights_of(part), old) for part, old in zip(parts, before, strict=True)] == [False, True, True]
    assert [s.evaluations for s in steps] == list(range(1, 21))
    assert all(torch.equal(s.theta, token) for s in steps)
    assert objective.mean(token[None], bank) < start
    for part in parts:
        assert not any(p.requires_grad or p.grad is not None for p in part.parameters())


def test_dreambooth_leaves_no_gradient_in_a_text_encoder_that_takes_them(pipe):
    pipe.text_encoder.requires_grad_()
    list(dreambooth(problem(pipe), steps=1))
    assert all(p.requires_grad and p.grad is None for p in pipe.text_encoder.parameters())


def test_dreambooth_refuses_a_prior_on_another_pipeline(pipe):
    other = problem(copy.deepcopy(pipe))
    with pytest.raises(ValueError, match="another pipeline"):
        next(dreambooth(problem(pipe), other))


def test_dreambooth_closed_early_freezes_what_was_frozen(pipe):
    run = dreambooth(problem(pipe))
    loose = pipe.unet.conv_in.weight.requires_grad_()
    next(run)
    assert all(p.requires_grad for p in pipe.unet.parameters())
    run.close()
    assert [p for p in pipe.unet.parameters() if p.requires_grad] == [loose]


def test_dreambooth_with_a_prior_descends_on_the_sum(pipe):
    objective = problem(pipe)
    word = ConceptToken(pipe, "<class>", "teapot")
    prior = DenoisingLoss(pipe, word, objective.latents, ["a {}"], objective.timesteps)
    chance, weight = generator(3), pipe.unet.conv_in.weight
    draws = [term.draw(chance) for term in (objective, prior)]
    weight.requires_grad_()
    losses = [term(term.token.initial[None], d)[0] for term, d in zip((objective, prior), draws, strict=True)]
    (grad,) = torch.autograd.grad(sum(losses), weight)
    weight.requires_grad_(False)
    before = weight.clone()
    (step,) = dreambooth(objective, prior, steps=1, lr=1e-3, seed=3)
    # the first step of Adam is its sign, after a weight decay of one hundredth
    expected = before * (1 - 1e-5) - 1e-3 * grad / (grad.abs() + 1e-8)
    torch.testing.assert_close(weight.detach(), expected, rtol=1e-4, atol=1e-6)
    assert step.evaluations == 2
    assert step.loss == pytest.approx(losses[0].item(), rel=1e-5)


@pytest.mark.parametrize("weights", [*KINDS, "float16"])
def test_dreambooth_refuses_weights_it_cannot_train(pipe, weights):
    objective = problem(pipe)
    (pipe.unet.half() if weights == "float16" else quantize_(pipe.unet, weights))
    before = [p.requires_grad for p in pipe.unet.parameters()]
    with pytest.raises(ValueError, match="weights='none'"):
        next(dreambooth(objective))
    assert [p.requires_grad for p in pipe.unet.parameters()] == before
