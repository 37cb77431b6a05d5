"""What the index shows as tried: all of it is there, and it was learned with these weights."""

import json

import pytest
from PIL import Image

from zoti import load_pipeline
from zoti.data import DATA
from zoti.model import model_key


@pytest.fixture(scope="module")
def tried():
    lines = [json.loads(line) for line in (DATA / "results" / "page.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] in ("emoji", "drawing")]


def test_the_runs_it_tells_of_are_of_these_weights(tried):
    assert {line["weights"] for line in tried} == {model_key(load_pipeline())}, "python benchmarks/page.py, once more"


def test_none_was_left_out(tried):
    kinds = [line["kind"] for line in tried]
    assert kinds.count("emoji") >= 20 and kinds.count("drawing") >= 5
    assert len({line["thing"] for line in tried}) == len(tried)
    path = DATA / "results" / "page.webp"
    width, height = Image.open(path).size
    assert path.stat().st_size <= 150_000 and height / -(-len(tried) // 3) > 100 and width > 900  # three in a row
