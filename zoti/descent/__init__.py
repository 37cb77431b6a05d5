"""Downhill without backpropagation: one function or class for each published algorithm.

`timesteps` chooses when the model is asked; `directions` where the word is moved to ask; `estimators` make a gradient
of the answers; `subspace` takes out of it where the word hardly moves; `optim` makes a step of the rest.
"""

from zoti.descent.directions import average, random_directions
from zoti.descent.estimators import Estimate, Guided, LossFn, guided, one_point, rge, spsa
from zoti.descent.optim import ZOSGD, AuthorsZOAdam, Optimizer, ZOAdam
from zoti.descent.subspace import RandomSubspace, SubspaceGradient
from zoti.descent.timesteps import PartialUniform, SNRWeighted, Stratified, Timesteps, Uniform

__all__ = [
    "ZOSGD",
    "AuthorsZOAdam",
    "Estimate",
    "Guided",
    "LossFn",
    "Optimizer",
    "PartialUniform",
    "RandomSubspace",
    "SNRWeighted",
    "Stratified",
    "SubspaceGradient",
    "Timesteps",
    "Uniform",
    "ZOAdam",
    "average",
    "guided",
    "one_point",
    "random_directions",
    "rge",
    "spsa",
]
