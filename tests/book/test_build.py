"""The build runs a chapter again exactly when something it stands on has changed."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import nbformat
import pytest

pytest.importorskip("papermill", reason="needs the book's tools: pip install -e .[book]")

ROOT = Path(__file__).parents[2]
TOP = "the top level"
ROOMS = [TOP, *sorted(init.parent.name for init in (ROOT / "zoti").glob("*/__init__.py"))]
CHAPTER = Path("book/index.ipynb")


@pytest.fixture
def build(tmp_path, monkeypatch):
    """book/build.py, standing in a copy of the library, one chapter and a little data."""
    monkeypatch.syspath_prepend(ROOT / "book")
    spec = importlib.util.spec_from_file_location("build", ROOT / "book" / "build.py")
    module = importlib.util.module_from_spec(spec)
    with mock.patch.dict(os.environ):  # it sets variables for the chapters it runs
        spec.loader.exec_module(module)
    shutil.copytree(ROOT / "zoti", tmp_path / "zoti", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "book").mkdir()
    shutil.copy(ROOT / CHAPTER, tmp_path / CHAPTER)
    for name in module.DATA:
        (tmp_path / "data" / name / "deep").mkdir(parents=True)
        (tmp_path / "data" / name / "deep" / "file").write_bytes(b"0")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    return module


def key(build) -> str:
    return build.key(CHAPTER, build.shared_key())


def files(build, room: str) -> list[Path]:
    found = (build.ROOT / "zoti").glob("*.py") if room == TOP else (build.ROOT / "zoti" / room).rglob("*.py")
    return sorted(found)


def test_the_rooms_are_all_there():
    assert {path.parent for path in (ROOT / "zoti").rglob("*.py")} == {
        ROOT / "zoti" / ("" if room == TOP else room) for room in ROOMS
    }


@pytest.mark.parametrize("room", ROOMS)
def test_a_changed_line_in_any_room_voids_a_chapters_key(build, room):
    before = key(build)
    assert files(build, room)
    for file in files(build, room):
        text = file.read_text()
        file.write_text(text + "\n")
        assert key(build) != before, file
        file.write_text(text)
        assert key(build) == before, file


@pytest.mark.parametrize("room", ROOMS[1:])
def test_a_module_that_moves_comes_or_goes_voids_it_too(build, room):
    file = files(build, room)[0]
    seen = {key(build)}
    file.rename(file.with_name("renamed.py"))
    seen.add(key(build))
    file.with_name("renamed.py").rename(file.parents[1] / "renamed.py")  # out of its room
    seen.add(key(build))
    (file.parents[1] / "renamed.py").unlink()
    seen.add(key(build))
    assert len(seen) == 4


def test_so_does_a_byte_of_the_data_or_of_the_chapters_code(build):
    seen = {key(build)}
    for name in build.DATA:
        (build.ROOT / "data" / name / "deep" / "file").write_bytes(b"1")
        seen.add(key(build))
    for change in (lambda cell: cell.update(source=cell.source + "\n1"), lambda cell: cell.metadata.update(tags=["x"])):
        notebook = nbformat.read(build.ROOT / CHAPTER, 4)
        change(build.code_cells(notebook)[-1])
        nbformat.write(notebook, build.ROOT / CHAPTER)
        seen.add(key(build))
    assert len(seen) == 1 + len(build.DATA) + 2


def test_prose_does_not(build):
    before = key(build)
    notebook = nbformat.read(build.ROOT / CHAPTER, 4)
    notebook.cells[0].source += " A better sentence."
    notebook.cells.insert(1, nbformat.v4.new_markdown_cell("And another."))
    nbformat.write(notebook, build.ROOT / CHAPTER)
    assert key(build) == before


def test_the_key_is_the_same_wherever_the_book_lies_and_whatever_python_left_behind(build, tmp_path, monkeypatch):
    before = key(build)
    (build.ROOT / "zoti" / "word" / "__pycache__").mkdir()
    (build.ROOT / "zoti" / "word" / "__pycache__" / "tokens.pyc").write_bytes(b"compiled")
    assert key(build) == before
    elsewhere = tmp_path / "elsewhere" / "zoti-book"
    shutil.copytree(build.ROOT, elsewhere, ignore=shutil.ignore_patterns("elsewhere"))
    monkeypatch.setattr(build, "ROOT", elsewhere)
    assert key(build) == before


def test_a_chapter_goes_by_its_number_however_written(build):
    chapters = [
        Path("book/index.ipynb"),
        Path("book/03-a.ipynb"),
        Path("book/13-b.ipynb"),
        Path("book/appendix-c.ipynb"),
    ]
    assert build.named(chapters, "3") == build.named(chapters, "03") == build.named(chapters, "03-a") == chapters[1:2]
    assert build.named(chapters, "13") == chapters[2:3] and build.named(chapters, "appendix") == chapters[3:]
    assert build.named(chapters, "1") == []


@pytest.mark.parametrize("chapter", sorted((ROOT / "book").glob("*.ipynb")), ids=lambda path: path.stem)
def test_every_line_of_every_cell_is_found_in_its_file(build, chapter, monkeypatch):
    monkeypatch.setattr(build, "ROOT", ROOT)
    rows = chapter.read_text().splitlines()
    for i, cell in enumerate(nbformat.read(chapter, 4).cells):
        for j, line in enumerate(cell.source.splitlines(), 1):
            if j in (1, cell.source.count("\n") + 1):
                told = build.place(chapter.relative_to(ROOT), i, j)
                name, _, number = told.partition(":")
                assert name == f"book/{chapter.name}" and line in json.loads(rows[int(number) - 1].rstrip(","))


class Book:
    """A book of one small chapter, built as ours is, in a process of its own."""

    def __init__(self, root: Path):
        self.root = root
        for name in ("build.py", "address.py"):
            (root / "book").mkdir(exist_ok=True)
            shutil.copy(ROOT / "book" / name, root / "book" / name)
        (root / "zoti").mkdir()
        (root / "_toc.yml").write_text("format: jb-book\nroot: book/03-small\n")
        (root / "_config.yml").write_text("title: small\nexecute: {execute_notebooks: 'off'}\nhtml: {}\n")
        self.write("import uuid\nprint(uuid.uuid4())")

    def write(self, code: str, prose: str = "# Small", tags: tuple[str, ...] = ()):
        cells = [
            nbformat.v4.new_code_cell('REPOSITORY = ""  # filled in', id="install"),
            nbformat.v4.new_markdown_cell(prose, id="prose"),
            nbformat.v4.new_code_cell(code, id="code", metadata={"tags": list(tags)}),
        ]
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), self.chapter)

    @property
    def chapter(self) -> Path:
        return self.root / "book" / "03-small.ipynb"

    def line(self, text: str) -> str:
        """Where a text stands in the chapter's file."""
        (number,) = [n for n, row in enumerate(self.chapter.read_text().splitlines(), 1) if text in row]
        return f"book/03-small.ipynb:{number}"

    def build(self, *arguments: str, address: str = "") -> tuple[int, str]:
        command = [sys.executable, self.root / "book" / "build.py", *arguments]
        environment = os.environ | {"ZOTI_REPOSITORY": address}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return done.returncode, done.stdout

    @property
    def page(self) -> str:
        return (self.root / "_build" / "html" / "book" / "03-small.html").read_text()


@pytest.fixture
def book(tmp_path) -> Book:
    return Book(tmp_path)


def printed(page: str) -> set[str]:
    return set(re.findall(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", page))


@pytest.mark.slow
def test_words_change_without_running_code_and_code_by_running_it(book):
    code, told = book.build()
    assert code == 0 and "1 of 1 chapters to execute" in told, told
    first = printed(book.page)
    assert len(first) == 1
    book.write("import uuid\nprint(uuid.uuid4())", "# Small\n\nA *better* sentence.")
    code, told = book.build()
    assert code == 0 and "0 of 1 chapters to execute" in told, told
    assert printed(book.page) == first and "A <em>better</em> sentence." in book.page
    book.write("import uuid\nprint('now', uuid.uuid4())", "# Small")
    code, told = book.build()
    assert code == 0 and "1 of 1 chapters to execute" in told, told
    assert len(printed(book.page)) == 1 and printed(book.page) != first and "better" not in book.page
    code, told = book.build("--chapter", "3")
    assert code == 0 and "1 of 1 chapters to execute" in told, told


@pytest.mark.slow
def test_the_chapter_that_fails_is_named_first_and_last(book):
    book.write("import sys\nprint('x' * 10)\n1 / 0")
    code, told = book.build()
    assert code == 1
    line = f"{book.line('import sys')}: raises ZeroDivisionError: division by zero"
    assert told.count(line) == 2 and told.rstrip().endswith(line)
    assert told.index(line) < told.rindex("Traceback") < told.rindex(line)  # a kernel may have told of its own before
    assert not (book.root / "_build" / "html").exists()


@pytest.mark.slow
def test_a_cell_that_writes_to_stderr_fails_the_build(book):
    book.write("import warnings\nprint('all is well')\nwarnings.warn('nearly')")
    for _ in range(2):  # once found, found again
        code, told = book.build()
        line = f"{book.line('import warnings')}: writes to stderr, which no reader of a page should meet"
        assert code == 1 and told.count(line) == 2 and told.rstrip().endswith(line) and "nearly" in told


@pytest.mark.slow
def test_a_chapter_that_shows_nothing_or_kills_its_kernel_fails_the_build(book):
    book.write("shown = None")
    assert book.build()[1].rstrip().endswith("book/03-small.ipynb: shows nothing: no cell has an output")
    book.write("import os\nos._exit(3)")
    code, told = book.build()
    assert code == 1 and re.search(r"book/03-small.ipynb: DeadKernelError: .*\n$", told), told


@pytest.mark.slow
def test_a_broken_link_names_its_file_and_line_every_time(book):
    book.write("print(1)", "# Small\n\nWell.\n\nSee {doc}`nowhere` and [this](missing.md).")
    for _ in range(2):  # Sphinx alone reads a page once, and the second build would pass
        code, told = book.build()
        assert code == 1
        last = told.rstrip().splitlines()[-3:]
        assert last[-1] == "The book is not built."
        assert all(line.startswith(f"{book.line('nowhere')}: WARNING: ") for line in last[:2]), told
        assert "nowhere" in last[0] + last[1] and "missing.md" in last[0] + last[1]
    book.write("print(1)")
    assert book.build()[0] == 0


@pytest.mark.slow
def test_a_parameter_that_no_cell_declares_is_an_error(book):
    code, told = book.build("--chapter", "3", "-p", "noun=dog")
    assert code == 1 and "book/03-small.ipynb: no cell declares noun; its parameters are: none" in told
    book.write("noun, steps = 'cat', 5\nsteps = 5\nnoun = 'cat'", tags=("parameters",))
    code, told = book.build("--chapter", "3", "-p", "nuon=dog", "-p", "steps=7")
    assert code == 1 and "no cell declares nuon; its parameters are: steps, noun" in told
    code, told = book.build("--chapter", "3", "-p", "noun=dog", "-p", "steps=7")
    assert code == 0, told
    (copy,) = (book.root / "_build" / "with-parameters").glob("*.ipynb")
    assert 'noun = \\"dog\\"' in copy.read_text() and "steps = 7" in copy.read_text()
    assert not (book.root / "_build" / "executed").exists(), "the book's own numbers are those of its own parameters"


@pytest.mark.slow
@pytest.mark.parametrize("address", ["", "https://github.com/teacher/zoti", "https://git.example.org/teacher/zoti"])
def test_the_address_is_in_buttons_and_first_cells_or_nowhere(book, address):
    code, told = book.build(address=address)
    assert code == 0, told
    (download,) = (book.root / "_build" / "html" / "_sources" / "book").glob("*.ipynb")
    assert nbformat.read(download, 4).cells[0].source == f'REPOSITORY = "{address}"  # filled in'
    colab = re.findall(r'href="(https://colab[^"]*)"', book.page)
    if "github" in address:
        assert set(colab) == {"https://colab.research.google.com/github/teacher/zoti/blob/colab/book/03-small.ipynb"}
        assert f'href="{address}"' in book.page
    else:
        assert not colab and "github.com/" not in book.page
