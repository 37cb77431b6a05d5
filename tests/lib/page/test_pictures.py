"""Every picture has words, sharp edges or smooth ones, and the one palette."""

import base64
import io
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from zoti.page import PALETTE, Html, picture, style


def pixels(html: Html) -> np.ndarray:
    data = re.search(r"base64,([^\"]+)", html.markup)[1]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_pictures_are_lossless_and_pixelated():
    noise = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    for image in (noise, Image.fromarray(noise)):
        html = picture(image, "noise", width=96)
        assert (pixels(html) == noise).all()
        for part in ("width:96px", "pixelated", 'class="dark-light"'):
            assert part in html._repr_html_()


def test_figures_are_sharp_smooth_and_closed():
    fig, _ = plt.subplots(figsize=(3, 2), dpi=100)
    html = picture(fig, "an empty plot")
    assert pixels(html).shape == (400, 600, 3) and "width:300px" in html.markup
    assert "pixelated" not in html.markup
    assert not plt.fignum_exists(fig.number)


def test_alt_text_is_required_and_escaped():
    square = np.zeros((2, 2, 3), np.uint8)
    with pytest.raises(ValueError, match="alt"):
        picture(square, " ")
    with pytest.raises(TypeError):
        picture(square)
    html = picture(square, 'a < b & "c"')
    assert 'alt="a &lt; b &amp; &quot;c&quot;"' in html.markup
    assert repr(html) == 'a < b & "c"'


def test_style_is_the_one_palette():
    with plt.rc_context():
        style()
        cycle = [entry["color"] for entry in plt.rcParams["axes.prop_cycle"]]
        assert cycle[0] == PALETTE["blue"] and set(cycle) < set(PALETTE.values())
        assert plt.rcParams["figure.facecolor"] == "white"
