"""From a name such as "01.coins" to the question as a widget."""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from matplotlib.figure import Figure

from ..widgets.questions import Predict, SelfTest
from .keeping import keep


@dataclass(frozen=True)
class Question:
    """What a `Predict` asks: all of its arguments but the picture, which the notebook draws. See there."""

    question: str
    choices: Mapping[str, str] | tuple[float, float, float]
    answer: Any = field(kw_only=True)
    tolerance: float = field(default=0.0, kw_only=True)
    label: str = field(default="your answer", kw_only=True)
    explain: Mapping[str, str] | None = field(default=None, kw_only=True)
    alt: str = field(default="The result, with your answer drawn in.", kw_only=True)


def lessons() -> list[str]:
    """The lessons that have a file of questions: ["00", "01", ...]."""
    package = importlib.import_module(__package__)
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    return [name.removeprefix("lesson_") for name in names if name.startswith("lesson_")]


def _of_lesson(lesson: str):
    if lesson not in lessons():
        raise ValueError(
            f"no questions for lesson {lesson!r}; expected one of {', '.join(lessons())}. A lesson's questions are in "
            "toys/questions/lesson_NN.py."
        )
    return importlib.import_module(f"{__package__}.lesson_{lesson}")


def ask(name: str, *, reveal: Callable[[Any], Figure | bytes] | None = None) -> Predict:
    """The question "LESSON.NAME", to commit to before its result is shown; the answer is kept.

    Args:
        name: such as "01.coins": a lesson and one of its `QUESTIONS`.
        reveal: from the committed answer to a figure (or PNG bytes); None for none.

    Raises:
        ValueError: if there is no such lesson or question.
    """
    lesson, _, short = name.partition(".")
    questions = _of_lesson(lesson).QUESTIONS
    if short not in questions:
        near = get_close_matches(short, questions, n=1)
        raise ValueError(
            f"lesson {lesson} has no question {short!r}; expected one of {', '.join(questions)}."
            + (f" Did you mean {near[0]!r}?" if near else "")
        )
    return Predict(**vars(questions[short]), reveal=reveal, name=name, kept=keep)


def self_test(lesson: str) -> SelfTest:
    """The three questions at the end of a lesson, with fold-out explained answers.

    Raises:
        ValueError: if the lesson has no file of questions.
    """
    return SelfTest(_of_lesson(lesson).SELF_TEST)
