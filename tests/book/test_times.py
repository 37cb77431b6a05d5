"""Chapter 7: what it builds by hand is what zoti supplies, and its shares of signal are those of known draws."""

import ast
from pathlib import Path

import nbformat
import pytest
import torch

from zoti import (
    ConceptToken,
    DenoisingLoss,
    PartialUniform,
    SNRWeighted,
    Stratified,
    Uniform,
    cache_latents,
    load_pipeline,
    rge,
)
from zoti.data import load_subject
from zoti.objective import Draw

CHAPTER = Path(__file__).parents[2] / "book" / "07-which-timesteps-listen-to-words.ipynb"


def own(*names, **scope):
    """Functions that the chapter defines, in order; each may use those before it, and what is given."""
    scope["torch"] = torch
    for name in names:
        for cell in nbformat.read(CHAPTER, as_version=4).cells:
            if cell.cell_type == "code" and f"def {name}(" in cell.source:
                (body,) = [n for n in ast.parse(cell.source).body if isinstance(n, ast.FunctionDef) and n.name == name]
                exec(compile(ast.Module([body], []), name, "exec"), scope)
    return [scope[name] for name in names]


def dice(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def pipe():
    return load_pipeline("tiny-sd", weights="int8")


@pytest.fixture(scope="module")
def teapot(pipe):
    subject = load_subject("teapot")
    token = ConceptToken(pipe, "<teapot>", initializer=subject.class_word, replace=True)
    return token, cache_latents(pipe, subject.references), subject.captions


def test_the_chapters_samplers_are_zotis(pipe):
    abar = pipe.scheduler.alphas_cumprod
    puts, noisy_ones, stratified = own("puts", "noisy_ones", "stratified", abar=abar)
    assert torch.equal(puts(500, 900, 50, dice()), PartialUniform(500, 900).sample(50, dice()))
    assert torch.equal(noisy_ones(50, dice()), SNRWeighted(abar).sample(50, dice()))
    assert torch.equal(stratified(50, dice()), Stratified(Uniform()).sample(50, dice()))


def test_the_chapters_losses_and_estimates_are_zotis(pipe, teapot):
    token, latents, captions = teapot
    objective = DenoisingLoss(pipe, token, latents, captions, Uniform())
    losses, ask = own("losses", "ask", pipe=pipe, abar=pipe.scheduler.alphas_cumprod)
    z = latents.mean[2:3]
    noise, t = torch.randn(z.shape, generator=dice(1)), torch.tensor([40, 610, 930])
    words = token.initial + 0.1 * torch.randn(3, token.initial.shape[1], generator=dice(2))
    draws = [Draw(2, one, z, noise) for one in t.split(1)]
    with torch.no_grad():
        mine = losses(token, words[:, None], objective.prompts[2], z, noise, t)
        ours = [objective(word[None, None], draw)[0] for word, draw in zip(words, draws, strict=True)]
        assert torch.allclose(mine, torch.stack(ours), rtol=1e-4)

        pupil = type("Pupil", (), {"token": token, "prompts": objective.prompts, "latents": latents.mean})
        e = torch.randn(2, 1, words.shape[1], generator=dice(3))
        for grad, word, draw in zip(ask(pupil, words, 2, noise, t, e), words, draws, strict=True):
            theirs = rge(lambda c, draw=draw: objective(c, draw), word[None], 2, 1e-3, generator=dice(3)).grad[0]
            # a slope is a difference of losses over 0.001: the last digits of a float are a percent of it
            assert (grad - theirs).norm() < 0.05 * theirs.norm()


def test_the_share_of_signal_is_that_of_draws_whose_signal_is_known():
    signal_and_whole, share_under = own("signal_and_whole", "share_under")
    means = torch.tensor([[3.0, 0, 0, 0], [0, 2.0, 0, 0]])  # at two times; noise of variance 1 in 4 dimensions
    many = means + torch.randn(20_000, 2, 4, generator=dice())
    common, whole = signal_and_whole(many)
    assert torch.allclose(common, torch.tensor([9.0, 4.0]), atol=0.2)
    assert torch.allclose(whole, torch.tensor([13.0, 8.0]), atol=0.2)
    # few draws: the length of their mean alone would be too long by a third of the noise
    few = torch.stack([signal_and_whole(g)[0] for g in many[:19_998].split(3)]).mean(0)
    assert torch.allclose(few, torch.tensor([9.0, 4.0]), atol=0.2)
    rho, between = share_under(torch.tensor([1.0, 3.0]), many)
    assert rho == pytest.approx((0.75**2 + 1.5**2) / (0.25 * 13 + 0.75 * 8), abs=0.01)
    assert between == pytest.approx((0.25 * 9 + 0.75 * 4 - 0.75**2 - 1.5**2) / 9.25, abs=0.01)
