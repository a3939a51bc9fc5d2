"""The lessons' "write it" exercises: every named wrong answer is told which mistake it is, right ones pass in any style.

Found by file: a new `toys/course/lessons/lesson_NN.py`, and a lesson's new cells, are tested without a line here.
"""

import ast
import builtins
import math
import time
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch

from toys.course import ASSIGNMENTS, Student
from toys.course import load as assignment
from toys.course.judging import judge
from toys.course.lessons import check, lessons, load, task, verdict
from toys.course.notebook import reference

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
LESSON = Student("lesson")
EXERCISES = {key: exercise for lesson in lessons() for key, exercise in load(lesson).items()}
each = pytest.mark.parametrize(("key", "exercise"), EXERCISES.items(), ids=EXERCISES)
each_mistake = pytest.mark.parametrize(
    ("exercise", "mistake"),
    [
        pytest.param(exercise, mistake, id=f"{key}-{mistake.name}")
        for key, exercise in EXERCISES.items()
        for mistake in exercise.mistakes
    ],
)


def from_text(source, name):
    """What a cell with this source would define under this name."""
    names = {"torch": torch, "np": np, "math": math, "Tensor": torch.Tensor}
    exec(source, names)
    return names[name]


def like(value, number):
    """A result of the same form with every number replaced."""
    if isinstance(value, torch.Tensor):
        return torch.full_like(value, number, dtype=torch.float64)
    if isinstance(value, np.ndarray):
        return np.full_like(value, number, dtype=float)
    if isinstance(value, dict):
        return {key: like(entry, number) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(like(entry, number) for entry in value)
    return number


@each_mistake
def test_each_mistake_is_named(exercise, mistake):
    for fresh in ("", "1", "2"):
        verdicts = judge(exercise, mistake.answer, LESSON, fresh=fresh, guarded=False)
        # Not only the first: a second, misleading diagnosis would be worse than none.
        assert {(v.mistake, v.says) for v in verdicts if not v.passed} == {(mistake.name, mistake.says)}


@each
def test_ten_mistakes_with_different_words_and_what_the_task_shows(key, exercise):
    assert len(exercise.mistakes) >= 10
    assert len({mistake.says for mistake in exercise.mistakes}) == len(exercise.mistakes)
    assert len({mistake.name for mistake in exercise.mistakes}) == len(exercise.mistakes)
    assert 3 <= exercise.minutes <= 15 and exercise.difficulty in (1, 2, 3)
    assert exercise.hint.strip() and exercise.after.strip() and not exercise.value and not exercise.numbers


@each
def test_the_reference_and_two_other_styles_pass(key, exercise):
    assert len(exercise.also_right) >= 2
    for answer in (exercise.solution, *exercise.also_right):
        for fresh in ("", "1", "2"):
            verdicts = judge(exercise, answer, LESSON, fresh=fresh)
            assert all(one.passed for one in verdicts), [one.says for one in verdicts if not one.passed]
    assert verdict(exercise, exercise.solution).startswith(f"right: {exercise.name} passes")


@each
def test_the_solution_shown_is_a_reference_that_passes(key, exercise):
    shown = task(key).data
    source = reference(exercise).strip()
    assert source in shown
    body = ast.parse(source).body[0]
    docstring = body.body[0].end_lineno
    assert 1 <= len(source.splitlines()) - docstring <= 12, "three to ten lines to write"
    assert verdict(exercise, from_text(source, exercise.name)).startswith("right: ")


@each
def test_the_task_folds_hint_and_solution(key, exercise):
    shown = task(key).data
    open_part, hint, solution = shown.split("<details>")
    assert "<summary>Hint</summary>" in hint and "<summary>Solution</summary>" in solution
    assert (
        f"{exercise.minutes} minutes" in open_part and ("easy", "medium", "hard")[exercise.difficulty - 1] in open_part
    )
    body = ast.parse(reference(exercise)).body[0].body[1:]
    for line in "\n".join(ast.unparse(statement) for statement in body).splitlines():
        assert line.strip() not in open_part + hint or line.strip().startswith(("if ", "else", "for ", "return "))
    assert not [mistake for mistake in exercise.mistakes if mistake.says in shown]


@each
def test_trivial_answers_fail_with_words(key, exercise):
    right = exercise.solution
    answers = [
        lambda *args: like(right(*args), 0.0),
        lambda *args: like(right(*args), math.nan),
        lambda *args: like(right(*args), 1.0),
        lambda *args: args[0],
        lambda *args: "",
        lambda: 0.0,
    ]
    for answer in answers:
        verdicts = judge(exercise, answer, LESSON)
        assert not all(one.passed for one in verdicts)
        assert all(one.says for one in verdicts if not one.passed)
        assert "not yet" in verdict(exercise, answer)


@each
def test_the_answer_of_the_first_case_fails(key, exercise):
    first = exercise.checks[0]
    case = first.cases(LESSON.generator(f"{exercise.name}.{first.name}"), {})[0]
    if first.probe is None:
        once = exercise.solution(*case)
        assert "not yet" in verdict(exercise, lambda *args: once)


@each
def test_nothing_written_is_said_so_and_blamed_for_nothing(key, exercise, capsys):
    def raising(*args):
        raise NotImplementedError

    stub = from_text(f"def {exercise.name}(*args): ...", exercise.name)
    for answer in (None, ..., raising, stub):
        assert check(key, answer) is None
        said = capsys.readouterr().out
        assert said.startswith(f"not yet: write {exercise.name} in the cell above")
        assert len(said.splitlines()) == 1
    check(key, 3.5)
    assert f"not yet: {exercise.name} is 3.5; expected a function, def {exercise.name}(" in capsys.readouterr().out


@each
def test_nothing_raises_even_under_grading(key, exercise, monkeypatch, capsys):
    monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")

    def broken(*args):
        raise RuntimeError("no idea")

    check(key, broken)
    assert "not yet" in capsys.readouterr().out
    check(key, lambda *args: exit())
    assert "not yet" in capsys.readouterr().out


@each
def test_calling_the_library_fails(key, exercise):
    if exercise.library == "all" or exercise.referee is None:
        pytest.skip("no function of the library to call")

    def hidden(*args, **kwargs):
        return exercise.referee(*args, **kwargs)

    verdicts = judge(exercise, hidden, LESSON)
    assert {one.mistake for one in verdicts} == {"calls the library"}


@each
def test_a_check_takes_less_than_two_seconds(key, exercise):
    def odd(*args):  # no named mistake fits: all of them are tried
        return like(exercise.solution(*args), 0.123)

    for answer in (exercise.solution, odd):
        verdict(exercise, answer)
        started = time.process_time()
        verdict(exercise, answer)
        assert time.process_time() - started < 2.0


def test_the_lessons_do_not_give_an_assignment_away():
    graded = {item.name for name in ASSIGNMENTS for item in assignment(name).items}
    assert not graded & {exercise.name for exercise in EXERCISES.values()}


def test_keys_that_do_not_exist_are_named():
    with pytest.raises(ValueError, match=r"the exercise is '01.renji'; expected one of 01.hellinger, 01.renyi"):
        task("01.renji")
    with pytest.raises(ValueError, match=r"lesson is '77'; expected one of 01"):
        check("77.renyi", None)


def test_a_partial_answer_says_what_is_right_too(capsys):
    check("01.renyi", lambda d, alpha: d if alpha == 1 else torch.log(1 - alpha * (1 - alpha) * d) / (alpha - 1))
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["ok       the values, below and above alpha = 1", "ok       the limit at alpha = 1"]
    assert lines[2].startswith("not yet: its digits close to alpha = 1: right on paper")


def test_truth_values_are_told_apart_like_numbers():
    def said(answer):
        return verdict(EXERCISES["09.frozen"], answer)

    assert "`&` for `and`" in said(lambda c, e: c.amax(0) < 1e-9 and e[-1] < e[0] / 2)
    assert "gives False, expected [" in said(lambda c, e: c.sum() < 1e-9)
    assert "], expected " in said(lambda c, e: (c.amax(0) < 1e-9) & (e[-1] < e[0] / 10))


def test_a_function_of_the_toys_is_the_library_too(capsys):
    from toys.conventions import generator  # which calls nothing of the core

    check("01.hellinger", lambda log_q, log_p: (log_p.exp() * generator((log_q - log_p).exp(), 0.5)).sum(-1) / 4)
    said = capsys.readouterr().out
    assert said.startswith("not yet: this calls toys' generator") and "writing it yourself is the point" in said


# The notebooks.


def calls(tree, function):
    """(key, arguments) of the calls of `task` or `check` in a cell."""
    return [
        (node.args[0].value, node.args[1:])
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == function
        and node.args
        and isinstance(node.args[0], ast.Constant)
    ]


def code_of(path):
    """The code cells of a notebook as trees."""
    book = nbformat.read(path, as_version=4)
    return [ast.parse(cell.source) for cell in book.cells if cell.cell_type == "code"]


def with_exercises():
    return [
        path
        for path in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
        if any("toys.course.lessons" in ast.unparse(tree) for tree in code_of(path))
    ]


def test_each_lessons_exercises_are_in_its_notebook():
    assert {path.name[:2] for path in with_exercises()} == set(lessons())


@pytest.mark.parametrize("path", with_exercises(), ids=lambda path: path.stem)
def test_a_lesson_has_task_stub_and_check_of_each_of_its_exercises(path, capsys):
    cells, exercises = code_of(path), load(path.name[:2])
    tasks = {key: at for at, tree in enumerate(cells) for key, _ in calls(tree, "task")}
    checks = {key: at for at, tree in enumerate(cells) for key, _ in calls(tree, "check")}
    assert set(tasks) == set(checks) == set(exercises)
    known = set(dir(builtins)) | {"Tensor"}
    for at, tree in enumerate(cells):
        for node in tree.body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                known |= {alias.asname or alias.name.split(".")[0] for alias in node.names}
        for key in (key for key, place in checks.items() if place == at):
            exercise = exercises[key]
            (stub,) = [
                node
                for before in cells[tasks[key] : at + 1]
                for node in before.body
                if isinstance(node, ast.FunctionDef) and node.name == exercise.name
            ]
            written = ast.parse(reference(exercise)).body[0]
            assert [arg.arg for arg in stub.args.args] == [arg.arg for arg in written.args.args]
            (argument,) = dict(calls(tree, "check"))[key]
            assert argument.id == exercise.name
            check(key, from_text(ast.unparse(stub), exercise.name))
            assert capsys.readouterr().out.startswith("not yet: write ")
            names = [node for node in ast.walk(written) if isinstance(node, ast.Name)]
            local = {node.id for node in names if isinstance(node.ctx, ast.Store)} | {
                node.arg for node in ast.walk(written) if isinstance(node, ast.arg)
            }
            assert {node.id for node in names} - local <= known, "the lesson imports what its solution needs"
