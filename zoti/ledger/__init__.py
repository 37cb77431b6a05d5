"""What personalising a model costs in memory, byte by byte and without a GPU.

`memory` keeps the books, `attention` books attention as a GPU runs it, `architectures` are Stable Diffusion's networks
without weights, and `scenarios` runs every method on them. The scenarios bear the names of the methods, as the rivals
themselves do, so they are called by their module: `from zoti.ledger import scenarios`, `scenarios.dreambooth()`.
"""

from zoti.ledger.architectures import Architecture, architecture
from zoti.ledger.memory import CATEGORIES, Ledger, Peak

__all__ = ["CATEGORIES", "Architecture", "Ledger", "Peak", "architecture"]
