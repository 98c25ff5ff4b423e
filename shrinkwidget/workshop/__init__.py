"""A workshop to teach and learn compression with: lessons as notebooks, and checks of a learner's answers.

``shrinkwidget workshop`` copies the lessons into a folder and opens JupyterLab there (`copy_lessons`). A lesson asks
`check`, which says whether an answer is right and what is off, and does not give it away.
"""

from __future__ import annotations

from . import lesson_4_getting_it_back, lesson_6_shipping  # noqa: F401  # a lesson's module registers its exercises
from .exercises import Grades, Verdict, check, grade
from .lesson_1_what_a_model_weighs import mlp
from .lesson_2_pruning import matrix
from .lesson_3_fewer_bits import row
from .lesson_5_transfer import thick_or_thin
from .lesson_files import Lesson, copy_lessons, lessons
from .own_digits import drawn, photographed

__all__ = [
    "Grades",
    "Lesson",
    "Verdict",
    "check",
    "copy_lessons",
    "drawn",
    "grade",
    "lessons",
    "matrix",
    "mlp",
    "photographed",
    "row",
    "thick_or_thin",
]
