"""Show every subject's words side by side: `python contact_sheet.py` -> data/tiny-sd/words.webp, after evaluate.py.

A row a subject; two of the five references, then the same two truth captions painted by the class word, by the words
of every method that figures.json has (seed 0), and as they truly are. No picture was chosen: each row shows the first
and the ninth caption.
"""

import json

from evaluate import DATA, WINDOW, shelf
from PIL import Image, ImageDraw, ImageFont

from zoti.data import load_subject

SHOWN = (0, 8)  # of the truth captions
GAP, NAME, HEAD = 14, 118, 26


def paintings(sheet: Image.Image, size: int) -> list[Image.Image]:
    """Those of `SHOWN` from a sheet of eight a row, each with a margin of one pixel."""
    corners = [(i % 8 * (size + 2) + 1, i // 8 * (size + 2) + 1) for i in SHOWN]
    return [sheet.crop((x, y, x + size, y + size)) for x, y in corners]


def main() -> None:
    figures = json.loads((DATA / "tiny-sd" / "figures.json").read_text())
    folder, font = shelf(figures["mu"], figures["lr"], WINDOW), ImageFont.load_default(13)
    names, methods = list(figures["subjects"]), list(figures["methods"])
    columns = ("references", *methods, "truth")
    size = load_subject(names[0]).references[0].width
    wide = 2 * size + 2 + GAP
    out = Image.new("RGB", (NAME + len(columns) * wide, HEAD + len(names) * (size + 4)), "white")
    draw = ImageDraw.Draw(out)
    for column, title in enumerate(columns):
        draw.text((NAME + column * wide, 6), title, "black", font)
    for row, name in enumerate(names):
        subject, y = load_subject(name), HEAD + row * (size + 4)
        draw.text((4, y + size // 2 - 8), name, "black", font)
        painted = [Image.open(folder / f"{name}-{m.replace(' ', '-')}-0-truth.png").convert("RGB") for m in methods]
        cells = [
            subject.references[:2],
            *(paintings(sheet, size) for sheet in painted),
            [subject.truth[i] for i in SHOWN],
        ]
        for column, pair in enumerate(cells):
            for i, image in enumerate(pair):
                out.paste(image, (NAME + column * wide + i * (size + 2), y))
    out.save(DATA / "tiny-sd" / "words.webp", quality=88, method=6)


if __name__ == "__main__":
    main()
