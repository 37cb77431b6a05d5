"""The students' copies hold every exercise and no solution."""

import importlib.util
import os
import re
from unittest import mock

import nbformat
import pytest

from tests.book.test_chapters import CHAPTERS, ROOT, cells, prose, tags

by_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)


@pytest.fixture(scope="module")
def student():
    """book/student.py, which stands on book/build.py, which sets variables for the chapters it runs."""
    pytest.importorskip("papermill", reason="needs the book's tools: pip install -e .[book]")
    spec = importlib.util.spec_from_file_location("student", ROOT / "book" / "student.py")
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch, mock.patch.dict(os.environ):
        patch.syspath_prepend(ROOT / "book")
        spec.loader.exec_module(module)
    return module


def copy(student, path):
    return student.without_solutions(nbformat.read(path, as_version=4))


@by_chapter
def test_every_exercise_waits_for_an_answer(student, path):
    mine = copy(student, path)
    nbformat.validate(mine)
    text = "\n\n".join(cell.source for cell in mine.cells if cell.cell_type == "markdown")
    asked = re.findall(r":::\{exercise\}.*?^:::[ \t]*$", prose(path), flags=re.S | re.M)
    assert asked and all(exercise in text for exercise in asked)
    assert sum("answer" in tags(cell) for cell in mine.cells) == len(asked)


@by_chapter
def test_no_line_of_a_solution_is_left(student, path):
    text, whole = "\n".join(cell.source for cell in copy(student, path).cells), prose(path)
    told = "\n".join(re.findall(r"^:::\{solution-start\}.*?^:::\{solution-end\}", whole, flags=re.S | re.M))
    coded = "\n".join(cell.source for cell in cells(path, "code") if "solution" in tags(cell))
    elsewhere = [c.source for c in cells(path, "code") if "solution" not in tags(c)]
    lines = [line.strip() for line in (told + "\n" + coded).splitlines()]
    lines = [line for line in lines if len(line) > 25 and not any(line in source for source in elsewhere)]
    assert len(lines) > 5, "a chapter without solutions proves nothing"
    assert not [line for line in lines if line in text]


def test_a_solution_without_an_end_is_no_solution(student):
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_markdown_cell(":::{solution-start} ex-a\n:::\n\nIt is 4.")]
    )
    with pytest.raises(ValueError, match="never ends"):
        student.without_solutions(notebook)


def test_what_follows_a_solution_in_its_cell_stays(student):
    source = "Before.\n\n:::{solution-start} ex-a\n:::\n\nIt is 4.\n\n:::{solution-end}\n:::\n\n## After"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(source)])
    assert [cell.source for cell in student.without_solutions(notebook).cells] == ["Before.", "", "## After"]
