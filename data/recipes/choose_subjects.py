"""Choose what there is to learn, before any model is trained on the new world: `python choose_subjects.py`.

-> subjects.json: for each subject its drawing, the word to start from, and how near it is to what is known. The
fourteen of old keep their names; with them go every single drawing that is held out, four held-out things that no
training hand ever drew (whose word is the nearest thing known), and eighteen drawings of emojione, drawn by a seed, six
from each third of how near the drawing is to the known drawings of its own thing: near ones are easy, far ones hard.
-> presets.json: six more of emojione, on which settings are searched.
"""

import json

import numpy as np
import torch
import torch.nn.functional as F
from artwork import CONCEPTS, HELD_OUT_CONCEPTS, HELD_OUT_DRAWINGS, HERE
from PIL import Image
from world import World, premultiplied, said

from zoti.metrics import Metrics

FOURTEEN = {
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
THINGS = ("Animals & Nature", "Food & Drink", "Objects", "Travel & Places", "Activities")


def features(world: World, metrics: Metrics, pairs: list[tuple[str, str]]) -> torch.Tensor:
    """DINO's features of drawings on white, in the middle and upright, of length 1: (n, hidden)."""
    rows = []
    for i in range(0, len(pairs), 100):
        pictures = []
        for style, concept in pairs[i : i + 100]:
            drawing = premultiplied(world.drawings[f"{style}/{concept}"]).resize((50, 50), Image.Resampling.BOX)
            white = Image.new("RGBA", (64, 64), "white")
            white.alpha_composite(drawing.convert("RGBA"), (7, 9))
            pictures.append(white.convert("RGB"))
        rows.append(metrics.dino_features(pictures))
    return F.normalize(torch.cat(rows), dim=1)


def main() -> None:
    world, metrics, rng = World(), Metrics.load(), np.random.default_rng(2029)
    known = features(world, metrics, world.every)
    things: dict[str, list[int]] = {}  # the known drawings of each thing
    for row, (_, concept) in enumerate(world.every):
        things.setdefault(concept, []).append(row)
    kinds = json.loads((HERE / "node_modules/@iconify-json/noto/metadata.json").read_text())["categories"]
    names = {name for kind in THINGS for name in kinds[kind]}

    def nameable(concept: str) -> bool:
        """A thing rather than a sign or somebody, with a name of one word."""
        return " " not in said(concept) and (concept in CONCEPTS or concept.removeprefix("other:") in names)

    means = F.normalize(torch.stack([known[rows].mean(0) for rows in things.values()]), dim=1)

    def facts(style: str, concept: str, word: str | None) -> dict:
        feature = features(world, metrics, [(style, concept)])[0]
        single = [i for i, c in enumerate(things) if nameable(c)]
        word = word or said(list(things)[max(single, key=lambda i: float(means[i] @ feature))])
        thing = next(c for c in things if said(c) == word)
        nearest = int((known @ feature).argmax())
        return {
            "style": style,
            "drawing": concept,
            "word": word,
            "to_word": round(float(known[things[thing]].mean(0) @ feature), 3),
            "to_nearest": round(float(known[nearest] @ feature), 3),
            "nearest": "/".join(world.every[nearest]),
        }

    chosen = {name: facts(*drawing) for name, drawing in FOURTEEN.items()}
    for style, concept in sorted(HELD_OUT_DRAWINGS):
        if concept not in chosen:
            chosen[concept] = facts(style, concept, concept)
    fresh = sorted(set(HELD_OUT_CONCEPTS) - set(FOURTEEN))
    for concept in rng.choice([c for c in fresh if f"emojione/{c}" in world.drawings], 4, replace=False).tolist():
        chosen[concept] = facts("emojione", concept, None)

    candidates = {}
    for concept in things:
        name = said(concept)
        drawn = f"emojione/{concept}" in world.drawings and len(things[concept]) >= 4
        if drawn and nameable(concept) and name not in chosen:
            candidates[name] = facts("emojione", concept, name)
    order = sorted(candidates, key=lambda name: candidates[name]["to_word"])
    print(len(order), "candidates")
    for third in np.array_split(order, 3):
        for name in sorted(rng.choice(third, 6, replace=False).tolist()):
            chosen[name] = candidates[name]
    left = [name for name in order if name not in chosen]
    presets = {name: candidates[name] for name in rng.choice(left, 6, replace=False).tolist()}
    for file, some in (("subjects.json", chosen), ("presets.json", presets)):
        (HERE / file).write_text(json.dumps(some, indent=1) + "\n")


if __name__ == "__main__":
    main()
