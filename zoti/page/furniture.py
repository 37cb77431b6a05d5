"""What stands around a chapter's text: the strip that says what ran, where and when."""

from __future__ import annotations

import datetime
import html
import os
import platform
from pathlib import Path

from zoti.page.pictures import Html


def processor() -> str:
    """The name of this machine's processor, as its system tells it.

    >>> len(processor()) > 2
    True
    """
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        named = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        if named:
            return named[0].replace("(R)", "").replace("(TM)", "").split(" @")[0]
    return platform.processor() or platform.machine()


def masthead(reading: int, on: str) -> Html:
    """The strip under a chapter's title: minutes to read, what is on in this run, processor, cores, date.

    reading: minutes. on: what of the method is on ("INT8 weights · RGE, n = 2 · t from 500 to 900"). How long the run
    took is known when it is over; the built page adds it.

    >>> masthead(15, "INT8 weights")
    15 minutes to read · on in this run: INT8 weights · computed on ...
    """
    today = datetime.date.today()
    cores = os.cpu_count() or 1
    where = f"{processor()}, {cores} core{'s' * (cores > 1)}, {today.day} {today:%B %Y}"
    parts = {"read": f"{reading} minutes to read", "on": f"on in this run: {on}", "ran": f"computed on {where}"}
    markup = "".join(f'<span class="zoti-{key}">{html.escape(part)}</span> ' for key, part in parts.items())
    return Html(f'<div class="zoti-masthead">{markup}</div>', " · ".join(parts.values()))
