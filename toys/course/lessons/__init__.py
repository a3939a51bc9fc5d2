"""The lessons' "write it" exercises: three to ten lines to write, a check that says which mistake it sees.

A lesson has three cells for each: `task("01.renyi")`, the student's `def renyi(...)` with `...` for a body, and
`check("01.renyi", renyi)`.

To add one, write a `WriteIt` into `lesson_NN.py` (lesson_01.py shows how; a new file is found by its name) and list it
in `exercises` there. Its `solution` is what is shown, folded; `referee` is the library's function, or nothing; `checks`,
`mistakes` (ten or more) and cases are those of an assignment's exercise, see `toys.course`. The assignments' exercises
must not be among them: here the solution is shown. Then put the three cells into the notebook, save it executed with the
stub, and run `pytest tests/test_course_lessons.py`.
"""

import importlib
import inspect
import textwrap
from pathlib import Path
from typing import Any

from IPython.display import Markdown

from ..judging import Verdict, judge
from ..model import Student
from ..notebook import DIFFICULTY, reference
from ..session import outcomes
from .write_it import WriteIt

__all__ = ["WriteIt", "check", "lessons", "load", "task"]


def lessons() -> list[str]:
    """The lessons that have exercises, "01" first."""
    return sorted(path.stem.removeprefix("lesson_") for path in Path(__file__).parent.glob("lesson_*.py"))


def load(lesson: str) -> dict[str, WriteIt]:
    """A lesson's exercises by their keys, "01.renyi"."""
    if lesson not in lessons():
        raise ValueError(f"lesson is {lesson!r}; expected one of {', '.join(lessons())}.")
    module = importlib.import_module(f"{__name__}.lesson_{lesson}")
    return {f"{lesson}.{exercise.name}": exercise for exercise in module.exercises}


def task(key: str) -> Markdown:
    """What is to be written, with its difficulty and its minutes; hint and solution are folded."""
    exercise = _exercise(key)
    facts = f"*{DIFFICULTY[exercise.difficulty]}, {exercise.minutes} minutes*"
    text = textwrap.dedent(exercise.text).strip()
    success = "It is right when these are:\n\n" + "\n".join(f"- {check.title}" for check in exercise.checks)
    hint = _folded("Hint", textwrap.dedent(exercise.hint).strip())
    solution = _folded("Solution", f"```python\n{reference(exercise).strip()}\n```")
    return Markdown("\n\n".join((f"**Write it: {exercise.title}**", facts, text, success, hint, solution)))


def check(key: str, answer: Any) -> None:
    """Say whether an answer is right and, if it is not yet, what is missing. Never raises for a wrong one."""
    print(verdict(_exercise(key), answer))


def verdict(exercise: WriteIt, answer: Any) -> str:
    """What `check` says."""
    name = exercise.name
    if answer is None or answer is Ellipsis:
        return f"not yet: write {name} in the cell above, run that cell, then this one."
    if not callable(answer):
        return f"not yet: {name} is {_kind(answer)}; expected a function, def {name}{_signature(exercise)}."
    verdicts = judge(exercise, answer, Student("lesson"))
    if all(one.passed for one in verdicts):
        return f"right: {name} passes {_count(verdicts)}. {exercise.after}"
    if all(one.mistake == "not done" for one in verdicts):
        return f"not yet: write {name} in the cell above, run that cell, then this one. So far it returns nothing."
    if not any(one.passed for one in verdicts) and len({one.says for one in verdicts}) == 1:
        return f"not yet: {verdicts[0].says}"
    return "\n".join(line.strip() for line in outcomes(verdicts))


def _exercise(key: str) -> WriteIt:
    exercises = load(key.partition(".")[0])
    if key not in exercises:
        raise ValueError(f"the exercise is {key!r}; expected one of {', '.join(exercises)}.")
    return exercises[key]


def _folded(title: str, text: str) -> str:
    """Markdown behind a click; the empty lines let Markdown be Markdown inside HTML."""
    return f"<details><summary>{title}</summary>\n\n{text}\n\n</details>"


def _signature(exercise: WriteIt) -> str:
    return f"({', '.join(inspect.signature(exercise.solution).parameters)})"


def _kind(answer: Any) -> str:
    return f"{answer!r}" if isinstance(answer, int | float | str) else f"a {type(answer).__name__}"


def _count(verdicts: list[Verdict]) -> str:
    return "the check" if len(verdicts) == 1 else f"all {len(verdicts)} checks"
