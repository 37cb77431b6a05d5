"""Numbers keep three digits, words stay words."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoti.page import number, words


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (0.07234, "0.0723"), (12480, "12,480"), (12480.7, "12,481"), (999.7, "1,000"), (3.14e-7, "3.14×10⁻⁷"),
        (1e12, "1×10¹²"), (0.0, "0"), (-2.5, "-2.5"), (np.float32(0.1), "0.1"), (float("nan"), "nan"),
        ("words", "words"),
    ],
)  # fmt: skip
def test_numbers(x, text):
    assert number(x) == text


@given(st.floats(1e-300, 1e300))
def test_numbers_keep_three_digits(x):
    plain = number(x).replace(",", "").translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789"))
    mantissa, _, power = plain.partition("×10")
    assert float(mantissa) * 10.0 ** int(power or 0) == pytest.approx(x, rel=6e-3)


@pytest.mark.parametrize(
    ("text", "markup"),
    [
        ("a < b & 2 * 3 * 4", "a &lt; b &amp; 2 * 3 * 4"),  # a star between spaces multiplies
        ("*one* `<two>`", "<em>one</em> <code>&lt;two&gt;</code>"),
        ("z_t of size", '<i class="zoti-z">z<sub>t</sub></i> of size'),
        ("a quiz", "a quiz"),
    ],
)
def test_words_are_escaped_and_marked(text, markup):
    assert words(text) == markup
