"""The importances there are: which weights are pruned first. A module a kind."""

from .magnitude import Magnitude
from .random import Random
from .taylor import Taylor
from .wanda import Wanda

__all__ = ["Magnitude", "Random", "Taylor", "Wanda"]
