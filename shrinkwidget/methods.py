"""Everything a recipe can be made of, and how to add to it: ``sw.methods.KMeans()``, ``@sw.methods.register``."""

from __future__ import annotations

from .kinds import Choice, Importance, Number, Quantizer, register, setting
from .shrink.importances import Magnitude, Random
from .shrink.quantizers import KMeans, Uniform
from .shrink.structures import NM, Unstructured

__all__ = [
    "NM",
    "Choice",
    "Importance",
    "KMeans",
    "Magnitude",
    "Number",
    "Quantizer",
    "Random",
    "Uniform",
    "Unstructured",
    "register",
    "setting",
]
