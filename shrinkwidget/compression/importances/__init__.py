"""The importances there are: which weights are pruned first. A module a kind."""

from .magnitude import Magnitude
from .random import Random
from .wanda import Wanda

__all__ = ["Magnitude", "Random", "Wanda"]
