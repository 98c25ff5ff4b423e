"""What recipes and trainings are made of, and how to add to it: ``sw.methods.KMeans()``, ``@sw.methods.register``."""

from __future__ import annotations

from .compression.importances import BatchNormScale, Magnitude, Random, Taylor, Wanda
from .compression.quantizers import NF4, KMeans, Table, Uniform
from .compression.unstructured_and_nm_sparsity import NM, Unstructured
from .evaluation.evaluate_and_metrics import Metric
from .recipe_and_method_registry import Choice, Importance, Number, Quantizer, Structure, register, setting
from .training.methods_schedule_options_and_progress import (
    Distillation,
    FineTune,
    GradualPruning,
    LearningRateRewinding,
    RecalibrateBatchNorm,
    Schedule,
    TrainingOptions,
    WeightRewinding,
)
from .transfer_learning.transfer_strategies_and_lora import FullFineTune, GradualUnfreezing, LinearProbe, LoRA

__all__ = [
    "NF4",
    "NM",
    "BatchNormScale",
    "Choice",
    "Distillation",
    "FineTune",
    "FullFineTune",
    "GradualPruning",
    "GradualUnfreezing",
    "Importance",
    "KMeans",
    "LearningRateRewinding",
    "LinearProbe",
    "LoRA",
    "Magnitude",
    "Metric",
    "Number",
    "Quantizer",
    "Random",
    "RecalibrateBatchNorm",
    "Schedule",
    "Structure",
    "Table",
    "Taylor",
    "TrainingOptions",
    "Uniform",
    "Unstructured",
    "Wanda",
    "WeightRewinding",
    "register",
    "setting",
]
