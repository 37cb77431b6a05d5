"""The denoising loss by onnxruntime instead of PyTorch: it can only run, and on a CPU runs a small model faster."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from zoti.model.export import model_key
from zoti.objective import DenoisingLoss, Draw


def session(graph: bytes | str | Path, threads: int | None = None) -> Any:
    """An onnxruntime session for a graph of `zoti.model.export`, on the CPU, which computes in float32 throughout.

    onnxruntime's own defaults would not: they fuse INT8 weights with their products (`MatMulNBits`) and round
    activations there, and then finite differences at mu = 1e-3 have a correlation of 0.58 with what they should be on
    tiny-sd. Here codes become float32 weights as the graph is loaded, which is the fastest way, too, but holds four
    bytes for each weight's one (44 to 67 MB for tiny-sd): PyTorch and INT8 remain the way to spare memory. threads:
    PyTorch's own number by default; they do not spin while they wait, or a busy machine would wait for them.

    Raises ImportError without onnxruntime, ValueError for what is no graph.

    >>> session(b"nothing")
    Traceback (most recent call last):
    ValueError: this is no ONNX graph...
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError("onnxruntime is missing; pip install 'zoti[engine]'") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    given = graph if isinstance(graph, bytes) else str(graph)
    try:
        return onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no class in common but this
        raise ValueError(f"this is no ONNX graph that onnxruntime could load ({error})") from error


class OnnxLoss(DenoisingLoss):
    """A `DenoisingLoss` by onnxruntime: the same losses as the objective's, but for rounding, and no derivatives.

    graph: a `noise_graph`, or the path of one. It belongs to a model's weights; words may be added before and after,
    for their vectors are read from the pipeline. The pipeline's own text encoder and U-Net do not run.

    Raises ValueError for the graph of another model and, when it is called, for candidates that ask for a derivative;
    ImportError without onnxruntime.

    >>> from zoti import ConceptToken, PartialUniform, cache_latents, load_pipeline
    >>> from zoti.data import load_subject
    >>> from zoti.model import noise_graph
    >>> pipe, teapot = load_pipeline(), load_subject("teapot")
    >>> token = ConceptToken(pipe, "<x>", "teapot")
    >>> latents, times = cache_latents(pipe, teapot.references), PartialUniform(500, 900)
    >>> slow = DenoisingLoss(pipe, token, latents, teapot.captions, times)
    >>> fast = OnnxLoss(slow, noise_graph(pipe))
    >>> bank = slow.bank(2, torch.Generator().manual_seed(0))
    >>> bool((fast.mean(token.initial[None], bank) / slow.mean(token.initial[None], bank) - 1).abs() < 1e-5)
    True
    """

    def __init__(self, objective: DenoisingLoss, graph: bytes | str | Path) -> None:
        vars(self).update(vars(objective))
        self.session = session(graph)
        key = self.session.get_modelmeta().custom_metadata_map.get("key")
        if key != model_key(objective.pipe):
            raise ValueError("this graph is of another model than the pipeline; make its own: noise_graph(pipe)")

    def predict(self, theta: Tensor, draw: Draw, z_t: Tensor) -> Tensor:
        """As `DenoisingLoss.predict`, by onnxruntime."""
        if forward_ad.unpack_dual(theta).tangent is not None or (theta.requires_grad and torch.is_grad_enabled()):
            raise ValueError("onnxruntime only runs, it has no derivatives to offer; ask a DenoisingLoss for them")
        word, ids = self._told(theta.detach(), self.token.ids(self.prompts[draw.image])[0])
        feeds = {
            "word": word.float(),
            "ids": ids.expand(len(theta), -1),
            "z_t": z_t.float().expand(len(theta), -1, -1, -1),
            "t": draw.t,
        }
        (noise,) = self.session.run(None, {name: x.contiguous().cpu().numpy() for name, x in feeds.items()})
        return torch.from_numpy(noise).to(theta.device)

    def _told(self, theta: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """A prompt (L,) as the graph reads it: vectors of all added words in it (b, n, d), and ids (L,) that count on.

        Ours among them are the candidates theta (b, k, d).
        """
        (vocabulary,), (own,) = self.token.vocabularies, self.token.token_ids
        rows = vocabulary.tokenizer.vocab_size
        others = [i for i in sorted(set(ids.tolist())) if i >= rows and i not in own]
        vectors = vocabulary.table.detach()[others].to(theta).expand(len(theta), -1, -1)
        numbered = ids.clone()
        for place, token in enumerate([*own, *others]):
            numbered[ids == token] = rows + place
        return torch.cat([theta, vectors], 1), numbered
