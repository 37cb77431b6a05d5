"""Watching a run: how far it is, how long it will take, what its loss is, and what the word looks like by now."""

import base64
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from zoti.invert import Step
from zoti.word import ConceptToken

#: What makes a picture of a token (k, d).
Paint = Callable[[Tensor], Image.Image]
#: The loss shown is a mean of the last so many steps: one draw says little.
MEAN = 100
#: A page is told no more often than once in so many seconds.
PAUSE = 0.5


def watch(steps: Iterable[Step], total: int, paint: Paint | None = None, every: int | None = None) -> Iterator[Step]:
    """Pass a run's steps on as they come, and show how the run goes.

    In a notebook a small figure shows progress with the time left, the loss as it went, and, where there is `paint`, a
    painting of the token after the first step, every so many steps (by default ten times a run) and after the last. In
    a terminal it is a bar; in a log, or where TQDM_DISABLE=1, nothing. What nobody would see is not painted.

    total: `Config.steps`. Where the loop around ends early, the steps are closed at once, so that `invert` saves its
    run. Raises ValueError for a total or an `every` below 1.

    >>> run = (Step(i, torch.zeros(1, 4), 0.5, removed=0, evaluations=3 * i, seconds=0.1 * i) for i in (1, 2, 3))
    >>> [step.index for step in watch(run, total=3)]
    [1, 2, 3]
    >>> MEAN, PAUSE  # steps, seconds
    (100, 0.5)
    """
    if total < 1 or (every is not None and every < 1):
        raise ValueError(f"total = {total}, every = {every}: both count steps, at least 1")
    sign: _Sign = _Nothing()
    if os.environ.get("TQDM_DISABLE"):
        pass
    elif _in_notebook():
        sign = _Page(total, paint, every or -(-total // 10))
    elif sys.stderr.isatty():
        sign = _Bar(total)
    try:
        for step in steps:
            sign.show(step)
            yield step
    finally:
        getattr(steps, "close", lambda: None)()  # or a run would be saved only when somebody forgets it
        sign.close()


def painter(token: ConceptToken, prompt: str, seed: int = 0, **options: Any) -> Paint:
    """A function that paints a prompt with given vectors of the word, from the same noise each time.

    prompt: has {} where the word stands. The vectors (k, d) are written to the model.

    options: the pipeline's, such as num_inference_steps.

    >>> from zoti import load_pipeline
    >>> token = ConceptToken(load_pipeline(), "<pot>", "teapot")
    >>> paint = painter(token, "a {} in the snow", num_inference_steps=2)
    >>> paint(token.initial).mode
    'RGB'
    """

    def paint(theta: Tensor) -> Image.Image:
        token.write(theta)
        chance = torch.Generator().manual_seed(seed)
        image: Image.Image = token.pipe(prompt.replace("{}", token.word), generator=chance, **options).images[0]
        return image

    return paint


class _Sign(Protocol):
    def show(self, step: Step) -> None: ...
    def close(self) -> None: ...


class _Nothing:
    def show(self, step: Step) -> None:
        pass

    def close(self) -> None:
        pass


class _Bar:
    """tqdm's, in a terminal; it goes away when the run is done."""

    def __init__(self, total: int) -> None:
        self.total, self.losses = total, list[float]()
        self.bar: Any = None

    def show(self, step: Step) -> None:
        if self.bar is None:  # a run may go on from a checkpoint
            self.bar = tqdm(total=self.total, initial=step.index - 1, leave=False)
        self.losses.append(step.loss)
        self.bar.set_postfix_str(f"loss {_mean(self.losses):.3f}", refresh=False)
        self.bar.update()

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


class _Page:
    """An output of a notebook's cell, plain markup, which is renewed in its place and stays when the kernel is gone."""

    def __init__(self, total: int, paint: Paint | None, every: int) -> None:
        self.total, self.paint, self.every = total, paint, every
        self.steps: list[tuple[int, float]] = []  # their numbers and losses
        self.paintings = ""  # as markup
        self.seconds, self.told = 0.0, -PAUSE
        self.output: Any = None

    def show(self, step: Step) -> None:
        self.steps.append((step.index, step.loss))
        due = step.index % self.every == 0 or step.index == self.total or len(self.steps) == 1
        if self.paint and due:
            small = self.paint(step.theta).convert("RGB")
            small.thumbnail((128, 128), Image.Resampling.LANCZOS)
            picture = _img(small, f"the word after {step.index} steps")
            self.paintings += f'<figure style="margin:0">{picture}<figcaption>{step.index}</figcaption></figure>'
        self.seconds = step.seconds
        if due or self.seconds - self.told >= PAUSE:
            self.told = self.seconds
            self.tell(self.left())

    def close(self) -> None:
        if self.steps:
            index = self.steps[-1][0]
            done = f"in {tqdm.format_interval(self.seconds)}" if index == self.total else "and stopped"
            self.tell(done)

    def left(self) -> str:
        index, begun = self.steps[-1][0], self.steps[0][0] - 1
        seconds = self.seconds / (index - begun) * (self.total - index)
        return f"{tqdm.format_interval(seconds)} left"

    def tell(self, time: str) -> None:
        """Show all this again."""
        index = self.steps[-1][0]
        text = f"step {index} of {self.total}, {time}, loss {_mean([loss for _, loss in self.steps]):.3f}"
        bar = f'<progress value="{index}" max="{self.total}" style="width:100%" aria-label="steps"></progress>'
        markup = (
            f'<div style="max-width:44em">{bar}<div>{text}</div>{_line([loss for _, loss in self.steps])}'
            f'<div style="display:flex;flex-wrap:wrap;gap:4px">{self.paintings}</div></div>'
        )
        told = {"text/html": markup, "text/plain": text}
        if self.output is None:
            from IPython.display import display

            self.output = display(told, raw=True, display_id=True)
        else:
            self.output.update(told, raw=True)


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")  # where nobody has imported it, this is no notebook
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


def _mean(losses: list[float]) -> float:
    last = losses[-MEAN:]
    return sum(last) / len(last)


def _line(losses: list[float]) -> str:
    """The losses as a line of at most sixty points, each a mean of its neighbours; nothing for fewer than two."""
    width = -(-len(losses) // 60)
    bins = [losses[at : at + width] for at in range(0, len(losses), width)]
    means = [sum(near) / len(near) for near in bins]
    if len(means) < 2:
        return ""
    low, high = min(means), max(means)
    points = " ".join(
        f"{400 * i / (len(means) - 1):.0f},{38 - 36 * (mean - low) / ((high - low) or 1):.0f}"
        for i, mean in enumerate(means)
    )
    return (
        f'<svg viewBox="0 0 400 40" style="width:100%;max-height:3em" role="img" preserveAspectRatio="none" aria-label='
        f'"the loss, between {low:.3f} and {high:.3f}"><polyline points="{points}" fill="none" stroke="currentColor" '
        'vector-effect="non-scaling-stroke"/></svg>'
    )


def _img(image: Image.Image, alt: str) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "webp", quality=90)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{alt}" style="width:96px" src="data:image/webp;base64,{data}">'
