"""Every picture has words, its own pixels and its number; the one palette."""

import base64
import io
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from zoti.page import PALETTE, Html, framed, panels, picture, pictures, style

SQUARE = np.zeros((2, 2, 3), np.uint8)


def pixels(html: Html) -> np.ndarray:
    data = re.search(r"base64,([^\"]+)", html.markup)[1]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_small_pictures_are_lossless_and_doubled_large_ones_their_own_size():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for image in (noise, Image.fromarray(noise)):
        html = picture(image, "noise")
        assert (pixels(html) == noise).all()
        assert 'width="128"' in html.markup and "pixelated" in html.markup
    smooth = np.broadcast_to(np.linspace(0, 255, 128).astype(np.uint8)[None, :, None], (128, 128, 3))
    html = picture(smooth, "a slope")
    assert np.abs(pixels(html).astype(int) - smooth).mean() < 2
    assert 'width="128"' in html.markup and "pixelated" not in html.markup


def test_alt_text_is_required_and_escaped():
    for made in (lambda: picture(SQUARE, " "), lambda: panels([SQUARE])):
        with pytest.raises(ValueError, match="alt"):
            made()
    html = picture(SQUARE, 'a < b & "c"')
    assert 'alt="a &lt; b &amp; &quot;c&quot;"' in html.markup
    assert repr(html) == 'a < b & "c"'


def test_panels_are_figures_with_captions_row_by_row():
    html = panels({"mine": [SQUARE] * 2, "yours": [SQUARE] * 2}, ["now", "then"], "{row} {}", "Two *rows*.", "rows")
    assert html.markup.count("<img") == 4 == html.markup.count("<figure style")
    assert re.findall(r'alt="(.*?)"', html.markup) == ["mine now", "mine then", "yours now", "yours then"]
    assert html.markup.count('class="zoti-row-name"') == 2
    assert html.markup.startswith('<figure class="zoti-figure" id="fig-rows">')
    assert "<figcaption>Two <em>rows</em>.</figcaption></figure>" in html.markup


def test_panels_want_a_caption_and_words_for_each():
    for captions, alt in ((["one"], "{}"), (["one", "two"], ["only one"])):
        with pytest.raises(ValueError, match="match them"):
            panels([SQUARE, SQUARE], captions, alt)


def test_labels_are_addresses_of_captioned_figures():
    with pytest.raises(ValueError, match="needs a caption"):
        framed(Html("x", "x"), "", "x")
    with pytest.raises(ValueError, match="address"):
        framed(Html("x", "x"), "A letter.", "The Letter")


def test_style_is_the_one_palette_and_the_look_of_a_running_notebook(monkeypatch):
    shown = []
    monkeypatch.setattr(pictures, "display", shown.append)
    with plt.rc_context():
        style()
        cycle = [entry["color"] for entry in plt.rcParams["axes.prop_cycle"]]
        assert cycle[0] == PALETTE["blue"] and set(cycle) < set(PALETTE.values())
    assert "data-zoti-live" in shown[0].markup and ".zoti-claim" in shown[0].markup
