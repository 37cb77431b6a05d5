"""What a page of this book shows: pictures with words, explorers with sliders, claims with numbers.

`pictures` makes one image that everybody can read, `widgets` what is built of several.
"""

from zoti.page.pictures import PALETTE, Html, picture, style
from zoti.page.widgets import Explorer, claim, claims, explorer, number

__all__ = ["PALETTE", "Explorer", "Html", "claim", "claims", "explorer", "number", "picture", "style"]
