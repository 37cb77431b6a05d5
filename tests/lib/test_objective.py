"""One batch for all candidates must leave the loss what it is, and the counting exact."""

import warnings

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
)

from tests.helpers import generator, noise_images, problem, randn, random_pipeline, stock_states
from zoti import (
    ConceptToken,
    Config,
    DenoisingLoss,
    PartialUniform,
    SNRWeighted,
    Stratified,
    cache_latents,
    invert,
    quantize_,
    spsa,
)
from zoti.data import Latents
from zoti.rivals import textual_inversion


def bare_problem(pipe, **options) -> DenoisingLoss:
    """Like `problem`, with latents made up instead of encoded."""
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
    objective, theta = bare_problem(pipe), randn(2, 1, 32)
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
            bare_problem(pipe)


@pytest.mark.parametrize("max_batch, chunks", [(64, [7]), (7, [7]), (3, [3, 3, 1]), (1, [1] * 7)])
def test_candidates_go_in_chunks_of_at_most_max_batch(pipe, max_batch, chunks):
    objective = bare_problem(pipe)
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
    objective = bare_problem(pipe)
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
    objective, seen = bare_problem(pipe), batches(pipe)
    last = list(invert(objective, config))[-1]
    assert seen == [candidates] * 5
    assert last.evaluations == sum(seen)


def test_a_step_asks_the_vae_for_nothing(pipe):
    objective = bare_problem(pipe)
    pipe.vae = None
    assert next(invert(objective, Config())).loss > 0


def test_token_ids_and_losses_follow_a_growing_vocabulary(pipe):
    objective = bare_problem(pipe)
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


def test_objectives_take_any_sampler(pipe):
    token, latents = ConceptToken(pipe, "<new>", "teapot"), cache_latents(pipe, noise_images())
    sampler = Stratified(SNRWeighted(pipe.scheduler.alphas_cumprod))
    objective = DenoisingLoss(pipe, token, latents, ["a {}"], sampler)
    times = torch.cat([d.t for d in objective.bank(20, generator())])
    slices = sampler.probabilities.cumsum(0)[times].mul(20).floor()
    assert len(slices.unique()) >= 19  # one from each twentieth, but for rounding at the edges
    assert next(invert(objective, Config())).loss > 0


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


def test_coarse_activations_are_warned_of(pipe):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        objective = problem(pipe)
        for dtype in (torch.float16, torch.float32):
            pipe.unet.to(dtype)
            DenoisingLoss(pipe, objective.token, objective.latents, ["a {}"], PartialUniform(0, 1000))
    pipe.unet.to(torch.bfloat16)
    with pytest.warns(UserWarning, match="bfloat16.*float16 or float32; else a larger mu"):
        DenoisingLoss(pipe, objective.token, objective.latents, ["a {}"], PartialUniform(0, 1000))
