"""The importances there are: which weights are pruned first. A module a kind."""

from .magnitude import Magnitude
from .random import Random

__all__ = ["Magnitude", "Random"]
