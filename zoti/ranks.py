"""Many machines, eight bytes an evaluation: each process judges its share of the candidates, and all know the losses.

Descent from losses alone has little to say to others. Every process starts from the same seed, so each draws all
pictures, timesteps, noise and directions by itself; what it cannot know is what the others' candidates cost. When these
numbers have crossed the wire, every process makes the same step, and all hold the same token, to the last bit.
"""

import torch
import torch.distributed as dist
from torch import Tensor

from zoti.identity import Identity, fingerprint
from zoti.objective import DenoisingLoss, Draw


class Shared(DenoisingLoss):
    """A `DenoisingLoss` that the processes of one job judge together; give it to `invert` in its place, in each.

    A job is what torchrun starts, on one machine or several: `torchrun --nproc-per-node 4 learn.py`, where learn.py
    calls `torch.distributed.init_process_group()` (gloo, or nccl with one GPU each) before all else. Candidates go
    through the model `max_batch` at a time, and each such batch, of each draw, is one process's work. The token is that
    of a single process with the same `max_batch`, bit for bit, if the machines are of one kind; if not, it is still the
    same in all of them. A run's file may be begun by one process and go on with many: let all of them see it.

    What crosses the wire for `mean`: 8 bytes an evaluation, and 8 a process, by which all see that they still ask the
    same. `residuals`, which `GaussNewton` asks, are no single numbers; each process computes all of these.

    Raises ValueError outside a job, and where the processes do not judge the same word, captions, pictures and model.
    RuntimeError, later, where they no longer ask the same, or one of them is gone; `invert` then saves the run.

    >>> from tempfile import TemporaryDirectory
    >>> from zoti import ConceptToken, Config, PartialUniform, cache_latents, invert, load_pipeline
    >>> from zoti.data import load_subject
    >>> pipe, mug = load_pipeline(), load_subject("teapot")
    >>> token, latents = ConceptToken(pipe, "<it>", "teapot"), cache_latents(pipe, mug.references)
    >>> alone = DenoisingLoss(pipe, token, latents, mug.captions, PartialUniform(500, 900))
    >>> with TemporaryDirectory() as folder:  # a job of one process, without torchrun
    ...     dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=0, world_size=1)
    ...     pairs = zip(invert(Shared(alone), Config(steps=2)), invert(alone, Config(steps=2)))
    ...     print([torch.equal(ours.theta, theirs.theta) for ours, theirs in pairs])
    ...     dist.destroy_process_group()
    [True, True]
    """

    def __init__(self, objective: DenoisingLoss) -> None:
        if not dist.is_initialized():
            raise ValueError(
                "there are no processes to share the work with; start your script by torchrun, and call "
                "torch.distributed.init_process_group() first"
            )
        vars(self).update(vars(objective))
        self.alone = objective
        # numbers are left out, for the last digits of latents may be another machine's own
        words = {name: part for name, part in objective.identity().items() if isinstance(part, str)}
        try:
            self._exchange(torch.empty(0), fingerprint({}, f"{sorted(words.items())} {self.max_batch}"))
        except RuntimeError as error:
            raise ValueError(
                "the processes do not judge the same word; give all of them the same model, photos, captions, word and "
                f"max_batch ({error})"
            ) from error

    def identity(self) -> Identity:
        """The identity of the loss that is shared: how many processes judge does not tell a run from another."""
        return self.alone.identity()

    @torch.no_grad()
    def mean(self, theta: Tensor, bank: list[Draw]) -> Tensor:
        """Mean losses (b,) of candidates theta (b, k, d) over a bank; this process computes its share of them."""
        losses = torch.zeros(len(bank), len(theta), dtype=torch.float64)
        starts = range(0, len(theta), self.max_batch)
        parts = [(row, start) for row in range(len(bank)) for start in starts]
        for row, start in parts[dist.get_rank() :: dist.get_world_size()]:
            part = slice(start, start + self.max_batch)
            losses[row, part] = self.alone(theta[part], bank[row]).double().cpu()
        asked = {"theta": theta, "t": torch.cat([draw.t for draw in bank])}
        return self._exchange(losses, fingerprint(asked)).to(theta.device, torch.float32).mean(0)

    def _exchange(self, mine: Tensor, asked: str) -> Tensor:
        """The sum of all processes' tensors: each has zeros where others have numbers, so nothing is rounded.

        Raises RuntimeError where what is `asked` (a fingerprint) is not the same in all of them.
        """
        marks = torch.zeros(dist.get_world_size(), dtype=torch.float64)
        marks[dist.get_rank()] = int(asked[:13], 16)  # 52 bits, which a float holds exactly
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        wire = torch.cat([mine.flatten().double(), marks]).to(device)
        dist.all_reduce(wire)
        wire = wire.cpu()
        if len(wire[mine.numel() :].unique()) > 1:
            raise RuntimeError("the processes no longer ask the same: did all begin with the same config and file?")
        return wire[: mine.numel()].view(mine.shape)
