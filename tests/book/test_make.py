"""What `make` does beside building: it finds a chapter by any number, and shows the book on this machine alone."""

import os
import re
import shutil
import signal
import subprocess
import urllib.request
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkout(tmp_path) -> Path:
    """The Makefile, and an installation that is done."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("pyproject.toml", ".ci/constraints.txt", ".venv/installed"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


#: The tests themselves may be run by a make, whose words to those below it are not meant for these.
CLEAN = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}


def plan(checkout: Path, *goals: str) -> str:
    how = {"cwd": checkout, "env": CLEAN, "capture_output": True, "text": True, "check": True}
    return subprocess.run(["make", "-n", *goals], **how).stdout


def test_a_chapter_and_its_parameters_reach_the_build(checkout):
    assert plan(checkout, "chapter", "N=3").split() == [".venv/bin/python", "book/build.py", "--chapter", '"3"']
    told = plan(checkout, "chapter", "N=11", "P=noun=dog steps=5").split()
    assert told[2:] == ["--chapter", '"11"', "-p", "noun=dog", "-p", "steps=5"]


def test_serve_builds_what_is_missing_and_only_that(checkout):
    assert "book/build.py" in plan(checkout, "serve")
    (checkout / "_build" / "html").mkdir(parents=True)
    (checkout / "_build" / "html" / "index.html").touch()
    assert "book/build.py" not in plan(checkout, "serve")


def test_two_serve_at_once_on_free_ports_and_to_this_machine_alone(checkout):
    (checkout / "_build" / "html").mkdir(parents=True)
    (checkout / "_build" / "html" / "index.html").write_text("here it is")
    how = {"env": CLEAN | {"PYTHONUNBUFFERED": "1"}, "start_new_session": True, "text": True}
    how |= {"cwd": checkout, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    served = [subprocess.Popen(["make", "-s", "serve"], **how) for _ in range(2)]
    try:
        addresses = {re.search(r"\((http://.*)\)", one.stdout.readline())[1] for one in served}
        assert len(addresses) == 2
        for address in addresses:
            assert address.startswith("http://127.0.0.1:")
            assert urllib.request.urlopen(address).read() == b"here it is"
    finally:
        for one in served:
            os.killpg(one.pid, signal.SIGTERM)  # make, and the server it started
            one.communicate()


def test_lab_opens_the_first_page_where_the_chapters_are(checkout):
    told = plan(checkout, "lab")
    assert 'pip install -q -e ".[lab]" -c .ci/constraints.txt' in told  # only where JupyterLab is not there yet
    folder, command = re.search(r"cd (\S+) && (.*)", told).groups()
    program, *rest = command.split()
    assert os.path.normpath(checkout / folder / program) == str(checkout / ".venv" / "bin" / "jupyter")
    assert rest == ["lab", "index.ipynb"] and (ROOT / folder / rest[1]).is_file()
