"""The first cell of a notebook finds the library, fetches it, or says what to do: each case in a Python of its own."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.book.test_chapters import INSTALL

#: Stands for a reader's machine: `zoti` is looked for beside the notebook, and then among what pip installed.
MACHINE = """
import importlib.machinery
import sys
import types
from IPython.core.interactiveshell import InteractiveShell


class Reader:
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] == "zoti":
            found = importlib.machinery.PathFinder.find_spec(name, path or ["beside", "installed"])
            if found is None:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            return found


sys.meta_path.insert(0, Reader)
shell = InteractiveShell.instance()
"""

#: A pip that succeeds: it leaves the library, or a page of it, among what is installed.
PIP = """
def pip(line):
    from pathlib import Path
    print("pip", line)
    for room in ("zoti", "zoti/page"):
        (Path("installed") / room).mkdir(parents=True)
        (Path("installed") / room / "__init__.py").touch()
    importlib.invalidate_caches()


shell.register_magic_function(pip)
"""

BESIDE = {
    "nothing": [],
    "a folder without a library": ["zoti/notes.txt"],
    "a file": ["zoti.py"],
    "another package": ["zoti/__init__.py"],
}


def run(folder: Path, beside: list[str], address: str = "", before: str = "") -> str:
    """What the cell says on a machine with these files beside the notebook: its error, or "it is here"."""
    for name in beside:
        (folder / "beside" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "beside" / name).touch()
    cell = INSTALL.replace('REPOSITORY = ""', f"REPOSITORY = {address!r}")
    program = (
        MACHINE
        + before
        + textwrap.dedent(f"""
        result = shell.run_cell({cell!r})
        error = result.error_in_exec or result.error_before_exec
        print("SAID", f"{{type(error).__name__}}: {{error}}" if error else "it is here: " + zoti.page.__file__)
        """).replace("zoti.page.__file__", 'sys.modules["zoti.page"].__file__')
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("beside", BESIDE.values(), ids=BESIDE)
def test_without_an_address_it_says_how_to_install(tmp_path, beside):
    said = run(tmp_path, beside).partition("SAID ")[2]
    assert said.startswith("ImportError: zoti is needed here")
    assert "pip install -e . (in the book's folder)" in said and "may be called zoti" in said


@pytest.mark.parametrize("beside", ["nothing", "a folder without a library"])
def test_with_an_address_it_installs_and_goes_on(tmp_path, beside):
    said = run(tmp_path, BESIDE[beside], "https://example.org/book", PIP)
    assert "pip install -q git+https://example.org/book" in said
    assert "SAID it is here" in said and "installed" in said.partition("SAID ")[2]


@pytest.mark.parametrize("beside", ["a file", "another package"])
def test_what_hides_the_library_is_named_even_after_installing(tmp_path, beside):
    said = run(tmp_path, BESIDE[beside], "https://example.org/book", PIP).partition("SAID ")[2]
    assert said.startswith("ImportError: zoti is needed here") and "may be called zoti" in said


def test_a_pip_that_fails_is_not_passed_over(tmp_path):
    """The real one, at an address where nothing is."""
    nowhere = (tmp_path / "nowhere").as_uri()
    said = run(tmp_path, [], nowhere).partition("SAID ")[2]
    assert said.startswith("ImportError: zoti is needed here") and f"pip install git+{nowhere}" in said


def test_where_the_library_is_it_does_nothing(tmp_path):
    said = run(tmp_path, [], "https://example.org/book", PIP.replace("shell.register", "pip('early')\nshell.register"))
    assert said.count("pip ") == 1 and "SAID it is here" in said
