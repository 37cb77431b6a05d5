"""Fetch the pinned artwork from npm and rasterise it: `python artwork.py` writes build/artwork.npz.

Nine sets of emoji drawings, the same things drawn in nine hands. Seven hands are for training; `emojione`
and `openmoji` are held out of it entirely and only ever give subjects and styles to learn.
"""

import io
import json
import re
import subprocess
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image
from tqdm import tqdm

HERE = Path(__file__).parent
BUILD = HERE / "build"
PIXELS = 160  # of a drawing; a scene shows it at 92 to 108 of its 128

#: npm package -> the word a caption uses for the hand
TRAINING_STYLES = {
    "noto": "noto",
    "noto-v1": "blob",
    "twemoji": "twemoji",
    "fluent-emoji": "fluent",
    "fluent-emoji-flat": "flat",
    "fxemoji": "firefox",
    "streamline-emojis": "streamline",
}
HELD_OUT_STYLES = {"emojione": "emojione", "openmoji": "openmoji"}

#: what tiny-sd can paint: caption word -> name in the icon sets
CONCEPTS = {
    "cat": "cat-face",
    "dog": "dog-face",
    "fox": "fox",
    "bear": "bear",
    "panda": "panda",
    "koala": "koala",
    "tiger": "tiger-face",
    "lion": "lion",
    "monkey": "monkey-face",
    "pig": "pig-face",
    "rabbit": "rabbit-face",
    "frog": "frog",
    "penguin": "penguin",
    "owl": "owl",
    "duck": "duck",
    "turtle": "turtle",
    "octopus": "octopus",
    "crab": "crab",
    "whale": "spouting-whale",
    "butterfly": "butterfly",
    "snail": "snail",
    "elephant": "elephant",
    "apple": "red-apple",
    "banana": "banana",
    "strawberry": "strawberry",
    "watermelon": "watermelon",
    "pineapple": "pineapple",
    "cherries": "cherries",
    "carrot": "carrot",
    "mushroom": "mushroom",
    "hamburger": "hamburger",
    "doughnut": "doughnut",
    "cake": "birthday-cake",
    "teapot": "teapot",
    "backpack": "backpack",
    "umbrella": "umbrella",
    "balloon": "balloon",
    "gift": "wrapped-gift",
    "crown": "crown",
    "hat": "top-hat",
    "guitar": "guitar",
    "drum": "drum",
    "camera": "camera",
    "clock": "alarm-clock",
    "bell": "bell",
    "cup": "hot-beverage",
    "rocket": "rocket",
    "car": "automobile",
    "bus": "bus",
    "tractor": "tractor",
    "sailboat": "sailboat",
    "house": "house",
    "castle": "castle",
    "cactus": "cactus",
    "sunflower": "sunflower",
    "tree": "evergreen-tree",
    "shoe": "running-shoe",
    "handbag": "handbag",
    "dress": "dress",
    "shirt": "t-shirt",
    "pumpkin": "jack-o-lantern",
    "robot": "robot",
    "ghost": "ghost",
    "ball": "soccer-ball",
}

#: never in any training: ten concepts in every hand ...
HELD_OUT_CONCEPTS = {
    "mouse": "mouse-face",
    "hedgehog": "hedgehog",
    "dinosaur": "sauropod",
    "grapes": "grapes",
    "avocado": "avocado",
    "helicopter": "helicopter",
    "airplane": "airplane",
    "snowman": "snowman-without-snow",
    "candle": "candle",
    "gem": "gem-stone",
}
#: ... and a dozen single drawings of concepts known from other hands
HELD_OUT_DRAWINGS = {
    ("twemoji", "teapot"),
    ("twemoji", "octopus"),
    ("twemoji", "handbag"),
    ("noto", "shoe"),
    ("noto", "tractor"),
    ("noto-v1", "penguin"),
    ("noto-v1", "elephant"),
    ("noto-v1", "clock"),
    ("noto-v1", "dress"),
    ("noto-v1", "sailboat"),
    ("noto-v1", "umbrella"),
    ("fluent-emoji", "cup"),
}


def icons_of(style: str) -> dict:
    """An Iconify set under Noto's names. Firefox writes "spoutingwhale", Streamline numbers its variants."""
    folder = HERE / "node_modules/@iconify-json"
    icons = json.loads((folder / style / "icons.json").read_text())
    if style in ("fxemoji", "streamline-emojis"):
        noto = json.loads((folder / "noto" / "icons.json").read_text())["icons"]
        spelled = {name.replace("-", ""): name for name in noto}
        for name in sorted(icons["icons"]):
            plain = re.sub(r"-\d+$", "", name)
            icons["icons"].setdefault(spelled.get(plain.replace("-", ""), plain), icons["icons"][name])
    return icons


def svg(icons: dict, name: str) -> str | None:
    """The drawing `name` of an Iconify set as a standalone SVG, aliases followed; None where the set lacks it."""
    while name in icons.get("aliases", {}):
        name = icons["aliases"][name]["parent"]
    icon = icons["icons"].get(name)
    if icon is None:
        return None
    left, top = icon.get("left", 0), icon.get("top", 0)
    width, height = (icon.get(k, icons.get(k, 16)) for k in ("width", "height"))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="{PIXELS}" '
        f'height="{PIXELS}" viewBox="{left} {top} {width} {height}">{icon["body"]}</svg>'
    )


def rasterise(text: str) -> np.ndarray:
    """SVG text -> (PIXELS, PIXELS, 4) uint8, straight alpha."""
    return np.asarray(Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=text)))).convert("RGBA"))


def main() -> None:
    subprocess.run(["npm", "ci", "--silent", "--no-audit", "--no-fund"], cwd=HERE, check=True)
    sets = {style: icons_of(style) for style in TRAINING_STYLES | HELD_OUT_STYLES}
    known = CONCEPTS | HELD_OUT_CONCEPTS
    # Beside the things that v1 was taught by name: all that three hands share, but for signs, flags and people.
    skip = (
        "flag",
        "hand",
        "person",
        "man",
        "woman",
        "button",
        "arrow",
        "keycap",
        "zodiac",
        "-sign",
        "square",
        "o-clock",
        "thirty",
        "mans",
        "sign",
        "people",
        "couple",
        "family",
        "kiss",
        "finger",
        "fist",
        "input",
    )
    shared = set.intersection(*(set(sets[s]["icons"]) for s in ("noto", "twemoji", "fluent-emoji")))
    others = sorted(n for n in shared - set(known.values()) if not any(w in n for w in skip))
    drawings = {}
    for style, icons in sets.items():
        wanted = known | {f"other:{n}": n for n in others}
        for concept, name in tqdm(wanted.items(), desc=style, mininterval=5):
            text = svg(icons, name)
            if text is not None:
                drawings[f"{style}/{concept}"] = rasterise(text)
    BUILD.mkdir(exist_ok=True)
    np.savez(BUILD / "artwork.npz", names=np.array(list(drawings)), pixels=np.stack(list(drawings.values())))
    print(f"{len(drawings)} drawings, {len(others)} concepts beside tiny-sd's own")


if __name__ == "__main__":
    main()
