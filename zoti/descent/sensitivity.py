"""Where the U-Net listens: the few directions of a word that change what it is told, found by text passes alone."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoti.identity import sketch
from zoti.word.tokens import ConceptToken

# How many candidates go through the text encoder together.
_TOGETHER = 64


@dataclass(frozen=True, eq=False, repr=False)
class SensitiveDirections:
    """The directions of a word that the U-Net listens to most, and how much it listens to every other.

    What tells a run with them from others is their number, share and `sketch`, and not their digits, which are others
    where another process found them.

    >>> rows = torch.eye(4)[:2].view(2, 1, 4)
    >>> some = SensitiveDirections(rows, torch.tensor([6.0, 3.0, 0.5, 0.5]), length=1.0, text_passes=5)
    >>> some, some.text_passes
    (SensitiveDirections(2 of 4, 90.0 %), 5)
    """

    #: orthonormal, the most sensitive first: (r, k, d)
    rows: Tensor
    #: how strongly the U-Net's inputs answer to each of the D = k d directions, falling: (D,), squares summed
    spectrum: Tensor
    #: how long a vector of the word was where they were found
    length: float
    #: what they cost: how many prompts went through the text encoder
    text_passes: int

    @property
    def share(self) -> float:
        """The share of all answers (of the spectrum's sum) that lies in the directions kept."""
        return float(self.spectrum[: len(self.rows)].sum() / self.spectrum.sum())

    def sketch(self) -> list[float]:
        """A rough fingerprint, four numbers, to which each direction adds as much as the U-Net listens to it.

        So the least of them, which may be others in another process, hardly count.
        """
        rows = self.rows.flatten(1).double().cpu()
        weight = self.spectrum[: len(rows), None].double().cpu() / float(self.spectrum.sum())
        return sketch((rows.T @ (weight * rows))[None])

    def __repr__(self) -> str:
        return f"SensitiveDirections({len(self.rows)} of {len(self.spectrum)}, {100 * self.share:.1f} %)"


def sensitive_directions(
    token: ConceptToken, prompts: list[str], share: float = 0.985, mu: float = 1e-2
) -> SensitiveDirections:
    """The fewest directions of a word that hold this share of what the U-Net is told of it.

    A U-Net hears of a word only through linear layers that read the text encoder: keys and values in every
    cross-attention, and, in SDXL and some others, those that read the time embedding, to which the text is added
    (through a SiLU, which is left out: what it does depends on t). Let J (m, D) be the derivative of
    all their outputs in the word, at the token's initial vectors, summed over prompts: the directions are the leading
    eigenvectors of G = J^T J, its eigenvalues the spectrum. That is the Gauss-Newton matrix of the denoising loss with
    everything behind those layers left out, and so it needs no U-Net, no picture and no t (an active subspace,
    Constantine 2015, of the text encoder).

    prompts: some that hold the word; one is enough. mu: the step of the finite differences along each coordinate.
    Costs D + 1 text passes a prompt, once for a model, and while it runs the memory of as many text states.

    Raises ValueError for a share outside (0, 1], no prompts, or a mu that is not positive and finite.

    >>> from zoti import load_pipeline
    >>> token = ConceptToken(load_pipeline(), "<pot>", "teapot")
    >>> found = sensitive_directions(token, ["a <pot> in the snow"])
    >>> found.rows.shape[1:], found.text_passes, len(found.rows) < 128
    (torch.Size([1, 256]), 257, True)
    """
    if not 0 < share <= 1 or not prompts or not 0 < mu < float("inf"):
        raise ValueError(
            f"share = {share}, {len(prompts)} prompts, mu = {mu}: a share lies in (0, 1], and directions are found "
            "in at least one prompt by steps of positive, finite length"
        )
    start = token.initial
    size = start.numel()
    gram = torch.zeros(size, size, dtype=torch.float64, device=start.device)
    candidates = torch.cat([start[None], start + mu * torch.eye(size).to(start).view(size, *start.shape)])
    with torch.inference_mode():
        listeners = _listeners(token.pipe.unet)
        for prompt in prompts:
            for heard, metric in _heard(token, candidates, prompt, listeners):
                moved = (heard[1:] - heard[0]).float() / mu  # (D, places, width)
                for place in moved.unbind(1):  # before the word nothing moves, after it all does
                    gram += (place @ metric @ place.T).double()
    spectrum, vectors = torch.linalg.eigh(gram.clone())
    spectrum = spectrum.flip(0).clamp(min=0)
    held = spectrum.cumsum(0) / spectrum.sum()
    kept = min(int((held < share).sum()) + 1, size)
    rows = vectors.flip(1).T[:kept].to(start).reshape(kept, *start.shape).contiguous()
    length = float(start.norm(dim=1).mean())
    return SensitiveDirections(rows, spectrum.float(), length, len(candidates) * len(prompts))


class _Listeners(NamedTuple):
    """The sums of W^T W over the layers that read text states, and over those that read the time embedding."""

    text: Tensor
    time: Tensor


def _listeners(unet: Any) -> _Listeners:
    crossing = [layer for name, layer in unet.named_modules() if name.endswith("attn2")]
    like = next(unet.parameters())
    return _Listeners(
        _answers([layer for attention in crossing for layer in (attention.to_k, attention.to_v)], like),
        _answers([layer for name, layer in unet.named_modules() if name.endswith("time_emb_proj")], like),
    )


def _answers(layers: list[Any], like: Tensor) -> Tensor:
    """The sum of W^T W over linear layers of any kind, quantized ones too: what each makes of the axes is its W^T."""
    total = torch.zeros(())
    for layer in layers:
        width = layer.in_features
        axes = torch.cat([like.new_zeros(1, width), torch.eye(width, dtype=like.dtype, device=like.device)])
        answers = layer(axes)
        weight = (answers[1:] - answers[0]).float()  # without the bias; (in, out)
        total = total.to(weight) + weight @ weight.T
    return total


def _heard(token: ConceptToken, candidates: Tensor, prompt: str, listeners: _Listeners) -> list[tuple[Tensor, Tensor]]:
    """What the U-Net is told of candidates (b, k, d) in a prompt, as pairs of (b, places, width) and (width, width).

    The second of a pair says how strongly the layers that read the first answer to it.
    """
    unet = token.pipe.unet
    states, added = [], []
    for chunk in candidates.split(_TOGETHER):
        told = token.encode(chunk, [prompt]).of(0)
        states.append(told["encoder_hidden_states"])
        if unet.config.addition_embed_type is not None:
            added.append(unet.get_aug_embed(states[-1], states[-1], told.get("added_cond_kwargs", {})))
    pairs = [(torch.cat(states), listeners.text)]
    return [*pairs, (torch.cat(added)[:, None], listeners.time)] if added else pairs
