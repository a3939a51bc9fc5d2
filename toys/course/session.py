"""What a student's notebook calls: `me = start("a1", student="ada")`, `me.numbers(...)`, `me.check(...)`."""

import os
import sys
from typing import Any

from .catalogue import load
from .judging import Verdict, judge, missing
from .model import Assignment, Exercise, NotYet, Student


def grading() -> bool:
    """Whether checks raise: nbgrader sets NBGRADER_EXECUTION while it grades and validates."""
    return bool(os.environ.get("NBGRADER_EXECUTION") or os.environ.get("APO_EDU_GRADING"))


class Session:
    """A student at work on one assignment."""

    def __init__(self, assignment: Assignment, student: Student):
        self.assignment, self.student = assignment, student

    def numbers(self, exercise: str) -> dict[str, Any]:
        """Your own numbers for an exercise. They follow from your student id, and the checks know them."""
        return self.student.numbers(self._exercise(exercise))

    def check(self, exercise: str, *, fresh: bool = False) -> float | None:
        """Check what you defined under this name, and say what is right and what is not yet.

        While you work it only prints. Under grading it raises if nothing is right, and returns the points otherwise.
        `fresh` tries other random cases.
        """
        item = self._exercise(exercise)
        names = sys._getframe(1).f_globals
        return check(item, names.get(exercise, _NOTHING), student=self.student, fresh=fresh)

    def reveal(self, prediction: str) -> None:
        """Compare your prediction with what happens, and say why each other choice was wrong."""
        item = self._exercise(prediction)
        names = sys._getframe(1).f_globals
        said = names.get(prediction)
        if not isinstance(said, str) or said not in item.choices:
            print(
                f"Predict first: set {prediction} to one of {', '.join(map(repr, item.choices))}, then run this cell again."
            )
            return
        right = item.answer(item.solution, self.student.numbers(item))
        print(f"You said {said!r}; {'right' if said == right else f'it is {right!r}'}. {item.choices[said]}")
        if said != right:
            print(item.choices[right])

    def _exercise(self, name: str) -> Exercise:
        item = self.assignment[name]
        if not isinstance(item, Exercise):
            raise ValueError(f"{name!r} is a written question; expected a checked exercise. It is marked by hand.")
        return item


_NOTHING = object()


def start(assignment: str, student: str, variant: str = "") -> Session:
    """Begin: from the assignment's name and your student id to what gives you your numbers and checks your answers."""
    if not student.strip():
        print(
            'Write your student id into start(..., student="..."): your numbers follow from it. Until then: "nobody".'
        )
    return Session(load(assignment), Student(student.strip() or "nobody", variant))


def check(exercise: Exercise, answer: Any, *, student: Student | None = None, fresh: bool = False) -> float | None:
    """Check one answer and print what is right and what is not yet; see `Session.check`. The lessons call this one."""
    seed = os.environ.get("APO_EDU_GRADE_SEED", "fresh") if fresh else ""
    student = student or Student("nobody")
    verdicts = missing(exercise) if answer is _NOTHING else judge(exercise, answer, student, fresh=seed)
    text = report(exercise, verdicts)
    if exercise.together and not grading() and not all(verdict.passed for verdict in verdicts):
        said = exercise.together(answer)
        text = f"{exercise.name}: not yet: {said}" if said else text
    points = sum(verdict.check.points for verdict in verdicts if verdict.passed)
    if not grading():
        print(text)
        return None
    if points == 0:
        raise NotYet(text)
    print(text)
    return points


def report(exercise: Exercise, verdicts: list[Verdict]) -> str:
    """The points and the verdicts in words."""
    points = sum(verdict.check.points for verdict in verdicts if verdict.passed)
    return "\n".join([f"{exercise.name}: {points:g} of {exercise.points:g} points", *outcomes(verdicts)])


def outcomes(verdicts: list[Verdict]) -> list[str]:
    """One line a check; a diagnosis that several checks share is said once."""
    lines, said = [], ""
    for verdict in verdicts:
        if verdict.passed:
            lines.append(f"  ok       {verdict.check.title}")
        elif verdict.says == said:
            lines.append(f"  not yet  {verdict.check.title}: the same")
        else:
            lines.append(f"  not yet: {verdict.check.title}: {verdict.says}")
            said = verdict.says
    return lines
