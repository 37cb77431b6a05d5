"""Execute the chapters, then build the site: `make book`, or `make chapter N=5` for one chapter's author.

Chapters are committed without outputs. papermill runs each into _build/executed, and the build stops at the first cell
that raises or writes to stderr (Jupyter Book can finish happily over one). A chapter whose key (its code, the library,
the data, torch and diffusers) is that of its executed copy isn't run again: the words of now are put around the outputs
of then. Of these, in _build/source, Jupyter Book makes pages and runs nothing; the committed book is never written to.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

import nbformat
import papermill
import yaml
from address import address, fill
from papermill.exceptions import PapermillExecutionError

ROOT = Path(__file__).parent.parent
BUILD = ROOT / "_build"
# What chapters read; the recipes that made it cannot change a page.
DATA = ("tiny-sd", "judges", "subjects", "styles", "photos", "results")

# A chapter's numbers come from the CPU, from this checkout, and from no network.
os.environ.update(
    PYTHONPATH=str(ROOT),
    PYTHONHASHSEED="0",
    CUDA_VISIBLE_DEVICES="",
    HF_HUB_OFFLINE="1",
    TQDM_DISABLE="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    TOKENIZERS_PARALLELISM="false",
    OMP_WAIT_POLICY="PASSIVE",  # threads that spin while they wait slow each other down on a busy machine
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


def named(chapters: list[Path], wanted: str) -> list[Path]:
    """The chapters meant by 3, 03 or the beginning of a name."""
    number = re.fullmatch(r"0*(\d+)", wanted)
    start = f"{int(number[1]):02d}-" if number else wanted
    return [chapter for chapter in chapters if chapter.name.startswith(start)]


# ---------------------------------------------------------------------------------------------------------- execution


def code_cells(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def key(chapter: Path, shared: str) -> str:
    """A hash of all that a chapter's outputs stand on: its prose is no part of it."""
    code = [(cell.source, cell.metadata.get("tags", [])) for cell in code_cells(nbformat.read(ROOT / chapter, 4))]
    return hashlib.sha256((shared + json.dumps(code)).encode()).hexdigest()


def shared_key() -> str:
    """A hash of all that every chapter stands on."""
    digest = hashlib.sha256(f"{version('torch')} {version('diffusers')}".encode())
    data = [file for folder in DATA for file in (ROOT / "data" / folder).rglob("*") if file.is_file()]
    for file in sorted([*(ROOT / "zoti").rglob("*.py"), *data]):
        digest.update(file.relative_to(ROOT).as_posix().encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def executed(chapter: Path) -> Path:
    return BUILD / "executed" / chapter


def stored_key(chapter: Path) -> str | None:
    copy = executed(chapter)
    return nbformat.read(copy, 4).metadata.get("zoti_key") if copy.exists() else None


def execute(chapter: Path, now: str) -> None:
    """Run one chapter into its executed copy; its key is written last, so an interrupted run counts as none."""
    copy, start = executed(chapter), time.perf_counter()
    half = copy.with_suffix(".running.ipynb")
    notebook = run(chapter, half, {})
    if not any(cell.outputs for cell in code_cells(notebook)):  # Jupyter Book itself would warn of nothing
        stop(chapter, "shows nothing: no cell has an output")
    notebook.metadata["zoti_key"] = now
    nbformat.write(notebook, half)
    half.replace(copy)
    print(f"{time.perf_counter() - start:7.1f} s  {chapter}", flush=True)


def run(chapter: Path, into: Path, parameters: dict):
    """One chapter, executed in a kernel of its own, or the end of the build."""
    print(f"           {chapter}", flush=True)
    declared = papermill.inspect_notebook(ROOT / chapter)
    if unknown := sorted(set(parameters) - set(declared)):
        stop(chapter, f"no cell declares {', '.join(unknown)}; its parameters are: {', '.join(declared) or 'none'}")
    into.parent.mkdir(parents=True, exist_ok=True)
    how = {"kernel_name": "python3", "cwd": into.parent, "progress_bar": False}
    try:
        notebook = papermill.execute_notebook(ROOT / chapter, into, parameters, **how)
    except PapermillExecutionError as error:
        stop(beginning(chapter, error.source), f"raises {error.ename}: {error.evalue}", "\n".join(error.traceback))
    except Exception as error:  # a kernel that died, or never came to life
        stop(chapter, f"{type(error).__name__}: {error}")
    for cell in code_cells(notebook):
        if told := "".join(output.text for output in cell.outputs if output.get("name") == "stderr"):
            stop(beginning(chapter, cell.source), "writes to stderr, which no reader of a page should meet", told)
    return notebook


def stop(where: Path | str, what: str, details: str = "") -> NoReturn:
    """End the build; where it failed is said before all details, which may be long, and after them."""
    sys.exit(f"{where}: {what}" + (f"\n\n{details.rstrip()}\n\n{where}: {what}" if details else ""))


def beginning(chapter: Path, source: str) -> str:
    sources = [cell.source for cell in nbformat.read(ROOT / chapter, 4).cells]
    return place(chapter, sources.index(source), 1) if source in sources else str(chapter)


def place(chapter: Path, cell: int, line: int) -> str:
    """Where a line of a notebook's cell stands in the committed file, as in book/index.ipynb:25."""
    rows = enumerate((ROOT / chapter).read_text(encoding="utf-8").splitlines(), 1)
    found = None
    for i, one in enumerate(nbformat.read(ROOT / chapter, 4).cells[: cell + 1]):
        for j, text in enumerate(one.source.splitlines(keepends=True), 1):
            row = json.dumps(text, ensure_ascii=False)
            if i < cell or j <= line:  # Sphinx may point beyond a cell's end; its last line will do
                found = next((number for number, told in rows if told.strip().rstrip(",") == row), found)
    return f"{chapter}:{found}" if found else f"{chapter}, cell {cell + 1}"


# -------------------------------------------------------------------------------------------------------------- pages


def compose(chapter: Path, home: str | None) -> str:
    """A chapter as its page shows it: the committed words, the outputs of its executed copy, and the book's address."""
    notebook, ran = nbformat.read(ROOT / chapter, 4), nbformat.read(executed(chapter), 4)
    for cell, done in zip(code_cells(notebook), code_cells(ran), strict=True):
        cell.outputs, cell.execution_count = done.outputs, done.execution_count
    if "widgets" in ran.metadata:
        notebook.metadata["widgets"] = ran.metadata["widgets"]
    return fill(nbformat.writes(notebook), home)


def configuration(home: str | None) -> str:
    """_config.yml, with buttons that lead to where the book lives; Colab opens notebooks from GitHub alone.

    They lead to the branch that .github/workflows/ci.yml makes for Colab, whose first cells know their address too.
    """
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    if home and home.startswith("https://github.com/"):
        config["repository"] = {"url": home, "branch": "colab", "path_to_book": ""}
        config["launch_buttons"] = {"colab_url": "https://colab.research.google.com"}
        config["html"] |= {"use_repository_button": True, "use_issues_button": True}
    return yaml.safe_dump(config, allow_unicode=True, sort_keys=False)


def bring(notebooks: list[Path], home: str | None, keys: dict[Path, str]) -> None:
    """Lay out _build/source; what hasn't changed keeps its date, so that Sphinx reads it once."""
    contents = {Path("_config.yml"): configuration(home).encode(), Path("_toc.yml"): (ROOT / "_toc.yml").read_bytes()}
    for folder in ("book", "assets"):
        for file in (ROOT / folder).rglob("*"):
            if file.is_file() and file.suffix not in (".ipynb", ".py", ".pyc"):
                contents[file.relative_to(ROOT)] = file.read_bytes()
    for chapter in notebooks:
        if stored_key(chapter) == keys[chapter]:
            contents[chapter] = compose(chapter, home).encode()
        elif not (BUILD / "source" / chapter).exists():  # another chapter alone was asked for
            contents[chapter] = fill((ROOT / chapter).read_text(encoding="utf-8"), home).encode()
    for name, content in contents.items():
        target = BUILD / "source" / name
        if not target.exists() or target.read_bytes() != content:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)


def make_pages(builder: str) -> None:
    """Run Jupyter Book; whatever it complains of ends the build, and is repeated last with the author's own lines."""
    jupyter_book = Path(sys.executable).with_name("jupyter-book")  # of this environment, activated or not
    command = [jupyter_book, "build", BUILD / "source", "--path-output", ROOT, "--builder", builder]
    complaints = []
    with subprocess.Popen(
        [*command, "-W", "-n", "--keep-going"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as sphinx:
        for line in committed(sphinx.stdout):
            print(line, end="", flush=True)
            if re.search(r"(WARNING|ERROR|CRITICAL): |\) broken +", line):
                complaints.append(re.sub(r"\x1b\[[\d;]*m", "", line))  # its colours
    if sphinx.returncode:
        shutil.rmtree(BUILD / ".doctrees", ignore_errors=True)  # or the next build would not read the faulty page again
        sys.exit("\n" + "".join(dict.fromkeys(complaints)) + "The book is not built.")


def bring_engine() -> None:
    """Lay what a page learns with beside the pages. Without npm's registry the book lacks this alone, and says so.

    On CI that is a failure.
    """
    import engine  # imports zoti and torch, which a book that teaches nothing in the page can do without

    try:
        print(f"           {engine.bring(BUILD / 'html', BUILD / 'engine').relative_to(ROOT)}", flush=True)
    except OSError as error:
        if os.environ.get("CI"):
            raise
        print(f"\nThe page cannot teach itself a word in this build: {error}", flush=True)


def committed(lines) -> Iterator[str]:
    """Sphinx's lines, in which a place in the copy becomes that in the committed book."""
    inside = re.compile(re.escape(f"{BUILD / 'source'}/") + r"(?P<file>[^\s:]+)(:(?P<line>\d+))?")

    def ours(match: re.Match[str]) -> str:
        file, line = Path(match["file"]), int(match["line"] or 0)
        if file.suffix == ".ipynb" and line >= 10_000:  # MyST-NB counts so: ten thousand for each cell
            return place(file, line // 10_000 - 1, line % 10_000)
        return f"{file}:{line}" if line else str(file)

    for line in lines:
        yield inside.sub(ours, line).replace(f"{ROOT}/", "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chapter", metavar="N", help="execute this chapter only, even if nothing changed")
    parser.add_argument("-p", metavar="NAME=VALUE", action="append", default=[], help="a parameter of this chapter")
    parser.add_argument("--links", action="store_true", help="ask every link to another site whether it still works")
    asked = parser.parse_args()
    notebooks = [page for page in pages() if page.suffix == ".ipynb"]
    shared = shared_key()
    keys = {chapter: key(chapter, shared) for chapter in notebooks}
    if asked.chapter or asked.p:
        stale = named(notebooks, asked.chapter or "")
        if not asked.chapter or len(stale) != 1:
            sys.exit(f"one chapter, please: _toc.yml names {', '.join(chapter.stem for chapter in notebooks)}")
    else:
        stale = [chapter for chapter in notebooks if stored_key(chapter) != keys[chapter]]
    if asked.p:  # what it says with other parameters is not the book's
        copy = BUILD / "with-parameters" / stale[0].name
        run(
            stale[0],
            copy,
            {name: yaml.safe_load(value) for name, _, value in (pair.partition("=") for pair in asked.p)},
        )
        sys.exit(print(f"\nthe chapter with {' '.join(asked.p)}: {copy}"))
    print(f"{len(stale)} of {len(notebooks)} chapters to execute", flush=True)
    for chapter in stale:
        execute(chapter, keys[chapter])

    bring(notebooks, address(ROOT), keys)
    make_pages("html")
    if any("lesson(" in cell.source for page in notebooks for cell in code_cells(nbformat.read(ROOT / page, 4))):
        bring_engine()
    if asked.links:
        make_pages("linkcheck")
    print(f"\nthe book: {BUILD / 'html' / 'index.html'}")


if __name__ == "__main__":
    main()
