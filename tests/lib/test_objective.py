"""What makes the loss quick must leave it what it is: batches, chunks, and recordings of the network."""

from itertools import pairwise

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import nn

from tests.conftest import random_pipeline
from zoti import ConceptToken, Config, DenoisingLoss, PartialUniform, invert, quantize_, spsa
from zoti.data import Latents
from zoti.replay import Replay


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=generator(seed))


def problem(pipe, after: int = 0, **options) -> DenoisingLoss:
    latents = Latents(randn(3, 4, 8, 8), randn(3, 4, 8, 8, seed=1).abs() / 10)
    token = ConceptToken(pipe, "<new>", "teapot")
    objective = DenoisingLoss(pipe, token, latents, ["a {} at night"], PartialUniform(300, 900), **options)
    objective.predict.after = after
    return objective


def recorded(objective: DenoisingLoss) -> list[bool]:
    return [recording is not None for recording in objective.predict.recordings.values()]


def by_the_network(objective: DenoisingLoss, theta: torch.Tensor, draw) -> torch.Tensor:
    """The losses of the same objective without any recording."""
    objective.predict, kept = Replay(objective.pipe.unet, after=10**9), objective.predict
    losses = objective(theta, draw)
    objective.predict = kept
    return losses


@pytest.mark.parametrize(
    "weights, can", [("none", True), ("int8", True), ("int4", True), ("nf4", True), ("llm_int8", False)]
)
def test_a_recording_gives_every_bit_for_every_kind_of_weights(weights, can):
    pipe = random_pipeline()
    if weights != "none":
        quantize_(pipe.unet, weights)
    objective, chance = problem(pipe), generator(1)
    with torch.inference_mode():
        for b in (1, 3):
            for seed in range(2):  # other pictures, times and noises than it was recorded with
                theta, draw = randn(b, 1, 32, seed=seed), objective.draw(chance)
                assert torch.equal(objective(theta, draw), by_the_network(objective, theta, draw))
    assert recorded(objective) == [can] * 2


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_a_run_takes_the_same_steps_with_recordings_and_without(prediction):
    plain, quick = (list(invert(problem(random_pipeline(prediction), after), Config(steps=8))) for after in (10**9, 3))
    assert all(torch.equal(a.theta, b.theta) and a.loss == b.loss for a, b in zip(plain, quick, strict=True))


def test_a_run_resumed_with_other_recordings_ends_in_the_same_bits(tmp_path, pipe):
    objective, path = problem(pipe, after=4), tmp_path / "run.safetensors"
    whole = list(invert(objective, Config(steps=12)))
    assert recorded(objective) == [True]
    fresh = problem(random_pipeline(), after=4)
    list(invert(fresh, Config(steps=6), checkpoint=path))
    fresh.predict = Replay(fresh.pipe.unet, after=4)
    rest = list(invert(fresh, Config(steps=12), checkpoint=path))
    assert torch.equal(rest[-1].theta, whole[-1].theta)


def test_a_recording_sees_what_becomes_of_the_network(pipe):
    objective = problem(pipe)
    theta, draw = randn(3, 1, 32), objective.draw(generator())
    heard, losses = [], []

    def listen() -> None:
        handle = pipe.unet.mid_block.register_forward_hook(lambda *_: heard.append(1))
        objective(theta, draw)
        handle.remove()

    changes = [
        lambda: pipe.unet.conv_out.weight.mul_(1.5),
        lambda: quantize_(pipe.unet),
        lambda: pipe.unet.conv_out.scale.mul_(1.5),
        lambda: pipe.unet.set_attn_processor(AttnProcessor()),
        listen,
    ]
    with torch.inference_mode():
        losses.append(objective(theta, draw))
        for change in changes:
            change()
            losses.append(objective(theta, draw))
            assert torch.equal(losses[-1], by_the_network(objective, theta, draw))
            assert recorded(objective) == [True]
    assert heard == [1]
    assert all(not torch.equal(a, b) for a, b in pairwise(losses[:4]))


def test_gradients_go_through_the_network_itself(pipe):
    objective = problem(pipe)
    draw, theta = objective.draw(generator()), objective.token.initial[None].clone()
    with torch.inference_mode():
        value = objective(theta, draw)
    theta.requires_grad_()
    loss = objective(theta, draw)
    loss.sum().backward()
    torch.testing.assert_close(loss.detach(), value)
    assert theta.grad is not None and theta.grad.abs().max() > 0
    assert recorded(objective) == [True]


def test_arguments_may_be_nested_as_in_sdxl():
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8, attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 16,
    ).eval()  # fmt: skip
    quick = Replay(unet, after=0)
    with torch.inference_mode():
        for seed in range(3):
            x, states, pooled = (randn(*s, seed=seed) for s in ((2, 4, 8, 8), (2, 7, 32), (2, 16)))
            told = {"text_embeds": pooled, "time_ids": torch.full((2, 6), 64.0 + seed)}
            options = {"encoder_hidden_states": states, "added_cond_kwargs": told}
            t = torch.tensor([400 + seed])
            assert torch.equal(quick(x, t, **options), unet(x, t, **options).sample)
    assert [r is not None for r in quick.recordings.values()] == [True]


class Fork(nn.Module):
    """What no recording can hold: another road for other numbers."""

    def forward(self, x: torch.Tensor, return_dict: bool = True) -> tuple[torch.Tensor]:
        if not torch.isfinite(x).all():
            raise FloatingPointError("not finite")
        return (x * 2 if x.sum() > 0 else x - 1,)


def test_a_network_that_cannot_be_recorded_is_called():
    network = Fork()
    quick = Replay(network, after=1)
    with torch.inference_mode():
        for seed in range(5):
            x = randn(3, seed=seed).abs()
            assert torch.equal(quick(x), x * 2)
        assert torch.equal(quick(-x), -x - 1)
        with pytest.raises(FloatingPointError, match="not finite"):
            quick(x * float("nan"))
    assert list(quick.recordings.values()) == [None]


@pytest.mark.parametrize("max_batch, chunks", [(64, [7]), (3, [3, 3, 1]), (1, [1] * 7)])
def test_candidates_go_in_chunks_of_at_most_max_batch(pipe, max_batch, chunks):
    objective = problem(pipe)
    theta, draw, seen = randn(7, 1, 32), objective.draw(generator()), []
    with torch.inference_mode():
        whole = objective(theta, draw)
        objective.max_batch = max_batch
        torch.testing.assert_close(objective(theta, draw), whole, rtol=1e-5, atol=1e-7)
        pipe.unet.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
        objective(theta, draw)
    assert seen == chunks


@pytest.mark.parametrize("config, candidates", [(Config(steps=5, n=2), 3), (Config(steps=5, n=4, estimator=spsa), 8)])
def test_the_network_answers_as_often_as_the_run_counts(pipe, config, candidates):
    objective, rows = problem(pipe, after=2), []
    network = objective.predict
    objective.predict = lambda z, *t, **told: rows.append(len(z)) or network(z, *t, **told)
    last = list(invert(objective, config))[-1]
    assert rows == [candidates] * 5
    assert last.evaluations == sum(rows)


def test_token_ids_follow_a_growing_vocabulary(pipe):
    objective = problem(pipe)
    token, prompt = objective.token, "a <new> with a <hat>"
    before, theta = token.ids(prompt).flatten(), randn(2, 1, 32)
    plain = token.ids("a <new> at night")
    draw = objective.draw(generator())
    with torch.inference_mode():
        loss = objective(theta, draw)
        hat = ConceptToken(pipe, "<hat>", "cat")
        after = token.ids(prompt).flatten()
        torch.testing.assert_close(objective(theta, draw), loss, rtol=1e-6, atol=1e-8)
    assert not torch.equal(before, after)  # "<hat>" was letters, now it is a word
    assert torch.tensor(hat.token_ids).flatten()[0] in after
    assert torch.equal(token.ids("a <new> at night"), plain)
