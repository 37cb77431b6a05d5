"""The book's one drawing of the model, from a prompt to a picture, with the part lit that a section is about."""

from __future__ import annotations

from zoti.page.pictures import Html, framed

_HIGH = 40
# part -> (what is written on it, left, top, width), in a drawing 345 wide: a phone shows its words at full size
_BOXES = {
    "prompt": ("prompt", 2, 6, 66),
    "ids": ("ids", 90, 6, 40),
    "table": ("row θ", 152, 6, 62),
    "encoder": ("text encoder", 236, 6, 107),
    "attention": ("cross-attention", 226, 74, 117),
    "unet": ("U-Net", 226, 142, 117),
    "z_t": ("z_t", 160, 142, 44),
    "vae": ("VAE", 90, 142, 48),
    "picture": ("picture", 2, 142, 66),
}
_ROADS = [
    ("prompt", "ids"), ("ids", "table"), ("table", "encoder"), ("encoder", "attention"), ("attention", "unet"),
    ("picture", "vae"), ("vae", "z_t"), ("z_t", "unet"),
]  # fmt: skip


def anatomy(*lit: str, caption: str = "", label: str = "") -> Html:
    """The model from a prompt to a picture, some of its parts lit: prompt, ids, table, encoder, attention, unet, z_t,
    vae, picture.

    caption, label: as in `picture`. Raises ValueError for a part the drawing does not have.

    >>> anatomy("table")
    prompt, ids, row θ, text encoder, cross-attention, U-Net, z_t, VAE, picture; lit: row θ
    """
    unknown = [part for part in lit if part not in _BOXES]
    if unknown:
        raise ValueError(f"the model has no part {unknown[0]!r}; there are {', '.join(_BOXES)}")
    said = (
        ", ".join(name for name, *_ in _BOXES.values())
        + "; lit: "
        + (", ".join(_BOXES[part][0] for part in lit) or "none")
    )
    roads = "".join(_road(a, b) for a, b in _ROADS)
    boxes = "".join(_box(part, part in lit) for part in _BOXES)
    svg = (
        f'<svg class="zoti-anatomy" viewBox="0 0 345 188" role="img" aria-label="The model: {said}" '
        f'style="width:100%;max-width:520px;height:auto" font-size="12.5" text-anchor="middle" fill="currentColor">'
        f"{roads}{boxes}</svg>"
    )
    return framed(Html(svg, said), caption, label)


def _box(part: str, lit: bool) -> str:
    name, x, y, width = _BOXES[part]
    shown = 'z<tspan dy="3" font-size="9">t</tspan>' if part == "z_t" else name
    weight = ' font-weight="700"' if lit else ""
    return (
        f'<rect class="zoti-part{" zoti-lit" * lit}" x="{x}" y="{y}" width="{width}" height="{_HIGH}" rx="7" '
        f'fill="none" stroke="currentColor" stroke-width="{2.5 if lit else 1}"/>'
        f'<text x="{x + width / 2}" y="{y + 24.5}"{weight}>{shown}</text>'
    )


def _road(a: str, b: str) -> str:
    """An arrow from one part to the next: to the right, or down where that lies below."""
    (_, x, y, width), (_, x2, y2, width2) = _BOXES[a], _BOXES[b]
    if y == y2:
        tip, line, head = (x2 - 2.0, y + 20.0), f"M{x + width + 2} {y + 20}H{x2 - 3}", "l-6 -4v8z"
    else:
        middle = x2 + width2 / 2
        tip, line, head = (middle, y2 - 2.0), f"M{middle} {y + _HIGH + 2}V{y2 - 3}", "l-4 -6h8z"
    return f'<path d="{line}" fill="none" stroke="currentColor"/><path d="M{tip[0]:g} {tip[1]:g}{head}"/>'
