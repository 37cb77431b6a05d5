"""The wheel carries every room of the library, the model and pictures beside it, and everybody's licence."""

import email
import json
import os
import re
import subprocess
import sys
import tarfile
import textwrap
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("hatchling", reason="needs what pyproject.toml builds with: pip install -e .[test]")

ROOT = Path(__file__).parents[2]
ADDRESS = "https://example.org/teacher/zoti"
ROOMS = sorted(init.parent.name for init in (ROOT / "zoti").glob("*/__init__.py"))


def build(folder: Path, *options: str, address: str = ADDRESS, source: Path = ROOT) -> Path:
    """What hatchling makes of a checkout, or of an unpacked sdist."""
    command = [sys.executable, "-m", "hatchling", "build", *options, "-d", folder]
    environment = os.environ | {"ZOTI_REPOSITORY": address}
    done = subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("zoti-*")
    return path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    return zipfile.ZipFile(build(tmp_path_factory.mktemp("wheel"), "-t", "wheel"))


def metadata(wheel: zipfile.ZipFile) -> email.message.Message:
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    return email.message_from_bytes(wheel.read(name))


def links(page: str) -> list[str]:
    """Where the links and pictures of a Markdown text lead."""
    return re.findall(r"\]\(([^)]*)\)", page) + re.findall(r"(?:src|href)=[\"']([^\"']+)", page)


def test_the_wheel_carries_every_file_of_every_room_and_nothing_else_of_ours(wheel):
    kinds = (".py", ".js", ".css")
    ours = {path.relative_to(ROOT).as_posix() for path in (ROOT / "zoti").rglob("*") if path.suffix in kinds}
    assert ours == {name for name in wheel.namelist() if name.endswith(kinds)}
    assert {name.split("/")[1] for name in ours if name.count("/") > 1} == set(ROOMS) != set()


def test_the_wheel_carries_the_model_its_judges_the_pictures_and_the_results(wheel):
    for part in ("tiny-sd", "judges", "subjects", "styles", "photos", "results"):
        here = {f.relative_to(ROOT / "data").as_posix() for f in (ROOT / "data" / part).rglob("*") if f.is_file()}
        packed = {n.removeprefix("zoti/_data/") for n in wheel.namelist() if n.startswith(f"zoti/_data/{part}/")}
        assert here == packed != set()
    assert "zoti/model/clip_merges.txt.xz" in wheel.namelist()


def test_the_wheel_carries_the_licence_of_all_that_is_in_it(wheel):
    told = metadata(wheel)
    (folder,) = {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
    for file in told.get_all("License-File"):
        assert wheel.read(f"{folder}/licenses/{file}") == (ROOT / file).read_bytes()
    notes = (ROOT / "data" / "README.md").read_text()
    assert "data/README.md" in told.get_all("License-File")
    assert set(re.findall(r"\((licenses/[^)]*)\)", notes)) == {
        file.removeprefix("data/") for file in told.get_all("License-File") if file.startswith("data/licenses/")
    }
    artwork = re.findall(r"^\| `@.*?\| \[?(Apache-2.0|CC BY 4.0|CC BY-SA 4.0|MIT)\b", notes, flags=re.M)
    assert len(artwork) == len(re.findall(r"^\| `@", notes, flags=re.M)) > 3
    assert set(told["License-Expression"].split(" AND ")) == {
        re.sub(r"CC (BY\S*) (.*)", r"CC-\1-\2", licence) for licence in artwork
    }


def test_the_readme_of_the_package_has_links_that_work_anywhere(wheel):
    told = metadata(wheel)
    page = told.get_payload()
    assert told["Description-Content-Type"] == "text/markdown" and "# zoti" in page
    assert f"{ADDRESS}/raw/HEAD/assets/before-after.png" in links(page)
    assert f"{ADDRESS}/blob/HEAD/data/README.md" in links(page)
    for link in links(page):
        assert link.startswith("https://"), link
        if link.startswith(ADDRESS):
            assert (ROOT / link.split("/HEAD/")[1]).is_file(), link
    assert told.get_all("Project-URL") == [f"Source, {ADDRESS}"]


def test_without_an_address_the_readme_has_no_link_that_leads_nowhere():
    command = [sys.executable, "-m", "hatchling", "metadata"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"ZOTI_REPOSITORY": ""}, capture_output=True, text=True)
    told = json.loads(done.stdout)
    page = told["readme"]["text"]
    assert links(page) and all(link.startswith("https://") for link in links(page))
    assert "before-after" not in page and "see data/README.md" in page and "urls" not in told


@pytest.mark.slow
def test_an_sdist_keeps_the_address_it_was_made_with(tmp_path):
    with tarfile.open(build(tmp_path / "sdist", "-t", "sdist")) as packed:
        packed.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    told = metadata(zipfile.ZipFile(build(tmp_path / "wheel", "-t", "wheel", address="", source=source)))
    assert told["Project-URL"] == f"Source, {ADDRESS}"
    assert f"{ADDRESS}/raw/HEAD/assets/before-after.png" in links(told.get_payload())


def test_an_editable_install_copies_no_data(tmp_path):
    wheel = zipfile.ZipFile(build(tmp_path, "-t", "wheel:editable"))
    assert any(name.endswith(".pth") for name in wheel.namelist())
    assert not [name for name in wheel.namelist() if not name.endswith(".pth") and ".dist-info/" not in name]


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
