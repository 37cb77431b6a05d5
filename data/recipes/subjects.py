"""Draw the things to learn: `python subjects.py` -> data/subjects and data/styles, PNG with licences and checksums.

Each subject is one held-out drawing: five reference pictures in five settings, and 24 truth pictures of the same
drawing where the references never showed it (the other five settings, and all seven colours). Truth can be drawn
because the world is ours; no benchmark of photographs has it.
"""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
from artwork import CONCEPTS, HELD_OUT_STYLES, HERE
from PIL import Image
from world import COLOURS, SETTINGS, World, caption, held_out

DATA = HERE.parent
#: folder -> (npm set, drawing, word to start from: tiny-sd's own, or for what it never saw the nearest it knows)
SUBJECTS = {
    "teapot": ("twemoji", "teapot", "teapot"),
    "backpack": ("emojione", "backpack", "backpack"),
    "bear": ("emojione", "bear", "bear"),
    "cat": ("emojione", "cat", "cat"),
    "dinosaur": ("noto", "dinosaur", "turtle"),
    "ghost": ("emojione", "ghost", "ghost"),
    "gift": ("emojione", "gift", "gift"),
    "handbag": ("emojione", "handbag", "handbag"),
    "mouse": ("noto", "mouse", "koala"),
    "octopus": ("twemoji", "octopus", "octopus"),
    "owl": ("emojione", "owl", "owl"),
    "penguin": ("noto-v1", "penguin", "penguin"),
    "sailboat": ("noto-v1", "sailboat", "sailboat"),
    "shoe": ("noto", "shoe", "shoe"),
}
LICENCES = {
    "twemoji": "CC BY 4.0",
    "emojione": "CC BY 4.0",
    "openmoji": "CC BY-SA 4.0",
    "noto": "Apache-2.0",
    "noto-v1": "Apache-2.0",
}
STYLE_OBJECTS = ("fox", "apple", "house", "camera", "butterfly")
TRUTHS_PLAIN, TRUTHS_COLOURED = 16, 8


def write(folder: Path, pictures: list[np.ndarray]) -> dict[str, str]:
    """PNG files 01.png, 02.png, ...; returns {relative name: sha256}."""
    folder.mkdir(parents=True)
    sums = {}
    for i, picture in enumerate(pictures, 1):
        path = folder / f"{i:02d}.png"
        Image.fromarray(picture).save(path, optimize=True)
        sums[f"{folder.name}/{path.name}"] = hashlib.sha256(path.read_bytes()).hexdigest()
    return sums


def subject(world: World, name: str, number: int) -> None:
    style, drawing, word = SUBJECTS[name]
    assert held_out(style, drawing)
    rng = np.random.default_rng((2025, number))
    settings = list(rng.permutation(list(SETTINGS)))
    shown, unseen = settings[:5], settings[5:]
    truths = [(None, unseen[i % 5]) for i in range(TRUTHS_PLAIN)]
    colours = list(rng.permutation(list(COLOURS)))
    truths += [(colours[i % len(colours)], settings[i % 10]) for i in range(TRUTHS_COLOURED)]
    folder = DATA / "subjects" / name
    sums = write(folder / "references", [world.compose(rng, style, drawing, None, s) for s in shown])
    sums |= write(folder / "truth", [world.compose(rng, style, drawing, c, s) for c, s in truths])
    facts = {
        "class_word": word,
        "captions": [caption("{}", s) for s in shown],
        "truth_captions": [caption("{}", s, c) for c, s in truths],
        "artwork": f"@iconify-json/{style}: {drawing}",
        "licence": LICENCES[style],
        "sha256": sums,
    }
    (folder / "subject.json").write_text(json.dumps(facts, indent=1) + "\n")


def style(world: World, name: str, number: int) -> None:
    rng = np.random.default_rng((2026, number))
    settings = list(rng.permutation(list(SETTINGS)))[:5]
    folder = DATA / "styles" / name
    sums = write(
        folder / "references",
        [world.compose(rng, name, c, None, s) for c, s in zip(STYLE_OBJECTS, settings, strict=True)],
    )
    facts = {
        "class_word": "flat",
        "captions": [f"a {{}} {c} {s}" for c, s in zip(STYLE_OBJECTS, settings, strict=True)],
        "truth_captions": [],
        "artwork": f"@iconify-json/{name}: {', '.join(CONCEPTS[c] for c in STYLE_OBJECTS)}",
        "licence": LICENCES[name],
        "sha256": sums,
    }
    (folder / "subject.json").write_text(json.dumps(facts, indent=1) + "\n")


def scenes(world: World, count: int = 96) -> None:
    """Scenes of the training world that no training batch saw, side by side in one file: for the tests' measuring."""
    rng = np.random.default_rng(2027)
    drawn = [world.sample(rng) for _ in range(count)]
    folder = DATA / "scenes"
    folder.mkdir(exist_ok=True)
    rows = [np.concatenate([s.pixels for s in drawn[i : i + 12]], 1) for i in range(0, count, 12)]
    Image.fromarray(np.concatenate(rows)).save(folder / "scenes.png", optimize=True)
    facts = [{k: getattr(s, k) for k in ("caption", "style", "concept", "colour", "setting")} for s in drawn]
    (folder / "scenes.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    for kind in ("subjects", "styles"):
        shutil.rmtree(DATA / kind, ignore_errors=True)
    drawn = World()
    for number, name in enumerate(SUBJECTS):
        subject(drawn, name, number)
    for number, name in enumerate(HELD_OUT_STYLES):
        style(drawn, name, number)
    scenes(drawn)
