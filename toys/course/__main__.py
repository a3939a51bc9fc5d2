"""`python -m toys.course generate|grade|collect|gradescope|mistakes|exam`: what `make assignments` and `make grade` call."""

import argparse
import sys
import time
from pathlib import Path

from . import classroom, exam, gradescope, handout
from .catalogue import ASSIGNMENTS, load
from .sandbox import Limits

FOLDER = Path("notebooks/assignments")


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and do it; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m toys.course", description="Hand out and grade assignments.")
    commands = parser.add_subparsers(dest="command", required=True)

    generate = commands.add_parser("generate", help="write source, student and solution notebooks")
    generate.add_argument("names", nargs="*", help=f"assignments (default: {' '.join(ASSIGNMENTS)})")
    generate.add_argument("--folder", type=Path, default=FOLDER, help=f"where course.toml lies (default {FOLDER})")
    generate.set_defaults(run=_generate)

    grade = commands.add_parser("grade", help="grade a folder of submissions")
    grade.add_argument("name", choices=ASSIGNMENTS, help="which assignment")
    grade.add_argument("submissions", type=Path, help="a folder with a folder or a notebook for each student")
    grade.add_argument("--out", type=Path, help="folder to write to (default out/grades/NAME)")
    grade.add_argument("--roster", type=Path, help="CSV with the columns id, email, name, folder")
    grade.add_argument("--only", nargs="+", metavar="EXERCISE", help="regrade these exercises, keep the other marks")
    grade.add_argument("--seed", default="", help="of the random cases; the same seed gives the same marks")
    grade.add_argument("--seconds", type=float, help="time for one submission (default: the assignment's)")
    grade.add_argument("--memory-gb", type=float, default=Limits.memory_gb, help="memory beyond Python and torch")
    grade.add_argument("--workers", type=int, default=2, help="submissions graded at once (default 2)")
    grade.add_argument("--folder", type=Path, default=FOLDER, help=f"where course.toml lies (default {FOLDER})")
    grade.set_defaults(run=_grade)

    collect = commands.add_parser("collect", help="write marks and pages again, with the points in by_hand.csv")
    collect.add_argument("out", type=Path, help="the folder that `grade` wrote")
    collect.add_argument("--columns", choices=classroom.COLUMNS, help="also write marks under these column names")
    collect.set_defaults(run=_collect)

    pack = commands.add_parser("gradescope", help="write the zip of a Gradescope autograder")
    pack.add_argument("name", choices=ASSIGNMENTS, help="which assignment")
    pack.add_argument("--out", type=Path, help="the zip (default out/gradescope-NAME.zip)")
    pack.add_argument("--folder", type=Path, default=FOLDER, help=f"where course.toml lies (default {FOLDER})")
    pack.set_defaults(run=_gradescope)

    inside = commands.add_parser("run-gradescope", help="what the autograder calls")
    inside.add_argument("name", choices=ASSIGNMENTS, help="which assignment")
    inside.add_argument("--variant", required=True, help="the course's variant")
    inside.add_argument("--autograder", type=Path, default=Path("/autograder"), help="Gradescope's folder")
    inside.set_defaults(run=_run_gradescope)

    table = commands.add_parser("mistakes", help="the named wrong solutions and what is said about them, as a table")
    table.add_argument("name", choices=ASSIGNMENTS, help="which assignment")
    table.set_defaults(run=_mistakes)

    test = commands.add_parser("exam", help="the bug lab as an exam: a notebook for each student, the key elsewhere")
    test.add_argument("secret", help="a word that the students do not know")
    test.add_argument("--students", type=Path, required=True, help="CSV with a column id")
    test.add_argument("--out", type=Path, default=Path("out/exam"), help="folder for the notebooks (default out/exam)")
    test.add_argument("--key", type=Path, required=True, help="CSV to write the key to, outside the repository")
    test.add_argument("--seeds", type=int, default=20, help="runs behind each picture (default 20)")
    test.set_defaults(run=_exam)

    marking = commands.add_parser("mark-exam", help="points of the exam's notebooks")
    marking.add_argument("folder", type=Path, help="the notebooks handed in, ID.ipynb each")
    marking.add_argument("--key", type=Path, required=True, help="the key that `exam` wrote")
    marking.set_defaults(run=_mark_exam)

    options = parser.parse_args(arguments)
    try:
        return int(options.run(options))
    except (ValueError, FileNotFoundError) as error:
        print(f"{parser.prog} {options.command}: {error}", file=sys.stderr)
        return 2


def _generate(options: argparse.Namespace) -> int:
    for name in options.names or ASSIGNMENTS:
        for path in handout.write(load(name), options.folder):
            print(path)
    return 0


def _grade(options: argparse.Namespace) -> int:
    assignment = load(options.name)
    out = options.out or Path("out/grades") / options.name
    started = time.monotonic()
    results = classroom.grade_folder(
        assignment,
        options.submissions,
        out,
        course=options.folder,
        roster=options.roster,
        only=tuple(options.only) if options.only else None,
        variant=handout.settings(options.folder)["variant"],
        seed=options.seed,
        limits=Limits(seconds=options.seconds or assignment.seconds, memory_gb=options.memory_gb),
        workers=options.workers,
    )
    given = next((result.isolation for result in results if result.isolation), {})
    for word, there in (("Confined", True), ("NOT confined on this system", False)):
        names = [name for name, is_there in given.items() if is_there is there]
        if names:
            print(f"{word}: {', '.join(names)}.")
    print(f"{len(results)} submissions in {time.monotonic() - started:.0f} s: {out}/summary.html, marks.csv, feedback/")
    waiting = sum(item.score is None for result in results for item in result.items)
    if waiting:
        print(
            f"{waiting} written answers: fill in points in {out}/by_hand.csv, then python -m toys.course collect {out}"
        )
    return 0


def _collect(options: argparse.Namespace) -> int:
    results = classroom.collect(options.out)
    print(f"{len(results)} students: {options.out}/marks.csv, feedback/, summary.html")
    if options.columns:
        print(classroom.write_marks_for(options.out, options.columns))
    return 0


def _gradescope(options: argparse.Namespace) -> int:
    variant = handout.settings(options.folder)["variant"]
    path = options.out or Path("out") / f"gradescope-{options.name}.zip"
    print(gradescope.write_zip(load(options.name), variant, path))
    return 0


def _run_gradescope(options: argparse.Namespace) -> int:
    gradescope.run(load(options.name), options.autograder, variant=options.variant, workers=1)
    return 0


def _mistakes(options: argparse.Namespace) -> int:
    print("| exercise | wrong solution | what the student is told |\n|-|-|-|")
    for exercise in load(options.name).exercises:
        for mistake in exercise.mistakes:
            cells = (f"`{exercise.name}`", mistake.name, mistake.says)
            print(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return 0


def _exam(options: argparse.Namespace) -> int:
    students = [row["id"] for row in classroom.read_roster(options.students)]
    paths = exam.write_exam(options.secret, students, options.out, options.key, seeds=options.seeds)
    print(f"{len(paths)} exams in {options.out}, the key in {options.key}")
    return 0


def _mark_exam(options: argparse.Namespace) -> int:
    print("id,points,max")
    for student, points in exam.mark_exam(options.folder, options.key).items():
        print(f"{student},{points},{len(exam.LETTERS)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
