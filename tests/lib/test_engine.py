"""onnxruntime against PyTorch: the same losses, the same differences of losses, the same run."""

import copy
import sys
from dataclasses import replace

import pytest
import torch

from tests.helpers import generator, noise_images, quantized, random_pipeline, speaking_pipeline
from zoti import (
    ZOSGD,
    ConceptToken,
    Config,
    DenoisingLoss,
    GaussNewton,
    PartialUniform,
    cache_latents,
    invert,
    load_pipeline,
    sensitive_directions,
)
from zoti.data import load_subject
from zoti.engine import OnnxLoss, session
from zoti.model import noise_graph
from zoti.rivals import forward_gradient, textual_inversion

ort = pytest.importorskip("onnxruntime", reason="needs the engine's tools: pip install -e .[engine]")
pytestmark = pytest.mark.slow  # an export takes seconds

PIPELINES = {"int4, text in the time path, v": lambda: quantized(speaking_pipeline(), "int4"), "fp32": random_pipeline}


@pytest.fixture(scope="module")
def graphs():
    """Made when first asked for."""
    made: dict[str, bytes] = {}
    return lambda name, pipe: made.get(name) or made.setdefault(name, noise_graph(pipe))


@pytest.fixture(scope="module")
def teapot():
    """Tiny-sd, the loss of a teapot by PyTorch, and the graph."""
    pipe, subject = load_pipeline(), load_subject("teapot")
    token = ConceptToken(pipe, "<new>", "teapot")
    latents = cache_latents(pipe, subject.references)
    return DenoisingLoss(pipe, token, latents, subject.captions, PartialUniform(500, 900)), noise_graph(pipe)


def problem(pipe, captions: list[str], vectors: int = 1) -> DenoisingLoss:
    token = ConceptToken(pipe, "<new>", "teapot", vectors)
    return DenoisingLoss(pipe, token, cache_latents(pipe, noise_images()), captions, PartialUniform(300, 900))


def losses(objective: DenoisingLoss, draws: int = 6, candidates: int = 8, mu: float = 1e-3) -> torch.Tensor:
    """(draws, 1 + candidates): at the word, and a step mu beside it, the same for every objective."""
    chance, found = generator(), []
    for _ in range(draws):
        draw, start = objective.draw(chance), objective.token.initial
        e = torch.cat([torch.zeros(1, *start.shape), torch.randn(candidates, *start.shape, generator=chance)])
        with torch.inference_mode():
            found.append(objective(start + mu * e, draw))
    return torch.stack(found).double()


def differences(found: torch.Tensor) -> torch.Tensor:
    return (found[:, 1:] - found[:, :1]).flatten()


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([differences(a), differences(b)]))[0, 1])


@pytest.mark.parametrize("name", PIPELINES)
def test_losses_are_pytorchs_for_any_number_of_vectors_and_beside_other_new_words(graphs, name):
    pipe = PIPELINES[name]()
    graph = graphs(name, pipe)
    if name.endswith("v"):
        pipe.scheduler.register_to_config(prediction_type="v_prediction")
    other = ConceptToken(pipe, "<other>", "owl", vectors=2)
    other.write(torch.randn(other.initial.shape, generator=generator()))
    slow = problem(pipe, ["a {} at night", "{} and <other> and {}", "<other> with a {}"], vectors=3)
    fast = OnnxLoss(slow, graph)
    pipe.unet.register_forward_pre_hook(lambda *_: pytest.fail("PyTorch's U-Net ran"))
    found = losses(fast, mu=0.5)
    pipe.unet._forward_pre_hooks.clear()
    torch.testing.assert_close(found, losses(slow, mu=0.5), rtol=1e-6, atol=0)


def test_on_tiny_sd_losses_and_finite_differences_are_pytorchs_and_defaults_would_drown_them(teapot):
    slow, graph = teapot
    truth, fast = losses(slow), OnnxLoss(slow, graph)
    found = losses(fast)
    torch.testing.assert_close(found, truth, rtol=1e-6, atol=0)
    assert correlation(found, truth) > 0.9999
    fast.session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    assert correlation(losses(fast), truth) < 0.9


def test_the_paper_and_gauss_newton_learn_the_same_word_on_either_engine(teapot, one_thread):
    slow, graph = teapot
    fast = OnnxLoss(slow, graph)
    found = sensitive_directions(slow.token, slow.prompts[:1])
    newton = Config(steps=6, n=4, estimator=GaussNewton(found), optimizer=ZOSGD(1.0), subspace=None)
    for config in (Config(steps=6), newton):
        ends = [list(invert(objective, config))[-1] for objective in (slow, fast)]
        moved = ends[0].theta - slow.token.initial
        assert (ends[1].theta - ends[0].theta).norm() < 1e-3 * moved.norm()
        assert ends[0].evaluations == ends[1].evaluations


def test_a_run_resumes_to_the_same_bits_and_is_told_from_pytorchs(teapot, tmp_path, one_thread):
    slow, graph = teapot
    fast, path, config = OnnxLoss(slow, graph), tmp_path / "run.safetensors", Config(steps=4)
    whole = list(invert(fast, config))
    list(invert(fast, replace(config, steps=2), checkpoint=path))
    assert torch.equal(list(invert(OnnxLoss(slow, graph), config, checkpoint=path))[-1].theta, whole[-1].theta)
    with pytest.raises(ValueError, match="another run, which differs in objective"):
        next(invert(slow, config, checkpoint=path))


def test_there_is_no_derivative_to_ask_for(teapot):
    slow, graph = teapot
    fast = OnnxLoss(slow, graph)
    with pytest.raises(ValueError, match="only runs"):
        next(textual_inversion(fast, steps=1))
    with pytest.raises(ValueError, match="only runs"):
        next(invert(fast, Config(steps=1, estimator=forward_gradient)))


def test_another_models_graph_a_broken_one_and_a_missing_engine_are_named(teapot, tmp_path, monkeypatch):
    slow, graph = teapot
    changed = copy.copy(slow)
    changed.pipe = load_pipeline(weights="int4")
    changed.token = ConceptToken(changed.pipe, "<new>", "teapot")
    with pytest.raises(ValueError, match="of another model"):
        OnnxLoss(changed, graph)
    for broken in (graph[: len(graph) // 2], tmp_path / "nothing.onnx"):
        with pytest.raises(ValueError, match="no ONNX graph"):
            session(broken)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r"zoti\[engine\]"):
        session(graph)
