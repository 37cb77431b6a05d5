"""The wheel carries every room of the library, and the model and pictures beside it."""

import os
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("hatchling", reason="needs what pyproject.toml builds with: pip install -e .[test]")

ROOT = Path(__file__).parents[2]
ROOMS = sorted(init.parent.name for init in (ROOT / "zoti").glob("*/__init__.py"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("zoti-*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_carries_every_file_of_every_room_and_nothing_else_of_ours(wheel):
    ours = {path.relative_to(ROOT).as_posix() for path in (ROOT / "zoti").rglob("*.py")}
    assert ours == {name for name in wheel.namelist() if name.endswith(".py")}
    assert {name.split("/")[1] for name in ours if name.count("/") > 1} == set(ROOMS) != set()


def test_the_wheel_carries_the_model_its_judges_and_the_pictures(wheel):
    for part in ("tiny-sd", "judges", "subjects", "styles"):
        here = {f.relative_to(ROOT / "data").as_posix() for f in (ROOT / "data" / part).rglob("*") if f.is_file()}
        packed = {n.removeprefix("zoti/_data/") for n in wheel.namelist() if n.startswith(f"zoti/_data/{part}/")}
        assert here == packed != set()


@pytest.mark.slow
def test_what_the_wheel_installs_imports_by_room_and_finds_its_data(wheel, tmp_path):
    wheel.extractall(tmp_path)
    program = textwrap.dedent(f"""
        import importlib
        import zoti
        from zoti.data import DATA, load_subject
        for place in [DATA, *(importlib.import_module("zoti." + room).__file__ for room in {ROOMS})]:
            assert str(place).startswith({str(tmp_path)!r}), place
        assert len(load_subject("teapot").references) == 5
        assert zoti.load_pipeline(weights="none").unet.config.sample_size == 8
        """)
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
