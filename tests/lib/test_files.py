"""Files of tensors: whole whatever happens, for whom the umask says, refused in plain words where they cannot be."""

import errno
import os
import re
import resource
import shutil
import stat
import subprocess
import sys
import textwrap
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from tests.helpers import problem, randn, random_pipeline
from zoti import ConceptToken, Config, invert
from zoti.files import Damaged, header, read_tensors, write_tensors

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones((), dtype=torch.int64)}


@contextmanager
def umask(mask: int):
    old = os.umask(mask)
    yield
    os.umask(old)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(("mask", "expected"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_who_may_read_a_file_is_for_the_umask_to_say(tmp_path, pipe, mask, expected):
    """Also where an older file of another mode is replaced."""
    token = ConceptToken(pipe, "<a>", "teapot")
    with umask(0o077):
        token.save(token.initial, tmp_path / "w")
    with umask(mask):
        word = token.save(token.initial, tmp_path / "w")
        list(invert(problem(random_pipeline()), Config(steps=1), checkpoint=tmp_path / "run.safetensors"))
    assert mode(word) == mode(tmp_path / "run.safetensors") == expected


def test_a_file_comes_back_as_it_was_written(tmp_path):
    path = write_tensors(tmp_path / "a", TENSORS | {"view": TENSORS["a"].T}, {"x": "ü \n"})
    tensors, facts = read_tensors(path)
    assert facts == {"x": "ü \n"}
    assert list(tensors) == ["a", "b", "view"]
    assert all(torch.equal(tensors[n], t) for n, t in TENSORS.items())
    assert torch.equal(tensors["view"], TENSORS["a"].T)
    assert header(path) == (["a", "b", "view"], {"x": "ü \n", "seal": header(path)[1]["seal"]})


def test_every_byte_is_sealed(tmp_path):
    path = write_tensors(tmp_path / "a", TENSORS, {"x": "y"})
    good = path.read_bytes()
    for at in range(len(good)):
        path.write_bytes(bytes([*good[:at], good[at] ^ 1, *good[at + 1 :]]))
        try:
            _, facts = read_tensors(path)
        except ValueError as error:
            assert re.search("is damaged|is not a readable safetensors file", str(error))
        else:  # a letter of the word "seal" itself is another: that is a file of somebody else's
            assert len(facts) == 2, at
    path.write_bytes(good[:-1] + b"\x01")
    with pytest.raises(Damaged):
        read_tensors(path)


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "drive").mkdir()
    (tmp_path / "a").symlink_to(tmp_path / "drive" / "a")
    write_tensors(tmp_path / "a", TENSORS, {})
    write_tensors(tmp_path / "a", {"a": randn(2)}, {})
    assert (tmp_path / "a").is_symlink()
    assert torch.equal(read_tensors(tmp_path / "drive" / "a")[0]["a"], randn(2))


def test_places_where_no_file_can_be_are_refused_in_plain_words(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    for path, told in {
        "folder": "a folder has that name",
        "file/a": "a file stands where a folder should",
        "file/b/a": "a file stands where a folder should",
        "x" * 300: "the name is too long",
        "a\0b": "null",
    }.items():
        with pytest.raises((OSError, ValueError), match=f"cannot be written: .*{told}.*Choose another place"):
            write_tensors(tmp_path / path, TENSORS, {})
    assert (tmp_path / "file").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "folder"]


@pytest.mark.parametrize(
    ("number", "kind", "told"),
    [
        (errno.ENOSPC, OSError, "the disk is full"),
        (errno.EDQUOT, OSError, "your share of the disk is full"),
        (errno.EACCES, PermissionError, "you may not write there"),
        (errno.EROFS, OSError, "can only be read"),
        (errno.EIO, OSError, "Input/output error"),
    ],
)
def test_a_disk_that_fails_leaves_the_older_file_whole_and_nothing_else(tmp_path, monkeypatch, number, kind, told):
    path = write_tensors(tmp_path / "a", TENSORS, {})

    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(kind, match=f"cannot be written: .*{told}.*as it was") as caught:
        write_tensors(path, {"a": randn(2)}, {})
    assert type(caught.value) is kind
    assert torch.equal(read_tensors(path)[0]["a"], TENSORS["a"])
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_file_that_may_not_grow_leaves_the_older_one_whole(tmp_path):
    """Nothing is replaced here: the system itself refuses in the middle of the writing."""
    path, before = write_tensors(tmp_path / "a", TENSORS, {}), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match="cannot be written: File too large"):
            write_tensors(path, {"a": randn(2000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert torch.equal(read_tensors(path)[0]["a"], TENSORS["a"])
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.slow
def test_who_may_not_write_somewhere_is_told_so(tmp_path):
    """By a process that is nobody: root may write everywhere."""
    tmp_path.chmod(0o555)
    script = textwrap.dedent(f"""
        import os, sys
        from pathlib import Path
        import torch
        from zoti.files import write_tensors
        if os.getuid() == 0:
            os.setuid(65534)
        try:
            write_tensors(Path({str(tmp_path)!r}) / "a", {{"a": torch.ones(2)}}, {{}})
        except PermissionError as error:
            print(error)
        """)
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert "you may not write there. Choose another place" in done.stdout, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_in_the_middle_leaves_the_older_file_whole_and_nothing_else(tmp_path, monkeypatch):
    path = write_tensors(tmp_path / "a", TENSORS, {})

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_tensors(path, {"a": randn(2)}, {})
    assert torch.equal(read_tensors(path)[0]["a"], TENSORS["a"])
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_file_that_another_process_replaces_is_read_as_the_old_one_or_the_new(tmp_path):
    path = tmp_path / "a"
    for n in (1, 2000):
        write_tensors(tmp_path / f"{n}", {"a": torch.ones(n)}, {"n": f"{n}"})
    shutil.copy(tmp_path / "1", path)
    script = textwrap.dedent("""
        import os, shutil
        while True:
            for name in ("1", "2000"):
                shutil.copy(name, "draft")
                os.replace("draft", "a")
        """)
    other = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path)
    try:
        seen = {header(path)[1]["n"] for _ in range(5000)}
        tensors = [read_tensors(path) for _ in range(1000)]
    finally:
        other.kill()
        other.wait()
    assert seen == {"1", "2000"}
    assert all(len(held["a"]) == int(facts["n"]) for held, facts in tensors)
