"""What happens to one submission inside the sandbox: run its cells, judge its answers, report each mark as it is known.

Cells run in the order of the notebook, each with a time limit of its own; a cell that fails costs only what depends on it.
A check cell is not run, whatever is written in it: at its place (or at the end, where it was deleted) the exercise is
judged by this package's checks. So edited, renamed and deleted check cells change nothing.

The student's code and the checks share a process, so a determined student could change the checks. As a tripwire, at the
end a right and a wrong answer are judged: if the right one no longer passes or the wrong one does, `tampered` is reported,
and the marks are held back for a look.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import nbformat
import numpy as np
import torch
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from .judging import TimeLimit, Verdict, judge, missing, time_limit
from .model import Assignment, Exercise, Student, normal_id
from .session import Session

_CHECK = "check-"


@dataclass(frozen=True)
class Task:
    """What the sandbox is given.

    also: other ids that are the student's; an empty student id accepts whatever is typed.
    only: names of the exercises to judge, None for all.
    skip: cells (by index) not to run and exercises (by name) not to judge, since they ended the process before.
    """

    assignment: Assignment
    student: Student
    cells: list[tuple[str, str]]  # (grade_id, source) of each code cell
    fresh: str
    only: tuple[str, ...] | None = None
    also: tuple[str, ...] = ()
    skip: frozenset[int | str] = frozenset()
    cell_seconds: float = 60.0


def code_cells(book: nbformat.NotebookNode) -> list[tuple[str, str]]:
    """The code cells of a notebook as (grade_id, source); the id is empty where there is none."""
    return [
        (str(cell.metadata.get("nbgrader", {}).get("grade_id", "")), cell.source)
        for cell in book.cells
        if cell.cell_type == "code"
    ]


def run(task: Task, send: Callable[[dict[str, Any]], None]) -> None:
    """Run the cells and judge the answers; sends {"at": ...}, {"item": ...}, {"trouble": ...} and at last {"done": True}."""
    wanted = {
        item.name: item
        for item in task.assignment.exercises
        if (task.only is None or item.name in task.only) and item.name not in task.skip
    }
    shell = _shell()
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(0)
    for index, (grade_id, source) in enumerate(task.cells):
        if grade_id.startswith(_CHECK):
            name = grade_id.removeprefix(_CHECK)
            if name in wanted:
                _judge(wanted.pop(name), shell.user_ns, task, send)
            continue
        if index in task.skip or not source.strip():
            continue
        send({"at": index})
        trouble = _run_cell(shell, source, task.cell_seconds)
        if trouble:
            send({"trouble": trouble, "cell": index})
    for exercise in wanted.values():
        _judge(exercise, shell.user_ns, task, send)
    typed = _typed(shell.user_ns)
    if typed and typed != _owner(shell.user_ns, task):
        send({"typed": typed.id})
    send({"tampered": _tampered(task)})
    send({"done": True})


def _shell() -> Any:
    """IPython as a notebook has it, without history files and with plain output."""
    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "nocolor"
    config.InteractiveShell.xmode = "Minimal"
    shell = InteractiveShell(config=config)
    shell.user_ns["get_ipython"] = lambda: shell
    return shell


def _run_cell(shell: Any, source: str, seconds: float) -> str:
    """Run one cell; returns what went wrong, in words, or nothing."""
    try:
        with time_limit(seconds):
            result = shell.run_cell(source, store_history=False)
    except TimeLimit:
        return f"took longer than {seconds:g} s and was stopped"
    error = result.error_before_exec or result.error_in_exec
    if error is None:
        return ""
    if isinstance(error, TimeLimit):
        return f"took longer than {seconds:g} s and was stopped"
    first = str(error).splitlines()[0] if str(error) else ""
    return f"raised {type(error).__name__}: {first[:300]}".rstrip(": ")


def _judge(exercise: Exercise, names: dict[str, Any], task: Task, send: Callable[[dict[str, Any]], None]) -> None:
    send({"at": exercise.name})
    if exercise.name in names:
        verdicts = judge(exercise, names[exercise.name], _owner(names, task), fresh=task.fresh)
        verdicts = _with_owner(exercise, names, task, verdicts)
    else:
        verdicts = missing(exercise)
    for verdict in verdicts:
        item = f"{exercise.name}.{verdict.check.name}"
        score = verdict.check.points if verdict.passed else 0.0
        send({"item": item, "score": score, "says": verdict.says, "mistake": verdict.mistake})


def _typed(names: dict[str, Any]) -> Student | None:
    """Whom the notebook says it is by."""
    session = names.get("me")
    return session.student if isinstance(session, Session) else None


def _owner(names: dict[str, Any], task: Task) -> Student:
    """Whose numbers count: the student's, under the spelling of the id that the notebook has, if it is one of theirs."""
    typed = _typed(names)
    theirs = (normal_id(task.student.id), *task.also)
    if typed and (not task.student.id or normal_id(typed.id) in theirs):
        return Student(typed.id, task.student.variant)
    return task.student


def _with_owner(exercise: Exercise, names: dict[str, Any], task: Task, verdicts: list[Verdict]) -> list[Verdict]:
    """If the answer is right for the id typed into the notebook, which is not the student's, say so."""
    typed = _typed(names)
    if not exercise.numbers or typed is None or all(verdict.passed for verdict in verdicts):
        return verdicts
    others = judge(exercise, names[exercise.name], typed, fresh=task.fresh)
    says = (
        f"right for the numbers of {typed.id!r}, the id written into this notebook; it was handed in by "
        f"{task.student.id!r}, whose numbers are others."
    )
    return [
        replace(mine, says=says, mistake="another student's numbers") if other.passed and not mine.passed else mine
        for mine, other in zip(verdicts, others, strict=True)
    ]


def _tampered(task: Task) -> bool:
    """Whether judging no longer tells right from wrong."""
    try:
        exercise = next(item for item in task.assignment.exercises if item.mistakes)
        numbers = task.student.numbers(exercise)
        right = judge(exercise, exercise.answer(exercise.solution, numbers), task.student, fresh=task.fresh)
        mistake = exercise.mistakes[0]
        wrong = judge(exercise, exercise.answer(mistake.answer, numbers), task.student, fresh=task.fresh, guarded=False)
        first = next((verdict for verdict in wrong if not verdict.passed), None)
        return not all(verdict.passed for verdict in right) or first is None or first.mistake != mistake.name
    except Exception:
        return True
