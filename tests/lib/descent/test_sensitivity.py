"""The sensitive directions against autograd's own Jacobian of all that the U-Net hears."""

import pytest
import torch

from tests.helpers import generator, problem, quantized, random_pipeline, random_xl_pipeline, speaking_pipeline
from zoti import ConceptToken, load_pipeline, sensitive_directions


def heard(objective, theta: torch.Tensor) -> torch.Tensor:
    """Everything that the layers which listen answer to a word (k, d) while the U-Net runs, one after the other."""
    answers, unet = [], objective.pipe.unet
    names = dict(unet.named_modules())
    listening = [m for n, m in names.items() if n.endswith(("attn2.to_k", "attn2.to_v"))]
    hooks = [m.register_forward_hook(lambda _, args, output: answers.append(output.flatten())) for m in listening]
    if unet.config.addition_embed_type is not None:
        times = [m.weight for n, m in names.items() if n.endswith("time_emb_proj")]
        hooks.append(
            unet.add_embedding.register_forward_hook(
                lambda _, args, output: answers.extend((output @ w.T).flatten() for w in times)
            )
        )
    objective(theta[None], objective.draw(generator()))
    for hook in hooks:
        hook.remove()
    return torch.cat(answers)


@pytest.mark.parametrize(
    ("make", "weights"), [(random_pipeline, "nf4"), (speaking_pipeline, "int8"), (random_xl_pipeline, "none")]
)
def test_spectrum_and_directions_are_those_of_the_jacobian(make, weights):
    objective = problem(quantized(make(), weights), 2)
    start = objective.token.initial
    jacobian = torch.autograd.functional.jacobian(lambda theta: heard(objective, theta), start).flatten(1).double()
    spectrum, vectors = torch.linalg.eigh(jacobian.T @ jacobian)
    found = sensitive_directions(objective.token, objective.prompts[:1], share=0.9, mu=1e-3)
    torch.testing.assert_close(found.spectrum.double(), spectrum.flip(0), rtol=2e-2, atol=2e-3 * float(spectrum[-1]))
    r = len(found.rows)
    assert 1 < r < start.numel()
    rows = found.rows.flatten(1).double()
    torch.testing.assert_close(rows @ rows.T, torch.eye(r, dtype=torch.float64), rtol=0, atol=1e-5)
    exact = vectors.flip(1).T[:r]
    held = (jacobian @ rows.T).square().sum() / jacobian.square().sum()
    assert held > 0.9
    assert held == pytest.approx(float((jacobian @ exact.T).square().sum() / jacobian.square().sum()), abs=1e-3)
    assert found.share == pytest.approx(float(held), abs=2e-3)


def test_no_fewer_directions_would_hold_the_share(pipe):
    objective = problem(pipe)
    for share in (0.5, 0.9, 0.99, 1.0):
        found = sensitive_directions(objective.token, objective.prompts[:1], share)
        assert found.share >= share - 1e-6
        held = found.spectrum.cumsum(0) / found.spectrum.sum()
        assert len(found.rows) == 1 or held[len(found.rows) - 2] < share
    assert len(found.rows) <= 32
    assert bool((found.spectrum.diff() <= 1e-6 * found.spectrum[0]).all())


def test_text_passes_are_counted_and_nothing_else_is_asked(pipe):
    objective, passes = problem(pipe, 2), []
    pipe.text_encoder.register_forward_hook(lambda module, args, output: passes.append(len(output[0])))
    pipe.unet.register_forward_hook(lambda *_: pytest.fail("no U-Net pass is needed"))
    found = sensitive_directions(objective.token, ["a <new>", "a <new> in the snow"])
    assert sum(passes) == found.text_passes == 2 * 65
    assert found.length == pytest.approx(float(objective.token.initial.norm(dim=1).mean()))


def test_on_tiny_sd_few_directions_hold_the_gradient():
    """What no text pass could know: the loss's own gradient, through the whole U-Net, lies where it listens."""
    from zoti import DenoisingLoss, PartialUniform, cache_latents
    from zoti.data import load_subject

    pipe, teapot = load_pipeline(), load_subject("teapot")
    token = ConceptToken(pipe, "<new>", "teapot")
    latents = cache_latents(pipe, teapot.references)
    objective = DenoisingLoss(pipe, token, latents, teapot.captions, PartialUniform(500, 900))
    theta = token.initial.clone().requires_grad_()
    for draw in objective.bank(4, generator()):
        objective(theta[None], draw).sum().backward()
    found = sensitive_directions(token, objective.prompts[:1])
    rows = found.rows.flatten(1)
    assert len(rows) < theta.numel() / 2
    assert (rows @ theta.grad.flatten()).norm() > 0.97 * theta.grad.norm()


def test_bad_arguments(pipe):
    objective = problem(pipe)
    for bad in ({"share": 0.0}, {"share": 1.1}, {"prompts": []}, {"mu": 0.0}, {"mu": float("inf")}):
        with pytest.raises(ValueError, match="share"):
            sensitive_directions(objective.token, **{"prompts": objective.prompts, **bad})
    with pytest.raises(ValueError, match="does not hold"):
        sensitive_directions(objective.token, ["a cat"])
