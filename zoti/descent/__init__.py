"""Downhill without backpropagation: one function or class for each published algorithm.

`timesteps` chooses when the model is asked; `directions` where the word is moved to ask; `estimators` make a gradient
of the answers; `subspace` takes out of it where the word hardly moves; `optim` makes a step of the rest. Beyond the
paper, `sensitivity` finds the few directions of a word that the U-Net hears, and `curvature` makes a whole step there
of the model's errors themselves.
"""

from zoti.descent.curvature import GaussNewton, ResidualFn, gauss_newton
from zoti.descent.directions import average, random_directions
from zoti.descent.estimators import Estimate, Guided, LossFn, guided, one_point, rge, spsa
from zoti.descent.optim import ZOSGD, AuthorsZOAdam, Optimizer, ZOAdam
from zoti.descent.sensitivity import SensitiveDirections, sensitive_directions
from zoti.descent.subspace import RandomSubspace, SubspaceGradient
from zoti.descent.timesteps import PartialUniform, SNRWeighted, Stratified, Timesteps, Uniform

__all__ = [
    "ZOSGD",
    "AuthorsZOAdam",
    "Estimate",
    "GaussNewton",
    "Guided",
    "LossFn",
    "Optimizer",
    "PartialUniform",
    "RandomSubspace",
    "ResidualFn",
    "SNRWeighted",
    "SensitiveDirections",
    "Stratified",
    "SubspaceGradient",
    "Timesteps",
    "Uniform",
    "ZOAdam",
    "average",
    "gauss_newton",
    "guided",
    "one_point",
    "random_directions",
    "rge",
    "sensitive_directions",
    "spsa",
]
