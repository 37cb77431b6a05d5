"""Chapter 8: its table is of these weights, this recipe and this judge, and what it builds by hand is the recipe's."""

import ast
import importlib
import json
from pathlib import Path

import nbformat
import pytest

import zoti
from zoti.data import DATA
from zoti.model import model_key

ROOT = Path(__file__).parents[2]
CHAPTER = ROOT / "book" / "08-all-together.ipynb"
LINES = [json.loads(line) for line in (DATA / "results" / "ablation.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def recipe():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        yield importlib.import_module("ablation")


def own(name, **scope):
    """A function that the chapter defines."""
    for cell in nbformat.read(CHAPTER, as_version=4).cells:
        if cell.cell_type == "code" and f"def {name}(" in cell.source:
            (body,) = [node for node in ast.parse(cell.source).body if getattr(node, "name", None) == name]
            exec(compile(ast.Module([body], []), "chapter 8", "exec"), scope)
    return scope[name]


def test_the_runs_it_tells_of_are_of_these_weights_this_recipe_and_this_judge(recipe):
    now = (model_key(zoti.load_pipeline()), recipe.recipe())
    assert {(line["weights"], line["recipe"]) for line in LINES} == {now}, "python benchmarks/ablation.py, once more"


def test_each_has_the_settings_that_its_name_means_and_a_subject_drawn_by_lot(recipe):
    for line in LINES:
        settings = json.loads(line["settings"])
        meant = recipe.WHOLE | recipe.VARIANTS[line["method"]]
        assert settings == meant | ({"lr": settings["lr"]} if line["method"] == "SGD" else {}), line["method"]
        assert line["subject"] in (recipe.subjects() if "paired DINO" in line else recipe.TUNE)
    assert not {*recipe.subjects()} & {*recipe.TUNE}


def test_the_chapter_rebuilds_every_run_as_the_recipe_has_it(recipe):
    names = ("Config", "RandomSubspace", "SubspaceGradient", "ZOAdam", "ZOSGD", "one_point", "rge", "spsa")
    rebuilt = own("rebuilt", **{name: getattr(zoti, name) for name in names})
    told = {line["settings"] for line in LINES if json.loads(line["settings"])["optimizer"].startswith("ZO")}
    for settings in map(json.loads, told):
        assert rebuilt(settings, 3) == recipe.config(settings, 3)
    assert rebuilt(recipe.WHOLE, 3) != rebuilt(recipe.WHOLE | {"n": 4}, 3)
