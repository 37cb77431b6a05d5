"""Execute the chapters, then build the site: `make book`, or `make chapter N=05` for one chapter's author.

Chapters are committed without outputs. papermill runs each into a copy of the book, _build/source, and stops
the build at the first cell that raises (Jupyter Book can finish happily over one). A chapter whose key (its
source, the library, the data, torch and diffusers) is that of its executed copy isn't run again. Then Jupyter
Book makes pages of the copy and runs nothing; the committed book is never written to.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import nbformat
import papermill
import yaml

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "_build" / "source"
DATA = ("tiny-sd", "judges", "subjects", "styles")  # what chapters read; the recipes that made it cannot change a page

# A chapter's numbers come from the CPU, from this checkout, and from no network.
os.environ.update(
    PYTHONPATH=str(ROOT),
    PYTHONHASHSEED="0",
    CUDA_VISIBLE_DEVICES="",
    HF_HUB_OFFLINE="1",
    TQDM_DISABLE="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    TOKENIZERS_PARALLELISM="false",
)


def pages() -> list[Path]:
    """Every file _toc.yml names, in reading order, relative to the root."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    names = [toc["root"]]

    def walk(entry):
        for part in entry.get("parts", []):
            walk(part)
        for chapter in [*entry.get("chapters", []), *entry.get("sections", [])]:
            names.append(chapter["file"])
            walk(chapter)

    walk(toc)
    return [_file(name).relative_to(ROOT) for name in names]


def _file(name: str) -> Path:
    found = [path for suffix in (".ipynb", ".md") if (path := ROOT / (name + suffix)).exists()]
    if len(found) != 1:
        sys.exit(f"_toc.yml names {name}; as .ipynb or .md I find {len(found)} of it")
    return found[0]


def key(chapter: Path, shared: str) -> str:
    return hashlib.sha256(shared.encode() + (ROOT / chapter).read_bytes()).hexdigest()


def shared_key() -> str:
    """A hash of all that every chapter stands on."""
    digest = hashlib.sha256(f"{version('torch')} {version('diffusers')}".encode())
    data = [file for folder in DATA for file in (ROOT / "data" / folder).rglob("*") if file.is_file()]
    for file in sorted([*(ROOT / "zoti").rglob("*.py"), *data]):
        digest.update(file.relative_to(ROOT).as_posix().encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def execute(chapter: Path, now: str) -> None:
    """Run one chapter into the copy; its key is written last, so an interrupted run counts as none."""
    copy, start = SOURCE / chapter, time.perf_counter()
    copy.parent.mkdir(parents=True, exist_ok=True)
    half = copy.with_suffix(".running.ipynb")
    papermill.execute_notebook(ROOT / chapter, half, kernel_name="python3", cwd=copy.parent, progress_bar=False)
    notebook = nbformat.read(half, as_version=4)
    notebook.metadata["zoti_key"] = now
    nbformat.write(notebook, half)
    half.replace(copy)
    print(f"{time.perf_counter() - start:7.1f} s  {chapter}", flush=True)


def stored_key(chapter: Path) -> str | None:
    copy = SOURCE / chapter
    return nbformat.read(copy, as_version=4).metadata.get("zoti_key") if copy.exists() else None


def lacks_outputs(chapter: Path) -> bool:
    """Whether an executed chapter would show nothing; Jupyter Book itself warns of nothing."""
    cells = [cell for cell in nbformat.read(SOURCE / chapter, as_version=4).cells if cell.cell_type == "code"]
    return bool(cells) and not any(cell.outputs for cell in cells)


def copy_rest(notebooks: list[Path]) -> None:
    """Bring all that isn't executed; what hasn't changed keeps its date, so Sphinx reads it once."""
    rest = [file for folder in ("book", "assets") for file in (ROOT / folder).rglob("*") if file.is_file()]
    for file in [ROOT / "_config.yml", ROOT / "_toc.yml", *rest]:
        if file.suffix in (".ipynb", ".py", ".pyc"):
            continue
        target = SOURCE / file.relative_to(ROOT)
        if not target.exists() or target.read_bytes() != file.read_bytes():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, target)
    for chapter in notebooks:
        if not (SOURCE / chapter).exists():  # another chapter alone was asked for
            shutil.copy2(ROOT / chapter, SOURCE / chapter)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chapter", metavar="NN", help="execute this chapter only, even if nothing changed")
    only = parser.parse_args().chapter
    notebooks = [page for page in pages() if page.suffix == ".ipynb"]
    shared = shared_key()
    keys = {chapter: key(chapter, shared) for chapter in notebooks}
    if only:
        stale = [chapter for chapter in notebooks if chapter.name.startswith(only)]
        if not stale:
            sys.exit(f"_toc.yml names no chapter {only}")
    else:
        stale = [chapter for chapter in notebooks if stored_key(chapter) != keys[chapter]]
    print(f"{len(stale)} of {len(notebooks)} chapters to execute", flush=True)
    for chapter in stale:
        execute(chapter, keys[chapter])
    if bare := [str(chapter) for chapter in (stale if only else notebooks) if lacks_outputs(chapter)]:
        sys.exit(f"no outputs in {', '.join(bare)}")

    copy_rest(notebooks)
    jupyter_book = Path(sys.executable).with_name("jupyter-book")  # of this environment, activated or not
    build = [jupyter_book, "build", SOURCE, "--path-output", ROOT, "-W", "-n", "--keep-going"]
    if code := subprocess.run(build).returncode:
        sys.exit(code)
    print(f"\nthe book: {ROOT / '_build' / 'html' / 'index.html'}")


if __name__ == "__main__":
    main()
