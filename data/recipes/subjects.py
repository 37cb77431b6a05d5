"""Draw the things to learn: `python subjects.py` -> data/subjects and data/styles, PNG with licences and checksums.

Each subject of subjects.json is one held-out drawing: five reference pictures in five settings, and 24 truth pictures
of the same drawing where the references never showed it (the other five settings, and all seven colours). Truth can be
drawn because the world is ours; no benchmark of photographs has it. A folder that is there stays as it is: the fourteen
of old were drawn by the first version of this world, whose dice fell otherwise.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from artwork import CONCEPTS, HELD_OUT_STYLES, HERE, TRAINING_STYLES
from PIL import Image
from safetensors.torch import save_file
from world import COLOURS, SETTINGS, World, caption, held_out, said

from zoti.metrics import Metrics

DATA = HERE.parent
LICENCES = {
    "twemoji": "CC BY 4.0",
    "emojione": "CC BY 4.0",
    "openmoji": "CC BY-SA 4.0",
    "noto": "Apache-2.0",
    "noto-v1": "Apache-2.0",
    "fluent-emoji": "MIT",
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


def subject(world: World, told: dict, number: int, folder: Path) -> None:
    style, drawing = told["style"], told["drawing"]
    assert held_out(style, drawing)
    rng = np.random.default_rng((2025, number))
    settings = list(rng.permutation(list(SETTINGS)))
    shown, unseen = settings[:5], settings[5:]
    truths = [(None, unseen[i % 5]) for i in range(TRUTHS_PLAIN)]
    colours = list(rng.permutation(list(COLOURS)))
    truths += [(colours[i % len(colours)], settings[i % 10]) for i in range(TRUTHS_COLOURED)]

    def scene(colour: str | None, setting: str) -> np.ndarray:
        return world.compose(rng, world.drawing(style, drawing, colour), setting)

    sums = write(folder / "references", [scene(None, s) for s in shown])
    sums |= write(folder / "truth", [scene(c, s) for c, s in truths])
    facts = {
        "class_word": told["word"],
        "captions": [caption("{}", s) for s in shown],
        "truth_captions": [caption("{}", s, c) for c, s in truths],
        "artwork": f"@iconify-json/{style}: {drawing.removeprefix('other:')}",
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
        [world.compose(rng, world.drawing(name, c), s) for c, s in zip(STYLE_OBJECTS, settings, strict=True)],
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


def gallery(world: World, subjects: dict) -> None:
    """Drawings among which a learned word's pictures have to find their own: the mean of each one's DINO features in
    eight settings. Every subject, its thing in all seven training hands, and others drawn by a seed: 400 in all."""
    rng, metrics = np.random.default_rng(2028), Metrics.load()
    pairs = [(told["style"], told["drawing"]) for told in subjects.values()]
    named = {said(c): c for _, c in world.every}
    for told in subjects.values():
        for thing in {told["drawing"], named[told["word"]]}:
            pairs += [(s, thing) for s in TRAINING_STYLES if f"{s}/{thing}" in world.drawings]
    pairs = list(dict.fromkeys(pairs))
    rest = [pair for pair in world.every if pair not in set(pairs)]
    pairs += [rest[i] for i in rng.choice(len(rest), max(0, 400 - len(pairs)), replace=False)]
    rows = []
    for pair in pairs:
        scenes = [world.compose(rng, world.drawing(*pair), s) for s in rng.permutation(list(SETTINGS))[:8]]
        rows.append(metrics.dino_features([Image.fromarray(p) for p in scenes]).mean(0))
    folder = DATA / "judges" / "gallery"
    folder.mkdir(exist_ok=True)
    save_file({"dino": torch.stack(rows).half()}, folder / "features.safetensors")
    (folder / "names.json").write_text(json.dumps(["/".join(pair) for pair in pairs], indent=1) + "\n")
    print(len(pairs), "drawings in the gallery")


if __name__ == "__main__":
    drawn, subjects = World(), json.loads((HERE / "subjects.json").read_text())
    for number, (name, told) in enumerate(subjects.items()):
        if not (DATA / "subjects" / name).exists():
            subject(drawn, told, number, DATA / "subjects" / name)
    for number, name in enumerate(HELD_OUT_STYLES):
        if not (DATA / "styles" / name).exists():
            style(drawn, name, number)
    if not (DATA / "scenes").exists():
        scenes(drawn)
    gallery(drawn, subjects)
