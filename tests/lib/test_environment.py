"""What zoti needs is said in pyproject.toml; every other list of packages must agree with it."""

import re
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

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
    assert set(extras) == {"book", "test"} <= set(EXTRAS)


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


def test_everyone_names_the_same_repository():
    url = PROJECT["urls"]["Source"]
    assert yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"] == url
    assert url in (ROOT / "CITATION.cff").read_text()
    for chapter in (ROOT / "book").glob("*.ipynb"):
        for other in re.findall(r"git\+(https://[^\s\"\\]+)", chapter.read_text()):
            assert other == url, chapter.name
