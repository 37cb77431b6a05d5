"""A run on a device that is not the CPU, from pictures to paintings: nothing meets a stranger, only one table stays."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch.utils.backend_registration")

RUN = """
import numpy as np, torch
from torch.utils import backend_registration
if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
    print("this torch knows no device written in Python")
    raise SystemExit
from tests.helpers import random_pipeline
from tests.lib.device import DEVICE, Elsewhere, There, move
from PIL import Image
from zoti import ConceptToken, Config, DenoisingLoss, PartialUniform, cache_latents, invert, quantize_

def run(pipe):
    size = pipe.vae_scale_factor * pipe.unet.config.sample_size
    pixels = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), dtype=np.uint8)
    token = ConceptToken(pipe, "<a>", "teapot")
    latents = cache_latents(pipe, [Image.fromarray(one) for one in pixels])
    objective = DenoisingLoss(pipe, token, latents, ["a {}", "the {}"], PartialUniform(500, 900))
    table, away = pipe.text_encoder.get_input_embeddings(), isinstance(token.initial, There)
    if away:  # the table of all words waits on the CPU while a word is learned, as in `personalize`
        table.weight = torch.nn.Parameter(table.weight.raw, requires_grad=False)
    steps = list(invert(objective, Config(steps=3, n=2)))
    bank = objective.bank(4, torch.Generator().manual_seed(1))
    mean = objective.mean(steps[-1].theta[None], bank)
    if away:
        move(table)
    token.write(steps[-1].theta)
    painted = pipe("a <a>", num_inference_steps=2, generator=torch.Generator().manual_seed(2)).images[0]
    return steps[-1].theta, mean, np.asarray(painted, dtype=int)

def make():
    pipe = random_pipeline()
    for part in (pipe.unet, pipe.text_encoder, pipe.vae):
        quantize_(part, WEIGHTS)
    return pipe

here, far = make(), make()
expected = run(here)
for part in (far.unet, far.text_encoder, far.vae):
    move(part)
with Elsewhere():
    assert far.device == DEVICE
    try:
        torch.ones(2) + torch.ones(2, device=DEVICE)
    except RuntimeError as error:
        assert "same device" in str(error)
    else:
        raise AssertionError("strangers met")
    theta, mean, painted = run(far)
assert isinstance(theta, There) and isinstance(mean, There)
for found, known in zip((theta, mean), expected):  # attention is summed in another order there
    assert torch.allclose(found.raw, known, rtol=1e-4)
assert abs(painted - expected[2]).max() <= 1
print("the same")
"""


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["int8"])
def test_a_run_on_another_device_is_the_same_run(weights):
    program = RUN.replace("WEIGHTS", repr(weights))
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if "knows no device" in done.stdout:
        pytest.skip(done.stdout)
    assert done.stdout.endswith("the same\n")
