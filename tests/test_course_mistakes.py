"""Every named wrong solution of every exercise is caught with its own diagnosis; right ones pass, however written."""

import inspect
import time

import pytest
import torch

from toys.course import ASSIGNMENTS, Student, load
from toys.course.judging import judge

ADA, BOB = Student("ada", "test"), Student("bob", "test")
CLASS = [ADA, BOB, *(Student(f"s{i}", "test") for i in range(8))]
EXERCISES = {f"{name}.{item.name}": item for name in ASSIGNMENTS for item in load(name).exercises}
each_exercise = pytest.mark.parametrize("exercise", EXERCISES.values(), ids=EXERCISES)
each_mistake = pytest.mark.parametrize(
    ("exercise", "mistake"),
    [
        pytest.param(item, mistake, id=f"{name}-{mistake.name}")
        for name, item in EXERCISES.items()
        for mistake in item.mistakes
    ],
)


def first_wrong(verdicts):
    return next(verdict for verdict in verdicts if not verdict.passed)


@each_mistake
def test_each_mistake_is_named(exercise, mistake):
    # Other random cases, and of those whose numbers differ, other students.
    for student, fresh in ((ADA, ""), (ADA, "1"), (BOB, "")) if not exercise.numbers else ((s, "") for s in CLASS):
        answer = exercise.answer(mistake.answer, student.numbers(exercise))
        verdicts = judge(exercise, answer, student, fresh=fresh, guarded=False)
        assert not all(verdict.passed for verdict in verdicts)
        # Not only the first: a second, misleading diagnosis would be worse than none.
        assert {(v.mistake, v.says) for v in verdicts if not v.passed} == {(mistake.name, mistake.says)}


@each_exercise
def test_enough_mistakes_with_different_words(exercise):
    if not exercise.choices:
        assert len(exercise.mistakes) >= 10
    assert len({mistake.says for mistake in exercise.mistakes}) == len(exercise.mistakes)
    assert len({mistake.name for mistake in exercise.mistakes}) == len(exercise.mistakes)


@each_exercise
def test_the_reference_passes_and_calls_nothing_it_may_not(exercise):
    for student in (*CLASS, Student("carol", "2027")) if exercise.numbers else (ADA, BOB):
        answer = exercise.answer(exercise.solution, student.numbers(exercise))
        for fresh in ("", "1"):
            verdicts = judge(exercise, answer, student, fresh=fresh)
            assert all(verdict.passed for verdict in verdicts), first_wrong(verdicts).says


@each_exercise
def test_calling_the_library_fails(exercise):
    if not getattr(exercise.referee, "__module__", "").startswith("apo_edu"):
        pytest.skip("no function of the library to call")

    def hidden(*args, **kwargs):
        return exercise.referee(*args, **kwargs)

    for answer in (hidden, exercise.referee):
        verdicts = judge(exercise, answer, ADA)
        assert not any(verdict.passed for verdict in verdicts)
        assert {verdict.mistake for verdict in verdicts} == {"calls the library"}


@each_exercise
def test_trivial_answers_score_nothing(exercise):
    if exercise.value:
        answers = [None, 0.0, float("nan"), "", (0.0, 0.0)]
    else:
        answers = [
            lambda *args: torch.tensor(0.0),
            lambda *args: torch.zeros_like(args[0][..., 0]),
            lambda *args: torch.zeros_like(args[0]),
            lambda *args: args[0] * float("nan"),
            lambda *args: args[0][..., 0] * float("nan"),
            lambda *args: torch.ones_like(args[0]),
            lambda *args: args[0],
            lambda *args: None,
            lambda: 0.0,
            None,
        ]
    for answer in answers:
        verdicts = judge(exercise, answer, ADA)
        assert not any(verdict.passed for verdict in verdicts), (answer, verdicts)
        assert all(verdict.says for verdict in verdicts)


@each_exercise
def test_a_judgement_is_quick(exercise):
    answer = exercise.answer(exercise.solution, ADA.numbers(exercise))
    judge(exercise, answer, ADA)
    started = time.perf_counter()
    judge(exercise, answer, ADA)
    assert time.perf_counter() - started < 2.0 * len(exercise.checks)


@each_exercise
def test_signature_and_points(exercise):
    assert exercise.minutes > 0 and exercise.difficulty in (1, 2, 3)
    assert all(check.points > 0 for check in exercise.checks)
    assert inspect.getdoc(exercise.solution)
