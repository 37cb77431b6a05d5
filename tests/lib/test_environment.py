"""What zoti needs is said in pyproject.toml; every other list of packages must agree with it."""

import datetime
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
NEEDED = [Requirement(line) for group in (PROJECT["dependencies"], *EXTRAS.values()) for line in group]
CONSTRAINTS = {
    canonicalize_name(pin.name): pin
    for line in (ROOT / ".ci" / "constraints.txt").read_text().splitlines()
    if line and not line.startswith("#")
    for pin in [Requirement(line)]
}


def test_conda_environment_installs_the_project():
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert f"python{PROJECT['requires-python']}" in dependencies
    (pip,) = (entry["pip"] for entry in dependencies if isinstance(entry, dict))
    (line,) = pip  # the project and its extras, nothing of its own
    extras = re.fullmatch(r"-e \.\[(.+)\]", line)[1].split(",")
    assert set(extras) == {"book", "engine", "test"} <= set(EXTRAS)


def test_everyone_names_the_same_python():
    oldest = PROJECT["requires-python"].removeprefix(">=")
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    assert (
        tools["mypy"]["python_version"] == oldest and tools["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"
    )
    for name in ("README.md", "Makefile", "book/index.ipynb"):
        assert set(re.findall(r"Python (\d\.\d+) or newer", (ROOT / name).read_text())) == {oldest}, name
    assert f"sys.version_info < ({oldest.replace('.', ', ')})" in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize("needed", NEEDED, ids=lambda r: r.name)
def test_constraints_pin_a_version_we_accept(needed):
    (pin,) = CONSTRAINTS[canonicalize_name(needed.name)].specifier
    assert pin.operator == "=="
    assert needed.specifier.contains(pin.version)


def test_only_lower_bounds():
    for needed in NEEDED:
        upper = [s for s in needed.specifier if s.operator != ">="]
        assert not upper or needed.name == "jupyter-book", f"{needed}: upper bounds rot"


def test_everyone_installs_the_same_torch():
    (pin,) = CONSTRAINTS["torch"].specifier
    assert set(re.findall(r"torch==([\d.]+)", (ROOT / "Makefile").read_text())) == {pin.version}


def test_the_citation_is_of_this_version_and_has_a_date():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    assert isinstance(citation["date-released"], datetime.date)
