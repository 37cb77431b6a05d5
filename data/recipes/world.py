"""The world tiny-sd lives in: one drawing on one of ten settings, with a caption. 64 x 64 pixels, or any other size.

world = World()                                 # reads build/artwork.npz (see artwork.py)
scene = world.sample(rng)                       # Scene(pixels, caption, style, concept, colour, setting)
pixels = world.compose(rng, world.drawing("twemoji", "octopus", "purple"), "in the ocean")
turned = world.turned(rng)                      # Turned: a drawing no caption can say, for words to say it
"""

import colorsys
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from artwork import BUILD, CONCEPTS, HELD_OUT_CONCEPTS, HELD_OUT_DRAWINGS, HELD_OUT_STYLES, TRAINING_STYLES
from PIL import Image

SIZE = 64
STYLE_WORDS = TRAINING_STYLES | HELD_OUT_STYLES
COLOURS = {"red": 0, "orange": 28, "yellow": 50, "green": 125, "blue": 212, "purple": 270, "pink": 325}  # hue, degrees
SHARE_COLOURED = 0.4  # of the scenes are recoloured, and their captions say so
MEDIA = ("a photo of", "a picture of", "a rendering of", "an illustration of")


def rgb(*values: int) -> np.ndarray:
    return np.array(values, np.float32) / 255


class Ground:
    """An empty ground of n x n pixels, and what the settings are painted with. All lengths are shares of its side."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.y, self.x = (np.mgrid[0:n, 0:n] + 0.5) / n  # pixel centres, 0..1, y downward

    def above(self, edge: np.ndarray | float) -> np.ndarray:
        """1 above the curve y = edge(x), 0 below, one pixel of anti-aliasing; (n, n, 1)."""
        return np.clip((edge - self.y) * self.n + 0.5, 0, 1)[..., None]

    def gradient(self, top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
        return top + (bottom - top) * self.y[..., None]

    def disc(self, x: float, y: float, radius: float) -> np.ndarray:
        return np.clip((radius - np.hypot(self.x - x, self.y - y)) * self.n + 0.5, 0, 1)

    def dots(self, rng, count: int, radius: float, high: float = 1.0) -> np.ndarray:
        """A layer of `count` discs with centres between the heights 0 and high; (n, n, 1)."""
        layer = np.zeros((self.n, self.n))
        for x, y in zip(rng.uniform(0, 1, count), rng.uniform(0, high, count), strict=True):
            layer = np.maximum(layer, self.disc(x, y, radius))
        return layer[..., None]


ground = cache(Ground)


def white(rng, g):
    return np.ones((g.n, g.n, 3))


def plain(rng, g):
    return np.broadcast_to(np.array(colorsys.hsv_to_rgb(rng.uniform(), 0.35, 0.88)), (g.n, g.n, 3))


def snow(rng, g):
    sky, field = g.gradient(rgb(150, 178, 212), rgb(205, 220, 238)), g.gradient(rgb(236, 243, 252), rgb(247, 250, 255))
    hill = rng.uniform(0.55, 0.68) + 0.03 * np.sin(6 * g.x + rng.uniform(0, 6))
    image = field + (sky - field) * g.above(hill)
    return image + (1 - image) * g.dots(rng, 9, 1.3 / 64, high=0.6)


def beach(rng, g):
    sea = rng.uniform(0.5, 0.58)
    shore = sea + 0.14 + 0.02 * np.sin(7 * g.x + rng.uniform(0, 6))
    image = g.gradient(rgb(226, 203, 150), rgb(240, 216, 164))
    image = image + (rgb(38, 128, 198) - image) * g.above(shore)
    return image + (g.gradient(rgb(112, 182, 248), rgb(176, 216, 255)) - image) * g.above(sea)


def grass(rng, g):
    hill = rng.uniform(0.55, 0.66) + 0.05 * np.sin(4 * g.x + rng.uniform(0, 6))
    image = g.gradient(rgb(142, 205, 84), rgb(62, 142, 44))
    return image + (g.gradient(rgb(118, 186, 250), rgb(186, 220, 255)) - image) * g.above(hill)


def night(rng, g):
    image = g.gradient(rgb(10, 12, 44), rgb(38, 38, 98))
    image = image + (rgb(250, 244, 205) - image) * g.dots(rng, 9, 0.9 / 64)
    moon = g.disc(rng.uniform(0.1, 0.2), rng.uniform(0.1, 0.2), 0.085)
    return image + (rgb(252, 246, 214) - image) * moon[..., None]


def wood(rng, g):
    plank = np.floor(g.y * 5 + rng.uniform())
    image = (
        rgb(166, 110, 62)
        * (1 + 0.09 * np.sin(plank * 2.4 + rng.uniform(0, 6)) + 0.03 * np.sin(9 * g.x + plank))[..., None]
    )
    seam = np.roll(plank, g.n // 64, 0) != plank
    seam[: g.n // 64] = False
    return np.where(seam[..., None], rgb(92, 56, 30), image)


def fabric(rng, g):
    angle, phase = rng.uniform(0.5, 0.9), rng.uniform(0, 6)
    fold = np.sin(13 * (g.x * np.cos(angle) + g.y * np.sin(angle)) + phase + 1.2 * np.sin(4 * g.y + phase))
    return rgb(245, 160, 195) + 0.07 * fold[..., None] * np.array([0.6, 1.0, 0.8])


def ocean(rng, g):
    image = g.gradient(rgb(60, 150, 220), rgb(14, 60, 140))
    wave = np.sin(2 * np.pi * (g.y * 4 + 0.06 * np.sin(11 * g.x + rng.uniform(0, 6))) + rng.uniform(0, 6))
    return image + 0.08 * wave[..., None] * np.array([0.6, 0.9, 1.0])


def brick(rng, g):
    row = np.floor(g.y * 6)
    across = g.x * 3 + 0.5 * (row % 2) + rng.uniform()
    tone = 1 + 0.10 * np.sin(row * 5.1 + np.floor(across) * 3.7 + rng.uniform(0, 6))
    mortar = ((g.y * 6) % 1 < 0.14) | (across % 1 < 0.07)
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

    pixels: np.ndarray  # (size, size, 3) uint8
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


def said(concept: str) -> str:
    """A drawing's name as captions say it: 'other:spouting-whale' -> 'spouting whale'."""
    return re.sub(r"[^a-z]+", " ", concept.removeprefix("other:").lower()).strip() or "thing"


@dataclass
class Turned:
    """A drawing changed in ways that captions do not name, and what it was made of."""

    drawing: np.ndarray  # (p, p, 4) uint8, straight alpha
    pair: int  # of the drawing in `World.every`
    plain: bool  # unchanged: a caption may name it


class World:
    """All drawings in memory, and the way scenes are composed of them."""

    def __init__(self, size: int = SIZE, path: Path = BUILD / "artwork.npz"):
        stored = np.load(path)
        self.size = size
        self.drawings = dict(zip(stored["names"].tolist(), stored["pixels"], strict=True))
        self._ready: dict[tuple, Image.Image] = {}
        pairs = [(s, c) for s, c in (n.split("/") for n in self.drawings) if not held_out(s, c)]
        #: (hand, thing) of the things with names of their own, and of all that may be trained on
        self.training = [(s, c) for s, c in pairs if c in CONCEPTS]
        self.every = self.training + [(s, c) for s, c in pairs if c not in CONCEPTS]

    def drawing(self, style: str, concept: str, colour: str | None = None) -> Image.Image:
        """The drawing with premultiplied alpha (so that resampling makes no dark fringe), cached."""
        key = (style, concept, colour)
        if key not in self._ready:
            self._ready[key] = premultiplied(self.drawings[f"{style}/{concept}"], colour)
        return self._ready[key]

    def turned(self, rng) -> Turned:
        """A training drawing: as it is, or with its hues turned, mirrored, stretched, or joined with another's half."""
        pair = int(rng.integers(len(self.training) if rng.uniform() < 0.25 else len(self.every)))
        drawing = self.drawings["/".join(self.every[pair])]
        if rng.uniform() < 0.5:
            return Turned(drawing, pair, True)
        if rng.uniform() < 0.25:
            other = self.drawings["/".join(self.every[int(rng.integers(len(self.every)))])]
            cut = int(rng.uniform(0.35, 0.65) * len(drawing))
            halves = (drawing[:cut], other[cut:]) if rng.uniform() < 0.5 else (drawing[:, :cut], other[:, cut:])
            drawing = np.concatenate(halves, 0 if len(halves[0]) == cut and halves[0].shape[1] == len(drawing) else 1)
        if rng.uniform() < 0.7:
            drawing = turn_hue(drawing, int(rng.integers(20, 340)), bool(rng.uniform() < 0.3))
        if rng.uniform() < 0.4:
            drawing = drawing[:, ::-1]
        if rng.uniform() < 0.4:
            drawing = stretch(rng, drawing)
        return Turned(np.ascontiguousarray(drawing), pair, False)

    def compose(self, rng, drawing: Image.Image, setting: str) -> np.ndarray:
        """Place the drawing, 46-54 of 64 wide, turned at most 6 degrees, on its setting; (size, size, 3) uint8."""
        unit = self.size / 64
        image = SETTINGS[setting](rng, ground(self.size))
        scale = drawing.width / (rng.uniform(46, 54) * unit)
        angle = np.deg2rad(rng.uniform(-6, 6))
        cos, sin = scale * np.cos(angle), scale * np.sin(angle)
        # the affine map takes output pixels to drawing pixels: centre on (32, 34) of 64, give or take three
        cx, cy = (32 + rng.uniform(-3, 3)) * unit, (34 + rng.uniform(-3, 3)) * unit
        half = drawing.width / 2
        matrix = (cos, sin, half - cos * cx - sin * cy, -sin, cos, half + sin * cx - cos * cy)
        if scale > 2:  # bicubic looks at four pixels: halve what would be skipped over
            drawing = drawing.reduce(2)
            matrix = tuple(v / 2 for v in matrix)
        placed = drawing.transform((self.size, self.size), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
        layer = np.asarray(placed, np.float32) / 255
        image = image * (1 - layer[..., 3:]) + layer[..., :3]
        return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)

    def sample(self, rng, pairs: list | None = None) -> Scene:
        """A random scene of the given (style, concept) pairs, by default of the things with names of their own."""
        style, concept = (pairs or self.training)[rng.integers(len(pairs or self.training))]
        colour = list(COLOURS)[rng.integers(len(COLOURS))] if rng.uniform() < SHARE_COLOURED else None
        setting = list(SETTINGS)[rng.integers(len(SETTINGS))]
        text = training_caption(rng, style, said(concept), colour, setting)
        pixels = self.compose(rng, self.drawing(style, concept, colour), setting)
        return Scene(pixels, text, style, concept, colour, setting)


def premultiplied(drawing: np.ndarray, colour: str | None = None) -> Image.Image:
    return Image.fromarray(drawing if colour is None else recolour(drawing, colour), "RGBA").convert("RGBa")


def turn_hue(drawing: np.ndarray, degrees: int, mirrored: bool = False) -> np.ndarray:
    """All hues turned around the circle together, or first mirrored on it."""
    hsv = np.array(Image.fromarray(drawing[..., :3]).convert("HSV"))
    hue = hsv[..., 0].astype(np.int32)
    hsv[..., 0] = ((-hue if mirrored else hue) + degrees * 256 // 360) % 256
    return np.dstack([np.asarray(Image.fromarray(hsv, "HSV").convert("RGB")), drawing[..., 3]])


def stretch(rng, drawing: np.ndarray) -> np.ndarray:
    """Narrower or lower by up to three tenths, sheared a little."""
    image, half = premultiplied(drawing), len(drawing) / 2
    a, d = (1.0, rng.uniform(1, 1.4)) if rng.uniform() < 0.5 else (rng.uniform(1, 1.4), 1.0)
    b = rng.uniform(-0.2, 0.2)
    matrix = (a, b, half - (a + b) * half, 0, d, half - d * half)
    return np.asarray(
        image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR).convert("RGBA")
    )


def held_out(style: str, concept: str) -> bool:
    """Is this drawing kept from every training?"""
    return style in HELD_OUT_STYLES or concept in HELD_OUT_CONCEPTS or (style, concept) in HELD_OUT_DRAWINGS
