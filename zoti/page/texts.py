"""Words and numbers as a page shows them."""

from __future__ import annotations

import html
import math
import re
from typing import Any

import numpy as np


def words(text: str) -> str:
    """Plain text as HTML: *stress* and `code` are understood, and the book's three letters get their colours.

    >>> words("a *red* `<teapot>`: θ and ε")
    'a <em>red</em> <code>&lt;teapot&gt;</code>: <i class="zoti-theta">θ</i> and <i class="zoti-epsilon">ε</i>'
    """
    safe = html.escape(text)
    safe = re.sub(r"`([^`]+)`", r"<code>\1</code>", safe)
    safe = re.sub(r"\*([^*\s](?:[^*]*[^*\s])?)\*", r"<em>\1</em>", safe)
    for letter, name in {"θ": "theta", "ε": "epsilon"}.items():
        safe = safe.replace(letter, f'<i class="zoti-{name}">{letter}</i>')
    return re.sub(r"(?<![\w&;])z(_t)?(?!\w)", lambda m: f'<i class="zoti-z">z{"<sub>t</sub>" * bool(m[1])}</i>', safe)


def number(x: Any) -> str:
    """A number as a reader wants it: 0.0723 or 3.14×10⁻⁷ to three digits, 12,480 whole. Words pass unchanged.

    >>> [number(x) for x in (0.0723456, 12480, 3.14e-7, "teapot")]
    ['0.0723', '12,480', '3.14×10⁻⁷', 'teapot']
    """
    if isinstance(x, (str, bool, np.bool_)) or not hasattr(x, "__float__"):
        return str(x)
    value = float(x)
    if not math.isfinite(value):
        return str(value)
    if (value.is_integer() and abs(value) < 1e9) or 999.5 <= abs(value) < 1e6:
        return f"{value:,.0f}"
    mantissa, _, power = f"{value:.3g}".partition("e")
    raised = str(int(power)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")) if power else ""
    return f"{mantissa}×10{raised}" if raised else mantissa
