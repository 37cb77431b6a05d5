"""One drawing of the model, in which a section's part is lit."""

import re

import pytest

from zoti.page import anatomy


def test_the_parts_asked_for_are_lit_and_no_others():
    markup = anatomy("unet", "z_t", caption="Where noise goes in.", label="here").markup
    assert markup.count("zoti-lit") == 2 and markup.count("<rect") == 9 and 'id="fig-here"' in markup
    assert re.findall(r'zoti-lit".*?<text[^>]*>(U-Net|z<)', markup) == ["U-Net", "z<"]
    assert anatomy().text.endswith("lit: none")


def test_words_are_large_enough_on_a_phone():
    markup = anatomy("vae").markup
    width, size = (
        float(re.search(r'viewBox="0 0 (\d+)', markup)[1]),
        float(re.search(r'font-size="([\d.]+)"', markup)[1]),
    )
    assert size * 343 / width >= 12


def test_a_part_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="no part 'soul'; there are prompt"):
        anatomy("soul")
