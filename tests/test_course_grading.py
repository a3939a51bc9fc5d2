"""Sample submissions get the marks of the rubric, whatever they do; one bad one does not stop the others."""

import contextlib
import csv
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest

from tests.course_samples import FOLDER, VARIANT, automatic, blank, save, solved, with_cell
from toys.course import ASSIGNMENTS, classroom, gradescope, load
from toys.course.__main__ import main
from toys.course.grading import HELD_BACK, Submission, from_json, grade, grade_all
from toys.course.sandbox import Limits, run_isolated

pytestmark = pytest.mark.skipif(not hasattr(os, "fork") or sys.platform == "win32", reason="grading needs fork")
A1 = load("a1")
# Four of its exercises, without pictures: what a notebook does to the sandbox does not depend on the rest.
SMALL = replace(
    A1, parts=tuple(A1[name] for name in ("by_hand", "alpha_divergence", "box_cox", "best_gaussian", "cancellation"))
)
FULL = automatic(SMALL)
QUICK = {"limits": Limits(seconds=60, memory_gb=1.0), "cell_seconds": 1.0, "variant": VARIANT}
OUTSIDE = Path("/tmp/apo-edu-was-here.txt")

NAIVE = """
def alpha_divergence(log_q, log_p, alpha):
    if alpha == 0:
        return (log_p.exp() * (log_p - log_q)).sum(-1)
    if alpha == 1:
        return (log_q.exp() * (log_q - log_p)).sum(-1)
    return (1 - (alpha * log_q + (1 - alpha) * log_p).exp().sum(-1)) / (alpha * (1 - alpha))
"""
SWAPPED = """
def alpha_divergence(log_q, log_p, alpha):
    log_q, log_p = log_p, log_q
    if alpha == 0:
        return (log_p.exp() * (log_p - log_q)).sum(-1)
    if alpha == 1:
        return (log_q.exp() * (log_q - log_p)).sum(-1)
    return (1 - (alpha * log_q + (1 - alpha) * log_p).exp().sum(-1)) / (alpha * (1 - alpha))
"""


def without_ids(book):
    """Every cell's metadata lost and the checks deleted, as some editors do."""
    book.cells = [cell for cell in book.cells if not cell.metadata.get("nbgrader", {}).get("locked")]
    for cell in book.cells:
        cell.metadata.clear()
    return book


def edited_checks(book):
    for cell in book.cells:
        if cell.metadata.get("nbgrader", {}).get("locked"):
            cell.source = 'print("full marks")'
    return book


# name -> (notebook, points of the checks, what is said of the exercise that failed: its name and a word of the output)
SAMPLES = {
    "good": (lambda: solved(SMALL, "good"), FULL, {}),
    "partial": (
        lambda: solved(SMALL, "partial", alpha_divergence=NAIVE, best_gaussian=None),
        FULL - 3 - 4,  # its digits near both ends and near q = p
        {"alpha_divergence": "1 - sum cancels", "best_gaussian": "nothing was written here"},
    ),
    "wrong": (
        lambda: solved(SMALL, "wrong", alpha_divergence=SWAPPED, by_hand="by_hand = (0.0, 0.0)"),
        FULL - 8 - 2,
        {"alpha_divergence": "arguments are swapped", "by_hand": "every number is 0"},
    ),
    "crashing": (
        lambda: with_cell(solved(SMALL, "crashing", box_cox="def box_cox(log_w, alpha:\n"), "1 / 0", "by_hand"),
        FULL - 3,
        {"box_cox": "is not defined"},
    ),
    "untouched": (lambda: blank(SMALL, "untouched"), 0, {}),
    "no_cells": (lambda: nbformat.v4.new_notebook(), 0, {"box_cox": "is not defined"}),
    "endless": (
        lambda: with_cell(
            solved(SMALL, "endless", box_cox="def box_cox(log_w, alpha):\n    while True:\n        pass\n"),
            "while True:\n    pass",
            "by_hand",
        ),
        FULL - 3,
        {"box_cox": "never ends"},
    ),
    "memory": (
        lambda: with_cell(
            solved(SMALL, "memory", box_cox="def box_cox(log_w, alpha):\n    return torch.zeros(10**11) + log_w\n"),
            "hog = [0] * 10**9",
            "by_hand",
        ),
        FULL - 3,
        {"box_cox": "memory"},
    ),
    "exits": (
        lambda: with_cell(
            solved(SMALL, "exits", box_cox="import os\n\n\ndef box_cox(log_w, alpha):\n    os._exit(0)\n"),
            "import os\nos._exit(0)",
            "by_hand",
        ),
        FULL - 3,
        {"box_cox": "ended the whole process"},
    ),
    "writer": (
        lambda: with_cell(
            solved(SMALL, "writer"), f'open("mine.txt", "w").write("x")\nopen("{OUTSIDE}", "w").write("x")', "by_hand"
        ),
        FULL,
        {},
    ),
    "caller": (
        lambda: with_cell(
            solved(SMALL, "caller"), 'import socket\nsocket.create_connection(("127.0.0.1", 9), timeout=2)', "by_hand"
        ),
        FULL,
        {},
    ),
    "edited": (lambda: edited_checks(blank(SMALL, "edited")), 0, {}),
    "lost_ids": (lambda: without_ids(solved(SMALL, "lost_ids")), FULL, {}),
    "copied": (lambda: solved(SMALL, "good"), FULL - 2, {"by_hand": "right for the numbers of 'good'"}),
    "library": (
        lambda: solved(
            SMALL,
            "library",
            alpha_divergence="from apo_edu.divergences import alpha_divergence as f\nalpha_divergence = f",
        ),
        FULL - 8,
        {"alpha_divergence": "writing it yourself"},
    ),
    "tamperer": (
        lambda: with_cell(
            blank(SMALL, "tamperer"),
            "import toys.course.judging as j\nj._agree = lambda *a: True\n"
            + "\n".join(f"{e.name} = lambda *a: 1.0" for e in SMALL.exercises),
            "by_hand",
        ),
        0,
        {},
    ),
    "noisy": (
        lambda: with_cell(solved(SMALL, "noisy"), 'for _ in range(10**5):\n    print("x" * 100)', "by_hand"),
        FULL,
        {},
    ),
}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("submissions")
    OUTSIDE.unlink(missing_ok=True)
    submissions = [Submission(name, save(make(), folder / name / "a1.ipynb")) for name, (make, *_) in SAMPLES.items()]
    (folder / "junk.ipynb").write_text("no notebook")
    submissions += [Submission("junk", folder / "junk.ipynb"), Submission("absent", None)]
    return {result.submission.student: result for result in grade_all(SMALL, submissions, **QUICK)}


def said(result, exercise):
    return " ".join(item.output for item in result.items if item.exercise == exercise)


@pytest.mark.parametrize("name", SAMPLES)
def test_sample_gets_its_marks(results, name):
    result, (_, points, words) = results[name], SAMPLES[name]
    checked = sum(item.score for item in result.items if "." in item.name)
    if name == "copied":  # one's own numbers may happen to be another's: never both pairs of coins
        assert points - 3 <= checked <= points
    else:
        assert checked == points, [(item.name, item.output) for item in result.items if item.output]
    for exercise, word in words.items():
        assert word in said(result, exercise)
    assert result.max_score == SMALL.points


def test_what_cannot_be_read_scores_nothing_and_is_named(results):
    assert results["junk"].score == results["absent"].score == 0
    assert "no notebook that can be read" in results["junk"].notes[0]
    assert "No notebook was handed in" in results["absent"].notes[0]


def test_troubles_are_told_to_the_student(results):
    assert any("ZeroDivisionError" in trouble for trouble in results["crashing"].troubles)
    assert any("longer than 1 s" in trouble for trouble in results["endless"].troubles)
    assert any("MemoryError" in trouble for trouble in results["memory"].troubles)
    assert any("ended the whole process" in trouble for trouble in results["exits"].troubles)
    assert not results["good"].troubles and not results["good"].notes


def test_another_students_notebook_is_noticed(results):
    assert "says that it is by 'good', but it was handed in by 'copied'" in results["copied"].notes[0]


def test_changed_checks_are_noticed(results):
    assert results["tamperer"].notes == [HELD_BACK]
    assert {item.mistake for item in results["tamperer"].items if "." in item.name} == {"held back"}


def test_files_and_network_are_out_of_reach_where_the_report_says_so(results):
    given = results["writer"].isolation
    if given["files"]:
        assert not OUTSIDE.exists()
        assert any("PermissionError" in trouble for trouble in results["writer"].troubles)
    if given["network"]:
        # 127.0.0.1:9 refuses anyway; a confined process is told so by the kernel before anybody is asked.
        assert any("Error" in trouble for trouble in results["caller"].troubles)
    OUTSIDE.unlink(missing_ok=True)


def test_results_have_gradescopes_shape(results):
    data = json.loads(json.dumps(results["partial"].json()))
    assert data.keys() == {"tests", "output", "visibility", "extra_data"}
    for test in data["tests"]:
        assert test.keys() == {"name", "score", "max_score", "output", "visibility", "extra_data"}
        assert 0 <= test["score"] <= test["max_score"] and test["visibility"] == "visible"
    assert sum(test["max_score"] for test in data["tests"]) == SMALL.points
    again = from_json(data)
    assert again.json() == data


def test_grading_twice_gives_the_same_marks(results, tmp_path):
    path = save(SAMPLES["partial"][0](), tmp_path / "a1.ipynb")
    again = grade(SMALL, Submission("partial", path), **QUICK)
    assert again.items == results["partial"].items
    other = grade(SMALL, Submission("partial", path), seed="other cases", **QUICK)
    assert [item.score for item in other.items] == [item.score for item in again.items]


def test_a_stubborn_loop_is_killed_and_the_rest_still_counts(tmp_path):
    # A loop in C runs no bytecode, so no signal's handler gets a turn. (A `while` around `try` is now and then left between
    # two of its turns.)
    stubborn = "def box_cox(log_w, alpha):\n    return sum(iter(int, 1))\n"
    book = solved(SMALL, "stubborn", box_cox=stubborn)
    small = replace(A1, parts=(A1["by_hand"], A1["box_cox"]))
    result = grade(
        small, Submission("stubborn", save(book, tmp_path / "a1.ipynb")), **QUICK | {"limits": Limits(seconds=4.0)}
    )
    assert result.score == 2
    assert "stopped after 4 s" in said(result, "box_cox")


def test_an_explosion_of_processes_stays_small():
    def explode(send):
        count = 0
        try:
            while count < 500:
                if os.fork() == 0:
                    time.sleep(30)
                    os._exit(0)
                count += 1
        except OSError:
            pass
        send({"count": count, "done": True})

    ((_, ending),) = run_isolated([("x", explode)], limits=Limits(seconds=20, processes=16))
    given = ending.messages[0]["isolation"]
    if not given.get("processes") or not given["other processes"]:
        pytest.skip("this system does not confine processes")
    assert ending.messages[-1]["count"] < 40 and ending.seconds < 15


@pytest.fixture
def class_folder(tmp_path):
    folder = tmp_path / "submissions"
    books = {
        "good": solved(A1, "good"),
        "partial": solved(A1, "partial", alpha_divergence=NAIVE, best_gaussian=None),
        "untouched": blank(A1, "untouched"),
    }
    for name, book in books.items():
        save(book, folder / name / "a1.ipynb")
    roster = tmp_path / "roster.csv"
    roster.write_text(
        "id,email,name\ngood,good@x.edu,=Good Student\npartial,p@x.edu,Partial\nuntouched,u@x.edu,U\nghost,g@x.edu,G\n"
    )
    return folder, roster, tmp_path / "out"


def rows(path):
    with path.open(newline="") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


def test_a_class_from_submissions_to_marks(class_folder, capsys):
    folder, roster, out = class_folder
    arguments = ["grade", "a1", str(folder), "--out", str(out), "--roster", str(roster), "--folder", str(FOLDER)]
    assert main(arguments) == 0
    marks = rows(out / "marks.csv")
    assert list(marks) == ["ghost", "good", "partial", "untouched"]
    assert {name: float(row["total"]) for name, row in marks.items()} == {
        "ghost": 0, "good": automatic(A1), "partial": automatic(A1) - 7, "untouched": 0
    }  # fmt: skip
    assert marks["good"]["max"] == "40" and marks["good"]["email"] == "good@x.edu"
    assert marks["good"]["name"] == "'=Good Student"  # a spreadsheet must not run it
    page = (out / "feedback" / "partial.html").read_text()
    assert "1 - sum cancels" in page and "http" not in page.replace("http-equiv", "")
    summary = (out / "summary.html").read_text()
    assert "the naive form" in summary and "Confined:" in summary
    code = (out / "answers" / "partial.py").read_text()
    compile(code, "partial.py", "exec")
    assert "def alpha_divergence" in code and "me.check" not in code and "show_digits(" not in code

    # Written answers: filled in by hand, collected without running anything again.
    with (out / "by_hand.csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    assert {row["id"] for row in written} == {"good", "partial"}
    for row in written:
        row["points"], row["comment"] = row["max"], "Well said."
    with (out / "by_hand.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(written[0]))
        writer.writeheader()
        writer.writerows(written)
    assert main(["collect", str(out), "--columns", "moodle"]) == 0
    assert rows(out / "marks.csv")["good"]["total"] == "40"
    assert "Well said." in (out / "feedback" / "good.html").read_text()
    with (out / "marks-moodle.csv").open(newline="") as file:
        assert {"ID number": "good", "Email address": "good@x.edu", "Divergences": "40"} in list(csv.DictReader(file))

    # One exercise again: the others keep their marks, the hand-marked ones too.
    save(solved(A1, "partial", best_gaussian=None), folder / "partial" / "a1.ipynb")
    assert main([*arguments, "--only", "alpha_divergence"]) == 0
    assert float(rows(out / "marks.csv")["partial"]["total"]) == 40 - 4

    written[0]["points"] = "99"
    with (out / "by_hand.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(written[0]))
        writer.writeheader()
        writer.writerows(written)
    assert main(["collect", str(out)]) == 2
    assert "expected a number from 0 to 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("layout", "student"),
    [
        ("ada/a1.ipynb", "ada"),
        ("ada/a1/a1.ipynb", "ada"),  # nbgrader
        ("ada_123_456_a1.ipynb", "ada"),  # Canvas
        ("ada_LATE_123_456_a1-2.ipynb", "ada_LATE"),
        ("Ada Lovelace_77_assignsubmission_file/a1.ipynb", "Ada Lovelace"),  # Moodle
        ("ada/my solution.ipynb", "ada"),
    ],
)
def test_folders_of_the_usual_systems(tmp_path, layout, student):
    path = save(nbformat.v4.new_notebook(), tmp_path / layout)
    (submission,) = classroom.find_submissions(tmp_path, "a1")
    assert (submission.student, submission.path) == (student, path)
    roster = [
        {"id": "al1", "email": "ada@x.edu", "name": "Ada Lovelace"},
        {"id": "bb2", "email": "b@x.edu", "name": "B"},
    ]
    found = classroom.find_submissions(tmp_path, "a1", roster)
    assert {s.student: s.path for s in found} == {"al1": path, "bb2": None}


def test_the_newest_of_several_counts(tmp_path):
    old, new = (save(nbformat.v4.new_notebook(), tmp_path / "ada" / f"a1{part}.ipynb") for part in (" (1)", " (2)"))
    os.utime(old, (1, 1))
    (submission,) = classroom.find_submissions(tmp_path, "a1")
    assert submission.path == new and "newest" in submission.note


def test_a_student_may_type_any_id_the_roster_knows(tmp_path):
    path = save(solved(SMALL, "ada@x.edu"), tmp_path / "a1.ipynb")
    result = grade(SMALL, Submission("al1", path, "ada@x.edu", "Ada Lovelace"), **QUICK)
    assert result.score == FULL and not result.notes


def test_gradescope(tmp_path, monkeypatch):
    import zipfile

    path = gradescope.write_zip(A1, VARIANT, tmp_path / "a1.zip")
    with zipfile.ZipFile(path) as file:
        names = set(file.namelist())
        assert {
            "setup.sh",
            "run_autograder",
            "toys/course/a1.py",
            "toys/course/feedback.html",
            "pyproject.toml",
        } <= names
        assert file.getinfo("run_autograder").external_attr >> 16 == 0o755
        script = file.read("run_autograder").decode()
        assert f"run-gradescope a1 --variant '{VARIANT}'" in script and "PYTHONPATH=/autograder/source" in script
    save(solved(A1, "ada", best_gaussian=None), tmp_path / "submission" / "a1.ipynb")
    users = [{"id": 7, "email": "ada@x.edu", "name": "Ada Lovelace", "sid": "123"}]
    (tmp_path / "submission_metadata.json").write_text(json.dumps({"users": users}))
    assert main(["run-gradescope", "a1", "--variant", VARIANT, "--autograder", str(tmp_path)]) == 0
    data = json.loads((tmp_path / "results" / "results.json").read_text())
    assert sum(test["score"] for test in data["tests"]) == automatic(A1) - 4
    assert sum(test["max_score"] for test in data["tests"]) == automatic(A1)


def test_the_pytest_face(tmp_path):
    save(solved(A1, "ada", best_gaussian=None), tmp_path / "a1.ipynb")
    (tmp_path / "test_a1.py").write_text(
        "from pathlib import Path\nfrom toys.course.pytest_face import items\n"
        'test_item = items(Path(__file__).with_name("a1.ipynb"))\n'
    )
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(FOLDER.parents[1])}, timeout=120,
    )  # fmt: skip
    checks = sum(len(exercise.checks) for exercise in A1.exercises)
    assert f"2 failed, {checks - 2} passed, 4 skipped" in run.stdout, run.stdout
    assert "nothing was written here" in run.stdout


@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_the_cycle_of_every_assignment(name, tmp_path):
    """Generate, solve, grade, feedback; graded again the marks are the same, and one exercise can be graded alone."""
    assignment, course = load(name), tmp_path / "course"
    course.mkdir()
    for kind in ("policy", "course.toml"):
        (course / kind).symlink_to(FOLDER / kind)
    assert main(["generate", name, "--folder", str(course)]) == 0
    solution, release = (
        nbformat.read(course / kind / name / f"{name}.ipynb", as_version=4) for kind in ("solution", "release")
    )
    answers = {
        cell.metadata["nbgrader"]["grade_id"]: cell.source
        for cell in solution.cells
        if cell.metadata.get("nbgrader", {}).get("solution")
    }

    def hand_in(student, answers):
        book = nbformat.from_dict(release)
        for cell in book.cells:
            cell.source = answers.get(cell.metadata.get("nbgrader", {}).get("grade_id"), cell.source)
            if cell.metadata.get("apo_edu") == "student":
                cell.source = cell.source.replace('student=""', f'student="{student}"')
        save(book, tmp_path / "in" / student / f"{name}.ipynb")

    def graded(out, *more):
        arguments = ["grade", name, str(tmp_path / "in"), "--out", str(tmp_path / out), "--folder", str(course), *more]
        assert main(arguments) == 0
        found = {path.stem: json.loads(path.read_text()) for path in (tmp_path / out / "results").iterdir()}
        for result in found.values():
            del result["extra_data"]["seconds"]
        return found, {key: float(row["total"]) for key, row in rows(tmp_path / out / "marks.csv").items()}

    hand_in("good", answers)
    hand_in("blank", {})
    first, totals = graded("out")
    assert totals == {"good": automatic(assignment), "blank": 0}
    for student in totals:
        page = (tmp_path / "out" / "feedback" / f"{student}.html").read_text()
        assert all(part.title in page.replace("&#39;", "'") for part in assignment.items)
    shutil.rmtree(tmp_path / "in" / "blank")
    again, _ = graded("again")
    assert again["good"] == first["good"]

    regraded, kept = [item for item in assignment.exercises if not item.value][:2]
    broken = f"def {regraded.name}(*arguments):\n    raise ValueError('changed')", f"{kept.name} = None"
    hand_in("good", answers | dict(zip((regraded.name, kept.name), broken, strict=True)))
    _, totals = graded("out", "--only", regraded.name)
    assert totals["good"] == automatic(assignment) - regraded.points


def proportional_memory(root):
    """Bytes that a process and its descendants occupy, shared pages counted once."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    family, total = {root}, 0
    while grown := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= grown
    for pid in family:
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += 1024 * next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="memory is read from Linux's /proc")
def test_a1_is_graded_within_gradescopes_default_container(tmp_path):
    """768 MB for all processes together; writable memory of each is limited to that, and torch is in the image."""
    import resource

    limit = 768 * 2**20
    save(solved(A1, "ada"), tmp_path / "submission" / "a1.ipynb")
    (tmp_path / "submission_metadata.json").write_text(json.dumps({"users": [{"sid": "ada"}]}))
    script = "from toys.course.__main__ import main; raise SystemExit(main())"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run = subprocess.Popen(
        [sys.executable, "-c", script, "run-gradescope", "a1", "--variant", VARIANT, "--autograder", str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(FOLDER.parents[1]), "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit)),
    )
    peak = 0
    while run.poll() is None:
        peak = max(peak, proportional_memory(run.pid))
        time.sleep(0.1)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert run.returncode == 0
    data = json.loads((tmp_path / "results" / "results.json").read_text())
    assert sum(test["score"] for test in data["tests"]) == automatic(A1)
    assert 100 * 2**20 < peak < limit, f"{peak / 2**20:.0f} MiB"
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert spent < 0.5 * 600 / 4, f"{spent:.0f} s of processor time; half a processor for ten minutes gives 300"
