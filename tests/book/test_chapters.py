"""Every chapter keeps the form its readers count on. What a chapter *says* is checked by its own claims."""

import ast
import json
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

ROOT = Path(__file__).parents[2]
NAMED = re.findall(r"(?:file|root): *(\S+)", (ROOT / "_toc.yml").read_text())
NOTEBOOKS = [path for name in NAMED if (path := ROOT / f"{name}.ipynb").exists()]
CHAPTERS = [path for path in NOTEBOOKS if re.match(r"\d\d-", path.name)]  # appendices are free in form

# The first code cell is the same in every notebook, but for the address that the build fills in; a page leaves it out.
# What it does is tested in test_first_cell.py.
INSTALL = """\
REPOSITORY = ""  # the build writes here where this book's library is to be had
try:
    import zoti.page
except ImportError:  # not installed, on Colab say; or something else bears its name
    import sys
    sys.modules.pop("zoti", None)
    if REPOSITORY:
        %pip install -q git+{REPOSITORY}
    try:
        import zoti.page
    except ImportError as error:
        where = f"git+{REPOSITORY}" if REPOSITORY else "-e . (in the book's folder)"
        raise ImportError(
            f"zoti is needed here, and cannot be imported: {error}. In a terminal, "
            f"pip install {where}; then restart the kernel. No other file or folder "
            "beside this notebook may be called zoti.") from error"""

by_name = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
by_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)


def cells(path, kind=None):
    return [cell for cell in nbformat.read(path, as_version=4).cells if kind in (None, cell.cell_type)]


def prose(path):
    return "\n\n".join(cell.source for cell in cells(path, "markdown"))


def tags(cell):
    return set(cell.metadata.get("tags", []))


def test_toc_and_folder_hold_the_same_chapters():
    assert all((ROOT / f"{name}.ipynb").exists() or (ROOT / f"{name}.md").exists() for name in NAMED)
    assert {path.stem for path in (ROOT / "book").glob("*.ipynb")} == {path.stem for path in NOTEBOOKS}
    assert sorted(CHAPTERS) == CHAPTERS


@by_name
def test_committed_without_outputs(path):
    for cell in cells(path, "code"):
        assert not cell.outputs and cell.execution_count is None, f"run `nbstripout --keep-id {path.name}`"
    assert "widgets" not in json.loads(path.read_text())["metadata"]


@by_name
def test_notebook_is_valid_and_runs_anywhere(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3", "another machine has no kernel of that name"


@by_name
def test_code_fits_the_eye_and_the_page(path):
    for cell in cells(path, "code"):
        lines = cell.source.splitlines()
        first = lines[0] if lines else "(empty)"
        assert 0 < len(lines) <= 25, f"{len(lines)} lines: {first}"
        longest, widest = max(lines, key=len), 100 if "hide-input" in tags(cell) else 88
        assert len(longest) <= widest, f"scrolls sideways: {longest}"
        ast.parse(TransformerManager().transform_cell(cell.source))


@by_name
def test_no_picture_comes_from_elsewhere(path):
    text = prose(path)
    assert not re.findall(r"!\[[^\]]*\]\(https?:|<img[^>]+src=[\"']https?:", text), "remote pictures vanish"
    assert not re.findall(r"!\[\s*\]\(|<img(?![^>]*alt=)", text), "a picture without alt text"


@by_chapter
def test_opens_as_a_promise(path):
    first = cells(path)[0]
    assert first.cell_type == "markdown"
    assert re.match(r"# \S.*", first.source), "the first line is the title"
    opening = "\n".join(cell.source for cell in cells(path, "markdown")[:2]).lower()
    for part in ("you will be able to", "you need", "minutes"):
        assert part in opening, f"the opening lacks “{part}”"
    assert len(re.findall(r"^# ", re.sub(r"```.*?```", "", prose(path), flags=re.S), flags=re.M)) == 1


@by_name
def test_the_first_cell_brings_the_library_where_it_is_not(path):
    install = [cell for cell in cells(path, "code") if "install" in tags(cell)]
    assert [cell.source for cell in install] == [INSTALL]
    assert install == cells(path, "code")[:1], "it comes first"
    assert "remove-cell" in tags(install[0]), "it has nothing to tell a reader of the page"


@by_name
def test_what_zoti_does_not_bring_is_installed_where_it_is_not(path):
    """Nothing else is there of what we have here, where a notebook lies alone and pip installed zoti."""
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    there = {"zoti", "ipython", *(re.match(r"[\w-]+", name)[0].lower() for name in asked)}
    whose = packages_distributions()

    def imported(node):
        """The distributions that a piece of code imports, by their names, of those that are not Python's own."""
        named = [name.name for one in ast.walk(node) if isinstance(one, ast.Import) for name in one.names]
        named += [one.module for one in ast.walk(node) if isinstance(one, ast.ImportFrom)]
        roots = {name.partition(".")[0] for name in named if name != "google.colab"} - sys.stdlib_module_names
        return {name.lower() for root in roots for name in whose.get(root, [root])[:1]}

    for cell in cells(path, "code"):
        tree = ast.parse(TransformerManager().transform_cell(cell.source))
        for tried in [node for node in ast.walk(tree) if isinstance(node, ast.Try)]:
            if any("run_line_magic('pip', 'install" in ast.unparse(caught) for caught in tried.handlers):
                there |= imported(tried)
        assert imported(tree) <= there, f"try it, and %pip install it: {imported(tree) - there}"


@by_name
def test_a_chapter_runs_on_whatever_device_there_is(path):
    for cell in cells(path, "code"):
        for node in ast.walk(ast.parse(TransformerManager().transform_cell(cell.source))):
            named = isinstance(node, ast.Constant) and re.match(r"(cpu|cuda|mps|xpu)(:\d+)?$", str(node.value))
            moved = isinstance(node, ast.Attribute) and node.attr in ("cuda", "mps", "xpu")
            assert not named and not moved, f"a device by name: {ast.unparse(node)}; ask pipe.device"


@by_chapter
def test_setup_is_one_folded_cell(path):
    (setup,) = [cell for cell in cells(path, "code") if "setup" in tags(cell)]
    assert setup == cells(path, "code")[1], "setup comes next"
    assert "hide-input" in tags(setup)
    assert "style()" in setup.source


def calls(path, *names):
    """Every call of these functions in a chapter: (the cell, the call)."""
    return [
        (cell, node)
        for cell in cells(path, "code")
        for node in ast.walk(ast.parse(TransformerManager().transform_cell(cell.source)))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names
    ]


def told(call) -> dict:
    return {keyword.arg: keyword.value for keyword in call.keywords}


@by_chapter
def test_lines_that_carry_the_idea_are_open_and_few(path):
    """Drawing, claims and questions are folded to a line; what is left is read, and can be read."""
    code = [cell for cell in cells(path, "code") if not tags(cell) & {"install", "solution"}]
    read = [cell for cell in code if "hide-input" not in tags(cell)]
    assert read, "no idea in code"
    lines = [[line for line in cell.source.splitlines() if line.strip()] for cell in read]
    assert max(map(len, lines)) <= 15, max(lines, key=len)[0]
    assert sum(map(len, lines)) <= 80, f"{sum(map(len, lines))} open lines: prose drowns"
    drawn = {id(cell) for cell, _ in calls(path, "claim", "predict", "explorer", "linked", "scene", "masthead")}
    for cell in read:
        assert id(cell) not in drawn and "plt." not in cell.source, f"fold it (hide-input): {cell.source[:60]}"


@by_chapter
def test_a_strip_under_the_title_says_what_ran(path):
    ((cell, call),) = calls(path, "masthead")
    assert set(told(call)) == {"reading", "on"}
    assert cells(path, "code").index(cell) == 2, "after the setup"


@by_chapter
def test_the_reader_commits_before_seeing_and_a_claim_answers(path):
    asked = [call.args[0].value for _, call in calls(path, "predict")]
    answered = [told(call)["predicted"].value for _, call in calls(path, "claim") if "predicted" in told(call)]
    assert asked and sorted(asked) == sorted(answered)
    assert asked == sorted(asked, key=answered.index), "answered in the order in which they are asked"


@by_chapter
def test_every_claim_has_a_threshold_and_a_mutation(path):
    """That the claim falls under its mutation is checked by `claim` itself, whenever the chapter runs."""
    made = [call for _, call in calls(path, "claim")]
    assert made, "no claim"
    for call in made:
        sentence, has = ast.unparse(call.args[0]), told(call)
        assert not isinstance(call.args[1], (ast.Constant, ast.Compare, ast.BoolOp)), f"true by decree: {sentence}"
        assert {"above", "below", "equals"} & set(has), f"no threshold: {sentence}"
        assert {"mutated", "mutation", "name", "evidence"} <= set(has), f"what would make it fall? {sentence}"
        assert ast.unparse(has["mutated"]) != ast.unparse(call.args[1]), f"mutated how? {sentence}"
    names = [told(call)["name"].value for call in made]
    assert len(set(names)) == len(names)
    assert calls(path, "claims"), "the claims are not shown as a table"


def test_no_two_claims_of_the_book_share_a_name():
    names = [told(call)["name"].value for path in NOTEBOOKS for _, call in calls(path, "claim")]
    assert sorted(set(names)) == sorted(names)


@by_chapter
def test_figures_have_captions_and_are_named_where_the_text_speaks_of_them(path):
    code = [ast.parse(TransformerManager().transform_cell(cell.source)) for cell in cells(path, "code")]
    strings = {node.value for tree in code for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    named = set(re.findall(r"\{fig\}`([^`]+)`", prose(path)))
    assert named <= strings, f"no figure is called {named - strings}"
    for _, call in calls(path, "explorer", "linked", "scene"):
        assert "caption" in told(call) or len(call.args) >= 3, f"no caption: {ast.unparse(call)[:60]}"
    assert "imshow" not in "".join(cell.source for cell in cells(path, "code")), "pictures are shown by panels()"


@by_chapter
def test_the_models_drawing_recurs_with_the_part_lit_that_a_section_is_about(path):
    drawn = calls(path, "anatomy")
    assert drawn and all(call.args and "caption" in told(call) for _, call in drawn)
    lit = [" ".join(map(ast.unparse, call.args)) + ast.unparse(told(call)["caption"]) for _, call in drawn]
    assert len(set(lit)) == len(lit), "drawn twice for the same thing"


@by_chapter
def test_exercises_have_solutions(path):
    # A solution is folded and follows its exercise, before the next one; its cells lie between two gates and are
    # executed like any other; tagged, so that a teacher's copy for students can leave them out.
    text = prose(path)
    told = re.findall(r"\{(exercise|solution-start)\}(.*)\n(?::label: (.*)|:class: (dropdown))", text)
    kinds = [title.strip() for what, title, *_ in told if what == "exercise"]
    assert kinds == ["Derive", "Code", "Break"]
    for (first, _, label, _), (second, answered, _, folded) in zip(told[::2], told[1::2], strict=True):
        assert first == "exercise" and second == "solution-start" and answered.strip() == label and folded
    solved = [cell for cell in cells(path, "code") if "solution" in tags(cell)]
    assert len(solved) >= 3, "every solution is run"
    inside = False
    for cell in cells(path):
        if cell.cell_type == "markdown":
            inside = (inside or "{solution-start}" in cell.source) and "{solution-end}" not in cell.source
        else:
            assert inside == ("solution" in tags(cell)), f"a solution in plain sight, or not tagged: {cell.source[:60]}"
    assert not inside, "a solution without an end"


@by_chapter
def test_seeds_are_fixed(path):
    source = "\n".join(cell.source for cell in cells(path, "code"))
    for call in ("np.random.rand", "np.random.seed", "torch.manual_seed", "default_rng()"):
        assert call not in source, f"chance enters by a generator with a seed, not by {call}"


@by_chapter
def test_ends_with_what_was_left_out(path):
    headings = [h.lower() for h in re.findall(r"^## *(.+)$", prose(path), flags=re.M)]
    assert any("left out" in h for h in headings[-4:]), headings
    assert any("reference" in h for h in headings[-3:]), headings
