"""The quantizers there are: what the values of weights may be. A module a kind."""

from .kmeans import KMeans
from .uniform import Uniform

__all__ = ["KMeans", "Uniform"]
