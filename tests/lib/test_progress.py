"""A run that is watched: nothing about it changes, and each place shows what it can."""

import io
import re
import sys
from functools import partial
from types import SimpleNamespace

import IPython
import IPython.display
import pytest
import torch
from PIL import Image
from tqdm import tqdm

import zoti.progress
from tests.helpers import problem, random_pipeline
from zoti import Config, Step, invert, watch
from zoti.progress import painter


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Page:
    """What a notebook's front end would show: outputs, each renewed in its place."""

    def __init__(self):
        self.outputs, self.told = [], []

    def display(self, told, raw, display_id):
        assert raw and display_id
        self.outputs.append(told)
        self.told.append(told)
        return self

    def update(self, told, raw):
        assert raw
        self.outputs[-1] = told
        self.told.append(told)


@pytest.fixture(autouse=True)
def not_disabled(monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)


@pytest.fixture
def page(monkeypatch) -> Page:
    made = Page()
    monkeypatch.setattr(IPython, "get_ipython", lambda: SimpleNamespace(kernel="one"))
    monkeypatch.setattr(IPython.display, "display", made.display)
    return made


def paced(first: int, last: int, seconds: float = 1.0, loss: float = 0.5):
    """Steps from first to last of a run, each of which took so many seconds."""
    for i in range(first, last + 1):
        yield Step(i, torch.zeros(1, 4), loss, removed=0, evaluations=3 * i, seconds=seconds * (i - first + 1))


def test_watching_changes_nothing(pipe, page):
    plain = [step.theta for step in invert(problem(random_pipeline()), Config(steps=4))]
    objective = problem(pipe)
    paint = painter(objective.token, "a {}", num_inference_steps=1)
    seen = [step.theta for step in watch(invert(objective, Config(steps=4)), 4, paint, every=1)]
    assert all(map(torch.equal, seen, plain))


def test_a_page_shows_progress_with_the_time_left_the_loss_and_paintings(page):
    painted = []
    paint = lambda theta: painted.append(theta) or Image.new("RGB", (512, 512), "teal")  # noqa: E731
    assert [step.index for step in watch(paced(1, 200, 2.0), 200, paint, every=100)] == list(range(1, 201))
    assert len(page.outputs) == 1 and len(painted) == 3
    texts = [told["text/plain"] for told in page.told]
    assert "step 1 of 200, 06:38 left, loss 0.500" in texts
    assert "step 150 of 200, 01:40 left, loss 0.500" in texts
    assert texts[-1] == "step 200 of 200, in 06:40, loss 0.500"
    (shown,) = [told["text/html"] for told in page.outputs]
    assert '<progress value="200" max="200"' in shown and texts[-1] in shown
    assert re.findall(r"<figcaption>(\d+)", shown) == ["1", "100", "200"]
    assert re.findall(r'<img alt="([^"]+)"', shown)[1] == "the word after 100 steps"
    assert 'aria-label="the loss, between 0.500 and 0.500"' in shown
    assert len(shown) < 20_000


def test_a_page_is_not_told_more_often_than_it_can_show(page):
    list(watch(paced(1, 1000, 0.01), 1000))
    assert len(page.told) < 1000 * 0.01 / 0.5 + 15


def test_the_loss_shown_is_of_the_last_steps(page):
    list(watch([*paced(1, 100, loss=9.0), *paced(101, 200, loss=0.25)], 200))
    assert page.outputs[0]["text/plain"].endswith("loss 0.250")
    assert 'aria-label="the loss, between 0.250 and 9.000"' in page.outputs[0]["text/html"]


def test_a_run_that_goes_on_counts_on_and_one_that_is_done_says_so(page):
    list(watch(paced(51, 60, 3.0), 100))
    assert "step 60 of 100, 02:00 left, loss 0.500" in [told["text/plain"] for told in page.told]
    assert page.outputs[-1]["text/plain"] == "step 60 of 100, and stopped, loss 0.500"
    list(watch(paced(100, 100, 0.0), 100))
    assert page.outputs[-1]["text/plain"] == "step 100 of 100, in 00:00, loss 0.500"
    assert list(watch([], 100)) == [] and len(page.outputs) == 2


def test_a_terminal_shows_a_bar_that_goes_away(tmp_path, monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)

    def never(theta):
        raise AssertionError("a terminal shows no paintings")

    monkeypatch.setattr(zoti.progress, "tqdm", partial(tqdm, mininterval=0, disable=False))
    path = tmp_path / "run.safetensors"
    list(watch(invert(problem(random_pipeline()), Config(steps=4), checkpoint=path), 4, never))
    assert "1/4 [" in terminal.getvalue() and "loss 1." in terminal.getvalue()
    terminal.truncate(0)
    list(watch(invert(problem(random_pipeline()), Config(steps=6), checkpoint=path), 6))
    assert "5/6 [" in terminal.getvalue() and "1/6" not in terminal.getvalue()
    assert terminal.getvalue().endswith("\r")


def test_a_log_and_whoever_forbids_it_see_nothing(page, monkeypatch, capsys):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TQDM_DISABLE", "1")
    assert len(list(watch(paced(1, 9), 9))) == 9
    assert not page.outputs and not terminal.getvalue()
    monkeypatch.delenv("TQDM_DISABLE")
    monkeypatch.setattr(IPython, "get_ipython", lambda: None)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert len(list(watch(paced(1, 9), 9))) == 9
    assert not page.outputs and not sys.stderr.getvalue() and capsys.readouterr().out == ""


@pytest.mark.parametrize("what", ["break", "interrupted while painting", "an error around"])
def test_a_run_is_saved_when_its_watcher_is_left_early(pipe, page, tmp_path, what):
    path = tmp_path / "run.safetensors"

    def paint(theta):
        if what == "interrupted while painting" and len(page.told) > 1:
            raise KeyboardInterrupt
        return Image.new("RGB", (8, 8))

    steps = watch(invert(problem(pipe), Config(steps=9), checkpoint=path), 9, paint, every=1)
    try:
        for step in steps:
            if step.index == 3 and what == "break":
                break
            if step.index == 3 and what == "an error around":
                raise KeyError
    except (KeyboardInterrupt, KeyError):
        pass
    steps.close()
    assert "and stopped" in page.outputs[0]["text/plain"]
    assert next(invert(problem(random_pipeline()), Config(steps=9), checkpoint=path)).index == 4


def test_numbers_that_cannot_be(pipe):
    for total, every in ((0, None), (5, 0), (-1, 1)):
        with pytest.raises(ValueError, match="both count steps"):
            next(watch(paced(1, 5), total, every=every))


@pytest.mark.slow
def test_a_real_notebook_has_one_output_that_is_whole(tmp_path, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    cell = (
        "from tests.lib.test_progress import paced\nfrom zoti import watch\nfrom PIL import Image\n"
        "for step in watch(paced(1, 30, 0.2), 30, lambda theta: Image.new('RGB', (64, 64)), 10): pass"
    )
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    nbclient.NotebookClient(book, kernel_name="python3", timeout=120).execute()
    (output,) = [out for out in book.cells[0].outputs if out.output_type != "stream"]
    assert output.data["text/plain"] == "step 30 of 30, in 00:06, loss 0.500"
    assert output.data["text/html"].count("<img") == 4
    assert not [out for out in book.cells[0].outputs if out.output_type == "stream" and "it/s" in out.text]
