"""Every public name is explained, has an example that runs, and stands on the API page; the house keeps its rules."""

import ast
import doctest
import graphlib
import importlib
import inspect
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import zoti

ROOT = Path(zoti.__file__).parents[1]
#: Every file of the library by its dotted name below zoti: "invert", "word.tokens", "word.__init__".
FILES = {
    ".".join(path.relative_to(ROOT / "zoti").with_suffix("").parts): path
    for path in sorted((ROOT / "zoti").rglob("*.py"))
    if path != ROOT / "zoti" / "__init__.py"
}
MODULES = [name for name in FILES if not name.endswith("__init__")]
ROOMS = sorted({name.split(".")[0] for name in FILES if "." in name})
TABLE = (ROOT / "book" / "api.md").read_text()
PAGES = {
    name: (ROOT / f"{name}.md").read_text()
    for name in re.findall(r"file: (book/api/\w+)", (ROOT / "_toc.yml").read_text())
}
README = (ROOT / "README.md").read_text()


def public(module: str) -> dict[str, object]:
    """Functions and classes made in a module, by name; underscored ones are its own affair."""
    here = importlib.import_module(f"zoti.{module}")
    made = {n: x for n, x in vars(here).items() if inspect.isclass(x) or inspect.isfunction(x)}
    return {n: x for n, x in made.items() if x.__module__ == here.__name__ and not n.startswith("_")}


def constants(module: str) -> list[str]:
    """NAMES IN CAPITALS that a module assigns."""
    return re.findall(r"^([A-Z][A-Z0-9_]+)\b.* = ", FILES[module].read_text(), flags=re.M)


by_module = pytest.mark.parametrize("module", MODULES)
by_room = pytest.mark.parametrize("room", ROOMS)


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


@by_module
def test_every_module_is_tested_where_it_stands(module):
    *room, name = module.split(".")
    assert (ROOT / "tests" / "lib" / Path(*room) / f"test_{name}.py").is_file()


def test_what_zoti_exports_is_public_somewhere():
    found = {n for module in MODULES for n in (*public(module), *constants(module))}
    assert set(zoti.__all__) <= found


def modules_of(room: str) -> list[str]:
    return [module for module in MODULES if module.startswith(f"{room}.")]


@by_room
def test_a_room_says_what_it_is_for_and_names_its_modules(room):
    told = importlib.import_module(f"zoti.{room}").__doc__
    for module in modules_of(room):
        assert f"`{module.removeprefix(f'{room}.')}`" in told, f"{room} does not speak of {module}"


@by_room
def test_a_room_hands_out_what_its_modules_make(room):
    here = importlib.import_module(f"zoti.{room}")
    made = {name: thing for module in modules_of(room) for name, thing in public(module).items()}
    if room == "ledger":  # scenarios bear the rivals' names and are called by their module, as is attention
        made = {n: x for n, x in made.items() if n not in {*public("ledger.scenarios"), *public("ledger.attention")}}
    assert made.items() <= {name: getattr(here, name) for name in here.__all__}.items()


def test_no_name_means_two_things():
    """Neither a module and what is in it, nor things of two rooms."""
    seen = {module.split(".")[-1]: f"the module {module}" for module in MODULES if "." in module}
    for room in ROOMS:
        for name in importlib.import_module(f"zoti.{room}").__all__:
            assert name not in seen, f"{name} is {seen[name]} and of {room}"
            seen[name] = f"of {room}"


def imports(name: str) -> set[str]:
    """The modules of zoti that a file imports, by their dotted names; a room's own file is called as the room."""
    found = set()
    for node in ast.walk(ast.parse(FILES[name].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    known = {f"zoti.{module.removesuffix('.__init__')}" for module in FILES}
    return {module.removeprefix("zoti.") for module in found & known}


def test_no_import_runs_in_a_circle():
    """Among files, and among rooms with the modules that stand outside one."""
    graph = {name.removesuffix(".__init__"): imports(name) for name in FILES}
    assert "word.tokens" in graph["word"] and {"data", "word.vocabulary"} < graph["word.tokens"]  # the net catches
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError
    places: dict[str, set[str]] = {}
    for name, others in graph.items():
        place = name.split(".")[0]
        places.setdefault(place, set()).update({other.split(".")[0] for other in others} - {place})
    list(graphlib.TopologicalSorter(places).static_order())


def reading_order() -> list[str]:
    """Rooms, and modules outside one, as README lists them: a room ends in a slash."""
    return re.findall(r"^\| `(\w+/?)` \|", README, flags=re.M)


def test_the_readme_names_every_room_and_module_in_an_order_in_which_each_stands_on_those_before():
    outside = [module for module in MODULES if "." not in module]
    assert sorted(reading_order()) == sorted([*outside, *(f"{room}/" for room in ROOMS)])
    assert re.findall(r"^- `(\w+/?)`", zoti.__doc__, flags=re.M) == reading_order()
    read = set()
    for place in reading_order():
        read.add(place.rstrip("/"))
        for name in [name for name in FILES if name.split(".")[0] == place.rstrip("/")]:
            assert {other.split(".")[0] for other in imports(name)} <= read, name


def test_the_api_pages_have_every_module_in_the_same_order():
    assert set(PAGES) == {f"book/api/{path.stem}" for path in (ROOT / "book" / "api").glob("*.md")}
    whole, modules = "\n".join(PAGES.values()), []
    for page in PAGES.values():
        sections = re.findall(
            r"^(##?) zoti\.([\w.]+)\n\n```{eval-rst}\n\.\. automodule:: zoti\.([\w.]+)", page, flags=re.M
        )
        assert all(heading == module for _, heading, module in sections)
        (title, room, _), *_ = sections
        if title == "#":  # a page that is called after a room, or a module, holds nothing else
            assert all(module.split(".")[0] == room for *_, module in sections)
        modules += [module for *_, module in sections]
    assert [module for module in modules if "." not in module] == [p.rstrip("/") for p in reading_order()]
    assert sorted(module for module in modules if module not in ROOMS) == MODULES == sorted(MODULES)
    assert whole.count("automodule::") == len(modules)


def test_the_api_table_has_every_name_once():
    names = [f"{m}.{n}" for m in MODULES for n in (*public(m), *constants(m))]
    assert sorted(re.findall(r"^   ~zoti\.([\w.]+)$", TABLE, flags=re.M)) == sorted(names)


@pytest.mark.slow
def test_the_api_is_built_without_a_warning_and_holds_every_name(tmp_path):
    """By Sphinx alone, with the settings the book gives autodoc."""
    pytest.importorskip("myst_parser", reason="needs the book's tools: pip install -e .[book]")
    config = yaml.safe_load((ROOT / "_config.yml").read_text())["sphinx"]["config"]
    keys = ("default_role", "nitpick_ignore_regex", "add_module_names", "maximum_signature_line_length")
    ours = {k: v for k, v in config.items() if k in keys or k.startswith(("autodoc_", "autosummary_"))}
    (tmp_path / "conf.py").write_text(
        f"extensions = {['sphinx.ext.autodoc', 'sphinx.ext.autosummary', 'myst_parser']}\nglobals().update({ours!r})"
    )
    parts = "\n".join(name.removeprefix("book/") for name in PAGES)
    (tmp_path / "index.md").write_text(f"{TABLE}\n```{{toctree}}\n{parts}\n```\n")
    shutil.copytree(ROOT / "book" / "api", tmp_path / "api")
    build = [sys.executable, "-m", "sphinx", "-q", "-W", "-n", "--keep-going", tmp_path, tmp_path / "html"]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(build, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    anchors = set(
        re.findall(r'id="(zoti\.[\w.]+)"', "".join(map(Path.read_text, (tmp_path / "html" / "api").glob("*.html"))))
    )
    names = {f"{m}.{n}" for m in MODULES for n in (*public(m), *constants(m))}
    assert not {f"zoti.{name}" for name in names} - anchors


@pytest.mark.slow
def test_types_are_strict():
    pytest.importorskip("mypy", reason="needs mypy: pip install -e .[dev]")
    done = subprocess.run([sys.executable, "-m", "mypy"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
