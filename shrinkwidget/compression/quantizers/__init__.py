"""The quantizers there are: what the values of weights may be. A module a kind."""

from .kmeans import KMeans
from .nf4_and_tables import NF4, Table
from .uniform import Uniform

__all__ = ["NF4", "KMeans", "Table", "Uniform"]
