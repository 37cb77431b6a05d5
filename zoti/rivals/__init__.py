"""Other ways to personalise a model, in the frame of `invert`: one objective, one Step, passes counted alike.

Each module is named for how it finds its answer, each function for the method. `backpropagation` (`textual_inversion`)
and `finetuning` (`dreambooth`) go backwards through the model; `evolution` (`gf_ti`) and `forward_mode`
(`forward_gradient`) only forwards. `recompute` is gradient checkpointing, which the first can use.
"""

from zoti.rivals.backpropagation import textual_inversion
from zoti.rivals.evolution import gf_ti
from zoti.rivals.finetuning import dreambooth
from zoti.rivals.forward_mode import forward_gradient
from zoti.rivals.recompute import recomputing

__all__ = ["dreambooth", "forward_gradient", "gf_ti", "recomputing", "textual_inversion"]
