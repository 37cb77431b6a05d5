"""The strip says where and when its numbers were computed."""

import datetime
import os

from zoti.page import masthead, processor


def test_the_strip_tells_processor_cores_date_and_what_is_on():
    strip = masthead(12, "INT8 & t < 900")
    for part in (processor(), f"{os.cpu_count()} core", str(datetime.date.today().year), "12 minutes to read"):
        assert part in strip.text
    assert "INT8 &amp; t &lt; 900" in strip.markup
