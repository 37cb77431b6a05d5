"""What our Sphinx extension does, without a book to build."""

import doctest
import importlib.util
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("sphinx", reason="needs the book's tools: pip install -e .[book]")

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("book_site", ROOT / "book" / "site.py")
site = importlib.util.module_from_spec(spec)
spec.loader.exec_module(site)


def test_the_examples_hold():
    tried = doctest.testmod(site, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert tried.attempted and not tried.failed


def test_figures_count_in_their_order_and_others_keep_their_captions():
    panel = "<figure style='margin:0'><figcaption>snow</figcaption></figure>"
    body = (
        f'<figure class="zoti-figure">{panel}<figcaption>First.</figcaption></figure><figcaption>not ours'
        f'<figure class="zoti-figure" id="fig-two"><figcaption>Second.</figcaption></figure>'
        '<a class="zoti-ref" href="#fig-two"></a>'
    )
    shown = site.numbered(body, "page")
    assert '<figcaption><b class="zoti-number">Figure 1.</b> First.' in shown
    assert '<figcaption><b class="zoti-number">Figure 2.</b> Second.' in shown
    assert "<figcaption>snow" in shown and "<figcaption>not ours" in shown and ">Figure 2</a>" in shown


def test_a_figure_that_is_not_there_is_complained_of(caplog):
    with caplog.at_level(logging.WARNING):
        logging.getLogger("sphinx").propagate = True
        link = '<a class="zoti-ref" href="#fig-gone"></a>'
        assert site.numbered(link, "not executed") and not caplog.text
        shown = site.numbered('<figure class="zoti-figure"><figcaption></figcaption></figure>' + link, "page")
    assert "Figure ?" in shown and "'gone'" in caplog.text


def test_exercises_count_within_their_chapter_and_all_else_as_before():
    counted = {"one": {"exercise": {"a": (1,), "b": (2,)}}, "two": {"exercise": {"c": (3,)}, "table": {"t": (7,)}}}
    site.count_anew(None, SimpleNamespace(env=SimpleNamespace(toc_fignumbers=counted)))
    assert counted["one"] == {"exercise": {"a": (1,), "b": (2,)}}
    assert counted["two"] == {"exercise": {"c": (1,)}, "table": {"t": (7,)}}


@pytest.mark.parametrize(
    "latex",
    [r"a < b \& c", r"\hat g = \frac{1}{n}\sum_{i=1}^{n} e_i", r"\lVert\theta\rVert^2", r"\sqrt{\bar\alpha_t}\,z"],
)
def test_formulas_are_well_formed(latex):
    import xml.etree.ElementTree as ElementTree

    for display in ("inline", "block"):
        assert ElementTree.fromstring(site.mathml(latex, display)).get("display") == display


def test_a_formula_of_several_rows_has_one_number_which_is_the_pages():
    assert "(1)" not in site.mathml(r"\begin{aligned} m &= 2 \\ v &= 3 \end{aligned}", "block")
