"""What a page of this book shows: pictures with words, figures that answer, predictions, claims with numbers.

`texts` writes words and numbers, `drawings` turns plots into the page's own SVG, `pictures` shows both with captions;
`explorers` have sliders, `predictions` ask before anything is revealed, `proof` checks what is claimed; `model_drawing`
is the book's one picture of the model, and `furniture` stands around a chapter.
"""

from zoti.page.drawings import PALETTE, drawing
from zoti.page.explorers import LESSONS, Goal, Interactive, Live, explorer, lesson, linked, scene
from zoti.page.furniture import masthead, processor
from zoti.page.model_drawing import anatomy
from zoti.page.pictures import FRONT, Html, framed, panels, picture, style
from zoti.page.predictions import Curve, mark, predict
from zoti.page.proof import Claim, claim, claims, show
from zoti.page.texts import number, words

__all__ = [
    "FRONT",
    "LESSONS",
    "PALETTE",
    "Claim",
    "Curve",
    "Goal",
    "Html",
    "Interactive",
    "Live",
    "anatomy",
    "claim",
    "claims",
    "drawing",
    "explorer",
    "framed",
    "lesson",
    "linked",
    "mark",
    "masthead",
    "number",
    "panels",
    "picture",
    "predict",
    "processor",
    "scene",
    "show",
    "style",
    "words",
]
