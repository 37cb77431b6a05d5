"""The world tiny-sd lives in: one drawing on one of ten settings, with a caption. 64x64 pixels, 1 ms a scene.

world = World()                                 # reads build/artwork.npz (see artwork.py)
scene = world.sample(rng)                       # Scene(pixels, caption, style, concept, colour, setting)
pixels = world.compose(rng, "twemoji", "octopus", colour="purple", setting="in the ocean")
"""

import colorsys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from artwork import BUILD, CONCEPTS, HELD_OUT_CONCEPTS, HELD_OUT_DRAWINGS, HELD_OUT_STYLES, TRAINING_STYLES
from PIL import Image

SIZE = 64
STYLE_WORDS = TRAINING_STYLES | HELD_OUT_STYLES
COLOURS = {"red": 0, "orange": 28, "yellow": 50, "green": 125, "blue": 212, "purple": 270, "pink": 325}  # hue, degrees
SHARE_COLOURED = 0.4  # of the scenes are recoloured, and their captions say so
MEDIA = ("a photo of", "a picture of", "a rendering of", "an illustration of")
Y, X = (np.mgrid[0:SIZE, 0:SIZE] + 0.5) / SIZE  # pixel centres, 0..1, Y downward


def rgb(*values: int) -> np.ndarray:
    return np.array(values, np.float32) / 255


def above(edge: np.ndarray | float, softness: float = 1 / SIZE) -> np.ndarray:
    """1 above the curve y = edge(x), 0 below, one pixel of anti-aliasing; (SIZE, SIZE, 1)."""
    return np.clip((edge - Y) / softness + 0.5, 0, 1)[..., None]


def gradient(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    return top + (bottom - top) * Y[..., None]


def dots(rng, count: int, radius: float, low: float = 0.0, high: float = 1.0) -> np.ndarray:
    """A layer of `count` soft discs with centres between the heights low and high; (SIZE, SIZE, 1)."""
    layer = np.zeros((SIZE, SIZE))
    for x, y in zip(rng.uniform(0, 1, count), rng.uniform(low, high, count), strict=True):
        layer = np.maximum(layer, np.clip((radius - np.hypot(X - x, Y - y)) * SIZE + 0.5, 0, 1))
    return layer[..., None]


def white(rng):
    return np.ones((SIZE, SIZE, 3))


def plain(rng):
    return np.broadcast_to(np.array(colorsys.hsv_to_rgb(rng.uniform(), 0.35, 0.88)), (SIZE, SIZE, 3))


def snow(rng):
    sky, ground = gradient(rgb(150, 178, 212), rgb(205, 220, 238)), gradient(rgb(236, 243, 252), rgb(247, 250, 255))
    hill = rng.uniform(0.55, 0.68) + 0.03 * np.sin(6 * X + rng.uniform(0, 6))
    image = ground + (sky - ground) * above(hill)
    return image + (1 - image) * dots(rng, 9, 1.3 / SIZE, high=0.6)


def beach(rng):
    sea = rng.uniform(0.5, 0.58)
    shore = sea + 0.14 + 0.02 * np.sin(7 * X + rng.uniform(0, 6))
    image = gradient(rgb(226, 203, 150), rgb(240, 216, 164))
    image = image + (rgb(38, 128, 198) - image) * above(shore)
    return image + (gradient(rgb(112, 182, 248), rgb(176, 216, 255)) - image) * above(sea)


def grass(rng):
    hill = rng.uniform(0.55, 0.66) + 0.05 * np.sin(4 * X + rng.uniform(0, 6))
    image = gradient(rgb(142, 205, 84), rgb(62, 142, 44))
    return image + (gradient(rgb(118, 186, 250), rgb(186, 220, 255)) - image) * above(hill)


def night(rng):
    image = gradient(rgb(10, 12, 44), rgb(38, 38, 98))
    image = image + (rgb(250, 244, 205) - image) * dots(rng, 9, 0.9 / SIZE)
    moon = np.clip((0.085 - np.hypot(X - rng.uniform(0.1, 0.2), Y - rng.uniform(0.1, 0.2))) * SIZE + 0.5, 0, 1)
    return image + (rgb(252, 246, 214) - image) * moon[..., None]


def wood(rng):
    plank = np.floor(Y * 5 + rng.uniform())
    image = (
        rgb(166, 110, 62)
        * (1 + 0.09 * np.sin(plank * 2.4 + rng.uniform(0, 6)) + 0.03 * np.sin(9 * X + plank))[..., None]
    )
    seam = np.roll(plank, 1, 0) != plank
    seam[0] = False
    return np.where(seam[..., None], rgb(92, 56, 30), image)


def fabric(rng):
    angle, phase = rng.uniform(0.5, 0.9), rng.uniform(0, 6)
    fold = np.sin(13 * (X * np.cos(angle) + Y * np.sin(angle)) + phase + 1.2 * np.sin(4 * Y + phase))
    return rgb(245, 160, 195) + 0.07 * fold[..., None] * np.array([0.6, 1.0, 0.8])


def ocean(rng):
    image = gradient(rgb(60, 150, 220), rgb(14, 60, 140))
    wave = np.sin(2 * np.pi * (Y * 4 + 0.06 * np.sin(11 * X + rng.uniform(0, 6))) + rng.uniform(0, 6))
    return image + 0.08 * wave[..., None] * np.array([0.6, 0.9, 1.0])


def brick(rng):
    row = np.floor(Y * 6)
    across = X * 3 + 0.5 * (row % 2) + rng.uniform()
    tone = 1 + 0.10 * np.sin(row * 5.1 + np.floor(across) * 3.7 + rng.uniform(0, 6))
    mortar = ((Y * 6) % 1 < 0.14) | (across % 1 < 0.07)
    return np.where(mortar[..., None], rgb(214, 186, 174), rgb(172, 72, 58) * tone[..., None])


#: caption phrase -> painter
SETTINGS = {
    "on a white background": white,
    "on a plain background": plain,
    "in the snow": snow,
    "on the beach": beach,
    "on the grass": grass,
    "at night": night,
    "on a wooden floor": wood,
    "on pink fabric": fabric,
    "in the ocean": ocean,
    "in front of a brick wall": brick,
}


@dataclass
class Scene:
    """One picture of the world with everything that is true about it."""

    pixels: np.ndarray  # (64, 64, 3) uint8
    caption: str
    style: str  # npm set
    concept: str
    colour: str | None
    setting: str


def recolour(drawing: np.ndarray, colour: str) -> np.ndarray:
    """Give a straight-alpha drawing one hue, keep its shading; whites and greys take a tint, black stays."""
    hsv = np.asarray(Image.fromarray(drawing[..., :3]).convert("HSV")).astype(np.float32)
    hsv[..., 0] = COLOURS[colour] / 360 * 255
    hsv[..., 1] = np.clip(hsv[..., 1] * 0.75 + 85, 0, 255)
    hsv[..., 2] = np.clip(hsv[..., 2] * (1.12 if colour == "yellow" else 1.0), 0, 255)
    out = Image.fromarray(hsv.astype(np.uint8), "HSV").convert("RGB")
    return np.dstack([np.asarray(out), drawing[..., 3]])


def article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def caption(concept: str, setting: str = "", colour: str | None = None, style: str | None = None) -> str:
    """'a twemoji purple octopus in the ocean'; style, colour and setting only where given."""
    return (article(" ".join(w for w in (style and STYLE_WORDS[style], colour, concept) if w)) + " " + setting).strip()


def training_caption(rng, style: str, concept: str, colour: str | None, setting: str) -> str:
    """A caption as training sees it: half name the hand, a few leave the setting out or begin 'a photo of'."""
    text = caption(concept, setting if rng.uniform() < 0.93 else "", colour, style if rng.uniform() < 0.5 else None)
    return f"{MEDIA[rng.integers(len(MEDIA))]} {text}" if rng.uniform() < 0.15 else text


class World:
    """All drawings in memory, and the way scenes are composed of them."""

    def __init__(self, path: Path = BUILD / "artwork.npz"):
        stored = np.load(path)
        self.drawings = dict(zip(stored["names"].tolist(), stored["pixels"], strict=True))
        self._ready: dict[tuple, Image.Image] = {}
        self.training = [
            (s, c) for s in TRAINING_STYLES for c in CONCEPTS if f"{s}/{c}" in self.drawings and not held_out(s, c)
        ]
        self.others = [
            (s, n.split("/")[1]) for s in TRAINING_STYLES for n in self.drawings if n.startswith(f"{s}/other:")
        ]

    def drawing(self, style: str, concept: str, colour: str | None) -> Image.Image:
        """The drawing with premultiplied alpha (so that resampling makes no dark fringe), cached."""
        key = (style, concept, colour)
        if key not in self._ready:
            raw = self.drawings[f"{style}/{concept}"]
            raw = raw if colour is None else recolour(raw, colour)
            self._ready[key] = Image.fromarray(raw, "RGBA").convert("RGBa")
        return self._ready[key]

    def compose(
        self, rng, style: str, concept: str, colour: str | None = None, setting: str | None = None
    ) -> np.ndarray:
        """Place the drawing, 46-54 px, turned at most 6 degrees, on its setting; (64, 64, 3) uint8."""
        ground = SETTINGS[setting](rng)
        drawing = self.drawing(style, concept, colour)
        scale = drawing.width / rng.uniform(46, 54)
        angle = np.deg2rad(rng.uniform(-6, 6))
        cos, sin = scale * np.cos(angle), scale * np.sin(angle)
        # the affine map takes output pixels to drawing pixels: centre on (32, 34) give or take three pixels
        cx, cy = 32 + rng.uniform(-3, 3), 34 + rng.uniform(-3, 3)
        half = drawing.width / 2
        matrix = (cos, sin, half - cos * cx - sin * cy, -sin, cos, half + sin * cx - cos * cy)
        layer = (
            np.asarray(
                drawing.transform((SIZE, SIZE), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC), np.float32
            )
            / 255
        )
        image = ground * (1 - layer[..., 3:]) + layer[..., :3]
        return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)

    def sample(self, rng, pairs: list | None = None) -> Scene:
        """A random scene of the given (style, concept) pairs, by default of all drawings meant for training."""
        style, concept = (pairs or self.training)[rng.integers(len(pairs or self.training))]
        colour = list(COLOURS)[rng.integers(len(COLOURS))] if rng.uniform() < SHARE_COLOURED else None
        setting = list(SETTINGS)[rng.integers(len(SETTINGS))]
        text = training_caption(rng, style, concept, colour, setting)
        return Scene(self.compose(rng, style, concept, colour, setting), text, style, concept, colour, setting)


def held_out(style: str, concept: str) -> bool:
    """Is this drawing kept from every training?"""
    return style in HELD_OUT_STYLES or concept in HELD_OUT_CONCEPTS or (style, concept) in HELD_OUT_DRAWINGS
