"""The students' copies: `make student` -> _build/student, every chapter as a notebook without its solutions.

A solution is whatever stands between {solution-start} and {solution-end}, and every cell tagged so; where one was, an
empty cell waits for an answer. The guide for teachers, with its exam, is no notebook, and so is not among them.
"""

import re
from pathlib import Path

import nbformat
from address import address, fill
from build import BUILD, ROOT, pages

MARK = re.compile(r"^:::\{solution-(start|end)\}(?:\n:::[ \t]*$)?", re.M)


def without_solutions(notebook):
    """The notebook with an empty cell in place of each solution. Raises ValueError where one does not end."""
    cells, inside = [], False
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            first, *marked = MARK.split(cell.source)
            for mark, text in [("", first), *zip(marked[::2], marked[1::2], strict=True)]:
                inside = mark == "start" if mark else inside
                if mark == "start":
                    cells.append(nbformat.v4.new_code_cell("", metadata={"tags": ["answer"]}))
                elif not inside and text.strip():
                    cells.append(nbformat.v4.new_markdown_cell(text.strip()))
        elif not inside and "solution" not in cell.metadata.get("tags", []):
            cells.append(cell)
    if inside:
        raise ValueError("a solution begins that never ends")
    for number, cell in enumerate(cells):  # the same names in every build
        cell.id = f"cell-{number}"
    notebook.cells = cells
    return notebook


def main() -> None:
    home = address(ROOT)
    for page in pages():
        if page.suffix != ".ipynb":
            continue
        text = fill((ROOT / page).read_text(encoding="utf-8"), home)
        copy = BUILD / "student" / Path(page).name
        copy.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(without_solutions(nbformat.reads(text, 4)), copy)
    print(f"the students' copies: {BUILD / 'student'}")


if __name__ == "__main__":
    main()
