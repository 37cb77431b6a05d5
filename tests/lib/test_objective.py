"""One batch for all candidates must leave the loss what it is, and the counting exact."""

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
)

from tests.conftest import random_pipeline
from zoti import ConceptToken, Config, DenoisingLoss, PartialUniform, invert, quantize_, spsa
from zoti.data import Latents


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=generator(seed))


def problem(pipe, **options) -> DenoisingLoss:
    latents = Latents(randn(3, 4, 8, 8), randn(3, 4, 8, 8, seed=1).abs() / 10)
    token = ConceptToken(pipe, "<new>", "teapot")
    return DenoisingLoss(pipe, token, latents, ["a {} at night"], PartialUniform(300, 900), **options)


def batches(pipe) -> list[int]:
    """The sizes of the batches that the U-Net is asked from now on."""
    seen: list[int] = []
    pipe.unet.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    return seen


@pytest.mark.parametrize("kind", [PNDMScheduler, EulerDiscreteScheduler, DPMSolverMultistepScheduler])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_loss_is_the_models_whatever_scheduler_paints_with_it(kind, prediction):
    """SD1.5 comes with PNDM, SDXL with Euler, whose own `add_noise` is of another scale and has gaps after painting."""
    pipe = random_pipeline(prediction)
    objective, theta = problem(pipe), randn(2, 1, 32)
    draw = objective.draw(generator())
    z_t = pipe.scheduler.add_noise(draw.z, draw.noise, draw.t)
    with torch.no_grad():
        losses = objective(theta, draw)
        objective.token.write(theta[1])
        states = pipe.encode_prompt("a <new> at night", "cpu", 1, False)[0]
        predicted = pipe.unet(z_t, draw.t, states).sample
        target = draw.noise if prediction == "epsilon" else pipe.scheduler.get_velocity(draw.z, draw.noise, draw.t)
        torch.testing.assert_close(losses[1], (predicted - target).square().mean(), rtol=1e-5, atol=1e-6)
        pipe.scheduler = kind.from_config({**pipe.scheduler.config, "skip_prk_steps": True})  # as SD1.5's PNDM has it
        pipe("a cat", num_inference_steps=2, guidance_scale=1.0, output_type="latent")
        assert torch.equal(objective(theta, draw), losses)


def test_schedulers_with_another_target_or_another_noise_are_refused(pipe):
    for scheduler in (DDIMScheduler(prediction_type="sample"), EDMEulerScheduler()):
        pipe.scheduler = scheduler
        pipe.tokenizer, pipe.text_encoder = random_pipeline().tokenizer, random_pipeline().text_encoder
        with pytest.raises(ValueError, match=type(scheduler).__name__):
            problem(pipe)


@pytest.mark.parametrize("max_batch, chunks", [(64, [7]), (7, [7]), (3, [3, 3, 1]), (1, [1] * 7)])
def test_candidates_go_in_chunks_of_at_most_max_batch(pipe, max_batch, chunks):
    objective = problem(pipe)
    theta, draw = randn(7, 1, 32), objective.draw(generator())
    with torch.inference_mode():
        whole = objective(theta, draw)
        objective.max_batch, seen = max_batch, batches(pipe)
        torch.testing.assert_close(objective(theta, draw), whole, rtol=1e-5, atol=1e-7)
    assert seen == chunks


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("weights", ["none", "int8"])
def test_a_candidate_is_judged_as_if_it_were_alone_and_differentiably(prediction, weights):
    pipe = random_pipeline(prediction)
    if weights != "none":
        quantize_(pipe.unet, weights)
    objective = problem(pipe)
    theta, draw = randn(3, 1, 32).requires_grad_(), objective.draw(generator())
    losses = objective(theta, draw)
    (together,) = torch.autograd.grad(losses.sum(), theta)
    for b in range(3):
        alone = theta[b : b + 1].detach().requires_grad_()
        loss = objective(alone, draw)
        (grad,) = torch.autograd.grad(loss.sum(), alone)
        torch.testing.assert_close(loss[0], losses[b], rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(grad[0], together[b], rtol=1e-3, atol=1e-6)
        with torch.inference_mode():
            torch.testing.assert_close(objective(theta[b : b + 1], draw), loss.detach(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("config, candidates", [(Config(steps=5, n=2), 3), (Config(steps=5, n=4, estimator=spsa), 8)])
def test_a_step_is_one_batch_and_the_run_counts_every_candidate(pipe, config, candidates):
    objective, seen = problem(pipe), batches(pipe)
    last = list(invert(objective, config))[-1]
    assert seen == [candidates] * 5
    assert last.evaluations == sum(seen)


def test_a_step_asks_the_vae_for_nothing(pipe):
    objective = problem(pipe)
    pipe.vae = None
    assert next(invert(objective, Config())).loss > 0


def test_token_ids_and_losses_follow_a_growing_vocabulary(pipe):
    objective = problem(pipe)
    token, prompt = objective.token, "a <new> with a <hat>"
    before, plain = token.ids(prompt), token.ids("a <new> at night")
    theta, draw = randn(2, 1, 32), objective.draw(generator())
    with torch.inference_mode():
        loss = objective(theta, draw)
    hat = ConceptToken(pipe, "<hat>", "cat")
    with torch.inference_mode():
        torch.testing.assert_close(objective(theta, draw), loss, rtol=1e-6, atol=1e-8)
    assert not torch.equal(token.ids(prompt), before)  # "<hat>" was letters, now it is a word
    assert torch.equal(hat.ids(prompt), token.ids(prompt))
    assert torch.equal(token.ids("a <new> at night"), plain)
