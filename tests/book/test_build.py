"""The build runs a chapter again exactly when something it stands on has changed."""

import importlib.util
import os
import shutil
from pathlib import Path
from unittest import mock

import pytest

pytest.importorskip("papermill", reason="needs the book's tools: pip install -e .[book]")

ROOT = Path(__file__).parents[2]
TOP = "the top level"
ROOMS = [TOP, *sorted(init.parent.name for init in (ROOT / "zoti").glob("*/__init__.py"))]
CHAPTER = Path("book/index.ipynb")


@pytest.fixture
def build(tmp_path, monkeypatch):
    """book/build.py, standing in a copy of the library, one chapter and a little data."""
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


def test_so_does_a_byte_of_the_data_or_the_chapter_itself(build):
    seen = {key(build)}
    for name in build.DATA:
        (build.ROOT / "data" / name / "deep" / "file").write_bytes(b"1")
        seen.add(key(build))
    (build.ROOT / CHAPTER).write_text((build.ROOT / CHAPTER).read_text() + "\n")
    seen.add(key(build))
    assert len(seen) == 1 + len(build.DATA) + 1


def test_the_key_is_the_same_wherever_the_book_lies_and_whatever_python_left_behind(build, tmp_path, monkeypatch):
    before = key(build)
    (build.ROOT / "zoti" / "word" / "__pycache__").mkdir()
    (build.ROOT / "zoti" / "word" / "__pycache__" / "tokens.pyc").write_bytes(b"compiled")
    assert key(build) == before
    elsewhere = tmp_path / "elsewhere" / "zoti-book"
    shutil.copytree(build.ROOT, elsewhere, ignore=shutil.ignore_patterns("elsewhere"))
    monkeypatch.setattr(build, "ROOT", elsewhere)
    assert key(build) == before
