"""The instructors' guide says what is there: commands, files, diagnoses, points, and an exercise that works as shown."""

import math
import re
from pathlib import Path

import pytest
import torch

from toys.course import ASSIGNMENTS, Check, Exercise, Mistake, Student, Written, load
from toys.course.__main__ import main
from toys.course.a1 import log_probs
from toys.course.judging import judge

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "notebooks" / "assignments" / "INSTRUCTORS.md").read_text()


def test_every_command_is_there(capsys):
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", GUIDE, re.M):
        assert re.search(rf"^{target}:", makefile, re.M), target
    for command in set(re.findall(r"python -m toys\.course ([\w-]+)", GUIDE)):
        with pytest.raises(SystemExit, match="^0$"):
            main([command, "--help"])
    for option in set(re.findall(r"(--[a-z]+)", GUIDE)) - {"--help"}:
        assert option in (ROOT / "toys" / "course" / "__main__.py").read_text(), option


def section(title, level="##"):
    """The text under a heading, up to the next one of its level or above."""
    text = GUIDE.split(f"\n{level} {title}\n")[1]
    return re.split(rf"\n#{{2,{len(level)}}} ", text)[0]


@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_every_diagnosis_in_the_tables_is_the_assignments(name):
    names = {mistake.name for item in load(name).exercises for mistake in item.mistakes}
    found = []
    for row in section(name, "###").splitlines():
        if row.startswith("|") and row.count("|") == 4:
            found += re.findall(r"\*([^*]+)\*", row.split("|")[2])
    assert len(found) >= 8
    for mistake in found:
        assert mistake in names, mistake


@pytest.mark.parametrize(("title", "minutes"), [("50 minutes", 50), ("A lab of 3 hours", 180)])
@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_the_plans_fill_their_time_with_exercises_that_exist(name, title, minutes):
    table = section(title, "###").split(f"**{name}**")[1].split("\n**")[0]
    assert sum(int(number) for number in re.findall(r"^\| (\d+) \|", table, re.M)) == minutes
    exercises = {item.name for item in load(name).items}
    named = re.findall(r"`(\w+)`", table)
    assert len(named) >= 4
    for word in named:
        assert word in exercises, word


def test_two_weeks_name_exercises_of_the_column():
    rows = [row.split("|")[2:5] for row in section("Two weeks each", "###").splitlines() if row.startswith("| ")][1:]
    for row in rows:
        for name, cell in zip(ASSIGNMENTS, row, strict=True):
            for word in re.findall(r"`(\w+)`", cell):
                assert word in {item.name for item in load(name).items}, word


def test_every_written_question_has_its_half_answer():
    written = [
        item.name for name in ASSIGNMENTS for item in load(name).items if isinstance(item, Written) and item.points
    ]
    assert re.findall(r"^\| `(\w+)` \|", section("Marking the written answers"), re.M) == written


def test_points_and_hours():
    for name in ASSIGNMENTS:
        assignment = load(name)
        by_hand = sum(part.points for part in assignment.items if isinstance(part, Written))
        row = next(line for line in GUIDE.splitlines() if line.startswith(f"| {name} *"))
        cells = [cell.strip() for cell in row.split("|")[1:-1]]
        assert cells[0] == f"{name} *{assignment.title}*"
        assert (float(cells[1]), float(cells[3])) == (assignment.points, by_hand)
        assert abs(float(cells[2].split()[0]) * 60 - assignment.minutes) <= 15


def test_the_exercise_shown_works():
    code = GUIDE.split("```python\n")[1].split("```")[0]

    def _entropy(log_p):
        """Entropy in nats, over the last dimension."""
        return -(log_p.exp() * log_p).sum(-1)

    names = {
        "Exercise": Exercise,
        "Check": Check,
        "Mistake": Mistake,
        "math": math,
        "log_probs": log_probs,
        "_entropy": _entropy,
    }
    exec(code, names)
    exercise, student = names["entropy"], Student("ada")
    assert judge(exercise, _entropy, student)[0].passed
    for mistake in exercise.mistakes:
        assert judge(exercise, mistake.answer, student)[0].mistake == mistake.name
    assert judge(exercise, lambda log_p: torch.zeros(log_p.shape[:-1]), student)[0].mistake == "constant"
