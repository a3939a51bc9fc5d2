"""Grade one submission or many: from notebooks to marks in the shape of Gradescope's results.json.

`grade_all` yields one `Result` for each submission, also for those that crash, hang or are no notebook. `Result.json()` has
Gradescope's keys (`tests` with name, score, max_score, output, visibility); all other faces (pytest, HTML, CSV) read that.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import nbformat

from . import runner
from .model import Assignment, Exercise, Student, Written, normal_id
from .notebook import TEXT_STUB
from .sandbox import Ending, Limits, run_isolated

RETRIES = 2  # times that a submission is run again without the cell or exercise that ended its process


@dataclass(frozen=True)
class Submission:
    """One student's notebook: whose it is, where it lies, and what else is known of the student."""

    student: str
    path: Path | None
    email: str = ""
    name: str = ""
    also: tuple[str, ...] = ()  # other ids under which the student may have worked, e.g. the name in the roster
    note: str = ""


@dataclass
class Item:
    """One mark. `score` is None for a written answer that nobody has marked yet."""

    name: str
    title: str
    max_score: float
    score: float | None
    output: str = ""
    mistake: str = ""
    answer: str = ""  # the student's text, for written answers

    @property
    def exercise(self) -> str:
        """The exercise it belongs to."""
        return self.name.split(".")[0]


@dataclass
class Result:
    """The marks of one submission, and what there is to be said about it as a whole."""

    submission: Submission
    assignment: str
    items: list[Item]
    notes: list[str] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    isolation: dict[str, bool] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def score(self) -> float:
        """Points so far; what is not marked yet counts as nothing."""
        return sum(item.score or 0.0 for item in self.items)

    @property
    def max_score(self) -> float:
        """Full marks."""
        return sum(item.max_score for item in self.items)

    def json(self) -> dict[str, Any]:
        """Gradescope's results.json; what other tools need beside it is under extra_data."""
        tests = [
            {
                "name": item.name,
                "score": item.score or 0.0,
                "max_score": item.max_score,
                "output": item.output,
                "visibility": "visible",
                "extra_data": {
                    "title": item.title,
                    "mistake": item.mistake,
                    "by_hand": item.score is None,
                    "answer": item.answer,
                },
            }
            for item in self.items
        ]
        extra = {
            "assignment": self.assignment,
            "student": self.submission.student,
            "email": self.submission.email,
            "name": self.submission.name,
            "notes": self.notes,
            "troubles": self.troubles,
            "isolation": self.isolation,
            "seconds": round(self.seconds, 2),
        }
        output = "\n".join([*self.notes, *self.troubles])
        return {"tests": tests, "output": output, "visibility": "visible", "extra_data": extra}


def from_json(data: dict[str, Any], path: Path | None = None) -> Result:
    """The inverse of `Result.json`, e.g. to regrade one exercise and keep the rest."""
    extra = data["extra_data"]
    items = [
        Item(
            test["name"],
            test["extra_data"]["title"],
            test["max_score"],
            None if test["extra_data"]["by_hand"] else test["score"],
            test["output"],
            test["extra_data"]["mistake"],
            test["extra_data"]["answer"],
        )
        for test in data["tests"]
    ]
    submission = Submission(extra["student"], path, extra["email"], extra["name"])
    return Result(
        submission, extra["assignment"], items, extra["notes"], extra["troubles"], extra["isolation"], extra["seconds"]
    )


def grade(assignment: Assignment, submission: Submission, **options: Any) -> Result:
    """Grade one submission; options as for `grade_all`."""
    return next(iter(grade_all(assignment, [submission], **options)))


def grade_all(
    assignment: Assignment,
    submissions: Iterable[Submission],
    *,
    variant: str = "",
    seed: str = "",
    only: tuple[str, ...] | None = None,
    limits: Limits | None = None,
    cell_seconds: float | None = None,
    workers: int = 2,
) -> Iterator[Result]:
    """Grade submissions, each in a process of its own; yields them as they are done.

    Args:
        variant: the course's variant, from which with the student's id all numbers follow.
        seed: of the random cases; equal seeds give equal marks.
        only: judge these exercises only; the others are left out of the result.
        limits, cell_seconds, workers: what each may use, processor time of one cell (None: a quarter of the assignment's),
            how many run at once.
    """
    limits = limits or Limits(seconds=assignment.seconds)
    cell_seconds = cell_seconds or assignment.seconds / 4
    drafts: dict[int, _Draft] = {}
    queue: list[tuple[int, runner.Task]] = []
    for index, submission in enumerate(submissions):
        drafts[index] = draft = _Draft(assignment, submission, only)
        if draft.book is None:
            yield draft.result()
            continue
        student = Student(submission.student, variant)
        cells = runner.code_cells(draft.book)
        also = tuple(normal_id(other) for other in (submission.email, submission.name, *submission.also) if other)
        task = runner.Task(assignment, student, cells, f"grade/{seed}", only, also=also, cell_seconds=cell_seconds)
        queue.append((index, task))
    attempts = 0
    while queue:
        tasks = dict(queue)
        jobs = [(index, _Work(task)) for index, task in queue]
        queue = []
        for index, ending in run_isolated(jobs, limits=limits, workers=workers):
            draft = drafts[index]
            draft.take(ending)
            again = draft.retry(ending, tasks[index]) if attempts < RETRIES else None
            if again is None:
                draft.close(ending)
                yield draft.result()
            else:
                queue.append((index, again))
        attempts += 1


@dataclass(frozen=True)
class _Work:
    task: runner.Task

    def __call__(self, send: Any) -> None:
        runner.run(self.task, send)


class _Draft:
    """The result of one submission while its messages come in."""

    def __init__(self, assignment: Assignment, submission: Submission, only: tuple[str, ...] | None):
        self.assignment, self.submission = assignment, submission
        self.notes: list[str] = [submission.note] if submission.note else []
        self.troubles: dict[int, str] = {}
        self.marks: dict[str, dict[str, Any]] = {}
        self.isolation: dict[str, bool] = {}
        self.seconds, self.only = 0.0, only
        self.at: int | str | None = None
        self.book = self._read()

    def _read(self) -> nbformat.NotebookNode | None:
        path = self.submission.path
        if path is None:
            self.notes.append("No notebook was handed in.")
            return None
        try:
            book = nbformat.read(path, as_version=4)
            runner.code_cells(book)
            return book
        except Exception as error:
            self.notes.append(
                f"{path.name} is no notebook that can be read ({type(error).__name__}). Hand in the .ipynb file itself."
            )
            return None

    def take(self, ending: Ending) -> None:
        """Note what a run said and what it was at when it ended."""
        self.notes = self.notes[: bool(self.submission.note)]  # of this run, not of the one before
        self.seconds += ending.seconds
        self.at = None
        for message in ending.messages:
            self.at = message.get("at", self.at)
            self._note(message)

    def retry(self, ending: Ending, task: runner.Task) -> runner.Task | None:
        """The task without the cell or exercise that ended the process, where there is one to be left out."""
        if ending.why is None or self.at is None or self.at in task.skip:
            return None
        if isinstance(self.at, int):
            self.troubles[self.at] = (
                f"Code cell {self.at + 1}: {ending.why}. It was left out, and the rest was run again."
            )
        else:
            exercise = next(item for item in self.assignment.exercises if item.name == self.at)
            for check in exercise.checks:
                says = f"judging it did not come to its end: {ending.why}."
                self.marks[f"{exercise.name}.{check.name}"] = {
                    "score": 0.0,
                    "says": says,
                    "mistake": "ended the process",
                }
        return replace(task, skip=task.skip | {self.at})

    def _cell(self, index: int) -> str:
        """A code cell's number and how it begins."""
        source = runner.code_cells(self.book)[index][1].strip() if self.book else ""
        return f"Code cell {index + 1} (`{source.splitlines()[0][:60] if source else ''}`)"

    def _note(self, message: dict[str, Any]) -> None:
        if "item" in message:
            self.marks[message["item"]] = message
        elif "trouble" in message:
            self.troubles[message["cell"]] = f"{self._cell(message['cell'])} {message['trouble']}."
        elif "isolation" in message:
            self.isolation = message["isolation"]
        elif "typed" in message:
            self.notes.append(
                f"The notebook says that it is by {message['typed']!r}, but it was handed in by {self.submission.student!r}, "
                f"whose numbers were used."
            )
        elif message.get("tampered"):
            self.notes.append(HELD_BACK)

    def close(self, ending: Ending) -> None:
        """Note how the last run ended."""
        if ending.why:
            self.notes.append(
                f"The submission was not run to its end: {ending.why}. What was judged until then counts."
            )

    def result(self) -> Result:
        """All items of the assignment, with what is known of each."""
        held = HELD_BACK in self.notes
        items = []
        for part in self.assignment.items:
            if isinstance(part, Written):
                items.append(self._written(part))
            elif self.only is None or part.name in self.only:
                items += [self._item(part, check, held) for check in part.checks]
        troubles = [self.troubles[index] for index in sorted(self.troubles)]
        return Result(self.submission, self.assignment.name, items, self.notes, troubles, self.isolation, self.seconds)

    def _item(self, exercise: Exercise, check: Any, held: bool) -> Item:
        name = f"{exercise.name}.{check.name}"
        title = check.title
        mark = self.marks.get(name)
        if mark is None:
            why = self.notes[-1] if self.notes else "Not judged."
            return Item(name, title, check.points, 0.0, why, "not judged")
        if held:
            return Item(name, title, check.points, 0.0, HELD_BACK, "held back")
        output = "" if mark["score"] else f"Not yet: {mark['says']}"
        return Item(name, title, check.points, mark["score"], output, mark["mistake"])

    def _written(self, part: Written) -> Item:
        text = _answer_text(self.book, part.name)
        if not text:
            return Item(part.name, part.title, part.points, 0.0, "No answer.", "no answer")
        return Item(part.name, part.title, part.points, None, "Marked by hand.", "", text)


HELD_BACK = (
    "Held back: after this notebook ran, the checks no longer told right from wrong. It changes torch, apo_edu or the checks "
    "themselves; somebody has to look at it."
)


def _answer_text(book: nbformat.NotebookNode | None, name: str) -> str:
    """A written answer, without the stub."""
    for cell in book.cells if book else []:
        if cell.metadata.get("nbgrader", {}).get("grade_id") == name:
            text = cell.source.replace(TEXT_STUB, "").strip()
            return str(text)
    return ""


def save(result: Result, path: Path) -> None:
    """Write a result as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result.json(), indent=1), encoding="utf-8")
