"""What an assignment is made of. One model; the notebooks, the checks, the marks and the feedback are generated from it.

    Assignment -> parts in reading order: Text, Code, Exercise, Written -> an Exercise's Checks and Mistakes

An `Exercise` is something a student defines under a fixed name: a function, a class, or a value. It is judged by *cases*:
the check's probe is applied to the student's answer and to the referee (the library's own function), and the two results
are compared relative to their magnitude. Each `Mistake` of it is a named wrong solution. They are run on the same cases, so
a wrong answer that agrees with one of them is told which mistake it is.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

Numbers = Mapping[str, Any]  # what differs between students: name -> value
Cases = Callable[[torch.Generator, Numbers], Sequence[tuple[Any, ...]]]


class NotYet(AssertionError):
    """Said by a probe whose answer is wrong: the message is the diagnosis."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One marked property of an answer.

    Args:
        name: part of the item's name, `exercise.check`.
        title: what is checked, as a student reads it.
        points: full marks; a check gives all or nothing.
        cases: from a generator and the student's numbers to the arguments of the probe, one tuple a case.
        probe: `probe(answer, *case)` returns what is compared with the referee's (numbers, tensors, strings, or a tuple or
            dict of them), or raises `NotYet(diagnosis)`, which is how a property without a referee is checked. Without a
            probe a function is called on the case, and a value is compared as it is.
        rtol: largest difference, relative to the largest entry of the expected value.
        floor: difference always allowed, for expected values that are zero up to rounding.
        noisy: a wrong value tells nothing here (it is rounding, or follows from another fault), so a mistake agrees with an
            answer if both are wrong.
        telling: False where many mistakes give the same value: agreement on this check alone then names none of them.
        hint: said when the answer is wrong and no named mistake explains it.
    """

    name: str
    title: str
    points: float
    cases: Cases
    probe: Callable[..., Any] | None = None
    rtol: float = 1e-6
    floor: float = 0.0
    noisy: bool = False
    telling: bool = True
    hint: str = ""


@dataclass(frozen=True)
class Mistake:
    """A named wrong solution: how it is called in the class summary, what is said about it, and the solution itself.

    `answer` is what a student would define: a function or class, or, for an exercise with `value`, a function of the
    student's numbers that returns the wrong value.
    """

    name: str
    says: str
    answer: Any


@dataclass(frozen=True, kw_only=True)
class Exercise:
    """Something to be defined under the name `name`, and how it is judged.

    Args:
        name: the variable that the student defines; also the cell's grade_id.
        title, text: heading and task (Markdown).
        minutes, difficulty: difficulty is 1, 2 or 3.
        solution: the reference, written as a good student would. Its source is the answer cell of the solution version;
            its signature and docstring are the stub of the student version. With `value`, a function of the numbers.
        checks, mistakes: see there. The mistakes are tried in this order.
        referee: what the answer is compared with, of the same kind as `solution`; the solution itself where None.
        numbers: from a generator to what differs between students.
        value: the student assigns a value, not a function.
        stub: the line of a value's answer cell in the student version; `NAME = None` where empty.
        library: functions of the closed packages that the answer may call; "all" for no restriction.
        closed: packages whose other functions the answer may not call: writing them is the point.
        seconds: time allowed for one check.
        choices: for a prediction, every choice and what is said about it afterwards.
        together: what is said while working in place of the verdicts where not all of them are right, from the answer, so
            that its parts cannot be guessed one by one; "" for the verdicts themselves.
    """

    name: str
    title: str
    text: str
    minutes: int
    difficulty: int
    solution: Callable[..., Any]
    checks: tuple[Check, ...]
    mistakes: tuple[Mistake, ...] = ()
    referee: Callable[..., Any] | None = None
    numbers: Callable[[torch.Generator], dict[str, Any]] | None = None
    value: bool = False
    stub: str = ""
    library: tuple[str, ...] | str = ()
    closed: tuple[str, ...] = ("apo_edu",)
    seconds: float = 2.0
    choices: Mapping[str, str] = field(default_factory=dict)
    together: Callable[[Any], str] | None = None

    @property
    def points(self) -> float:
        """Full marks."""
        return sum(check.points for check in self.checks)

    def answer(self, given: Any, numbers: Numbers) -> Any:
        """A reference, referee or mistake as a student would have defined it."""
        return given(**numbers) if self.value else given


def prediction(*, name: str, choices: Mapping[str, str], points: float = 1.0, **rest: Any) -> Exercise:
    """A choice to commit to before a result is seen: any choice earns the points, and `me.reveal(name)` explains it later.

    `solution` is a function of the numbers that returns the right choice; `choices` says of each why it is right or wrong.
    """

    def committed(answer: Any) -> bool:
        if answer not in choices:
            raise NotYet(f"commit to one of {', '.join(map(repr, choices))}. Right or wrong, it earns the point.")
        return True

    check = Check(
        name="committed",
        title="committed to a choice",
        points=points,
        cases=lambda generator, numbers: [()],
        probe=committed,
    )
    return Exercise(name=name, choices=choices, checks=(check,), value=True, **rest)


@dataclass(frozen=True, kw_only=True)
class Written:
    """A question answered in words and marked by hand: the rubric says for what, the model answer how it could read."""

    name: str
    title: str
    text: str
    minutes: int
    difficulty: int
    rubric: tuple[tuple[float, str], ...]
    answer: str

    @property
    def points(self) -> float:
        """Full marks."""
        return sum(points for points, _ in self.rubric)


@dataclass(frozen=True)
class Text:
    """A Markdown cell."""

    source: str


@dataclass(frozen=True)
class Code:
    """A code cell that is given and runs as it is, before and after the exercises are done."""

    source: str


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """One hand-out.

    Args:
        name: "a1"; also the file's name.
        title, intro: first cell; what one can do afterwards, what it needs.
        parts: in reading order.
        imports: first code cell, before `me = start(...)`.
        seconds: time that grading one submission may take.
    """

    name: str
    title: str
    intro: str
    parts: tuple[Text | Code | Exercise | Written, ...]
    imports: str = "import torch"
    seconds: float = 120.0

    def __post_init__(self) -> None:
        names = [part.name for part in self.items]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"{self.name} has {sorted(twice)} twice; expected each name once. Rename one of them.")

    @property
    def items(self) -> tuple[Exercise | Written, ...]:
        """What is marked, in order."""
        return tuple(part for part in self.parts if isinstance(part, Exercise | Written))

    @property
    def exercises(self) -> tuple[Exercise, ...]:
        """What is marked by checks."""
        return tuple(part for part in self.parts if isinstance(part, Exercise))

    @property
    def points(self) -> float:
        """Full marks, written answers included."""
        return sum(part.points for part in self.items)

    @property
    def minutes(self) -> int:
        """Time for all of it."""
        return sum(part.minutes for part in self.items)

    def __getitem__(self, name: str) -> Exercise | Written:
        for part in self.items:
            if part.name == name:
                return part
        raise KeyError(f"{self.name} has no item {name!r}; expected one of {', '.join(i.name for i in self.items)}.")


@dataclass(frozen=True)
class Student:
    """Who works on it: all numbers follow from the id, the course's variant and the name of the exercise."""

    id: str
    variant: str = ""

    def generator(self, exercise: str, fresh: str = "") -> torch.Generator:
        """Random numbers of this student for this exercise; `fresh` gives others, e.g. for grading."""
        words = "/".join((self.variant, normal_id(self.id), exercise, fresh))
        seed = int.from_bytes(hashlib.sha256(words.encode()).digest()[:7], "big")
        return torch.Generator().manual_seed(seed)

    def numbers(self, exercise: Exercise) -> dict[str, Any]:
        """The student's own numbers; the same at every call, and while grading."""
        return exercise.numbers(self.generator(exercise.name)) if exercise.numbers else {}


def normal_id(text: str) -> str:
    """An id as it is compared: without case, spaces and what a file name cannot hold."""
    return re.sub(r"[^\w.@+-]", "", text.strip().lower())
