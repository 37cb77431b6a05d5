"""Every public name is explained, has an example that runs, and stands on the API page; the house keeps its rules."""

import doctest
import importlib
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import zoti

ROOT = Path(zoti.__file__).parents[1]
FILES = {
    ".".join(path.relative_to(ROOT / "zoti").with_suffix("").parts): path
    for path in (ROOT / "zoti").rglob("*.py")
    if path.stem != "__init__"
}
MODULES = sorted(FILES)
PAGE = (ROOT / "book" / "api.md").read_text()


def public(module: str) -> dict[str, object]:
    """Functions and classes made in a module, by name; underscored ones are its own affair."""
    here = importlib.import_module(f"zoti.{module}")
    made = {n: x for n, x in vars(here).items() if inspect.isclass(x) or inspect.isfunction(x)}
    return {n: x for n, x in made.items() if x.__module__ == here.__name__ and not n.startswith("_")}


def constants(module: str) -> list[str]:
    """NAMES IN CAPITALS that a module assigns."""
    return re.findall(r"^([A-Z][A-Z0-9_]+)\b.* = ", FILES[module].read_text(), flags=re.M)


by_module = pytest.mark.parametrize("module", MODULES)


def lacking(module: str) -> set[str]:
    """Public names of a module without an example; for constants, whose doctests no finder sees, without a mention."""
    finder, source = doctest.DocTestFinder(recurse=False), FILES[module].read_text()
    lack = {n for n, x in public(module).items() if not any(t.examples for t in finder.find(x, n))}
    lack |= {n for n in constants(module) if not re.search(rf"^ +(>>>|\.\.\.) .*\b{n}\b", source, flags=re.M)}
    return {f"{module}.{n}" for n in lack}


@by_module
def test_everything_public_has_a_docstring(module):
    assert importlib.import_module(f"zoti.{module}").__doc__
    for name, thing in public(module).items():
        assert thing.__doc__ and not thing.__doc__.startswith(f"{name}("), name  # a dataclass's own says nothing
        if inspect.isfunction(thing):
            continue
        for method, body in vars(thing).items():
            if not method.startswith("_") and (inspect.isfunction(body) or isinstance(body, property)):
                assert inspect.getdoc(getattr(thing, method)), f"{name}.{method}"


@by_module
def test_constants_are_explained(module):
    source = FILES[module].read_text()
    for name in constants(module):
        explained = re.search(rf"^#: .*\n{name}\b", source, flags=re.M)
        assert explained, f"{name} lacks a comment that begins with #:"


@by_module
def test_everything_public_has_an_example(module):
    assert not lacking(module)


def test_what_zoti_exports_is_public_somewhere():
    found = {n for module in MODULES for n in (*public(module), *constants(module))}
    assert set(zoti.__all__) <= found


def test_the_api_page_has_every_module():
    assert sorted(re.findall(r"automodule:: zoti\.([\w.]+)", PAGE)) == MODULES
    assert sorted(re.findall(r"^### zoti\.([\w.]+)", PAGE, flags=re.M)) == MODULES


@pytest.mark.slow
def test_the_api_page_is_built_without_a_warning_and_holds_every_name(tmp_path):
    """By Sphinx alone, with the settings the book gives autodoc."""
    pytest.importorskip("myst_parser", reason="needs the book's tools: pip install -e .[book]")
    config = yaml.safe_load((ROOT / "_config.yml").read_text())["sphinx"]["config"]
    keys = ("default_role", "nitpick_ignore_regex", "add_module_names", "maximum_signature_line_length")
    ours = {k: v for k, v in config.items() if k in keys or k.startswith("autodoc_")}
    (tmp_path / "conf.py").write_text(f"extensions = ['sphinx.ext.autodoc', 'myst_parser']\nglobals().update({ours!r})")
    (tmp_path / "index.md").write_text(PAGE)
    build = [sys.executable, "-m", "sphinx", "-q", "-W", "-n", "--keep-going", tmp_path, tmp_path / "html"]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(build, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    anchors = set(re.findall(r'id="(zoti\.[\w.]+)"', (tmp_path / "html" / "index.html").read_text()))
    names = {f"{m}.{n}" for m in MODULES for n in (*public(m), *constants(m))}
    assert not {f"zoti.{name}" for name in names} - anchors


@by_module
def test_a_module_is_one_idea_of_at_most_200_lines(module):
    assert len(FILES[module].read_text().splitlines()) <= 200


@pytest.mark.slow
def test_types_are_strict():
    pytest.importorskip("mypy", reason="needs mypy: pip install -e .[dev]")
    done = subprocess.run([sys.executable, "-m", "mypy"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
