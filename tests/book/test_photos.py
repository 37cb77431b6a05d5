"""Chapter 11: the command line names its parameters, its photographs may be shipped, its six pieces are the call."""

import ast
import importlib
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import nbformat
import papermill
import torch
from PIL import Image

import zoti
from tests.helpers import noise_images, random_pipeline
from zoti import personalize
from zoti.data import DATA, OBJECT_TEMPLATES

CHAPTER = Path(__file__).parents[2] / "book" / "11-your-own-photos.ipynb"
CELLS = nbformat.read(CHAPTER, as_version=4).cells


def test_every_parameter_of_the_command_line_is_declared():
    declared = papermill.inspect_notebook(CHAPTER)
    told = set(re.findall(r"-p (\w+) ", "".join(cell.source for cell in CELLS if cell.cell_type == "markdown")))
    assert told <= set(declared) and {"images", "noun", "model", "steps", "folder"} <= told
    assert {name: ast.literal_eval(p["default"]) for name, p in declared.items()}["steps"] > 0


def test_the_photographs_are_small_square_and_free():
    files = sorted((DATA / "photos" / "cat").iterdir())
    assert len(files) == 4 and sum(file.stat().st_size for file in files) < 100_000
    assert {Image.open(file).size for file in files} == {(256, 256)}
    assert re.search(r"`photos/`.*Stefan van der Walt, \[CC0\]", (DATA / "README.md").read_text())


def test_the_six_pieces_learn_the_word_of_the_one_call(tmp_path, monkeypatch):
    """In the chapter they go on from the call's file; here they begin anew, and come to the same bits."""
    pieces = "\n".join(cell.source for cell in CELLS if re.search(r"# [1-6]\. ", cell.source))
    assert re.findall(r"# ([1-6])\. ", pieces) == list("123456")
    pipe, photos = random_pipeline(), noise_images(3)
    monkeypatch.setattr(importlib.import_module("zoti.personalize"), "load_pipeline", lambda *_: pipe)
    called = personalize(photos, "teapot", "tiny-sd", steps=23, checkpoint=tmp_path / "run.safetensors")
    scope = {
        "learned": replace(called, config=replace(called.config, steps=3)),  # twenty more make the same 23
        "images": "", "noun": "teapot", "model": "tiny-sd", "home": tmp_path, "path": "nowhere",
        "shutil": SimpleNamespace(copy=lambda _, there: there), "load_images": lambda _: photos,
        **{name: vars(zoti)[name] for name in zoti.__all__ if name != "load_images"},
        "DATA": DATA, "OBJECT_TEMPLATES": OBJECT_TEMPLATES,
    }  # fmt: skip
    exec(pieces, scope)
    assert len(scope["go_on"]) == 23 and torch.equal(scope["go_on"][-1].theta, called.theta)
