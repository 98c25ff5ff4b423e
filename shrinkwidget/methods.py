"""What recipes and trainings are made of, and how to add to it: ``sw.methods.KMeans()``, ``@sw.methods.register``."""

from __future__ import annotations

from .kinds import Choice, Importance, Number, Quantizer, register, setting
from .learn.methods import FineTune, GradualPruning, ReestimateNorms, RewindLearningRate, RewindWeights
from .learn.options import Distil, Training
from .learn.schedule import Schedule
from .shrink.importances import Magnitude, Random
from .shrink.quantizers import KMeans, Uniform
from .shrink.structures import NM, Unstructured
from .teach.strategies import FineTuneAll, Gradual, Head, LowRank
from .train.metrics import Metric

__all__ = [
    "NM",
    "Choice",
    "Distil",
    "FineTune",
    "FineTuneAll",
    "Gradual",
    "GradualPruning",
    "Head",
    "Importance",
    "KMeans",
    "LowRank",
    "Magnitude",
    "Metric",
    "Number",
    "Quantizer",
    "Random",
    "ReestimateNorms",
    "RewindLearningRate",
    "RewindWeights",
    "Schedule",
    "Training",
    "Uniform",
    "Unstructured",
    "register",
    "setting",
]
