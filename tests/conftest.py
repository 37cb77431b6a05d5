"""Fixtures for every test; what they are made of is in helpers.py."""

import hypothesis
import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

from tests.helpers import random_pipeline, random_xl_pipeline

# a slow machine is no failing property
hypothesis.settings.register_profile("zoti", deadline=None)
hypothesis.settings.load_profile("zoti")

PIPELINES = {"one encoder": random_pipeline, "two encoders": random_xl_pipeline}


@pytest.fixture
def pipe() -> StableDiffusionPipeline:
    return random_pipeline()


@pytest.fixture
def xl() -> StableDiffusionXLPipeline:
    return random_xl_pipeline()


@pytest.fixture(params=PIPELINES)
def any_pipe(request):
    return PIPELINES[request.param]()


@pytest.fixture
def one_thread():
    """Sums split among threads may round differently from one process to the next."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
