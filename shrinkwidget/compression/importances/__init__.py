"""The importances there are: which weights are pruned first. A module a kind."""

from .batchnorm_scale import BatchNormScale
from .magnitude import Magnitude
from .random import Random
from .taylor import Taylor
from .wanda import Wanda

__all__ = ["BatchNormScale", "Magnitude", "Random", "Taylor", "Wanda"]
