"""Exercises and their checks: whether an answer is right, computed, and what is off about one that is not."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from torch import Tensor

from .. import demo
from ..argument_checks import public
from ..compressed_model import CompressedModel
from ..errors import ArgumentError, ShrinkError, a_type, nearest, quoted
from ..evaluation.evaluate_and_metrics import evaluate

Judgement: TypeAlias = tuple[bool, str]
"""Whether an answer is right, and a sentence about it."""


@dataclass(frozen=True, slots=True)
class Exercise:
    """One exercise: its number, what an answer looks like, in words, and what judges one."""

    number: str
    expects: str
    judge: Callable[[Any], Judgement]


_EXERCISES: Final[dict[str, Exercise]] = {}


class NoAnswer(Exception):
    """Something that cannot be an answer; says what was found."""


def exercise(number: str, expects: str) -> Callable[[Callable[[Any], Judgement]], Callable[[Any], Judgement]]:
    """Decorate a function that judges answers to an exercise; it raises `NoAnswer` for what cannot be one."""

    def register(judge: Callable[[Any], Judgement]) -> Callable[[Any], Judgement]:
        _EXERCISES[number] = Exercise(number, expects, judge)
        return judge

    return register


@dataclass(frozen=True, slots=True)
class Verdict:
    """What `check` says of an answer; true if it is right, so that it can stand behind ``assert``.

    Args:
        exercise: its number.
        passed: whether the answer is right.
        message: what is right about it, or what is off.
    """

    exercise: str
    passed: bool
    message: str

    def __bool__(self) -> bool:
        return self.passed

    def __repr__(self) -> str:
        return f"{'✓' if self.passed else '✗'} {self.exercise}: {self.message}"

    def _repr_html_(self) -> str:
        color = "#00795c" if self.passed else "#b34a00"  # 4.5:1 on white, and told apart by the sign as well
        return (
            f'<div style="border-left: 4px solid {color}; padding: 0.2em 0.8em">'
            f"<b>{'✓' if self.passed else '✗'} {self.exercise}</b> {html.escape(self.message)}</div>"
        )


@public()
def check(exercise: str, answer: object) -> Verdict:
    """Say whether an answer is right and, if not, what is off; never what the right one would be.

    Nothing an answer can be is an error: of nonsense it says what was expected. So it can grade answers of a whole
    class without a widget or a person beside it: ``assert sw.workshop.check("2.1", mask)``.

    Args:
        exercise: the number of the exercise, as in ``"2.1"``.
        answer: the learner's; None and ``...`` are none yet.

    Raises:
        ArgumentError: for a number that no exercise has.

    Example:
        >>> import shrinkwidget as sw
        >>> weights = sw.workshop.matrix()
        >>> sw.workshop.check("2.1", weights.abs() > 0.5)
        ✗ 2.1: 13 of the 25 weights are kept, and not 15: 40 % of 25 are pruned
    """
    found = _EXERCISES.get(str(exercise))
    if found is None:
        known = ", ".join(_numbers())
        raise ArgumentError(
            f"there is no exercise {quoted(exercise)}{nearest(str(exercise), _EXERCISES)} The exercises: {known}"
        )
    if answer is None or answer is Ellipsis:
        return Verdict(found.number, False, "no answer yet")
    try:
        passed, message = found.judge(answer)
    except NoAnswer as error:
        return Verdict(found.number, False, f"expected {found.expects}, found {error}")
    except ShrinkError as error:  # a recipe that cannot be, a model that does not run: it says why
        return Verdict(found.number, False, str(error))
    return Verdict(found.number, passed, message)


@dataclass(frozen=True, slots=True)
class Grades:
    """The verdicts on a learner's answers, one for every exercise that was asked for."""

    verdicts: tuple[Verdict, ...]

    @property
    def passed(self) -> int:
        """How many answers are right."""
        return sum(verdict.passed for verdict in self.verdicts)

    def __repr__(self) -> str:
        lines = (repr(verdict) for verdict in self.verdicts)
        return "\n".join([f"{self.passed} of {len(self.verdicts)} right", *lines])


@public()
def grade(answers: Mapping[str, object], lesson: int | None = None) -> Grades:
    """Check many answers at once, by the numbers of their exercises; what is missing counts as not answered.

    Args:
        answers: by exercise, such as ``{"2.1": mask}``.
        lesson: grade all exercises of this lesson; None for those of every lesson that has an answer.

    Raises:
        ArgumentError: for a number that no exercise has.

    Example:
        >>> import shrinkwidget as sw
        >>> grades = sw.workshop.grade({"2.2": (2, 4)}, lesson=2)
        >>> grades.passed, len(grades.verdicts)
        (1, 8)
    """
    given = {str(number): answer for number, answer in answers.items()}
    of_lessons = {number.partition(".")[0] for number in given} if lesson is None else {str(lesson)}
    lessons = {number.partition(".")[0] for number in _EXERCISES}
    if lesson is not None and str(lesson) not in lessons:
        raise ArgumentError(f"lesson {lesson} has no exercises: take one of {', '.join(sorted(lessons))}")
    numbers = [number for number in _numbers() if number.partition(".")[0] in of_lessons]
    unknown = [number for number in given if number not in _EXERCISES]
    return Grades(tuple(check(number, given.get(number)) for number in [*unknown, *numbers]))


def _numbers() -> list[str]:
    return sorted(_EXERCISES, key=lambda number: [int(part) for part in number.split(".")])


def within_target(small: CompressedModel, most_bytes: int, least_right: int, hints: tuple[str, str]) -> Judgement:
    """Judge a model by the bytes of its file and by its accuracy on the demo's validation images, both measured.

    `hints` are what is said where it reads too few images: within the bytes, and beyond them.
    """
    score = evaluate(small, demo.data("valid"))
    right = round(score.value * score.n)
    told = f"{small.nbytes:,} bytes, and {right} of {score.n} images right"
    too_many, missing = small.nbytes - most_bytes, least_right - right
    if too_many > 0 and missing > 0:
        return False, f"{told}: neither is there yet. {hints[1]}".rstrip()
    if too_many > 0:
        return False, f"{told}: {too_many:,} bytes too many"
    if missing > 0:
        return False, f"{told}: small enough, but {missing} images short. {hints[0]}".rstrip()
    return True, f"{told}: within {most_bytes:,} bytes, and at least {least_right}"


# ---- what an answer may be given as ----


def as_tensor(answer: object, shape: tuple[int, ...]) -> Tensor:
    """Return an answer that is a tensor, an array or a list of numbers, as a float64 tensor of this shape."""
    try:
        found = torch.as_tensor(np.asarray(answer.detach().cpu() if isinstance(answer, Tensor) else answer))
        if found.dtype.is_complex:
            raise TypeError
        found = found.double()
    except (TypeError, ValueError, RuntimeError):
        raise NoAnswer(a_type(answer)) from None
    if tuple(found.shape) != shape:
        raise NoAnswer(f"one of shape {list(found.shape)}")
    return found


def as_number(answer: object) -> float:
    """Return an answer that is one finite number."""
    try:
        if isinstance(answer, bool | str | bytes):
            raise TypeError
        found = float(answer)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):
        raise NoAnswer(a_type(answer)) from None
    if not np.isfinite(found):
        raise NoAnswer(str(found))
    return found
