"""Chapters 7 and 8: their runs are of these weights, this recipe, this judge, and what they rebuild is the recipe's."""

import ast
import importlib
import json
from itertools import product
from pathlib import Path

import nbformat
import pytest

import zoti
from zoti.data import DATA
from zoti.model import model_key

ROOT = Path(__file__).parents[2]
LINES = {
    study: [json.loads(line) for line in (DATA / "results" / f"{study}.jsonl").read_text().splitlines()]
    for study in ("ablation", "windows")
}
CHAPTERS = {"ablation": "08-all-together", "windows": "07-which-timesteps-listen-to-words"}
by_study = pytest.mark.parametrize("study", LINES)


@pytest.fixture(scope="module")
def recipe():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        yield importlib.import_module("ablation")


def own(name, study, **scope):
    """A function that the study's chapter defines."""
    for cell in nbformat.read(ROOT / "book" / f"{CHAPTERS[study]}.ipynb", as_version=4).cells:
        if cell.cell_type == "code" and f"def {name}(" in cell.source:
            (body,) = [node for node in ast.parse(cell.source).body if getattr(node, "name", None) == name]
            exec(compile(ast.Module([body], []), CHAPTERS[study], "exec"), scope)
    return scope[name]


@by_study
def test_the_runs_it_tells_of_are_of_these_weights_this_recipe_and_this_judge(recipe, study):
    now = (model_key(zoti.load_pipeline()), recipe.recipe())
    told = {(line["weights"], line["recipe"]) for line in LINES[study]}
    assert told == {now}, f"python benchmarks/ablation.py {study}, once more"


@by_study
def test_each_has_the_settings_that_its_name_means_and_a_subject_drawn_by_lot(recipe, study):
    variants, sitters, _ = recipe.STUDIES[study]
    for line in LINES[study]:
        settings = json.loads(line["settings"])
        meant = recipe.WHOLE | variants[line["method"]]
        assert settings == meant | ({"lr": settings["lr"]} if line["method"] == "SGD" else {}), line["method"]
        assert line["subject"] in (recipe.subjects()[:sitters] if "paired DINO" in line else recipe.TUNE)
    assert not {*recipe.subjects()} & {*recipe.TUNE}


def test_every_window_was_learned_from_by_every_subject_with_every_seed(recipe):
    variants, sitters, seeds = recipe.STUDIES["windows"]
    told = sorted((line["method"], line["subject"], line["seed"]) for line in LINES["windows"])
    assert told == sorted(product(variants, recipe.subjects()[:sitters], range(seeds)))


@by_study
def test_the_chapter_rebuilds_every_run_as_the_recipe_has_it(recipe, study):
    names = ("Config", "RandomSubspace", "SubspaceGradient", "ZOAdam", "ZOSGD", "one_point", "rge", "spsa")
    rebuilt = own("rebuilt", study, **{name: getattr(zoti, name) for name in names})
    told = {line["settings"] for line in LINES[study] if json.loads(line["settings"])["optimizer"].startswith("ZO")}
    for settings in map(json.loads, told):
        assert rebuilt(settings, 3) == recipe.config(settings, 3)
    assert rebuilt(recipe.WHOLE, 3) != rebuilt(recipe.WHOLE | {"n": 4}, 3)
