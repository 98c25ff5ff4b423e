"""What functions return, for annotations and ``isinstance``: ``sw.results.Estimate``."""

from __future__ import annotations

from .analysis.channel_families_and_counts import ChannelFamily, Channels, FixedWidth
from .analysis.estimate_class_and_packed_file_header import Estimate
from .analysis.estimator_summary import EstimatorSummary
from .analysis.model_summary import ModelSummary
from .analysis.sketch import Sketch
from .compressed_model import CompressedModel
from .evaluation.compare_predictions import PredictionComparison
from .evaluation.evaluate_and_metrics import Score
from .evaluation.sensitivity import Sensitivity, SensitivityRun
from .exports import Exported
from .performance.device_fit import Device, DeviceFit
from .performance.energy_theory import EnergyRatio
from .performance.measure_memory_of_models import Memory
from .performance.race import Race, RaceRun
from .planning.budget_plan_and_reasons import BudgetPlan
from .planning.frontier_of_several_budgets import Frontier, FrontierRun
from .planning.plan import PlanRun
from .sweeps.run_sweep_point import SweepPoint
from .sweeps.sweep import Sweep, SweepRun
from .training.retrain_and_training_run import TrainingRun
from .transfer_learning.transfer_result_and_training_cost import TransferResult

__all__ = [
    "BudgetPlan",
    "ChannelFamily",
    "Channels",
    "CompressedModel",
    "Device",
    "DeviceFit",
    "EnergyRatio",
    "Estimate",
    "EstimatorSummary",
    "Exported",
    "FixedWidth",
    "Frontier",
    "FrontierRun",
    "Memory",
    "ModelSummary",
    "PlanRun",
    "PredictionComparison",
    "Race",
    "RaceRun",
    "Score",
    "Sensitivity",
    "SensitivityRun",
    "Sketch",
    "Sweep",
    "SweepPoint",
    "SweepRun",
    "TrainingRun",
    "TransferResult",
]
