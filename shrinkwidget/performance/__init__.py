"""What a model takes where it runs: which devices it fits, how fast it is, what memory and energy it needs.

``sw.fits`` and ``sw.race`` stand at the top; what is wanted less often is here.
"""

from .energy_theory import energy_in_theory
from .measure_memory_of_models import memory

__all__ = ["energy_in_theory", "memory"]
