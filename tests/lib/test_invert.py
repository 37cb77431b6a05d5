"""The loop: what a step is, what a run leaves alone, and when it stops."""

from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers import VARIANTS, generator, noise_images, problem, random_pipeline, random_xl_pipeline
from zoti import (
    ZOSGD,
    ConceptToken,
    Config,
    DenoisingLoss,
    Guided,
    PartialUniform,
    RandomSubspace,
    Stratified,
    ZOAdam,
    cache_latents,
    invert,
    one_point,
    quantize_,
    rge,
    spsa,
)


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


def test_what_is_handed_out_is_the_readers_to_keep(pipe):
    """Whatever one does to it in place, in a loop, in the bank, or in parts of one's own."""

    @dataclass(frozen=True)
    class InPlace(ZOAdam):
        def update(self, grad, theta, state):
            after = super().update(grad, theta, state)
            for tensor in (grad, theta, *state.values()):
                tensor.zero_()
            return after

    def in_place(loss_fn, theta, n, mu, *, generator):
        estimate = rge(loss_fn, theta, n, mu, generator=generator)
        theta.zero_()
        return estimate

    objective, bank = problem(pipe), []
    whole = [(step.theta, step.loss) for step in invert(objective, Config(steps=6, subspace=None))]
    config = Config(steps=6, subspace=None, optimizer=InPlace(), estimator=in_place)
    for step, (theta, loss) in zip(
        invert(objective, config, bank=lambda c: bank.append(c.zero_()) or 0.0, every=1), whole, strict=True
    ):
        assert torch.equal(step.theta, theta)
        assert step.loss == loss
        step.theta.div_(step.theta.norm())
    assert len(bank) == 6


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


@pytest.mark.parametrize(
    ("bias", "told"), [(float("nan"), "not finite"), (float("inf"), "not finite"), (9.0, "predicting nothing costs")]
)
def test_a_loss_that_explodes_stops_the_run_and_keeps_the_last_token_with_a_sound_loss(tmp_path, pipe, bias, told):
    objective, path = problem(pipe), tmp_path / "run.safetensors"
    healthy = list(invert(objective, Config(steps=2)))[-1].theta
    run = invert(objective, Config(steps=10), checkpoint=path, every=1)
    for _ in range(3):
        next(run)
    sound = pipe.unet.conv_out.bias.clone()
    torch.nn.init.constant_(pipe.unet.conv_out.bias, bias)
    with pytest.raises(FloatingPointError, match=f"{told}.* at step 4; the token of step 2.*run.safetensors"):
        next(run)  # step 4 asks the token of step 3, of which nobody has seen a sound loss
    assert torch.equal(load_file(path)["theta"], healthy)
    pipe.unet.conv_out.bias.copy_(sound)
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


def test_a_word_may_start_from_nothing(pipe):
    token = ConceptToken(pipe, "<new>", torch.zeros(1, 32))
    objective = DenoisingLoss(pipe, token, cache_latents(pipe, noise_images()), ["a {}"], PartialUniform(300, 900))
    assert [step.index for step in invert(objective, Config(steps=2))] == [1, 2]


def test_invert_runs_on_sdxl_and_resumes_to_the_same_bits(xl, tmp_path):
    config, path = Config(steps=6), tmp_path / "run.safetensors"
    whole = list(invert(problem(xl, 2), config))
    assert whole[-1].theta.shape == (2, 80)
    moved = (whole[-1].theta - problem(random_xl_pipeline(), 2).token.initial).abs()
    assert all(part.max() > 0 for part in moved.split([32, 48], 1))
    run = invert(problem(random_xl_pipeline(), 2), config, checkpoint=path, every=2)
    for _ in range(3):
        next(run)
    rest = list(invert(problem(random_xl_pipeline(), 2), config, checkpoint=path))
    assert rest[0].index == 3
    assert torch.equal(rest[-1].theta, whole[-1].theta)
